"""The chat: one conversation, or the answers of two models side by side."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from swift.ui.answers import COLUMNS
from swift.ui.parts import AT_ONCE, PRIVATE, Parts, person, read_settings
from swift.ui.shown import messages_of
from swift.ui.talk import Talk, View, write_talk
from swift.ui.words import LANGUAGES, Words

TURNS_SCRIPT = Path(__file__).with_name("turns.js").read_text(encoding="utf-8")
SAVE_SCRIPT = """watch("value", () => {
    if (!props.value) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([props.value.text], { type: "application/json" }));
    link.download = props.value.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});"""


class ChatPage:
    """The parts of a chat and what each does; drawn into the open Blocks."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.answers = parts, parts.answers
        self.talk = gr.State(Talk())
        self.chats: list[Any] = []
        self.names: list[Any] = []
        self.columns: list[Any] = []
        with gr.Row(elem_id="chats", scale=1):
            for k in range(min(COLUMNS, len(self.answers.models))):
                self._draw_column(k)
        self._draw_foot()
        self.turns = gr.HTML(
            self._turns(View(Talk()), parts.words), html_template="", js_on_load=TURNS_SCRIPT, elem_id="turns"
        )
        self.file = gr.HTML(None, html_template="", js_on_load=SAVE_SCRIPT, elem_id="file")
        parts.draw_panel(with_system=True)
        self.remembered = [self.talk, *parts.models]
        self.outputs = [
            self.talk, self.turns, self.box, self.status, self.undo, self.retry, self.clear,
            *self.chats, *self.names, *self.columns,
        ]  # fmt: skip
        self._connect()

    def show(self, view: View, words: Words, models: Sequence[str]) -> list[Any]:
        """A view as values of `outputs`."""
        talk, some, busy = view.talk, bool(view.talk.rounds), view.busy
        box: dict[str, Any] = {} if view.box is None else {"value": view.box}
        columns = range(len(self.chats))
        read = self.answers.read_calls
        return [
            talk,
            self._turns(view, words),
            gr.update(submit_btn=not busy, stop_btn=busy, placeholder=self._placeholder(talk, words), **box),
            gr.update(value=html.escape(view.status)),
            *(gr.update(interactive=some and not busy) for _ in range(3)),
            *(
                gr.update(value=messages_of(talk, k, words, read)[0], editable=None if busy else "user")
                for k in columns
            ),
            *(html.escape(name) if len(models) > 1 else "" for name in [*models, *models][: len(columns)]),
            *(gr.update(visible=k < len(models)) for k in columns),
        ]

    def again(self, words: Words, talk: Talk, *picked: str) -> list[Any]:
        """What is shown, in another language or with other models."""
        return self.show(View(talk, busy=talk.going is not None), words, self.parts.chosen(picked))

    def _draw_column(self, number: int) -> None:
        name = self.parts.name

        def say(words: Words) -> dict[str, Any]:
            said = self.answers.args.examples or words.examples
            greeting = f"## {html.escape(words.greeting.format(name=name))}"
            return {"placeholder": greeting, "examples": [{"text": text} for text in said]}

        with gr.Column(visible=not number, min_width=280, elem_classes="seat") as column:
            self.names.append(gr.HTML("", elem_classes="which", padding=False))
            chat = self.parts.speak(
                gr.Chatbot, say, elem_classes="talk", elem_id=f"chat{number or ''}", show_label=False, container=False,
                scale=1, height="100%", layout="bubble", buttons=["copy"], allow_file_downloads=False, editable="user",
                feedback_options=None,
            )  # fmt: skip
            self.chats.append(chat)
        self.columns.append(column)

    def _draw_foot(self) -> None:
        speak = self.parts.speak
        small: dict[str, Any] = {"size": "sm", "variant": "secondary", "interactive": False}
        with gr.Column(elem_id="foot", scale=0):
            self.status = gr.HTML("", elem_id="status")
            self.box = speak(
                gr.Textbox, lambda words: {"placeholder": words.ask, "label": words.ask}, elem_id="box",
                show_label=False, container=False, lines=1, max_lines=10, autofocus=True, submit_btn=True,
            )  # fmt: skip
            with gr.Row(elem_id="tools"):
                self.undo = speak(gr.Button, lambda words: {"value": words.undo}, elem_id="undo", **small)
                self.retry = speak(gr.Button, lambda words: {"value": words.retry}, elem_id="retry", **small)
                self.clear = speak(gr.Button, lambda words: {"value": words.clear}, elem_id="clear", **small)

    def _turns(self, view: View, words: Words) -> dict[str, Any]:
        """What the script needs that stands below the messages."""
        facts = [
            [reply.facts.line(words) if (reply := turn.reply(k)).facts else "" for turn in view.talk.rounds]
            for k in range(len(self.chats))
        ]
        return {
            "labels": {"delete": words.delete, "retry": words.retry, "send": words.send, "stop": words.stop},
            "busy": view.busy,
            "facts": facts,
        }

    def _placeholder(self, talk: Talk, words: Words) -> str:
        waited = self.answers.awaited(talk)
        return words.tool_answer.format(name=waited[0].name) if waited else words.ask

    def _connect(self) -> None:
        talks, parts = self.answers, self.parts
        asked = self._on(self.box.submit, lambda talk, who, text: talks.ask(text, talk, who), [self.box])
        again = self._on(self.retry.click, talks.retry)
        done = [self._on_turn(self.turns.click), *(self._on_edit(k, chat) for k, chat in enumerate(self.chats))]
        chosen = [self._on_example(chat) for chat in self.chats]
        for begun in (asked, again, *done, *chosen):
            answered = begun.then(self._answer, self._inputs(parts.settings), self.outputs, **PRIVATE)
            self._on(answered.then, lambda talk, who: talks.recover(talk, who.words))
        self._on(self.undo.click, lambda talk, who: talks.undo(talk))
        self._on(self.clear.click, lambda talk, who: View(Talk()))
        for picker in parts.models:
            self._on(picker.input, lambda talk, who: View(talk, busy=talk.going is not None))
        self.box.stop(self._stop, queue=False, **PRIVATE)
        self._connect_files()

    def _inputs(self, more: Sequence[Any] = ()) -> list[Any]:
        return [self.talk, self.parts.lang, *self.parts.models, *more]

    def _split(self, values: Sequence[Any]) -> tuple[list[str], Sequence[Any]]:
        number = len(self.parts.models)
        return self.parts.chosen(values[:number]), values[number:]

    def _on(self, event: Callable[..., Any], act: Callable[..., View | None], more: Sequence[Any] = ()) -> Any:
        """Show what `act` makes of the conversation, the person and the values of `more`; None shows nothing."""

        def run(request: gr.Request, talk: Talk, lang: str, *values: Any) -> list[Any]:
            models, rest = self._split(values)
            return self._shown(act(talk, person(request, lang), *rest), lang, models)

        return event(run, self._inputs(more), self.outputs, **AT_ONCE)

    def _shown(self, view: View | None, lang: str, models: Sequence[str]) -> list[Any]:
        return [gr.skip()] * len(self.outputs) if view is None else self.show(view, LANGUAGES[lang], models)

    def _on_turn(self, event: Callable[..., Any]) -> Any:
        def run(data: gr.EventData, request: gr.Request, talk: Talk, lang: str, *picked: str) -> list[Any]:
            number, who = int(data.number), person(request, lang)
            retry = data.action == "retry"
            view = self.answers.retry(talk, who, number) if retry else self.answers.delete(talk, number)
            return self._shown(view, lang, self.parts.chosen(picked))

        return event(run, self._inputs(), self.outputs, **AT_ONCE)

    def _on_edit(self, column: int, chat: Any) -> Any:
        def run(data: gr.EditData, request: gr.Request, talk: Talk, lang: str, *picked: str) -> list[Any]:
            numbers = messages_of(talk, column, LANGUAGES[lang], self.answers.read_calls)[1]
            view = self.answers.edit(
                talk,
                person(request, lang),
                numbers[data.index if isinstance(data.index, int) else data.index[0]],
                str(data.value),
            )
            return self._shown(view, lang, self.parts.chosen(picked))

        return chat.edit(run, self._inputs(), self.outputs, **AT_ONCE)

    def _on_example(self, chat: Any) -> Any:
        def run(data: gr.SelectData, request: gr.Request, talk: Talk, lang: str, *picked: str) -> list[Any]:
            view = self.answers.ask(str(data.value["text"]), talk, person(request, lang))
            return self._shown(view, lang, self.parts.chosen(picked))

        return chat.example_select(run, self._inputs(), self.outputs, **AT_ONCE)

    def _answer(self, request: gr.Request, talk: Talk, lang: str, *values: Any) -> Iterator[list[Any]]:
        models, settings = self._split(values)
        if talk.going is None:  # a generator that gives nothing would empty the page
            yield [gr.skip()] * len(self.outputs)
        for view in self.answers.answer(talk, read_settings(settings), person(request, lang), models):
            yield self.show(view, LANGUAGES[lang], models)

    def _stop(self, request: gr.Request) -> None:
        self.answers.running.stop(str(request.session_hash))

    def _connect_files(self) -> None:
        system = self.parts.settings[0]

        def save(talk: Talk, system: str) -> Any:
            return {"name": "conversation.json", "text": write_talk(talk, system)} if talk.rounds else gr.skip()

        def load(data: gr.EventData, request: gr.Request, talk: Talk, lang: str, *picked: str) -> list[Any]:
            view, found = self.answers.open(str(data.text), talk, LANGUAGES[lang])
            shown = self._shown(view, lang, self.parts.chosen(picked))
            return [gr.skip() if found is None else found, *shown]

        self.parts.head.select(save, [self.talk, system], self.file, **AT_ONCE)
        self.parts.head.upload(load, self._inputs(), [system, *self.outputs], **AT_ONCE)
