"""Files and directories are whole or absent, and damage shows."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from swift import storage
from swift.errors import DiskError, OutputError


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make(directory: Path, **files: str) -> Path:
    with storage.staged_directory(directory, {"step": 7}) as stage:
        for name, text in files.items():
            path = stage / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return directory


def test_a_written_file_is_whole_and_private_when_asked(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"é": [1, Path("x")]}, private=True)
    assert json.loads((tmp_path / "a.json").read_text()) == {"é": [1, repr(Path("x"))]}
    assert (tmp_path / "a.json").stat().st_mode & 0o077 == 0
    storage.write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DiskError, match="No space left") as caught:
        storage.write_text(tmp_path / "a", "new")
    assert "3 bytes are needed" in str(caught.value.why)
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_lines_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ({"a": 1}, {"b": "你"}):
        storage.append_jsonl(tmp_path / "log", value)
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == [{"a": 1}, {"b": "你"}]
    monkeypatch.setattr(Path, "open", no_space)
    with pytest.raises(DiskError, match="No space left"):
        storage.append_jsonl(tmp_path / "log", {})


def test_an_unwritable_path_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.write_text(tmp_path / "none" / "a", "x")
    with pytest.raises(IsADirectoryError):
        storage.append_jsonl(tmp_path, {})
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), storage.staged_directory(tmp_path / "file" / "final"):
        pass


def test_a_directory_appears_when_its_block_ends(tmp_path: Path) -> None:
    final = tmp_path / "runs" / "final"
    with storage.staged_directory(final) as stage:
        (stage / "a").write_text("1")
        assert not final.exists()
        assert stage.name.startswith(".tmp-final-")
    assert (final / "a").read_text() == "1"
    assert storage.verify(final) == []
    assert [path.name for path in final.parent.iterdir()] == ["final"]


def test_a_block_that_raises_leaves_what_was(tmp_path: Path) -> None:
    final = make(tmp_path / "final", a="old")
    with pytest.raises(ZeroDivisionError), storage.staged_directory(final) as stage:
        (stage / "a").write_text(str(1 // 0))
    assert (final / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_an_existing_directory_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "final", a="old", b="old")
    make(tmp_path / "final", a="new")
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == ["a", "manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_while_committing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    make(tmp_path / "old", a="1")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "rename")}[call], no_space)
    with pytest.raises(DiskError, match="No space left"):
        make(tmp_path / "new", a="1")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_all_is_on_the_disk_before_its_name_and_the_name_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        sync(handle)
        done.append(os.readlink(f"/proc/self/fd/{handle}"))

    def renamed(path: Path, to: Path) -> Path:
        done.append("named")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    make(tmp_path / "final", a="1", sub__b="2")
    stage = tmp_path / f".tmp-final-{os.getpid()}"
    manifest = stage / f".tmp-manifest.json-{os.getpid()}"
    before, after = done[: done.index("named")], done[done.index("named") + 1 :]
    assert set(before) == {str(path) for path in (stage / "a", stage / "sub" / "b", stage / "sub", stage, manifest)}
    assert before.index(str(manifest)) < len(before) - 1 - before[::-1].index(str(stage))  # its name is synced too
    assert after == [str(tmp_path)]


def test_a_full_disk_names_the_directory_that_was_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(DiskError, match=r"error\[DISK-01\]: No space left for [^\n]*/final\n"):
        make(tmp_path / "final", a="1")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_the_disk_s_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, storage.staged_directory(tmp_path / "final"):
        storage.append_jsonl(tmp_path / "no" / "such" / "file", {})
    assert caught.value.__cause__ is None
    outer, inner = storage.staged_directory(tmp_path / "outer"), storage.staged_directory(tmp_path / "inner")
    with pytest.raises(DiskError, match="odd"), outer, inner:
        raise DiskError("DISK-01", "odd")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_committed_directory_is_rewritten(tmp_path: Path) -> None:
    final = make(tmp_path / "final", a="1")
    storage.rewrite(final, "a", b"22")
    assert storage.verify(final) == []
    assert storage.size_bytes(final) == 2
    (tmp_path / "plain").mkdir()
    storage.rewrite(tmp_path / "plain", "a", b"22")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left"),
        (OSError(errno.EDQUOT, "x"), "No space left"),
        (OSError(errno.EIO, "x"), "Input/output error"),
        (RuntimeError("unexpected pos 556736 vs 556628"), "No space left"),
        (RuntimeError("basic_ios::clear: iostream error"), "No space left"),
        (ValueError("No space left on device (os error 28)"), "No space left"),
        (ValueError("Error while serializing: I/O error: Input/output error (os error 5)"), "Input/output error"),
    ],
)
def test_writers_of_others_fail_in_plain_words(tmp_path: Path, error: Exception, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text("12345")
        raise error

    with pytest.raises(DiskError, match=text), storage.staged_directory(tmp_path / "final") as stage:
        write(stage / "a")
    assert list(tmp_path.iterdir()) == []


def test_disk_errors_are_told_from_others(tmp_path: Path) -> None:
    assert storage.disk_error(ValueError("x"), tmp_path) is None
    assert storage.disk_error(PermissionError(errno.EACCES, "x"), tmp_path) is None
    known = DiskError("DISK-01", "x")
    assert storage.disk_error(known, tmp_path) is known
    wrapped = ValueError("x")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x")
    assert "5 bytes are needed" in str(storage.disk_error(wrapped, tmp_path, 5))


def test_free_space(tmp_path: Path) -> None:
    for place in ("not/there", "x" * 300, f"{'x' * 300}/y", "a\0b"):
        assert storage.free_bytes(tmp_path / place) == pytest.approx(storage.free_bytes(tmp_path), rel=0.1)
    storage.check_free(tmp_path, 1)
    with pytest.raises(DiskError, match="No space left"):
        storage.check_free(tmp_path, 1 << 60)


def test_what_is_needed_is_told_from_inside_a_stage_too(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, storage.staged_directory(tmp_path / "final") as stage:
        storage.check_free(stage, 1 << 60)
    assert f"{1 << 60:,} bytes are needed" in str(caught.value.why)
    assert not list(tmp_path.iterdir())


def test_a_manifest_says_what_was_said(tmp_path: Path) -> None:
    final = make(tmp_path / "final", a="12345", sub__b="67")
    manifest = storage.read_manifest(final)
    assert manifest["step"] == 7
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {"a": 5, "sub/b": 2}
    assert storage.size_bytes(final) == 7


DAMAGE = {
    "removed": (lambda path: path.unlink(), "a is missing"),
    "emptied": (lambda path: path.write_bytes(b""), "a has 0 bytes instead of 5"),
    "cut": (lambda path: path.write_bytes(b"1234"), "a has 4 bytes instead of 5"),
    "flipped": (lambda path: path.write_bytes(b"12346"), "a was changed after it was written"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_a_file_shows(tmp_path: Path, kind: str) -> None:
    final = make(tmp_path / "final", a="12345", b="x")
    damage, words = DAMAGE[kind]
    damage(final / "a")
    assert storage.verify(final) == [words]
    assert storage.verify(final, fast=True) == ([] if kind == "flipped" else [words])


def test_every_flipped_byte_of_a_manifest_shows(tmp_path: Path) -> None:
    path = make(tmp_path / "final", a="12345") / "manifest.json"
    sound = path.read_bytes()
    for position in range(len(sound)):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        assert storage.verify(tmp_path / "final"), f"byte {position}"
    path.write_bytes(sound)
    assert storage.verify(tmp_path / "final") == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 1}', "[" * 100_000])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    final = make(tmp_path / "final", a="1")
    (final / "manifest.json").write_text(text)
    assert len(storage.verify(final)) == 1
    (final / "manifest.json").unlink()
    assert storage.verify(final) == ["manifest.json is missing"]


def test_files_that_people_add_do_no_harm(tmp_path: Path) -> None:
    final = make(tmp_path / "final", a="1")
    (final / "results.jsonl").write_text("{}")
    assert storage.verify(final) == []


@pytest.mark.parametrize(("call", "left"), [("fsync", []), ("rename", ["final"])])
def test_a_disk_that_fails_while_something_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, left: list[str]
) -> None:
    final = make(tmp_path / "final", a="1")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "rename")}[call], no_space)
    with pytest.raises(DiskError, match="No space left"):
        storage.remove(final)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == left
    assert not left or storage.verify(final) == []


def test_removal_and_sweeping(tmp_path: Path) -> None:
    storage.remove(make(tmp_path / "gone", a="1"))
    assert list(tmp_path.iterdir()) == []
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".tmp-a-{dead.pid}", f".trash-b-{dead.pid}", f".old-c-{dead.pid}", f".old-d-{dead.pid}"):
        make(tmp_path / name, a="1")
    make(tmp_path / "d", a="2")
    make(tmp_path / f".tmp-mine-{os.getpid()}", a="1")
    (tmp_path / f".tmp-file-{dead.pid}").touch()
    (tmp_path / ".tmp-other").touch()
    storage.sweep(tmp_path)
    storage.sweep(tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".tmp-mine-{os.getpid()}", ".tmp-other", "c", "d"]
    assert (tmp_path / "d" / "a").read_text() == "2"


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from swift import storage
    left = int(sys.argv[2])
    def dying(call):
        def run(*args, **kwargs):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return run
    for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, dying(getattr(os, name)))
    with storage.staged_directory(Path(sys.argv[1]) / "final") as stage:
        (stage / "a").write_text("new")
        (stage / "b").write_text("new")
"""


