"""What was typed after `--dataset`, read: `[HF::|MS::]{name | hub id | path}[:subset/subset][#rows][@share]`."""

from __future__ import annotations

import difflib
import glob
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from swift.arguments.aliases import current_name
from swift.datasets import DATASETS, DatasetRecord, find_by_hub_id
from swift.datasets.rows import ENDINGS, split_ending
from swift.errors import NotFoundError, UnknownNameError, UsageError
from swift.registry import unknown

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w][\w.-]*")
WILD = re.compile(r"[*?[]")
NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "data_report.json")
"""Files beside the data of a directory, as `datasets` and hubs leave them."""


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
        share: its part of a mix, None where nothing was said.
        use_hf: Hugging Face (True), ModelScope (False), or what `USE_HF` says (None).
    """

    text: str
    files: tuple[Path, ...] = ()
    record: DatasetRecord | None = None
    hub_id: str | None = None
    subsets: tuple[str, ...] = ()
    sample: int | None = None
    share: float | None = None
    use_hf: bool | None = None


def parse_spec(text: str) -> DatasetSpec:
    """Read one data set as typed. What exists on disk is a file before it is anything else.

    Raises:
        UsageError: the number of rows is none, a file is given a subset, or the text is a URL.
        UnknownNameError: no registered data set is called that.
        NotFoundError: it looks like a path and nothing is there.
    """
    use_hf, rest = _split_hub(text)
    files, share, sample = use_hf is None, None, None
    if not (files and _is_there(rest)):
        rest, share = _split_share(text, rest)
    if not (files and _is_there(rest)):
        rest, sample = _split_sample(text, rest)
    if files and _is_there(rest):
        found = _files(text, Path(rest).expanduser(), ()) if Path(rest).expanduser().is_dir() else None
        return DatasetSpec(text, files=found or (Path(rest).expanduser(),), sample=sample, share=share)
    if re.match(r"\w+://", rest):
        raise UsageError("USAGE-02", f"--dataset {text}: a URL is not fetched", fix="download it and give its path")
    name, _, subset_text = rest.partition(":")
    subsets = tuple(part for part in subset_text.split("/") if part)
    if current_name("dataset", name) != name:
        now = parse_spec(current_name("dataset", name))
        return replace(now, text=text, subsets=subsets or now.subsets, sample=sample or now.sample, share=share)
    record = DATASETS[name] if name in DATASETS else find_by_hub_id(name)
    if record is not None:
        return DatasetSpec(text, record=record, subsets=subsets, sample=sample, share=share, use_hf=use_hf)
    path = Path(name).expanduser()
    if files and (os.path.exists(path) or WILD.search(name)):
        return DatasetSpec(text, files=_files(text, path, subsets), sample=sample, share=share)
    if not HUB_ID.fullmatch(name) or (files and split_ending(name)[0]):
        raise _missing(text, name)
    return DatasetSpec(text, hub_id=name, subsets=subsets, sample=sample, share=share, use_hf=use_hf)


def absolute_spec(text: str) -> str:
    """`text` with a file's path made absolute, so that it means the same from everywhere; anything else as it is."""
    if _split_hub(text)[0] is not None:
        return text
    shareless = text.rpartition("@")[0]
    for path in dict.fromkeys((text, shareless, text.rpartition("#")[0], shareless.rpartition("#")[0])):
        if path and _is_there(path):
            return f"{Path(path).expanduser().resolve()}{text[len(path) :]}"
    if WILD.search(text) and "://" not in text:
        return str(Path(text).expanduser().absolute())
    return text


def _is_there(text: str) -> bool:
    """Whether it is a file, or a directory that no registered name hides."""
    path = os.path.expanduser(text)  # os.path says False of a name that is too long, pathlib raises
    return os.path.isfile(path) or (os.path.isdir(path) and text not in DATASETS)


def _split_hub(text: str) -> tuple[bool | None, str]:
    for prefix, use_hf in (("hf::", True), ("ms::", False)):
        if text.lower().startswith(prefix):
            return use_hf, text[len(prefix) :]
    return None, text


def _split_share(text: str, rest: str) -> tuple[str, float | None]:
    before, mark, number = rest.rpartition("@")
    if not mark:
        return rest, None
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise UsageError("USAGE-02", f"--dataset {text}: {number!r} is not a share", fix=f"for instance {before}@0.3")
    return before, share


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
    """The data files of a directory or a pattern, in the order of their names."""
    if path.is_file():
        raise UsageError("USAGE-02", f"--dataset {text}: a file has no subsets", fix=f"--dataset {path}")
    if not path.is_dir():
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        found, why = [p for p in found if split_ending(p.name)[0]], f"no data file is called {path}"
        if subsets:
            raise UsageError("USAGE-02", f"--dataset {text}: a pattern has no subsets", fix=f"--dataset '{path}'")
    else:
        found, why = _files_in(path, subsets), f"a directory is read for its {', '.join(ENDINGS)} files"
    if not found:
        raise NotFoundError("FOUND-01", f"--dataset {text}: no data file is there", why=why)
    return tuple(found)


def _files_in(directory: Path, subsets: tuple[str, ...]) -> list[Path]:
    """Its own data files, else those below it; text files only where there is nothing else.

    A subset is a directory, or what the names of files begin with, such as `train` for `data/train-00000.parquet`.
    """
    found = [] if subsets else _data(directory.iterdir())
    if found:
        return found
    below = _data(p for p in directory.rglob("*") if not any(part.startswith(".") for part in _relative(p, directory)))
    return [p for p in below if not subsets or any(_belongs(_relative(p, directory), subset) for subset in subsets)]


def _relative(path: Path, directory: Path) -> tuple[str, ...]:
    return path.relative_to(directory).parts


def _belongs(parts: tuple[str, ...], subset: str) -> bool:
    stem = parts[-1].partition(".")[0]
    return subset in parts[:-1] or stem == subset or stem.startswith((f"{subset}-", f"{subset}_"))


def _data(paths: Iterable[Path]) -> list[Path]:
    data = sorted(p for p in paths if split_ending(p.name)[0] and p.name not in NO_DATA and p.is_file())
    return [p for p in data if split_ending(p.name)[0] != ".txt"] or data


def _missing(text: str, name: str) -> UnknownNameError | NotFoundError:
    path = Path(name)
    if not split_ending(name)[0] and "/" not in name:
        return unknown("dataset", name, DATASETS)
    folder = path.expanduser().parent
    nearby = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, nearby, 3)
    fix = f"did you mean {', '.join(str(folder / n) for n in near)}?" if near else f"there is no directory {folder}"
    return NotFoundError(
        "FOUND-01", f"--dataset {text}: {name} does not exist", fix=fix if near or not folder.is_dir() else None
    )
