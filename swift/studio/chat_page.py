"""The page to talk to a checkpoint or model on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from swift.errors import SwiftError
from swift.studio import views
from swift.studio.studio import Studio
from swift.studio.talks import Talks
from swift.studio.widgets import MAYBE, PRIVATE
from swift.studio.words import Words

Messages = list[dict[str, Any]]


class ChatPage:
    """The parts of the page and what each does; drawn into the open tab."""

    def __init__(self, studio: Studio, talks: Talks, words: Words) -> None:
        self.studio, self.talks, self.words = studio, talks, words
        with gr.Row(elem_classes="sides", equal_height=False):
            with gr.Column(scale=4, min_width=300), gr.Column(elem_classes="section"):
                self.chosen = gr.Dropdown(
                    studio.models(),
                    value=None,
                    label=words.checkpoint,
                    info=words.checkpoint_hint,
                    allow_custom_value=True,
                    elem_id="chat-model",
                )
                with gr.Row(elem_classes="tools"):
                    self.load = gr.Button(words.load, size="sm", variant="primary", elem_id="load")
                    self.unload = gr.Button(words.unload, size="sm", elem_id="unload")
                self.told = gr.HTML(views.notice(words.not_loaded), elem_id="chat-told")
                self.system = gr.Textbox(
                    "", label=words.system, placeholder=words.system_hint, lines=2, max_lines=8, elem_id="chat-system"
                )
                self.temperature = gr.Slider(0, 2, 0.3, step=0.05, label=words.temperature, elem_id="chat-temperature")
                self.tokens = gr.Slider(1, 4096, 512, step=1, label=words.new_tokens, elem_id="chat-tokens")
            with gr.Column(scale=8, min_width=340):
                self.chat = gr.Chatbot(
                    elem_id="chat",
                    show_label=False,
                    placeholder=words.chat_empty,
                    height=460,
                    buttons=["copy"],
                    layout="bubble",
                    allow_file_downloads=False,
                    feedback_options=None,
                )
                self.status = gr.HTML("", elem_id="chat-status", elem_classes=MAYBE)
                self.box = gr.Textbox(
                    elem_id="box",
                    label=words.message,
                    show_label=False,
                    placeholder=words.message,
                    lines=1,
                    max_lines=8,
                    submit_btn=words.send,
                )
                with gr.Row(elem_classes="tools"):
                    self.clear = gr.Button(words.clear, size="sm", elem_id="clear")
        self._connect()

    def _connect(self) -> None:
        choose = {"queue": False, **PRIVATE}
        self.chosen.focus(lambda: gr.update(choices=self.studio.models()), None, self.chosen, **choose)
        self.load.click(self._begin, self.chosen, self.told, **choose).then(
            self._load, self.chosen, self.told, concurrency_limit=2, **PRIVATE
        )
        self.unload.click(self._unload, self.chosen, self.told, **PRIVATE)
        asked = self.box.submit(self._ask, [self.box, self.chat], [self.box, self.chat], **choose)
        answered = asked.then(
            self._answer,
            [self.chosen, self.chat, self.system, self.temperature, self.tokens],
            [self.chat, self.status, self.box],
            concurrency_limit=16,
            **PRIVATE,
        )
        answered.then(lambda: self._buttons(busy=False), None, self.box, **choose)
        self.box.stop(self._stop, **choose)
        self.clear.click(lambda: ([], ""), None, [self.chat, self.status], **choose)

    def _begin(self, chosen: str | None) -> Any:
        return views.notice(self.words.loading.format(name=chosen), "busy") if chosen else gr.skip()

    def _load(self, chosen: str | None) -> str:
        if not chosen:
            return views.notice(self.words.not_loaded)
        try:
            self.talks.load(chosen)
        except SwiftError as error:
            return views.notice(error.what, "bad")
        return views.notice(self.words.loaded.format(name=chosen), "good")

    def _unload(self, chosen: str | None) -> str:
        self.talks.unload(chosen or "")
        return views.notice(self.words.unloaded)

    def _buttons(self, *, busy: bool, **more: Any) -> Any:
        """The box with the button that sends, or the one that ends an answer."""
        words = self.words
        return gr.update(submit_btn=False if busy else words.send, stop_btn=words.end if busy else False, **more)

    def _ask(self, text: str, messages: Messages) -> tuple[Any, Any]:
        if not text.strip():
            return gr.skip(), gr.skip()
        return self._buttons(busy=True, value=""), [*messages, {"role": "user", "content": text}]

    def _answer(
        self,
        chosen: str | None,
        messages: Messages,
        system: str,
        heat: float,
        tokens: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, str, Any]]:
        rest = self._buttons(busy=False)
        if not messages or messages[-1]["role"] != "user":
            yield gr.skip(), "", rest
            return
        *before, last = [(message["role"], text_of(message)) for message in messages]
        history = [[asked[1], said[1]] for asked, said in zip(before[::2], before[1::2], strict=False)]
        began, text, person = time.monotonic(), "", str(request.session_hash)
        try:
            pieces = self.talks.answer(chosen or "", last[1], history, system, heat, int(tokens), person)
            for text in pieces:
                yield [*messages, {"role": "assistant", "content": text}], quiet(self.words.answering), gr.skip()
        except SwiftError as error:
            again = self._buttons(busy=False, value=last[1])
            yield messages[:-1], views.notice(error.what, "bad"), again
            return
        stopped = self.talks.stops[person].is_set() if person in self.talks.stops else True
        facts = self.words.answered.format(seconds=time.monotonic() - began)
        status = f"{facts} · {self.words.answer_stopped}" if stopped else facts
        shown = [*messages, {"role": "assistant", "content": text}] if text else messages[:-1]
        yield shown, quiet(status), rest

    def _stop(self, request: gr.Request) -> None:
        self.talks.stop(str(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """End what is written for somebody who is gone."""
        self.talks.leave(str(request.session_hash))


def text_of(message: dict[str, Any]) -> str:
    """What a message says, however gradio hands it over."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)


def quiet(text: str) -> str:
    """A line below the conversation."""
    return f'<p class="quiet">{views.escaped(text)}</p>'
