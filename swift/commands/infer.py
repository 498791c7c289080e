"""`swift infer`: answer one question, a data set, or whoever types. `infer_main` reads in the order of events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from swift import storage
from swift.arguments.infer import InferArguments
from swift.arguments.reading import read_arguments
from swift.commands.chat import LINE, Chat, Growing, say
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_decided, load_template, load_tuned_model
from swift.commands.score import head_of, score
from swift.datasets.cache import originals
from swift.datasets.convert import Conversation
from swift.datasets.info import register_infos
from swift.datasets.load import Loaded, load_datasets
from swift.datasets.places import in_file_order
from swift.decide import tidy
from swift.errors import ConfigError, DataError, NotFoundError
from swift.inference.engine import Engine
from swift.inference.generate import generate_batch, inference, inference_stream, shared_engine
from swift.inference.prompt import History
from swift.inference.results import Results, begin_rows, find_unfinished, open_results
from swift.inference.settings import generation_config, prepare_generation_config
from swift.log import get_logger
from swift.templates.check import stretches
from swift.templates.conversation import Tool, read_tools
from swift.templates.template import Template

logger = get_logger()
SECONDS_BETWEEN_NOTES = 10.0
VERBOSE_ROWS = 100
SAME_ANSWERS = {"batch_size", "verbose", "stream", "save_result", "result_dir"}  # options that change no answer
PACKAGE = Path(__file__).parents[1]


def infer_main(said: InferArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Answer what the options say: `--query`, the rows of a data set, or whoever types.

    Args:
        said: an `InferArguments`, a list of command-line words (`["x.json"]` too), or None for `sys.argv`.
        options: single options by name, over `said`.

    Returns:
        `result`: a dict of system, query, response and history (the one before) for each answer, with label where the
        data set has one; then also `metrics`: rouge-1, rouge-2, rouge-l, bleu-4 and exact, in percent. Of a model with
        a head, as `swift.commands.score.score` says.
    """
    said = tidy(read_arguments(InferArguments, said, **options))
    if said.query is not None and (said.dataset or said.val_dataset):
        raise ConfigError("CONFIG-02", "--query and --dataset exclude each other", fix="drop one of the two")
    if said.tools and (said.dataset or said.val_dataset):
        raise ConfigError("CONFIG-02", "--tools is for --query and chats", fix='a column "tools" in the rows')
    tools_of(said.tools)
    asked = said
    if said.merge_lora:
        asked = replace(said, ckpt_dir=merge_lora(said), merge_lora=False)
    args, source = find_decided(asked)
    head = head_of(args, source)
    if head is not None:
        return score(args, source, head, own_directory(Path(args.ckpt_dir or source.path)))
    template = load_template(args, source)
    rows = read_rows(args, template, inherited=not (said.dataset or said.val_dataset)) if answers_data(args) else []
    model_dir = Path(args.ckpt_dir or source.path)
    with open_answers(args, model_dir, rows) as results:
        model = load_tuned_model(args, source)
        if args.overwrite_generation_config:
            settings = prepare_generation_config(model, template, generation_config(args))
            storage.rewrite(model_dir, "generation_config.json", settings.to_json_string().encode())
        set_seed(args.seed)
        if args.query is not None:
            answer_query(args, model, template, results)
        elif answers_data(args):
            answer_rows(args, model, template, rows, results)
        else:
            chat(args, model, template, results)
        return results.report()


def open_answers(args: InferArguments, model_dir: Path, rows: Sequence[Conversation]) -> Results:
    """Where answers go: for rows of a data set the file that a killed run of the same settings left, else a new one."""
    if not args.save_result:
        return Results(None, args.system)
    home = own_directory(model_dir)
    settings = {name: value for name, value in asdict(args).items() if name not in SAME_ANSWERS}
    left = (
        find_unfinished(Path(args.result_dir) if args.result_dir else home / "infer_result", settings) if rows else None
    )
    if left is not None:
        path, records, lock = left
        results = Results(path, args.system, lock)
        begun = [results.record_of(row["messages"], "", None) for row in rows[: len(records)]]
        if [_question(record) for record in records] == [_question(record) for record in begun]:
            results.add_back(records)
            logger.info(f"going on behind the {len(records)} answers in {path}")
            return results
        logger.warning(f"{path} holds answers to other rows: left as it is")
        lock.close()
    path = open_results(args.result_dir, home)
    return Results(path, args.system, begin_rows(path, settings) if rows and path is not None else None)


