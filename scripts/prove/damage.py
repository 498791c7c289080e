"""K9: whatever happens to the newest checkpoint, a run does not go on from it as if nothing had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.prove.runs import STEPS, finished, go, place, weights_of
from swift import checkpoint
from swift.errors import SwiftError


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)] if share else data[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "half": lambda path: cut(path, 0.5),
    "one byte short": lambda path: cut(path, 0),
    "one bit flipped": flip,
    "other text": lambda path: path.write_text("{}"),
}


def detected(engine: str, few: bool = False) -> tuple[int, int]:
    """How often damage to a file of the newest checkpoint was noticed: told by name, or passed over with a warning.

    With transformers alone a run has noticed when it ends with an error, or with the right weights all the same.
    """
    good = total = 0
    with place() as here:
        assert finished(partial(go, engine, here / "run"))
        newest, last = here / "run" / f"checkpoint-{STEPS - 2}", here / "run" / f"checkpoint-{STEPS}"
        wanted = weights_of(last)
        files = sorted(path.name for path in newest.iterdir() if path.name not in ("README.md", "training_args.bin"))
        shutil.copytree(here / "run", here / "whole")
        for name in files:
            for kind in list(DAMAGE)[:: 2 if few else 1]:
                shutil.rmtree(here / "run")
                shutil.copytree(here / "whole", here / "run")
                if engine == "swift":
                    DAMAGE[kind](last / name)
                    good += _refused(last) and checkpoint.latest(here / "run") == newest
                else:
                    shutil.rmtree(last)
                    DAMAGE[kind](newest / name)
                    ended = finished(partial(go, engine, here / "run", "auto"))
                    good += not ended or weights_of(last) == wanted
                total += 1
    return good, total


def _refused(directory: Path) -> bool:
    try:
        checkpoint.check_resumable(directory)
    except SwiftError as error:
        return error.code == "CKPT-01"
    return False
