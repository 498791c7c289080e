"""What was typed after `--dataset`, read: `[HF::|MS::]{name | hub id | path}[:subset/subset][#rows]`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from swift.arguments.aliases import current_name
from swift.datasets import DATASETS, DatasetRecord, find_by_hub_id
from swift.datasets.read import READERS
from swift.errors import NotFoundError, UnknownNameError, UsageError
from swift.registry import unknown

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class DatasetSpec:
    """One data set to read; exactly one of `files`, `record` and `hub_id` is set.

    Attributes:
        text: as typed, for messages.
        files: local data files, read one after another.
        record: a row of the registry.
        hub_id: an id that no row has.
        subsets: as typed; () means the default.
        sample: how many rows to draw, None means each once.
        use_hf: Hugging Face (True), ModelScope (False), or what `USE_HF` says (None).
    """

    text: str
    files: tuple[Path, ...] = ()
    record: DatasetRecord | None = None
    hub_id: str | None = None
    subsets: tuple[str, ...] = ()
    sample: int | None = None
    use_hf: bool | None = None


def parse_spec(text: str) -> DatasetSpec:
    """Read one data set as typed. What exists on disk is a file before it is anything else.

    Raises:
        UsageError: the number of rows is none, a file is given a subset, or the text is a URL.
        UnknownNameError: no registered data set is called that.
        NotFoundError: it looks like a path and nothing is there.
    """
    use_hf, rest = _split_hub(text)
    if use_hf is None and Path(rest).expanduser().is_file():
        return DatasetSpec(text, files=(Path(rest).expanduser(),))
    rest, sample = _split_sample(text, rest)
    if use_hf is None and Path(rest).expanduser().is_file():
        return DatasetSpec(text, files=(Path(rest).expanduser(),), sample=sample)
    if re.match(r"\w+://", rest):
        raise UsageError("USAGE-02", f"--dataset {text}: a URL is not fetched", fix="download it and give its path")
    name, _, subset_text = rest.partition(":")
    subsets = tuple(part for part in subset_text.split("/") if part)
    if current_name("dataset", name) != name:
        now = parse_spec(current_name("dataset", name))
        return DatasetSpec(
            text, record=now.record, subsets=subsets or now.subsets, sample=sample or now.sample, use_hf=use_hf
        )
    record = DATASETS[name] if name in DATASETS else find_by_hub_id(name)
    if record is not None:
        return DatasetSpec(text, record=record, subsets=subsets, sample=sample, use_hf=use_hf)
    path = Path(name).expanduser()
    if use_hf is None and path.exists():
        return DatasetSpec(text, files=_files(text, path, subsets), sample=sample)
    if not HUB_ID.fullmatch(name) or (use_hf is None and path.suffix in READERS):
        raise _missing(text, name)
    return DatasetSpec(text, hub_id=name, subsets=subsets, sample=sample, use_hf=use_hf)


def absolute_spec(text: str) -> str:
    """`text` with a file's path made absolute, so that it means the same from everywhere; anything else as it is."""
    path, mark, sample = (text, "", "") if Path(text).expanduser().is_file() else text.rpartition("#")
    file = Path(path).expanduser()
    return f"{file.resolve()}{mark}{sample}" if path and file.is_file() else text


def _split_hub(text: str) -> tuple[bool | None, str]:
    for prefix, use_hf in (("hf::", True), ("ms::", False)):
        if text.lower().startswith(prefix):
            return use_hf, text[len(prefix) :]
    return None, text


def _split_sample(text: str, rest: str) -> tuple[str, int | None]:
    before, mark, number = rest.rpartition("#")
    if not mark:
        return rest, None
    if not number.isascii() or not number.isdigit() or int(number) == 0:
        raise UsageError(
            "USAGE-02", f"--dataset {text}: {number!r} is not a number of rows", fix=f"for instance {before}#500"
        )
    return before, int(number)


def _files(text: str, path: Path, subsets: tuple[str, ...]) -> tuple[Path, ...]:
    if path.is_dir():
        found = tuple(sorted(p for p in path.iterdir() if p.suffix.lower() in READERS and p.is_file()))
        if subsets or not found:
            why = f"a directory is read for its {', '.join(READERS)} files"
            raise NotFoundError("FOUND-01", f"--dataset {text}: no data file is there", why=why)
        return found
    raise UsageError("USAGE-02", f"--dataset {text}: a file has no subsets", fix=f"--dataset {path}")


def _missing(text: str, name: str) -> UnknownNameError | NotFoundError:
    path = Path(name)
    if path.suffix.lower() not in READERS and "/" not in name:
        return unknown("dataset", name, DATASETS)
    folder = path.expanduser().parent
    nearby = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, nearby, 3)
    fix = f"did you mean {', '.join(str(folder / n) for n in near)}?" if near else f"there is no directory {folder}"
    return NotFoundError(
        "FOUND-01", f"--dataset {text}: {name} does not exist", fix=fix if near or not folder.is_dir() else None
    )
