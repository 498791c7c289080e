"""What is asked: rows of data sets as questions with what is expected, and examples before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.datasets.convert import Conversation
from swift.datasets.ledger import Ledger
from swift.errors import DataError

BEYOND, SHOWN, NOT_SHOWN = "beyond --eval_limit", "shown as examples", "examples beyond --eval_few_shot"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASK_LETTER = {"en": "Answer with the letter alone.", "zh": "只回答字母。"}


@dataclass(frozen=True)
class Item:
    """One row to ask.

    Attributes:
        dataset: the data set as it was typed.
        where: file and line.
        row: the row itself, up to its last answer.
        last: the message with that answer; None where it has none.
        label: what that says.
        choices: the answers to choose from; () where any may be given.
        right: which of them is right; None where there are none.
        shown: the rows whose rounds stand before its own as examples.
    """

    dataset: str
    where: str
    row: dict[str, Any]
    last: dict[str, Any] | None
    label: str | None
    choices: tuple[str, ...] = ()
    right: int | None = None
    shown: tuple[Conversation, ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation up to the answer that is asked for."""
        return self.row["messages"]


def make_items(
    rows: Sequence[Conversation],
    ledger: Ledger,
    *,
    limit: int | None = None,
    few_shot: int = 0,
    examples: Mapping[str, str] | None = None,
) -> list[Item]:
    """Items of `rows`, which are in the order of their files.

    Before each row of a data set `few_shot` examples are shown as earlier rounds: the first rows of the data set that
    `examples` names for it, else its own first ones, which are not asked then. Of those that are, at most `limit` are
    kept. The ledger is told of both.

    Raises:
        DataError: a data set has no row besides those that are shown.
    """
    items: list[Item] = []
    sets = _by_dataset(rows)
    apart = {name: sets.pop(other, []) for name, other in (examples or {}).items()}
    for name, own in sets.items():
        pool = apart.get(name, own)
        shown, asked = pool[:few_shot], own if name in apart else own[few_shot:]
        if not asked:
            what = f"{name}: no row is left to ask besides {len(shown)} that are shown as examples"
            raise DataError("DATA-05", what, fix="a smaller --eval_few_shot")
        _leave_out(ledger, SHOWN, shown)
        _leave_out(ledger, NOT_SHOWN, pool[few_shot:] if name in apart else [])
        _leave_out(ledger, BEYOND, asked[limit:] if limit else [])
        items += [_item(name, row, shown) for row in asked[:limit]]
    return items


def _by_dataset(rows: Sequence[Conversation]) -> dict[str, list[Conversation]]:
    found: dict[str, list[Conversation]] = {}
    for row in {id(row): row for row in rows}.values():  # one that is drawn twice is asked once
        found.setdefault(row.get("dataset") or "", []).append(row)
    return found


def _leave_out(ledger: Ledger, reason: str, rows: Sequence[Conversation]) -> None:
    for row in rows:
        ledger.withdraw("validation", reason, row["where"], 1, dataset=row.get("dataset"))


def _examples(rows: Sequence[Conversation], *, lettered: bool = False) -> list[dict[str, Any]]:
    """The rounds of rows that are shown; nothing in them counts as learnt. `lettered` has their choices named so."""
    rounds: list[dict[str, Any]] = []
    for row in rows:
        talk = [dict(message) for message in row["messages"] if message["role"] != "system"]
        choices = row.get("choices") or ()
        if lettered and len(talk) > 1 and talk[-1]["content"] in choices:
            talk[-2]["content"] = _with_letters(str(talk[-2]["content"]), choices)
            talk[-1]["content"] = LETTERS[choices.index(str(talk[-1]["content"]))]
        rounds += [{**message, "loss": False} if message["role"] == "assistant" else message for message in talk]
    return rounds


def _item(name: str, row: Conversation, shown: Sequence[Conversation]) -> Item:
    messages = [dict(message) for message in row["messages"]]
    last = messages.pop() if messages[-1]["role"] == "assistant" else None
    label = None if last is None else str(last["content"])
    first = _after_system(messages)
    asked = {**row, "messages": [*messages[:first], *_examples(shown), *messages[first:]]}
    choices = tuple(row.get("choices") or ())
    right = choices.index(label) if choices and label in choices else None
    return Item(name, row["where"], asked, last, label, choices, right, tuple(shown))


def _after_system(messages: Sequence[Mapping[str, Any]]) -> int:
    return 1 if messages and messages[0]["role"] == "system" else 0


def with_letters(item: Item) -> dict[str, Any]:
    """The row of an item whose question, like its examples, names the choices by letters and asks for one."""
    *before, question = item.messages
    first, lettered = _after_system(before), _examples(item.shown, lettered=True)
    own = before[first + len(lettered) :]
    asked = {**question, "content": _with_letters(question["content"], item.choices)}
    return {**item.row, "messages": [*before[:first], *lettered, *own, asked]}


def _with_letters(question: str, choices: Sequence[str]) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    text = "\n".join([question, *lines])
    ask = ASK_LETTER["zh" if any("\u4e00" <= character <= "\u9fff" for character in text) else "en"]
    return f"{text}\n{ask}"


def flat(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as plain text to continue: an answer after its question, rounds with a blank line between."""
    text = ""
    for message in messages:
        if message["role"] == "assistant":
            text += f" {message['content']}"
        elif message["content"]:
            text += f"\n\n{message['content']}" if text else message["content"]
    return text


def fitted(row: Mapping[str, Any], single_round: bool) -> dict[str, Any]:
    """A row as a template takes it: for one of a single round, what came before is in the one question."""
    messages = row["messages"]
    if not single_round or len(messages) < 2:
        return dict(row)
    return {**row, "messages": [{"role": "user", "content": flat(messages)}]}
