"""How a reply is written: what leads to it, and its thought, which a family keeps, leaves out or replaces.

A thought is what a reply has between `<think>` and `</think>`, before its answer. It is supervised where it is kept.
Earlier replies, those before the last question, are written without their thoughts, because at inference the model
meets them so; what the prompt for a reply already shows of a thought is not supervised.
"""

from __future__ import annotations

from collections.abc import Iterator

from swift.templates import TemplateRecord, Thinking
from swift.templates.conversation import Message

OPEN, CLOSE = "<think>", "</think>"
# A text of a reply, and whether the template writes it rather than the row.
Text = tuple[str, bool]


def wording(record: TemplateRecord, reply: str, current: bool, last: bool) -> tuple[str, list[Text]]:
    """What the prompt shows of a reply, and the texts that the model says.

    Args:
        record: of the template.
        reply: as the row has it.
        current: no question follows it.
        last: nothing follows it.
    """
    thinking = record.thinking
    if thinking is None:
        return "", [(record.lead, True), (reply, False)]
    thought, answer = _parted(reply, thinking)
    kept = bool(thought) and (last if thinking.keeps == "last" else current and thinking.keeps == "current")
    opens = last or (current and bool(thinking.opened))
    if opens and thinking.keeps != "last":
        answer = answer.lstrip(thinking.answer)
    instead = thinking.missing if opens else thinking.earlier
    block = [(thinking.before, True), (thought, False), (thinking.after, True)] if kept else [(instead, True)]
    texts = [(record.lead, True), *block, (answer, False)]
    if "".join(text for text, _ in texts).startswith(thinking.opened):
        return thinking.opened, list(_without(texts, len(thinking.opened)))
    # a thought that does not begin as the prompt opens it begins right there
    return (thinking.opened, list(_without(texts, len(record.lead + thinking.before)))) if opens else ("", texts)


def opened(record: TemplateRecord) -> str:
    """What the prompt for a reply shows of it."""
    return record.thinking.opened if record.thinking else ""


def plain_lead(record: TemplateRecord) -> str:
    """What the model says before the answer of a reply without a thought."""
    if record.thinking is None:
        return record.lead
    return (record.lead + record.thinking.missing).removeprefix(record.thinking.opened)


def trimmed(messages: list[Message], roles: tuple[str, ...]) -> list[Message]:
    """The messages without the outer white space of what these roles say."""
    if not roles:
        return messages
    return [{**m, "content": m["content"].strip()} if m["role"] in roles else m for m in messages]


def _parted(reply: str, thinking: Thinking) -> tuple[str, str]:
    """The thought of a reply, "" for none, and its answer."""
    if CLOSE not in reply:
        return "", reply
    thought = reply.split(CLOSE)[0].rpartition(OPEN)[2].strip(thinking.strip)
    return thought, reply.rpartition(CLOSE)[2].lstrip(thinking.answer)


def _without(texts: list[Text], count: int) -> Iterator[Text]:
    """The texts without their first `count` characters."""
    for text, own in texts:
        yield text[count:], own
        count = max(0, count - len(text))
