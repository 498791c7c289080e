"""The one directory that the studio reads and writes: which paths may be named, and what may be put there."""

from __future__ import annotations

import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swift import storage
from swift.datasets.rows import split_ending
from swift.errors import OutputError, SwiftError, UsageError

STATE = ".swift-studio"
DATA, OUTPUT = "data", "output"
LARGEST_UPLOAD = 512 << 20
KEPT_SECONDS = 24 * 3600  # of an upload that nobody takes
LONGEST_NAME = 80
SHOWN_ROOM = 160
WILD = re.compile(r"[*?[]")
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # what no argument, name or line may hold
MOST_FILES, DEEPEST = 50_000, 5
LOGGED = "logging.jsonl"
NOT_DATA = ("sft_args.json", "manifest.json", "config.json", "adapter_config.json", "configuration.json")
"""Names that mean a run or a model; no uploaded file is called that."""
NOT_ENTERED = ("node_modules", "__pycache__", "site-packages")


@dataclass(frozen=True)
class Workspace:
    """A directory; `root` is absolute and without links."""

    root: Path

    @classmethod
    def at(cls, said: str | None) -> Workspace:
        """The directory that is said, or the current one.

        Raises:
            OutputError: there is none, or nothing can be written there.
        """
        place = Path(said or ".").expanduser().resolve()
        if not place.is_dir():
            raise OutputError("OUTPUT-01", f"--workspace {said} is no directory", fix="mkdir it, or name another")
        found = cls(place)
        storage.make_directory(found.state)
        return found

    @property
    def state(self) -> Path:
        """Where the studio keeps what it needs to know of its jobs."""
        return self.root / STATE

    @property
    def uploads(self) -> Path:
        """Where files lie that were uploaded, until they are taken or refused."""
        return self.state / "uploads"

    def holds(self, text: str) -> bool:
        """Whether what `text` may mean as a path, or as a pattern of paths, is inside, whatever links there are."""
        try:
            place = self.root / Path(text).expanduser()
            found = [place, *(map(Path, glob.glob(str(place), recursive=True)) if WILD.search(text) else ())]
            return all(self._leads_inside(path) for path in found)
        except (OSError, RuntimeError, ValueError):
            return False

    def _leads_inside(self, path: Path) -> bool:
        """Whether a path is inside, and all links below it lead inside too; not where there is too much below."""
        if not path.resolve().is_relative_to(self.root):
            return False
        left = MOST_FILES
        for folder, folders, files in os.walk(path.resolve()):
            entries = [Path(folder, name) for name in (*folders, *files)]
            left -= len(entries)
            links = [entry for entry in entries if entry.is_symlink()]
            if left < 0 or not all(link.resolve().is_relative_to(self.root) for link in links):
                return False
        return True

    def check(self, name: str, text: str) -> list[SwiftError]:
        """What is wrong with a value of an option that may be, or begin with, a path."""
        if FORBIDDEN.search(text):
            return [UsageError("USAGE-02", f"--{name} holds a control character", fix="type plain text")]
        if all(self.holds(part) for part in _paths_in(text)):
            return []
        shown = text if len(text) <= SHOWN_ROOM else f"{text[:SHOWN_ROOM]}…"
        fix = "move it there, or start `swift web-ui --workspace` with a directory that holds it"
        return [UsageError("USAGE-02", f"--{name} {shown!r} is outside the workspace", fix=fix)]

    def relative(self, path: Path) -> str:
        """A path inside as it is typed: from the workspace on."""
        return path.relative_to(self.root).as_posix()

    def take(self, upload: Path | str) -> str:
        """Move a file of data from the uploads in; its path from the workspace on.

        Raises:
            UsageError: it is no upload, has no ending of a data file, or is too large.
        """
        source = Path(upload).resolve()
        if not source.is_relative_to(self.uploads):
            raise UsageError("USAGE-02", f"{source.name!r} was not uploaded")
        try:
            if not split_ending(source.name)[0]:
                fix = "a .jsonl, .json, .csv, .tsv, .parquet or .txt file"
                raise UsageError("USAGE-02", f"{source.name!r} is no data file", fix=fix)
            if source.stat().st_size > LARGEST_UPLOAD:
                what = f"{source.name!r} is larger than {LARGEST_UPLOAD >> 20} MiB"
                raise UsageError("USAGE-02", what, fix="copy it into the workspace and give its path")
            folder = self.root / DATA
            storage.make_directory(folder)
            final = free_name(folder, safe_name(source.name))
            shutil.copyfile(source, final)
        finally:
            source.unlink(missing_ok=True)
            with suppress(OSError):  # other files of the same upload may lie there
                if source.parent != self.uploads:
                    source.parent.rmdir()
        return self.relative(final)

    def forget_uploads(self) -> None:
        """Delete what was uploaded long ago and never taken, as by a tab that was closed too soon."""
        if self.uploads.resolve() != self.uploads:
            return  # a link: what is behind it is not the studio's
        old = time.time() - KEPT_SECONDS
        for path in [*self.uploads.rglob("*")][::-1]:  # what is in a folder before the folder
            with suppress(OSError):  # a folder that is not empty, or somebody was faster
                if path.lstat().st_mtime < old:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def data_files(self) -> list[str]:
        """Files of data to choose from, the newest first."""
        found = [path for path in self.walk() if split_ending(path.name)[0] and not self._is_of_a_run(path)]
        return [self.relative(path) for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)]

    def _is_of_a_run(self, path: Path) -> bool:
        """Whether it is a file that runs and models have, rather than data."""
        return (path.suffix == ".json" and path.parent != self.root / DATA) or path.name == LOGGED

    def walk(self) -> Iterator[Path]:
        """Files a few levels deep, at most so many; nothing hidden, no checkpoints, no links."""
        left, waiting = MOST_FILES, [(self.root, 0)]
        while waiting and left > 0:
            directory, depth = waiting.pop(0)
            try:
                entries = sorted(directory.iterdir())
            except OSError:
                continue
            for entry in entries:
                left -= 1
                if entry.name.startswith(".") or entry.is_symlink() or entry.name in NOT_ENTERED:
                    continue
                if entry.is_file():
                    yield entry
                elif depth < DEEPEST and not (entry.name.startswith("checkpoint-") or (entry / "bin/python").exists()):
                    waiting.append((entry, depth + 1))


def _paths_in(text: str) -> Iterator[str]:
    """Everything in a value that a command may take for a path, as in `HF::a`, `a#50`, `a@0.3`, `a,b`, `{"f": "a"}`."""
    yield text
    for mark in re.finditer(r"[#@:]", text):
        yield text[: mark.start()]
    for part in re.split(r"[\s,;=:'\"{}()]+", text):
        if part.startswith(("/", "~")) or ".." in part.split("/"):
            yield part


def safe_name(name: str) -> str:
    """A file name of letters, digits and `._-` alone, that is neither hidden nor long; its ending is kept."""
    plain = re.sub(r"[^\w.-]+", "_", Path(name).name).lstrip("._-") or "data.jsonl"
    plain = f"upload-{plain}" if plain in NOT_DATA else plain
    stem, dot, ending = plain.partition(".")
    return f"{stem[:LONGEST_NAME]}{dot}{ending[-20:]}"


def free_name(folder: Path, name: str) -> Path:
    """The path of a file that is not there yet: `name`, or with a number behind its stem."""
    stem, dot, ending = name.partition(".")
    found, number = folder / name, 1
    while found.exists():
        number += 1
        found = folder / f"{stem}-{number}{dot}{ending}"
    return found
