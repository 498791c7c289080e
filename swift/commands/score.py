"""`swift infer` of a model with a head: labels, numbers, vectors or scores of texts, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift import storage
from swift.arguments.infer import InferArguments
from swift.commands.chat import say
from swift.commands.prepare import add_saved_rows, load_template
from swift.datasets.convert import Conversation, at
from swift.datasets.info import register_infos
from swift.datasets.load import load_datasets
from swift.datasets.places import in_file_order
from swift.datasets.retrieval import HEAD_FORMATS
from swift.errors import DataError, UsageError, raise_all
from swift.heads.answer import Answer, answers, scores_of
from swift.heads.files import Head
from swift.heads.kinds import Classifier, Kind
from swift.heads.model import loading, settle
from swift.heads.rows import Text, encode_texts
from swift.inference.results import open_results
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, detect_hardware, load_model
from swift.models.placing import loading_options
from swift.models.source import ModelSource
from swift.templates.template import Template
from swift.tuners import Swift, files

logger = get_logger()


def head_of(args: InferArguments, source: ModelSource) -> Head | None:
    """The head of a checkpoint, or of the model itself; None where it writes text."""
    return Head.read(Path(args.ckpt_dir)) if args.ckpt_dir else Head.read(source.path)


def score(args: InferArguments, source: ModelSource, head: Head, home: Path) -> dict[str, Any]:
    """Say what the head makes of `--query` or of the rows of a data set.

    Args:
        args: the decided options.
        source: the base.
        head: what the checkpoint says of its head.
        home: where results are written unless `--result_dir` says.

    Returns:
        `result`: the lines; with labels in the rows also `metrics`.

    Raises:
        UsageError: there is nothing to score.
    """
    template, kind = load_template(args, source), head.kind()
    rows = _rows(args)
    texts = [_texts(kind, row) for row in rows]
    encoded = encode_texts([text for one in texts for text in one], template)
    _check(rows, texts, encoded, template)
    model = load(args, source, head)
    ids = [one.ids for one in encoded if isinstance(one, Text)]
    found = scores_of(model, kind, ids, args.batch_size, model.config.get_text_config().pad_token_id)
    made = list(answers(head, kind, [len(one) for one in texts], found))
    lines = [{**told(row), **answer} for row, answer in zip(rows, made, strict=True)]
    _write(args, lines, home)
    return {"result": lines, **({"metrics": measured} if (measured := _measured(head, rows, made)) else {})}


def load(args: InferArguments, source: ModelSource, head: Head) -> Any:
    """The model with its head and its adapters, ready to score."""
    tuned = args.ckpt_dir and files.folders(Path(args.ckpt_dir))
    model = load_model(
        source,
        TORCH_DTYPES[args.dtype],
        **loading_options(args.device_map or ("auto" if detect_hardware().accelerator else None)),
        attn_implementation="flash_attention_2" if args.use_flash_attn else None,
        quantised=args,
        **loading(head, fresh=bool(tuned)),
    )
    settle(model, head, source)
    if tuned:
        add_saved_rows(model, args.ckpt_dir)
        allowed = args.allow_other_base
        model = Swift.from_pretrained(model, str(args.ckpt_dir), inference_mode=True, allow_other_base=allowed)
    return model.eval()


def _rows(args: InferArguments) -> list[Conversation]:
    """The rows to score: those of a data set, or the one of `--query`."""
    if args.query is not None:
        return [Conversation(messages=[{"role": "user", "content": args.query}], where="--query")]
    if not (args.dataset or args.val_dataset):
        raise UsageError("USAGE-03", "a model with a head does not chat", fix="--query <text>, or --dataset rows.jsonl")
    register_infos(args.custom_dataset_info)
    loaded = load_datasets(
        (),
        val_specs=[*args.dataset, *args.val_dataset],
        seed=args.dataset_seed,
        columns=args.columns,
        max_bad_rows=args.max_bad_rows,
        answers=False,
        formats=HEAD_FORMATS,
    )
    logger.info(loaded.ledger.summary())
    return in_file_order(loaded.val or [])


def _texts(kind: Kind, row: Conversation) -> list[Any]:
    try:
        return kind.texts(row)
    except DataError as error:
        raise at(row["where"], error) from None


def _check(
    rows: Sequence[Conversation], texts: Sequence[list[Any]], encoded: Sequence[Any], template: Template
) -> None:
    """Refuse texts that do not fit the template or the length."""
    ids, errors = iter(encoded), []
    for row, one in zip(rows, texts, strict=True):
        for _ in one:
            found = next(ids)
            if isinstance(found, DataError):
                errors.append(at(row["where"], found))
            elif found is None:
                what = f"{row['where']}: a text is longer than --max_length {template.max_length}"
                errors.append(DataError("DATA-03", what, fix="--truncation_strategy truncation_left"))
    raise_all(errors)


def told(row: Conversation) -> Answer:
    """What a line says of its row."""
    said = {"messages": row["messages"]}
    label = row.get("label", row.get("labels"))
    return said if label is None else {**said, "label": label}


def _write(args: InferArguments, lines: Sequence[Answer], home: Path) -> None:
    """Print the lines where one asked for one, and write them to the results' file."""
    if args.query is not None or args.verbose:
        for line in lines:
            say(json.dumps(line, ensure_ascii=False))
    path = open_results(args.result_dir, home) if args.save_result else None
    if path is not None:
        for line in lines:
            storage.append_jsonl(path, line)
        logger.info(f"results: {path}")


def _measured(head: Head, rows: Sequence[Conversation], made: Sequence[Answer]) -> dict[str, float]:
    """How often a label is right, or a better answer scores higher."""
    if head.task_type == "reward":
        pairs = [one["score"] > one["rejected_score"] for one in made if "rejected_score" in one]
        found = {"accuracy": sum(pairs) / len(pairs)} if pairs else {}
    else:
        right = _right(head, rows, made)
        found = {"accuracy": sum(right) / len(right)} if right else {}
    for name, value in found.items():
        logger.info(f"{name}: {value:.4f}")
    return found


def _right(head: Head, rows: Sequence[Conversation], made: Sequence[Answer]) -> list[bool]:
    """Whether each row that has labels is said to have just these, however they are written there."""
    kind = head.kind()
    if not isinstance(kind, Classifier) or not kind.can_be_right:
        return []
    known = Classifier(kind.size, kind.problem, kind.names or [str(k) for k in range(kind.size)])
    labelled = [(row, one) for row, one in zip(rows, made, strict=True) if "label" in told(row)]
    return [_labels(known, row) == known.read({**row, "label": one["prediction"]})[1] for row, one in labelled]


def _labels(kind: Classifier, row: Conversation) -> list[float] | None:
    """The labels of a row, None where the model does not know one of them."""
    try:
        return kind.read(row)[1]
    except DataError:
        return None
