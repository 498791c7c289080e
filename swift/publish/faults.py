"""What a hub answers when something does not work, as our errors; what may pass is tried again."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import TypeVar

from swift import hub
from swift.errors import DataError, NotFoundError, RefusedError, SwiftError, TemporaryError
from swift.log import get_logger

T = TypeVar("T")
logger = get_logger()

QUERY = re.compile(r"(?<=\w)\?[^\s'\"]*=[^\s'\"]*")  # of an address, which may hold a signature
WAITS = (2.0, 10.0, 30.0)
LONGEST_WAIT = 300.0
LONGEST_ANSWER = 200
CONFLICTS = (409, 412, 423)
TOO_LARGE = (402, 413, 507)


def refused(status: int, repo: str, said: str, after: float | None = None) -> SwiftError:
    """The error that an HTTP status of a hub is.

    Args:
        status: of the answer.
        repo: what it was about.
        said: what the hub says.
        after: seconds of a Retry-After header.
    """
    where, said = hub.name(), _short(said)
    if status == 401:
        fix = "a new token of the hub's settings page, in the environment or by a login"
        return RefusedError("HUB-01", f"{where} does not take the token ({status}): {said}", fix=fix)
    if status == 403:
        fix = f"a token that may write, or a repository that is yours: --hub_model_id <you>/{repo.rpartition('/')[2]}"
        return RefusedError("HUB-02", f"{where} does not allow this for {repo} ({status}): {said}", fix=fix)
    if status == 404:
        why = "no such repository or revision, or one that this token does not see"
        return NotFoundError("FOUND-02", f"{where} gives no {repo} ({status}): {said}", why=why, fix="check the id")
    if status in TOO_LARGE:
        return RefusedError("HUB-02", f"{where} has no room for this in {repo} ({status}): {said}")
    if status in CONFLICTS:
        error = TemporaryError("FOUND-02", f"somebody else writes to {repo} on {where} ({status}): {said}")
    elif status == 429:
        error = TemporaryError("FOUND-02", f"{where} was asked too often ({status}): {said}", fix="try again later")
    elif status >= 500 or status == 408:
        error = TemporaryError("FOUND-02", f"{where} failed ({status}): {said}", fix="try again: what arrived is kept")
    else:
        return DataError("HUB-02", f"{where} refuses this for {repo} ({status}): {said}")
    error.after = after
    return error


def unreachable(repo: str, said: str) -> TemporaryError:
    """The error that a hub was not reached, or not to the end."""
    fix = "try again with a connection: what arrived is kept"
    return TemporaryError("FOUND-02", f"{hub.name()} did not answer for {repo}: {_short(said)}", fix=fix)


def offline(repo: str) -> TemporaryError:
    """The error that asking is turned off."""
    fix = "unset HF_HUB_OFFLINE"
    error = TemporaryError("FOUND-02", f"{hub.name()} is not asked for {repo}: HF_HUB_OFFLINE is set", fix=fix)
    error.after = math.inf
    return error


def trying(do: Callable[[], T], what: str) -> T:
    """What `do` gives, tried again after each of `WAITS`, or as long as the hub wants, while the error may pass.

    Raises:
        SwiftError: the last one.
    """
    for number, wait in enumerate(WAITS, start=1):
        try:
            return do()
        except TemporaryError as error:
            if (error.after or 0) > LONGEST_WAIT:
                raise
            pause = max(wait, error.after or 0)
            logger.warning(f"{what}, attempt {number} of {len(WAITS) + 1}: {error.what}; again in {pause:g} s")
            time.sleep(pause)
    return do()


def _short(said: str) -> str:
    one = " ".join(QUERY.sub("", said).split()) or "no reason is given"
    return one if len(one) <= LONGEST_ANSWER else f"{one[: LONGEST_ANSWER - 1]}…"
