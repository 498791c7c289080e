"""Starts the workers of this machine under torch's elastic agent; its exit code is that of the first failure.

The agent passes SIGTERM, SIGINT, SIGHUP, SIGQUIT and SIGUSR1 on to every worker, waits until they have saved (10
minutes, or the seconds of TORCH_ELASTIC_SHUTDOWN_TIMEOUT) and then kills what is left.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from swift import checkpoint, launch
from swift.errors import ConfigError
from swift.launch import Failure, Launch
from swift.log import get_logger

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
AGENT_LOGGERS = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
)
logger = get_logger()


def run_workers(plan: Launch, command: Sequence[str]) -> int:
    """Run `python <command>` on every process of the plan, and return the exit code of the whole.

    Raises:
        ConfigError: there are fewer GPUs than processes, or the port is in use.
    """
    check_machine(plan)
    for name in AGENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="swift-workers-"))
    config = launch_config(plan, directory)
    try:
        with _surroundings(directory, plan):
            launch_agent(config, sys.executable, list(command))
    except SignalException as ended:
        number = int(ended.sigval)
        run = launch.run_of(directory)
        if run is not None:
            checkpoint.say_last(run)
        logger.info(f"ended by {signal.Signals(number).name}")
        return 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)
    except ChildFailedError as failed:
        if launch.all_done(directory, plan.processes):
            return 0
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        return _explain(launch.first_failure(directory, codes), plan)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        Console(stderr=True).show_cursor()  # a worker's progress bar hides it, and a signal leaves it hidden
    return 0


def launch_config(plan: Launch, directory: Path) -> LaunchConfig:
    """The plan in the agent's terms: one machine meets on a port it finds, several on the one they were told."""
    alone = plan.nodes == 1 and plan.port is None
    return LaunchConfig(
        min_nodes=plan.nodes,
        max_nodes=plan.nodes,
        nproc_per_node=plan.processes,
        run_id=f"swift-{os.getpid()}" if alone else "swift",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else f"{plan.address}:{plan.port}",
        rdzv_configs={} if alone else {"rank": plan.node_rank},
        local_addr="127.0.0.1" if plan.nodes == 1 else None,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(directory)),
        signals_to_handle=",".join(SIGNALS),
        shutdown_timeout=plan.patience,
    )


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


def _explain(failure: Failure, plan: Launch) -> int:
    first, newline, rest = failure.message.partition("\n")
    logger.error(f"{first} (rank {failure.rank} of {plan.nodes * plan.processes}){newline}{rest}")
    return failure.exit_code
