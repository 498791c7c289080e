"""What of an answer is compared: without case, marks and articles, or the part that a pattern finds."""

from __future__ import annotations

import re
import unicodedata

from swift.templates.thinking import CLOSE, OPEN

ARTICLES = re.compile(r"\b(a|an|the)\b")
# The minus sign and the decimal point of a number, which no letter stands before.
OF_NUMBERS = re.compile(r"(?<![A-Za-z])-(?=\.?\d)|(?:(?<=\d)|(?<![A-Za-z.]))\.(?=\d)")
LETTER = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
ALONE = re.compile(r"^[\W_]*([A-Z])[\W_]*$", re.M)
NO_WORD = re.compile(
    r"(?<![A-Za-z])(?:[B-HJ-Z](?![A-Za-z])|[AI](?![A-Za-z'’])(?!\s+(?!(?:is|was|and|as|or|because)\b)[a-z]))"
)
SAID = re.compile(
    r"(?:(?i:\banswer(?:\s+is)?(?![a-z])|\b(?:option|choice)\s+is\b|\bboxed)|答案(?:应该)?(?:是|为)?|选择?)"
    r"[\s:：=*_(（\[{\"“]*(?:(?i:option|choice)\s+|选项\s*)?[*_(（\[]*([A-Z])(?![A-Za-z'’])"
)


def normalised(text: str) -> str:
    """`text` in lower case, without marks, English articles and repeated spaces; wide characters are plain ones.

    The minus sign and the decimal point of a number are no marks.

    Paper: SQuAD, https://aclanthology.org/D16-1264, section 6.1, for Unicode.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2212", "-")
    of_numbers = {match.start() for match in OF_NUMBERS.finditer(plain)}
    kept = "".join(
        character
        for place, character in enumerate(plain)
        if place in of_numbers or not unicodedata.category(character).startswith("P")
    )
    return " ".join(ARTICLES.sub(" ", kept).split())


def extracted(text: str, pattern: re.Pattern[str] | None) -> str:
    """What `pattern` finds last in `text`: its first group, or all of it; the whole text where it finds nothing."""
    found = list(pattern.finditer(text)) if pattern is not None else []
    return (found[-1][1] if found[-1].re.groups else found[-1][0]) or "" if found else text


def letter_of(text: str, letters: str) -> str | None:
    """Which of some capital letters an answer names; None where it names none.

    That is the last one that is called the answer ("the answer is C"); else the first that has a line for itself, else
    the first that stands alone and is no word ("A cat"), else the first that stands alone.
    """
    said = [found for found in SAID.findall(text) if found in letters]
    if said:
        return said[-1]
    others = (found for pattern in (ALONE, NO_WORD, LETTER) for found in pattern.findall(text))
    return next((found for found in others if found in letters), None)


def without_thought(text: str) -> str:
    """What an answer says after its thought; nothing where that was cut off."""
    return text.rpartition(CLOSE)[2].partition(OPEN)[0]
