"""The reference shows docstrings as the tuners' pages do. Named in mkdocs.yml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pages.docstrings import markdown, split


class Readable(griffe.Extension):
    """Makes Markdown of the text before a docstring's sections."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            head, sections = split(obj.docstring.value)
            obj.docstring.value = "\n".join([*markdown(head), "", sections])
