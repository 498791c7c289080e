"""Who may ask, and how much: checked on the raw request, before anything reads it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from swift.serving.protocol import ApiError

LARGEST_BODY = 8 << 20
MOST_DRAINED = 4 * LARGEST_BODY  # read and thrown away, so that whoever sends can still read what is wrong
SECONDS_TO_SEND = 30
SECONDS_TO_TAKE = 30  # in which a caller must read what waits for them
MOST_SENT = 256 << 10  # bytes that may wait in the system for a caller who does not read
OPEN_PATHS = {"/health"}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Asks for the key on every path but `/health`, and takes no body that is too large or too slow.

    Args:
        app: what is guarded.
        key: what callers must send; None lets everybody in.
        hosts: the host names that requests may be for; `*` is any.
        responded: is told the route and the status of every answer, those of errors too.
        asked: is told the method, the path and the body of every request that is let in; None tells nobody.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        key: str | None,
        hosts: Sequence[str],
        responded: Callable[[str, int], None],
        asked: Callable[[str, str, bytes], None] | None = None,
    ) -> None:
        self.app, self.key, self.responded, self.asked = app, key, responded, asked
        self.hosts = {name for host in hosts for name in (host.lower(), f"[{host.lower()}]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with its error."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        send, headers = self._counted(scope, send), {name.lower(): value for name, value in scope["headers"]}
        try:
            self._check(scope["path"], headers)
        except ApiError as error:
            await drain(headers, receive)
            return await refuse(error, send)
        try:
            body = await read_body(headers, receive)
        except ApiError as error:
            return await refuse(error, send)
        except ConnectionError:
            return None
        if self.asked is not None and scope["path"] not in OPEN_PATHS:
            self.asked(scope["method"], scope["path"], body)
        return await self.app(scope, replay(body, receive), send)

    def _counted(self, scope: Scope, send: Send) -> Send:
        """A `send` that tells of the status; what reached no route is `other`."""

        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self.responded("other" if route is None else route.path, message["status"])
            await send(message)

        return told

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        if path not in OPEN_PATHS and self.key is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if not hmac.compare_digest(given.strip(), self.key.encode()) or scheme.lower() != b"bearer":
                raise ApiError(
                    401, "this server wants its API key: Authorization: Bearer <key>", code="invalid_api_key"
                )
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if "*" not in self.hosts and host.rpartition(":")[0] not in self.hosts and host not in self.hosts:
            raise ApiError(400, "the Host header is not a name of this server")


async def read_body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The whole body.

    Raises:
        ApiError: it is too large, compressed, or does not come within `SECONDS_TO_SEND`.
        ConnectionError: the caller went away.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise ApiError(415, "send the body uncompressed")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError
                piece = message.get("body", b"")
                size += len(piece)
                if size <= LARGEST_BODY:
                    body += piece
                else:
                    body.clear()
                if size > MOST_DRAINED or (size > LARGEST_BODY and not message.get("more_body")):
                    raise ApiError(413, f"the body is larger than {LARGEST_BODY >> 20} MiB")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"the request did not come within {SECONDS_TO_SEND} seconds") from None


async def drain(headers: dict[bytes, bytes], receive: Receive) -> None:
    """Throw away a body that nobody wants: who is still sending one does not read the answer."""
    if headers.get(b"expect", b"").lower() == b"100-continue":
        return  # it has not been sent
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_TO_SEND):
            while size <= MOST_DRAINED:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def refuse(error: ApiError, send: Send) -> None:
    """Answer with an error, and hang up."""
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers | error.headers).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what comes."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class PromptProtocol(H11Protocol):
    """HTTP that hangs up on who does not send a request's head in time, or does not read what is answered.

    Args:
        args: what uvicorn says.
        slow: is called for each caller who did not read.
        options: what uvicorn says.
    """

    def __init__(self, *args: Any, slow: Callable[[], None] = lambda: None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._slow = slow
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_SENT)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; a head that is complete is in time."""
        if self._late is None and self.conn.their_state is h11.IDLE:
            self._wait()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE and self._late is not None:
            self._late.cancel()
            self._late = None

    def pause_writing(self) -> None:
        """More waits for the caller than may: they have to read some of it in time."""
        super().pause_writing()
        self._unread = self.loop.call_later(SECONDS_TO_TAKE, self._give_up)

    def resume_writing(self) -> None:
        """They did."""
        super().resume_writing()
        self._took()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        if self._late is not None:
            self._late.cancel()
        self._took()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(SECONDS_TO_SEND, self.transport.close)

    def _took(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        """Drop the connection with what waits in it, which ends the answer."""
        self._unread = None
        self._slow()
        self.transport.abort()
