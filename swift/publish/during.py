"""Publishing while a run trains: every push is a process of its own, so that none can hold up or end the run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift import checkpoint, storage
from swift.arguments.hub import PushingOptions
from swift.errors import TemporaryError
from swift.log import get_logger
from swift.publish import token
from swift.publish.outgoing import files_below, links
from swift.publish.push import make, with_owner
from swift.publish.remote import open_remote
from swift.redact import redact_text

logger = get_logger()
REPORT = "push_report.json"
WHOLE = {"checkpoint": "last-checkpoint", "all_checkpoints": "{name}"}  # the folder of what resuming needs
OF_WORKERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "NPROC_",
    "NNODES",
    "SWIFT_WORK",
)
PATIENCE_SECONDS = 10
ROOM = 2  # checkpoints that the disk has to have room for, or what waits goes


@dataclass(frozen=True)
class Job:
    """One push: a checkpoint, and the folder it goes into with all that resuming needs; "" is the root, without."""

    directory: Path
    folder: str = ""


@dataclass
class Running:
    """A push that runs."""

    job: Job
    snapshot: Path
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]


class Pushing(TrainerCallback):
    """Publishes the checkpoints of a run as `--push_hub_strategy` says; what fails is said and counted.

    A checkpoint is linked when it is saved, so that it may be rotated away while it is sent. One push runs at a time;
    of several that wait for the same folder of the repository the newest is made, and where the disk gets full the
    oldest that wait are given up.

    Args:
        args: the options, with the hub chosen.
        run: the run's directory.
    """

    def __init__(self, args: PushingOptions, run: Path) -> None:
        self.args, self.run = args, run
        self.waiting: list[tuple[Job, Path]] = []
        self.running: Running | None = None
        self.pushed: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.count = 0
        self.published: str | None = None  # the checkpoint at the root

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Send what the strategy wants of the checkpoint that was just written."""
        if state.is_world_process_zero:
            last = checkpoint.directory_of(self.run, state.global_step)
            best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else last
            for job in wanted(self.args.push_hub_strategy, last, best):
                if job.folder or str(job.directory) != self.published:
                    self.ask(job)
            self.look()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look after the push that runs."""
        if state.is_world_process_zero:
            self.look()

    def ask(self, job: Job) -> None:
        """Have a checkpoint sent when its turn comes."""
        if not job.folder:
            self.published = str(job.directory)
        for _, snapshot in [entry for entry in self.waiting if entry[0].folder == job.folder]:
            shutil.rmtree(snapshot, ignore_errors=True)
        self.waiting = [entry for entry in self.waiting if entry[0].folder != job.folder]
        self._make_room(sum(path.stat().st_size for path in files_below(job.directory)))
        self.count += 1
        snapshot = self.run / f"{storage.STAGE}{job.directory.name}-push{self.count}-{os.getpid()}"
        try:
            links(job.directory, snapshot)
        except OSError as error:
            self._fail(job, f"it cannot be linked: {error.strerror}")
            shutil.rmtree(snapshot, ignore_errors=True)
            return
        self.waiting.append((job, snapshot))

    def look(self, *, wait: bool = False) -> None:
        """Take what a push that has ended says, and start the next one; `wait` until none is left."""
        while self.running or self.waiting:
            if self.running is None:
                self._start(*self.waiting.pop(0))
            if self.running is None:
                continue
            if wait:
                self.running.process.wait()
            elif self.running.process.poll() is None:
                return
            self._take(self.running)

    def finish(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Send the run's model with its final card; what became of all pushes, which `push_report.json` has too.

        Args:
            report: of the run, with its best and last checkpoint.
        """
        best = self.args.push_hub_strategy in ("end", "push_best")
        chosen = report["best_model_checkpoint" if best else "last_model_checkpoint"]
        if chosen is None:
            self.failed.append("no checkpoint was written")
        else:
            self.ask(Job(Path(chosen)))
            if self.running or len(self.waiting) > 1:
                logger.info("waiting for what is still to be published")
            self.look(wait=True)
        told = {"pushed": len(self.pushed), "failed": len(self.failed), "errors": self.failed, "pushes": self.pushed}
        try:
            storage.write_json(self.run / REPORT, told)
        except OSError as error:  # the run is over and has all else
            logger.warning(f"{REPORT} cannot be written: {error}")
        if self.failed:
            again = f"swift push {chosen or self.run}" + "".join(f" --{shlex.join(said)}" for said in self._said())
            logger.warning(f"{len(self.failed)} of {len(self.failed) + len(self.pushed)} pushes failed; again: {again}")
        return told

    def stop(self) -> None:
        """End the push that runs and forget those that wait."""
        if self.running is not None:
            self.running.process.terminate()
            try:
                self.running.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.running.process.kill()
        for snapshot in [*(entry[1] for entry in self.waiting), *([self.running.snapshot] if self.running else [])]:
            shutil.rmtree(snapshot, ignore_errors=True)
        self.waiting, self.running = [], None

    def command(self, job: Job, snapshot: Path) -> list[str]:
        """The words of a push."""
        words = [sys.executable, "-m", "swift.cli", "push", str(snapshot), "--json", "true"]
        words += ["--commit_message", job.directory.name]
        words += ["--path_in_repo", job.folder, "--with_state", "true"] if job.folder else []
        return words + [word for name, *values in self._said() for word in (f"--{name}", *values)]

    def _said(self) -> list[list[str]]:
        """The options that a push shares with its run: names and values; never the token, of the environment."""
        args = self.args
        said = [["hub_model_id", args.hub_model_id]] if args.hub_model_id else []
        said += [["hub_private_repo", "true"]] if args.hub_private_repo else []
        said += [["hub_license", args.hub_license]] if args.hub_license else []
        return said + ([["allow_leak", *args.allow_leak]] if args.allow_leak else [])

    def _make_room(self, size_bytes: int) -> None:
        """Give up what waits, the oldest first, while the disk has no room for two more checkpoints."""
        while self.waiting and shutil.disk_usage(self.run).free < ROOM * size_bytes:
            job, snapshot = self.waiting.pop(0)
            shutil.rmtree(snapshot, ignore_errors=True)
            self._fail(job, "the disk is too full to keep it until its turn comes")

    def _start(self, job: Job, snapshot: Path) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(OF_WORKERS)}
        try:
            out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115, closed when it has ended
            process = subprocess.Popen(
                self.command(job, snapshot),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**env, "CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,  # Ctrl-C is for the run, which ends it itself
            )
        except OSError as error:  # no process, or no file, is to be had
            shutil.rmtree(snapshot, ignore_errors=True)
            self._fail(job, f"it cannot be started: {error.strerror}")
            return
        self.running = Running(job, snapshot, process, out, err)

    def _take(self, done: Running) -> None:
        texts = []
        for file in (done.out, done.err):
            file.seek(0)
            texts.append(redact_text(file.read().decode("utf-8", "replace")))
            file.close()
        shutil.rmtree(done.snapshot, ignore_errors=True)
        self.running = None
        told = _told(texts[0]) if done.process.returncode == 0 else None
        if told is not None:
            self.pushed.append({"checkpoint": done.job.directory.name, "folder": done.job.folder, **told})
            logger.info(f"published {done.job.directory.name}: {told['address']} {done.job.folder}".rstrip())
        else:
            self._fail(done.job, _why(texts[1]) or f"exit code {done.process.returncode}")

    def _fail(self, job: Job, why: str) -> None:
        if not job.folder:
            self.published = None
        self.failed.append(f"{job.directory.name}: {why}")
        logger.warning(f"{job.directory.name} was not published, training goes on: {why}")


