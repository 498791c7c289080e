"""Options of `swift template`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.model import ModelOptions


@dataclass(kw_only=True)
class TemplateArguments(ModelOptions):
    """Compare a chat template with the model's own, show how it writes a conversation, or list all of them."""

    action: str | None = option(
        None,
        group="Template",
        choices=("check", "show", "list"),
        help="What to do; the word after `swift template`.",
        none="it has to be said",
    )
    target: str | None = option(
        None,
        group="Template",
        help="A model's directory, hub id or registered name, or a template's name with a model beside it; the word "
        "after that.",
        none="what --model_type, --model_id_or_path and --template_type say",
    )
    template_type: str = option(
        "AUTO",
        group="Template",
        help="Chat template by name; `auto` is the tokenizer's own; AUTO is the registered one, or else that.",
    )
    chat_template: str | None = option(
        None,
        group="Template",
        help="A Jinja file in the place of the tokenizer's own: by itself, or beside the template that is said.",
        none="the tokenizer's own chat template",
    )
    conversations: str | None = option(
        None,
        group="Template",
        help="A jsonl file of conversations to check or show beside the built-in ones.",
        none="the built-in ones alone",
    )
    system: str | None = option(
        None,
        group="Template",
        help="System prompt of conversations that say none; an empty one means none.",
        none="the template's own",
    )
    json: bool = option(False, group="Output", help="One line of JSON for machines instead of text.")
