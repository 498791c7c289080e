"""Where a page listens and who may come in; checked before anything heavy is loaded."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import socket
from pathlib import Path

from swift.arguments.app_ui import AppUIArguments
from swift.errors import ConfigError, NotFoundError, SwiftError, UnavailableError, raise_all

Passwords = dict[str, str]
LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def read_access(args: AppUIArguments) -> Passwords:
    """The passwords by user; {} lets everybody in.

    Raises:
        NotFoundError: there is no such `auth_file`.
        ConfigError: the file has other lines than `user:password`, or the page would be open to others without it.
    """
    raise_all(_contradictions(args))
    return read_passwords(Path(args.auth_file)) if args.auth_file else {}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost is taken to be reached from outside."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def known_hosts(args: AppUIArguments) -> list[str]:
    """The host names a request may be for: all, unless loopback alone protects the page.

    Other sites can give their name this machine's address and so send a visitor's browser here; their name tells.
    """
    return ["*"] if args.auth_file or args.no_auth_i_understand else [*LOCAL_HOSTS, args.host]


def may_enter(passwords: Passwords, user: str, password: str) -> bool:
    """Whether this is the user's password, in a time that does not tell how much of it is right."""
    right = passwords.get(user, "")
    return hmac.compare_digest(right.encode(), password.encode()) and bool(right)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UnavailableError: the port is in use, or the address is not this machine's.
    """
    name = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        fix = "--host 127.0.0.1"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            fix = "choose another --port, or --port 0 for any that is free"
        taken = error.errno == errno.EADDRINUSE
        why = "another program listens there" if taken else str(error.strerror or error)
        raise UnavailableError("SERVER-01", f"cannot listen on {host} port {port}", why=why, fix=fix) from None


def address_of(listening: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _contradictions(args: AppUIArguments) -> list[SwiftError]:
    errors: list[SwiftError] = []
    fix = "--auth_file FILE with a `user:password` on each line, or --no_auth_i_understand"
    if not args.auth_file and not args.no_auth_i_understand:
        if not is_loopback(args.host):
            errors.append(ConfigError("SERVER-02", f"--host {args.host} lets in everybody on the network", fix=fix))
        if args.share:
            errors.append(ConfigError("SERVER-02", "--share lets in everybody who has the link", fix=fix))
    if args.num_beams > 1:
        errors.append(ConfigError("CONFIG-02", "--num_beams above 1 cannot stream onto a page", fix="--num_beams 1"))
    return errors


def read_passwords(path: Path, option: str = "--auth_file") -> Passwords:
    """The passwords by user that a file has, a `user:password` on each line; `option` names the file.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it has other lines.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFoundError("FOUND-01", f"{option} {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("CONFIG-01", f"{option} {path} cannot be read: {error}") from None
    pairs = [(number, *line.partition(":")) for number, line in enumerate(lines, 1) if line.strip()]
    wrong = [number for number, user, _, password in pairs if not user.strip() or not password]
    if wrong or not pairs:
        where = f"{path}:{wrong[0]}" if wrong else f"{option} {path}"
        raise ConfigError("CONFIG-01", f"{where}: not `user:password`", fix="write a `user:password` on each line")
    return {user.strip(): password for _, user, _, password in pairs}
