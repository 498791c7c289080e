"""A page to do one thing with a checkpoint as a process of its own: export it, or evaluate it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from swift.errors import SwiftError
from swift.studio import views
from swift.studio.form import Entered, Form, as_typed, plainly
from swift.studio.labels import group_of
from swift.studio.studio import Studio
from swift.studio.widgets import MAYBE, PRIVATE, draw, draw_command, draw_copy
from swift.studio.words import Words

SECONDS = 2.0


class TaskPage:
    """The parts of the page and what each does; drawn into the open tab.

    Args:
        studio: what is done.
        form: the command's.
        words: the language to speak.
        title: what the button says.
    """

    def __init__(self, studio: Studio, form: Form, words: Words, title: str) -> None:
        self.studio, self.form, self.words = studio, form, words
        self.widgets: dict[str, Any] = {}
        name = form.command
        with gr.Row(elem_classes="sides", equal_height=False):
            with gr.Column(scale=7, min_width=340):
                with gr.Column(elem_classes="section"):
                    self.chosen = gr.Dropdown(
                        studio.models(),
                        value=None,
                        label=words.checkpoint,
                        info=words.checkpoint_hint,
                        allow_custom_value=True,
                        elem_id=f"{name}-model",
                    )
                self._form()
            with gr.Column(scale=5, min_width=340):
                self._summary(title)
        self.inputs = [self.chosen, *(self.widgets[field.name] for field in form.order)]
        self._connect()

    def _form(self) -> None:
        words = self.words
        for section, names in self.form.basic.items():
            with gr.Column(elem_classes="section"):
                gr.HTML(f"<h2>{views.escaped(words.sections[section])}</h2>")
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        offered = self.studio.datasets() if name in ("dataset", "eval_dataset") else None
                        self.widgets[name] = self._draw(name, offered)
        with gr.Accordion(words.all_options, open=False, elem_classes="section"):
            for group, fields in self.form.groups.items():
                with gr.Accordion(group_of(group, words.language), open=False):
                    for field in fields:
                        self.widgets[field.name] = self._draw(field.name, None)

    def _draw(self, name: str, offered: list[str] | None) -> Any:
        widget = draw(self.form.fields[name], self.words, offered)
        widget.elem_id = f"{self.form.command}-{name}"
        return widget

    def _summary(self, title: str) -> None:
        words, name = self.words, self.form.command
        with gr.Column(elem_classes="section"):
            gr.HTML(f"<h2>{views.escaped(words.command)}</h2>")
            self.command = draw_command(as_typed(name, []), words, f"{name}-command")
            with gr.Row(elem_classes="tools"):
                draw_copy(self.command, words, f"{name}-copy")
            self.problems = gr.HTML("", elem_id=f"{name}-problems", elem_classes=MAYBE)
            self.start = gr.Button(title, variant="primary", elem_id=f"{name}-start")
            gr.HTML(f'<p class="quiet">{views.escaped(words.task_hint)}</p>')
        with gr.Column(elem_classes="section"):
            gr.HTML(f"<h2>{views.escaped(words.tasks)}</h2>")
            self.job = gr.Dropdown(
                [], label=words.tasks, show_label=False, value=None, visible=False, elem_id=f"{name}-job"
            )
            self.shown = gr.HTML(f'<p class="quiet">{views.escaped(words.no_tasks)}</p>', elem_id=f"{name}-shown")
            self.stop = gr.Button(words.end, size="sm", visible=False, elem_id=f"{name}-stop")
        self.seen = gr.State([])
        self.timer = gr.Timer(SECONDS)

    def _connect(self) -> None:
        self.chosen.focus(lambda: gr.update(choices=self.studio.models()), None, self.chosen, queue=False, **PRIVATE)
        gr.on(
            [widget.change for widget in self.inputs],
            self._show_command,
            self.inputs,
            [self.command, self.problems],
            queue=False,
            trigger_mode="always_last",
            **PRIVATE,
        )
        self.start.click(self._start, self.inputs, [self.problems, self.job], **PRIVATE)
        refreshed = [self.job, self.seen], [self.job, self.shown, self.stop, self.seen]
        for event in (self.timer.tick, self.job.change):
            event(self._refresh, *refreshed, trigger_mode="always_last", concurrency_limit=8, **PRIVATE)
        self.stop.click(self._stop, self.job, **PRIVATE).then(self._refresh, *refreshed, **PRIVATE)

    def _entered(self, values: Iterable[Any]) -> Entered:
        return dict(zip((field.name for field in self.form.order), values, strict=True))

    def _show_command(self, chosen: str | None, *values: Any) -> tuple[str, str]:
        said = self._entered(values)
        words = self.form.words(said)
        try:
            model = self.studio.model_words(chosen) if chosen else []
            self.form.check(said, self.studio.workspace)
        except SwiftError as error:
            return as_typed(self.form.command, words), views.notice(plainly(error))
        return as_typed(self.form.command, [*model, *words]), ""

    def _start(self, chosen: str | None, *values: Any) -> tuple[str, Any]:
        try:
            job = self.studio.start_task(self.form, chosen or "", self._entered(values))
        except SwiftError as error:
            return views.notice(plainly(error), "bad"), gr.skip()
        return "", gr.update(choices=self._jobs(), value=job.name, visible=True)

    def _jobs(self) -> list[list[str]]:
        found = [job for job in self.studio.jobs.all() if job.command == self.form.command]
        return [[f"{job.name} · {self.words.states[job.state()]}", job.name] for job in found]

    def _refresh(self, name: str | None, seen: list[Any]) -> list[Any]:
        try:
            job = self.studio.jobs.get(name) if name else None
        except SwiftError:
            job = None
        typed = as_typed(job.command, job.words, job.environment) if job else ""
        going = job is not None and job.alive()
        text = self.words.stop_now if job is not None and job.state() == "stopping" else self.words.end
        now = [self._jobs(), views.task(job, typed, self.words), {"visible": going, "value": text}]
        if now == seen:
            return [gr.skip()] * 4
        return [gr.update(choices=now[0], visible=bool(now[0])), now[1], gr.update(**now[2]), now]

    def _stop(self, name: str | None) -> None:
        if name:
            self.studio.jobs.get(name).stop()
