"""`app_ui_main`, the chat page: its name is public already, the page is not there yet."""

from __future__ import annotations

from typing import NoReturn

from swift.arguments.infer import InferArguments
from swift.errors import MissingPackageError


def app_ui_main(args: InferArguments) -> NoReturn:
    """Raise MissingPackageError: this version has no chat page."""
    checkpoint = f" --ckpt_dir {args.ckpt_dir}" if args.ckpt_dir else ""
    raise MissingPackageError(
        "PACKAGE-01", "this version has no chat page yet", fix=f"chat in the terminal: swift infer{checkpoint}"
    )
