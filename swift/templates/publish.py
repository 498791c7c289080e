"""The chat template that goes with a checkpoint, so that other engines write conversations as training did."""

from __future__ import annotations

import copy

from swift.log import get_logger
from swift.templates.check import Case, Finding, cases, check_one
from swift.templates.encoding import Template
from swift.templates.jinja import write_source
from swift.templates.template import RecordTemplate
from swift.templates.weights import LossScale

logger = get_logger()


def settle_chat_template(template: Template) -> bool:
    """Make the tokenizer's chat template one that writes what `template` writes; say where none does.

    The tokenizer keeps its own where that is equal on all conversations of `check` without tools. Else it gets one made
    from the registry row, if that is equal.

    Returns:
        whether the two are equal now.
    """
    if not isinstance(template, RecordTemplate) or template.generation:
        return True
    own = template.tokenizer.chat_template
    if isinstance(own, str) and _same(template, own):
        return True
    made = write_source(template.pieces)
    same = _same(template, made)
    if same or _same(template, made, in_text=True):
        template.tokenizer.chat_template = made
        how = "" if same else ", in text if not in every token"
        logger.info(f"the tokenizer's chat template is not {template.name!r}: checkpoints get one that is{how}")
        return True
    logger.warning(
        f"the chat template in checkpoints is not {template.name!r}, which this run trains: other engines have to be "
        "told to use it"
    )
    return False


def _same(template: RecordTemplate, source: str, in_text: bool = False) -> bool:
    """Whether a chat template gives our ids, or at least our text."""
    other = copy.copy(template)
    other.loss_scale, other.max_length = LossScale(), None  # what is learnt, and of which rows, is no matter of text
    other.tokenizer = copy.copy(template.tokenizer)
    other.tokenizer.chat_template = source
    found = [check_one(other, case, known=False) for case in cases(other.tokenizer) if _is_plain(template, case)]
    return all(finding.good or (in_text and _same_text(other, finding)) for finding in found)


def _same_text(template: RecordTemplate, finding: Finding) -> bool:
    ours, theirs = (str(template.tokenizer.decode(ids)) for ids in (finding.ours, finding.theirs))
    return bool(theirs) and ours == theirs and not finding.faults


def _is_plain(template: RecordTemplate, case: Case) -> bool:
    """Whether a conversation is one that the template can write, without tools and without an empty system text."""
    messages = case.row["messages"]
    system = messages[0]["role"] == "system"
    rounds = sum(message["role"] == "user" for message in messages)
    if case.row.get("tools") or messages[0]["content"] == "" or (rounds > 1 and template.record.chat_sep is None):
        return False
    if "thought" in case.name and template.record.thinking is None:
        return False
    return template.takes_system or not system
