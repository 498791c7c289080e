"""Checkpoints are found, refused and rotated by what is in them, not by their names."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from swift import checkpoint, storage
from swift.errors import DataError, DiskError, InternalError, NotFoundError

STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def make(output: Path, step: int, files: tuple[str, ...] = STATE) -> Path:
    with checkpoint.save(checkpoint.directory_of(output, step), {"step": step}) as stage:
        for name in (*files, "adapter_model.safetensors"):
            (stage / name).write_text(name)
    return checkpoint.directory_of(output, step)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    monkeypatch.setattr(checkpoint.logger, "handlers", [Keep()])
    return lines


def test_names_and_steps(tmp_path: Path) -> None:
    assert checkpoint.directory_of(tmp_path, 12) == tmp_path / "checkpoint-12"
    assert checkpoint.step_of("a/checkpoint-12") == 12
    assert checkpoint.step_of("a/checkpoint-12-merged") is None


def test_the_newest_by_step_is_found(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "none") is None
    for step in (9, 100, 20):
        make(tmp_path, step)
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-100"
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]


@pytest.mark.parametrize("name", [*STATE, "adapter_model.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "flipped"])
def test_a_damaged_one_is_passed_over_and_refused(tmp_path: Path, warnings: list[str], name: str, damage: str) -> None:
    good, bad = make(tmp_path, 1), make(tmp_path, 2)
    data = (bad / name).read_bytes()
    changed = {"emptied": b"", "cut": data[:-1], "flipped": data[:-1] + bytes([data[-1] ^ 1])}
    (bad / name).unlink() if damage == "removed" else (bad / name).write_bytes(changed[damage])
    assert checkpoint.latest(tmp_path) == good
    assert len(warnings) == 1
    assert name in warnings[0]
    with pytest.raises(DataError, match=name) as caught:
        checkpoint.check_resumable(bad)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("name", STATE)
def test_one_without_all_of_its_state_cannot_be_gone_on_from(tmp_path: Path, warnings: list[str], name: str) -> None:
    path = make(tmp_path, 1, tuple(other for other in STATE if other != name))
    with pytest.raises(DataError, match=f"{name} was not saved"):
        checkpoint.check_resumable(path)
    assert checkpoint.latest(tmp_path) is None


def test_many_faults_are_counted(tmp_path: Path) -> None:
    path = make(tmp_path, 1, (*STATE, *(f"part-{i}" for i in range(8))))
    for i in range(8):
        (path / f"part-{i}").unlink()
    with pytest.raises(DataError, match="and 3 more"):
        checkpoint.check_resumable(path)


def test_what_only_looks_like_one(tmp_path: Path, warnings: list[str]) -> None:
    real = make(tmp_path, 1)
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-6").symlink_to(real)
    (tmp_path / "checkpoint-7").touch()
    (tmp_path / ".tmp-checkpoint-8-1").mkdir()
    assert checkpoint.latest(tmp_path) == real
    assert checkpoint.committed(tmp_path) == [real]
    assert len(warnings) == 1


def test_deepspeed_and_several_processes_have_their_own_files(tmp_path: Path) -> None:
    checkpoint.check_resumable(make(tmp_path, 1, (*STATE[:3], "rng_state_0.pth", "rng_state_1.pth")))
    checkpoint.check_resumable(make(tmp_path, 2, ("trainer_state.json", "global_step2", "rng_state_0.pth")))


def test_the_newest_run_that_has_one(tmp_path: Path, warnings: list[str]) -> None:
    assert checkpoint.latest_of_runs(tmp_path / "none") is None
    old, _ = make(tmp_path / "v2-x", 10), (tmp_path / "v10-x").mkdir()
    make(tmp_path / "v1-x", 90)
    make(tmp_path / "other", 99)
    assert checkpoint.latest_of_runs(tmp_path) == old
    at_once = make(tmp_path / "v2-w", 20)
    assert checkpoint.latest_of_runs(tmp_path) == old
    shutil.rmtree(old)
    assert checkpoint.latest_of_runs(tmp_path) == at_once
    own = make(tmp_path, 3)
    assert checkpoint.latest_of_runs(tmp_path) == own


def test_what_was_said_is_resolved(tmp_path: Path, warnings: list[str]) -> None:
    assert checkpoint.resolve(None, tmp_path) is None
    assert checkpoint.resolve(False, tmp_path) is None
    assert checkpoint.resolve("auto", tmp_path) is None
    path = make(tmp_path, 1)
    assert checkpoint.resolve("auto", tmp_path) == checkpoint.resolve(True, tmp_path) == path
    assert checkpoint.resolve(str(path), "elsewhere") == path
    with pytest.raises(NotFoundError, match="not a directory"):
        checkpoint.resolve(tmp_path / "none", tmp_path)


@pytest.mark.parametrize("said", ["auto", "checkpoint-2"])
def test_the_sizes_alone_are_compared_when_that_is_asked_for(tmp_path: Path, warnings: list[str], said: str) -> None:
    whole, changed = make(tmp_path, 1), make(tmp_path, 2)
    said = said if said == "auto" else str(changed)
    file = changed / "optimizer.pt"
    file.write_text(file.read_text().upper())
    assert checkpoint.resolve(said, tmp_path, fast=True) == changed
    assert checkpoint.latest_of_runs(tmp_path, fast=True) == changed
    assert checkpoint.latest_of_runs(tmp_path) == whole
    file.write_text("")
    assert checkpoint.latest_of_runs(tmp_path, fast=True) == whole
    if said == "auto":
        assert checkpoint.resolve(said, tmp_path, fast=True) == whole
    else:
        with pytest.raises(DataError, match=r"optimizer\.pt has 0 bytes"):
            checkpoint.resolve(said, tmp_path, fast=True)


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    checkpoint.rotate(tmp_path, None)
    checkpoint.rotate(tmp_path / "none", 1)
    assert len(checkpoint.committed(tmp_path)) == 4
    checkpoint.rotate(tmp_path, 2, [tmp_path / "checkpoint-1", None])
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["checkpoint-1", "checkpoint-4"]
    checkpoint.rotate(tmp_path, 1, [tmp_path / "checkpoint-1"])
    assert len(checkpoint.committed(tmp_path)) == 2
    (tmp_path / "checkpoint-99").mkdir()
    checkpoint.rotate(tmp_path, 1)
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["checkpoint-4"]
    assert (tmp_path / "checkpoint-99").exists()


def test_the_disk_is_asked_before_a_second_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = storage.size_bytes(make(tmp_path, 1))
    monkeypatch.setattr(storage, "free_bytes", lambda path: int(1.1 * size))
    with pytest.raises(DiskError, match="No space left"):
        make(tmp_path, 2)
    monkeypatch.setattr(storage, "free_bytes", lambda path: int(1.3 * size))
    make(tmp_path, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_that_is_not_finite_is_saved(value: float) -> None:
    bad = torch.tensor([0.0, value])
    fine = [("a", torch.ones(2)), ("b", torch.ones(2, dtype=torch.int64))]
    checkpoint.check_finite(fine)
    with pytest.raises(InternalError, match="weight holds NaN") as caught:
        checkpoint.check_finite([*fine, ("weight", bad)], "checkpoint-3")
    assert "checkpoint-3" in str(caught.value)
