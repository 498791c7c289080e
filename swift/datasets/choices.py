"""Rows of several choices of which one is right: `choices` and an `answer`, or columns A, B, C, ... and its letter.

`choices` is a list of texts, or `{"text": [...], "label": [...]}`. The answer is the number of a choice from 0, its
label or letter, or its text.
"""

from __future__ import annotations

from swift.datasets.rows import Row, kind_of
from swift.datasets.turns import QUESTIONS, Message, field_error, first_of, literal, rounds, said

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWERS = ("answer", "answerKey", "answer_key", "label", "response", "output", "target")
_asked = rounds(QUESTIONS, ())


def choice_turns(row: Row) -> list[Message]:
    """The question of a row and its right choice, where it names one."""
    choices, key = choices_of(row), first_of(row, ANSWERS)
    return _asked(row) + ([] if key is None else [said("assistant", choices[_right(row, key, choices)])])


def _letters(row: Row) -> list[str]:
    """The columns that are choices, of which some may be left out."""
    return [letter for letter in LETTERS if row.get(letter) is not None]


def choices_of(row: Row) -> list[str]:
    """The texts to choose from.

    Raises:
        DataError: they are no list of two to 26 different texts.
    """
    if row.get("choices") is None:
        found, key = [row[letter] for letter in _letters(row)], "A"
    else:
        found, key = literal(row["choices"], "choices"), "choices"
        found = found.get("text") if isinstance(found, dict) else found
    if not isinstance(found, list | tuple):
        raise field_error(key, f"is {kind_of(found)}, not a list of texts")
    for number, text in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            raise field_error(f"{key}[{number}]", "is empty" if isinstance(text, str) else f"is {kind_of(text)}")
    if not 2 <= len(found) <= len(LETTERS) or len(set(found)) < len(found):
        raise field_error(key, f"has {len(set(found))} different choices; between 2 and {len(LETTERS)} are needed")
    return list(found)


def _right(row: Row, key: str, choices: list[str]) -> int:
    """The number of the choice that the row calls right."""
    value, listed = row[key], row.get("choices")
    letters = list(LETTERS[: len(choices)]) if listed is not None else _letters(row)
    numbered = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LETTERS)
    if numbered and LETTERS[value] in letters:
        return letters.index(LETTERS[value])
    labels = listed.get("label") if isinstance(listed, dict) else None
    if isinstance(value, str):
        for names in (labels or (), choices, letters):
            for found, known in ((value, list(names)), (value.strip(), [str(name).strip() for name in names])):
                if found in known:
                    return known.index(found)
    raise field_error(
        key, f"is {value!r}: neither the number, the letter nor the text of one of {len(choices)} choices"
    )
