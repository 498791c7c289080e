"""Starting processes that hold one model together, and what they have found."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_group(script: Path, world: int, *words: object, timeout: float = 600) -> list[str]:
    """Run a script in `world` processes on gloo; what each wrote to stderr. Fails where one fails."""
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    group = []
    for rank in range(world):
        own = {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1, "RANK": rank, "LOCAL_RANK": rank, **place}
        env = {**os.environ, **{key: str(value) for key, value in own.items()}}
        said = [sys.executable, str(script), *map(str, words)]
        group.append(subprocess.Popen(said, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    said = []
    try:
        for process in group:
            _, errors = process.communicate(timeout=timeout)
            assert process.returncode == 0, errors[-3000:]
            said.append(errors)
    finally:
        for process in group:
            process.kill()
    return said


def found(script: Path, world: int, out: Path, *words: object) -> dict[str, Any]:
    """What the first process wrote into the file `out`."""
    run_group(script, world, out, *words)
    return json.loads(out.read_text())
