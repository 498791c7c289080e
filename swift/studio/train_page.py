"""The page to begin a run on: the form, the command it makes, what it takes, and the button."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from swift.errors import SwiftError
from swift.studio import views
from swift.studio.form import Entered, Field, Form, as_typed, as_yaml, plainly, read_environment
from swift.studio.labels import group_of, matches
from swift.studio.offers import TRAIN, all_fields, all_groups, all_sections
from swift.studio.studio import Studio
from swift.studio.widgets import MAYBE, PRIVATE, draw, draw_command, draw_copy, named
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
OFFERED = ("dataset", "val_dataset", "model_id_or_path")
ESTIMATED = ("sft", "pt")
VARIABLES = ("NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES")


class TrainPage:
    """The parts of the page and what each does; drawn into the open tab.

    Args:
        studio: what is done.
        words: the language to speak.
    """

    def __init__(self, studio: Studio, words: Words) -> None:
        self.studio, self.words = studio, words
        self.fields = all_fields()
        self.widgets: dict[str, Any] = {}
        with gr.Row(elem_classes="sides", equal_height=False):
            with gr.Column(scale=7, min_width=340):
                self._basic()
                self._others()
            with gr.Column(scale=5, min_width=340, elem_id="summary"):
                self._summary()
        self.inputs = [self.kind, *(self.widgets[name] for name in self.fields)]
        self.environment = [self.processes, self.devices]
        self._connect()

    def _basic(self) -> None:
        words = self.words
        kinds = [(text, name) for name, text in words.kinds.items()]
        with gr.Column(elem_classes="section"):
            self.kind = gr.Radio(kinds, value="sft", label=words.kind, elem_id="kind")
        self.sections: dict[str, Any] = {}
        for section, names in all_sections().items():
            with gr.Column(elem_classes="section", visible=section in TRAIN["sft"].basic) as self.sections[section]:
                gr.HTML(f"<h2>{views.escaped(words.sections[section])}</h2>")
                if section == "data":
                    self._data(names.pop(0))
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        self.widgets[name] = self._draw(self.fields[name])

    def _data(self, name: str) -> None:
        """The data sets, and what can be done with them."""
        with gr.Row(elem_classes="fields"):
            self.widgets[name] = self._draw(self.fields[name])
        with gr.Row(elem_classes="tools"):
            self.upload = gr.UploadButton(
                self.words.upload, file_types=ENDINGS, file_count="multiple", size="sm", elem_id="upload"
            )
            self.look = gr.Button(self.words.preview, size="sm", elem_id="look")
        self.told = gr.HTML("", elem_id="data-told", elem_classes=MAYBE)
        self.preview = gr.HTML("", elem_id="preview", elem_classes=MAYBE)

    def _draw(self, field: Field) -> Any:
        return draw(field, self.words, self._choices(field.name), visible=field.name in TRAIN["sft"].fields)

    def _choices(self, name: str) -> list[str] | None:
        if name not in OFFERED:
            return None
        if name == "model_id_or_path":
            return [model for model in self.studio.models() if "/" in model]
        return self.studio.datasets()

    def _others(self) -> None:
        words, self.accordions = self.words, []
        with gr.Accordion(words.all_options, open=False, elem_id="all-options"):
            gr.HTML(f'<p class="quiet">{views.escaped(words.all_options_hint)}</p>')
            self.search = gr.Textbox("", label=words.search, placeholder=words.search_hint, elem_id="search")
            self.found = gr.HTML("", elem_id="found", elem_classes=MAYBE)
            for group, fields in all_groups().items():
                here = any(field.name in TRAIN["sft"].fields for field in fields)
                with gr.Accordion(group_of(group, words.language), open=False, visible=here) as accordion:
                    self.accordions.append((accordion, fields))
                    for field in fields:
                        self.widgets[field.name] = self._draw(field)

    def _summary(self) -> None:
        words = self.words
        with gr.Column(elem_classes="section"):
            gr.HTML(f"<h2>{views.escaped(words.command)}</h2>")
            self.command = draw_command(as_typed("sft", []), words, "command")
            self.problems = gr.HTML("", elem_id="problems", elem_classes=MAYBE)
            with gr.Row(elem_classes="tools"):
                draw_copy(self.command, words, "copy")
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
        self.output, self.before = gr.State(""), gr.State("sft")

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
            [self.search, self.kind],
            [self.found, *(accordion for accordion, _ in self.accordions), *searched],
            queue=False,
            trigger_mode="always_last",
            **PRIVATE,
        )
        everything_there = [*self.sections.values(), *(accordion for accordion, _ in self.accordions)]
        self.kind.change(
            self._switch,
            [self.kind, self.before, *self.inputs[1:]],
            [self.before, *everything_there, *self.inputs[1:]],
            queue=False,
            **PRIVATE,
        )
        self.start.click(
            self._start,
            [self.name, *everything],
            [self.started, self.output],
            concurrency_limit=1,
            **PRIVATE,
        )

    def _busy(self, text: str) -> str:
        return views.notice(text, "busy")

    def _entered(self, values: Sequence[Any]) -> tuple[Form, Entered]:
        """The form of the kind that is chosen, and what all widgets hold."""
        kind, *texts = values
        return TRAIN[kind], dict(zip(self.fields, texts, strict=True))

    def _split(self, values: Sequence[Any]) -> tuple[Form, Entered, dict[str, str]]:
        count = len(VARIABLES)
        return *self._entered(values[:-count]), dict(zip(VARIABLES, values[-count:], strict=True))

    def _show_command(self, *values: Any) -> tuple[str, str]:
        form, said, variables = self._split(values)
        typed = as_typed(form.command, form.words(said), {k: v for k, v in variables.items() if v})
        try:
            form.check(said, self.studio.workspace)
            read_environment(variables)
        except SwiftError as error:
            return typed, views.notice(f"{self.words.problems}\n{plainly(error)}")
        return typed, ""

    def _switch(self, kind: str, before: str, *texts: Any) -> list[Any]:
        """The widgets for another kind of training: what was entered stays, defaults become its own."""
        old, new, updates = TRAIN[before], TRAIN[kind], []
        for name, text in zip(self.fields, texts, strict=True):
            field = new.fields.get(name)
            if field is None:
                updates.append(gr.update(visible=False))
                continue
            told: dict[str, Any] = {"visible": True}
            if name not in old.fields or text == old.fields[name].default:
                told["value"] = field.default
            if field.widget == "choice" and self._choices(name) is None:
                told["choices"] = named(field.choices, self.words)
            updates.append(gr.update(**told))
        sections = [gr.update(visible=section in new.basic) for section in self.sections]
        return [kind, *sections, *self._groups(new, ""), *updates]

    def _groups(self, form: Form, text: str) -> list[Any]:
        """The headings under which an option of the form fits a search."""
        shown = [any(self._fits(form, field, text) for field in fields) for _, fields in self.accordions]
        return [gr.update(visible=some, open=some and bool(text.strip())) for some in shown]

    def _fits(self, form: Form, field: Field, text: str) -> bool:
        return field.name in form.fields and matches(field, self.words.language, text)

    def _search(self, text: str, kind: str) -> list[Any]:
        form = TRAIN[kind]
        hits = [gr.update(visible=self._fits(form, f, text)) for _, fields in self.accordions for f in fields]
        count = sum(self._fits(form, f, text) for _, fields in self.accordions for f in fields)
        found = views.notice(self.words.found.format(count=count)) if text.strip() else ""
        return [found, *self._groups(form, text), *hits]

    def _yaml(self, *values: Any) -> tuple[str, str]:
        form, said = self._entered(values)
        try:
            words = form.check(said, self.studio.workspace)
        except SwiftError as error:
            return "", views.notice(f"{self.words.problems}\n{plainly(error)}", "bad")
        return as_yaml(form, words), ""

    def _estimate_near(self, *values: Any) -> str:
        form, said = self._entered(values)
        if not (said.get("model_type") or said.get("model_id_or_path")):
            return views.notice(self.words.estimate_wait)
        if form.command not in ESTIMATED:
            return views.notice(self.words.estimate_other)
        if not self.studio.is_near(said):
            return views.notice(self.words.estimate_ask)
        return self._estimate(*values)

    def _estimate(self, *values: Any) -> str:
        form, said = self._entered(values)
        if form.command not in ESTIMATED:
            return views.notice(self.words.estimate_other)
        try:
            found = self.studio.estimate(form, said)
        except SwiftError as error:
            return views.notice(plainly(error))
        return views.notice(found) if isinstance(found, str) else views.estimate(found, self.words)

    def _check(self, *values: Any) -> str:
        try:
            found = self.studio.check(*self._entered(values))
        except SwiftError as error:
            return views.notice(plainly(error), "bad")
        if found.code:
            return views.notice(found.error, "bad")
        return views.notice(self.words.checked, "good") + views.log(found.said, self.words)

    def _preview(self, *values: Any) -> str:
        try:
            document = self.studio.preview(*self._entered(values))
        except SwiftError as error:
            return views.notice(error.what, "bad")
        return views.page(document, self.words.preview_title)

    def _take(self, files: list[str] | None, chosen: list[str]) -> tuple[Any, str]:
        taken, errors = [], []
        for file in files or []:
            try:
                taken.append(self.studio.workspace.take(file))
            except (SwiftError, OSError) as error:
                errors.append(plainly(error) if isinstance(error, SwiftError) else str(error))
        told = views.notice(self.words.uploaded.format(path=", ".join(taken)), "good") if taken else ""
        told += views.notice("\n".join(errors), "bad") if errors else ""
        if not taken:
            return gr.skip(), told
        return gr.update(choices=self.studio.datasets(), value=[*(chosen or []), *taken]), told

    def _start(self, name: str, *values: Any) -> tuple[str, str]:
        form, said, variables = self._split(values)
        try:
            output = self.studio.start_training(form, said, variables, name or "")
        except SwiftError as error:
            return views.notice(plainly(error), "bad"), ""
        return views.notice(self.words.started.format(path=output), "good"), output

    @property
    def offered(self) -> list[Any]:
        """The widgets whose choices are what lies in the workspace."""
        return [self.widgets[name] for name in OFFERED]

    def offer(self) -> list[Any]:
        """What they offer now."""
        return [gr.update(choices=self._choices(name)) for name in OFFERED]

    def fill(self, kind: str, options: Entered) -> list[Any]:
        """The values of the kind and of all widgets for these options."""
        others = {name: field.default for name, field in self.fields.items()}
        return [kind, *({**others, **options}[name] for name in self.fields)]
