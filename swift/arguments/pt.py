"""Options of `swift pt`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.sft import SftArguments


@dataclass(kw_only=True)
class TextOptions:
    """How texts become documents, and documents rows."""

    isolate_documents: bool = option(
        True,
        group="Data",
        help="Let no document see another in a pack; false lets them run on, each right after the end of the one "
        "before.",
    )
    text_unit: str = option(
        "line",
        group="Data",
        choices=("line", "paragraph", "file"),
        help="What one document is in a .txt file: a line, what stands between blank lines, or all of it.",
    )


@dataclass(kw_only=True)
class PtArguments(TextOptions, SftArguments):
    """Go on with the pre-training of a model on plain text."""

    sft_type: str = option(
        "full",
        group="Tuner",
        help="What trains: the `full` model, or a tuner such as lora; the names are those of `swift sft`.",
    )
    lora_target_modules: list[str] = option(
        ["ALL"],
        group="LoRA",
        help="Modules that get LoRA: names, DEFAULT (the model's own), ALL (every linear layer), EMBEDDING, or one "
        "regular expression.",
    )
    template_type: str = option(
        "default-generation",
        group="Data",
        help="Chat template by name; `default-generation` is the text and the end of a document.",
    )
    truncation_strategy: str = option(
        "split",
        group="Data",
        choices=("split", "delete", "truncation_left"),
        help="What happens to longer texts: cut into pieces, so that every token is learnt once; dropped and counted; "
        "or cut to their last --max_length tokens.",
    )
    packing: bool = option(
        True,
        group="Data",
        help="Train on packs of --max_length tokens, filled with whole pieces that do not see each other; "
        "--batch_size counts packs then.",
    )
    streaming_buffer_size: int = option(
        1024,
        group="Data",
        minimum=1,
        unit="rows",
        help="Documents that a stream shuffles and packs together; 1 keeps their order.",
    )
    eval_steps: int = option(500, group="Output", minimum=1, unit="steps", help="Steps between evaluations.")


def sees_rows_apart(args: SftArguments) -> bool:
    """Whether several rows go into one row of a batch, where none may see another."""
    joined = isinstance(args, TextOptions) and not args.isolate_documents
    return args.padding_free or (args.packing and not joined)
