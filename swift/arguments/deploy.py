"""Options of `swift deploy`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.adapters import AdapterOptions
from swift.arguments.address import AddressOptions
from swift.arguments.fields import option
from swift.arguments.infer import InferArguments


@dataclass(kw_only=True)
class DeployArguments(AddressOptions, AdapterOptions, InferArguments):
    """Serve a model or checkpoint behind the OpenAI API."""

    port: int = option(8000, group="Server", minimum=0, maximum=65535, help="Port to listen on; 0 is any free one.")
    api_key_file: str | None = option(
        None,
        group="Server",
        help="File with the key that callers must send.",
        none="the variable SWIFT_API_KEY, or no key",
    )
    allowed_hosts: list[str] = option(
        [], group="Server", help="Further host names that requests may be for, where no key is asked; `*` is any."
    )
    no_auth_i_understand: bool = option(
        False, group="Server", help="Let everybody ask who can reach the server, under whatever host name."
    )
    ssl_certfile: str | None = option(None, group="Server", help="Certificate, to serve HTTPS.", none="HTTP")
    ssl_keyfile: str | None = option(
        None, group="Server", help="Key of the certificate.", none="in the certificate file"
    )
    served_model_name: str | None = option(
        None, group="Server", help="What callers say in `model` for the base model.", none="its model type"
    )
    owned_by: str = option("swift", group="Server", help="What `/v1/models` says of the owner.")
    adapters_dir: str | None = option(
        None,
        group="Server",
        help="Adapters below this directory can be loaded and dropped while the server runs, at `/v1/adapters`.",
        none="none can",
    )
    max_waiting: int = option(
        256, group="Server", minimum=1, unit="requests", help="Longest queue; who comes then is told to come again."
    )
    log_interval: int = option(
        10,
        group="Server",
        minimum=0,
        unit="seconds",
        help="How often to log the speed while there is work; 0 is never.",
    )
    log_requests: bool = option(False, group="Server", help="Log what callers ask, in their words.")
    batch_size: int = option(64, group="Generation", minimum=1, unit="requests", help="Requests answered at once.")
