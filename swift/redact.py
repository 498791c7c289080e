"""Black out secrets: in text by their shape, in mappings by the name of the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

SECRET_KEY = re.compile(
    r"(^|_)((hub|api|auth|access|hf|ms|wandb|swanlab|eval)_?(token|key)|secret(_key)?|password|passwd|credentials?|webhook|cookie)$",
    re.I,
)
SECRET_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|ms-[A-Za-z0-9-]{16,}|sk-[A-Za-z0-9_-]{16,}|AKIA[A-Z0-9]{16}|wandb_v1_[A-Za-z0-9_]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}|xox[baprs]-[A-Za-z0-9-]{16,}"
    r"|AIza[A-Za-z0-9_-]{35})"
)
URL_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@", re.I)

_KNOWN: set[str] = set()
SHORTEST = 6


def hide(secret: str) -> None:
    """Black out this very text too, whatever its shape, wherever this process redacts."""
    if len(secret) >= SHORTEST:
        _KNOWN.add(secret)


def known_secrets() -> frozenset[str]:
    """What `hide` was told."""
    return frozenset(_KNOWN)


def redact_text(text: str) -> str:
    """`text` with hidden secrets, tokens of a known shape and passwords in URLs blacked out."""
    for secret in _KNOWN:
        text = text.replace(secret, HIDDEN)
    return URL_USER.sub(rf"\1{HIDDEN}@", SECRET_VALUE.sub(HIDDEN, text))


def redact(value: Any, key: str = "") -> Any:
    """`value` with secrets blacked out, through mappings and lists; what is stored under a secret's name always is."""
    if SECRET_KEY.search(key):
        return HIDDEN if value else value
    if isinstance(value, Mapping):
        return {k: redact(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(v) for v in value]
    return redact_text(value) if isinstance(value, str) else value
