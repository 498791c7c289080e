"""Chat formats as rows: `TEMPLATES["qwen"]` says how a conversation is written for Qwen.

Read `template.py` for how a row becomes token ids and labels, `auto.py` for a tokenizer's own chat template.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift.registry import Names, Registry

Piece = str | tuple[int | str, ...]


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
        tool_prompt: the round of a tool's answer; None is the same as `prompt`.
        auto_add_bos: begin with the beginning-of-sequence token if the tokenizer itself would.
        generation: plain completion of text, for base models and pre-training.
        stop: further texts where inference stops.
    """

    name: str
    prompt: tuple[Piece, ...]
    suffix: tuple[Piece, ...]
    prefix: tuple[Piece, ...] = ()
    system_prefix: tuple[Piece, ...] | None = None
    chat_sep: tuple[Piece, ...] | None = ()
    default_system: str | None = None
    tool_prompt: tuple[Piece, ...] | None = None
    auto_add_bos: bool = False
    generation: bool = False
    stop: tuple[str, ...] = ()


TEMPLATES: Registry[TemplateRecord] = Registry("template", "swift.templates.catalog")
TemplateType = Names(TEMPLATES)
