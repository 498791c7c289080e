"""Black out secrets: in text by their shape, in mappings by the name of the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

SECRET_KEY = re.compile(
    r"(^|_)((hub|api|auth|access|hf|ms|wandb|swanlab)_?(token|key)|secret(_key)?|password|passwd|credentials?|webhook|cookie)$",
    re.I,
)
SECRET_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|ms-[A-Za-z0-9-]{16,}|sk-[A-Za-z0-9_-]{16,}|AKIA[A-Z0-9]{16}|wandb_v1_[A-Za-z0-9_]{16,})"
)
URL_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@", re.I)


def redact_text(text: str) -> str:
    """`text` with tokens of a known shape and passwords in URLs blacked out."""
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
