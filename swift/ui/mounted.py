"""A page of Gradio behind a server of ours: what it sends, whom it lets in, how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import networking
from gradio.themes import Base
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from swift.errors import UnavailableError
from swift.serving import guard
from swift.ui.door import Door
from swift.ui.serving import Passwords, address_of, may_enter

FONT = ("ui-sans-serif", "system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
SECONDS_TO_CLOSE = 3
MOST_CONNECTIONS = 512
SLOWEST = 4 << 10  # bytes in a second, beside the seconds that every request has
# Nothing is loaded from elsewhere, whatever a model writes or a data set holds: a picture in an answer would tell its
# server of it.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
UNUSED = re.compile(
    r"/gradio_api/(proxy=|process_recording|dev/|vibe|component_server|stream/|deep_link|openapi\.json)"
)
"""Doors of Gradio's that no page of ours uses."""
Message = Mapping[str, Any]
App = Callable[[Message, Any, Any], Awaitable[None]]


class Guard:
    """ASGI middleware: another site's page is refused, so is what no page asks for, and who sends too slowly.

    Every answer has `HEADERS`.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        """Pass on, or refuse; and add to the first message of a response."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, started = dict(scope["headers"]), False
        body = Body(receive, headers.keys() & {b"content-length", b"transfer-encoding"})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        async def unless_late(message: Message) -> None:
            nonlocal started
            started = started or not body.late
            if started:
                await with_headers(message)

        if not is_own(headers) or UNUSED.search(scope["path"]):
            return await refuse(403, "the page of another site, or nothing that a page here asks for", with_headers)
        with suppress(ClientDisconnect):  # a tab that was closed while a file was on its way
            await self.app(scope, body, unless_late)
        if body.late and not started:
            await refuse(408, "the request did not come in time", with_headers)


class Body:
    """The `receive` of a request that hangs up on who sends too slowly.

    Args:
        receive: the server's own.
        comes: the headers that say that there is a body; a request without one is never late.
    """

    def __init__(self, receive: Callable[[], Awaitable[Message]], comes: Collection[bytes]) -> None:
        self.receive, self.begun = receive, time.monotonic()
        self.size, self.whole, self.late = 0, not comes, False

    async def __call__(self) -> Message:
        """What comes next."""
        if self.whole:
            return await self.receive()
        left = self.begun + guard.SECONDS_TO_SEND + self.size / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                message = await self.receive()
        except TimeoutError:
            self.late = True
            return {"type": "http.disconnect"}
        self.size += len(message.get("body", b""))
        self.whole = not message.get("more_body")
        return message


async def refuse(status: int, why: str, send: Callable[[Message], Awaitable[None]]) -> None:
    """Answer with an error, and hang up."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": f"refused: {why}".encode()})


def is_own(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from these pages, through a proxy or not, or from no page at all."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    hosts = [headers.get(name, b"").decode("latin-1") for name in (b"host", b"x-forwarded-host")]
    return not origin or origin.partition("://")[2] in filter(None, hosts)


class Mounted:
    """Pages that are being served.

    Args:
        blocks: the pages.
        listening: where; closed with it.
        passwords: by user; {} lets everybody in.
        hosts: the host names that requests may be for.
        login: what is said to who is not let in yet.
        name: of the thread.
        largest_upload: in bytes; files beyond are refused.
        look: further words for Gradio's `mount_gradio_app`: theme and style.
    """

    def __init__(
        self,
        blocks: gr.Blocks,
        listening: socket.socket,
        passwords: Passwords,
        hosts: list[str],
        *,
        login: str,
        name: str,
        largest_upload: int = 1,
        **look: Any,
    ) -> None:
        self.listening, self.url = listening, address_of(listening)
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.add_middleware(Door)
        app.add_middleware(Guard)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            auth=(lambda user, password: may_enter(passwords, user, password)) if passwords else None,
            auth_message=login,
            allowed_paths=[],
            show_error=False,
            max_file_size=largest_upload,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            footer_links=[],
            run_history=False,
            app_kwargs={"openapi_url": None},
            **look,
        )
        # Gradio looks at the paths in what a browser sends only after `launch()`: else any file could be named.
        blocks.has_launched = True
        config = uvicorn.Config(
            app,
            http=guard.PromptProtocol,
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # else whoever guesses passwords says who they are
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, name=name, daemon=True)
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
        """End the server."""
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
