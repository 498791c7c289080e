"""`swift deploy`: a model or checkpoint behind the OpenAI API."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swift.arguments.deploy import DeployArguments
from swift.arguments.reading import read_arguments
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_decided, load_embedder, load_template, load_tuned_model
from swift.decide import tidy
from swift.errors import ConfigError, MissingPackageError, NotFoundError
from swift.inference.embedding import gives_vectors
from swift.log import get_logger
from swift.ui.serving import LOCAL_HOSTS, is_loopback, listen

if TYPE_CHECKING:
    from swift.serving.server import Served

logger = get_logger()
KEY = "SWIFT_API_KEY"
NOT_USED = (
    "query", "tools", "dataset", "val_dataset", "show_dataset_sample", "save_result", "result_dir",
    "overwrite_generation_config", "seed", "stream", "verbose", "dataset_test_ratio", "dataset_seed",
)  # fmt: skip


def deploy_main(
    said: DeployArguments | list[str] | None = None, *, prevent_thread_lock: bool = False, **options: Any
) -> Served | None:
    """Serve the OpenAI API until it is interrupted.

    Args:
        said: a `DeployArguments`, a list of command-line words, or None for `sys.argv`.
        prevent_thread_lock: return while it is served: its `url` says where, its `close()` ends it.
        options: single options by name, over `said`.

    Raises:
        MissingPackageError: fastapi or uvicorn is not installed.
        ConfigError: the server would be open to others without a key, or the model cannot be served.
        UnavailableError: the port is in use.
    """
    args = used(tidy(read_arguments(DeployArguments, said, **options)))
    key = read_key(args)
    check_open(args, key)
    server = load_server()
    with listen(args.host, args.port) as listening:
        if args.merge_lora:
            args = replace(args, ckpt_dir=merge_lora(args), merge_lora=False)
        decided, source = find_decided(args)
        assert isinstance(decided, DeployArguments)
        base = decided.served_model_name or decided.model_type or source.name
        if gives_vectors(source.path):
            api = server.embedding_api(decided, base, load_embedder(decided, source))
        else:
            template = load_template(replace(decided, max_length=-1), source)
            api = server.text_api(decided, base, load_tuned_model(decided, source), template)
        hosts = ["*"] if key or args.no_auth_i_understand else [*LOCAL_HOSTS, args.host, *args.allowed_hosts]
        served = server.Served(decided, api, listening.dup(), key, hosts)
    logger.info(f"serving {', '.join(served.names)} on {served.url}v1 (Ctrl-C ends it)")
    if said_of_others := reach(args.host, served.listening.getsockname()[1], key):
        logger.info(said_of_others)
    if prevent_thread_lock:
        served.start()
        return served
    served.run()
    return None


def used(args: DeployArguments) -> DeployArguments:
    """The options of a server; what is said and does nothing here is named in a line."""
    plain = DeployArguments()
    unused = [f"--{name}" for name in NOT_USED if getattr(args, name) != getattr(plain, name)]
    if unused:
        logger.warning(f"a server has no use for {', '.join(unused)}: its callers say what they ask")
    return replace(args, **{name: getattr(plain, name) for name in NOT_USED})


def read_key(args: DeployArguments) -> str | None:
    """The key that callers must send; None lets everybody in.

    Raises:
        NotFoundError: there is no such `api_key_file`.
        ConfigError: it is empty.
    """
    if args.api_key_file is None:
        return os.environ.get(KEY, "").strip() or None
    path = Path(args.api_key_file).expanduser()
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"--api_key_file {args.api_key_file} does not exist")
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("CONFIG-01", f"--api_key_file {args.api_key_file} cannot be read: {error}") from None
    if not key or len(key.split()) != 1:
        raise ConfigError(
            "CONFIG-01", f"--api_key_file {args.api_key_file} does not hold one key", fix="one line, no spaces"
        )
    return key


def check_open(args: DeployArguments, key: str | None) -> None:
    """Raise ConfigError when others could ask without a key, or when options cannot be served."""
    if key is None and not args.no_auth_i_understand and not is_loopback(args.host):
        fix = f"put a key into {KEY} or --api_key_file, or --no_auth_i_understand true"
        raise ConfigError("SERVER-02", f"--host {args.host} lets in everybody on the network", fix=fix)
    for name in ("ssl_certfile", "ssl_keyfile"):
        said = getattr(args, name)
        if said and not Path(said).expanduser().is_file():
            raise NotFoundError("FOUND-01", f"--{name} {said} does not exist")
    if args.ssl_keyfile and not args.ssl_certfile:
        raise ConfigError("CONFIG-02", "--ssl_keyfile needs --ssl_certfile: without it HTTP is served")
    if args.ssl_certfile:
        check_certificate(args.ssl_certfile, args.ssl_keyfile)
    if args.adapters_dir is not None and not Path(args.adapters_dir).expanduser().is_dir():
        raise NotFoundError("FOUND-01", f"--adapters_dir {args.adapters_dir} is not a directory")
    if args.num_beams > 1:
        raise ConfigError("CONFIG-02", "--num_beams above 1 cannot be served", fix="--num_beams 1")


def check_certificate(certificate: str, key: str | None) -> None:
    """Raise ConfigError unless HTTPS can be served with these files."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        what = f"--ssl_certfile {certificate}" + (f" and --ssl_keyfile {key}" if key else "")
        fix = "PEM files: the certificate, and its key without a password"
        raise ConfigError("CONFIG-01", f"{what} cannot serve HTTPS", why=str(error), fix=fix) from None


def reach(host: str, port: int, key: str | None) -> str:
    """Who can ask besides this machine; "" is nobody."""
    if is_loopback(host):
        return ""
    return f"whoever reaches {host} port {port} from elsewhere can ask {'with' if key else 'without'} a key"


def load_server() -> ModuleType:
    """The module that needs fastapi and uvicorn.

    Raises:
        MissingPackageError: one is not installed.
    """
    try:
        from swift.serving import server
    except ModuleNotFoundError as error:
        missing = f"swift deploy needs {error.name}"
        raise MissingPackageError("PACKAGE-01", missing, fix="pip install 'swift-finetune[serve]'") from None
    return server
