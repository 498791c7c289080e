"""Options of `swift export` and `swift merge-lora`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.hub import CommitOptions, PublishOptions
from swift.arguments.infer import CheckpointOptions
from swift.arguments.quantise import QuantiseOptions


@dataclass(kw_only=True)
class ExportArguments(CommitOptions, PublishOptions, CheckpointOptions, QuantiseOptions):
    """Merge LoRA into its model, quantise or convert a model, or publish it."""

    output_dir: str | None = option(
        None, group="Output", help="Where the merged model is written.", none="`<ckpt_dir>-merged`"
    )
    replace_if_exists: bool = option(
        False, group="Output", help="Write a merged model anew where one exists; otherwise it is used as it is."
    )
    from_sharded: str | None = option(
        None,
        group="Checkpoint",
        help="Put together a checkpoint that `--fsdp` trained whole, in `<checkpoint>-model`.",
        none="nothing is in shards",
    )
    to_peft_format: bool = option(
        False,
        group="Checkpoint",
        help="Write a LoRA checkpoint with a folder per tuner in PEFT's layout, in `<ckpt_dir>-peft`.",
    )
    adapters: list[str] = option(
        [],
        group="Merge",
        help="Several checkpoints to merge into one model, each with how much it counts: `a:0.7 b:0.3`.",
    )
    combination_type: str = option(
        "linear",
        group="Merge",
        choices=("linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"),
        help="How what several adapters change becomes one: their sum (arXiv:2212.04089), that in few ranks, where "
        "they agree (TIES, arXiv:2306.01708), after dropping numbers at random (DARE, arXiv:2311.03099) or the least.",
    )
    combination_density: float = option(
        0.5, group="Merge", minimum=0.01, maximum=1, help="Share of the numbers that TIES, DARE and pruning keep."
    )
    combination_rank: int | None = option(
        None, group="Merge", minimum=1, help="Ranks that svd keeps.", none="the largest of the adapters' ranks"
    )
    verify_merge: bool | None = option(
        None,
        group="Merge",
        help="Compare the merged model with the unmerged one before it counts.",
        none="where one of the two fits into memory",
    )
    allow_quantized_base: bool = option(
        False,
        group="Merge",
        help="Merge into a dequantised copy of a base in 4 or 8 bits, and show what that loses.",
    )
    to_hf_template: bool = option(
        False,
        group="Convert",
        help="Write the training's template as a chat template into the checkpoint or merged model, once it is proved "
        "to write the same.",
    )
    to_gguf: str | None = option(
        None,
        group="Convert",
        choices=("f32", "f16", "bf16", "q8_0", "q4_0"),
        help="Write the model as one GGUF file with an Ollama Modelfile, in `<model>-gguf`.",
        none="no GGUF",
    )
    push_to_hub: bool = option(
        False,
        group="Hub",
        help="Publish what was written last, or the checkpoint where nothing was, with a model card.",
    )
