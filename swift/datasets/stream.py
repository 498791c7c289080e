"""Rows encoded while they are read, in constant memory, in an order that one can go on from.

The rows of an epoch, mixed as `--interleave` says, are cut into blocks of `buffer_size`. Each block is shuffled by
(seed, epoch, number of the block), so the order is a function of these, and where a block begins is all that has to be
remembered of what was read before. Packs are made of the rows of one block.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from swift.datasets.convert import Conversation, at
from swift.datasets.encode import DATASET_NUMBER
from swift.datasets.judge import IGNORED, Encoder, Inputs, problem
from swift.datasets.ledger import BAD, Ledger
from swift.datasets.mix import Mix
from swift.datasets.pack import best_fit, join, members
from swift.datasets.passes import Cursor, Pass
from swift.datasets.pieces import SPLIT, as_arrays, cut, end_to_end
from swift.datasets.source import Outcome, Source
from swift.errors import ConfigError, DataError

ENCODED_AT_ONCE = 64
MOST_PLACES = 1000
Example = dict[str, Any]
Drawn = tuple[int, bool, str, Outcome]
"""The data set that a row is of, whether it was read in an earlier pass, where it stands, and what it is."""


@dataclass(frozen=True)
class Event:
    """What became of a row, after `before` examples were given.

    `again` says that the row was read in an earlier pass, and `reason` why it was dropped, None for one that is used;
    `pieces` is how many it was cut into, 0 where rows stay whole or run on.
    """

    before: int
    dataset: str
    where: str
    again: bool
    reason: str | None = None
    error: DataError | None = None
    excused: bool = False
    learnt: int = 0
    masked: int = 0
    truncated: int = 0
    pieces: int = 0


@dataclass(frozen=True)
class Mark:
    """A block that begins after `index` examples, at `cursor`."""

    index: int
    cursor: Cursor


class Stream(IterableDataset[Example]):
    """Encoded rows without end: epoch after epoch, each in another order.

    Args:
        sources: the data sets; `#n` takes the first n rows of one.
        template: the chat template.
        ledger: is told of every row once what was made of it has been trained on.
        mix: how the sets are put together.
        buffer_size: rows that are shuffled together; 1 keeps their order.
        val_size: rows at the beginning that `hold_out` gives and training leaves out.
        seed: of the order.
        pack_size: the examples are packs of that many tokens, made of the rows of a block; None packs nothing.
        isolate: let no row of a pack see another; otherwise the rows of a block run on, one right after the other.
        options: those that the examples depend on besides, by name.

    Where the template's truncation strategy is "split", rows come in pieces of its `max_length`.

    Attributes:
        begun: the step of training with which this run began, and how many examples were given before.
        pulse: is called now and then while examples are made, which may take long before the first of a block is there.
    """

    begun: tuple[int, int] = (0, 0)
    pulse: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        sources: Sequence[Source],
        template: Encoder,
        ledger: Ledger,
        *,
        mix: Mix | None = None,
        buffer_size: int = 16384,
        val_size: int = 0,
        seed: int = 42,
        pack_size: int | None = None,
        isolate: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sources, self.template, self.ledger, self.mix = sources, template, ledger, mix or Mix()
        self.buffer_size, self.val_size, self.seed, self.pack_size = buffer_size, val_size, seed, pack_size
        self.isolate, self.options = isolate, dict(options or {})
        self.dataset_names = [source.spec.text for source in sources]
        self._from, self._skip = Mark(0, Cursor.start(len(sources))), 0
        self._forget()
        ledger.most_places = MOST_PLACES

    def _forget(self) -> None:
        self._marks: deque[Mark] = deque()
        self._events: deque[Event] = deque()
        self._bad = len(self.ledger.bad_rows)

    def hold_out(self) -> list[Conversation]:
        """The rows at the beginning that validate: the first `val_size`, without those that cannot be used."""
        held: list[Conversation] = []
        for i, _, where, row in Pass(self.sources, self.mix, Cursor.start(len(self.sources))).take(self.val_size):
            source = self.sources[i]
            self.ledger.read(source.spec.text, 1)
            if isinstance(row, DataError):
                self.ledger.reject(where, row, excused=source.excused, dataset=source.spec.text)
            elif isinstance(row, str):
                self.ledger.drop(row, where, source.spec.text)
            else:
                held.append(row)
        self.ledger.check_bad_rows()
        self.ledger.use("validation", held)
        self._forget()
        return held

    def first(self) -> Example:
        """The first example, which is given again when training begins.

        Raises:
            DataError: more rows before it are bad than may be, or there is none.
        """
        twin = copy.copy(self)
        twin.ledger = Ledger(self.ledger.max_bad_rows)
        twin._forget()
        return next(iter(twin))

    def __iter__(self) -> Iterator[Example]:
        skip, index = self._skip, self._from.index
        rows = self._pass(copy.deepcopy(self._from.cursor))
        found = self._from.cursor.block > 0
        while True:
            mark = Mark(index, copy.deepcopy(rows.cursor))
            block = rows.take(self.buffer_size)
            rows.cursor.block += 1
            if not block:
                if not found:
                    raise self._nothing_left(index)
                rows, found = self._pass(replace(Cursor.start(len(self.sources)), epoch=rows.cursor.epoch + 1)), False
                continue
            self._marks.append(mark)
            for example in self._examples(block, mark):
                found, index, skip = True, index + 1, skip - 1
                if skip < 0:
                    yield example

    def _pass(self, cursor: Cursor) -> Pass:
        """The rows of an epoch from a cursor on; at its beginning those are left out that validate."""
        rows = Pass(self.sources, self.mix, cursor)
        if cursor.block == 0 and not any(cursor.taken):
            rows.take(self.val_size)
        return rows

    def _examples(self, block: list[Drawn], mark: Mark) -> Iterator[Example]:
        """The examples of a block in their order, what became of each row being noted on the way."""
        order = np.random.RandomState([self.seed, mark.cursor.epoch, mark.cursor.block]).permutation(len(block))
        shuffled = [block[k] for k in order] if self.buffer_size > 1 else block
        index = mark.index
        if self.pack_size is not None:
            yield from self._packed(shuffled, index, self.pack_size)
            return
        for event, examples in self._encoded(shuffled):
            self._note(replace(event, before=index + max(len(examples) - 1, 0)))
            index += len(examples)
            yield from examples

    def _packed(self, rows: Sequence[Drawn], index: int, size: int) -> Iterator[Example]:
        """The rows of a block as packs, of which the first is the example `index`."""
        found = list(self._encoded(rows))
        good = [example for _, examples in found for example in examples]
        packs, pack_of = self._joined(good, size) if not self.isolate else _fitted(good, size)
        ends = np.cumsum([len(examples) for _, examples in found])
        events = [
            replace(event, before=index + int(max(pack_of[end - len(examples) : end], default=0)))
            for (event, examples), end in zip(found, ends.tolist(), strict=True)
        ]
        for event in sorted(events, key=lambda event: event.before):
            self._note(event)
        yield from packs

    def _joined(self, rows: Sequence[Example], size: int) -> tuple[Iterator[Example], np.ndarray]:
        """The rows of a block as one text in pieces, and the piece in which each row ends."""
        if not rows:
            return iter(()), np.zeros(0, np.int64)
        ends = np.cumsum([len(row["input_ids"]) for row in rows])
        return cut(end_to_end(rows), size), np.maximum(ends - 2, 0) // (size - 1)

    def _encoded(self, rows: Sequence[Drawn]) -> Iterator[tuple[Event, list[Example]]]:
        """What became of every row, and it encoded where it can be trained on, in pieces where rows are split."""
        for start in range(0, len(rows), ENCODED_AT_ONCE):
            self.pulse()
            batch = rows[start : start + ENCODED_AT_ONCE]
            good = [row for *_, row in batch if isinstance(row, dict)]
            errors: list[tuple[int, DataError]] = []
            results = iter(zip(good, self.template.encode_batch(good, errors), range(len(good)), strict=True))
            refused = dict(errors)
            for i, again, where, row in batch:
                source = self.sources[i]
                event = Event(0, source.spec.text, where, again, excused=source.excused)
                of = {DATASET_NUMBER: i} if len(self.sources) > 1 and self.pack_size is None else {}
                if isinstance(row, DataError):
                    yield replace(event, reason=BAD, error=row), []
                elif isinstance(row, str):
                    yield replace(event, reason=row), []
                else:
                    _, inputs, k = next(results)
                    event = self._judged(event, inputs, refused.get(k))
                    examples = [] if event.reason else [{**of, **piece} for piece in self._pieces(inputs)]
                    yield replace(event, pieces=len(examples) if self._splits and self.isolate else 0), examples

    @property
    def _splits(self) -> bool:
        return self.template.truncation_strategy == SPLIT

    def _pieces(self, inputs: Inputs) -> list[Example]:
        """The examples that a row makes."""
        if self._splits:
            size = self.template.max_length if self.isolate else None
            return list(cut(as_arrays(inputs), size))
        return [{name: value for name, value in inputs.items() if name != "truncated"}]

    def _judged(self, event: Event, inputs: Inputs, error: DataError | None) -> Event:
        """The event of an encoded row: used with its tokens, or dropped."""
        if error is not None:
            return replace(event, reason=BAD, error=at(event.where, error), excused=False)
        reason = problem(inputs, self.template)
        if reason is not None:
            return replace(event, reason=reason)
        learnt = sum(label != IGNORED for label in inputs["labels"])
        masked, truncated = len(inputs["labels"]) - learnt, inputs.get("truncated", 0)
        return replace(event, learnt=learnt, masked=masked, truncated=truncated)

    def _nothing_left(self, index: int) -> DataError:
        self.settle(index + 1)
        return DataError("DATA-05", "no row of the stream is left to train on", why=self.ledger.summary())

    # What is remembered of what was given

    def _note(self, event: Event) -> None:
        if event.before < self._from.index + self._skip:  # in the ledger already, before this run
            return
        self._events.append(event)
        if event.reason == BAD and not event.excused and not event.again:
            self._bad += 1
            if self.ledger.too_many(self._bad):
                self.settle(event.before + 1)
                self.ledger.check_bad_rows()

    def settle(self, examples: int) -> None:
        """Enter in the ledger what became of the rows before the example of this number, counted from 0."""
        while self._events and self._events[0].before < examples:
            self._apply(self._events.popleft())
        while len(self._marks) > 1 and self._marks[1].index < examples:
            self._marks.popleft()
        for source in self.sources:
            for known in source.formats.values():
                self.ledger.read(source.spec.text, 0, known.name)

    def _apply(self, event: Event) -> None:
        ledger, dataset = self.ledger, event.dataset
        if event.reason is None:
            share = ledger.account(dataset).train
            share.examples += 1
            share.rows += not event.again
            ledger.count("train", dataset, event.learnt, event.masked, event.truncated)
            if event.pieces:
                ledger.pieces["train"] = ledger.pieces.get("train", 0) + event.pieces
        if event.again:
            return
        ledger.read(dataset, 1)
        if event.error is not None:
            ledger.reject(event.where, event.error, excused=event.excused, dataset=dataset)
        elif event.reason is not None:
            ledger.drop(event.reason, event.where, dataset)
        elif event.truncated:
            ledger.cut.append(event.where)

    def to_state(self, examples: int) -> dict[str, Any]:
        """What `from_state` needs to go on after `examples`, as plain values.

        Args:
            examples: how many were trained on; the same or more than at the last call.
        """
        self.settle(examples)
        mark = next((mark for mark in reversed(self._marks) if mark.index < examples), self._from)
        return {
            "identity": self.identity(),
            "examples": examples,
            "index": mark.index,
            "cursor": asdict(mark.cursor),
            "ledger": self.ledger.to_state(),
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_state` gave.

        Raises:
            ConfigError: that was a stream of other data, in another order or otherwise encoded.
        """
        then, now = state["identity"], self.identity()
        differing = [
            f"{name} was {then[name]}, is {now[name]}" for name in now if name in then and then[name] != now[name]
        ]
        if differing:
            raise ConfigError(
                "CONFIG-02",
                f"going on with another stream would not be exact: {'; '.join(differing)}",
                fix="use the same values, or start the data anew with --ignore_data_skip",
            )
        self._from = Mark(state["index"], Cursor(**state["cursor"]))
        self._skip = state["examples"] - state["index"]
        self.ledger.from_state(state["ledger"])
        self._forget()

    def identity(self) -> dict[str, Any]:
        """What the order and the examples depend on."""
        return {
            "datasets": [source.spec.text for source in self.sources],
            "columns": dict(self.sources[0].reading.columns) if self.sources else {},
            "shares": list(self.mix.shares) if self.mix.shares else None,
            "stopping_strategy": self.mix.until,
            "streaming_buffer_size": self.buffer_size,
            "streaming_val_size": self.val_size,
            "seed": self.seed,
            "pack_size": self.pack_size,
            "max_length": self.template.max_length,
            "truncation_strategy": self.template.truncation_strategy,
            "isolate_documents": None if self.isolate else False,
            **self.options,
        }


def _fitted(rows: Sequence[Example], size: int) -> tuple[Iterator[Example], np.ndarray]:
    """The rows of a block as packs, and the pack of each."""
    pack_of = best_fit([len(row["input_ids"]) for row in rows], size)
    return (join([rows[k] for k in pack.tolist()]) for pack in members(pack_of)), pack_of
