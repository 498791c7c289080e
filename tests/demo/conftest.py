"""The modules of `scripts/` can be imported; the built-in models are loaded once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def chat() -> tuple[Any, Any]:
    """demo-chat and its template."""
    from demo.scoring import load

    return load("demo-chat")


@pytest.fixture(scope="session")
def base() -> tuple[Any, Any]:
    """demo-base and its template."""
    from demo.scoring import load

    return load("demo-base", "default-generation")
