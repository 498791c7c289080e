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
from dataclasses import asdict, dataclass, field
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
        return bool(self.born) and _born(self.pid) == self.born

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
            os.killpg(self.pid, signal.SIGKILL)
            return
        (self.directory / "stop").touch()
        os.kill(self.pid, signal.SIGTERM)

    def log(self, lines: int = 200) -> str:
        """The last lines it wrote, without colours and secrets; of a line that was written over, the last state."""
        return tail(self.directory / LOG, lines)


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
        born = _born(process.pid)
        job = Job(name, command, words, dict(environment or {}), output, process.pid, born, time.time(), directory)
        storage.write_json(directory / JOB, {k: v for k, v in asdict(job).items() if k != "directory"}, private=True)
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
        return None if said is None else Job(**said, directory=directory)


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


def _born(pid: int) -> str:
    """When the system began a process, empty where it has ended; without /proc only whether there is one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
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
