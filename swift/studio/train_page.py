"""The page to begin a run on: the form, the command it makes, what it takes, and the button."""

from __future__ import annotations

from typing import Any

import gradio as gr

from swift.errors import SwiftError
from swift.studio import views
from swift.studio.form import Entered, as_typed, as_yaml, read_environment
from swift.studio.labels import group_of, matches
from swift.studio.offers import TRAIN
from swift.studio.studio import Studio
from swift.studio.widgets import MAYBE, PRIVATE, draw, entered, shown
from swift.studio.words import Words

ENDINGS = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zst", ".xz", ".bz2"]
SAVE = """text => {
  if (!text) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/yaml'}));
  link.download = 'run.yaml';
  link.click();
  URL.revokeObjectURL(link.href);
}"""
VARIABLES = ("NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES")


class TrainPage:
    """The parts of the page and what each does; drawn into the open tab.

    Args:
        studio: what is done.
        words: the language to speak.
    """

    def __init__(self, studio: Studio, words: Words) -> None:
        self.studio, self.words, self.form = studio, words, TRAIN["sft"]
        self.widgets: dict[str, Any] = {}
        with gr.Row(elem_classes="sides", equal_height=False):
            with gr.Column(scale=7, min_width=340):
                self._basic()
                self._others()
            with gr.Column(scale=5, min_width=340, elem_id="summary"):
                self._summary()
        self.inputs = [self.widgets[field.name] for field in self.form.order]
        self.environment = [self.processes, self.devices]
        self._connect()

    def _basic(self) -> None:
        words = self.words
        for section, names in self.form.basic.items():
            with gr.Column(elem_classes="section"):
                gr.HTML(f"<h2>{views.escaped(words.sections[section])}</h2>")
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        self.widgets[name] = draw(self.form.fields[name], words, self._choices(name))
                if section == "data":
                    with gr.Row(elem_classes="tools"):
                        self.upload = gr.UploadButton(
                            words.upload, file_types=ENDINGS, file_count="multiple", size="sm", elem_id="upload"
                        )
                        self.look = gr.Button(words.preview, size="sm", elem_id="look")
                    self.told = gr.HTML("", elem_id="data-told", elem_classes=MAYBE)
                    self.preview = gr.HTML("", elem_id="preview", elem_classes=MAYBE)

    def _choices(self, name: str) -> list[str] | None:
        if name in ("dataset", "val_dataset"):
            return self.studio.datasets()
        if name == "model_id_or_path":
            return [model for model in self.studio.models() if "/" in model]
        return None

    def _others(self) -> None:
        words, self.accordions = self.words, []
        with gr.Accordion(words.all_options, open=False, elem_id="all-options"):
            gr.HTML(f'<p class="quiet">{views.escaped(words.all_options_hint.format(command=self.form.command))}</p>')
            self.search = gr.Textbox("", label=words.search, placeholder=words.search_hint, elem_id="search")
            self.found = gr.HTML("", elem_id="found", elem_classes=MAYBE)
            for group, fields in self.form.groups.items():
                with gr.Accordion(group_of(group, words.language), open=False) as accordion:
                    self.accordions.append((accordion, fields))
                    for field in fields:
                        self.widgets[field.name] = draw(field, words)

    def _summary(self) -> None:
        words = self.words
        with gr.Column(elem_classes="section"):
            gr.HTML(f"<h2>{views.escaped(words.command)}</h2>")
            self.command = gr.Textbox(
                as_typed(self.form.command, []),
                label=words.command,
                show_label=False,
                interactive=False,
                lines=2,
                max_lines=24,
                buttons=["copy"],
                elem_classes="typed",
                elem_id="command",
            )
            self.problems = gr.HTML("", elem_id="problems", elem_classes=MAYBE)
            with gr.Row(elem_classes="tools"):
                self.yaml = gr.Button(words.yaml, size="sm", elem_id="yaml")
                self.file = gr.Textbox(visible=False, elem_id="yaml-text")
        with gr.Column(elem_classes="section"):
            gr.HTML(f"<h2>{views.escaped(words.estimate)}</h2>")
            self.estimate = gr.HTML(views.notice(words.estimate_wait), elem_id="estimate")
            with gr.Row(elem_classes="tools"):
                self.estimate_now = gr.Button(words.estimate, size="sm", elem_id="estimate-now")
                self.check = gr.Button(words.check, size="sm", elem_id="check")
            self.checked = gr.HTML("", elem_id="checked", elem_classes=MAYBE)
        with gr.Column(elem_classes="section"):
            gr.HTML(f"<h2>{views.escaped(words.sections['run'])}</h2>")
            with gr.Row(elem_classes="fields"):
                self.name = gr.Textbox(
                    "", label=words.run_name, placeholder=words.run_name_hint, max_lines=1, elem_id="run-name"
                )
                self.processes = gr.Textbox(
                    "", label=words.processes, placeholder=words.processes_hint, max_lines=1, elem_id="processes"
                )
                self.devices = gr.Textbox(
                    "", label=words.devices, placeholder=words.devices_hint, max_lines=1, elem_id="devices"
                )
            self.start = gr.Button(words.start, variant="primary", elem_id="start")
            self.started = gr.HTML("", elem_id="started", elem_classes=MAYBE)
        self.output = gr.State("")

    # What happens

    def _connect(self) -> None:
        everything = [*self.inputs, *self.environment]
        changes = [widget.change for widget in everything]
        gr.on(
            changes,
            self._show_command,
            everything,
            [self.command, self.problems],
            queue=False,
            trigger_mode="always_last",
            **PRIVATE,
        )
        one = {"concurrency_limit": 1, "concurrency_id": "look"}
        self.command.change(
            self._estimate_near, self.inputs, self.estimate, trigger_mode="always_last", **one, **PRIVATE
        )
        self.estimate_now.click(lambda: self._busy(self.words.estimating), None, self.estimate, queue=False, **PRIVATE)
        self.estimate_now.click(self._estimate, self.inputs, self.estimate, **one, **PRIVATE)
        self.check.click(lambda: self._busy(self.words.checking), None, self.checked, queue=False, **PRIVATE)
        self.check.click(self._check, self.inputs, self.checked, **one, **PRIVATE)
        self.look.click(lambda: self._busy(self.words.previewing), None, self.preview, queue=False, **PRIVATE)
        self.look.click(self._preview, self.inputs, self.preview, **one, **PRIVATE)
        self.upload.upload(
            self._take, [self.upload, self.widgets["dataset"]], [self.widgets["dataset"], self.told], **PRIVATE
        )
        self.yaml.click(self._yaml, self.inputs, [self.file, self.problems], queue=False, **PRIVATE).then(
            None, self.file, js=SAVE
        )
        searched = [w for _, fields in self.accordions for w in (self.widgets[field.name] for field in fields)]
        self.search.change(
            self._search,
            self.search,
            [self.found, *(accordion for accordion, _ in self.accordions), *searched],
            queue=False,
            trigger_mode="always_last",
            **PRIVATE,
        )
        self.start.click(
            self._start,
            [self.name, *everything],
            [self.started, self.output],
            api_name="start",
            show_progress="hidden",
            concurrency_limit=1,
        )

    def _busy(self, text: str) -> str:
        return views.notice(text, "busy")

    def _split(self, values: tuple[Any, ...]) -> tuple[Entered, dict[str, str]]:
        count = len(self.form.order)
        return entered(self.form, values[:count]), dict(zip(VARIABLES, values[count:], strict=True))

    def _show_command(self, *values: Any) -> tuple[str, str]:
        said, variables = self._split(values)
        typed = as_typed(self.form.command, self.form.words(said), {k: v for k, v in variables.items() if v})
        try:
            self.form.check(said, self.studio.workspace)
            read_environment(variables)
        except SwiftError as error:
            return typed, views.notice(f"{self.words.problems}\n{error}", "note")
        return typed, ""

    def _estimate_near(self, *values: Any) -> str:
        said = entered(self.form, values)
        if not (said.get("model_type") or said.get("model_id_or_path")):
            return views.notice(self.words.estimate_wait)
        if not self.studio.is_near(said):
            return views.notice(self.words.estimate_ask)
        return self._estimate(*values)

    def _estimate(self, *values: Any) -> str:
        try:
            found = self.studio.estimate(self.form, entered(self.form, values))
        except SwiftError as error:
            return views.notice(str(error), "note")
        return views.notice(found, "note") if isinstance(found, str) else views.estimate(found, self.words)

    def _check(self, *values: Any) -> str:
        try:
            found = self.studio.check(self.form, entered(self.form, values))
        except SwiftError as error:
            return views.notice(str(error), "bad")
        if found.code:
            return views.notice(found.error, "bad")
        return views.notice(self.words.checked, "good") + views.log(found.said, self.words)

    def _preview(self, *values: Any) -> str:
        try:
            document = self.studio.preview(self.form, entered(self.form, values))
        except SwiftError as error:
            return views.notice(error.what, "bad")
        return views.page(document, self.words.preview_title)

    def _yaml(self, *values: Any) -> tuple[str, str]:
        try:
            words = self.form.check(entered(self.form, values), self.studio.workspace)
        except SwiftError as error:
            return "", views.notice(f"{self.words.problems}\n{error}", "bad")
        return as_yaml(self.form, words), ""

    def _take(self, files: list[str] | None, chosen: list[str]) -> tuple[Any, str]:
        try:
            taken = [self.studio.workspace.take(file) for file in files or []]
        except SwiftError as error:
            return gr.skip(), views.notice(str(error), "bad")
        told = views.notice(self.words.uploaded.format(path=", ".join(taken)), "good")
        return gr.update(choices=self.studio.datasets(), value=[*(chosen or []), *taken]), told

    def _search(self, text: str) -> list[Any]:
        hits = {f.name: matches(f, self.words.language, text) for _, fields in self.accordions for f in fields}
        found = views.notice(self.words.found.format(count=sum(hits.values()))) if text.strip() else ""
        groups = [
            gr.update(
                visible=any(hits[f.name] for f in fields),
                open=bool(text.strip()) and any(hits[f.name] for f in fields),
            )
            for _, fields in self.accordions
        ]
        return [found, *groups, *(gr.update(visible=hits[f.name]) for _, fields in self.accordions for f in fields)]

    def _start(self, name: str, *values: Any) -> tuple[str, str]:
        said, variables = self._split(values)
        try:
            output = self.studio.start_training(self.form, said, variables, name or "")
        except SwiftError as error:
            return views.notice(str(error), "bad"), ""
        return views.notice(self.words.started.format(path=output), "good"), output

    def fill(self, options: Entered) -> list[Any]:
        """The values of all widgets for these options."""
        return shown(self.form, options)
