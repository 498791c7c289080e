"""Options of `swift data`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.data import DataOptions, EncodingOptions, LossOptions, MixOptions
from swift.arguments.fields import option
from swift.arguments.model import ModelOptions, NewTokenOptions


@dataclass(kw_only=True)
class DataArguments(LossOptions, MixOptions, EncodingOptions, DataOptions, NewTokenOptions, ModelOptions):
    """Look at data sets as a model will meet them, or encode them once for many runs."""

    action: str | None = option(
        None,
        group="Output",
        choices=("preview", "prepare"),
        help="What to do; the word after `swift data`. The words after that are --dataset.",
        none="it has to be said",
    )
    rows: int = option(3, group="Output", minimum=1, unit="rows", help="How many rows to show, drawn with the seed.")
    output: str | None = option(
        None,
        group="Output",
        help="Directory to write: of `prepare` the encoded rows, for --dataset; of `preview` the page preview.html, "
        "the picture of lengths and data_report.json.",
        none="only the terminal",
    )
