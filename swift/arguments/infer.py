"""Options of `swift infer`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.data import DataOptions
from swift.arguments.engines import DeviceOptions
from swift.arguments.fields import option
from swift.arguments.generation import GenerationOptions
from swift.arguments.model import ModelOptions
from swift.arguments.quantised import QuantisedOptions
from swift.arguments.vllm import VllmOptions


@dataclass(kw_only=True)
class CheckpointOptions(ModelOptions):
    """Which checkpoint to use, and what to take from it."""

    ckpt_dir: str | None = option(
        None, group="Checkpoint", help="A checkpoint of `swift sft`, or any PEFT adapter.", none="the model as it is"
    )
    load_args_from_ckpt_dir: bool = option(
        True,
        group="Checkpoint",
        help="Take model, template, system and precision from the checkpoint unless they are said.",
    )
    load_dataset_config: bool = option(
        False, group="Checkpoint", help="Take the data sets and their split from the checkpoint too."
    )
    sft_type: str | None = option(
        None, group="Checkpoint", help="What the checkpoint trained.", none="as in the checkpoint"
    )
    allow_other_base: bool = option(
        False, group="Checkpoint", help="Put adapters onto another base than the one that they were trained on."
    )
    merge_lora: bool = option(False, group="Checkpoint", help="Merge LoRA into the model, in `<ckpt_dir>-merged`.")
    merge_device_map: str | None = option(None, group="Checkpoint", help="Device to merge on.", none="cpu")


@dataclass(kw_only=True)
class InferArguments(
    CheckpointOptions, GenerationOptions, VllmOptions, DataOptions, QuantisedOptions, DeviceOptions, ModelOptions
):
    """Chat with a model, or let it answer a data set."""

    query: str | None = option(
        None, group="Data", help="Answer this one question and stop.", none="chat, or the data set"
    )
    tools: str | None = option(
        None,
        group="Data",
        help="What the model may call in --query or a chat: a JSON file with a list of functions, or that list.",
        none="nothing",
    )
    eval_human: bool | None = option(
        None, group="Data", help="Chat instead of answering a data set.", none="chat when no data set is given"
    )
    show_dataset_sample: int = option(
        10, group="Data", minimum=-1, unit="rows", help="How many rows to answer, chosen with the seed; -1 is all."
    )
    max_length: int = option(
        -1, group="Data", minimum=-1, unit="tokens", help="Longest prompt; -1 is the model's own limit."
    )
    infer_backend: str = option(
        "AUTO",
        group="Generation",
        choices=("AUTO", "pt", "vllm"),
        help="What generates: the engine on PyTorch, which AUTO is too, or vLLM where it is installed.",
    )
    batch_size: int = option(
        64, group="Generation", minimum=1, unit="rows", help="Rows answered at once in a data set."
    )
    stream: bool = option(True, group="Generation", help="Show answers while they are written.")
    verbose: bool | None = option(None, group="Output", help="Show every row with its answer.", none="up to 100 rows")
    save_result: bool = option(True, group="Output", help="Write the answers to a jsonl file while they come.")
    result_dir: str | None = option(
        None,
        group="Output",
        help="Where answers are written.",
        none="`infer_result` in the checkpoint or model directory",
    )
    seed: int = option(42, group="Generation", help="Seed of sampling.")
