"""What a checkpoint directory may be, what is taken from it, and what is said when it is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from swift import checkpoint
from swift.arguments.export import ExportArguments
from swift.arguments.infer import InferArguments
from swift.commands.prepare import find_checkpoint, find_source, from_checkpoint, load_plugins, prepare_model_template
from swift.errors import DataError, NotFoundError, UsageError
from swift.templates import TEMPLATES


def adapter(directory: Path, **config: object) -> Path:
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return directory


def test_without_a_checkpoint_nothing_changes() -> None:
    said = InferArguments(model_type="x")
    assert from_checkpoint(said) is said


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not a directory"):
        from_checkpoint(InferArguments(ckpt_dir=str(tmp_path / "nothing")))
    with pytest.raises(DataError, match="neither a model nor an adapter"):
        from_checkpoint(InferArguments(ckpt_dir=str(tmp_path)))


def test_a_plain_adapter_names_its_model(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "lora", base_model_name_or_path="some/base")
    assert from_checkpoint(InferArguments(ckpt_dir=str(directory))).model_id_or_path == "some/base"
    said = InferArguments(ckpt_dir=str(directory), model_id_or_path="mine")
    assert from_checkpoint(said).model_id_or_path == "mine"
    nameless = adapter(tmp_path / "nameless")
    with pytest.raises(UsageError, match="--model_id_or_path"):
        from_checkpoint(ExportArguments(ckpt_dir=str(nameless)))


def test_an_adapter_on_another_model_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    base.mkdir()
    directory = adapter(tmp_path / "lora", base_model_name_or_path=str(base))
    from_checkpoint(InferArguments(ckpt_dir=str(directory), model_id_or_path=str(base)))
    assert "was trained on" not in caplog.text
    from_checkpoint(InferArguments(ckpt_dir=str(directory), model_id_or_path=str(other)))
    assert f"was trained on {base}, and is put onto {other}" in caplog.text


def test_a_run_and_what_is_above_it_mean_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "output" / "m" / "v0-1"
    for step in (1, 2):
        with checkpoint.save(checkpoint.directory_of(run, step), {}) as stage:
            (stage / "adapter_config.json").write_text("{}")
            (stage / "adapter_model.safetensors").touch()
            (stage / "trainer_state.json").touch()  # and no optimiser, as with --save_only_model
    for said in (run / "checkpoint-2", run, run.parent, run.parent.parent):
        assert find_checkpoint(str(said)) == run / "checkpoint-2"
    assert find_checkpoint(str(run / "checkpoint-1")) == run / "checkpoint-1"
    (run / "checkpoint-2" / "adapter_model.safetensors").unlink()
    assert find_checkpoint(str(run)) == run / "checkpoint-1"


def test_answers_in_a_checkpoint_do_not_make_it_newer(tmp_path: Path) -> None:
    for number, model in enumerate(("first", "second")):
        written = tmp_path / model / "v0-1" / "checkpoint-1"
        with checkpoint.save(written, {}) as stage:
            for name in ("adapter_config.json", *checkpoint.STATE_FILES, "rng_state.pth"):
                (stage / name).write_text("{}")
        os.utime(written / "manifest.json", (number, number))
    (tmp_path / "first" / "v0-1" / "checkpoint-1" / "infer_result").mkdir()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "second" / "v0-1" / "checkpoint-1"


def test_changed_weights_are_refused_and_a_dropped_optimizer_is_not(tmp_path: Path) -> None:
    with checkpoint.save(tmp_path / "checkpoint-1", {}) as stage:
        (stage / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "b"}')
        (stage / "adapter_model.safetensors").write_bytes(b"0123")
        (stage / "optimizer.pt").write_bytes(b"0")
    said = InferArguments(ckpt_dir=str(tmp_path / "checkpoint-1"))
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    assert from_checkpoint(said).model_id_or_path == "b"
    (tmp_path / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"0124")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors was changed"):
        from_checkpoint(said)


def test_saved_options_are_taken_and_code_is_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = adapter(tmp_path / "lora")
    saved = {"model_id_or_path": "m", "system": "s", "custom_register_path": ["evil.py"]}
    (directory / "sft_args.json").write_text(json.dumps(saved))
    args = from_checkpoint(InferArguments(ckpt_dir=str(directory)))
    assert (args.model_id_or_path, args.system, args.custom_register_path) == ("m", "s", [])
    untaken = InferArguments(ckpt_dir=str(directory), load_args_from_ckpt_dir=False, model_id_or_path="n")
    assert from_checkpoint(untaken).system is None
    (directory / "sft_args.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        from_checkpoint(InferArguments(ckpt_dir=str(directory)))


def test_a_model_must_be_named() -> None:
    with pytest.raises(UsageError, match="no model is named"):
        find_source(InferArguments())


def test_plugins_run_once(tmp_path: Path) -> None:
    plugin = tmp_path / "happy.py"
    plugin.write_text(
        "from swift.llm import TEMPLATES, TemplateRecord\n"
        "TEMPLATES.add(TemplateRecord(name='happy', prefix=(), prompt=('{{QUERY}}',), chat_sep=None, suffix=('x',)))\n"
    )
    load_plugins([str(plugin)])
    load_plugins([str(plugin)])
    assert "happy" in TEMPLATES
    for wrong in (tmp_path / "missing.py", tmp_path):
        with pytest.raises(NotFoundError, match="is not a Python file"):
            load_plugins([str(wrong)])


def test_a_broken_plugin_is_the_users_error(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("import nothing_of_this_name\n")
    with pytest.raises(UsageError, match=r"broken.py.*nothing_of_this_name"):
        load_plugins([str(plugin)])


def test_a_model_ready_to_answer(tiny_dir: Path) -> None:
    prepared = prepare_model_template(InferArguments(model_id_or_path=str(tiny_dir)))
    assert prepared.template.name == "auto"
    assert not prepared.model.training
    assert prepared.args.dtype == "fp32"
