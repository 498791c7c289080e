"""The rows of the catalog that write as a tokenizer's own chat template does: what to type where `auto` cannot."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError, DataError
from swift.templates import TEMPLATES, TemplateRecord
from swift.templates.atoms import Place, bind, text_of, without_piece, without_place
from swift.templates.jinja import FIX, render
from swift.templates.thinking import opened

QUESTION = "Where is it?"
SHOWN = 3


def advice(tokenizer: PreTrainedTokenizerBase) -> str:
    """What to type instead of `auto`: the rows that are like it, or any."""
    names = rows_like(tokenizer)[:SHOWN]
    return f"--template_type {' or '.join(names)}" if names else FIX


def rows_like(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The rows that write the prompt for the reply to one question as this tokenizer's own chat template does."""
    try:
        own = render(tokenizer, [{"role": "user", "content": QUESTION}], prompt=True)
    except DataError:
        return []
    bos = str(tokenizer.bos_token or "")
    rows = [record for record in TEMPLATES.values() if not record.generation]
    return [row.name for row in rows if _prompt(row, tokenizer).removeprefix(bos) == own.removeprefix(bos)]


def _prompt(record: TemplateRecord, tokenizer: PreTrainedTokenizerBase) -> str:
    """How a row begins a conversation up to its first reply; "" where it needs a token that is not there."""
    system = record.default_system or ""
    if system:
        pieces = (*(record.prefix if record.system_prefix is None else record.system_prefix), *record.prompt)
    else:
        pieces = (*without_place(record.prefix), *without_piece(record.prompt))
    try:
        atoms = bind(pieces, tokenizer, record.name)
    except ConfigError:
        return ""
    texts = {"SYSTEM": system, "QUERY": QUESTION, "ROUND0": "0", "ROUND1": "1"}
    shown = (texts[atom.name] if isinstance(atom, Place) else text_of(atom, tokenizer) for atom in atoms)
    return "".join(shown) + opened(record)
