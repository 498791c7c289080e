"""Who may come in, and where the page listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from swift.arguments.app_ui import AppUIArguments
from swift.errors import ConfigError, NotFoundError, SwiftError, UnavailableError
from swift.ui.serving import address_of, is_loopback, known_hosts, listen, may_enter, read_access

ANYWHERE = ".".join("0000")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_password(host: str) -> None:
    assert is_loopback(host)
    args = AppUIArguments(host=host)
    assert read_access(args) == {}
    assert {host, "localhost"} <= set(known_hosts(args))


@pytest.mark.parametrize("host", [ANYWHERE, "::", "192.168.1.3", "example.org", "localhost.example.org", ""])
def test_other_hosts_need_one(host: str, tmp_path: Path) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="network") as caught:
        read_access(AppUIArguments(host=host))
    assert caught.value.exit_code == 78
    assert "--auth_file" in str(caught.value)
    assert read_access(AppUIArguments(host=host, no_auth_i_understand=True)) == {}
    (tmp_path / "people").write_text("ann:secret\n")
    args = AppUIArguments(host=host, auth_file=str(tmp_path / "people"))
    assert read_access(args) == {"ann": "secret"}
    assert known_hosts(args) == ["*"]


def test_a_public_link_needs_one() -> None:
    with pytest.raises(ConfigError, match="--share"):
        read_access(AppUIArguments(share=True))
    assert read_access(AppUIArguments(share=True, no_auth_i_understand=True)) == {}


def test_beams_cannot_stream() -> None:
    with pytest.raises(ConfigError, match="--num_beams"):
        read_access(AppUIArguments(num_beams=2))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SwiftError) as caught:
        read_access(AppUIArguments(host=ANYWHERE, share=True))
    assert str(caught.value).count("SERVER-02") == 2


def test_passwords_keep_their_colons_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "people"
    path.write_text("ann:a:b c \n\n 小明 :密码\n", encoding="utf-8")
    passwords = read_access(AppUIArguments(auth_file=str(path)))
    assert passwords == {"ann": "a:b c ", "小明": "密码"}
    assert may_enter(passwords, "小明", "密码")
    for user, password in [("ann", "a:b c"), ("ann", ""), ("bob", ""), ("bob", "x"), ("", "")]:
        assert not may_enter(passwords, user, password)


@pytest.mark.parametrize("text", ["", "\n", "ann\n", "ann:\n", ":secret\n", "bob:x\nann\n", b"\xff:x"])
def test_a_file_of_other_lines_is_refused_without_showing_them(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "people"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_access(AppUIArguments(auth_file=str(path)))
    assert caught.value.exit_code == 78
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_access(AppUIArguments(auth_file=str(tmp_path / "nobody")))


def test_a_port_that_is_taken_is_an_error_and_0_is_any_other() -> None:
    with listen("127.0.0.1", 0) as first, listen("127.0.0.1", 0) as second:
        port = first.getsockname()[1]
        assert port != second.getsockname()[1]
        assert address_of(first) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UnavailableError, match=str(port)) as caught:
            listen("127.0.0.1", port)
        assert caught.value.exit_code == 69
        assert "another program" in str(caught.value)
        assert "--port 0" in str(caught.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        listen(host, 0)
    assert caught.value.exit_code == 69


def test_addresses_can_be_typed_into_a_browser() -> None:
    with listen(ANYWHERE, 0) as everywhere:
        assert address_of(everywhere).startswith("http://127.0.0.1:")
    if socket.has_ipv6:
        with listen("::1", 0) as six:
            assert address_of(six).startswith("http://[::1]:")
