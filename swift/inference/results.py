"""Answers as they come: kept, written line by line, and compared with their labels."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from swift import storage
from swift.errors import DiskError, OutputError
from swift.inference.metrics import text_metrics
from swift.inference.prompt import History, messages_to_history
from swift.log import get_logger

logger = get_logger()


class Results:
    """Answers as dicts of system, query, response, history (the one before) and, where there is one, label.

    Args:
        path: the jsonl file to which each one is added at once; None writes nothing. When the disk is full it is
            renamed to `<name>.part`, with whole lines.
        system: the system prompt of answers that name none.
        lock: what `begin_rows` or `find_unfinished` gave: it keeps other runs away from the file until the end of a
            `with` block around this.
    """

    def __init__(self, path: Path | None, system: str | None = None, lock: IO[str] | None = None) -> None:
        self.path, self.system, self.lock = path, system, lock
        self.records: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Answers are being given."""
        return self

    def __exit__(self, *_: object) -> None:
        """No more of them."""
        if self.lock is not None:
            self.lock.close()

    def add(self, query: str, response: str, history: History, system: str | None = None) -> dict[str, Any]:
        """Keep and write one answer; `history` is the one before it."""
        return self._keep({"system": None, "query": query, "response": response, "history": history}, system)

    def add_row(self, messages: Sequence[Mapping[str, Any]], response: str, label: str | None = None) -> dict[str, Any]:
        """Keep and write the answer to a row; the `label` is its own last answer, where nobody says another."""
        record = self.record_of(messages, response, label)
        return self._keep(record, record["system"])

    def record_of(self, messages: Sequence[Mapping[str, Any]], response: str, label: str | None) -> dict[str, Any]:
        """What is kept of a row and its answer."""
        rounds = messages_to_history(messages)
        system = self.system if rounds["system"] is None else rounds["system"]
        record = {"system": system, "query": rounds["query"] or "", "response": response, "history": rounds["history"]}
        if rounds["response"] is not None:
            record["label"] = rounds["response"] if label is None else label
        return record

    def add_back(self, records: Sequence[dict[str, Any]]) -> None:
        """Keep answers that are in the file already."""
        self.records += records

    def metrics(self) -> dict[str, float]:
        """How near the answers are to their labels; {} without labels."""
        pairs = [(record["response"], record["label"]) for record in self.records if "label" in record]
        return text_metrics(*zip(*pairs, strict=True)) if pairs else {}

    def report(self) -> dict[str, Any]:
        """`result`, all answers, and `metrics` where there are labels."""
        if self.path is not None and self.records:
            note_of(self.path).unlink(missing_ok=True)
            logger.info(f"answers: {self.path}")
        metrics = self.metrics()
        return {"result": self.records, **({"metrics": metrics} if metrics else {})}

    def _keep(self, record: dict[str, Any], system: str | None) -> dict[str, Any]:
        record = {**record, "system": self.system if system is None else system}
        self.records.append(record)
        if self.path is not None:
            self._write(self.path, record)
        return record

    def _write(self, path: Path, record: dict[str, Any]) -> None:
        whole = path.stat().st_size if path.exists() else 0
        try:
            storage.append_jsonl(path, record)
        except DiskError as error:
            fix = "free some space, or choose another --result_dir"
            if path.exists():
                with path.open("ab") as file:
                    file.truncate(whole)
                part = path.rename(path.with_name(f"{path.name}.part"))
                fix += f"; the answers so far: {part}"
            raise DiskError(error.code, error.what, why=error.why, fix=fix) from error


def open_results(said: str | None, home: Path) -> Path | None:
    """The path of a new `<time>.jsonl` in `said`, else in `infer_result` of `home`.

    None, with a warning, when nobody chose the directory and it cannot be written.

    Raises:
        OutputError: the directory that was said cannot be written.
    """
    directory = Path(said) if said else home / "infer_result"
    stem = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = [f"{stem}{suffix}.jsonl" for suffix in ("", *(f"-{k}" for k in range(2, 100)))]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        paths = [directory / name for name in names]
        path = next(path for path in paths if not path.exists() and not note_of(path).exists())
        path.touch(exist_ok=False)
    except OSError as error:
        if said:
            raise OutputError("OUTPUT-01", f"--result_dir {said} cannot be written: {error.strerror}") from error
        logger.warning(f"{directory} cannot be written: answers are not saved; --result_dir chooses another place")
        return None
    path.unlink()
    return path


def note_of(path: Path) -> Path:
    """The file that stands beside answers while some are missing: it holds the settings that they are given with."""
    return path.with_suffix(".unfinished.json")


def begin_rows(path: Path, settings: Mapping[str, Any]) -> IO[str]:
    """Note beside `path` that not all rows are answered yet, and how they are answered; the note, open and locked.

    Raises:
        OutputError: another run has just begun to write there.
    """
    try:
        note = note_of(path).open("x", encoding="utf-8")
    except FileExistsError:
        raise _in_use(path) from None
    _lock(note, path)
    json.dump(settings, note, ensure_ascii=False, indent=2)
    note.flush()
    os.fsync(note.fileno())
    return note


def find_unfinished(directory: Path, settings: Mapping[str, Any]) -> tuple[Path, list[dict[str, Any]], IO[str]] | None:
    """The newest file of answers in `directory` that a run with the same settings left unfinished.

    Returns:
        the file, what is in it, and its note, open and locked; a last line that was cut is taken off.

    Raises:
        OutputError: that run is still at work.
    """
    wanted = json.loads(json.dumps(settings))
    for note in sorted(directory.glob("*.unfinished.json"), reverse=True):
        path = note.with_name(note.name.replace(".unfinished.json", ".jsonl"))
        part = path.with_name(f"{path.name}.part")
        if not _says(note, wanted):
            continue
        handle = note.open(encoding="utf-8")
        _lock(handle, path)
        if part.exists() and not path.exists():
            part.rename(path)
        if note.exists() and path.exists():
            return path, _whole_lines(path), handle
        handle.close()
    return None


def _says(note: Path, wanted: Any) -> bool:
    try:
        return json.loads(note.read_text(encoding="utf-8")) == wanted
    except (FileNotFoundError, ValueError):  # gone, or just begun
        return False


def _lock(note: IO[str], path: Path) -> None:
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note.close()
        raise _in_use(path) from None
    except OSError as error:  # a file system without locks
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _in_use(path: Path) -> OutputError:
    what = f"another run of the same settings is writing its answers to {path}"
    return OutputError("OUTPUT-01", what, fix="wait for it, or name another --result_dir")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
