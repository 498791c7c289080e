"""Callers who do too much, too little, or nothing: each law stands for a fault of servers."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from swift.commands.deploy import deploy_main
from swift.inference.answer import Reader
from swift.inference.constraint import GrammarConstraint
from swift.serving import guard
from swift.serving.asking import Asking, texts_of
from swift.serving.protocol import ApiError, ChatRequest
from tests.serving.conftest import MODEL

STORY = [{"role": "user", "content": "Tell me a story about a cat."}]


def post(served: Any, body: Any, **headers: str) -> tuple[int, Any]:
    """One request over a connection of its own: its status and the JSON of the answer."""
    host, port = served.listening.getsockname()
    connection = http.client.HTTPConnection(host, port, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    found = response.status, json.load(response)
    connection.close()
    return found


def measured(served: Any, name: str) -> float:
    with urllib.request.urlopen(f"{served.url}metrics", timeout=9) as response:
        return float(re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)[1])  # type: ignore[index]


def seconds_until(done: Any, limit: float = 30) -> float:
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < limit
        time.sleep(0.01)
    return time.monotonic() - begun


@pytest.mark.parametrize("stream", [True, False])
def test_who_does_not_read_is_hung_up_on(served: Any, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(guard, "SECONDS_TO_TAKE", 0.3)
    monkeypatch.setattr(guard, "MOST_SENT", 4096)
    before = measured(served, "swift_slow_readers_total")
    body = json.dumps({"model": MODEL, "messages": STORY, "temperature": 2, "top_k": 0, "n": 8 if stream else 3, "seed": 5,
                       "logprobs": True, "top_logprobs": 20, "stream": stream,
                       "max_tokens": 900 if stream else 120}).encode()  # fmt: skip
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(served.listening.getsockname())
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        lazy.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        seconds_until(lambda: measured(served, "swift_slow_readers_total") == before + 1)
        assert seconds_until(lambda: not served.service.engine.busy) < 1
    assert post(served, {"model": MODEL, "messages": STORY, "max_tokens": 2})[0] == 200


def test_who_sends_much_without_a_key_reads_401(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret-key")
    words = ["--model_type", MODEL, "--port", "0", "--api_key_file", str(tmp_path / "key")]
    served = deploy_main(words, prevent_thread_lock=True)
    for megabytes in (1, 8, 12):
        assert post(served, b" " * (megabytes << 20), Authorization="Bearer wrong")[0] == 401
    host, port = served.listening.getsockname()
    with socket.create_connection((host, port), timeout=5) as polite:  # who asks before they send need not send
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        polite.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        assert b" 401 " in polite.recv(300).partition(b"\r\n")[0]
    served.close()


SHAPE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"],
    "additionalProperties": False}}}  # fmt: skip


def test_a_grammar_is_read_once_and_not_by_the_engine(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    read: list[str] = []
    plain = GrammarConstraint.__init__

    def counted(*args: Any) -> None:
        read.append(threading.current_thread().name)
        plain(*args)

    monkeypatch.setattr(GrammarConstraint, "__init__", counted)
    body = {"model": MODEL, "messages": STORY, "n": 4, "temperature": 1.5, "response_format": SHAPE, "max_tokens": 120}
    status, answer = post(served, body)
    assert status == 200, answer
    assert all(set(json.loads(choice["message"]["content"])) == {"city"} for choice in answer["choices"])
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1
    assert len(read) == 1
    assert "AnyIO" in read[0], "the loop that answers everybody must not wait for it"


def test_a_grammar_that_fails_is_an_error_of_that_answer(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    plain = GrammarConstraint.accept

    def accept(self: GrammarConstraint, token: int) -> None:
        plain(self, token)
        self.matcher.consume_token(served.api.asking.template.tokenizer.convert_tokens_to_ids("}"))  # not there

    monkeypatch.setattr(GrammarConstraint, "accept", accept)
    status, answer = post(served, {"model": MODEL, "messages": STORY, "response_format": SHAPE, "max_tokens": 120})
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert post(served, {"model": MODEL, "messages": STORY, "max_tokens": 2})[0] == 200


@pytest.mark.parametrize(
    "change",
    [{"stop": ["the end", "。我"]}, {"n": 3, "seed": 4, "temperature": 1.5},
     {"tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]},
     {"messages": [{"role": "user", "content": "你是谁？"}], "max_tokens": 40}],
    ids=["stop words", "choices", "tools", "characters"],
)  # fmt: skip
def test_each_token_of_a_stream_is_told_of_once(served: Any, change: dict[str, Any]) -> None:
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    body = {"model": MODEL, "messages": STORY, "temperature": 0, "max_tokens": 60, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**body | change)
    told: list[list[Any]] = [[] for _ in whole.choices]
    said = ["" for _ in whole.choices]
    for chunk in client.chat.completions.create(**body | change, stream=True):
        for choice in chunk.choices:
            told[choice.index] += choice.logprobs.content if choice.logprobs else []
            said[choice.index] += choice.delta.content or ""
    for choice, entries, text in zip(whole.choices, told, said, strict=True):
        expected = choice.logprobs.content
        assert [(each.token, each.bytes) for each in entries] == [(each.token, each.bytes) for each in expected]
        assert [each.logprob for each in entries] == pytest.approx([each.logprob for each in expected], abs=1e-3)
        assert text == choice.message.content
        assert b"".join(bytes(each.bytes) for each in entries).decode("utf-8", "ignore").startswith(text)
    assert "characters" not in change or any("\ufffd" in each.token for each in told[0])


def test_tokens_of_continued_texts_are_told_of_once() -> None:
    served = deploy_main(["--model_type", "demo-base", "--port", "0"], prevent_thread_lock=True)
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    body = {"model": "demo-base", "prompt": "你好", "temperature": 0, "max_tokens": 30, "logprobs": 2}
    (whole,) = client.completions.create(**body).choices
    pieces = [chunk.choices[0] for chunk in client.completions.create(**body, stream=True)]
    found = [piece.logprobs for piece in pieces if piece.logprobs]
    assert len(found) > 1
    assert "".join(piece.text for piece in pieces) == whole.text
    for name in ("tokens", "text_offset"):
        assert [value for each in found for value in getattr(each, name)] == getattr(whole.logprobs, name)
    for token, offset in zip(whole.logprobs.tokens, whole.logprobs.text_offset, strict=True):
        assert "\ufffd" in token or whole.text[offset:].startswith(token[: len(whole.text) - offset])
    served.close()


def test_calls_are_read_beside_the_loop_that_answers_everybody(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("whole", "stopped"):
        plain = getattr(Reader, name)
        monkeypatch.setattr(
            Reader, name, lambda *a, plain=plain: read.append(threading.current_thread().name) or plain(*a)
        )
    monkeypatch.setattr("swift.serving.asking.read_calls",
                        lambda text, *_: (read.append(threading.current_thread().name) or text, []))  # fmt: skip
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    body = {"model": MODEL, "messages": STORY, "max_tokens": 9, "tools": [tool]}
    assert post(served, body)[0] == 200
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    assert list(client.chat.completions.create(**body, stream=True))
    assert len(read) == 4
    assert all("AnyIO" in name for name in read)


@pytest.mark.parametrize("text", ["a cat and ", "你好，世界", "x", " \n\t. "])
def test_a_text_that_does_not_fit_is_not_read_to_its_end(
    served: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    asking, read = served.api.asking, []
    plain = type(asking.template.tokenizer).__call__

    def counted(self: Any, said: Any, *args: Any, **options: Any) -> Any:
        read.extend(map(len, [said] if isinstance(said, str) else said))
        return plain(self, said, *args, **options)

    monkeypatch.setattr(type(asking.template.tokenizer), "__call__", counted)
    long = {"role": "user", "content": "." + text * (990_000 // len(text)) + "."}
    for messages in ([long], [long, {"role": "assistant", "content": "b"}, long]):
        read.clear()
        status, answer = post(served, {"model": MODEL, "messages": messages})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert 0 < sum(read) < 200_000


@pytest.mark.parametrize("count", [1, 17_000])
def test_half_a_letter_is_a_mistake_of_whoever_sends_it(served: Any, count: int) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "\ud800" + "x" * count}}
    body = json.dumps({"model": MODEL, "messages": STORY, "tools": [tool]}).encode()
    status, answer = post(served, body)
    assert (status, answer["error"]["param"]) == (400, "messages")


def test_what_a_template_leaves_out_is_not_counted(served: Any) -> None:
    thought = {"role": "assistant", "content": "<think>" + "hm " * 50_000 + "</think>b"}
    padded = {"role": "user", "content": " " * 100_000 + "a"}
    assert texts_of({"messages": [padded, thought, padded]}) == ["a", "b", "a"]
    asking, row = served.api.asking, {"messages": [{"role": "user", "content": "a b " * 400}], "tools": None}
    asking._refuse_long(row, None)  # just as much as fits
    with pytest.raises(ApiError, match="are more than 1024 tokens"):
        asking._refuse_long({"messages": [{"role": "user", "content": "a b " * 50_000}]}, 3)


def counted(served: Any, path: str, status: int) -> int:
    return served.api.measures.requests[path, status]


def test_every_answer_is_counted(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(body: Any) -> None:
        raise RuntimeError("a bug")

    chat = "/v1/chat/completions"
    failed, refused = counted(served, chat, 500), counted(served, "other", 400)
    with monkeypatch.context() as broken:
        broken.setattr(served.api.asking, "chat", fail)
        assert post(served, {"model": MODEL, "messages": STORY})[0] == 500
    assert post(served, {"model": MODEL, "messages": STORY}, Host="evil.example")[0] == 400
    assert counted(served, chat, 500) == failed + 1
    assert counted(served, "other", 400) == refused + 1
    answered = counted(served, chat, 200)
    assert post(served, {"model": MODEL, "messages": STORY, "max_tokens": 1})[0] == 200
    assert counted(served, chat, 200) == answered + 1


def test_who_asks_much_is_let_in_whole_or_not_at_all(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.service, "max_waiting", 4)
    free = threading.Event()
    served.service.between_steps(lambda: free.wait(60))
    many = {"model": MODEL, "messages": STORY, "n": 8, "max_tokens": 2}
    with ThreadPoolExecutor(1) as pool:
        let_in = pool.submit(post, served, many)
        seconds_until(lambda: served.service.num_waiting == 8 or let_in.done())
        late, waiting = post(served, many)[0], served.service.num_waiting
        free.set()
    assert (late, waiting) == (429, 8)
    status, answer = let_in.result()
    assert (status, len(answer["choices"])) == (200, 8)


def test_tokens_of_who_hung_up_are_counted(served: Any) -> None:
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    names = ("swift_prompt_tokens_total", "swift_generated_tokens_total")
    before = [measured(served, name) for name in names]
    stream = client.chat.completions.create(model=MODEL, messages=STORY, stream=True, n=4, temperature=2)  # type: ignore[call-overload]
    chunks = iter(stream)
    while not next(chunks).choices[0].delta.content:
        pass
    stream.close()
    done = lambda: all(measured(served, name) > old for name, old in zip(names, before, strict=True))  # noqa: E731
    assert seconds_until(done) < 30


def test_a_longer_prompt_than_max_length_is_refused(served: Any) -> None:
    own, body = served.api.asking, ChatRequest.model_validate({"model": MODEL, "messages": STORY, "max_tokens": 1})
    (request,) = own.chat(body).requests
    length = len(request.prompt_ids)
    for longest, fits in ((length, True), (length - 1, False)):
        asking = Asking(replace(served.api.args, max_length=longest), own.model, own.template, own.adapters)
        if fits:
            assert asking.chat(body).num_prompt_tokens == length
            continue
        with pytest.raises(ApiError, match=f"this server takes {longest}") as caught:
            asking.chat(body)
        assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
