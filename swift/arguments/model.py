"""Options that say which model to load, and how."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

DTYPES = ("AUTO", "bf16", "fp16", "fp32")


@dataclass(kw_only=True)
class ModelOptions:
    """Which model, from where, in which precision."""

    model_type: str | None = option(
        None, group="Model", help="Name of a registered model.", none="found by --model_id_or_path"
    )
    model_id_or_path: str | None = option(
        None,
        group="Model",
        help="Directory of a model, or its id on the hub.",
        none="the registered id of --model_type",
    )
    model_revision: str | None = option(
        None, group="Model", help="Branch, tag or commit on the hub.", none="the newest"
    )
    check_model_is_latest: bool = option(
        True, group="Model", help="Ask the hub for a newer version of a model already downloaded."
    )
    trust_remote_code: bool = option(
        False,
        group="Model",
        help="Allow the model's own Python files to run; needed only where no native class exists.",
    )
    dtype: str = option(
        "AUTO",
        group="Model",
        choices=DTYPES,
        help="Precision of the weights; AUTO is fp32 on a CPU, else bf16, or fp16 where the GPU has no bf16.",
    )
    use_flash_attn: bool | None = option(
        None, group="Model", help="Use flash-attention 2; needs its package and a GPU.", none="PyTorch's own attention"
    )
    custom_register_path: list[str] = option(
        [],
        group="Plug-ins",
        help="Python files that register models, templates, data sets, losses, metrics or callbacks.",
    )
    ignore_args_error: bool = option(
        False, group="Plug-ins", help="Warn about options that are not known instead of stopping, as notebooks need."
    )


@dataclass(kw_only=True)
class NewTokenOptions:
    """Tokens that the model is to learn."""

    new_special_tokens: list[str] = option(
        [],
        group="Model",
        help="Tokens to add to the vocabulary, or files with one a line; only their rows train beside a tuner.",
    )
    pad_vocab_to_multiple_of: int | None = option(
        None,
        group="Model",
        minimum=1,
        help="With --new_special_tokens: make the number of rows of the embedding a multiple of this.",
        none="as many rows as are needed",
    )
