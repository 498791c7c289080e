"""The server of the chat page."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import gradio as gr
from gradio.themes import Base

from swift.ui import mounted
from swift.ui.answers import Answers
from swift.ui.serving import Passwords
from swift.ui.words import Words

STYLE = Path(__file__).with_name("page.css")


class Served(mounted.Mounted):
    """A chat page that is being served.

    Args:
        blocks: the page.
        answers: whose answers end with it.
        listening: where; closed with it.
        passwords: by user; {} lets everybody in.
        hosts: the host names that requests may be for.
        words: the language of who is not let in yet.
    """

    def __init__(
        self,
        blocks: gr.Blocks,
        answers: Answers,
        listening: socket.socket,
        passwords: Passwords,
        hosts: list[str],
        words: Words,
    ) -> None:
        self.answers = answers
        style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
        super().__init__(
            blocks, listening, passwords, hosts, login=words.login, name="chat page", theme=theme(), head=style
        )

    def close(self) -> None:
        """End every answer, then the server."""
        self.answers.close()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # which tells of every tab that is cut off
        super().close()


def theme() -> Base:
    """Greys that can be read on the quiet theme."""
    grey, light = "*neutral_600", "*neutral_400"
    return mounted.theme().set(
        body_text_color_subdued=grey,
        body_text_color_subdued_dark=light,
        block_info_text_color=grey,
        block_info_text_color_dark=light,
        block_title_text_color=grey,
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark=light,
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )
