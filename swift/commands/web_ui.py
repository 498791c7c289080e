"""`swift web-ui`: the studio, pages in the browser to train, watch, compare, try and export models."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swift.arguments.reading import read_arguments
from swift.arguments.web_ui import WebUIArguments
from swift.errors import ConfigError, MissingPackageError, SwiftError, raise_all
from swift.log import get_logger
from swift.studio.studio import Studio
from swift.studio.words import choose_words
from swift.studio.workspace import Workspace
from swift.ui.serving import LOCAL_HOSTS, Passwords, is_loopback, listen, read_passwords

if TYPE_CHECKING:
    from swift.studio.server import Served

logger = get_logger()


def web_ui_main(
    said: WebUIArguments | list[str] | None = None, *, prevent_thread_lock: bool = False, **options: Any
) -> Served | None:
    """Serve the studio until it is interrupted; what it has started goes on.

    Args:
        said: a `WebUIArguments`, a list of command-line words, or None for `sys.argv`.
        prevent_thread_lock: return while it is served: its `url` says where, its `close()` ends it.
        options: single options by name, over `said`.

    Raises:
        MissingPackageError: gradio is not installed.
        ConfigError: others could come in without a password.
        UnavailableError: the port is in use.
    """
    args = read_arguments(WebUIArguments, said, **options)
    passwords = read_access(args)
    workspace = Workspace.at(args.workspace)
    server = load_server()
    hosts = ["*"] if passwords else [*LOCAL_HOSTS, args.host]
    with listen(args.host, args.port) as listening:
        studio = Studio(workspace)
        served = server.Served(studio, choose_words(args.lang), listening.dup(), passwords, hosts)
    logger.info(f"studio on {served.url} (Ctrl-C ends it; runs go on), workspace {workspace.root}")
    if args.share:
        logger.info(f"public link: {served.share()}")
    if prevent_thread_lock:
        return served
    end_with_its_terminal()
    try:
        served.wait()
    finally:
        served.close()
    return None


def read_access(args: WebUIArguments) -> Passwords:
    """The passwords by user; {} lets everybody in who works on this machine.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it has other lines, or the studio would be open to others without it.
    """
    errors: list[SwiftError] = []
    fix = "--auth FILE with a `user:password` on each line"
    if not args.auth and not is_loopback(args.host):
        errors.append(ConfigError("SERVER-02", f"--host {args.host} lets everybody start processes here", fix=fix))
    if not args.auth and args.share:
        errors.append(ConfigError("SERVER-02", "--share lets everybody who has the link start processes", fix=fix))
    raise_all(errors)
    return read_passwords(Path(args.auth), "--auth") if args.auth else {}


def end_with_its_terminal() -> None:
    """Make SIGHUP an orderly exit where nobody handles or ignores it, so that no model stays loaded."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, end)


def load_server() -> ModuleType:
    """The module that needs gradio.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    try:
        from swift.studio import server
    except ModuleNotFoundError as error:
        missing = f"the studio needs gradio ({error.name} is missing)"
        raise MissingPackageError("PACKAGE-01", missing, fix="pip install 'swift-finetune[ui]'") from None
    return server
