"""Where a server listens."""

from __future__ import annotations

import os
from dataclasses import dataclass

from swift.arguments.fields import option

HOST = os.environ.get("SWIFT_HOST") or "127.0.0.1"


@dataclass(kw_only=True)
class AddressOptions:
    """The address of what is served; ports differ."""

    host: str = option(
        HOST,
        group="Server",
        help="Address to listen on; the default is this machine alone, or the variable SWIFT_HOST.",
    )