@contextmanager
def going_on(pushing: Sequence[Pushing]) -> Iterator[None]:
    """End the pushes that run, and forget those that wait, when the block does not end well."""
    well = False
    try:
        yield
        well = True
    finally:
        for pushes in pushing if not well else ():
            pushes.stop()


def wanted(strategy: str, last: Path, best: Path) -> list[Job]:
    """What is sent when a checkpoint was saved."""
    if strategy == "end":
        return []
    if strategy == "push_best":
        return [Job(best)]
    whole = [Job(last, WHOLE[strategy].format(name=last.name))] if strategy in WHOLE else []
    return [Job(last), *whole]


def open_repository(args: PushingOptions, name: str) -> str:
    """Make sure, before a run begins, that its model can be published; return the repository.

    A hub that is away is no reason not to train: then it is the name as it was said.

    Args:
        args: the options, with the hub chosen.
        name: what the repository is called where none is said.

    Raises:
        RefusedError: there is no token, or it may not write there.
        NotFoundError: there is no such owner.
    """
    remote = open_remote(token.find())
    repo = args.hub_model_id or name
    try:
        repo = with_owner(repo, remote)
        make(remote, repo, args.hub_private_repo)
    except TemporaryError as error:
        logger.warning(f"{error.what}: the run begins all the same, and publishes when that has passed")
        return repo
    logger.info(f"publishes to {remote.address(repo)}")
    return repo


def _told(said: str) -> dict[str, Any] | None:
    """What a push says of itself in its last line; None where it says nothing."""
    try:
        told = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return told if isinstance(told, dict) and "address" in told else None


def _why(said: str) -> str:
    """The error among what a push wrote, in a line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error[")]
    return errors[-1] if errors else (lines[-1] if lines else "")
