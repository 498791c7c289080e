"""How the page looks, and the server that shows it: the one module that knows gradio."""

from __future__ import annotations

import html
import logging
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import networking
from gradio.themes import Base
from starlette.middleware.trustedhost import TrustedHostMiddleware

from swift.errors import UnavailableError
from swift.ui.answers import Answers, Settings, Talk, View
from swift.ui.serving import Passwords, address_of, may_enter

STYLE = Path(__file__).with_name("page.css")
FONT = ("ui-sans-serif", "system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
REASONING = [("<think>", "</think>")]
WAITING_PEOPLE = 64
SECONDS_TO_CLOSE = 3
CLOSE_PANEL_ON_PHONES = "() => { if (innerWidth < 768) document.querySelector('#side .toggle-button')?.click() }"
# Nothing is loaded from elsewhere, whatever a model writes: a picture in an answer would tell its server of it.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
Message = Mapping[str, Any]


def build(answers: Answers, name: str, details: Sequence[str]) -> gr.Blocks:
    """The page: a chat, or two boxes for a template that completes text."""
    blocks = gr.Blocks(title=f"{name} · swift", analytics_enabled=False, fill_height=True)
    with blocks:
        gr.HTML(
            f"<h1>{html.escape(name)}</h1><p>{' · '.join(html.escape(text) for text in details)}</p>",
            elem_id="head",
        )
        (CompletionPage if answers.template.generation else ChatPage)(answers, name)
        blocks.unload(_leave(answers))
        blocks.load(None, js=CLOSE_PANEL_ON_PHONES)
    blocks.queue(max_size=WAITING_PEOPLE, default_concurrency_limit=answers.args.concurrency)
    return blocks


class ChatPage:
    """The parts of a chat and what each does; drawn into the open Blocks."""

    def __init__(self, answers: Answers, name: str) -> None:
        self.answers, words = answers, answers.words
        self.talk = gr.State(Talk())
        self.chat = gr.Chatbot(
            elem_id="chat",
            show_label=False,
            container=False,
            scale=1,
            height="100%",
            layout="bubble",
            buttons=["copy"],
            placeholder=html.escape(words.greeting.format(name=name)),
            allow_file_downloads=False,
            reasoning_tags=REASONING,
            feedback_options=None,
        )
        with gr.Column(elem_id="foot", scale=0):
            self.status = gr.HTML("", elem_id="status")
            self.box = gr.Textbox(
                elem_id="box",
                show_label=False,
                container=False,
                placeholder=words.ask,
                lines=1,
                max_lines=10,
                autofocus=True,
                submit_btn=True,
            )
            with gr.Row(elem_id="tools"):
                self.undo = gr.Button(words.undo, size="sm", variant="secondary", interactive=False, elem_id="undo")
                self.retry = gr.Button(words.retry, size="sm", variant="secondary", interactive=False, elem_id="retry")
                self.clear = gr.Button(words.clear, size="sm", variant="secondary", interactive=False, elem_id="clear")
        self.settings = draw_settings(answers, with_system=True)
        self._connect()

    def show(self, view: View) -> list[Any]:
        """A view as values of `_outputs`."""
        some, busy = bool(view.talk.rounds), view.busy
        box: dict[str, Any] = {} if view.box is None else {"value": view.box}
        return [
            view.talk,
            view.talk.messages(),
            gr.update(submit_btn=not busy, stop_btn=busy, **box),
            gr.update(value=html.escape(view.status)),
            *(gr.update(interactive=some and not busy) for _ in range(3)),
        ]

    def _connect(self) -> None:
        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = [self.talk, self.chat, self.box, self.status, self.undo, self.retry, self.clear]
        at_once = {"outputs": outputs, "queue": False, **private}

        def ask(text: str, talk: Talk, request: gr.Request) -> list[Any]:
            return self.show(self.answers.ask(text, talk, person(request)))

        def retry(talk: Talk, request: gr.Request) -> list[Any]:
            return self.show(self.answers.retry(talk, person(request)))

        def answer(talk: Talk, request: gr.Request, *settings: Any) -> Iterator[list[Any]]:
            for view in self.answers.answer(talk, read_settings(settings), person(request)):
                yield self.show(view)

        def recover(talk: Talk) -> Any:
            view = self.answers.recover(talk)
            return [gr.skip()] * len(outputs) if view is None else self.show(view)

        asked = self.box.submit(ask, [self.box, self.talk], **at_once)
        again = self.retry.click(retry, [self.talk], **at_once)
        for begun in (asked, again):
            answered = begun.then(answer, [self.talk, *self.settings], outputs, **private)
            answered.then(recover, [self.talk], **at_once)
        self.box.stop(_stop(self.answers), queue=False, **private)
        self.undo.click(lambda talk: self.show(self.answers.undo(talk)), [self.talk], **at_once)
        self.clear.click(lambda: self.show(View(Talk())), **at_once)


class CompletionPage:
    """A box to begin a text in, and one in which the model goes on; drawn into the open Blocks."""

    def __init__(self, answers: Answers, name: str) -> None:
        self.answers, words = answers, answers.words
        with gr.Row(elem_id="boxes", scale=1, equal_height=True):
            self.text = gr.Textbox(
                label=words.text, placeholder=words.text_hint, lines=14, max_lines=30, autofocus=True, elem_id="text"
            )
            self.completion = gr.Textbox(
                label=words.completion,
                lines=14,
                max_lines=30,
                interactive=False,
                buttons=["copy"],
                elem_id="completion",
            )
        with gr.Column(elem_id="foot", scale=0):
            self.status = gr.HTML("", elem_id="status")
            with gr.Row(elem_id="tools"):
                self.run = gr.Button(words.run, size="sm", variant="primary", elem_id="run")
                self.stop = gr.Button(words.stop, size="sm", variant="stop", interactive=False, elem_id="stop")
                self.clear = gr.Button(words.clear, size="sm", variant="secondary", elem_id="clear")
        self.settings = draw_settings(answers, with_system=False)
        self._connect()

    def show(self, completion: str, status: str, busy: bool) -> list[Any]:
        """The outputs of every event."""
        return [completion, gr.update(value=html.escape(status)), *self._buttons(busy)]

    def _buttons(self, busy: bool) -> list[Any]:
        return [gr.update(interactive=busy if button is self.stop else not busy) for button in self.buttons]

    def _connect(self) -> None:
        self.buttons = [self.run, self.stop, self.clear]
        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = [self.completion, self.status, *self.buttons]

        def begin(request: gr.Request) -> list[Any]:
            self.answers.running.begin(person(request))
            return self.show("", self.answers.words.waiting, True)

        def run(text: str, request: gr.Request, *settings: Any) -> Iterator[list[Any]]:
            for completion, status in self.answers.complete(text, read_settings(["", *settings]), person(request)):
                yield self.show(completion, status, True)

        begun = self.run.click(begin, outputs=outputs, queue=False, **private)
        written = begun.then(run, [self.text, *self.settings], outputs, **private)
        written.then(lambda: self._buttons(False), outputs=self.buttons, queue=False, **private)
        self.stop.click(_stop(self.answers), queue=False, **private)
        self.clear.click(lambda: [""] * 3, outputs=[self.text, self.completion, self.status], queue=False, **private)


def draw_settings(answers: Answers, *, with_system: bool) -> list[Any]:
    """The side panel; its inputs in the order of `Settings`, without the first where there is no system prompt."""
    words, now = answers.words, answers.settings()
    longest = answers.model_length or max(now.max_new_tokens, 8192)
    inputs: list[Any] = []
    with gr.Sidebar(position="right", open=True, width=320, elem_id="side"):
        gr.HTML(f"<h2>{html.escape(words.settings)}</h2>")
        if with_system:
            inputs.append(
                gr.Textbox(
                    now.system,
                    label=words.system,
                    lines=3,
                    max_lines=12,
                    placeholder=words.system_none if now.system else words.system_own,
                    elem_id="system",
                )
            )
        inputs += [
            gr.Slider(
                0, max(2, now.temperature), now.temperature, step=0.05, label=words.temperature,
                info=words.temperature_hint, elem_id="temperature",
            ),
            gr.Slider(0, 1, now.top_p, step=0.01, label=words.top_p, elem_id="top_p"),
            gr.Slider(
                0, max(200, now.top_k), now.top_k, step=1, label=words.top_k, info=words.top_k_hint, elem_id="top_k"
            ),
            gr.Slider(1, longest, now.max_new_tokens, step=1, label=words.new_tokens, elem_id="max_new_tokens"),
            gr.Slider(
                min(0.5, now.repetition_penalty), max(2, now.repetition_penalty), now.repetition_penalty, step=0.01,
                label=words.repetition, elem_id="repetition_penalty",
            ),
            gr.Textbox(
                "" if now.seed is None else str(now.seed),
                label=words.seed,
                placeholder=words.seed_hint,
                max_lines=1,
                elem_id="seed",
            ),
        ]  # fmt: skip
    return inputs


def read_settings(values: Sequence[Any]) -> Settings:
    """What the side panel says; a seed that is no whole number is none."""
    system, temperature, top_p, top_k, new_tokens, penalty, seed = values
    digits = str(seed or "").strip()
    chosen = int(digits[:18]) if digits.isascii() and digits.isdigit() else None
    return Settings(str(system or ""), float(temperature), float(top_p), int(top_k), int(new_tokens), penalty, chosen)


def person(request: gr.Request) -> str:
    """Whose page a request comes from: an open tab, not an account."""
    return str(request.session_hash)


def _stop(answers: Answers) -> Callable[[gr.Request], None]:
    def stop(request: gr.Request) -> None:
        answers.running.stop(person(request))

    return stop


def _leave(answers: Answers) -> Callable[[gr.Request], None]:
    def leave(request: gr.Request) -> None:
        answers.running.leave(person(request))

    return leave


class Headers:
    """ASGI middleware that adds `HEADERS` to every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        """Pass on, and add to the first message of a response."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, with_headers)


class Served:
    """A page that is being served.

    Args:
        blocks: the page.
        answers: whose answers end with it.
        listening: where; closed with it.
        passwords: by user; {} lets everybody in.
        hosts: the host names that requests may be for.
    """

    def __init__(
        self, blocks: gr.Blocks, answers: Answers, listening: socket.socket, passwords: Passwords, hosts: list[str]
    ) -> None:
        self.answers, self.listening, self.url = answers, listening, address_of(listening)
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.add_middleware(Headers)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            auth=(lambda user, password: may_enter(passwords, user, password)) if passwords else None,
            auth_message=answers.words.login,
            allowed_paths=[],
            show_error=False,
            max_file_size=1,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            footer_links=[],
            run_history=False,
            app_kwargs={"openapi_url": None},
            theme=theme(),
            css=STYLE.read_text(encoding="utf-8"),
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [listening]}, name="chat page", daemon=True
        )
        self.thread.start()

    def share(self) -> str:
        """A public address, through a tunnel of Gradio's.

        Raises:
            UnavailableError: there is none to be had.
        """
        host, port = self.listening.getsockname()[:2]
        try:
            return str(networking.setup_tunnel(host, port, secrets.token_urlsafe(32), None, None))
        except (OSError, RuntimeError, ValueError) as error:
            raise UnavailableError("SERVER-03", "no public link", why=str(error), fix="drop --share") from error

    def wait(self) -> None:
        """Return when the server has ended."""
        while self.thread.is_alive():
            self.thread.join(1.0)

    def close(self) -> None:
        """End every answer, then the server."""
        self.answers.close()
        self.server.should_exit = True
        self.thread.join(SECONDS_TO_CLOSE + 2)
        self.listening.close()


def theme() -> Base:
    """System fonts, greys and one quiet colour."""
    return Base(
        primary_hue="teal",
        secondary_hue="slate",
        neutral_hue="slate",
        radius_size="lg",
        text_size="md",
        font=list(FONT),
        font_mono=list(MONO),
    )
