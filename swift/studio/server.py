"""The server of the studio: who may come in, and what a browser may do with its pages."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swift.studio.page import build
from swift.studio.studio import Studio
from swift.studio.talks import Talks
from swift.studio.words import Words
from swift.studio.workspace import LARGEST_UPLOAD
from swift.ui.mounted import Headers, Message, Mounted, theme
from swift.ui.serving import Passwords

STYLE = Path(__file__).with_name("studio.css")


class Guard(Headers):
    """ASGI middleware: another site's page may ask for nothing, and every answer has `HEADERS`."""

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        """Pass on, or refuse."""
        refused = scope["type"] == "http" and not is_own(dict(scope["headers"]))
        await (Headers(refuse) if refused else super()).__call__(scope, receive, send)


async def refuse(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
    """An ASGI application that answers 403."""
    await send({"type": "http.response.start", "status": 403, "headers": []})
    await send({"type": "http.response.body", "body": b"a page of another site asked"})


def is_own(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from these pages, through a proxy or not, or from no page at all."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    hosts = [headers.get(name, b"").decode("latin-1") for name in (b"host", b"x-forwarded-host")]
    return not origin or urlsplit(origin).netloc in filter(None, hosts)


class Served(Mounted):
    """The studio while it is served.

    Args:
        studio: what it does.
        words: the language to speak.
        listening: where; closed with it.
        passwords: by user; {} lets everybody in.
        hosts: the host names that requests may be for.
    """

    def __init__(
        self, studio: Studio, words: Words, listening: socket.socket, passwords: Passwords, hosts: list[str]
    ) -> None:
        self.studio, self.talks = studio, Talks(studio)
        os.environ["GRADIO_TEMP_DIR"] = str(studio.workspace.uploads)
        super().__init__(
            build(studio, self.talks, words),
            listening,
            passwords,
            hosts,
            login=words.login,
            name="studio",
            guard=Guard,
            largest_upload=LARGEST_UPLOAD,
            theme=theme(),
            css=STYLE.read_text(encoding="utf-8"),
        )

    def close(self) -> None:
        """End the chats and the server; runs go on."""
        self.talks.close()
        self.studio.close()
        super().close()
