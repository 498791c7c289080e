"""Files that are either whole or absent: atomic writes, staged directories, and their verification.

A directory is filled under a hidden name, synced, listed in `manifest.json` with the size and SHA-256 of each file, and
renamed as the last act. Whoever finds the final name therefore finds all of it, whenever the process was killed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from swift.errors import DiskError, OutputError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
STAGE, TRASH, OLD = ".tmp-", ".trash-", ".old-"
HOLDER = ".in-use"
_HELD: set[Path] = set()
NOT_WRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}
# What the writers of torch, safetensors and numpy say when a write fails: seldom why.
NATIVE_WRITE_ERRORS = ("unexpected pos", "iostream error", "PytorchStreamWriter failed", "No space left")
NATIVE_WRITE_ERRORS += ("requested and",)


def write_bytes(path: Path | str, data: bytes, *, private: bool = False) -> None:
    """Put `data` under `path` so that a reader sees the old content or the new one, never a part.

    Args:
        path: the file, replaced when it exists.
        data: all that it will hold.
        private: let only its owner read it.

    Raises:
        DiskError: no space left, or the disk failed; nothing is left behind.
        OutputError: the path cannot be written.
    """
    path = Path(path)
    stage = path.with_name(f"{STAGE}{path.name}-{os.getpid()}")
    try:
        handle = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        stage.replace(path)
        _sync(path.parent)
    except OSError as error:
        if stage.is_file():
            stage.unlink()
        _check_writable(error, path)
        _raise(error, path, len(data))


def make_directory(path: Path | str) -> None:
    """Make a directory and its parents where they are missing.

    Raises:
        DiskError: no space left, or the disk failed.
        OutputError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _check_writable(error, path)
        _raise(error, path)


def write_text(path: Path | str, text: str, *, private: bool = False) -> None:
    """Put `text` under `path`, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_json(path: Path | str, value: Any, *, private: bool = False) -> None:
    """Put `value` under `path` as indented JSON; what JSON cannot hold is written as its `repr`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=repr) + "\n", private=private)


def append_jsonl(path: Path | str, value: Any) -> None:
    """Add `value` as one line to the JSON-lines file `path`, in one write.

    Raises:
        DiskError: no space left, or the disk failed.
    """
    line = (json.dumps(value, ensure_ascii=False, default=repr) + "\n").encode("utf-8")
    try:
        with Path(path).open("ab", buffering=0) as file:
            if file.write(line) != len(line):  # what a disk that has just become full does
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        _raise(error, path, len(line))


def staged_directory(
    final: Path | str, facts: Mapping[str, Any] | None = None, digests: Mapping[str, str] | None = None
) -> StagedDirectory:
    """A directory that appears under its name all at once, when the `with` block ends well.

    The block gets the stage to write into. When it raises, the stage is removed and `final` stays as it was. A `final`
    that exists is replaced.

    Args:
        final: the name it will have; its parent is made when missing.
        facts: what the manifest says besides the files, such as the step.
        digests: SHA-256 by file, for files that were hashed while they were written; it may fill up in the block.

    Raises:
        DiskError: no space left, or the disk failed, while the block wrote or while it was committed.
    """
    return StagedDirectory(final, facts, digests)


class StagedDirectory:
    """The context manager of `staged_directory`."""

    def __init__(
        self, final: Path | str, facts: Mapping[str, Any] | None = None, digests: Mapping[str, str] | None = None
    ) -> None:
        self.final, self.facts, self.digests = Path(final), dict(facts or {}), {} if digests is None else digests
        self.stage = self.final.with_name(f"{STAGE}{self.final.name}-{os.getpid()}")

    def __enter__(self) -> Path:
        shutil.rmtree(self.stage, ignore_errors=True)
        try:
            self.stage.mkdir(parents=True)
        except OSError as error:
            _raise(error, self.final)
        return self.stage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                commit(self.stage, self.final, self.facts, self.digests)
            except OSError as failure:
                self._abandon(failure)
        else:
            self._abandon(error)

    def _abandon(self, error: BaseException) -> NoReturn:
        written = sum(path.stat().st_size for path in _files(self.stage)) if self.stage.is_dir() else 0
        try:
            _raise(error, self.final, written)
        finally:
            shutil.rmtree(self.stage, ignore_errors=True)


