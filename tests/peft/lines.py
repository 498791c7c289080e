"""The lines that were logged during a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from swift.log import get_logger


@pytest.fixture(name="said")
def said_lines() -> Iterator[list[str]]:
    """What the logger said, line by line."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    get_logger().addHandler(handler)
    yield lines
    get_logger().removeHandler(handler)
