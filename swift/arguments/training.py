"""Options of the training loop: optimiser, schedule, evaluation, checkpoints, logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swift.arguments.fields import option

STRATEGIES = ("steps", "epoch", "no")


@dataclass(kw_only=True)
class OptimisationOptions:
    """Batches, optimiser and schedule."""

    batch_size: int = option(1, group="Optimisation", minimum=1, unit="rows", help="Rows per process and step.")
    gradient_accumulation_steps: int | None = option(
        None,
        group="Optimisation",
        minimum=1,
        help="Batches that make one optimiser step.",
        none="as many as give 16 rows a step over all processes",
    )
    max_tokens_per_batch: int | None = option(
        None,
        group="Optimisation",
        minimum=1,
        unit="tokens",
        help="Tokens of a batch with its padding: as many rows of like length as fit, in place of --batch_size.",
        none="--batch_size says how many rows",
    )
    group_by_length: bool = option(
        True,
        group="Optimisation",
        help="Put rows of like length into a batch, which hardly needs padding then; false draws rows at random.",
    )
    padding_free: bool = option(
        False,
        group="Optimisation",
        help="Put the rows of a batch one after another in place of padding them; they do not see each other.",
    )
    num_train_epochs: float = option(1, group="Optimisation", minimum=0, help="Times to go over the data.")
    max_steps: int = option(
        -1, group="Optimisation", minimum=-1, help="Optimiser steps; above 0 it overrules the epochs."
    )
    learning_rate: float | None = option(
        None, group="Optimisation", minimum=0, help="Peak learning rate.", none="1e-4 for a tuner, 1e-5 for `full`"
    )
    lr_scheduler_type: str = option("linear", group="Optimisation", help="Schedule, by its transformers name.")
    lr_scheduler_kwargs: dict[str, Any] = option(
        {}, group="Optimisation", help="Further settings of the schedule, as JSON."
    )
    warmup_ratio: float = option(
        0.05, group="Optimisation", minimum=0, maximum=1, help="Share of the steps over which the learning rate rises."
    )
    warmup_steps: int = option(
        0, group="Optimisation", minimum=0, unit="steps", help="The same in steps; above 0 it wins."
    )
    optim: str = option(
        "adamw_torch_fused", group="Optimisation", help="Optimiser, by its transformers name, or `muon` or `adam_mini`."
    )
    adam_beta1: float = option(0.9, group="Optimisation", minimum=0, maximum=1, help="Adam's beta 1.")
    adam_beta2: float = option(0.999, group="Optimisation", minimum=0, maximum=1, help="Adam's beta 2.")
    adam_epsilon: float = option(1e-8, group="Optimisation", minimum=0, help="Adam's epsilon.")
    weight_decay: float = option(0.1, group="Optimisation", minimum=0, help="Weight decay of AdamW.")
    max_grad_norm: float = option(
        0.5, group="Optimisation", minimum=0, help="Gradient norm above which it is scaled down; 0 is off."
    )
    gradient_checkpointing: bool | None = option(
        None,
        group="Optimisation",
        help="Compute activations twice to save memory: true, false or auto.",
        none="on where the memory would not do without, which is said",
    )
    fused_cross_entropy: bool = option(
        True,
        group="Optimisation",
        help="Compute the loss of chunks of tokens, so that their logits are never there all at once.",
    )
    fused_lora: bool = option(
        True, group="Optimisation", help="Compute a LoRA layer's base and update in one function that keeps less."
    )
    use_logits_to_keep: bool = option(
        True, group="Optimisation", help="Where whole logits are needed, make them at supervised positions only."
    )
    torch_compile: bool = option(
        False,
        group="Optimisation",
        help="Compile the model's layers while they train; minutes at the start, for a step that takes less time.",
    )
    torch_compile_backend: str = option(
        "inductor", group="Optimisation", help="What --torch_compile compiles with, by its name in PyTorch."
    )
    use_liger_kernel: bool = option(
        False,
        group="Optimisation",
        help="Liger's kernels for norms, rotary positions and MLPs of the model; needs a CUDA GPU and its package.",
    )
    seed: int = option(42, group="Optimisation", help="Seed of initialisation, dropout and the order of rows.")
    full_determinism: bool = option(
        False, group="Optimisation", help="Use only deterministic kernels: slower, repeatable on a GPU."
    )
    loss_name: str | None = option(
        None, group="Plug-ins", help="A registered loss.", none="cross-entropy over the supervised tokens"
    )
    metrics: list[str] = option([], group="Plug-ins", help="Registered metrics to report at evaluation.")
    callbacks: list[str] = option([], group="Plug-ins", help="Registered trainer callbacks to add.")
    training_options: dict[str, Any] = option(
        {}, group="Plug-ins", help="Further fields of transformers' TrainingArguments, as JSON."
    )


@dataclass(kw_only=True)
class RunOptions:
    """Evaluation, checkpoints, logs, workers."""

    output_dir: str = option("output", group="Output", help="Where runs are written.")
    dry_run: bool = option(
        False,
        group="Output",
        help="Check everything, show what the run would do, and stop: no weights are loaded, nothing is written.",
    )
    add_output_dir_suffix: bool = option(
        True,
        group="Output",
        help="Write into a new `<model>/v<N>-<time>` below --output_dir; false writes right there.",
    )
    evaluation_strategy: str = option("steps", group="Output", choices=STRATEGIES, help="When to evaluate.")
    eval_steps: int = option(50, group="Output", minimum=1, unit="steps", help="Steps between evaluations.")
    eval_batch_size: int | None = option(
        None, group="Output", minimum=1, unit="rows", help="Rows per process in evaluation.", none="--batch_size"
    )
    predict_with_generate: bool = option(
        False,
        group="Output",
        help="Answer the rows of every evaluation too: rouge-1, rouge-2, rouge-l, bleu-4 and exact match are logged, "
        "and the best checkpoint is the one with the highest rouge-l.",
    )
    save_strategy: str = option("steps", group="Output", choices=STRATEGIES, help="When to save a checkpoint.")
    save_steps: int | None = option(
        None, group="Output", minimum=1, unit="steps", help="Steps between checkpoints.", none="--eval_steps"
    )
    save_total_limit: int = option(
        2, group="Output", minimum=-1, help="Checkpoints kept: the best and the last ones; -1 keeps all."
    )
    save_only_model: bool = option(
        False, group="Output", help="Leave optimiser, schedule and random states out: smaller, cannot be resumed."
    )
    resume_from_checkpoint: str | None = option(
        None, group="Output", help="A checkpoint to go on from; `auto` takes the newest whole one.", none="start afresh"
    )
    resume_only_model: bool = option(
        False,
        group="Output",
        help="Take only the adapters of --resume_from_checkpoint: a fresh optimiser, other data, any PEFT adapter; a "
        "whole model's checkpoint is a --model_id_or_path.",
    )
    allow_inexact_resume: bool = option(
        False,
        group="Output",
        help="Go on from a checkpoint although data, options, processes or versions differ, and name the differences.",
    )
    resume_verify: str = option(
        "full",
        group="Output",
        choices=("full", "fast"),
        help="How --resume_from_checkpoint checks files: SHA-256 and size, or the size alone.",
    )
    ignore_data_skip: bool = option(False, group="Output", help="When resuming, start the data from its beginning.")
    early_stopping_patience: int | None = option(
        None,
        group="Output",
        minimum=1,
        help="Evaluations without a better loss after which training stops.",
        none="never",
    )
    acc_strategy: str = option(
        "token", group="Output", choices=("token", "sentence"), help="Count accuracy per token or per whole reply."
    )
    logging_steps: int = option(5, group="Output", minimum=1, unit="steps", help="Steps between lines of the log.")
    logging_dir: str | None = option(
        None, group="Output", help="TensorBoard's directory.", none="`runs` in the run's directory"
    )
    report_to: list[str] | None = option(
        None,
        group="Output",
        choices=("tensorboard", "wandb", "swanlab", "mlflow", "none", "all"),
        help="Trackers to report to.",
        none="tensorboard where it is installed",
    )
    disable_tqdm: bool = option(False, group="Output", help="Print plain lines instead of a progress bar.")
    dataloader_num_workers: int = option(
        0, group="Workers", minimum=0, help="Processes that prepare batches; 0 is none."
    )
    dataloader_pin_memory: bool = option(True, group="Workers", help="Pin batches in memory, for a GPU.")
    dataloader_drop_last: bool = option(False, group="Workers", help="Leave out the last, smaller batch of an epoch.")
    tensor_parallel_size: int = option(
        1,
        group="Workers",
        minimum=1,
        unit="processes",
        help="Cut every layer of a model between so many processes, which get the same rows; it divides the heads.",
    )
    ddp_backend: str | None = option(
        None,
        group="Workers",
        choices=("nccl", "gloo", "hccl", "ccl"),
        help="How processes talk.",
        none="nccl on GPUs, else gloo",
    )
    ddp_find_unused_parameters: bool | None = option(
        None,
        group="Workers",
        help="Let DDP look for parameters without a gradient.",
        none="only without gradient checkpointing",
    )
    ddp_broadcast_buffers: bool | None = option(
        None,
        group="Workers",
        help="Let DDP send buffers before every step.",
        none="only without gradient checkpointing",
    )
    ddp_timeout: int = option(
        1800, group="Workers", minimum=1, unit="seconds", help="How long processes wait for each other."
    )
    max_restarts: int = option(
        0,
        group="Workers",
        minimum=0,
        help="Times that processes which died or hung are started again, from the last checkpoint.",
    )
    hang_timeout: int | None = option(
        None,
        group="Workers",
        minimum=0,
        unit="seconds",
        help="Time without progress that ends several processes, with the name of the one that hangs; 0 is never.",
        none="a minute, or ten times the median step where that is longer",
    )
