"""Who tries passwords: one at a time from each address, and a wrong one takes a while."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from swift.serving.guard import replay

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Any, Send], Awaitable[None]]
PATH = "/login"
SECONDS = 1.0  # that a wrong password takes
MOST_WAITING, MOST_AT_ONCE = 8, 32  # tries of one address, and of all
LARGEST = 16 << 10  # bytes of a name and a password


class Door:
    """ASGI middleware: tries of passwords wait for each other, and the answer to a wrong one comes late.

    An address tries one after the other, so that many at once find out no more than one by one; nobody else waits for
    them. Too many are answered with 429.

    Args:
        app: what is behind the door; it answers a wrong password with a status from 400 on.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._trying = Counter[str]()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Pass on; a try of a password when it is its turn."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].rstrip("/") != PATH:
            return await self.app(scope, receive, send)
        body = await _read(receive)  # before it takes a place, which whoever sends slowly would keep from others
        if body is None:
            return None
        who = block_of(scope.get("client"))
        if len(body) > LARGEST or self._trying[who] >= MOST_WAITING or self._trying.total() >= MOST_AT_ONCE:
            return await _refuse(send)
        self._trying[who] += 1
        try:
            async with self._turns[who]:
                await self.app(scope, replay(body, receive), _late(send))
        finally:
            self._trying[who] -= 1
            if not self._trying[who]:
                del self._trying[who], self._turns[who]


async def _read(receive: Any) -> bytes | None:
    """What was sent, or a little more than may be; None when the sender has gone."""
    body, more = b"", True
    while more and len(body) <= LARGEST:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _late(send: Send) -> Send:
    """A `send` that takes its time where the password was wrong."""

    async def later(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            await asyncio.sleep(SECONDS)
        await send(message)

    return later


def block_of(client: tuple[str, int] | None) -> str:
    """The address of a caller, or of the network that one subscriber has where there are more addresses than people."""
    name = client[0] if client else ""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if address.version == 4:
        return name
    return str(address.ipv4_mapped) if address.ipv4_mapped else address.packed[:8].hex(":")


async def _refuse(send: Send) -> None:
    """Answer that this was tried too often."""
    headers = [(b"content-type", b"application/json"), (b"retry-after", str(MOST_WAITING).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"detail": "too many tries at once"}'})
