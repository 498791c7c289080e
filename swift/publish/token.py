"""Whose token writes to a hub: from the environment or a login, never from a file of ours or another's command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from swift import hub
from swift.arguments.hub import HubOptions
from swift.errors import RefusedError
from swift.log import get_logger
from swift.redact import hide

H = TypeVar("H", bound=HubOptions)
logger = get_logger()

VARIABLES = {True: "HF_TOKEN", False: "MODELSCOPE_API_TOKEN"}
OPTIONS = ("--hub_token", "--push_to_hub_token")


def settle(args: H) -> H:
    """The options with the hub chosen and the token taken out of them, both in this process's environment now."""
    if args.use_hf is not None:
        os.environ["USE_HF"] = "1" if args.use_hf else "0"
    if args.hub_token is None:
        return args
    hide(args.hub_token)
    os.environ[VARIABLES[hub.use_hf()]] = args.hub_token
    return replace(args, hub_token=None)


def into_environment(args: HubOptions, argv: Sequence[str]) -> list[str]:
    """The words without a token, which is in the environment now, for processes that are started with them."""
    settle(args)
    kept = without_token(argv)
    if len(kept) < len(argv):
        logger.warning(f"others can read --hub_token on a command line: better export {VARIABLES[hub.use_hf()]}")
    return kept


def without_token(argv: Sequence[str]) -> list[str]:
    """The words of a command line without a token."""
    kept = list(argv)
    for k in reversed(range(len(kept))):
        name, equals, _ = kept[k].replace("-", "_").partition("=")
        if kept[k].startswith("--") and f"--{name.lstrip('_')}" in OPTIONS:
            del kept[k : k + (1 if equals else 2)]
    return kept


def find() -> str:
    """The token to write with, of the hub that is chosen.

    Raises:
        RefusedError: there is none.
    """
    hf = hub.use_hf()
    token = _of_hugging_face() if hf else _of_modelscope()
    if token is None:
        login = "hf auth login" if hf else "modelscope login"
        raise RefusedError(
            "HUB-01", f"there is no token for {hub.name()}", fix=f"export {VARIABLES[hf]}=<token>, or: {login}"
        )
    hide(token)
    return token


def _of_hugging_face() -> str | None:
    import huggingface_hub

    return huggingface_hub.get_token()


def _of_modelscope() -> str | None:
    from modelscope_hub.config import HubConfig

    return HubConfig().token or None
