"""What of an answer is compared: without case, marks and articles, or the part that a pattern finds."""

from __future__ import annotations

import re
import unicodedata

ARTICLES = re.compile(r"\b(a|an|the)\b")
LETTER = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")


def normalised(text: str) -> str:
    """`text` in lower case, without marks, English articles and repeated spaces; wide characters are plain ones.

    Paper: SQuAD, https://aclanthology.org/D16-1264, section 6.1, for Unicode.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(character for character in plain if not unicodedata.category(character).startswith("P"))
    return " ".join(ARTICLES.sub(" ", kept).split())


def extracted(text: str, pattern: re.Pattern[str] | None) -> str:
    """What `pattern` finds last in `text`: its first group, or all of it; the whole text where it finds nothing."""
    found = list(pattern.finditer(text)) if pattern is not None else []
    return (found[-1][1] if found[-1].re.groups else found[-1][0]) or "" if found else text


def letter_of(text: str, letters: str) -> str | None:
    """The first of some capital letters that stands alone: how a choice is named. None without any."""
    return next((found for found in LETTER.findall(text) if found in letters), None)
