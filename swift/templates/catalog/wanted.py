"""Why rows are meant to differ from their model's own chat template, where several do for one reason."""

from __future__ import annotations

TOOLS: tuple[str, ...] = (
    *("tools, none called", "tools and a system text"),
    *("a tool called", "a tool to be called", "two tools called at once"),
)
FINISHED: tuple[str, ...] = (
    *("1 round", "2 rounds", "3 rounds", "4 rounds", "system", "empty system", "space around"),
    *("special tokens typed", "a thought", "a thought before", *TOOLS),
)
OTHER_TOOLS: dict[str, str] = dict.fromkeys(
    TOOLS, "tools are written in a format of ours; the model's own has one that --template_type auto writes"
)
KEPT_THOUGHT = dict.fromkeys(
    FINISHED,
    "the prompt opens a thought, so the last reply has one; the model's own template leaves it out of a finished "
    "conversation, so that no prompt of inference would be how a conversation of training begins",
)
NO_THOUGHT = {
    "a thought": "this row is for replies without thoughts and leaves them out; the model's own template keeps the last"
}
EMPTY_SYSTEM = {"empty system": "an empty system text is none; the model's own template writes an empty system turn"}
NOT_TODAY = {"*": "the day of the conversation is a fixed one, so that training and inference agree"}
