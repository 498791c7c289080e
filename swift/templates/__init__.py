"""Chat formats as rows: `TEMPLATES["qwen"]` says how a conversation is written for Qwen.

Read `template.py` for how a row becomes token ids and labels (`rounds.py` its rounds, `encoding.py` its labels),
`thinking.py` for how a reply with a thought is written, `auto.py` for a tokenizer's own chat template (`probe.py` what
is learnt of it, `replies.py` where its replies are), and `check.py` for how the two are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swift.registry import Names, Registry

Piece = str | tuple[int | str, ...]


@dataclass(frozen=True)
class Thinking:
    """How one family writes the thought of a reply, which a row gives as `<think>...</think>` before the answer.

    Attributes:
        before: what stands before a thought.
        after: what stands between a thought and its answer.
        opened: how the prompt for a reply already begins it; not supervised.
        missing: what stands in place of the thought where the last reply has none.
        earlier: what stands in its place in replies before the last question, whose thoughts are left out.
        keeps: "current" keeps the thoughts of all replies after the last question, "last" that of the last reply
            alone, "none" leaves all of them out.
        strip: the characters stripped off both ends of a thought; None is white space.
        answer: the characters stripped off the beginning of an answer; None is white space.
    """

    before: str = "<think>\n"
    after: str = "\n</think>\n\n"
    opened: str = ""
    missing: str = "<think>\n\n</think>\n\n"
    earlier: str = ""
    keeps: str = "current"
    strip: str | None = "\n"
    answer: str | None = "\n"


@dataclass(frozen=True)
class TemplateRecord:
    """How one family of models writes a conversation.

    A piece is text, or a tuple of tokens: ids, tokenizer attributes (`"eos_token_id"`) or token texts (`"[gMASK]"`).
    Text holds the places `{{SYSTEM}}`, `{{QUERY}}`, `{{ROUND0}}` and `{{ROUND1}}` (the round, counted from 0 or 1).

    Attributes:
        name: kebab-case, the value of `--template_type`.
        prompt: one round up to the point where the reply starts.
        suffix: the end of a reply: supervised, and where inference stops.
        prefix: what stands before the first round, without a system text.
        system_prefix: the same with a system text; None when `prefix` (or `prompt`) has the place for it, or when
            the format knows no system text.
        chat_sep: between a reply and the next round; None when the format has a single round.
        default_system: the system text of a conversation that says none; None is no system text.
        tools_prefix: what has the place for a system text, `system_prefix` or else `prefix`, in a conversation that
            offers tools; None is the same as without tools.
        tool_prompt: the round of a tool's answer; None is the same as `prompt`.
        auto_add_bos: begin with the beginning-of-sequence token if the tokenizer itself would.
        generation: plain completion of text, for base models and pre-training.
        stop: further texts where inference stops.
        lead: the beginning of every reply that the model itself writes, and that is no part of an answer.
        trim: the roles whose texts lose their outer white space, as in the model's own template.
        thinking: how thoughts are written; None leaves a reply as it is.
        checked: what the row was compared with: "trl:<file>" for a chat template that ships with trl, a published
            document, or "unverified".
        variables: what the model's own chat template is told to write as this row does, such as not to think.
        tools: how tools, their calls and their answers are written: a name of `tools.FORMATS`.
        differs: where this row is meant to differ from the model's own chat template, and why: by the name of the
            conversation in `check.cases`, or "*" for all of them.
    """

    name: str
    prompt: tuple[Piece, ...]
    suffix: tuple[Piece, ...]
    prefix: tuple[Piece, ...] = ()
    system_prefix: tuple[Piece, ...] | None = None
    chat_sep: tuple[Piece, ...] | None = ()
    default_system: str | None = None
    tools_prefix: tuple[Piece, ...] | None = None
    tool_prompt: tuple[Piece, ...] | None = None
    auto_add_bos: bool = False
    generation: bool = False
    stop: tuple[str, ...] = ()
    lead: str = ""
    trim: tuple[str, ...] = ()
    thinking: Thinking | None = None
    checked: str = "unverified"
    variables: Mapping[str, object] = field(default_factory=dict)
    tools: str = "react_en"
    differs: Mapping[str, str] = field(default_factory=dict)

    @property
    def tool_format(self) -> str | None:
        """How tools are written; None where no conversation can have any: completion of text, and a single round."""
        return None if self.generation or self.chat_sep is None else self.tools


TEMPLATES: Registry[TemplateRecord] = Registry("template", "swift.templates.catalog")
TemplateType = Names(TEMPLATES)
