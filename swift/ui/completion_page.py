"""A box to begin a text in, and one or two in which a model goes on."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from swift.ui.answers import COLUMNS
from swift.ui.parts import AT_ONCE, PRIVATE, Parts, person, read_settings
from swift.ui.talk import Round, Talk, View
from swift.ui.words import LANGUAGES, Words


class CompletionPage:
    """The boxes and what each does; drawn into the open Blocks."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.answers = parts, parts.answers
        self._draw()
        parts.draw_panel(with_system=False)
        self.remembered: list[Any] = list(parts.models)
        self.outputs = [*self.continued, self.status, self.run, self.stop, self.clear]
        self._connect()

    def show(self, view: View, words: Words, models: list[str]) -> list[Any]:
        """A view as values of `outputs`."""
        turn = view.talk.all[-1] if view.talk.all else Round("")
        texts = [reply.text for reply in turn.replies] + [""] * COLUMNS
        facts = [reply.facts.line(words) for reply in turn.replies if reply.facts]
        boxes = [
            gr.update(value=texts[k], visible=k < len(models), label=self._label(k, words, models))
            for k in range(len(self.continued))
        ]
        status = html.escape(view.status) or "<br>".join(html.escape(line) for line in facts)
        return [*boxes, status, *(gr.update(interactive=on) for on in (not view.busy, view.busy, not view.busy))]

    def again(self, words: Words, *picked: str) -> list[Any]:
        """What another language changes: the labels of the boxes."""
        models, others = self.parts.chosen(picked), len(self.outputs) - len(self.continued)
        labels = [gr.update(label=self._label(k, words, models)) for k in range(len(self.continued))]
        return [*labels, *[gr.skip()] * others]

    def _label(self, column: int, words: Words, models: list[str]) -> str:
        return models[column] if column < len(models) > 1 else words.completion

    def _draw(self) -> None:
        speak = self.parts.speak
        tall: dict[str, Any] = {"lines": 14, "max_lines": 30}
        with gr.Row(elem_id="boxes", scale=1, equal_height=True):
            self.text = speak(
                gr.Textbox, lambda words: {"label": words.text, "placeholder": words.text_hint}, autofocus=True,
                elem_id="text", **tall,
            )  # fmt: skip
            self.continued = [
                speak(
                    gr.Textbox, lambda words: {"label": words.completion}, interactive=False, buttons=["copy"],
                    elem_id=f"completion{k or ''}", visible=not k, **tall,
                )
                for k in range(min(COLUMNS, len(self.answers.models)))
            ]  # fmt: skip
        with gr.Column(elem_id="foot", scale=0):
            self.status = gr.HTML("", elem_id="status")
            with gr.Row(elem_id="tools"):
                self.run = speak(gr.Button, lambda w: {"value": w.run}, size="sm", variant="primary", elem_id="run")
                self.stop = speak(
                    gr.Button, lambda w: {"value": w.stop}, size="sm", variant="stop", interactive=False, elem_id="stop"
                )
                self.clear = speak(
                    gr.Button, lambda w: {"value": w.clear}, size="sm", variant="secondary", elem_id="clear"
                )

    def _connect(self) -> None:
        parts, answers = self.parts, self.answers
        going = gr.State(Talk())
        inputs, outputs = [parts.lang, *parts.models], [going, *self.outputs]
        number = len(parts.models)

        def begin(request: gr.Request, text: str, lang: str, *picked: str) -> list[Any]:
            view = answers.ask(text, Talk(), person(request, lang))
            return [view.talk, *self.show(view, LANGUAGES[lang], parts.chosen(picked))]

        def run(request: gr.Request, talk: Talk, lang: str, *values: Any) -> Iterator[list[Any]]:
            models, settings = parts.chosen(values[:number]), read_settings(["", *values[number:]])
            if talk.going is None:
                yield [gr.skip()] * len(outputs)
            for view in answers.answer(talk, settings, person(request, lang), models):
                yield [view.talk, *self.show(view, LANGUAGES[lang], models)]

        def recover(request: gr.Request, talk: Talk, lang: str, *picked: str) -> list[Any]:
            view = answers.recover(talk, LANGUAGES[lang])
            if view is None:
                return [gr.skip()] * len(outputs)
            return [view.talk, *self.show(view, LANGUAGES[lang], parts.chosen(picked))]

        def empty(lang: str, *picked: str) -> list[Any]:
            return ["", Talk(), *self.show(View(Talk()), LANGUAGES[lang], parts.chosen(picked))]

        def stop(request: gr.Request) -> None:
            answers.running.stop(str(request.session_hash))

        begun = self.run.click(begin, [self.text, *inputs], outputs, **AT_ONCE)
        written = begun.then(run, [going, *inputs, *parts.settings], outputs, **PRIVATE)
        written.then(recover, [going, *inputs], outputs, **AT_ONCE)
        self.stop.click(stop, queue=False, **PRIVATE)
        self.clear.click(empty, inputs, [self.text, *outputs], **AT_ONCE)
        for picker in parts.models:
            picker.input(lambda lang, *picked: empty(lang, *picked)[1:], inputs, outputs, **AT_ONCE)