def commit(stage: Path, final: Path, facts: Mapping[str, Any], digests: Mapping[str, str] | None = None) -> None:
    """Sync every file of `stage`, write its manifest, and rename it to `final`; a `final` that exists gives way.

    Files whose SHA-256 is in `digests` are not read again.
    """
    for path in [*_files(stage), *_directories(stage)]:
        _sync(path)
    write_manifest(stage, {str(path.relative_to(stage)): path for path in _files(stage)}, facts, digests)
    old = final.with_name(f"{OLD}{final.name}-{os.getpid()}")
    if final.exists():
        final.rename(old)
    stage.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(
    directory: Path, files: Mapping[str, Path], facts: Mapping[str, Any], digests: Mapping[str, str] | None = None
) -> None:
    """Write the manifest of `files`, by name, into `directory`; those whose SHA-256 is in `digests` are not read."""
    listed = {name: _entry(path, (digests or {}).get(name)) for name, path in files.items()}
    write_bytes(directory / MANIFEST, _sealed({"version": MANIFEST_VERSION, **facts, "files": listed}))


def remove(directory: Path | str) -> None:
    """Delete a directory so that a kill midway leaves no half of it under its name.

    Raises:
        DiskError: the disk failed; the directory is there whole, or gone.
    """
    directory = Path(directory)
    trash = directory.with_name(f"{TRASH}{directory.name}-{os.getpid()}")
    shutil.rmtree(trash, ignore_errors=True)
    try:
        directory.rename(trash)
        _sync(trash.parent)
    except OSError as error:
        _raise(error, directory)
    finally:
        shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path | str, only: str | None = None) -> None:
    """Tidy what killed processes left in `parent`: stages and trash go, a directory that was being replaced returns.

    Args:
        parent: the directory that holds them. A process of another machine or container looks killed from here, so it
            has to be `held`, or one that only this user's runs write into.
        only: the name whose remains are tidied, where `parent` is anybody's; None is every name.
    """
    if not Path(parent).is_dir():
        return
    for path in sorted(Path(parent).iterdir()):
        prefix = next((mark for mark in (STAGE, TRASH, OLD) if path.name.startswith(mark)), None)
        name, _, pid = path.name.removeprefix(prefix or "").rpartition("-")
        if prefix is None or only not in (None, name) or not pid.isdigit() or _alive(int(pid)):
            continue
        if prefix == OLD and not path.with_name(name).exists():
            path.rename(path.with_name(name))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def held(directory: Path | str) -> Iterator[None]:
    """Keep every other run out of `directory` inside the block; the system lets go of it when this process ends.

    Raises:
        OutputError: another run of this machine holds it.
    """
    place = Path(directory).resolve()
    if place in _HELD:  # by this process, further up
        yield
        return
    make_directory(place)
    handle = _hold(place / HOLDER, directory)
    _HELD.add(place)
    try:
        yield
    finally:
        _HELD.discard(place)
        (place / HOLDER).unlink(missing_ok=True)
        os.close(handle)


