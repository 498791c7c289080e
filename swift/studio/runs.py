"""The training runs of a workspace, whether the studio or a command line started them, and their checkpoints."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift import storage
from swift.arguments.fields import options_of
from swift.arguments.sft import SftArguments
from swift.errors import NotFoundError, UsageError
from swift.storage import HOLDER
from swift.studio.curves import Log, read_log
from swift.studio.jobs import Job, Jobs, State, began_at
from swift.studio.workspace import FORBIDDEN, LOGGED, OUTPUT, Workspace

SAID = "sft_args.json"
TRAINING = ("sft", "pt", "rlhf")
SIGNS = {"rlhf": "rlhf_type", "pt": "isolate_documents"}
"""By command, an option that only its runs have."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
NAME = re.compile(r"[\w][\w.-]{0,63}")
KEPT_SECONDS = 2.0
CLOCK_SECONDS = 2.0  # by which the times of a file and of a process may differ
NOT_COMPARED = ("output_dir", "logging_dir", "add_output_dir_suffix", "resume_from_checkpoint")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        path: its directory, from the workspace on; what it is called.
        directory: the same, absolute.
        said: its decided options, empty before it has written them.
        job: the last process of the studio's that trained it; None of a command line's.
        started: seconds since 1970.
    """

    path: str
    directory: Path
    said: Mapping[str, Any]
    job: Job | None
    started: float

    @property
    def log(self) -> Log:
        """What it has logged so far."""
        return read_log(self.directory / LOGGED)

    @property
    def state(self) -> State:
        """What has become of it."""
        if self.job is not None and self.job.alive():
            return self.job.state()
        if is_held(self.directory):  # by a command line, whatever became of a job before
            return "running"
        if self.job is not None and (state := self.job.state()) != "ended":
            return state
        return "done" if self.log.report is not None else "ended"

    @property
    def command(self) -> str:
        """Which kind of training it is."""
        if self.job is not None:
            return self.job.command
        return next((name for name, option in SIGNS.items() if option in self.said), "sft")

    @property
    def model(self) -> str:
        """What it trains."""
        return Path(str(self.said.get("model_id_or_path") or self.said.get("model_type") or "")).name

    @property
    def data(self) -> list[str]:
        """What it learns from; files from the workspace on."""
        root = str(self.directory).removesuffix(self.path)
        return [str(spec).removeprefix(root) for spec in self.said.get("dataset") or []]

    @property
    def steps(self) -> int | None:
        """How many steps it will take, where that is said."""
        most = self.said.get("max_steps")
        return most if isinstance(most, int) and most > 0 else None

    def checkpoints(self) -> list[Path]:
        """Its whole checkpoints, the latest first."""
        found = [(int(m[1]), path) for path in self.directory.glob("*") if (m := CHECKPOINT.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True) if _is_whole(path)]


class Runs:
    """All runs of a workspace."""

    def __init__(self, workspace: Workspace, jobs: Jobs) -> None:
        self.workspace, self.jobs = workspace, jobs
        self._found: tuple[float, list[Path]] = (0.0, [])

    def all(self) -> list[Run]:
        """Every run, the newest first."""
        by_output: dict[str, Job] = {}
        for job in self.jobs.all():
            if job.command in TRAINING and job.output:
                newer = by_output.setdefault(job.output, job)
                if newer is not job and job.alive() and not newer.alive():
                    by_output[job.output] = job
        paths = dict.fromkeys([*by_output, *map(self.workspace.relative, self._directories())])
        runs = [self._run(path, by_output.get(path)) for path in paths]
        return sorted(runs, key=lambda run: run.started, reverse=True)

    def get(self, path: str) -> Run:
        """The run of this directory.

        Raises:
            NotFoundError: there is none.
        """
        found = next((run for run in self.all() if run.path == path), None)
        if found is None:
            raise NotFoundError("FOUND-01", f"there is no run {path!r} in the workspace")
        return found

    def checkpoints(self) -> list[str]:
        """Every whole checkpoint, from the workspace on, those of the newest run first."""
        return [self.workspace.relative(place) for run in self.all() for place in run.checkpoints()]

    def checkpoint(self, said: str) -> str:
        """A checkpoint or model directory as it was said, known to be there and inside.

        Raises:
            UsageError: it is outside, or no directory.
        """
        inside = self.workspace.holds(said) and not FORBIDDEN.search(said)
        if not said or said.startswith("-") or not inside or not (self.workspace.root / said).is_dir():
            raise UsageError("USAGE-02", f"{said!r} is no directory of the workspace", fix="choose one of the list")
        return said

    def choose_output(self, model: str, name: str) -> str:
        """The directory of a new run, from the workspace on: `output/<model>/<name>`, or a numbered one.

        Raises:
            UsageError: the name is none, or is taken.
        """
        plain = re.sub(r"[^\w.-]+", "-", Path(model).name).strip(".-") or "model"
        parent = self.workspace.root / OUTPUT / plain
        if not name:
            numbers = [int(m[1]) for path in parent.glob("v*") if (m := re.match(r"v(\d+)-", path.name))]
            name = f"v{max(numbers, default=-1) + 1}-{time.strftime('%Y%m%d-%H%M%S')}"
        if not NAME.fullmatch(name):
            fix = "letters, digits and ._-, at most 64"
            raise UsageError("USAGE-02", f"{name!r} cannot be the name of a run", fix=fix)
        place = self.workspace.relative(parent / name)
        if not self.workspace.holds(place):
            raise UsageError("USAGE-02", f"{place} leads out of the workspace", fix="remove the link that does")
        if (parent / name).exists() or any(job.output == place for job in self.jobs.all()):
            raise UsageError("USAGE-02", f"there is a run {place} already", fix="choose another name")
        return place

    def _directories(self) -> list[Path]:
        """Directories of runs; looked for anew when a moment has passed."""
        when, found = self._found
        if time.monotonic() - when > KEPT_SECONDS or not when:
            found = [path.parent for path in self.workspace.walk() if path.name == SAID]
            self._found = (time.monotonic(), found)
        return found

    def _run(self, path: str, job: Job | None) -> Run:
        directory = self.workspace.root / path
        said = _read(directory / SAID)
        started = job.started if job is not None else _written(directory / SAID)
        return Run(path, directory, said, job, started)


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The options in which runs differ, each with its value in every run."""
    found: dict[str, list[str]] = {}
    for name in options_of(SftArguments):
        values = [json.dumps(run.said.get(name), ensure_ascii=False) for run in runs]
        if name not in NOT_COMPARED and len(set(values)) > 1:
            found[name] = [value.strip('"') for value in values]
    return found


def as_options(said: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """The options of a run that a form knows, to begin another run with."""
    return {name: value for name, value in said.items() if name in known}


def is_held(directory: Path) -> bool:
    """Whether a process trains in the directory; its lock is not touched, which would be in a beginning run's way."""
    path = directory / HOLDER
    try:
        pid, written = int(path.read_text(encoding="ascii")), path.stat().st_mtime
    except (OSError, ValueError):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        pass
    except (OSError, OverflowError):
        return False
    began = began_at(pid)
    return began is None or began <= written + CLOCK_SECONDS  # else another process has the pid by now


def _is_whole(directory: Path) -> bool:
    try:
        return bool(storage.read_manifest(directory))
    except ValueError:
        return False


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
