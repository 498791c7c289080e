"""The page's languages."""

from __future__ import annotations

import string
from dataclasses import asdict

import pytest

from swift.ui.words import CHINESE, ENGLISH, choose_words


def test_both_languages_fill_in_the_same() -> None:
    def filled(text: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(text) if field}

    english, chinese = asdict(ENGLISH), asdict(CHINESE)
    assert len(english.pop("examples")) == len(chinese.pop("examples"))
    for name, text in english.items():
        assert filled(text) == filled(chinese[name]), name
        assert text
        assert chinese[name]


@pytest.mark.parametrize(
    ("said", "environment", "words"),
    [
        (None, {}, ENGLISH),
        (None, {"LANG": "zh_CN.UTF-8"}, CHINESE),
        (None, {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, ENGLISH),
        (None, {"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "en_US"}, CHINESE),
        ("en", {"LANG": "zh_CN.UTF-8"}, ENGLISH),
        ("zh", {}, CHINESE),
    ],
)
def test_the_language_is_said_or_the_locales(said: str | None, environment: dict[str, str], words: object) -> None:
    assert choose_words(said, environment) is words
