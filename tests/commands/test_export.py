"""Merging and changing layout: what is written, what is refused, and that nothing unequal gets through."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from swift import storage
from swift.commands import merge, merge_model
from swift.commands.export import export_main, merge_lora_main
from swift.commands.merge import merge_lora
from swift.commands.merge_model import merge_checked
from swift.errors import ConfigError, DataError, MissingPackageError, OutputError, UsageError
from swift.llm import ExportArguments, InferArguments
from swift.models import quantisation
from swift.tuners import Swift
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def adapter(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain PEFT adapter with a real effect."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_dir), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    place = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(place)
    return place


@pytest.fixture
def checkpoint(adapter: Path, tmp_path: Path) -> Path:
    """The adapter where a merged model may be written beside it."""
    shutil.copytree(adapter, tmp_path / "lora")
    return tmp_path / "lora"


def export(checkpoint: Path, tiny_dir: Path, **options: object) -> ExportArguments:
    """Options of a merge; that it is compared is a matter of test_merge."""
    return ExportArguments(
        **{"ckpt_dir": str(checkpoint), "model_id_or_path": str(tiny_dir), "verify_merge": False} | options
    )


def test_a_merged_model_is_plain_and_equal(checkpoint: Path, tiny_dir: Path) -> None:
    path = Path(merge_lora(export(checkpoint, tiny_dir)))
    assert path == checkpoint.with_name("lora-merged")
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    ids = torch.arange(20)[None]
    tuned = Swift.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_dir), str(checkpoint)).eval()
    merged = AutoModelForCausalLM.from_pretrained(path)
    with torch.inference_mode():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-4)
    assert json.loads((path / "sft_args.json").read_text())["sft_type"] == "full"
    assert not storage.verify(path)


def test_bfloat16_weights_stay_bfloat16(checkpoint: Path, tiny_dir: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_dir, half)
    AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.bfloat16).save_pretrained(half)
    merged = AutoModelForCausalLM.from_pretrained(merge_lora(export(checkpoint, half)))
    assert merged.dtype == torch.bfloat16
    said = export(checkpoint, half, dtype="fp32", output_dir=str(tmp_path / "full"))
    assert AutoModelForCausalLM.from_pretrained(merge_lora(said)).dtype == torch.float32


def test_an_existing_model_is_kept_or_replaced(
    checkpoint: Path, tiny_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = export(checkpoint, tiny_dir)
    path = Path(merge_lora(args))
    (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        merge_lora(args)
    assert merge_lora(args, replace_if_exists=True) == str(path)
    assert not storage.verify(path)
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert merge_lora(args) == str(path)
    assert "--replace_if_exists true merges anew" in caplog.text
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    merge_lora_main(args)
    assert (path / "model.safetensors").stat().st_mtime_ns != before


def test_a_merge_into_another_base_is_not_taken_for_this_one(checkpoint: Path, tiny_dir: Path, tmp_path: Path) -> None:
    path = merge_lora(export(checkpoint, tiny_dir))
    shutil.copytree(tiny_dir, tmp_path / "other")
    with pytest.raises(DataError, match="was merged into"):
        merge_lora(export(checkpoint, tmp_path / "other"))
    assert merge_lora(export(checkpoint, tmp_path / "other", replace_if_exists=True)) == path


def test_what_cannot_be_merged(checkpoint: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="needs a checkpoint"):
        merge_lora(InferArguments())
    with pytest.raises(DataError, match="no LoRA in it"):
        merge_lora(InferArguments(ckpt_dir=str(tiny_dir)))
    quantised = SimpleNamespace(config={"quantization_config": {"quant_method": "gptq"}}, name="q", path=tiny_dir)
    monkeypatch.setattr(merge, "find_model", lambda *args, **options: quantised)
    with pytest.raises(ConfigError, match="is quantised"):
        merge_lora(export(checkpoint, tiny_dir))
    assert not checkpoint.with_name("lora-merged").exists()


def test_an_unequal_merge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    real = Swift.merge_and_unload

    def lossy(model: torch.nn.Module) -> None:
        real(model)
        model.model.lm_head.weight.data.mul_(1.01)

    monkeypatch.setattr(merge_model.Swift, "merge_and_unload", lossy)
    with pytest.raises(DataError, match="differs from the unmerged"):
        merge_checked(tuned, torch.float32, 400)


@pytest.mark.parametrize(
    ("asked", "missing", "extra"), [({"to_gguf": "q8_0"}, "gguf", "gguf"), ({"quant_method": "hqq"}, "hqq", "quant")]
)
def test_nothing_is_merged_for_a_stage_that_cannot_run(
    checkpoint: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: dict, missing: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(MissingPackageError, match=rf"\[{extra}\]"):
        export_main(export(checkpoint, tiny_dir, merge_lora=True, **asked))
    assert not checkpoint.with_name("lora-merged").exists()


def test_export_wants_something_to_do(checkpoint: Path, tiny_dir: Path) -> None:
    with pytest.raises(UsageError, match="nothing to export"):
        export_main(ExportArguments(ckpt_dir=str(checkpoint)))
    with pytest.raises(UsageError, match="needs a checkpoint"):
        export_main(ExportArguments(to_peft_format=True))
    with pytest.raises(DataError, match="holds no adapter"):
        export_main(ExportArguments(to_peft_format=True, ckpt_dir=str(tiny_dir)))


def test_export_takes_words(checkpoint: Path, tiny_dir: Path) -> None:
    export_main(["--ckpt_dir", str(checkpoint), "--model_id_or_path", str(tiny_dir), "--merge_lora", "true"])
    assert checkpoint.with_name("lora-merged").is_dir()


def listing(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("over", ["run", "run/base", "run/lora", "run/notes", "run/other"])
def test_what_no_export_wrote_is_never_replaced(over: str, adapter: Path, tiny_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "lora")
    shutil.copytree(tiny_dir, run / "base")
    with storage.staged_directory(run / "other", {"step": 5}) as stage:  # as training commits a checkpoint
        (stage / "model.safetensors").write_bytes(b"of another run")
    (run / "notes").write_text("mine")
    before = listing(run)
    said = export(run / "lora", run / "base", output_dir=str(tmp_path / over))
    for merging in (lambda: merge_lora(said), lambda: merge_lora(said, replace_if_exists=True)):
        with pytest.raises(OutputError, match="is not replaced") as caught:
            merging()
        assert "replace_if_exists" not in str(caught.value.fix)
    assert listing(run) == before


def test_a_merged_model_that_was_trained_into_is_not_replaced(checkpoint: Path, tiny_dir: Path) -> None:
    merged = Path(merge_lora(export(checkpoint, tiny_dir)))
    (merged / "infer_result").mkdir()
    (merged / "infer_result" / "rows.jsonl").write_text("{}")
    assert merge_lora(export(checkpoint, tiny_dir), replace_if_exists=True) == str(merged)
    (merged / "v0" / "checkpoint-1").mkdir(parents=True)
    (merged / "v0" / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"trained")
    before = listing(merged)
    assert merge_lora(export(checkpoint, tiny_dir)) == str(merged)  # what is there is used as before
    with pytest.raises(OutputError, match="no export wrote v0/checkpoint-1"):
        merge_lora(export(checkpoint, tiny_dir), replace_if_exists=True)
    assert listing(merged) == before


def test_only_what_a_merge_of_this_name_left_is_tidied(checkpoint: Path, tiny_dir: Path) -> None:
    ours, others = checkpoint.parent / ".tmp-lora-merged-2000000000", []
    for name in (".tmp-checkpoint-100-2000000000", ".old-notes-2000000000", ".tmp-x-20240101"):
        others.append(checkpoint.parent / name)
    for place in (ours, *others):
        place.mkdir()
        (place / "file").touch()
    merge_lora(export(checkpoint, tiny_dir))
    assert not ours.exists()
    assert all((place / "file").is_file() for place in others)


def test_another_merge_of_the_same_name_is_not_taken_for_this_one(
    checkpoint: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    first = export(checkpoint, tiny_dir, output_dir=output)
    merge_lora(first)
    shutil.copytree(checkpoint, tmp_path / "second")
    pair = [f"{checkpoint}:0.7", f"{tmp_path / 'second'}:0.3"]
    others = [
        (export(checkpoint, tiny_dir, output_dir=output, ckpt_dir=None, adapters=pair), "adapters"),
        (export(checkpoint, tiny_dir, output_dir=output, ckpt_dir=None, adapters=[f"{checkpoint}:0.5"]), "adapters"),
        (export(checkpoint, tiny_dir, output_dir=output, dtype="fp16"), "dtype"),
    ]
    for said, told in others:
        with pytest.raises(DataError, match=f"was merged with {told}"):
            merge_lora(said)
    whole = {"ckpt_dir": str(checkpoint), "model_id_or_path": str(tiny_dir)}
    merge_lora(ExportArguments(**whole, verify_merge=False))
    assert merge_lora(InferArguments(**whole, dtype="fp16")) == f"{checkpoint}-merged"
    shutil.copytree(tiny_dir, tmp_path / "base")
    with pytest.raises(DataError, match="was merged into") as caught:
        merge_lora(InferArguments(**whole | {"model_id_or_path": str(tmp_path / "base")}))
    assert "swift merge-lora" in str(caught.value.fix)
    merge_lora(others[0][0], replace_if_exists=True)
    merge_lora(others[0][0])
    with pytest.raises(DataError, match="was merged with combination"):
        merge_lora(replace(others[0][0], combination_type="ties"))
    merge_lora(first, replace_if_exists=True)
    os.utime(checkpoint / "adapter_model.safetensors", ns=(0, 2 * 10**18))
    with pytest.raises(DataError, match="written anew"):
        merge_lora(first)
