"""Commands that run as processes of their own, outlive the page and the server, and can be found again afterwards.

A job is a directory below the workspace's state: what was started (`job.json`), what it wrote (`log.txt`), how it ended
(`exit.json`, unless the server ended first).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import swift
from swift import storage
from swift.errors import ConfigError, NotFoundError
from swift.redact import redact_text
from swift.studio.workspace import Workspace

JOBS, JOB, LOG, EXIT = "jobs", "job.json", "log.txt", "exit.json"
NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
TAIL_BYTES = 64 << 10
COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]")
State = Literal["running", "stopping", "done", "stopped", "failed", "ended"]
"""`ended` is one that ended while no server watched it."""


@dataclass(frozen=True)
class Job:
    """A command that was started.

    Attributes:
        name: of its directory.
        command: of swift.
        words: its options.
        environment: the variables that were set for it.
        output: the directory it writes, from the workspace on; empty where it writes none.
        pid: of its process, which leads a group of its own.
        born: when the system began it, in its own ticks; tells it from a later process of the same pid.
        started: seconds since 1970.
        directory: where all this is kept.
    """

    name: str
    command: str
    words: list[str]
    environment: dict[str, str]
    output: str
    pid: int
    born: str
    started: float
    directory: Path = field(compare=False)

    def alive(self) -> bool:
        """Whether its process runs."""
        return bool(self.born) and birth_of(self.pid) == self.born

    def ended(self) -> dict[str, Any] | None:
        """Its exit `code` and the `time` of its end; None before it, and where no server saw it."""
        return _read(self.directory / EXIT)

    def asked_to_stop(self) -> bool:
        """Whether somebody stopped it."""
        return (self.directory / "stop").exists()

    def state(self) -> State:
        """What has become of it."""
        if self.alive():
            return "stopping" if self.asked_to_stop() else "running"
        end = self.ended()
        if end is None:
            return "stopped" if self.asked_to_stop() else "ended"
        if end["code"] == 0:
            return "done"
        return "stopped" if self.asked_to_stop() else "failed"

    def stop(self) -> None:
        """Ask it to save and end; asked again, end it and all that it started at once."""
        if not self.alive():
            return
        if self.asked_to_stop():
            _kill(self.pid)
            return
        (self.directory / "stop").touch()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def log(self, lines: int = 200) -> str:
        """The last lines it wrote, without colours and secrets; of a line that was written over, the last state."""
        return tail(self.directory / LOG, lines)


WRITTEN = {each.name for each in fields(Job)} - {"directory"}
"""What `job.json` holds."""


class Jobs:
    """All jobs of a workspace, whoever started them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.place = workspace.state / JOBS
        storage.make_directory(self.place)

    def start(
        self,
        command: str,
        words: Iterable[str],
        environment: Mapping[str, str] | None = None,
        output: str = "",
        secret: Mapping[str, str] | None = None,
    ) -> Job:
        """Start `swift <command> <words>` in the workspace.

        Args:
            command: a command of swift.
            words: its options; each stays one argument, no shell reads them.
            environment: variables beside those of this process.
            output: the directory it writes.
            secret: further variables, which are not written down.

        Raises:
            ConfigError: the system starts no process.
            SwiftError: it cannot be written down what was started; it is ended again.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        directory, words = self.place / name, list(words)
        storage.make_directory(directory)
        variables = {**os.environ, **import_path(), **(environment or {}), **(secret or {})}
        with (directory / LOG).open("wb") as log:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "swift.cli", command, *words],
                    cwd=self.workspace.root,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise ConfigError("CONFIG-03", f"swift {command} cannot be started", why=str(error)) from None
        with ExitStack() as undo:
            undo.callback(_end, process)
            born, now = birth_of(process.pid), time.time()
            job = Job(name, command, words, dict(environment or {}), output, process.pid, born, now, directory)
            said = {name: value for name, value in asdict(job).items() if name in WRITTEN}
            storage.write_json(directory / JOB, said, private=True)
            undo.pop_all()
        threading.Thread(target=_watch, args=(process, directory), name=f"job {name}", daemon=True).start()
        return job

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        found = [self._read(path) for path in self.place.iterdir() if NAME.fullmatch(path.name)]
        return sorted((job for job in found if job), key=lambda job: job.started, reverse=True)

    def get(self, name: str) -> Job:
        """The job of this name.

        Raises:
            NotFoundError: there is none.
        """
        job = self._read(self.place / name) if NAME.fullmatch(name) else None
        if job is None:
            raise NotFoundError("FOUND-01", f"there is no job {name!r}")
        return job

    def _read(self, directory: Path) -> Job | None:
        said = _read(directory / JOB)
        return Job(**said, directory=directory) if said is not None and said.keys() == WRITTEN else None


def tail(path: Path, lines: int = 200) -> str:
    """The last lines of a log, without colours and secrets."""
    try:
        with path.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in COLOUR.sub("", text).strip("\n").split("\n")]
    return redact_text("\n".join(shown[-lines:]))


def _watch(process: subprocess.Popen[bytes], directory: Path) -> None:
    code = process.wait()
    if directory.is_dir():
        storage.write_json(directory / EXIT, {"code": code, "time": time.time()})


def import_path() -> dict[str, str]:
    """Where the process finds this very package, whatever directory it begins in, and nothing that lies in that."""
    here = str(Path(swift.__file__).resolve().parent.parent)
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != here]
    return {"PYTHONPATH": os.pathsep.join([here, *before]), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process.pid)
    process.wait()


def _kill(pid: int) -> None:
    """End a process, its group and all that descends from it, also in sessions of their own, at once."""
    below = descendants(pid)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for each in below:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes that a process began, and those that these began; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parent = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found = list(children.get(pid, []))
    for each in found:
        found += children.get(each, [])
    return found


def began_at(pid: int) -> float | None:
    """When a process began, in seconds since 1970; None where the system does not tell."""
    ticks = birth_of(pid)
    if not ticks.isdigit():
        return None
    boot = next(line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot) + int(ticks) / os.sysconf("SC_CLK_TCK")


def birth_of(pid: int) -> str:
    """When the system began a process, empty where it has ended; without /proc only whether there is one."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if told[0] in "ZX" else told[19]
    except OSError:
        if Path("/proc/self").exists():
            return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
