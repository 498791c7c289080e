"""`tool_choice` and `parallel_tool_calls` as OpenAI's client says them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.serving.test_deploy import CAPITAL, ask

pytest.importorskip("llguidance")
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {**CITY}}}
NAMED = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)


@pytest.mark.parametrize(("choice", "names"), [("required", {"weather", "clock"}), (NAMED, {"clock"})])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_is_forced(client: openai.OpenAI, choice: Any, names: set[str], stream: bool) -> None:
    options = {"tools": [WEATHER, CLOCK], "tool_choice": choice, "temperature": 1.5, "seed": 3, "max_tokens": 80}
    answer = ask(client, stream=stream, **options)
    if stream:
        pieces = [chunk.choices[0] for chunk in answer]
        calls = [call for piece in pieces for call in piece.delta.tool_calls or []]
        assert pieces[-1].finish_reason == "tool_calls"
        assert not any(piece.delta.content for piece in pieces)
    else:
        calls = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None
    (call,) = calls  # demo-chat's template writes one at a time
    assert call.function.name in names
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_one_call_where_several_are_not_wanted(client: openai.OpenAI, served: Any, monkeypatch: Any) -> None:
    said = (
        'Action: weather\nAction Input: {"city": "Paris"}\nAction: clock\nAction Input: {"city": "Rome"}\nObservation:'
    )
    monkeypatch.setattr("swift.inference.answer.Reader.whole", lambda *_: said)
    several = ask(client, tools=[WEATHER, CLOCK], max_tokens=4).choices[0].message.tool_calls
    single = ask(client, tools=[WEATHER, CLOCK], max_tokens=4, parallel_tool_calls=False).choices[0].message.tool_calls
    assert [call.function.name for call in several] == ["weather", "clock"]
    assert [call.function.name for call in single] == ["weather"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tools": [WEATHER], "tool_choice": NAMED}, "no tool 'clock'"),
        ({"tool_choice": "required"}, "no tools to call"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "nothing"}}}],
          "tool_choice": "required"}, "cannot be held to"),
    ],
)  # fmt: skip
def test_what_cannot_be_forced(client: openai.OpenAI, options: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        ask(client, CAPITAL, max_tokens=4, **options)
