"""What programs may ask of the studio, through gradio's client: the same as the pages, with the same limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swift.errors import SwiftError, UsageError
from swift.studio.form import plainly
from swift.studio.offers import EVALUATE, EXPORT, TRAIN
from swift.studio.studio import Studio

TASKS = {"export": EXPORT, "eval": EVALUATE}


class Programs:
    """Functions whose arguments and results are plain values; a mistake is told under `error`."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def functions(self) -> dict[str, Callable[..., Any]]:
        """All of them by the name they are asked for under."""
        return {"runs": self.runs, "start": self.start, "stop": self.stop, "resume": self.resume, "task": self.task}

    def runs(self) -> list[dict[str, Any]]:
        """Every run with its state and what it logged last."""
        return [
            {"run": run.path, "state": run.state, "step": run.log.step, "loss": run.log.last("loss")}
            for run in self.studio.runs.all()
        ]

    def start(self, command: str, options: dict[str, Any], name: str = "") -> dict[str, str]:
        """Begin `swift sft`, `pt` or `rlhf` with options as the form holds them; the `run`."""
        try:
            form = TRAIN[_one_of(command, TRAIN)]
            _known(options, form.fields)
            return {"run": self.studio.start_training(form, form.show(options), {}, name)}
        except SwiftError as error:
            return {"error": plainly(error)}

    def stop(self, run: str) -> dict[str, str]:
        """Ask a run to save and end, or the second time to end."""
        try:
            self.studio.stop(run)
        except SwiftError as error:
            return {"error": plainly(error)}
        return {"run": run}

    def resume(self, run: str) -> dict[str, str]:
        """Let a run go on; the `checkpoint` it goes on from."""
        try:
            return {"checkpoint": self.studio.resume(run)}
        except SwiftError as error:
            return {"error": plainly(error)}

    def task(self, command: str, model: str, options: dict[str, Any]) -> dict[str, str]:
        """Begin `swift export` or `eval` of a checkpoint or model; the `job`."""
        try:
            form = TASKS[_one_of(command, TASKS)]
            _known(options, form.fields)
            return {"job": self.studio.start_task(form, model, form.show(options)).name}
        except SwiftError as error:
            return {"error": plainly(error)}


def _one_of(name: str, known: dict[str, Any]) -> str:
    if name not in known:
        raise UsageError("USAGE-02", f"{name!r} is no command that is started here", fix=f"one of: {', '.join(known)}")
    return name


def _known(options: dict[str, Any], fields: dict[str, Any]) -> None:
    """Raise UsageError for an option that no form has."""
    unknown = [name for name in options if name not in fields]
    if unknown:
        raise UsageError("USAGE-01", f"not offered here: {', '.join(f'--{name}' for name in unknown)}")
