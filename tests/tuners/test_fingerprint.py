"""The fingerprint of a base: what it is blind to, what it sees, and where it lies on disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from peft import IA3Config, PeftModel

from swift.errors import DataError
from swift.tuners import Swift, fingerprint, sampled
from tests.tiny import tiny_model
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.test_facade import adapter, lora

LM = HOSTS["lm"]
HERE = fingerprint.take(LM.make())


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("second", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_does_not_matter(first, second):
    saved = fingerprint.take(LM.make().to(first))
    read = fingerprint.Fingerprint.from_dict(json.loads(json.dumps(saved.to_dict())))
    assert read.differing(fingerprint.take(LM.make().to(second))) == []
    assert read.differing(fingerprint.take(LM.make().bfloat16().to(second))) == []


def test_tuners_do_not_matter():
    configs = {
        "a": lora(target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]),
        "b": IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
        "c": adapter(),
    }
    model = Swift.prepare_model(LM.make(), configs)
    stir(model)
    assert HERE.differing(fingerprint.take(model.base_model)) == []
    assert model.fingerprint.differing(HERE) == []
    model = Swift.prepare_model(LM.make(), {"a": lora(trainable_token_indices=[1, 2])})
    assert HERE.differing(fingerprint.take(model.base_model)) == []


def test_tied_or_not_does_not_matter():
    tied = tiny_model("qwen2", vocab_size=64, hidden=32, tie_word_embeddings=True)
    untied = tiny_model("qwen2", vocab_size=64, hidden=32)
    untied.load_state_dict(tied.state_dict())
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert fingerprint.take(tied).differing(fingerprint.take(untied)) == []


def test_one_changed_matrix_is_seen_and_named():
    model = LM.make()
    model.model.layers[1].mlp.up_proj.weight.data.mul_(1.02)
    assert HERE.differing(fingerprint.take(model)) == ["model.layers.1.mlp.up_proj.weight"]
    assert HERE.differing(fingerprint.take(tiny_model("qwen2", vocab_size=64, hidden=32, layers=3)))


def test_a_large_model_is_sampled():
    model = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(100)])
    taken = fingerprint.take(model)
    assert taken.weights is not None
    assert taken.weights.numel() == sampled.TENSORS * sampled.WEIGHTS
    assert len(set(taken.keys)) == sampled.TENSORS


@pytest.mark.parametrize("config", ["ours", lora(), IA3Config(target_modules=["v_proj"], feedforward_modules=[])])
def test_it_travels_and_another_base_has_to_be_allowed(config, tmp_path):
    base = LM.make()
    base.name_or_path = "models/one"
    model = Swift.prepare_model(base, {"a": adapter()} if config == "ours" else config)
    stir(model)
    model.save_pretrained(tmp_path)
    other = tiny_model("qwen2", vocab_size=64, hidden=32, seed=1)
    other.name_or_path = "models/two"
    with pytest.raises(DataError, match="trained on models/one, whose weights are not those of models/two") as caught:
        Swift.from_pretrained(other, tmp_path)
    assert "allow_other_base=True" in str(caught.value.fix)
    assert "lm_head.weight" in str(caught.value.why)
    again = Swift.from_pretrained(
        tiny_model("qwen2", vocab_size=64, hidden=32, seed=1), tmp_path, allow_other_base=True, is_trainable=True
    )
    again.save_pretrained(tmp_path / "again")
    with pytest.raises(DataError, match="whose weights"):
        Swift.from_pretrained(LM.make(), tmp_path / "again")


def test_plain_peft_reads_past_it(tmp_path):
    model = Swift.prepare_model(LM.make(), lora())
    stir(model)
    model.save_pretrained(tmp_path)
    assert (tmp_path / fingerprint.FINGERPRINT_FILE).is_file()
    assert torch.equal(run(PeftModel.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))


def test_it_stays_with_what_is_rewritten_for_peft(tmp_path):
    Swift.prepare_model(LM.make(), {"default": lora()}).save_pretrained(tmp_path)
    Swift.save_to_peft_format(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="trained on"):
        Swift.from_pretrained(tiny_model("qwen2", vocab_size=64, hidden=32, seed=1), tmp_path / "out")


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_it_is_of_the_base_before_its_weights_were_split(start, tmp_path):
    for configs in (lora(init_lora_weights=start), {"a": lora(init_lora_weights=start)}):
        model = Swift.prepare_model(LM.make(), configs)
        assert (
            HERE.differing(fingerprint.remembered(model) if isinstance(model, PeftModel) else model.fingerprint) == []
        )
        model.save_pretrained(tmp_path)
        Swift.from_pretrained(LM.make(), tmp_path)


def test_what_cannot_be_compared_only_warns(tmp_path, caplog):
    Swift.prepare_model(LM.make(), {"a": adapter()}).save_pretrained(tmp_path)
    quantised = tiny_model("qwen2", vocab_size=64, hidden=32, seed=1)
    quantised.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="gptq"))
    assert fingerprint.take(torch.nn.Linear(2, 2, device="meta")).weights is None
    assert fingerprint.take(torch.nn.ReLU()).weights is None
    Swift.from_pretrained(quantised, tmp_path)
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "base_fingerprint"}))
    Swift.from_pretrained(tiny_model("qwen2", vocab_size=64, hidden=32, seed=1), tmp_path)
    assert sum("nothing tells" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("value", [3, {}, {"name": "x", "half": False, "weights": "!"}, {"name": 1, "weights": 5}])
def test_a_damaged_one_is_refused(value, tmp_path):
    Swift.prepare_model(LM.make(), {"a": adapter()}).save_pretrained(tmp_path)
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_fingerprint": value}))
    with pytest.raises(DataError, match="fingerprint"):
        Swift.from_pretrained(LM.make(), tmp_path)


def quantised(model, method="bitsandbytes"):
    """`model` as one of which the matrices of its layers are quantised: what is left of it to read."""
    for name, parameter in model.model.layers.named_parameters():
        if parameter.dim() == 2:
            owner, _, last = name.rpartition(".")
            packed = torch.nn.Parameter(parameter.data.to(torch.uint8), requires_grad=False)
            setattr(model.model.layers.get_submodule(owner), last, packed)
    vars(model)["hf_quantizer"] = SimpleNamespace(quantization_config=SimpleNamespace(quant_method=method))
    return model


def test_a_quantised_base_is_known_by_what_is_not_quantised():
    of_quantised = fingerprint.take(quantised(LM.make()))
    read = fingerprint.Fingerprint.from_dict(json.loads(json.dumps(of_quantised.to_dict())))
    assert read.quantised == "bitsandbytes"
    assert read.differing(fingerprint.take(quantised(LM.make().bfloat16()))) == []
    assert read.differing(HERE) == []
    assert HERE.differing(of_quantised) == []
    other = LM.make()
    other.model.embed_tokens.weight.data.mul_(1.5)
    assert read.differing(fingerprint.take(other)) == ["model.embed_tokens.weight"]
    assert read.differing(fingerprint.take(quantised(other))) == ["model.embed_tokens.weight"]


def test_another_way_to_quantise_is_compared_only_with_itself():
    of_gptq = fingerprint.take(quantised(LM.make(), "gptq"))
    assert of_gptq.differing(fingerprint.take(quantised(LM.make(), "gptq"))) == []
    assert of_gptq.differing(HERE) is None
    assert HERE.differing(of_gptq) is None
