"""Starts the workers of this machine under torch's elastic agent; its exit code is that of the first failure.

The agent passes SIGTERM, SIGINT, SIGHUP, SIGQUIT and SIGUSR1 on to every worker, waits until they have saved (10
minutes, or the seconds of TORCH_ELASTIC_SHUTDOWN_TIMEOUT) and then kills what is left. When one worker fails or hangs
the others are ended too, here and on the other machines; with `--max_restarts` all begin anew from the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousHandler

from swift import checkpoint, launch, storage, watch
from swift.dist import Launch
from swift.errors import ConfigError
from swift.launch import Failure
from swift.log import get_logger
from swift.meeting import Alone, Group, interface, meeting

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
AGENT_LOGGERS = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.agent.server.local_elastic_agent",
    "torch.distributed.elastic.multiprocessing.api",
)
GRACE = 3.0  # seconds in which workers whose peer failed may say what they saw
logger = get_logger()


def run_workers(plan: Launch, command: Sequence[str]) -> int:
    """Run `python <command>` on every process of the plan, and return the exit code of the whole.

    Raises:
        ConfigError: there are fewer GPUs than processes, or the port is in use.
        UnavailableError: the other machines do not come.
    """
    check_machine(plan)
    for name in AGENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="swift-workers-"))
    try:
        with _surroundings(directory, plan):
            return _attempts(plan, command, directory)
    except SignalException as ended:
        return _ended(int(ended.sigval), directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        Console(stderr=True).show_cursor()  # a worker's progress bar hides it, and a signal leaves it hidden


def _attempts(plan: Launch, command: Sequence[str], directory: Path) -> int:
    """Start the workers until they are done, or no restart is left that could help."""
    group = meeting(plan)
    while True:
        agent = Agent(plan, command, directory, group, group.begin())
        try:
            agent.run()
        except SignalException as ended:
            if isinstance(group, Group):
                group.settle(Failure(plan.node_rank * plan.processes, "", 128 + int(ended.sigval), 0, order=0))
            raise
        if agent.well:
            return 0
        verdict = group.settle(agent.failure)
        assert verdict.failure is not None
        if not verdict.again:
            return _explain(verdict.failure, plan)
        said = verdict.failure.message.partition("\n")[0]
        logger.warning(f"{said} (rank {verdict.failure.rank}): restart {group.attempt + 1} of {plan.restarts}")
        launch.forget(directory)


def _ended(number: int, directory: Path) -> int:
    """The exit code of a group that a signal ended, after saying what is saved."""
    run = launch.run_of(directory)
    if run is not None:
        checkpoint.say_last(run)
    logger.info(f"ended by {signal.Signals(number).name}")
    return 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)


class Agent(LocalElasticAgent):
    """torch's agent for one attempt, which also ends it for a hang or for what happened on another machine.

    `well` says whether all workers of this machine were done; `failure` is what went wrong here, None for nothing.
    """

    def __init__(
        self, plan: Launch, command: Sequence[str], directory: Path, group: Alone | Group, place: RendezvousHandler
    ) -> None:
        spec = WorkerSpec(
            role="swift",
            local_world_size=plan.processes,
            entrypoint=sys.executable,
            args=tuple(command),
            rdzv_handler=place,
            max_restarts=0,
            monitor_interval=0.1,
            local_addr="127.0.0.1" if plan.nodes == 1 else None,
        )
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(SIGNALS)
        super().__init__(spec, DefaultLogsSpecs(log_dir=str(directory)), shutdown_timeout=plan.patience)
        self.directory, self.group = directory, group
        self.well = False
        self.failure: Failure | None = None

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        codes = self._failed()
        if codes:
            self._hear()
            self.failure = launch.first_failure(self.directory, codes)
        elif not self._running():
            self.well = True
            self.group.done()
            return RunResult(WorkerState.SUCCEEDED, {worker.global_rank: None for worker in worker_group.workers})
        elif self.group.ended_elsewhere():
            self._hear()
            self.failure = launch.first_failure(self.directory, {}) if launch.words_of(self.directory) else None
        else:
            self.failure = self._hang()
            if self.failure is None:
                return RunResult(WorkerState.HEALTHY)
        self._kill()
        return RunResult(WorkerState.FAILED)

    def _processes(self) -> SubprocessContext:
        assert isinstance(self._pcontext, SubprocessContext)
        return self._pcontext

    def _failed(self) -> dict[int, int]:
        """Rank -> exit code of the workers that ended badly; what went wrong after their work was done is nothing."""
        handlers = self._processes().subprocess_handlers
        codes = {local: handler.proc.poll() for local, handler in handlers.items()}
        return {
            self._rank(local): code
            for local, code in codes.items()
            if code and not launch.is_done(self.directory, local)
        }

    def _rank(self, local: int) -> int:
        return self._worker_group.workers[local].global_rank

    def _running(self) -> list[int]:
        """The processes that are there."""
        return [
            handler.proc.pid
            for handler in self._processes().subprocess_handlers.values()
            if handler.proc.poll() is None
        ]

    def _hear(self) -> None:
        """Let the workers whose peer failed say what they saw."""
        end = time.monotonic() + GRACE
        while self._running() and time.monotonic() < end:
            time.sleep(0.05)

    def _kill(self) -> None:
        for pid in self._running():
            os.kill(pid, signal.SIGKILL)

    def _hang(self) -> Failure | None:
        found = watch.hang(self.directory, self._processes().pids())
        if found is None:
            return None
        where = _keep_stacks(self.directory, found.stacks)
        message = f"{found.error}\n  stacks: {where}"
        return Failure(found.ranks[0], message, found.error.exit_code, time.time_ns(), order=found.order)


def check_machine(plan: Launch) -> None:
    """Refuse what cannot work before any process starts."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else None
    if gpus is not None and gpus < plan.processes:
        raise ConfigError(
            "CONFIG-03",
            f"NPROC_PER_NODE is {plan.processes}, but {gpus} GPU(s) can be seen",
            fix=f"NPROC_PER_NODE={gpus}, or CUDA_VISIBLE_DEVICES= to train on the CPU",
        )
    if plan.port is not None and plan.node_rank == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", plan.port))
            except OSError:
                what = f"port {plan.port} is in use"
                raise ConfigError("CONFIG-03", what, fix="set MASTER_PORT to another") from None


@contextmanager
def _surroundings(directory: Path, plan: Launch) -> Iterator[None]:
    """The environment the workers inherit, and our own signal handlers back afterwards."""
    added = {launch.WORKERS: str(directory)}
    if plan.nodes > 1 and "GLOO_SOCKET_IFNAME" not in os.environ:
        name = interface(plan.address, plan.port or 0)
        added |= {"GLOO_SOCKET_IFNAME": name} if name else {}
    if "OMP_NUM_THREADS" not in os.environ and plan.processes > 1:
        added["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // plan.processes))
    before = {name: signal.getsignal(name) for name in map(signal.Signals.__getitem__, SIGNALS)}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_stacks(directory: Path, stacks: str) -> Path:
    """Write where all workers stood beside their run, or where temporary files are, and return the file."""
    run = launch.run_of(directory)
    place = Path(run) if run is not None and Path(run).is_dir() else Path(tempfile.gettempdir())
    path = place / f"stacks-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    storage.write_text(path, stacks + "\n")
    return path


def _explain(failure: Failure, plan: Launch) -> int:
    first, newline, rest = failure.message.partition("\n")
    logger.error(f"{first} (rank {failure.rank} of {plan.nodes * plan.processes}){newline}{rest}")
    return failure.exit_code
