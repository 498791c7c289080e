"""What a run meets that is not of its making: processes that are slower than others, disks that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from swift import storage
from swift.arguments.sft import SftArguments
from swift.commands.prepare import find_source
from swift.commands.run import plan_run
from tests.trainers.rows import lora, trainer_of

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


def test_a_checkpoint_gets_its_name_when_all_processes_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(lora(), tmp_path, **SAVING)
    final, named = tmp_path / "checkpoint-0", []
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: named.append(final.exists()))
    with trainer._stage(final) as stage:
        (stage / "a").write_text("x")
    assert named == [False, True]  # all wait before the name is given, and after it, for none may look too early
    assert storage.verify(final) == []


@pytest.mark.parametrize(("verify", "newest"), [("full", 2), ("fast", 4)])
def test_how_well_files_are_checked_is_said(
    tmp_path: Path, tiny_dir: Path, caplog: pytest.LogCaptureFixture, verify: str, newest: int
) -> None:
    trainer_of(lora(), tmp_path, **SAVING).train()
    card = tmp_path / "checkpoint-4" / "README.md"
    card.write_text(card.read_text().swapcase())
    said = {"resume_from_checkpoint": "auto", "resume_verify": verify, "add_output_dir_suffix": False}
    args = SftArguments(model_id_or_path=str(tiny_dir), output_dir=str(tmp_path), **said)
    planned = plan_run(args, find_source(args))
    assert planned["resume_from_checkpoint"] == str(tmp_path / f"checkpoint-{newest}")
    caplog.clear()
    trainer_of(lora(), tmp_path, **SAVING, resume_verify=verify).train(resume_from_checkpoint="auto")
    assert ("README.md was changed" in caplog.text) == (verify == "full")
