"""The key of a server goes to that server alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from swift.errors import UnavailableError, UsageError
from swift.inference.client import XRequestConfig, get_model_list_client, inference_client


@pytest.fixture
def servers() -> Iterator[list[ThreadingHTTPServer]]:
    """Two servers on ports of their own: the first sends all who ask to what its `to` says; both note the keys."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.keys.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
            to = self.server.to if self.path.endswith("/models") else None  # type: ignore[attr-defined]
            self.send_response(302 if to else 200)
            if to:
                self.send_header("Location", to)
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def log_message(self, *_: object) -> None:
            pass

    made = []
    for _ in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.keys, server.to = [], None  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        made.append(server)
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


def test_no_proxy_reads_the_key(servers, monkeypatch):
    asked, proxy = servers
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get_model_list_client(port=asked.server_port, api_key="s3cret").data == []
    assert asked.keys == [("/v1/models", "Bearer s3cret")]
    assert proxy.keys == []


def test_an_https_proxy_is_only_a_tunnel(servers, monkeypatch):
    _, proxy = servers
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
    with pytest.raises(UnavailableError, match="cannot be reached"):  # the proxy knows no CONNECT
        get_model_list_client(url="https://example.invalid/v1", api_key="s3cret")
    assert proxy.keys == []


def test_the_key_is_not_taken_elsewhere(servers):
    asked, other = servers
    asked.to = f"http://127.0.0.1:{other.server_port}/elsewhere"
    with pytest.raises(UsageError, match=f"another server, http://127.0.0.1:{other.server_port}: not followed"):
        get_model_list_client(port=asked.server_port, api_key="s3cret")
    assert other.keys == []
    asked.to = "/v1/models/"
    assert get_model_list_client(port=asked.server_port, api_key="s3cret").data == []
    assert asked.keys[-1] == ("/v1/models/", "Bearer s3cret")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNK = b'data:{"choices": []}\n\n'


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nothing of HTTP\r\n\r\n",
        HEAD + b"Connection: close\r\n\r\n" + CHUNK,  # no [DONE]
        HEAD + b"Connection: close\r\n\r\n" + CHUNK[:-8],
        HEAD + b"Content-Length: 1000\r\n\r\n" + CHUNK,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n16\r\n" + CHUNK + b"\r\n50\r\ndata:",
    ],
)
def test_a_server_that_dies_while_it_answers(said, stream):
    def answer() -> None:
        with listening, listening.accept()[0] as asker:
            asker.recv(1 << 16)
            asker.sendall(said)

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(UnavailableError) as caught:
        list(inference_client("m", "hi", port=port, request_config=XRequestConfig(stream=stream)))
    assert (caught.value.code, caught.value.exit_code) == ("SERVER-04", 69)
    thread.join()
