"""A form as widgets of gradio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from swift.studio.form import Field
from swift.studio.labels import label_of
from swift.studio.words import Words

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
LONG = ("system", "prompt_init_text")
MAYBE = "maybe"
"""The style of what takes no room while it is empty."""


def draw(field: Field, words: Words, choices: Iterable[str] | None = None, **more: Any) -> Any:
    """The widget of an option; `choices` in place of its own, `more` for gradio."""
    name, info = label_of(field, words.language)
    told: dict[str, Any] = {"label": name, "info": info, "elem_id": f"opt-{field.name}", "elem_classes": "opt", **more}
    if field.widget == "switch":
        return gr.Checkbox(field.default, **told)
    offered = list(field.choices if choices is None else choices)
    if field.widget == "choices":
        free = field.free or not field.info.choices
        return gr.Dropdown(offered, value=field.default, multiselect=True, allow_custom_value=free, **told)
    if field.widget == "choice" or choices is not None:
        return gr.Dropdown(
            named(offered, words), value=field.default, allow_custom_value=field.free, filterable=True, **told
        )
    long = field.name in LONG
    return gr.Textbox(
        field.default,
        placeholder=field.info.none or "",
        lines=2 if long else 1,
        max_lines=8 if long else 1,
        **told,
    )


def named(choices: Iterable[str], words: Words) -> list[tuple[str, str]]:
    """Choices with what stands for them in a list."""
    return [(choice or words.auto, choice) for choice in choices]
