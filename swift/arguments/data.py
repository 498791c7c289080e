"""Options that say what to read, and how a conversation becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class DataOptions:
    """Data sets, how they are split, and the chat template."""

    dataset: list[str] = option(
        [],
        group="Data",
        help="Data sets: files (jsonl, json, csv, parquet), registered names, hub ids; `x:subset` and `x#500` select.",
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
        minimum=0,
        unit="rows",
        help="How many unreadable rows to drop, each one named, before it is an error.",
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
