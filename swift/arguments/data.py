"""Options that say what to read, and how a conversation becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

TOOL_FORMATS = ("react_en", "react_zh", "toolbench", "glm4", "hermes", "llama3")


@dataclass(kw_only=True)
class DataOptions:
    """Data sets, how they are split, and the chat template."""

    dataset: list[str] = option(
        [],
        group="Data",
        help="Data sets: files, directories, patterns, registered names, hub ids; `x:subset` and `x#500` select, "
        "`x@0.3` is a share of the mix, or of its own rows where it is alone.",
    )
    custom_dataset_info: list[str] = option(
        [], group="Data", help="Further data sets by name: a `dataset_info.json`, or such an object itself."
    )
    val_dataset: list[str] = option([], group="Data", help="Data sets to evaluate on; none is split off then.")
    dataset_test_ratio: float = option(
        0.01, group="Data", minimum=0, maximum=1, help="Share of every data set that is split off for evaluation."
    )
    dataset_seed: int = option(42, group="Data", help="Seed of sampling and splitting.")
    columns: list[str] = option(
        [], group="Data", help="Columns to rename before the format is detected, as `theirs=ours`."
    )
    max_bad_rows: int = option(
        0,
        group="Data",
        minimum=-1,
        unit="rows",
        help="How many unreadable rows to drop, each one named, before it is an error; -1 is any number.",
    )
    model_name: list[str] = option(
        [], group="Data", help="Name the model learns from `self-cognition`, Chinese then English; one serves for both."
    )
    model_author: list[str] = option(
        [],
        group="Data",
        help="Author the model learns from `self-cognition`, Chinese then English; one serves for both.",
    )
    template_type: str = option(
        "AUTO",
        group="Data",
        help="Chat template by name; `auto` is the tokenizer's own; AUTO is the registered one, or else that.",
    )
    chat_template: str | None = option(
        None,
        group="Data",
        help="A Jinja file to use as the tokenizer's own chat template; checkpoints keep it.",
        none="the tokenizer's",
    )
    tools_prompt: str | None = option(
        None,
        group="Data",
        choices=TOOL_FORMATS,
        help="How tools, calls and their answers are written.",
        none="as the model's family does, else react_en",
    )
    system: str | None = option(
        None,
        group="Data",
        help="System prompt of rows that have none; an empty one means none.",
        none="the template's own",
    )
    max_length: int = option(2048, group="Data", minimum=-1, unit="tokens", help="Longest row; -1 is no limit.")
    truncation_strategy: str = option(
        "delete",
        group="Data",
        choices=("delete", "truncation_left"),
        help="What happens to longer rows: dropped and counted, or cut to their last --max_length tokens.",
    )


@dataclass(kw_only=True)
class MixOptions:
    """How data sets are put together, and whether they are read while training goes on."""

    interleave: bool = option(
        False, group="Data", help="Let data sets take turns instead of coming one after another; `x@0.3` does it too."
    )
    interleave_prob: list[float] | None = option(
        None,
        group="Data",
        help="Share of each data set in the mix, in the order of --dataset.",
        none="equal shares with --interleave",
    )
    stopping_strategy: str = option(
        "first_exhausted",
        group="Data",
        choices=("first_exhausted", "all_exhausted"),
        help="End a mix with the first set that has no row left, or begin shorter ones again until all were used.",
    )
    train_dataset_mix_ratio: float = option(
        0.0,
        group="Data",
        minimum=0,
        help="Rows of --train_dataset_mix_ds to add, as a share of those that train: 0.5 is one for every two.",
    )
    train_dataset_mix_ds: list[str] = option(
        ["ms-bench"], group="Data", help="Data sets to draw these rows from, so that a model keeps what it knew."
    )
    streaming: bool = option(
        False, group="Data", help="Read and encode rows while training goes on, in constant memory; needs --max_steps."
    )
    streaming_buffer_size: int = option(
        16384, group="Data", minimum=1, unit="rows", help="Rows that a stream shuffles together; 1 keeps their order."
    )
    streaming_val_size: int = option(
        0, group="Data", minimum=0, unit="rows", help="Rows at the beginning of a stream to evaluate on."
    )


@dataclass(kw_only=True)
class LossOptions:
    """What is learnt of a conversation."""

    loss_scale: str = option(
        "default",
        group="Data",
        help="What is learnt: `default` every reply, `last_round` the last, `all` prompts too; `react`, `alpha-umi`, "
        "`agent-flan` or a JSON file of rules weigh calls of tools more. A message's own `loss` wins.",
    )
    use_loss_scale: bool = option(
        False, group="Data", help="Weigh calls of tools more: `--loss_scale react`, where nothing else is said."
    )
    train_on_prompt: bool = option(False, group="Data", help="Learn prompts too: `--loss_scale all`.")


@dataclass(kw_only=True)
class EncodingOptions:
    """How rows are encoded and put together."""

    packing: bool = option(
        False,
        group="Data",
        help="Train on packs of --max_length tokens, filled with whole rows that do not see each other; --batch_size "
        "counts packs then.",
    )
    preprocess_num_proc: int | None = option(
        None,
        group="Data",
        minimum=1,
        none="one for each processor, 8 at most",
        help="Processes that encode rows.",
    )


@dataclass(kw_only=True)
class KeepingOptions:
    """Whether rows are encoded before training, and whether they are kept for the next run."""

    lazy_tokenize: bool = option(
        False, group="Data", help="Encode each row when training draws it, instead of all rows before."
    )
    data_cache: bool = option(
        True, group="Data", help="Keep encoded rows, so that the next run on the same data starts at once."
    )
