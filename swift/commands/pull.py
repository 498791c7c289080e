"""`swift pull`: fetch a model or checkpoint into a directory."""

from __future__ import annotations

import json
import sys
from typing import Any

from swift.arguments.hub import PullArguments
from swift.arguments.reading import read_arguments
from swift.publish.pull import pull


def pull_main(said: PullArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Fetch as the options say; return what came."""
    args = read_arguments(PullArguments, said, **options)
    pulled = pull(args)
    sys.stdout.write(f"{json.dumps(pulled.to_json()) if args.json else pulled.line()}\n")
    return pulled.to_json()
