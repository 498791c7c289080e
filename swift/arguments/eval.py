"""Options of `swift eval`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.data import DataOptions
from swift.arguments.engines import DeviceOptions
from swift.arguments.fields import option
from swift.arguments.generation import SamplingOptions
from swift.arguments.infer import CheckpointOptions
from swift.arguments.model import ModelOptions
from swift.arguments.quantised import QuantisedOptions


@dataclass(kw_only=True)
class EvalArguments(CheckpointOptions, SamplingOptions, DataOptions, QuantisedOptions, DeviceOptions, ModelOptions):
    """Measure how good a model, its checkpoints or a server's models are, and whether they differ."""

    eval_dataset: list[str] = option(
        [],
        group="Evaluation",
        help="Data sets to measure on, as --dataset takes them; `ceval`, `gsm8k` and `arc` are such names. With "
        "lm-eval or evalscope, names of their tasks.",
    )
    eval_metrics: list[str] = option(
        [],
        group="Evaluation",
        help="Metrics by name: exact, exact-normalised, contains, regex, rouge-1, rouge-2, rouge-l, bleu-4, "
        "corpus-bleu, letter, choice, choice-normalised, loss, perplexity. None is all that fit the rows.",
    )
    custom_metric: list[str] = option(
        [],
        group="Plug-ins",
        help="Metrics of yours, as `file.py:function`: a function of answer, label and row that returns a number.",
    )
    answer_regex: str | None = option(
        None,
        group="Evaluation",
        help="What of an answer, and of a label where it is found there, is compared: what this finds last, its first "
        "group where it has one.",
        none="all of it",
    )
    eval_few_shot: int = option(
        0,
        group="Evaluation",
        minimum=0,
        unit="rows",
        help="First rows of each data set to show before each question, as earlier rounds; they are not asked.",
    )
    eval_limit: int | None = option(
        None, group="Evaluation", minimum=1, unit="rows", help="Most rows to ask of each data set.", none="all"
    )
    custom_eval_config: str | None = option(
        None,
        group="Evaluation",
        help="A JSON file that lists further data sets: name, pattern (`ceval` or `general_qa`), dataset (a directory) "
        "and subset_list.",
        none="--eval_dataset alone",
    )
    ckpt_dir: list[str] = option(  # type: ignore[assignment]
        [], group="Checkpoint", help="Checkpoints of `swift sft`, or PEFT adapters; each is compared with the first."
    )
    with_base: bool = option(
        False, group="Checkpoint", help="Measure the model without its checkpoints first, to compare them with it."
    )
    eval_url: str | None = option(
        None,
        group="Server",
        help="Measure what a server of the OpenAI API serves, such as http://127.0.0.1:8000/v1.",
        none="the model is loaded here",
    )
    eval_model: list[str] = option(
        [], group="Server", help="Names of models at --eval_url; each is compared with the first. None is all of them."
    )
    eval_token: str = option("EMPTY", group="Server", help="Key that --eval_url asks for; SWIFT_API_KEY says it too.")
    eval_is_chat_model: bool | None = option(
        None,
        group="Server",
        help="Whether --eval_url takes conversations; else they are sent as text to continue.",
        none="as --template_type says, else true",
    )
    eval_nproc: int = option(16, group="Server", minimum=1, unit="requests", help="Requests under way at once.")
    eval_backend: str = option(
        "native",
        group="Evaluation",
        choices=("native", "lm-eval", "evalscope"),
        help="Who measures: swift itself, EleutherAI's harness, or EvalScope through a server on this machine.",
    )
    name: str | None = option(
        None, group="Output", help="What the evaluation is called, and its directory.", none="the time"
    )
    eval_output_dir: str = option("eval_outputs", group="Output", help="Where results are written, below --name.")
    eval_use_cache: bool = option(
        False,
        group="Output",
        help="Take answers that an earlier run with this option got of the same model to the same prompt, and keep new "
        "ones; not with --eval_url.",
    )
    bootstrap_samples: int = option(
        2000, group="Evaluation", minimum=100, help="Resamples of the rows for intervals of confidence."
    )
    do_sample: bool = option(False, group="Generation", help="Sample; false always takes the likeliest token.")
    stop_words: list[str] = option([], group="Generation", help="Texts that end an answer, besides the template's own.")
    max_length: int = option(
        -1, group="Data", minimum=-1, unit="tokens", help="Longest row; -1 is the model's own limit."
    )
    batch_size: int = option(16, group="Generation", minimum=1, unit="rows", help="Rows read or answered at once.")
    seed: int = option(42, group="Generation", help="Seed of sampling, and of resampled rows.")
