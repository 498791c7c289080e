"""The page as a server: what it shows, whom it lets in, what it loads, how it ends."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

import httpx

from swift.arguments.infer import InferArguments
from swift.commands.app_ui import app_ui_main
from swift.errors import UnavailableError
from swift.serving import guard
from swift.ui import door, mounted, server
from swift.ui.parts import read_settings
from tests.ui.start import started


def options(tiny_dir: Path, **more: Any) -> dict[str, Any]:
    return {"model_id_or_path": str(tiny_dir), "port": 0, "lang": "en", "max_new_tokens": 8, **more}


@pytest.fixture(scope="module")
def page(tiny_dir: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        asked = outside(patch)
        served = app_ui_main(prevent_thread_lock=True, **options(tiny_dir))
        assert served is not None
        yield served
        served.close()
        assert asked == []
    assert not served.thread.is_alive()


def outside(patch: pytest.MonkeyPatch) -> list[Any]:
    """A list of every address outside this machine that anything in the process connects to from now on."""
    found: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            found.append(address)
        connect(self, address)

    patch.setattr(socket.socket, "connect", watched)
    return found


def test_the_page_names_its_model(page: Any, tiny_dir: Path) -> None:
    config = httpx.get(f"{page.url}config").json()
    assert config["title"] == f"{tiny_dir.name} · swift"
    assert "base model · auto · fp32 · cpu" in str(config["components"])
    assert not config["analytics_enabled"]


def test_the_page_names_nothing_to_load_from_elsewhere(page: Any) -> None:
    answer = httpx.get(page.url)
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(https?:)?//[^\"'>]*", answer.text)
    assert not [place for place in loaded if page.url not in place]


@pytest.mark.parametrize("path", ["/etc/passwd", "README.md", "../../../../etc/passwd"])
def test_files_are_neither_given_nor_taken(page: Any, path: str) -> None:
    shown = path if path.startswith("/") else str(Path(path).absolute())
    assert httpx.get(f"{page.url}gradio_api/file={shown}").status_code in (403, 404)
    assert httpx.post(f"{page.url}gradio_api/upload", files={"files": b"much"}).status_code == 413


def test_a_path_that_a_browser_names_is_not_read(page: Any, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("hush")
    config = httpx.get(f"{page.url}config").json()
    held = {part["id"]: part["props"] for part in config["components"]}
    texts = {number for number, props in held.items() if props.get("elem_id") in ("system", "seed")}
    file = {"path": str(tmp_path / "outside"), "meta": {"_type": "gradio.FileData"}}
    asked = next(each for each in config["dependencies"] if texts & {*each["inputs"]})
    data = [file if part in texts else held[part].get("value") for part in asked["inputs"]]
    call = {"data": data, "fn_index": asked["id"], "session_hash": "tab", "event_data": None, "trigger_id": None}
    assert httpx.post(f"{page.url}gradio_api/queue/join", json=call).status_code == 200
    told = httpx.get(f"{page.url}gradio_api/queue/data", params={"session_hash": "tab"}).text
    assert '"success":false' in told, told


def test_another_name_for_this_machine_is_refused(page: Any) -> None:
    assert httpx.get(page.url, headers={"host": "elsewhere.example"}).status_code == 400
    port = page.listening.getsockname()[1]
    assert httpx.get(page.url, headers={"host": f"localhost:{port}"}).status_code == 200


def test_a_page_of_another_site_is_refused(page: Any) -> None:
    call = {"data": [], "fn_index": 0, "session_hash": "tab"}
    for origin in ("http://elsewhere.example", "null", "http://127.0.0.1:1", "nonsense["):
        said = {"origin": origin, "content-type": "text/plain"}
        assert httpx.post(f"{page.url}gradio_api/queue/join", json=call, headers=said).status_code == 403
    assert httpx.get(page.url, headers={"origin": page.url.rstrip("/")}).status_code == 200
    behind = {"origin": "https://chat.example", "x-forwarded-host": "chat.example"}
    assert httpx.get(page.url, headers=behind).status_code == 200


SLOW = "Host: localhost\r\nContent-Length: 50\r\nContent-Type:"


@pytest.mark.parametrize(
    ("begun", "answered"),
    [
        ("GET /config HT", b""),
        (f"POST /gradio_api/queue/join HTTP/1.1\r\n{SLOW} application/json\r\n\r\n{{", b"HTTP/1.1 408"),
        (f"POST /gradio_api/upload HTTP/1.1\r\n{SLOW} multipart/form-data; boundary=x\r\n\r\n--x", b"HTTP/1.1 408"),
        (f"POST /login HTTP/1.1\r\n{SLOW} application/x-www-form-urlencoded\r\n\r\nusername", b"HTTP/1.1 408"),
    ],
)
def test_who_sends_slowly_is_hung_up_on(
    page: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begun: str, answered: bytes
) -> None:
    monkeypatch.setattr(guard, "SECONDS_TO_SEND", 0.3)
    monkeypatch.setattr(door, "SECONDS", 0.1)
    with socket.create_connection(page.listening.getsockname(), timeout=9) as slow:
        slow.sendall(begun.encode())
        said = slow.recv(300)
        assert said.startswith(answered), said
        assert bool(said) == bool(answered)
        while slow.recv(300):
            pass
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_nothing_can_be_called_by_name(page: Any) -> None:
    assert httpx.get(f"{page.url}gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    for path in ("docs", "openapi.json", "redoc"):
        assert httpx.get(f"{page.url}{path}").status_code == 404
    unused = ("proxy=https://x.hf.space/a", "dev/reload", "openapi.json", "stream/a/b/0/playlist.m3u8", "vibe-code/")
    for path in unused:
        assert httpx.get(f"{page.url}gradio_api/{path}").status_code == 403
    for path in ("process_recording", "component_server"):
        assert httpx.post(f"{page.url}gradio_api/{path}", files={"video": b"x"}).status_code == 403


def test_settings_are_read_as_they_are_typed() -> None:
    values = ["be kind", 0.5, 0.9, 20, 12, 1.1]
    for typed, seed in [
        ("", None),
        (None, None),
        (" 7 ", 7),
        ("0", 0),
        ("-1", None),
        ("x", None),
        ("9" * 40, 10**18 - 1),
    ]:
        assert read_settings([*values, typed]).seed == seed


def test_settings_are_numbers_that_can_be_sampled_with() -> None:
    typed = read_settings(["", 1, 1, 20.0, 12.0, 2, ""])
    assert [type(value) for value in vars(typed).values()] == [str, float, float, int, int, float, type(None)]
    for odd in (float("nan"), float("inf")):
        read = read_settings(["", odd, odd, odd, odd, odd, ""])
        assert list(vars(read).values()) == ["", 1.0, 1.0, 0, 1, 1.0, None]


def test_a_password_is_asked_for(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SECONDS", 0.5)
    (tmp_path / "people").write_text("ann:secret\n")
    served = app_ui_main(
        prevent_thread_lock=True,
        **options(tiny_dir, auth_file=str(tmp_path / "people"), template_type="default-generation"),
    )
    assert served is not None
    try:
        for password in ("", "wrong", "secret"):
            with httpx.Client(base_url=served.url) as client:
                begun, right = time.monotonic(), password == "secret"
                asked = client.post("login", data={"username": "ann", "password": password})
                assert right or time.monotonic() - begun >= 0.5
                assert (asked.status_code == 200) == right
                assert (client.get("gradio_api/info").status_code == 200) == right
                assert ("components" in client.get("config").text) == right
                assert client.get("", headers={"host": "elsewhere.example"}).status_code == 200
    finally:
        served.close()


def test_a_page_with_everything_said(tiny_dir: Path) -> None:
    served = app_ui_main(
        InferArguments(model_id_or_path=str(tiny_dir), system="be kind", temperature=3.0, top_k=500, seed=3),
        prevent_thread_lock=True,
        port=0,
        lang="zh",
    )
    assert served is not None
    try:
        config = str(httpx.get(f"{served.url}config").json())
        assert "be kind" in config
        assert "温度" in config
    finally:
        served.close()


def test_a_link_that_cannot_be_made_ends_the_page(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(mounted.networking, "setup_tunnel", fails)
    with pytest.raises(UnavailableError, match="public link"):
        app_ui_main(**options(tiny_dir, share=True, no_auth_i_understand=True))


@pytest.mark.slow
def test_a_link_is_told(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(mounted.networking, "setup_tunnel", lambda *args: "https://x.example")
    monkeypatch.setattr(server.Served, "wait", lambda self: None)
    assert app_ui_main(**options(tiny_dir, share=True, no_auth_i_understand=True)) is None
    assert "public link: https://x.example" in caplog.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.slow
def test_a_signal_ends_it_cleanly(number: signal.Signals, code: int, tiny_dir: Path) -> None:
    with started(["--model_id_or_path", str(tiny_dir), "--port", "0"]) as (process, url):
        with httpx.stream("GET", f"{url}gradio_api/heartbeat/x") as beats:  # an open tab
            next(beats.iter_bytes())
            began = time.monotonic()
            process.send_signal(number)
            output = process.communicate(timeout=30)[0]
        assert process.returncode == code, output
        assert time.monotonic() - began < 10
        assert "Traceback" not in output
