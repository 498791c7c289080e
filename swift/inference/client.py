"""Ask a server of the OpenAI API: `swift deploy`'s, or any other."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from swift.errors import TemporaryError, UnavailableError, UsageError

if TYPE_CHECKING:
    from swift.inference.prompt import History

KEY = "SWIFT_API_KEY"
SECONDS = 600


@dataclass
class XRequestConfig:
    """How an answer is to be made; None is the server's own option.

    The fields are those of the API: https://platform.openai.com/docs/api-reference/chat/create
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    n: int = 1
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stream: bool = False
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    length_penalty: float = 1.0
    num_beams: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    def said(self) -> dict[str, Any]:
        """What differs from the defaults."""
        plain = XRequestConfig()
        return {name: value for name, value in asdict(self).items() if value != getattr(plain, name)}


def inference_client(
    model_type: str,
    query: str,
    history: Sequence[Sequence[str]] | None = None,
    system: str | None = None,
    *,
    request_config: XRequestConfig | None = None,
    host: str = "127.0.0.1",
    port: int | str = 8000,
    adapter_name: str | None = None,
    is_chat_request: bool = True,
    url: str | None = None,
    api_key: str | None = None,
) -> Any:
    """The server's answer as an object with the fields of the API, or an iterator of its chunks with `stream`.

    Args:
        model_type: the name of the model there.
        query: the question, or the text to continue.
        history: earlier [query, answer] pairs.
        system: None says nothing of it.
        request_config: how to answer; None leaves it to the server.
        host: of the server.
        port: of the server.
        adapter_name: an adapter there, in place of the model.
        is_chat_request: ask `/v1/chat/completions`; False continues a text.
        url: of the API, up to `/v1`, in place of host and port.
        api_key: None is the variable SWIFT_API_KEY.

    Raises:
        UsageError: the server refused the request; it says why.
        TemporaryError: it has too much to do.
        UnavailableError: it cannot be reached.
    """
    config = request_config or XRequestConfig()
    body: dict[str, Any] = {"model": adapter_name or model_type, **config.said()}
    if is_chat_request:
        body["messages"] = _messages(query, history or [], system)
    else:
        body["prompt"] = query
    path = "chat/completions" if is_chat_request else "completions"
    response = _open(_base(host, port, url) + path, api_key, body)
    if config.stream:
        return _chunks(response)
    return _as_object(_whole(response))


def get_model_list_client(
    host: str = "127.0.0.1", port: int | str = 8000, *, url: str | None = None, api_key: str | None = None
) -> Any:
    """The models of a server: `.data` has an object with `id` for each.

    Raises:
        UsageError: the server refused.
        UnavailableError: it cannot be reached.
    """
    return _as_object(_whole(_open(_base(host, port, url) + "models", api_key)))


def ask_server(url: str, path: str, api_key: str | None, body: Mapping[str, Any] | None = None) -> Any:
    """What the API at `url`, up to `/v1`, answers at `path` to that body (None: to no body), as plain JSON values.

    Raises:
        UsageError: the server refused.
        TemporaryError: it has too much to do.
        UnavailableError: it cannot be reached, or answers with something else than JSON.
    """
    return _whole(_open(_base("", "", url) + path, api_key, body))


def _messages(query: str, history: Sequence[Sequence[str]] | History, system: str | None) -> list[dict[str, str]]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for asked, said in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return [*messages, {"role": "user", "content": query}]


def _base(host: str, port: int | str, url: str | None) -> str:
    return (url or f"http://{host}:{port}/v1").rstrip("/") + "/"


def _open(url: str, api_key: str | None, body: Mapping[str, Any] | None = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key := api_key or os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        return _opener().open(urllib.request.Request(url, data, headers), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        what = f"{url} answers {error.code}: {_message(error)}"
        if error.code in (429, 503):
            raise TemporaryError("SERVER-05", what, fix="ask again in a moment") from None
        raise UsageError("USAGE-02", what) from None
    except (OSError, http.client.HTTPException) as error:
        fix = "start it with `swift deploy`, or check --host and --port"
        raise UnavailableError("SERVER-04", f"{url} cannot be reached", why=str(error), fix=fix) from None


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Goes elsewhere on the same server only: whoever sent the key meant that one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request."""
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            what = f"{req.full_url} sends to another server, {after.scheme}://{after.netloc}: not followed"
            raise UsageError("USAGE-02", what, fix="ask that one, if you trust it with the key")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Opens addresses without a proxy that could read what is sent: one for https carries it unread."""
    tunnels = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    return urllib.request.build_opener(urllib.request.ProxyHandler(tunnels), _SameHost)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


@contextlib.contextmanager
def _answered(url: str) -> Iterator[None]:
    """Words a server that dies while it answers as one that cannot be reached."""
    try:
        yield
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UnavailableError("SERVER-04", f"{url} went away while it answered", why=why) from None


def _whole(response: Any) -> Any:
    """The JSON of an answer that has begun."""
    with response, _answered(response.url):
        return _read(response.read(), response.url)


def _read(text: str | bytes, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnavailableError("SERVER-04", f"{url} does not answer in JSON", why=str(error)) from None


def _chunks(response: Any) -> Iterator[Any]:
    with response, _answered(response.url):
        for line in response:
            if not line.startswith(b"data:"):
                continue
            text = line.decode().removeprefix("data:").strip()
            if text == "[DONE]":
                return
            if text:
                chunk = _read(text, response.url)
                if "error" in chunk:
                    raise UnavailableError("SERVER-04", chunk["error"]["message"])
                yield _as_object(chunk)
    raise UnavailableError("SERVER-04", f"{response.url} went away while it answered", why="no [DONE] came")


def _as_object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _as_object(item) for name, item in value.items()})
    return [_as_object(item) for item in value] if isinstance(value, list) else value