def _question(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["system"], record["query"], record["history"]


def own_directory(model_dir: Path) -> Path:
    """Where answers go by default: beside the weights, or here for a model that is part of this package."""
    return Path.cwd() if model_dir.is_relative_to(PACKAGE) else model_dir


def answers_data(args: InferArguments) -> bool:
    """Whether decided options mean a data set, rather than one question or a person."""
    return args.query is None and not args.eval_human


def read_rows(args: InferArguments, template: Template, *, inherited: bool) -> list[Conversation]:
    """The rows to answer, each one checked against the template.

    Data sets that are said are answered whole, or the share `dataset_test_ratio` of them when that is said too. Of
    those `inherited` from a checkpoint it is what training did not see. Of many rows, `show_dataset_sample` are drawn
    with the seed; all are in the order of their files.
    """
    loaded = load_rows(args, inherited=inherited, answers=inherited)
    logger.info(loaded.ledger.summary())
    rows, sample = in_file_order(loaded.val or []), args.show_dataset_sample
    if 0 <= sample < len(rows):
        logger.info(f"answering {sample} of {len(rows)} rows; --show_dataset_sample -1 answers all")
        chosen = np.random.RandomState(args.dataset_seed).permutation(len(rows))[:sample]
        rows = [rows[k] for k in sorted(chosen)]
    for row in rows:
        template.encode(without_label(row))
    return rows


def load_rows(args: InferArguments, *, inherited: bool, answers: bool) -> Loaded:
    """All rows that `read_rows` chooses from, with their ledger; with `answers`, each one has to have one."""
    share = args.dataset_test_ratio
    if not inherited and share == InferArguments().dataset_test_ratio:
        share = 1.0
    if inherited:
        train, validation = originals(args.dataset)
        args = replace(args, dataset=train, val_dataset=[*args.val_dataset, *validation])
    register_infos(args.custom_dataset_info)
    return load_datasets(
        () if args.val_dataset else args.dataset,
        val_specs=args.val_dataset,
        test_ratio=share or 1.0,
        seed=args.dataset_seed,
        columns=args.columns,
        model_name=args.model_name,
        model_author=args.model_author,
        max_bad_rows=args.max_bad_rows,
        answers=answers,
    )


def answer_query(args: InferArguments, model: Any, template: Template, results: Results) -> None:
    """Answer `--query` on stdout."""
    query, text = str(args.query), ""
    for longer, _ in ask(args, model, template, query, [], None, tools_of(args.tools)):
        say(longer[len(text) :], end="")
        text = longer
    say("")
    results.add(query, text, [])


def chat(args: InferArguments, model: Any, template: Template, results: Results) -> None:
    """Answer whoever types; what was read of the conversation is not read again."""
    settings = prepare_generation_config(model, template, generation_config(args))
    engine = shared_engine(model, settings, 1)

    def answer(query: str, history: History, system: str | None, tools: Sequence[Tool]) -> Growing:
        return ask(args, model, template, query, history, system, tools, engine)

    Chat(answer, results.add, template.generation, tools_of(args.tools), tools_of).run()


def ask(
    args: InferArguments,
    model: Any,
    template: Template,
    query: str,
    history: History,
    system: str | None,
    tools: Sequence[Tool],
    engine: Engine | None = None,
) -> Growing:
    """The answer as it grows, or whole and once without `--stream`."""
    settings: dict[str, Any] = {"generation_config": generation_config(args), "stop_words": args.stop_words}
    settings["tools"] = list(tools)
    if args.stream:
        yield from inference_stream(model, template, query, history, system, engine=engine, **settings)
    else:
        yield inference(model, template, query, history, system, **settings)


def tools_of(said: str | None) -> list[Tool]:
    """The functions that `--tools` names.

    Raises:
        NotFoundError: there is no such file.
        DataError: it holds something else.
    """
    if not said or said.lstrip().startswith(("[", "{")):
        return read_tools(said)
    path = Path(said).expanduser()
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"--tools {said} is not a file", fix="a JSON file, or the list of functions")
    try:
        return read_tools(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise DataError("DATA-03", f"--tools {said} is not UTF-8 text") from None
    except DataError as error:
        raise DataError("DATA-03", f"--tools {said}: {error.what}", fix=error.fix) from None


def answer_rows(
    args: InferArguments, model: Any, template: Template, rows: Sequence[Conversation], results: Results
) -> None:
    """Answer the rows in batches; write, show and measure the answers."""
    verbose = len(rows) <= VERBOSE_ROWS if args.verbose is None else args.verbose
    done = len(results.records)
    asked = [without_label(row) for row in rows[done:]]
    answers = generate_batch(
        model,
        template,
        asked,
        generation_config(args),
        args.batch_size,
        stop_words=args.stop_words,
        seed=args.seed,
        first=done,
    )
    started = noted = time.perf_counter()
    tokens = 0
    for number, answer in answers:
        row = rows[number]
        tokens += answer.num_generated_tokens
        record = results.add_row(row["messages"], answer.text, label_of(template, row))
        if answer.finish_reason == "too_long":
            logger.warning(f"{row['where']}: not answered, its {answer.num_prompt_tokens or 'many'} tokens do not fit")
        if verbose:
            show_row(record)
        elif time.perf_counter() - noted > SECONDS_BETWEEN_NOTES:
            noted = time.perf_counter()
            logger.info(f"answered {number + 1} of {len(rows)} rows, {tokens / (noted - started):.1f} tokens/s")
    for name, value in results.metrics().items():
        logger.info(f"{name}: {value:.2f}")


def without_label(row: Conversation) -> dict[str, Any]:
    """A row up to the answer that is asked for."""
    messages = list(row["messages"])
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return {**row, "messages": messages}


def label_of(template: Template, row: Conversation) -> str | None:
    """What a last reply that calls a tool is in the words of the template; None for any other reply."""
    if not row["messages"][-1].get("tool_calls"):
        return None
    labels = template.encode(row)[0].get("labels") or []
    *_, said = stretches(labels) if any(label >= 0 for label in labels) else [[]]
    return template.generate_ids_to_response(said)


def show_row(record: dict[str, Any]) -> None:
    """One row on stdout: what was asked, answered and expected."""
    if record["system"]:
        say(f"[SYSTEM] {record['system']}")
    say(f"[QUERY] {record['query']}\n[RESPONSE] {record['response']}")
    if "label" in record:
        say(f"[LABEL] {record['label']}")
    say(LINE)
