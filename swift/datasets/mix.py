"""Several data sets made one: one after another, or in turns by their shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from swift.datasets.spec import DatasetSpec
from swift.errors import ConfigError, UsageError

T = TypeVar("T")
FIRST, ALL = "first_exhausted", "all_exhausted"


@dataclass(frozen=True)
class Mix:
    """How data sets are put together.

    Attributes:
        shares: of each set, 1 in all; None is one set after another.
        until: sets that take turns end with the first that has no row left ("first_exhausted"), or shorter ones begin
            again until every set was used to its end ("all_exhausted").
    """

    shares: tuple[float, ...] | None = None
    until: str = FIRST


def choose_mix(
    specs: Sequence[DatasetSpec], interleave: bool = False, shares: Sequence[float] | None = None, until: str = FIRST
) -> Mix:
    """What `--interleave`, `--interleave_prob`, `--stopping_strategy` and `a@0.3` ask for.

    With `@` on every set the shares count against each other. Sets without one divide what the others leave of 1. A set
    that is alone has nothing to share a mix with: its share is one of its own rows, see `rows_drawn`.

    Raises:
        ConfigError: shares are given in both ways, or leave nothing for a set that has none.
        UsageError: there are more or fewer shares than sets, or one is not above 0.
    """
    said: list[float | None] = [spec.share for spec in specs]
    if shares:
        if any(share is not None for share in said):
            raise ConfigError("CONFIG-02", "shares are given by --interleave_prob and by @", fix="use one of them")
        if len(shares) != len(specs):
            raise UsageError("USAGE-02", f"--interleave_prob has {len(shares)} shares for {len(specs)} data sets")
        if min(shares) <= 0:
            raise UsageError("USAGE-02", f"--interleave_prob: a share of {min(shares):g} would leave a data set out")
        said = list(shares)
    if not any(share is not None for share in said) or (len(specs) == 1 and not shares):
        return Mix((1 / len(specs),) * len(specs) if interleave and len(specs) > 1 else None, until)
    given = sum(share for share in said if share is not None)
    silent = said.count(None)
    if silent and given >= 1:
        bare = next(spec.text for spec in specs if spec.share is None)
        raise ConfigError("CONFIG-02", f"the shares after @ leave nothing for {bare}", fix=f"{bare}@<share>")
    total = 1.0 if silent else given
    return Mix(tuple(((1 - given) / silent if share is None else share) / total for share in said), until)


def rows_drawn(spec: DatasetSpec, rows: int, alone: bool = True) -> int | None:
    """How many of the rows of a set are drawn, at least one; None is each once.

    Args:
        spec: the set.
        rows: how many it has.
        alone: whether it is the only one, so that a share after `@` is one of its rows.
    """
    if spec.share is None or not alone:
        return spec.sample
    return max(round(spec.share * (spec.sample or rows)), 1)


def turns(shares: Sequence[float], credits: list[float]) -> Iterator[int]:
    """Whose turn it is, for ever: the set that is furthest behind its share, the first of several.

    Args:
        shares: of the sets, 1 in all.
        credits: how far each is behind, which is kept up to date; zeros at the start.
    """
    while True:
        for i, share in enumerate(shares):
            credits[i] += share
        chosen = max(range(len(shares)), key=lambda i: (round(credits[i], 9), -i))  # rounded: 3 thirds are not 1
        credits[chosen] -= 1
        yield chosen


def take_turns(
    mix: Mix,
    credits: list[float],
    passes: list[int],
    next_row: Callable[[int], T | None],
    rewind: Callable[[int], None],
) -> Iterator[tuple[int, T]]:
    """The rows of sets in turns, each with the number of its set, until `mix.until`.

    Args:
        mix: with shares.
        credits: as for `turns`.
        passes: how often each set began again, which is kept up to date.
        next_row: gives the next row of a set, None at its end.
        rewind: makes a set begin again.
    """
    assert mix.shares is not None
    for i in turns(mix.shares, credits):
        row = next_row(i)
        if row is None:
            if mix.until == FIRST or all(count for j, count in enumerate(passes) if j != i):
                return
            passes[i] += 1
            rewind(i)
            row = next_row(i)
            if row is None:
                return
        yield i, row


def mix_rows(sets: Sequence[Sequence[T]], mix: Mix) -> list[T]:
    """The rows of all sets in the order of the mix; some several times, or left out, as `Mix.until` says."""
    if mix.shares is None:
        return [row for rows in sets for row in rows]
    sources = [iter(rows) for rows in sets]

    def rewind(i: int) -> None:
        sources[i] = iter(sets[i])

    zeros = [0] * len(sets)
    return [row for _, row in take_turns(mix, [0.0] * len(sets), zeros, lambda i: next(sources[i], None), rewind)]
