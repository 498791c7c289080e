"""The server of the studio: its pages, how they look, and the uploads that it takes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from swift.studio.page import build
from swift.studio.studio import Studio
from swift.studio.talks import Talks
from swift.studio.words import Words
from swift.studio.workspace import LARGEST_UPLOAD
from swift.ui.mounted import Mounted, theme
from swift.ui.serving import Passwords

STYLE = Path(__file__).with_name("studio.css")


class Served(Mounted):
    """The studio while it is served.

    Args:
        studio: what it does.
        words: the language to speak.
        listening: where; closed with it.
        passwords: by user; {} lets everybody in.
        hosts: the host names that requests may be for.
    """

    def __init__(
        self, studio: Studio, words: Words, listening: socket.socket, passwords: Passwords, hosts: list[str]
    ) -> None:
        self.studio, self.talks = studio, Talks(studio)
        studio.workspace.forget_uploads()
        os.environ["GRADIO_TEMP_DIR"] = str(studio.workspace.uploads)
        super().__init__(
            build(studio, self.talks, words),
            listening,
            passwords,
            hosts,
            login=words.login,
            name="studio",
            largest_upload=LARGEST_UPLOAD,
            theme=theme(),
            css=STYLE.read_text(encoding="utf-8"),
        )

    def close(self) -> None:
        """End the chats and the server; runs go on."""
        self.talks.close()
        self.studio.close()
        super().close()
