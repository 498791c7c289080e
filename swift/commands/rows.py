"""The rows of a run: read, split and encoded."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.sft import SftArguments
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.datasets.load import Loaded, load_datasets
from swift.templates.template import Template


@dataclass(frozen=True)
class Data:
    """Encoded rows and the account of every row read; `val` is None without evaluation."""

    train: EncodedDataset
    val: EncodedDataset | None
    ledger: Ledger


def load_rows(args: SftArguments) -> Loaded:
    """Read and split the data sets."""
    return load_datasets(
        args.dataset,
        val_specs=args.val_dataset,
        test_ratio=args.dataset_test_ratio if args.evaluation_strategy != "no" else 0.0,
        seed=args.dataset_seed,
        columns=args.columns,
        model_name=args.model_name,
        model_author=args.model_author,
        max_bad_rows=args.max_bad_rows,
    )


def read_data(args: SftArguments, template: Template) -> Data:
    """Read, split and encode the data sets."""
    loaded = load_rows(args)
    train = encode(loaded.train, template, loaded.ledger)
    val = encode(loaded.val, template, loaded.ledger, split="validation") if loaded.val else None
    return Data(train, val, loaded.ledger)
