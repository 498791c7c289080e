"""`swift export --merge_lora`: what is streamed, compared, refused and reported; and what is made of a merged model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift import storage
from swift.commands import hf_template, merge, merge_files
from swift.commands.export import export_main
from swift.commands.merge import merge_lora
from swift.errors import ConfigError, DataError, DiskError, NotFoundError, UsageError
from swift.llm import ExportArguments
from swift.merging import stream
from swift.templates.template import get_template
from swift.tuners import AdapterConfig, LoraConfig, Swift
from tests.merging.cases import adapted, lora, tensors_of
from tests.tiny import save_tiny

IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "base", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    adapted(base, lora()).save_pretrained(base.parent / "adapter")
    return base.parent / "adapter"


def options(base: Path, adapter: Path, tmp_path: Path, **more: Any) -> ExportArguments:
    said = {"model_id_or_path": str(base), "ckpt_dir": str(adapter), "output_dir": str(tmp_path / "out"), **more}
    return ExportArguments(merge_lora=True, **said)


def report(output: str | Path) -> dict[str, Any]:
    return json.loads((Path(output) / "merge_report.json").read_text())


def test_it_is_streamed_compared_and_reported(
    base: Path, adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = merge_lora(options(base, adapter, tmp_path))
    told = report(output)
    assert told["tensors"] == {"changed": 4, "copied": len(tensors_of(base)) - 4}
    found = told["verified"]
    assert found["difference"] < 1e-6 < 1e-3 < found["effect"]
    assert found["agreement"] == 1.0
    assert found["tokenizer"]
    assert found["template"]
    assert found["stop_tokens"]
    assert found["generation_config"]
    assert "verified: merged = unmerged" in caplog.text
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (Path(output) / name).read_bytes() == (base / name).read_bytes()
    assert not storage.verify(output)
    assert len(AutoTokenizer.from_pretrained(output)) == 400


def test_it_is_written_as_the_base_is_whatever_it_was_trained_in(base: Path, adapter: Path, tmp_path: Path) -> None:
    half, trained = tmp_path / "half", tmp_path / "trained"
    shutil.copytree(base, half)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    shutil.copytree(adapter, trained)
    (trained / "sft_args.json").write_text(json.dumps({"dtype": "fp32", "sft_type": "lora"}))
    output = Path(merge_lora(options(half, trained, tmp_path, verify_merge=False)))
    assert {tensor.dtype for tensor in tensors_of(output).values()} == {torch.bfloat16}
    assert report(output)["tensors"]["copied"] == len(tensors_of(half)) - 4
    said = options(half, trained, tmp_path, verify_merge=False, dtype="fp32", replace_if_exists=True)
    assert {tensor.dtype for tensor in tensors_of(Path(merge_lora(said))).values()} == {torch.float32}


def test_a_rounding_as_large_as_the_training_is_said(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = tmp_path / "half"
    shutil.copytree(base, half)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(half), lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(1e-5)
    model.save_pretrained(tmp_path / "adapter")
    merge_lora(options(half, tmp_path / "adapter", tmp_path))
    assert "--dtype fp32 keeps what was trained" in caplog.text
    caplog.clear()
    merge_lora(options(half, tmp_path / "adapter", tmp_path, dtype="fp32", replace_if_exists=True))
    assert "keeps what was trained" not in caplog.text


def test_without_comparison_no_model_is_loaded(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "named", lambda address: pytest.fail(address))
    assert report(merge_lora(options(base, adapter, tmp_path, verify_merge=False)))["verified"] is None
    monkeypatch.setattr(merge_files.dist, "free_memory", lambda: 1000)
    again = options(base, adapter, tmp_path, replace_if_exists=True)
    assert report(merge_lora(again))["verified"] is None


def test_a_wrong_merge_never_counts(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stream._updated

    def twice(item: Any, updates: list[Any]) -> Any:
        return real(item, [*updates, *updates])

    monkeypatch.setattr(stream, "_updated", twice)
    with pytest.raises(DataError, match="differs from the unmerged one"):
        merge_lora(options(base, adapter, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_known_before(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda path: 1000)
    with pytest.raises(DiskError, match="No space left"):
        merge_lora(options(base, adapter, tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_other_weights(base: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=1, tie_word_embeddings=True)
    model = Swift.prepare_model(AutoModelForCausalLM.from_pretrained(other), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path / "adapter"))
    said = options(base, tmp_path / "adapter", tmp_path, verify_merge=False)
    with pytest.raises(DataError, match="whose weights are not those"):
        merge_lora(said)
    said.allow_other_base = True
    assert merge_lora(said)
    assert merge_lora(options(other, tmp_path / "adapter", tmp_path, output_dir=str(tmp_path / "right")))


def test_several_of_ours_with_a_branch_beside_them(base: Path, tmp_path: Path) -> None:
    """Two LoRA in one checkpoint are streamed; with a branch beside them the model makes the merge."""
    model = Swift.prepare_model(
        AutoModelForCausalLM.from_pretrained(base),
        {name: LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False) for name in ("one", "two")},
    ).eval()
    model.save_pretrained(str(tmp_path / "two"), safe_serialization=True)
    output = merge_lora(options(base, tmp_path / "two", tmp_path))
    with torch.inference_mode():
        wanted = model(IDS).logits
        torch.testing.assert_close(
            AutoModelForCausalLM.from_pretrained(output)(IDS).logits, wanted, rtol=1e-4, atol=1e-5
        )
    assert "in_model" not in report(output)
    model.add_adapter("branch", AdapterConfig(dim=64, target_modules=["mlp"], adapter_length=4))
    model.save_pretrained(str(tmp_path / "three"), safe_serialization=True)
    said = options(base, tmp_path / "three", tmp_path, output_dir=str(tmp_path / "second"))
    assert report(merge_lora(said))["in_model"]
    assert (tmp_path / "second-tuners").is_dir()


def test_a_tokenizer_of_its_own_stays_the_adapters(base: Path, tmp_path: Path) -> None:
    """As a script with PEFT leaves it: a resized vocabulary, and the tokenizer in the adapter's directory."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<tool>", "</tool>"])
    model = adapted(base, lora(modules_to_save=["embed_tokens", "lm_head"]), rows=len(tokenizer))
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path / "adapter")
    output = merge_lora(options(base, tmp_path / "adapter", tmp_path))
    found = report(output)["verified"]
    assert found["tokenizer"]
    assert found["difference"] < 1e-6 < found["effect"]
    ids = AutoTokenizer.from_pretrained(output)("<tool>a</tool>", return_tensors="pt").input_ids
    assert ids[0, [0, -1]].tolist() == [400, 401]
    with torch.inference_mode():
        torch.testing.assert_close(
            AutoModelForCausalLM.from_pretrained(output)(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5
        )


def test_adapters_with_other_new_tokens_are_not_blended(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "other")
    (tmp_path / "other" / "new_tokens.json").write_text('{"ids": {"<a>": 400}, "rows": 401}')
    pair = [f"{adapter}:0.7", f"{tmp_path / 'other'}:0.3"]
    with pytest.raises(ConfigError, match="does not have alike"):
        merge_lora(options(base, adapter, tmp_path, adapters=pair, ckpt_dir=None))
    assert not (tmp_path / "out").exists()


def test_weighted_adapters(base: Path, adapter: Path, tmp_path: Path) -> None:
    adapted(base, lora(r=2), seed=7).save_pretrained(tmp_path / "other")
    pair = [f"{adapter}:0.7", f"{tmp_path / 'other'}:0.3"]
    said = options(base, adapter, tmp_path, adapters=pair, ckpt_dir=None)
    told = report(merge_lora(said))
    assert list(told["adapters"].values()) == [0.7, 0.3]
    assert told["combination"] == "linear"
    linear = tensors_of(tmp_path / "out")
    export_main(
        options(base, adapter, tmp_path, adapters=pair, ckpt_dir=None, replace_if_exists=True, combination_type="ties")
    )
    ties = tensors_of(tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(linear[name], ties[name])
    with pytest.raises(UsageError, match="both say what is merged"):
        merge_lora(options(base, adapter, tmp_path, adapters=pair))
    with pytest.raises(NotFoundError, match=":much is not a directory"):
        merge_lora(options(base, adapter, tmp_path, adapters=[f"{adapter}:much"], ckpt_dir=None))


def test_a_quantised_base_is_refused_with_the_way_out(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"quantization_config": {"quant_method": "gptq"}}
    monkeypatch.setattr(merge, "find_model", lambda *a, **b: SimpleNamespace(config=config, name="q", path=base))
    with pytest.raises(ConfigError, match="is quantised") as caught:
        merge_lora(options(base, adapter, tmp_path))
    assert "--allow_quantized_base" in str(caught.value.fix)


@pytest.mark.slow
def test_a_quantised_base_is_dequantised_when_that_is_allowed(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    few = tmp_path / "few"
    config = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32).save_pretrained(few)
    AutoTokenizer.from_pretrained(base).save_pretrained(few)
    adapted(base, lora()).save_pretrained(tmp_path / "adapter")
    told = report(merge_lora(options(few, tmp_path / "adapter", tmp_path, allow_quantized_base=True)))
    assert 0 < told["verified"]["quantised_difference"] < 0.2
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(("method", "bits"), [("hqq", 4), ("torchao", 8), ("torchao", 4)])
def test_what_others_wrote_is_dequantised_too(method: str, bits: int, base: Path, tmp_path: Path) -> None:
    pytest.importorskip(method)
    few = str(tmp_path / "few")
    export_main(ExportArguments(model_id_or_path=str(base), quant_method=method, quant_bits=bits, quant_output_dir=few))
    adapted(base, lora()).save_pretrained(tmp_path / "adapter")
    told = report(merge_lora(options(Path(few), tmp_path / "adapter", tmp_path, allow_quantized_base=True)))
    assert told["verified"]["quantised_difference"] < 1e-5
    merged, full = tensors_of(tmp_path / "out"), tensors_of(base)
    assert merged.keys() == full.keys()
    kept = "model.layers.0.mlp.gate_proj.weight"  # the adapter leaves it as it is
    assert 0 < (merged[kept] - full[kept]).norm() / full[kept].norm() < 0.2
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_template_of_the_training_becomes_a_chat_template(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = options(base, adapter, tmp_path, to_hf_template=True, template_type="llama3", verify_merge=False)
    export_main(said)
    written = AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}] * 2
    ours = get_template("llama3", AutoTokenizer.from_pretrained(base)).encode({"messages": talk})[0]["input_ids"]
    assert written.apply_chat_template(talk, return_dict=False) == ours
    assert "<|start_header_id|>user<|end_header_id|>" in written.decode(ours)
    assert not storage.verify(tmp_path / "out")
    monkeypatch.setattr(hf_template, "settle_chat_template", lambda template: False)
    with pytest.raises(DataError, match="no chat template writes"):
        export_main(said)
    with pytest.raises(UsageError, match="needs a checkpoint"):
        hf_template.to_hf_template(ExportArguments(model_id_or_path=str(base)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("to", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_gguf_is_read_back(kind: str, to: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = save_tiny(tmp_path / kind, kind, **({"head_dim": 32} if kind == "qwen3" else {}))
    said = {"model_id_or_path": str(model), "output_dir": str(tmp_path / "out"), "template_type": "qwen"}
    export_main(ExportArguments(to_gguf=to, **said))
    told = json.loads((tmp_path / "out" / "gguf_report.json").read_text())
    assert told["difference"] < {"f32": 1e-4, "f16": 1e-2, "bf16": 3e-2, "q8_0": 5e-2, "q4_0": 1}[to]
    assert told["agreement"] > (0.1 if to == "q4_0" else 0.8)
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith(f"FROM ./{kind}-{to}.gguf")
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "<|im_start|>user\n{{ .Content }}<|im_end|>" in text


def test_gguf_wants_a_merged_model(adapter: Path, base: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(UsageError, match="holds an adapter"):
        export_main(ExportArguments(to_gguf="f16", ckpt_dir=str(adapter), model_id_or_path=str(base)))
