"""The page of all runs: one with its curves, its log and what can be done with it, and several compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from swift.errors import NotFoundError, SwiftError
from swift.studio import views
from swift.studio.form import as_typed, plainly
from swift.studio.runs import Run
from swift.studio.studio import Studio
from swift.studio.widgets import MAYBE, PRIVATE, draw_command, draw_copy
from swift.studio.words import Words

SECONDS = 2.0


class RunsPage:
    """The parts of the page and what each does; drawn into the open tab.

    Args:
        studio: what is done.
        words: the language to speak.
    """

    def __init__(self, studio: Studio, words: Words) -> None:
        self.studio, self.words = studio, words
        with gr.Row(elem_classes="sides", equal_height=False):
            with gr.Column(scale=3, min_width=280, elem_id="run-list"):
                with gr.Column(elem_classes="section"):
                    gr.HTML(f"<h2>{views.escaped(words.runs)}</h2>")
                    self.chosen = gr.Radio([], label=words.choose_run, show_label=False, elem_id="chosen")
                    self.none = gr.HTML("", elem_id="no-runs", elem_classes=MAYBE)
                with gr.Column(elem_classes="section", visible=False) as self.comparing:
                    gr.HTML(f"<h2>{views.escaped(words.compare)}</h2>")
                    self.several = gr.Dropdown(
                        [], label=words.compare_hint, multiselect=True, value=[], elem_id="several"
                    )
            with gr.Column(scale=9, min_width=340):
                self.compared = gr.HTML("", elem_id="compared", elem_classes=MAYBE)
                with gr.Column(elem_id="one-run", visible=False) as self.one:
                    self.detail = gr.HTML("", elem_id="detail", elem_classes=MAYBE)
                    with gr.Row(elem_classes="tools"):
                        self.stop = gr.Button(words.stop, size="sm", variant="stop", elem_id="stop")
                        self.resume = gr.Button(words.resume, size="sm", elem_id="resume")
                        self.use = gr.Button(words.use_options, size="sm", elem_id="use")
                        self.talk = gr.Button(words.talk_to_it, size="sm", elem_id="talk")
                    self.told = gr.HTML("", elem_id="run-told", elem_classes=MAYBE)
                    self.charts = gr.HTML("", elem_id="charts", elem_classes=MAYBE)
                    self.saved = gr.HTML("", elem_id="saved", elem_classes=MAYBE)
                    self.log = gr.HTML("", elem_id="run-log", elem_classes=MAYBE)
                    with gr.Accordion(words.command, open=False):
                        self.command = draw_command("", words, "run-command")
                        draw_copy(self.command, words, "run-copy")
        self.seen = gr.State([])
        self.timer = gr.Timer(SECONDS)
        self._connect()

    @property
    def outputs(self) -> list[Any]:
        """What `refresh` gives, without what was seen."""
        first = [self.chosen, self.none, self.comparing, self.several, self.one, self.detail]
        can = [self.stop, self.resume, self.talk]
        return [*first, *can, self.charts, self.saved, self.log, self.command, self.compared, self.told]

    def _connect(self) -> None:
        inputs, outputs = [self.chosen, self.several, self.seen], [*self.outputs, self.seen]
        for event in (self.timer.tick, self.chosen.change, self.several.change):
            event(self.refresh, inputs, outputs, trigger_mode="always_last", concurrency_limit=8, **PRIVATE)
        self.stop.click(self._stop, self.chosen, self.told, **PRIVATE).then(self.refresh, inputs, outputs, **PRIVATE)
        self.resume.click(self._resume, self.chosen, self.told, **PRIVATE).then(
            self.refresh, inputs, outputs, **PRIVATE
        )
        self.chosen.change(lambda: "", None, self.told, queue=False, **PRIVATE)

    def refresh(self, chosen: str | None, several: list[str] | None, seen: list[Any]) -> list[Any]:
        """The page as it is now, at first with the newest run; what has not changed since it was `seen` is skipped."""
        runs = {run.path: run for run in self.studio.runs.all()}
        newest = next(iter(runs), None)
        now = self._view(runs, chosen or newest, several or [])
        if not chosen and runs:  # else left as it is: somebody may just have chosen another
            now[0]["value"] = newest
        before = seen if len(seen) == len(now) else [None] * len(now)
        *shown, ended = [
            gr.skip() if value == old else as_update(value) for value, old in zip(now, before, strict=True)
        ]
        return [*shown, "" if ended is True else gr.skip(), now]

    def _view(self, runs: dict[str, Run], chosen: str | None, several: list[str]) -> list[Any]:
        words = self.words
        listed = [[views.label(run, words), path] for path, run in runs.items()]
        run = runs.get(chosen or "")
        none = "" if runs else views.notice(words.no_runs)
        compared = views.comparison([runs[path] for path in several if path in runs], words)
        first = [
            {"choices": listed},
            none,
            {"visible": len(runs) > 1},
            {"choices": [[path, path] for path in runs]},
            {"visible": run is not None},
        ]
        if run is None:
            return [*first, "", {}, {}, {}, "", "", "", "", compared, False]
        going = run.state in ("running", "stopping")
        places = [self.studio.workspace.relative(place) for place in run.checkpoints()]
        stop = words.stop if run.state != "stopping" else words.stop_now
        return [
            *first,
            views.detail(run, words),
            {"interactive": going and run.job is not None, "value": stop},
            {"interactive": not going and bool(places) and run.state != "done"},
            {"interactive": bool(places)},
            views.charts(run, words),
            views.checkpoints(places, words),
            views.log(run.job.log(), words) if run.job else "",
            as_typed(run.job.command, run.job.words, run.job.environment) if run.job else "",
            compared,
            not going,  # what was told of it is over then
        ]

    def _stop(self, chosen: str) -> str:
        return self._tell(lambda: self.studio.stop(chosen), self.words.stopped)

    def _resume(self, chosen: str) -> str:
        return self._tell(lambda: self.studio.resume(chosen), self.words.resumed)

    def _tell(self, do: Callable[[], str | None], done: str) -> str:
        try:
            path = do()
        except SwiftError as error:
            return views.notice(plainly(error), "bad")
        return views.notice(done.format(path=path), "good")

    def options(self, chosen: str | None) -> tuple[tuple[str, dict[str, Any]] | None, str]:
        """The command and what its form holds to do the same as the chosen run, and a line about it."""
        try:
            run = self.studio.runs.get(chosen or "")
            return (run.command, self.studio.options_of(run)), views.notice(
                self.words.used_options.format(path=run.path), "good"
            )
        except SwiftError as error:
            return None, views.notice(plainly(error), "bad")

    def last_checkpoint(self, chosen: str | None) -> str:
        """The last checkpoint of the chosen run, empty where there is none."""
        try:
            places = self.studio.runs.get(chosen or "").checkpoints()
        except NotFoundError:
            return ""
        return self.studio.workspace.relative(places[0]) if places else ""


def as_update(value: Any) -> Any:
    """A view's part as gradio takes it: properties of a widget, or its value."""
    return gr.update(**value) if isinstance(value, dict) else value
