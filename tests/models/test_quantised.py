"""Bases in few bits: what is decided, that gradients are those of the weights as they are held, that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig

from swift.arguments.fields import to_json
from swift.arguments.quantised import QuantisedOptions
from swift.arguments.sft import SftArguments
from swift.decide import decide_sft, inherit
from swift.dist import Hardware
from swift.errors import ConfigError, MissingPackageError, SwiftError
from swift.llm import ExportArguments, InferArguments
from swift.models import quantisation
from swift.models.load import get_model_tokenizer, load_model
from swift.models.quantisation import (
    bits_of,
    check_packages,
    check_shapes,
    decide_quantisation,
    either_spelling,
    group_size,
    usual,
)
from swift.models.quantised import hqq_settings
from swift.models.source import ModelSource, find_model
from swift.trainers.fused_lora import fused_lora
from swift.tuners import Swift
from tests.tiny import save_tiny

CPU = Hardware()
IDS_BT = torch.randint(3, 390, (2, 16), generator=torch.Generator().manual_seed(0))


def held(bits: int, method: str = "bnb", **options: object) -> QuantisedOptions:
    return QuantisedOptions(quant_method=method, quantization_bit=bits, **options)


@pytest.fixture(scope="module", params=["qwen2", "llama"], ids=["biases", "no biases"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """Where 4 bits once were repacked, a model with biases failed and one without had wrong gradients."""
    return find_model(None, str(save_tiny(tmp_path_factory.mktemp("base"), request.param)))


def with_lora(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.0))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return tuned


def plain(quantised: nn.Module, source: ModelSource) -> nn.Module:
    """The same model with the weights that 4 bits stand for in full: bitsandbytes' own function is the reference."""
    functional = pytest.importorskip("bitsandbytes").functional
    model = load_model(source, torch.float32)
    for path, layer in quantised.named_modules():
        if type(layer).__name__ == "Linear4bit":
            weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            model.get_submodule(path).weight.data.copy_(weight)
    return model


def gradients(tuned: nn.Module) -> dict[str, torch.Tensor]:
    tuned.zero_grad()
    tuned.train()
    tuned(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in tuned.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("options", [held(4), held(4, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=False)])
def test_gradients_are_those_of_the_weights_held_even_after_an_answer(
    source: ModelSource, options: QuantisedOptions
) -> None:
    model = load_model(source, torch.float32, quantised=options)
    reference = with_lora(plain(model, source))
    tuned = with_lora(model)
    with torch.no_grad():  # an answer between steps, as evaluation gives
        tuned.eval()(input_ids=IDS_BT)
    with fused_lora(tuned) as fused:
        assert fused == 0
        mine = gradients(tuned)
    theirs = gradients(reference)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6)
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_eight_bits_come_near_and_train(source: ModelSource) -> None:
    model = load_model(source, torch.float32, quantised=held(8))
    assert any(type(layer).__name__ == "Linear8bitLt" for layer in model.modules())
    full = load_model(source, torch.float32)
    with torch.no_grad():
        difference = (model(input_ids=IDS_BT).logits - full(input_ids=IDS_BT).logits).norm()
        assert 0 < difference / full(input_ids=IDS_BT).logits.norm() < 0.05
    assert all(gradient.abs().max() > 0 for gradient in gradients(with_lora(model)).values())


def test_an_adapter_comes_back_onto_the_same_bits_and_strictly(source: ModelSource, tmp_path: Path) -> None:
    tuned = with_lora(load_model(source, torch.float32, quantised=held(4))).eval()
    tuned.save_pretrained(tmp_path)
    with torch.no_grad():
        before = tuned(input_ids=IDS_BT).logits
        again = Swift.from_pretrained(load_model(source, torch.float32, quantised=held(4)), tmp_path).eval()
        assert torch.equal(again(input_ids=IDS_BT).logits, before)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SwiftError):
        Swift.from_pretrained(load_model(source, torch.float32, quantised=held(4)), tmp_path)