def _hold(path: Path, directory: Path | str) -> int:
    """The open and locked file that says who holds a directory."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode("ascii", "replace").strip() or "of another process"
            os.close(handle)
            fix = "wait for it, or name another --output_dir"
            raise OutputError("OUTPUT-01", f"{directory} is in use by pid {holder}", fix=fix) from None
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)  # who held it took it away meanwhile


def read_manifest(directory: Path | str) -> dict[str, Any]:
    """The manifest of a committed directory.

    Raises:
        ValueError: it is missing or damaged; the message says which.
    """
    path = Path(directory) / MANIFEST
    try:
        data = path.read_bytes()
        body = json.loads(data)
    except OSError as error:
        raise ValueError(f"{MANIFEST} is missing") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is not valid JSON") from error
    if not isinstance(body, dict) or not isinstance(body.get("files"), dict):
        raise ValueError(f"{MANIFEST} lists no files")
    body.pop("sha256", None)
    if _sealed(body) != data:
        raise ValueError(f"{MANIFEST} was changed after it was written")
    return body


def verify(directory: Path | str, *, fast: bool = False, suffixes: tuple[str, ...] = ("",)) -> list[str]:
    """What is wrong with a committed directory, one sentence each; empty when it is whole.

    Files that the manifest does not list are ignored: people add results to a checkpoint.

    Args:
        directory: the directory to check.
        fast: compare sizes only, not SHA-256.
        suffixes: how the names of the files to look at end.
    """
    directory = Path(directory)
    try:
        files = read_manifest(directory)["files"]
    except ValueError as error:
        return [str(error)]
    listed = {name: entry for name, entry in files.items() if name.endswith(suffixes)}
    return [f"{name} {fault}" for name, entry in listed.items() if (fault := _fault(directory / name, entry, fast))]


def rewrite(directory: Path | str, name: str, data: bytes) -> None:
    """Write one file of a directory; if the directory is committed, its manifest is made to say so."""
    directory = Path(directory)
    write_bytes(directory / name, data)
    if (directory / MANIFEST).is_file():
        body = read_manifest(directory)
        body["files"][name] = _entry(directory / name)
        write_bytes(directory / MANIFEST, _sealed(body))


def size_bytes(directory: Path | str) -> int:
    """How much the files of a committed directory take, from its manifest."""
    return sum(int(entry["bytes"]) for entry in read_manifest(directory)["files"].values())


def free_bytes(path: Path | str) -> int:
    """What is free for us on the volume of `path`, which need not exist yet, nor be a name that can."""
    path = Path(path).absolute()
    while not _exists(path):
        path = path.parent
    return shutil.disk_usage(path).free


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def check_free(path: Path | str, needed_bytes: int) -> None:
    """Raise DiskError unless the volume of `path` has `needed_bytes` free."""
    free = free_bytes(path)
    if free < needed_bytes:
        raise _full(path, needed_bytes, free)


def disk_error(error: BaseException, path: Path | str, needed_bytes: int | None = None) -> DiskError | None:
    """The DiskError for an `error` that came from a full or failing disk, None for any other."""
    for cause in _chain(error):
        if isinstance(cause, DiskError):
            if cause.__cause__ is cause.__context__ is None:  # what would not fit was counted, and nothing written
                return cause
            continue
        number = cause.errno if isinstance(cause, OSError) else _number_told(cause)
        if number in (errno.EIO, errno.EFBIG):
            return DiskError("DISK-01", f"{path}: {os.strerror(number)}", fix="choose another --output_dir")
        if number in (errno.ENOSPC, errno.EDQUOT) or any(text in str(cause) for text in NATIVE_WRITE_ERRORS):
            return _full(path, needed_bytes, free_bytes(path))
    return error if isinstance(error, DiskError) else None


def _number_told(error: BaseException) -> int | None:
    """The system's number of an error that Rust's writers (safetensors, tokenizers) tell in words."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def _check_writable(error: OSError, path: Path | str) -> None:
    """Raise OutputError when the `error` says that nothing can be written to `path`."""
    if error.errno in NOT_WRITABLE:
        what = f"{path} cannot be written: {os.strerror(error.errno)}"
        raise OutputError("OUTPUT-01", what, fix="give another directory") from error


def _raise(error: BaseException, path: Path | str, needed_bytes: int | None = None) -> NoReturn:
    """Raise `error` again, or the DiskError that it means."""
    full = disk_error(error, path, needed_bytes)
    if full is None or full is error:
        raise error
    raise full from error


def _full(path: Path | str, needed: int | None, free: int) -> DiskError:
    need = f"{needed:,} bytes are needed, " if needed else ""
    fix = "free some space, lower --save_total_limit, or choose another --output_dir"
    return DiskError("DISK-01", f"No space left for {path}", why=f"{need}{free:,} bytes are free", fix=fix)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _fault(path: Path, entry: Mapping[str, Any], fast: bool) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes instead of {entry['bytes']}"
    return None if fast or _sha256(path) == entry["sha256"] else "was changed after it was written"


def _entry(path: Path, digest: str | None = None) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest or _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(body: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest; its own digest is in it, so that a flipped byte shows."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=2, sort_keys=True) + "\n").encode()


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _directories(directory: Path) -> list[Path]:
    return [*(path for path in directory.rglob("*") if path.is_dir()), directory]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
