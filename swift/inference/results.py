"""Answers as they come: kept, written line by line, and compared with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

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
    """

    def __init__(self, path: Path | None, system: str | None = None) -> None:
        self.path, self.system = path, system
        self.records: list[dict[str, Any]] = []

    def add(self, query: str, response: str, history: History, system: str | None = None) -> dict[str, Any]:
        """Keep and write one answer; `history` is the one before it."""
        return self._keep({"query": query, "response": response, "history": history}, system)

    def add_row(self, messages: Sequence[Mapping[str, Any]], response: str, label: str | None = None) -> dict[str, Any]:
        """Keep and write the answer to a row; the `label` is its own last answer, where nobody says another."""
        rounds = messages_to_history(messages)
        record = {"query": rounds["query"] or "", "response": response, "history": rounds["history"]}
        if rounds["response"] is not None:
            record["label"] = rounds["response"] if label is None else label
        return self._keep(record, rounds["system"])

    def metrics(self) -> dict[str, float]:
        """How near the answers are to their labels; {} without labels."""
        pairs = [(record["response"], record["label"]) for record in self.records if "label" in record]
        return text_metrics(*zip(*pairs, strict=True)) if pairs else {}

    def report(self) -> dict[str, Any]:
        """`result`, all answers, and `metrics` where there are labels."""
        if self.path is not None and self.records:
            logger.info(f"answers: {self.path}")
        metrics = self.metrics()
        return {"result": self.records, **({"metrics": metrics} if metrics else {})}

    def _keep(self, record: dict[str, Any], system: str | None) -> dict[str, Any]:
        record = {"system": self.system if system is None else system, **record}
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
        path = next(directory / name for name in names if not (directory / name).exists())
        path.touch(exist_ok=False)
    except OSError as error:
        if said:
            raise OutputError("OUTPUT-01", f"--result_dir {said} cannot be written: {error.strerror}") from error
        logger.warning(f"{directory} cannot be written: answers are not saved; --result_dir chooses another place")
        return None
    path.unlink()
    return path
