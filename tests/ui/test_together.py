"""Several iterators at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from swift.ui.together import together


def test_each_gives_what_it_has_when_it_has_it() -> None:
    turns = [threading.Event(), threading.Event()]

    def count(number: int) -> Iterator[int]:
        for k in range(3):
            assert turns[number].wait(10)
            turns[number].clear()
            yield k

    given = together([count(0), count(1)])
    seen = []
    for number in (1, 0, 0, 1, 1, 0):
        turns[number].set()
        seen.append(next(given))
    assert seen == [(1, 0), (0, 0), (0, 1), (1, 1), (1, 2), (0, 2)]
    assert list(given) == []


def test_one_alone_needs_no_thread() -> None:
    here = threading.get_ident()
    assert list(together([(threading.get_ident() for _ in range(2))])) == [(0, here)] * 2


def test_what_one_raises_is_raised() -> None:
    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(together([fails(), iter([1, 2])]))
