"""`swift deploy` as its callers see it: through OpenAI's own client, and by hand where that is too polite."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import GenerationConfig

from swift.arguments import address
from swift.commands.deploy import deploy_main, reach
from swift.commands.prepare import prepare_model_template
from swift.errors import ConfigError, NotFoundError, UnavailableError, UsageError
from swift.llm import InferArguments, XRequestConfig, get_model_list_client, inference, inference_client
from swift.serving import guard
from tests.documents import ROOT, blocks
from tests.serving.conftest import MODEL

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a story about a cat."}]
VOWELS = ["a", "e", "i", "o", "u"]


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, messages: Any = CAPITAL, model: str = MODEL, **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **{"temperature": 0, **options})


def plain(question: str, **options: Any) -> str:
    prepared = prepare_model_template(InferArguments(model_type=MODEL))
    config = GenerationConfig(do_sample=False, max_new_tokens=64)
    return inference(prepared.model, prepared.template, question, generation_config=config, **options)[0]


def send(url: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def idle(served: Any) -> bool:
    for _ in range(3000):
        if not served.service.engine.busy:
            return True
        time.sleep(0.01)
    return False


def test_an_answer_is_that_of_inference(client: openai.OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    answer = ask(client)
    assert CAPITAL[0]["content"] not in caplog.text, "what callers ask is theirs"
    assert answer.choices[0].message.content == plain("What is the capital of France?")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "swift"


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI) -> None:
    whole = ask(client, STORY, max_tokens=30, logprobs=True, top_logprobs=2)
    chunks = list(ask(client, STORY, max_tokens=30, logprobs=True, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(piece.delta.content or "" for piece in pieces) == whole.choices[0].message.content
    assert len(pieces) > 5
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["length"]
    assert chunks[-1].usage == whole.usage
    told = [entry.logprob for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
    said = [entry.logprob for entry in whole.choices[0].logprobs.content]
    assert told == pytest.approx(said, abs=1e-3)
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2


def test_choices_seeds_and_stops(client: openai.OpenAI, served: Any) -> None:
    options = {"n": 3, "seed": 5, "temperature": 2.0, "max_tokens": 16, "extra_body": {"top_k": 0, "top_p": 1.0}}
    first, again = (ask(client, STORY, **options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    stopped = ask(client, stop=["Paris"]).choices[0]
    assert "Paris" not in stopped.message.content
    assert stopped.finish_reason == "stop"
    ids = served.api.asking.template.tokenizer("Paris Paris", add_special_tokens=False)["input_ids"]
    assert "Paris" not in ask(client, logit_bias=dict.fromkeys(ids, -100), max_tokens=12).choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="knows the tokens 0 to"):
        ask(client, logit_bias={10**6: 1})
    often = ask(client, STORY, frequency_penalty=2.0, max_tokens=30).choices[0].message.content
    assert often != ask(client, STORY, max_tokens=30).choices[0].message.content


def test_answers_in_json(client: openai.OpenAI) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["big", "small"]}},
        "required": ["city", "size"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    for seed in range(3):
        answer = ask(client, response_format=shape, temperature=1.5, seed=seed, max_tokens=60).choices[0]
        value = json.loads(answer.message.content)
        assert set(value) == {"city", "size"}
        assert value["size"] in ("big", "small")
        assert answer.finish_reason == "stop"
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError, match="schema"):
        ask(client, response_format=broken)


def test_tools_are_told_and_their_calls_read(client: openai.OpenAI, served: Any, monkeypatch: Any) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    more = ask(client, tools=[tool], max_tokens=4).usage.prompt_tokens
    assert (
        more
        > ask(client, max_tokens=4).usage.prompt_tokens
        == ask(client, tools=[tool], tool_choice="none", max_tokens=4).usage.prompt_tokens
    )
    said = 'Action: weather\nAction Input: {"city": "Paris"}\nObservation:'
    monkeypatch.setattr("swift.inference.answer.Reader.whole", lambda *_: said)
    choice = ask(client, tools=[tool], stop=VOWELS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == "weather"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Paris"}
    streamed = [chunk.choices[0] for chunk in ask(client, tools=[tool], stop=VOWELS, stream=True)]
    (call,) = [call for piece in streamed for call in piece.delta.tool_calls or []]
    assert call.function.name == "weather"
    assert streamed[-1].finish_reason == "tool_calls"
    assert (
        ask(client, tools=[tool], max_tokens=4).choices[0].finish_reason == "length"
    )  # who cut it cannot call it whole


def test_a_talk_with_tools_goes_on(client: openai.OpenAI) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    talk = [
        *CAPITAL,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    assert ask(client, talk, max_tokens=4).usage.prompt_tokens > 20


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"model": "absent"}, openai.NotFoundError, "there are: demo-chat"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, openai.BadRequestError, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
         openai.BadRequestError, "messages.0.content.0.type: Input should be 'text'"),
        ({"stop": ""}, openai.BadRequestError, "stop: String should have"),
        ({"extra_body": {"num_beams": 2}}, openai.BadRequestError, "num_beams: "),
        ({"messages": [*CAPITAL, {"role": "assistant", "content": "x"}]}, openai.BadRequestError, "nothing to answer"),
        ({"messages": [{"role": "user", "content": "x " * 5000}]}, openai.BadRequestError, "are more than 1024"),
        ({"max_tokens": 5000}, openai.BadRequestError, "are more than 1024"),
        ({"n": 10**6}, openai.BadRequestError, "n: "),
        ({"stop": ["x"] * 10**5}, openai.BadRequestError, "stop: List should have at most 16 items"),
        ({"stop": [["x"]]}, openai.BadRequestError, "stop.0: Input should be a valid string"),
        ({"top_logprobs": 3}, openai.BadRequestError, "logprobs"),
        ({"temperature": float("nan")}, (openai.BadRequestError, ValueError), ""),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean 'temperature'"),
        ({"tools": [{"type": "function", "function": {}}]}, openai.BadRequestError, "not a function"),
    ],
)  # fmt: skip
def test_mistakes_are_the_classes_of_openai(client: openai.OpenAI, change: dict, kind: Any, says: str) -> None:
    with pytest.raises(kind) as caught:
        ask(client, **change)
    assert says in str(caught.value)
    if isinstance(caught.value, openai.APIStatusError):
        assert caught.value.param == "tools" or "tools" not in change
        assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_other_routes(client: openai.OpenAI, served: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="chat/completions"):
        client.completions.create(model=MODEL, prompt="Once")
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model=MODEL, input="x")
    assert send(f"{served.url}health") == (200, {"status": "ok"})
    assert send(f"{served.url}v1/absent")[0] == 404
    with pytest.raises(openai.NotFoundError, match="no model 'some/absent'"):
        client.models.retrieve("some/absent")
    status, said = send(f"{served.url}v1/chat/completions", b'{"model": ')
    assert (status, said["error"]["param"]) == (400, None)
    assert "not JSON: Expecting value at character 10" in said["error"]["message"]
    with urllib.request.urlopen(f"{served.url}metrics", timeout=9) as response:
        text = response.read().decode()
    assert "swift_requests_running 0" in text
    assert 'swift_requests_total{path="/v1/chat/completions",status="200"}' in text


def test_adapters_come_and_go_and_answer_as_alone(
    client: openai.OpenAI, served: Any, adapters: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{served.url}v1/adapters"
    base = ask(client, STORY, max_tokens=12).choices[0].message.content
    stop, answers = threading.Event(), []

    def keep_asking() -> None:
        while not stop.is_set():
            answers.append(ask(client, STORY, max_tokens=12).choices[0].message.content)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(3)]
        for name in ("one", "two"):
            assert send(url, json.dumps({"name": name, "path": name}).encode())[0] == 200
        single = {name: ask(client, STORY, name, max_tokens=12).choices[0].message.content for name in ("one", "two")}
        stop.set()
        for each in asking:
            each.result()
    assert set(answers) == {base}
    assert len({base, *single.values()}) == 3
    with ThreadPoolExecutor(9) as pool:
        names = [MODEL, "one", "two"] * 3
        together = list(pool.map(lambda n: ask(client, STORY, n, max_tokens=12).choices[0].message.content, names))
    assert together == [base, single["one"], single["two"]] * 3
    assert [model.id for model in client.models.list()] == [MODEL, "one", "two"]
    for path, status in (("../one", 403), ("/etc", 403), ("absent", 403), ("dora", 400)):
        assert send(url, json.dumps({"name": "x", "path": path}).encode())[0] == status
    assert send(url, json.dumps({"name": "one", "path": "one"}).encode())[0] == 400
    for name in ("one", "two"):
        request = urllib.request.Request(f"{url}/{name}", method="DELETE")
        with urllib.request.urlopen(request, timeout=9) as response:
            assert json.load(response)["deleted"]
    with pytest.raises(openai.NotFoundError):
        ask(client, STORY, "one")
    assert send(url, json.dumps({"name": "one", "path": "two"}).encode())[0] == 200
    assert ask(client, STORY, "one", max_tokens=12).choices[0].message.content == single["two"]
    endless = {"max_tokens": 900, "temperature": 2.0, "extra_body": {"top_k": 0, "top_p": 1.0}}
    with ThreadPoolExecutor(2) as pool:
        cut = pool.submit(ask, client, STORY, "one", **endless)
        beside = pool.submit(ask, client, STORY, max_tokens=12)
        time.sleep(0.1)
        with urllib.request.urlopen(urllib.request.Request(f"{url}/one", method="DELETE"), timeout=9) as response:
            assert json.load(response)["deleted"]
        assert cut.exception() is None or isinstance(cut.exception(), openai.InternalServerError)
        assert beside.result().choices[0].message.content == base
    assert ask(client, STORY, max_tokens=12).choices[0].message.content == base
    assert "not active" not in caplog.text  # each is, for whoever names it


def test_a_queue_that_is_full_says_so(client: openai.OpenAI, served: Any) -> None:
    free = threading.Event()
    served.service.between_steps(free.wait)
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, client, max_tokens=2) for _ in range(24)]
        time.sleep(0.5)
        free.set()
        failures = [each.exception() for each in asked if each.exception()]
    assert failures
    assert all(isinstance(failure, openai.RateLimitError) for failure in failures)
    assert failures[0].response.headers["retry-after"] == "1"


def test_who_leaves_frees_the_engine(client: openai.OpenAI, served: Any) -> None:
    for _ in range(20):
        stream = ask(client, STORY, stream=True, temperature=1.5, extra_body={"top_k": 0})
        next(iter(stream))
        stream.close()
    host, port = served.listening.getsockname()
    body = json.dumps({"model": MODEL, "messages": STORY, "temperature": 2, "top_k": 0, "n": 8}).encode()
    for _ in range(5):
        with socket.create_connection((host, port)) as hasty:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            hasty.sendall(head.encode() + body)
            time.sleep(0.02)
    assert idle(served)
    assert ask(client).choices[0].message.content


def test_bodies_have_a_limit(served: Any, monkeypatch: Any) -> None:
    url = f"{served.url}v1/chat/completions"
    assert send(url, b" " * ((8 << 20) + 1))[0] == 413
    assert send(url, b"x", **{"Content-Encoding": "gzip"})[0] == 415
    assert send(url, b"[" * 100_000)[0] == 400
    assert send(url, b'{"model": "x", "messages": 3}')[0] == 400
    assert send(url, b"\xff\xfe")[0] == 400
    form = send(url, b'{"model": "x"}', **{"Content-Type": "application/x-www-form-urlencoded"})
    assert form[0] == 400
    assert "Content-Type: application/json" in form[1]["error"]["message"]
    many = {"model": MODEL, "messages": [{"role": "user", "content": "x"}] * 10**5}
    assert send(url, json.dumps(many).encode())[0] == 400
    monkeypatch.setattr(guard, "SECONDS_TO_SEND", 0.2)
    with socket.create_connection(served.listening.getsockname()) as slow:
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{")
        assert b" 408 " in slow.recv(200)
    with socket.create_connection(served.listening.getsockname()) as silent:
        silent.sendall(b"GET /health HT")
        assert silent.recv(100) == b""
    assert send(f"{served.url}health")[0] == 200


def test_only_names_of_this_machine(served: Any) -> None:
    assert send(f"{served.url}v1/models", Host="evil.example")[0] == 400
    assert send(f"{served.url}v1/models", Host="localhost:1")[0] == 200


def test_the_key_is_asked_on_every_route_but_health(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret-key\n")
    words = ["--model_type", MODEL, "--port", "0", "--api_key_file", str(tmp_path / "key"), "--served_model_name", "m"]
    served = deploy_main(words, prevent_thread_lock=True)
    paths = ["v1/models", "v1/models/m", "metrics", "openapi.json", "v1/absent", "", "v1/models?/health", "health/"]
    for wrong in ({}, {"Authorization": "Bearer s3cret-ke"}, {"Authorization": "Bearer s3cret-key0"},
                  {"Authorization": "s3cret", "Host": "x/health?"}, {"Authorization": "Basic s3cret-key"},
                  {"Authorization": "s3cret-key"}, {"Authorization": "Bearer"}):  # fmt: skip
        assert [send(served.url + path, **wrong)[0] for path in paths] == [401] * len(paths)
    assert send(f"{served.url}v1/chat/completions", b"{}")[1]["error"]["type"] == "authentication_error"
    assert send(f"{served.url}health")[0] == 200
    listed = get_model_list_client(url=f"{served.url}v1", api_key="s3cret-key")
    assert [model.id for model in listed.data] == ["m"]
    assert send(f"{served.url}v1/models", Authorization="bearer s3cret-key")[0] == 200
    with pytest.raises(openai.AuthenticationError):
        ask(openai.OpenAI(base_url=f"{served.url}v1", api_key="bad", max_retries=0))
    served.close()


def test_our_own_client(served: Any) -> None:
    port = served.listening.getsockname()[1]
    config = XRequestConfig(temperature=0, max_tokens=12, logprobs=True, top_logprobs=1, best_of=1)
    whole = inference_client(MODEL, "And of Spain?", [["What is the capital of France?", "Paris."]], request_config=config,
                             port=port)  # fmt: skip
    text = whole.choices[0].message.content
    assert whole.choices[0].logprobs.content[0].top_logprobs[0].token
    config.stream = True
    chunks = inference_client(MODEL, "And of Spain?", [["What is the capital of France?", "Paris."]],
                              request_config=config, port=port)  # fmt: skip
    assert "".join(chunk.choices[0].delta.__dict__.get("content") or "" for chunk in chunks) == text
    shape = {"type": "json_schema", "json_schema": {"name": "size", "schema": {"enum": ["big"]}}}
    shaped = inference_client(MODEL, "hi", request_config=XRequestConfig(response_format=shape), port=port)
    assert shaped.choices[0].message.content == '"big"'
    with pytest.raises(UsageError, match="there are: demo-chat"):
        inference_client("absent", "hi", port=port)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        get_model_list_client(port=1)


@pytest.mark.parametrize(("page", "word"), [("README.md", "from openai"), ("docs/serving.md", "inference_client(")])
def test_what_documents_show(served: Any, capsys: pytest.CaptureFixture[str], page: str, word: str) -> None:
    (block,) = [block for block in blocks((ROOT / page).read_text("utf-8")) if word in block.text]
    port = served.listening.getsockname()[1]
    code = block.text.replace("http://127.0.0.1:8000/", served.url).replace("_client()", f"_client(port={port})")
    code = code.replace("request_config=", f"port={port}, request_config=")
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--host", "0.0.0.0"], ConfigError, "lets in everybody"),
        (["--num_beams", "2"], ConfigError, "num_beams"),
        (["--api_key_file", "absent"], NotFoundError, "absent"),
        (["--api_key_file", sys.executable], ConfigError, "cannot be read"),
        (["--ssl_certfile", __file__], ConfigError, "cannot serve HTTPS"),
        (["--adapters_dir", __file__], NotFoundError, "not a directory"),
        (["--lora_modules", "nothing"], UsageError, "name=directory"),
        (["--lora_modules", "x=absent"], UsageError, "no adapter"),
    ],
)
def test_what_cannot_be_served(words: list[str], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        deploy_main(["--model_type", MODEL, "--port", "0", *words], prevent_thread_lock=True)


@pytest.mark.parametrize(("said", "host"), [("0.0.0.0", "0.0.0.0"), ("", "127.0.0.1")])
def test_a_variable_says_where_to_listen(monkeypatch: pytest.MonkeyPatch, said: str, host: str) -> None:
    monkeypatch.setenv("SWIFT_HOST", said)
    options = runpy.run_path(address.__file__)["AddressOptions"]
    assert options().host == host
    assert options(host="::1").host == "::1"


def test_who_can_reach_a_server_is_told() -> None:
    assert reach("localhost", 8000, None) == reach("::1", 8000, "k") == ""
    assert reach("0.0.0.0", 8000, "k") == "whoever reaches 0.0.0.0 port 8000 from elsewhere can ask with a key"
    assert "without a key" in reach("::", 8000, None)


def test_a_checkpoint_is_served_beside_its_base_and_others(adapters: Path) -> None:
    words = ["--ckpt_dir", str(adapters / "one"), "--model_type", MODEL, "--port", "0", "--allow_other_base", "true"]
    served = deploy_main([*words, "--lora_modules", f"second={adapters / 'two'}"], prevent_thread_lock=True)
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names == ["default-lora", MODEL, "second"]
    texts = [ask(client, STORY, name, max_tokens=12).choices[0].message.content for name in names]
    assert len(set(texts)) == 3
    assert plain(STORY[0]["content"]).startswith(texts[1][:10])
    served.close()


@pytest.mark.slow
def test_a_signal_lets_answers_finish(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "swift.cli", "deploy", "--model_type", MODEL, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+/v1", line)))
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        stream = ask(client, STORY, stream=True, max_tokens=60)
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("stop", "length")
        process.stderr.read()
        assert process.wait(40) == 143


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "secret"])
def test_the_api_is_what_its_schema_says(tmp_path: Path, key: str | None) -> None:
    pytest.importorskip("schemathesis")  # a schema cannot say which conversations have something to answer
    (tmp_path / "key").write_text(key or "none")
    words = ["--model_type", MODEL, "--port", "0", *(["--api_key_file", str(tmp_path / "key")] if key else [])]
    served = deploy_main(words, prevent_thread_lock=True)
    said = ["--header", f"Authorization: Bearer {key}"] if key else []
    tool = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}openapi.json", *said]
    ran = subprocess.run(
        [*tool, "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", "100", "--seed", "1"],
        capture_output=True, text=True, cwd=tmp_path, timeout=1500,
    )  # fmt: skip
    served.close()
    assert ran.returncode == 0, ran.stdout[-3000:]


def test_what_else_can_be_said(caplog: pytest.LogCaptureFixture) -> None:
    words = ["--model_type", MODEL, "--port", "0", "--allowed_hosts", "other.example", "--owned_by", "me",
             "--log_interval", "1", "--stop_words", "Paris", "--query", "hi",
             "--log_requests", "true"]  # fmt: skip
    served = deploy_main(words, prevent_thread_lock=True)
    assert "no use for --query" in caplog.text
    assert send(f"{served.url}v1/models", Host="other.example")[1]["data"][0]["owned_by"] == "me"
    assert send(f"{served.url}v1/models", Host="evil.example")[0] == 400
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    assert "Paris" not in ask(client).choices[0].message.content
    assert "POST '/v1/chat/completions' '{" in caplog.text
    assert CAPITAL[0]["content"] in caplog.text
    for _ in range(30):
        time.sleep(0.1)
        if "tokens/s" in caplog.text:
            break
    assert "tokens/s" in caplog.text
    served.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
    ]
    subprocess.run([*make, "-subj", "/CN=localhost"], check=True, capture_output=True)
    words = ["--model_type", MODEL, "--port", "0", "--ssl_keyfile", key, "--ssl_certfile", certificate]
    served = deploy_main(words, prevent_thread_lock=True)
    assert served.url.startswith("https://")
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    with urllib.request.urlopen(f"{served.url}health", timeout=9, context=context) as response:
        assert json.load(response) == {"status": "ok"}
    served.close()


def test_a_tuner_that_cannot_share_a_batch_is_served_by_itself(adapters: Path) -> None:
    words = ["--ckpt_dir", str(adapters / "dora"), "--model_type", MODEL, "--port", "0", "--allow_other_base", "true"]
    served = deploy_main(words, prevent_thread_lock=True)
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == [MODEL]
    said = ask(client, STORY, max_tokens=12).choices[0].message.content
    assert said != plain(STORY[0]["content"])[: len(said)]
    served.close()
    with pytest.raises(ConfigError, match="cannot share a batch"):
        deploy_main([*words, "--lora_modules", f"one={adapters / 'one'}"], prevent_thread_lock=True)
