"""K4: every file of a checkpoint is on the disk before its name is, and its name before anything goes on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from scripts.prove.runs import place

CHILD = """
import sys
from pathlib import Path
from scripts.prove.runs import go
go(sys.argv[1], Path(sys.argv[2]), max_steps=4)
"""


def written_first(engine: str) -> tuple[int, int] | None:
    """How many files of the checkpoints of a run were synced before the name under which they are found was given.

    None where there is no strace.
    """
    if shutil.which("strace") is None:
        return None
    with place() as here:
        log = here / "calls"
        words = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync,rename,renameat,renameat2"]
        words += [sys.executable, "-c", CHILD, engine, str(here / "run")]
        subprocess.run(words, capture_output=True, check=True, timeout=300)
        synced: set[str] = set()
        good: set[str] = set()
        for line in log.read_text().splitlines():
            if "fsync(" in line or "fdatasync(" in line:
                synced.update(re.findall(r"<([^>]+)>", line))
            elif "rename" in line:
                old, new = re.findall(r'"([^"]+)"', line)[:2]
                moved = {
                    path: path.replace(old, new, 1) for path in synced if path == old or path.startswith(old + "/")
                }
                good.update(moved.values())
                synced |= set(moved.values())
        files = [path for path in (here / "run").glob("checkpoint-*/*") if path.is_file()]
        committed = [path for path in files if str(path) in good]
        return len(committed), len(files)
