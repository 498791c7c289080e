"""A page as a whole: its parts, how many may wait, what happens when a tab is closed."""

from __future__ import annotations

from typing import Any

import gradio as gr

from swift.ui.answers import Answers
from swift.ui.chat_page import ChatPage
from swift.ui.completion_page import CompletionPage
from swift.ui.parts import Describe, Parts
from swift.ui.words import Words

WAITING_PEOPLE = 64
CLOSE_PANEL_ON_PHONES = "() => { if (innerWidth < 768) document.querySelector('#side .toggle-button')?.click() }"


def build(answers: Answers, name: str, describe: Describe, words: Words, *, completes: bool) -> gr.Blocks:
    """The page of what `name` answers: a chat, or boxes for a model that completes text."""
    blocks = gr.Blocks(title=f"{name} · swift", analytics_enabled=False, fill_height=True)
    with blocks:
        parts = Parts(answers, name, describe, words, files=not completes)
        page: Any = (CompletionPage if completes else ChatPage)(parts)
        parts.connect_language(page.again, page.remembered, page.outputs)
        blocks.unload(_leave(answers))
        blocks.load(None, js=CLOSE_PANEL_ON_PHONES)
    blocks.queue(max_size=WAITING_PEOPLE, default_concurrency_limit=answers.args.concurrency)
    return blocks


def _leave(answers: Answers) -> Any:
    def leave(request: gr.Request) -> None:
        answers.running.leave(str(request.session_hash))

    return leave