def test_python_says_bits_as_transformers_once_did(source: ModelSource) -> None:
    model, _ = get_model_tokenizer(model_id_or_path=str(source.path), model_kwargs={"load_in_4bit": True})
    assert model is not None
    assert model.get_submodule("model.layers.0.mlp.up_proj").weight.quant_type == "nf4"
    config = BitsAndBytesConfig(load_in_8bit=True)
    model, _ = get_model_tokenizer(model_id_or_path=str(source.path), model_kwargs={"quantization_config": config})
    assert model is not None
    assert model.get_submodule("model.layers.0.mlp.up_proj").weight.dtype == torch.int8


def quantised_config(**values: object) -> dict[str, object]:
    return {"quantization_config": values}


@pytest.mark.parametrize(
    ("said", "config", "decided"),
    [
        (QuantisedOptions(), {}, (None, 0)),
        (QuantisedOptions(quantization_bit=4), {}, ("bnb", 4)),
        (QuantisedOptions(quantization_bit=8), {}, ("bnb", 8)),
        (QuantisedOptions(quantization_bit=3), {}, ("hqq", 3)),
        (QuantisedOptions(quant_method="bnb"), {}, ("bnb", 4)),
        (QuantisedOptions(quant_method="torchao"), {}, ("torchao", 8)),
        (QuantisedOptions(), quantised_config(quant_method="gptq", bits=4), ("gptq", 4)),
        (QuantisedOptions(), quantised_config(quant_method="bitsandbytes", load_in_8bit=True), ("bnb", 8)),
    ],
)
def test_what_is_decided(said: QuantisedOptions, config: dict, decided: tuple) -> None:
    found = decide_quantisation(said, config)
    assert (found.quant_method, found.quantization_bit) == decided


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization_bit": 4, "sft_type": "full"}, "needs the weights in full"),
        ({"quantization_bit": 4, "tuner": ["lora", "part"]}, "needs the weights in full"),
        ({"quant_method": "hqq", "sft_type": "vera"}, "needs the weights in full"),
        ({"quantization_bit": 8, "use_dora": True}, "dora needs the weights in full"),
        ({"quantization_bit": 4, "init_lora_weights": "pissa_niter_4"}, "pissa_niter_4 needs the weights in full"),
        ({"quant_method": "gptq", "quantization_bit": 4}, "needs a base that is saved so"),
        ({"quant_method": "eetq"}, "needs a CUDA GPU"),
        ({"quant_method": "bnb", "quantization_bit": 3}, "has no 3 bits"),
        ({"quant_method": "torchao", "quantization_bit": 4}, "nothing trains on a base in 4 bits of torchao"),
    ],
)
def test_what_cannot_be_is_said(tiny_dir: Path, options: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    args = SftArguments(model_id_or_path=str(tiny_dir), dataset=["x.jsonl"], **options)
    with pytest.raises(ConfigError, match=words) as caught:
        decide_sft(args, CPU, find_model(None, str(tiny_dir)))
    assert caught.value.fix


def test_a_base_that_is_saved_in_few_bits_stays_so(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    config = quantised_config(quant_method="gptq", bits=4)
    for said in ({"quant_method": "bnb"}, {"quantization_bit": 8}):
        args = decide_quantisation(QuantisedOptions(**said), config)
        with pytest.raises(ConfigError, match="is saved in 4 bits of gptq"):
            raise quantisation.check_quantisation(args, config, CPU)[0]
    args = decide_quantisation(QuantisedOptions(quant_method="gptq", quantization_bit=4), config)
    assert quantisation.check_quantisation(args, config, CPU, ["lora"]) == []
    [error] = quantisation.check_quantisation(
        decide_quantisation(QuantisedOptions(), quantised_config(quant_method="fp8")),
        quantised_config(quant_method="fp8"),
        CPU,
        ["lora"],
    )
    assert "nothing trains" in error.what


@pytest.mark.parametrize(
    ("quant_type", "trains"),
    [
        ({"default": {"_type": "Int8WeightOnlyConfig", "_data": {"group_size": None}}}, True),
        ({"default": {"_type": "IntxWeightOnlyConfig", "_data": {"weight_dtype": {"_data": "int4"}}}}, False),
        ({"default": {"_type": "Int8DynamicActivationInt4WeightConfig"}}, False),
        ("int8_weight_only", True),
    ],
)
def test_torchao_trains_in_8_bits_only(quant_type: object, trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    config = quantised_config(quant_method="torchao", quant_type=quant_type)
    args = decide_quantisation(QuantisedOptions(), config)
    assert (quantisation.check_quantisation(args, config, CPU, ["lora"]) == []) == trains
    assert quantisation.check_quantisation(args, config, CPU) == []


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    for method in ("bnb", "hqq", "gptq", "torchao"):
        with pytest.raises(MissingPackageError) as caught:
            check_packages(method)
        assert "[quant]" in str(caught.value.fix)


def test_bits_are_inherited_by_what_loads_the_base_alone() -> None:
    saved = {"quant_method": "bnb", "quantization_bit": 4, "bnb_4bit_quant_type": "fp4"}
    args, taken = inherit(InferArguments(), saved)
    assert taken == saved
    assert args.bnb_4bit_quant_type == "fp4"
    assert inherit(ExportArguments(), saved)[1] == {}  # its --quant_method says what is written


def test_what_differs_for_some_layers_is_found_from_anywhere(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    (tmp_path / "hqq.json").write_text('{"mlp.down_proj": {"bits": 8}}')
    monkeypatch.chdir(tmp_path)
    said = SftArguments(model_id_or_path=str(tiny_dir), dataset=["x.jsonl"], quant_method="hqq")
    said.hqq_dynamic_config_path = "hqq.json"
    saved = to_json(decide_sft(said, CPU, find_model(None, str(tiny_dir))))
    monkeypatch.chdir("/")
    assert hqq_settings(inherit(InferArguments(), saved)[0])[1] == {"mlp.down_proj": {"bits": 8}}
    (tmp_path / "hqq.json").write_text('["mlp.down_proj"]')
    with pytest.raises(ConfigError, match="--hqq_dynamic_config_path"):
        hqq_settings(inherit(InferArguments(), saved)[0])


def test_both_spellings_of_a_quantised_directory(tmp_path: Path) -> None:
    for there, asked in (
        ("a-merged-gptq-int4", "a-gptq-int4"),
        ("b-awq-int4", "b-merged-awq-int4"),
        ("c-fp8", "c-merged-fp8"),
    ):
        (tmp_path / there).mkdir()
        assert either_spelling(tmp_path / asked) == tmp_path / there
        assert either_spelling(tmp_path / there) == tmp_path / there
    assert either_spelling(tmp_path / "d-gptq-int4") == tmp_path / "d-gptq-int4"


def test_groups_divide_every_row() -> None:
    assert group_size({"hidden_size": 4096, "intermediate_size": 11008}, 128) == 128
    assert group_size({"hidden_size": 192, "intermediate_size": 512}, 128) == 64
    assert group_size({"hidden_size": 64, "num_attention_heads": 3, "head_dim": 16}, 128) == 16
    check_shapes("awq", {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8})
    with pytest.raises(ConfigError, match="one here has 96"):
        check_shapes("awq", {"hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 3})


def test_usual_ways_to_write() -> None:
    assert (usual(None, 4), usual(None, 8), usual("hqq", 0)) == (("awq", 4), ("gptq", 8), ("hqq", 4))
    with pytest.raises(ConfigError, match="awq has no 8 bits") as caught:
        usual("awq", 8)
    assert "gptq" in str(caught.value.fix)


def test_bits_that_files_say(tmp_path: Path) -> None:
    rows = [({"nbits": 3}, 3), ({"w_bit": 4}, 4), ({"load_in_4bit": True}, 4), ({}, 0)]
    assert [bits_of(quantised_config(**values)) for values, _ in rows] == [bits for _, bits in rows]
    assert bits_of(json.loads("{}")) == 0
