"""Rows as questions: what stands before them, and how their choices are named."""

from __future__ import annotations

from typing import Any

from swift.datasets.ledger import Ledger
from swift.evaluation.items import make_items, with_letters


def row(question: str, answer: str, choices: list[str] | None = None, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    system = [{"role": "system", "content": more.pop("system")}] if "system" in more else []
    told = {"messages": [*system, *messages], "dataset": "d", "where": f"d:{question}"}
    return {**told, **({"choices": choices} if choices else {})}


def test_examples_are_lettered_as_the_question_is() -> None:
    choices = ["red", "blue"]
    rows = [row("one", "blue", choices), row("two", "free"), row("three", "red", choices, system="S")]
    ledger = Ledger()
    ledger.read("d", 3, "messages")
    (item,) = make_items(rows, ledger, few_shot=2)  # type: ignore[arg-type]
    ask = "A. red\nB. blue\nAnswer with the letter alone."
    said = [(message["role"], message["content"]) for message in with_letters(item)["messages"]]
    assert said == [
        ("system", "S"),
        ("user", f"one\n{ask}"),
        ("assistant", "B"),
        ("user", "two"),
        ("assistant", "free"),
        ("user", f"three\n{ask}"),
    ]
    plain = [message["content"] for message in item.messages]
    assert plain == ["S", "one", "blue", "two", "free", "three"], "where likelihoods are asked texts stay"
    assert [message["content"] for message in rows[0]["messages"]] == ["one", "blue"], "the row is as it was"
