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
COPY = """text => {
  if (navigator.clipboard) { navigator.clipboard.writeText(text); return; }
  const box = document.body.appendChild(document.createElement('textarea'));
  box.value = text;
  box.select();
  document.execCommand('copy');
  box.remove();
}"""
"""Copies a text, also where the page came over plain HTTP from another machine."""
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
    without = (field.info.none or "").replace("`", "")
    return gr.Textbox(
        field.default,
        placeholder=without if words.language == "en" or not without else words.auto,
        lines=2 if long else 1,
        max_lines=8 if long else 1,
        **told,
    )


def named(choices: Iterable[str], words: Words) -> list[tuple[str, str]]:
    """Choices with what stands for them in a list."""
    return [(choice or words.auto, choice) for choice in choices]


def draw_command(typed: str, words: Words, name: str) -> Any:
    """A box with a command line, which is shown and not run."""
    return gr.Textbox(
        typed,
        label=words.command,
        show_label=False,
        interactive=False,
        lines=2,
        max_lines=24,
        elem_classes="typed",
        elem_id=name,
    )


def draw_copy(command: Any, words: Words, name: str) -> None:
    """A button that copies what the box holds."""
    gr.Button(words.copy, size="sm", elem_id=name).click(None, command, js=COPY)
