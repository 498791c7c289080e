"""Passwords cannot be tried as fast as the machine answers, and who tries keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from swift.ui import door as module
from swift.ui.door import MOST_AT_ONCE, MOST_WAITING, Door, block_of

WRONG = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", WRONG)


class House:
    """What is behind a door: it knows one password, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        status = 200 if scope["path"] != "/login" or scope["password"] == "right" else 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def knock(
    door: Door, password: str, address: str = "10.0.0.1", path: str = "/login", slow: float = 0.0
) -> tuple[int, float]:
    """Status of one request, whose body takes so long to come, and when the answer came."""
    heard: list[int] = []

    async def send(message: Any) -> None:
        heard.append(message.get("status", 0))

    async def receive() -> Any:
        await asyncio.sleep(slow)
        return {"type": "http.request", "body": b"x", "more_body": False}

    begun = time.monotonic()
    scope = {"type": "http", "method": "POST", "path": path, "client": (address, 1), "password": password}
    await door(scope, receive, send)
    return heard[0], time.monotonic() - begun


def test_wrong_passwords_take_their_time_one_after_the_other() -> None:
    async def tries() -> None:
        house = House()
        door = Door(house)
        found = await asyncio.gather(*(knock(door, "wrong") for _ in range(4)))
        assert [status for status, _ in found] == [400] * 4
        assert max(took for _, took in found) >= 4 * WRONG
        assert (await knock(door, "right"))[1] < WRONG
        assert not door._trying, "nothing is kept of who has gone"
        assert not door._turns

    asyncio.run(tries())


def test_who_guesses_keeps_nobody_else_waiting() -> None:
    async def tries() -> None:
        door = Door(House())
        guesses = [asyncio.create_task(knock(door, "wrong")) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        status, took = await knock(door, "right", "10.0.0.2")
        assert (status, took < WRONG) == (200, True)
        status, took = await knock(door, "", path="/config")
        assert (status, took < WRONG) == (200, True)
        assert (await knock(door, "right"))[0] == 429, "the right one is not told from the wrong ones by its speed"
        for guess in guesses:
            guess.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)
        assert (await knock(door, "right"))[0] == 200

    asyncio.run(tries())


def test_many_addresses_try_no_more_than_so_many_at_once() -> None:
    async def tries() -> None:
        house = House()
        door = Door(house)
        found = await asyncio.gather(*(knock(door, "wrong", f"10.0.1.{k}") for k in range(2 * MOST_AT_ONCE)))
        assert [status for status, _ in found].count(429) == MOST_AT_ONCE
        assert house.asked == MOST_AT_ONCE

    asyncio.run(tries())


@pytest.mark.parametrize(
    ("client", "block"),
    [
        (("10.0.0.1", 9), "10.0.0.1"),
        (("2001:db8::1", 9), "20:01:0d:b8:00:00:00:00"),
        (("2001:db8::ffff:2", 9), "20:01:0d:b8:00:00:00:00"),
        (("::ffff:10.0.0.1", 9), "10.0.0.1"),
        (("fe80::1%eth0", 9), "fe:80:00:00:00:00:00:00"),
        (("unknown", 9), "unknown"),
        (None, ""),
    ],
)
def test_one_subscriber_is_one_address(client: Any, block: str) -> None:
    assert block_of(client) == block


def test_who_sends_slowly_holds_up_nobody() -> None:
    async def tries() -> None:
        door = Door(House())
        slow = [asyncio.create_task(knock(door, "wrong", slow=5.0)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0.05)
        status, took = await knock(door, "right")
        assert (status, took < WRONG) == (200, True)
        for task in slow:
            task.cancel()

    asyncio.run(tries())
