"""The logger: messages to stderr, from rank 0 only, with secrets blacked out."""

from __future__ import annotations

import logging
import os
import sys

from swift import dist
from swift.redact import redact_text

# Where these optional packages are installed, they warn on every start of what a machine without CUDA does without.
for name in ("bitsandbytes.backends.cpu.ops", "torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Redact(logging.Filter):
    """Blacks out secrets in every message before a handler sees it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, its message redacted."""
        record.msg, record.args = redact_text(record.getMessage()), None
        return True


def get_logger(name: str = "swift") -> logging.Logger:
    """The logger `name`; the first call gives it a stderr handler. `SWIFT_LOG_LEVEL` sets its level (INFO)."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.addFilter(Redact())
        level = os.environ.get("SWIFT_LOG_LEVEL", "INFO").upper() if dist.is_main() else "ERROR"
        logger.setLevel(level)
        logger.propagate = False
    return logger
