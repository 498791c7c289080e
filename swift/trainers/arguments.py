"""Arguments of the trainer: transformers' own, every spelling it once had, and a few of ours."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import transformers
from transformers import get_scheduler
from transformers.training_args import OptimizerNames

from swift.arguments.engines import read_sharding
from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, MissingPackageError, UsageError
from swift.inference.settings import generation_config
from swift.log import get_logger
from swift.registry import unknown
from swift.trainers import zero
from swift.trainers.batches import GROUPED
from swift.trainers.galore import GaLoreConfig
from swift.trainers.liger import KERNELS
from swift.trainers.muon import OLD_OPTIMISERS, OWN, check_optimiser
from swift.trainers.optimizers import check_galore

logger = get_logger()

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}
WITHOUT_EFFECT = {
    "fp16_backend",
    "fp16_opt_level",
    "half_precision_backend",
    "include_inputs_for_metrics",
    "include_tokens_per_second",
    "jit_mode_eval",
    "overwrite_output_dir",
    "past_index",
    "ray_scope",
    "save_safetensors",
    "use_ipex",
    "use_mps_device",
}
FASTER = (
    *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    *("use_liger_kernel", "liger_kernel_config"),
)
FUSED = "adamw_torch_fused"
WHOLE_RUN = 1 - 1e-9  # transformers reads a warm-up of 1 as one step, below it as a share of the steps


@dataclass
class OwnTrainingArguments(transformers.Seq2SeqTrainingArguments):
    """What the trainer knows beyond transformers' arguments."""

    output_dir: str = field(default="output", metadata={"help": "Where checkpoints and logs are written."})
    logging_dir: str | None = field(default=None, metadata={"help": "TensorBoard's directory; `runs` when None."})
    acc_strategy: str = field(default="token", metadata={"help": "Accuracy per token or per sentence (whole reply)."})
    loss_name: str | None = field(default=None, metadata={"help": "A registered loss; cross-entropy when None."})
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Tokens of a batch with its padding, which decide how many rows it has; a number when None."},
    )
    padding_free: bool = field(
        default=False, metadata={"help": "Train on the rows of a batch one after another, in place of padding them."}
    )
    fused_cross_entropy: bool = field(
        default=True, metadata={"help": "Make the loss of chunks of tokens, in place of all their logits."}
    )
    fused_lora: bool = field(
        default=True, metadata={"help": "Compute a LoRA layer's base and update in one function that keeps less."}
    )
    layer_compiler: str | None = field(
        default=None, metadata={"help": "Backend of torch.compile for the layers that train; not compiled when None."}
    )
    layer_compiler_mode: str | None = field(
        default=None, metadata={"help": "Mode of torch.compile for them; its default when None."}
    )
    liger_kernels: dict[str, bool] | None = field(
        default=None, metadata={"help": "Which of Liger's kernels are put into the model; none when None."}
    )
    use_logits_to_keep: bool = field(
        default=True, metadata={"help": "Where whole logits are made, make them at supervised positions only."}
    )
    metric_names: list[str] = field(default_factory=list, metadata={"help": "Registered metrics of evaluation."})
    callback_names: list[str] = field(default_factory=list, metadata={"help": "Registered callbacks to add."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better metric before training stops; never when None."}
    )
    additional_saved_files: list[str] = field(
        default_factory=list, metadata={"help": "Files that are copied into every checkpoint."}
    )
    hang_timeout: int | None = field(
        default=None, metadata={"help": "Seconds after which a step is a hang; 0 never, None by the steps so far."}
    )
    allow_inexact_resume: bool = field(
        default=False, metadata={"help": "Go on from a checkpoint of a run that differed, and say in what."}
    )
    resume_verify: str = field(
        default="full", metadata={"help": "`fast` checks the sizes of a checkpoint's files, not their SHA-256."}
    )
    sharding: str | None = field(
        default=None, metadata={"help": "FSDP2: `full_shard`, `shard_grad_op`, and `offload`; whole weights when None."}
    )
    own_optim: str | None = field(
        default=None,
        metadata={"help": "`muon` or `adam_mini`, which transformers does not have; `optim` says when None."},
    )
    galore_config: GaLoreConfig | None = field(
        default=None, metadata={"help": "Optimiser states in low-rank subspaces; whole ones when None."}
    )
    lisa_activated_layers: int = field(default=0, metadata={"help": "LISA's layers that train at a time; 0 is off."})
    lisa_step_interval: int = field(default=20, metadata={"help": "Steps from one draw of layers to the next."})

    @property
    def place_model_on_device(self) -> bool | None:
        """Whether transformers moves the model to its device; what is cut into shards gets there in parts."""
        return False if self.sharding else super().place_model_on_device

    def to_dict(self) -> dict[str, Any]:
        """All arguments, for JSON."""
        galore = self.galore_config
        return {**super().to_dict(), "galore_config": None if galore is None else galore.to_dict()}


class Seq2SeqTrainingArguments(OwnTrainingArguments):
    """transformers' `Seq2SeqTrainingArguments` that also takes the names that version 5 dropped.

    `evaluation_strategy`, `warmup_ratio`, `save_safetensors`, `logging_dir`, `group_by_length` and their like mean what
    they meant. Loss and gradients that are not finite always count: `logging_nan_inf_filter` is off. Without an
    accelerator `use_cpu` is on: transformers lets processes on CPUs train together only then. `deepspeed` also takes
    the names of our own configurations, and `fsdp` is always FSDP2 on the processes that there are.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        defaults = {
            "label_names": ["labels"],
            "dataloader_pin_memory": torch.cuda.is_available(),
            "use_cpu": not torch.accelerator.is_available(),
        }
        said = modern(kwargs)
        if said.get("deepspeed"):
            said["deepspeed"] = zero.read_config(said["deepspeed"])
        read_sharding(said.get("sharding"))
        super().__init__(*args, **{**defaults, **said, "logging_nan_inf_filter": False})


def modern(said: dict[str, Any], compiler: str | None = None) -> dict[str, Any]:
    """Training arguments by the names that transformers has now; `compiler` is the one that other words chose.

    Raises:
        ConfigError: an old and a new name that contradict each other.
        UnknownNameError: a name that neither knows.
    """
    known = {f.name for f in fields(OwnTrainingArguments)}
    options: dict[str, Any] = _faster(said, compiler)
    for name, value in said.items():
        new = RENAMED.get(name, name) if RENAMED.get(name, name) in known else name
        if new in said and new != name and said[new] != value:
            raise ConfigError("CONFIG-02", f"{name}={value!r} contradicts {new}={said[new]!r}", fix=f"use {new} alone")
        if name in WITHOUT_EFFECT - known:
            logger.info("training argument %s has no effect any more", name)
        elif name in FASTER:
            continue
        elif name == "fsdp":
            options |= {"sharding": value if isinstance(value, str) else "full_shard"} if value else {}
        elif name in known or new in known:
            options[new] = OLD_OPTIMISERS.get(value, value) if name == "optim" else value
        elif name == "warmup_ratio":
            options["warmup_steps"] = said.get("warmup_steps") or min(float(value), WHOLE_RUN)
        elif name == "group_by_length":
            options["train_sampling_strategy"] = "group_by_length" if value else "random"
        elif name == "adafactor":
            options |= {"optim": "adafactor"} if value else {}
        elif name in ("dispatch_batches", "split_batches"):
            options["accelerator_config"] = {**(options.get("accelerator_config") or {}), name: value}
        else:
            raise unknown("training argument", name, known)
    return options


def _faster(said: dict[str, Any], known: str | None) -> dict[str, Any]:
    """What transformers' words for compiling and for Liger mean here: layers are compiled, and the loss is ours.

    `known` is the compiler that was said otherwise.
    """
    options: dict[str, Any] = {}
    backend, mode = said.get("torch_compile_backend"), said.get("torch_compile_mode")
    if said.get("torch_compile") or backend or mode:
        options |= {"layer_compiler": backend or known or "inductor", "layer_compiler_mode": mode}
    elif "torch_compile" in said:
        options["layer_compiler"] = None
    if "use_liger_kernel" in said:
        more = said.get("liger_kernel_config") or {}
        options["liger_kernels"] = {**KERNELS, **more} if said["use_liger_kernel"] else None
    return options


def training_arguments(args: SftArguments) -> Seq2SeqTrainingArguments:
    """The trainer's arguments for decided options; `--training_options` win over everything.

    Raises:
        UnknownNameError: an optimiser, or a name in `--training_options`, that transformers does not have.
        UsageError: a schedule that it does not have or that cannot be set so; values that it refuses.
        MissingPackageError: an optimiser's package, or a tracker in `--report_to`, that is not installed.
        ConfigError: GaLore with an optimiser or a step that it cannot work with; DeepSpeed's file says something else.
    """
    check_optimiser(args.optim)
    check_schedule(args)
    if args.deepspeed:
        zero.read_config(args.deepspeed)
    options = in_words_of_transformers(args)
    options |= modern(args.training_options, options["layer_compiler"])
    try:
        made = Seq2SeqTrainingArguments(**options)
    except (TypeError, ValueError) as error:
        raise UsageError("USAGE-02", f"--training_options {args.training_options}: {error}") from None
    check_steps(made)
    if made.galore_config is not None and (made.optim_args or made.optim_target_modules):
        what = "--training_options: GaLore does not look at optim_args and optim_target_modules"
        fix = "--galore_rank, --galore_scale, --galore_update_proj_gap, --galore_target_modules"
        raise ConfigError("CONFIG-02", what, fix=fix)
    if made.deepspeed:
        zero.check_agrees(made.hf_deepspeed_config)
    if made.layer_compiler is not None:
        from swift.trainers.compiled import check_backend  # PyTorch's compiler takes a second to import

        check_backend(made.layer_compiler)
    return made


def in_words_of_transformers(args: SftArguments) -> dict[str, Any]:
    """Decided options under the names that the trainer's arguments have for them."""
    on_gpu = torch.cuda.is_available()
    limit = args.save_total_limit
    return {
        "output_dir": args.output_dir,
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": args.eval_batch_size or args.batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps or 1,
        "num_train_epochs": args.num_train_epochs,
        "max_steps": args.max_steps if args.max_steps > 0 else -1,
        "learning_rate": args.learning_rate if args.learning_rate is not None else 1e-4,
        "lr_scheduler_type": args.lr_scheduler_type,
        "lr_scheduler_kwargs": args.lr_scheduler_kwargs,
        "warmup_steps": args.warmup_steps or min(args.warmup_ratio, WHOLE_RUN),
        "optim": FUSED if args.optim in OWN else args.optim,
        "own_optim": args.optim if args.optim in OWN else None,
        "deepspeed": args.deepspeed if torch.distributed.is_initialized() else None,  # a rehearsal has no processes
        "sharding": args.fsdp,
        "adam_beta1": args.adam_beta1,
        "adam_beta2": args.adam_beta2,
        "adam_epsilon": args.adam_epsilon,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "gradient_checkpointing": bool(args.gradient_checkpointing),
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": args.dtype == "bf16" and on_gpu,
        "fp16": args.dtype == "fp16" and on_gpu,
        "seed": args.seed,
        "data_seed": args.seed,
        "full_determinism": args.full_determinism,
        "eval_strategy": args.evaluation_strategy,
        "eval_steps": args.eval_steps,
        "predict_with_generate": args.predict_with_generate,
        "generation_config": generation_config(args) if args.predict_with_generate else None,
        "save_strategy": args.save_strategy,
        "save_steps": args.save_steps or args.eval_steps,
        "save_total_limit": limit if limit > 0 else None,
        "save_only_model": args.save_only_model,
        "ignore_data_skip": args.ignore_data_skip,
        "allow_inexact_resume": args.allow_inexact_resume,
        "resume_verify": args.resume_verify,
        "logging_steps": args.logging_steps,
        "logging_first_step": True,
        "report_to": trackers(args.report_to),
        "logging_dir": args.logging_dir,
        "log_level_replica": "error",
        "disable_tqdm": args.disable_tqdm,
        "remove_unused_columns": False,
        "dataloader_num_workers": args.dataloader_num_workers,
        "dataloader_pin_memory": args.dataloader_pin_memory and on_gpu,
        "dataloader_drop_last": args.dataloader_drop_last,
        "ddp_backend": args.ddp_backend if torch.distributed.is_initialized() else None,
        "ddp_find_unused_parameters": args.ddp_find_unused_parameters,
        "ddp_broadcast_buffers": args.ddp_broadcast_buffers,
        "ddp_timeout": args.ddp_timeout,
        "hang_timeout": args.hang_timeout,
        "run_name": Path(args.output_dir).name,
        **({"accelerator_config": {"dispatch_batches": False}} if args.streaming else {}),
        "acc_strategy": args.acc_strategy,
        "loss_name": args.loss_name,
        "train_sampling_strategy": GROUPED if groups_by_length(args) else "random",
        "max_tokens_per_batch": args.max_tokens_per_batch,
        "padding_free": args.padding_free,
        "fused_cross_entropy": args.fused_cross_entropy,
        "fused_lora": args.fused_lora,
        "layer_compiler": args.torch_compile_backend if args.torch_compile else None,
        "liger_kernels": KERNELS if args.use_liger_kernel else None,
        "use_logits_to_keep": args.use_logits_to_keep,
        "metric_names": args.metrics,
        "callback_names": args.callbacks,
        "early_stopping_patience": args.early_stopping_patience,
        "neftune_noise_alpha": args.neftune_noise_alpha if args.neftune_backend != "swift" else None,
        "galore_config": galore_config(args),
        "lisa_activated_layers": args.lisa_activated_layers,
        "lisa_step_interval": args.lisa_step_interval,
    }


def groups_by_length(args: SftArguments) -> bool:
    """Whether rows of like length make a batch; not where a row is looked at only when it is drawn."""
    return args.group_by_length and not args.streaming and not args.lazy_tokenize


def galore_config(args: SftArguments) -> GaLoreConfig | None:
    """What the options say about GaLore; None without it."""
    if not args.use_galore:
        return None
    said = args.galore_target_modules
    return GaLoreConfig(
        rank=args.galore_rank,
        target_modules=said,
        update_proj_gap=args.galore_update_proj_gap,
        galore_scale=args.galore_scale,
        proj_type=args.galore_proj_type,
        optim_per_parameter=args.galore_optim_per_parameter,
        with_embedding=args.galore_with_embedding,
        quantize=args.galore_quantization,
        proj_quant=args.galore_proj_quant,
        proj_bits=args.galore_proj_bits,
        proj_group_size=args.galore_proj_group_size,
        cos_threshold=args.galore_cos_threshold,
        gamma_proj=args.galore_gamma_proj,
        queue_size=args.galore_queue_size,
    )


def check_steps(args: OwnTrainingArguments) -> None:
    """Make sure that what takes the optimiser's steps can take them so. Raises ConfigError when it cannot."""
    if args.galore_config is not None:
        optim = OptimizerNames(args.optim).value
        check_galore(args.galore_config, optim, args.gradient_accumulation_steps, args.world_size, args.fp16)
    if args.galore_config is not None and args.lisa_activated_layers:
        raise ConfigError("CONFIG-02", "GaLore and LISA do not work together", fix="drop one of them")


def check_schedule(args: SftArguments) -> None:
    """Make a schedule as training will, so that what it cannot be is said before anything is loaded.

    Raises:
        UsageError: there is no such schedule, or it does not take these settings.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    settings = args.lr_scheduler_kwargs
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, scheduler_specific_kwargs=settings)
    except (TypeError, ValueError) as error:
        said = f"--lr_scheduler_type {args.lr_scheduler_type}" + (f" with {settings}" if settings else "")
        raise UsageError("USAGE-02", f"{said}: {error}") from None


def trackers(said: list[str] | None) -> list[str]:
    """The trackers to report to; None is TensorBoard where it is installed.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    if said is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    if "none" in said or "all" in said:
        return [said[0]] if "all" in said else []
    for name in said:
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(
                "PACKAGE-01", f"--report_to {name} needs the package {name}", fix=f"pip install {name}, or drop it"
            )
    return said