def test_killed_at_any_point_a_directory_is_old_or_new(tmp_path: Path) -> None:
    survived, kept = 0, set()
    for point in range(60):
        if not (tmp_path / "final").exists():
            make(tmp_path / "final", a="old")
        code = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(point)]
        done = subprocess.run(code, capture_output=True, text=True)
        storage.sweep(tmp_path)
        assert storage.verify(tmp_path / "final") == [], point
        kept.add((tmp_path / "final" / "a").read_text())
        assert [path.name for path in tmp_path.iterdir()] == ["final"]
        if done.returncode == 0:
            survived = point
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        storage.remove(tmp_path / "final")
    assert survived > 8
    assert kept == {"old", "new"}


HOLDER = """
import sys, time
from swift import storage
with storage.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_is_of_one_run_at_a_time(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"in use by pid {other.pid}") as caught, storage.held(tmp_path / "run"):
            pass
        assert caught.value.exit_code == 73
    finally:
        other.kill()
        other.wait()
    assert (tmp_path / "run" / storage.HOLDER).is_file()  # it had no time to tidy up, and yet holds nobody off
    with storage.held(tmp_path / "run"), storage.held(tmp_path / "run" / ".." / "run"):
        assert (tmp_path / "run" / storage.HOLDER).read_text() == f"{os.getpid()}\n"
    assert list((tmp_path / "run").iterdir()) == []
