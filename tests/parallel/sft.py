"""One process of a run of `swift sft`: `sft.py OUT OPTION ...`; the report goes to OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from swift import dist
from swift.commands.sft import sft_main


def main(out: str, *said: str) -> None:
    report = sft_main(list(said))
    if dist.is_main():
        Path(out).write_text(json.dumps(report, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
