"""Said -> decided: fill in every value that nobody said, without loading anything.

All functions are pure: they take options and facts, and return new options. Nothing is ever written back into what the
user said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from swift.arguments.data import DataOptions, LossOptions
from swift.arguments.effects import looked_at
from swift.arguments.engines import cuts_weights, read_sharding
from swift.arguments.fields import check_values, options_of
from swift.arguments.heads import HEAD_OPTIONS, TASK_TYPES, HeadOptions
from swift.arguments.heads import LOSSES as HEAD_LOSSES
from swift.arguments.infer import CheckpointOptions, InferArguments
from swift.arguments.model import ModelOptions
from swift.arguments.pt import PtArguments, sees_rows_apart
from swift.arguments.quantised import QuantisedOptions
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.arguments.specs import parse_specs
from swift.arguments.tuner import TunerOptions
from swift.datasets.spec import absolute_spec
from swift.dist import Hardware
from swift.errors import ConfigError, SwiftError, UsageError, raise_all
from swift.memory import decide_checkpointing
from swift.models.kernels import check_kernels
from swift.models.quantisation import check_quantisation, decide_quantisation
from swift.models.source import ModelSource
from swift.models.unsloth import check_unsloth
from swift.parallel.degrees import contradictions as uncuttable
from swift.registry import unknown
from swift.templates import TEMPLATES
from swift.tuners.methods import PEFT_TYPES, available_sft_types, available_tuners

A = TypeVar("A", bound=ModelOptions)
C = TypeVar("C", bound=CheckpointOptions)
D = TypeVar("D", bound=DataOptions)
S = TypeVar("S", bound=SftArguments)

OF_BASE = tuple(field.name for field in fields(QuantisedOptions))
FROM_CHECKPOINT = (
    "model_type",
    "model_id_or_path",
    "model_revision",
    "sft_type",
    "template_type",
    "tools_prompt",
    "system",
    "dtype",
    *OF_BASE,
)
DATA_FROM_CHECKPOINT = (
    "custom_dataset_info",
    "dataset",
    "val_dataset",
    "dataset_seed",
    "dataset_test_ratio",
    "columns",
    "max_bad_rows",
    "model_name",
    "model_author",
)
LOSS_SCALES = {"DEFAULT": "default", "alpha_umi": "alpha-umi", "agentflan": "agent-flan", "agent_flan": "agent-flan"}
SEEING_BEYOND = {
    **dict.fromkeys(
        ("prefix_tuning", "prompt_tuning", "p_tuning", "prompt"), "its tokens stand before a pack, not a row"
    ),
    "longlora": "its attention goes by groups of tokens, whatever row they are of",
    "reft": "it looks for the ends of a prompt, of which a pack has several",
}
"""Tuners that rows in a pack cannot be kept apart with, and why."""
GALORE = {"galore_adamw": "adamw_torch", "galore_adamw_8bit": "adamw_8bit", "galore_adafactor": "adafactor"}
"""Transformers' names of GaLore's optimisers, and what runs in their subspaces."""
LAYERWISE = "_layerwise"  # what such a name ends with where every parameter is updated as its gradient comes
ROWS_PER_STEP = 16
LEARNING_RATE = {"full": 1e-5}


def decide_beside(errors: Sequence[SwiftError], said: S, hardware: Hardware, source: ModelSource) -> S:
    """What `decide_sft` decides; its errors are told together with those that a method of training found.

    Raises:
        ConfigError: as it does, or any of `errors`.
    """
    try:
        args = decide_sft(said, hardware, source)
    except SwiftError as error:
        raise_all([error, *errors])
        raise
    raise_all(errors)
    assert isinstance(args, type(said))
    return args


def decide_sft(said: SftArguments, hardware: Hardware, source: ModelSource) -> SftArguments:
    """The options of one training run, with nothing left open but the run's directory.

    Raises:
        ConfigError: options contradict each other or the machine; all contradictions at once.
    """
    args = _decide_data(_decide_model(decide_galore(said), hardware, source))
    contradictions = [*_contradictions(args), *engine_contradictions(args, hardware)]
    contradictions += uncuttable(args, hardware, source.config)
    raise_all([*check_values(args), *_beyond(args, hardware, source), *contradictions])
    at_once = args.use_galore and args.galore_optim_per_parameter
    rows = args.batch_size if at_once else ROWS_PER_STEP * args.tensor_parallel_size / hardware.world_size
    accumulation = args.gradient_accumulation_steps or (
        1 if args.max_tokens_per_batch else math.ceil(rows / args.batch_size)
    )
    checkpointing = _or(args.gradient_checkpointing, why_checkpointing(args, hardware, source)[0])
    return replace(
        args,
        loss_scale=decide_loss_scale(args),
        learning_rate=_or(args.learning_rate, LEARNING_RATE.get(args.sft_type, 1e-4)),
        gradient_accumulation_steps=accumulation,
        eval_batch_size=_or(args.eval_batch_size, args.batch_size),
        save_steps=_or(args.save_steps, args.eval_steps),
        gradient_checkpointing=checkpointing,
        ddp_find_unused_parameters=_or(args.ddp_find_unused_parameters, not checkpointing),
        ddp_broadcast_buffers=_or(args.ddp_broadcast_buffers, not checkpointing),
        dataset_test_ratio=0.0 if args.val_dataset else args.dataset_test_ratio,
        lora_target_modules=_targets(args, source),
    )


def why_checkpointing(args: SftArguments, hardware: Hardware, source: ModelSource) -> tuple[bool, str]:
    """Whether activations are computed twice where nobody says, and why."""
    return decide_checkpointing(args, tuner_kinds(args), source.config, source.weight_bytes, hardware.memory)


def decide_infer(said: InferArguments, hardware: Hardware, source: ModelSource) -> InferArguments:
    """The options of one inference run; `said` has inherited from its checkpoint already (`inherit`)."""
    args = _decide_data(_decide_model(said, hardware, source))
    has_data = bool(args.dataset or args.val_dataset)
    errors = [*check_values(args), *_beyond(args, hardware, source)]
    if args.eval_human is False and not has_data and args.query is None:
        errors.append(UsageError("USAGE-03", "--eval_human false needs a data set", fix="--dataset rows.jsonl"))
    errors += _vllm_contradictions(args) if args.infer_backend == "vllm" else []
    if args.num_beams > 1 and args.prompt_lookup_num_tokens:
        errors.append(_conflict("--num_beams and --prompt_lookup_num_tokens exclude each other", "drop one of the two"))
    raise_all(errors)
    sampling = args.do_sample and args.temperature > 0
    return replace(
        args,
        do_sample=sampling,
        eval_human=_or(args.eval_human, not has_data),
        stream=args.stream and args.num_beams == 1,
        infer_backend="pt" if args.infer_backend == "AUTO" else args.infer_backend,
        dataset_test_ratio=0.0 if args.val_dataset else args.dataset_test_ratio,
    )


def _vllm_contradictions(args: InferArguments) -> list[SwiftError]:
    errors: list[SwiftError] = []
    adapted = args.ckpt_dir and any(Path(args.ckpt_dir).glob(f"{place}adapter_config.json") for place in ("", "*/"))
    if adapted and not (args.vllm_enable_lora or args.merge_lora):
        what = f"--ckpt_dir {args.ckpt_dir} is an adapter, and vLLM starts without"
        errors.append(_conflict(what, "--vllm_enable_lora true, or --merge_lora true"))
    if args.num_beams > 1:
        errors.append(_conflict("vLLM has no --num_beams", "--infer_backend pt"))
    if args.quantization_bit:
        errors.append(_conflict("vLLM takes weights as they are saved, in few bits or not", "--infer_backend pt"))
    return errors


def inherit(said: C, saved: Mapping[str, Any]) -> tuple[C, dict[str, Any]]:
    """`said` with what it leaves open taken from a checkpoint's `saved` arguments, and what was taken.

    A value counts as said when it differs from its default. Data sets are only taken with `load_dataset_config`; what
    runs code (plug-ins, remote code) never is, the user says it again.
    """
    defaults = {name: info.default for name, info in options_of(type(said)).items()}
    says_data = isinstance(said, DataOptions) and bool(said.dataset or said.val_dataset)
    names = FROM_CHECKPOINT if says_data or not said.load_dataset_config else FROM_CHECKPOINT + DATA_FROM_CHECKPOINT
    own = defaults.keys() - set(() if isinstance(said, QuantisedOptions) else OF_BASE)
    open_names = [name for name in names if name in own and getattr(said, name) == defaults[name]]
    taken = {name: saved[name] for name in open_names if saved.get(name) not in (None, defaults[name])}
    return replace(said, **taken), taken


def decide_galore(said: SftArguments) -> SftArguments:
    """`said` with transformers' names of GaLore, such as `--optim galore_adamw_layerwise`, as options of their own."""
    name = said.optim.removesuffix(LAYERWISE)
    if name not in GALORE:
        return said
    at_once = said.galore_optim_per_parameter or name != said.optim
    return replace(said, optim=GALORE[name], use_galore=True, galore_optim_per_parameter=at_once)


def tidy(said: A) -> A:
    """`said` with lists where one text was given, and `a,b` taken apart: what Python callers may write."""
    changes: dict[str, Any] = {}
    for info in options_of(type(said)).values():
        value = getattr(said, info.name)
        if info.is_list and isinstance(value, (str, tuple)):
            value = changes[info.name] = [value] if isinstance(value, str) else list(value)
        if (
            info.name in ("dataset", "val_dataset", "eval_dataset", "train_dataset_mix_ds", "lora_target_modules")
            and value
            and len(value) == 1
        ):
            one = value[0]
            if "," in one and not Path(one).exists() and not (set(one) & set("^$(|[\\")):
                changes[info.name] = [part.strip() for part in one.split(",") if part.strip()]
    return replace(said, **changes) if changes else said


def without_effect(args: SftArguments) -> list[str]:
    """Options that were said and that what trains here does not look at."""
    infos = options_of(type(args))
    said = [name for name in options_of(TunerOptions) if getattr(args, name) != infos[name].default]
    return [name for name in said if name not in looked_at(tuner_kinds(args), said)]


def tuner_kinds(args: SftArguments) -> list[str]:
    """What trains, by its kind: those of `--tuner`, or else `--sft_type`."""
    return [spec.kind for spec in parse_specs(args.tuner)] or [args.sft_type]


def _kinds_and_starts(args: SftArguments) -> list[str]:
    """What trains, with `dora` and the name of LoRA's start where these count."""
    kinds = tuner_kinds(args)
    if "lora" in kinds:
        kinds = [*kinds, *(["dora"] if args.use_dora else []), args.init_lora_weights]
    return kinds


def decide_dtype(said: str, hardware: Hardware, source: ModelSource) -> str:
    """bf16, fp16 or fp32: what was said; else the model's own rule, fp32 on a CPU, bf16 where the GPU has it."""
    if said == "AUTO":
        if hardware.accelerator is None:
            return "fp32"
        registered = source.record.dtype if source.record else None
        return registered or ("bf16" if hardware.bf16 else "fp16")
    if said == "fp16" and hardware.accelerator is None:
        raise ConfigError("CONFIG-03", "--dtype fp16 needs a GPU", fix="--dtype fp32 or --dtype bf16")
    return said


def decide_template(said: str, source: ModelSource) -> str:
    """The template's name: what was said, else the registered one, else `auto`, the tokenizer's own."""
    if said == "AUTO":
        return source.record.template if source.record else "auto"
    if said != "auto":
        _ = TEMPLATES[said]
    return said


def _own_template(said: DataOptions) -> bool:
    """Whether a chat template of the user's is used, which only `auto` does.

    Raises:
        ConfigError: another template is said too.
    """
    if said.chat_template and said.template_type not in ("AUTO", "auto"):
        what = f"--chat_template and --template_type {said.template_type} both say the template"
        raise _conflict(what, "drop one of the two")
    return bool(said.chat_template)


def decide_loss_scale(args: LossOptions) -> str:
    """The choice of what is learnt, by its one name.

    Raises:
        ConfigError: options say different things.
    """
    said = LOSS_SCALES.get(args.loss_scale, args.loss_scale)
    others = [name for name in ("use_loss_scale", "train_on_prompt") if getattr(args, name)]
    if args.train_on_prompt and (args.use_loss_scale or said not in ("default", "all")):
        raise _conflict("--train_on_prompt learns everything alike, weights do not", "drop one of the two")
    if not others or said != "default":
        return said
    return "all" if args.train_on_prompt else "react"


def _decide_model(said: A, hardware: Hardware, source: ModelSource) -> A:
    said = decide_quantisation(said, source.config) if isinstance(said, QuantisedOptions) else said
    changes: dict[str, Any] = {
        "dtype": decide_dtype(said.dtype, hardware, source),
        "model_type": source.record.name if source.record else said.model_type,
    }
    if isinstance(said, DataOptions):
        changes["template_type"] = decide_template("auto" if _own_template(said) else said.template_type, source)
    if said.model_id_or_path and Path(said.model_id_or_path).expanduser().exists():
        changes["model_id_or_path"] = str(Path(said.model_id_or_path).expanduser().resolve())
    for name in ("ckpt_dir", "result_dir"):
        if isinstance(said, CheckpointOptions) and getattr(said, name, None):
            changes[name] = str(Path(getattr(said, name)).expanduser().resolve())
    if isinstance(said, QuantisedOptions) and said.hqq_dynamic_config_path:
        changes["hqq_dynamic_config_path"] = str(Path(said.hqq_dynamic_config_path).expanduser().resolve())
    return replace(said, **changes)


def _decide_data(said: D) -> D:
    names = {
        name: value * 2 if len(value) == 1 else value
        for name in ("model_name", "model_author")
        if (value := getattr(said, name))
    }
    system = said.system
    if system is None and said.template_type in TEMPLATES:
        system = TEMPLATES[said.template_type].default_system
    own = said.chat_template and str(Path(said.chat_template).expanduser().resolve())
    sets = options_of(type(said)).keys() & {"dataset", "val_dataset", "train_dataset_mix_ds"}
    files = {name: [absolute_spec(text) for text in getattr(said, name)] for name in sets}
    infos = [
        text if text.lstrip().startswith("{") else str(Path(text).expanduser().absolute())
        for text in said.custom_dataset_info
    ]
    return replace(said, system=system, chat_template=own, custom_dataset_info=infos, **names, **files)


def _targets(args: SftArguments, source: ModelSource) -> list[str]:
    """LoRA's DEFAULT spelt out: the model's registered modules, or ALL linear layers where none are known."""
    if args.tuner or args.sft_type not in (*PEFT_TYPES, "longlora"):
        return args.lora_target_modules
    known = list(source.targets) or ["ALL"]
    spelt = [known if target in ("DEFAULT", "AUTO") else [target] for target in args.lora_target_modules]
    return list(dict.fromkeys(name for names in spelt for name in names))


def _contradictions(args: SftArguments) -> list[SwiftError]:
    errors: list[SwiftError] = [*_tuner_contradictions(args), *_full_contradictions(args), *_token_contradictions(args)]
    if args.max_steps == 0:
        errors.append(_conflict("--max_steps 0 trains nothing", "-1 to go by the epochs"))
    if args.num_train_epochs == 0 and args.max_steps < 1:
        errors.append(_conflict("--num_train_epochs 0 without --max_steps trains nothing", "--num_train_epochs 1"))
    if args.early_stopping_patience and (args.evaluation_strategy == "no" or not _evaluates(args)):
        errors.append(_conflict("--early_stopping_patience needs evaluation", "--evaluation_strategy steps"))
    if args.predict_with_generate:
        errors += _generation_contradictions(args)
    errors += _resume_contradictions(args)
    if not args.torch_compile and args.torch_compile_backend != SftArguments.torch_compile_backend:
        errors.append(_conflict("--torch_compile_backend needs --torch_compile", "--torch_compile true"))
    if args.optim in ("adam_mini", "apollo_adamw") and args.sft_type != "full":
        errors.append(_conflict(f"--optim {args.optim} is for the model's own matrices", "--sft_type full"))
    for name in ("use_galore", "lora_lr_ratio"):
        if args.optim in ("muon", "adam_mini", "apollo_adamw") and getattr(args, name):
            what = f"--optim {args.optim} and --{name} both say how steps are made"
            errors.append(_conflict(what, "drop one of the two"))
    for name in ("streaming", "lazy_tokenize"):
        if args.max_tokens_per_batch and getattr(args, name):
            what = f"--max_tokens_per_batch needs the lengths of all rows, which --{name} does not know"
            errors.append(_conflict(what, "--batch_size"))
    return [*errors, *_head_contradictions(args), *_stream_contradictions(args), *_packing_contradictions(args)]


def _head_contradictions(args: SftArguments) -> list[SwiftError]:
    """What models that give no text cannot do."""
    said = {name: info for name, info in options_of(HeadOptions).items() if getattr(args, name) != info.default}
    if args.task_type == "causal_lm":
        what = "needs --task_type seq_cls, embedding or reranker"
        return [_conflict(f"--{name} {what}", f"drop --{name}") for name in said if name != "task_type"]
    if isinstance(args, PtArguments | RLHFArguments):
        return [_conflict(f"--task_type {args.task_type} is for `swift sft`", "drop one of the two")]
    errors: list[SwiftError] = [
        _conflict(f"--{name} is of {', '.join(HEAD_OPTIONS[name])}, not of {args.task_type}", f"drop --{name}")
        for name in said
        if args.task_type not in HEAD_OPTIONS.get(name, TASK_TYPES)
    ]
    losses = HEAD_LOSSES[args.task_type]
    if args.loss_name and args.loss_name not in losses:
        fix = f"--loss_name {' or '.join(losses)}" if losses else "--problem_type says the loss"
        errors.append(_conflict(f"--task_type {args.task_type} has no loss {args.loss_name}", fix))
    if args.task_type == "seq_cls" and args.num_labels is None and args.problem_type != "regression":
        errors.append(
            UsageError("USAGE-03", "--num_labels is missing: how many labels there are", fix="--num_labels 2")
        )
    if args.problem_type == "single_label_classification" and args.num_labels == 1:
        errors.append(_conflict("--num_labels 1 leaves nothing to choose", "--num_labels 2"))
    errors += [_conflict(f"--task_type {args.task_type} does not go with --{name}") for name in only_for_text(args)]
    kinds = sorted({"reft", "prompt", "longlora", "llamapro"} & set(tuner_kinds(args)))
    return errors + [_conflict(f"{kind} is made for models that write, not for {args.task_type}") for kind in kinds]


def only_for_text(args: SftArguments) -> list[str]:
    """Options that were said and that only models which write text know."""
    names = (
        "packing", "padding_free", "streaming", "lazy_tokenize", "max_tokens_per_batch", "metrics", "deepspeed", "fsdp",
        "predict_with_generate",
    )  # fmt: skip
    return [name for name in names if getattr(args, name)] + ["tensor_parallel_size"] * (args.tensor_parallel_size > 1)


def _generation_contradictions(args: SftArguments) -> list[SwiftError]:
    if isinstance(args, PtArguments):
        what = "--predict_with_generate asks for replies to prompts, which plain texts do not have"
        return [_conflict(what, "swift eval on the checkpoints")]
    errors: list[SwiftError] = []
    if args.evaluation_strategy == "no" or not _evaluates(args):
        errors.append(_conflict("--predict_with_generate needs evaluation", "--evaluation_strategy steps"))
    if decide_loss_scale(args) == "all":
        what = "--predict_with_generate asks for replies, and --loss_scale all tells them from prompts no more"
        errors.append(_conflict(what, "--loss_scale default"))
    shared = "fsdp" if args.fsdp else "deepspeed" if cuts_weights(args.deepspeed) else None
    shared = "tensor_parallel_size" if args.tensor_parallel_size > 1 else shared
    if shared:
        what = f"--predict_with_generate needs the whole model in each process, which --{shared} shares"
        errors.append(_conflict(what, "swift eval on the checkpoints"))
    return errors


def engine_contradictions(args: SftArguments, hardware: Hardware) -> list[SwiftError]:
    """What cannot be with parts of the model in several places."""
    engines = [name for name in ("deepspeed", "fsdp") if getattr(args, name)]
    if args.device_map and (engines or hardware.world_size > 1):
        with_what = f"--{engines[0]}" if engines else f"{hardware.world_size} processes"
        fix = "one process, or drop --device_map: --fsdp full_shard shares a model"
        return [_conflict(f"--device_map places one process's model: not with {with_what}", fix)]
    if not engines:
        return []
    try:
        sharding, errors = read_sharding(args.fsdp), []
    except UsageError as error:
        return [error]
    if len(engines) > 1:
        errors.append(_conflict("--deepspeed and --fsdp both share the model", "drop one of the two"))
    whole = sharding or cuts_weights(args.deepspeed)
    for reason, holds in {
        "--use_galore projects whole gradients": args.use_galore,
        "--optim muon looks at whole matrices": args.optim == "muon",
        "--lisa_activated_layers changes what trains": args.lisa_activated_layers,
        "--new_special_tokens writes whole rows": args.new_special_tokens,
        "--tuner_backend unsloth has one GPU's kernels": args.tuner_backend == "unsloth",
        "adalora ranks whole matrices by their gradients": "adalora" in tuner_kinds(args),
        "a quantised base cannot be cut into shards": args.quantization_bit and whole,
        "fp16 needs a loss scale that knows of shards": sharding and args.dtype == "fp16",
    }.items():
        if holds:
            errors.append(_conflict(f"--{engines[0]}: {reason}", "drop one of the two"))
    return errors


def _stream_contradictions(args: SftArguments) -> list[SwiftError]:
    """What a stream cannot do."""
    if not args.streaming:
        said = [name for name in ("streaming_val_size",) if getattr(args, name)]
        return [_conflict(f"--{name} needs --streaming", f"drop --{name}") for name in said]
    errors: list[SwiftError] = []
    if args.max_steps < 1:
        errors.append(_conflict("--streaming needs --max_steps: a stream has no known length", "--max_steps 1000"))
    if args.dataloader_num_workers:
        errors.append(_conflict("--streaming reads in the training process", "--dataloader_num_workers 0"))
    if args.val_dataset and args.streaming_val_size:
        errors.append(_conflict("--val_dataset and --streaming_val_size both say what validates", "drop one of them"))
    if args.train_dataset_mix_ratio:
        what = "--train_dataset_mix_ratio is a share of rows that a stream has not counted"
        errors.append(_conflict(what, f"--dataset … {args.train_dataset_mix_ds[0]}@0.3, a share of the mix"))
    if "epoch" in (args.evaluation_strategy, args.save_strategy):
        errors.append(_conflict("a stream has no end of an epoch to evaluate or save at", "--eval_steps, --save_steps"))
    return errors


def _packing_contradictions(args: SftArguments) -> list[SwiftError]:
    """What packs and rows that are encoded late cannot do."""
    errors: list[SwiftError] = _text_contradictions(args) if isinstance(args, PtArguments) else []
    if args.lazy_tokenize:
        said = [name for name in ("packing", "streaming") if getattr(args, name)]
        errors += [
            _conflict(f"--lazy_tokenize and --{name} exclude each other", "drop one of the two") for name in said
        ]
    if not args.packing and not args.padding_free:
        return errors
    name = "packing" if args.packing else "padding_free"
    if args.packing and args.padding_free:
        errors.append(_conflict("--packing and --padding_free both put rows together", "drop one of the two"))
    if args.packing and args.max_length < 1:
        errors.append(_conflict("--packing needs --max_length: it is the size of a pack", "--max_length 2048"))
    blurring = sorted(SEEING_BEYOND.keys() & set(tuner_kinds(args))) if sees_rows_apart(args) else []
    errors += [_conflict(f"--{name} and {kind} exclude each other: {SEEING_BEYOND[kind]}") for kind in blurring]
    if args.acc_strategy == "sentence":
        what = f"--acc_strategy sentence counts rows, which --{name} puts together"
        errors.append(_conflict(what, "--acc_strategy token"))
    if args.packing and args.use_flash_attn and (args.batch_size > 1 or args.max_tokens_per_batch):
        what = "flash attention keeps the rows of one pack apart, not of several"
        errors.append(_conflict(f"--packing with --use_flash_attn: {what}", "--batch_size 1 and a longer --max_length"))
    return errors


def _text_contradictions(args: PtArguments) -> list[SwiftError]:
    """What documents cannot be made into."""
    errors: list[SwiftError] = []
    if not args.isolate_documents and not args.packing:
        errors.append(_conflict("--isolate_documents false lets documents run on in packs", "--packing true"))
    if args.truncation_strategy != "split":
        if not args.isolate_documents:
            errors.append(
                _conflict("--isolate_documents false cuts texts where they fall", "--truncation_strategy split")
            )
        return errors
    if args.lazy_tokenize:
        what = "--truncation_strategy split has to know the lengths of all texts, which --lazy_tokenize does not"
        errors.append(_conflict(what, "--streaming, which reads while training goes on"))
    if args.max_length in (0, 1):
        errors.append(_conflict(f"--max_length {args.max_length}: a piece has a token to read and one to learn"))
    return errors


def _tuner_contradictions(args: SftArguments) -> list[SwiftError]:
    """What cannot be about the tuners, one or several."""
    errors: list[SwiftError] = []
    if args.sft_type not in available_sft_types():
        errors.append(unknown("sft_type", args.sft_type, available_sft_types()))
    if args.tuner and args.sft_type != "lora":
        errors.append(_conflict(f"--tuner and --sft_type {args.sft_type} both say what trains", "drop one of the two"))
    try:
        kinds = tuner_kinds(args)
    except UsageError as error:
        return [*errors, error]
    names = available_tuners()
    errors += [unknown("tuner", kind, names) for kind in kinds if args.tuner and kind not in names]
    for kind in {"adalora", "ia3"} & set(kinds):
        if "EMBEDDING" in (*args.lora_target_modules, *args.ia3_target_modules):
            errors.append(_conflict(f"{kind} cannot tune an embedding", "--lora_modules_to_save EMBEDDING trains it"))
    if kinds == ["ia3"] and not args.tuner and not args.ia3_feedforward_modules:
        errors.append(
            _conflict("--sft_type ia3 needs --ia3_feedforward_modules", "--ia3_feedforward_modules down_proj")
        )
    errors += _adalora_contradictions(args) if kinds == ["adalora"] else []
    if "prefix_tuning" in kinds and args.gradient_checkpointing:
        errors.append(_conflict("prefix_tuning cannot checkpoint gradients", "--gradient_checkpointing false"))
    return errors


def _token_contradictions(args: SftArguments) -> list[SwiftError]:
    """What keeps rows for new tokens from being trained alone."""
    errors: list[SwiftError] = []
    if not args.new_special_tokens:
        return [_conflict("--pad_vocab_to_multiple_of needs --new_special_tokens")] * bool(
            args.pad_vocab_to_multiple_of
        )
    if args.tuner_backend == "unsloth" or not {"lora", "full"} & set(tuner_kinds(args)):
        what = f"--new_special_tokens cannot train beside {' and '.join(tuner_kinds(args))}"
        errors.append(_conflict(what, "--sft_type lora or --sft_type full, and no --tuner_backend unsloth"))
    for name in ("lora_target_modules", "lora_modules_to_save"):
        if {"EMBEDDING", "embed_tokens", "lm_head"} & set(getattr(args, name)):
            what = f"--{name} {' '.join(getattr(args, name))} and --new_special_tokens both train rows of the embedding"
            errors.append(_conflict(what, "drop one of the two"))
    return errors


def _adalora_contradictions(args: SftArguments) -> list[SwiftError]:
    errors: list[SwiftError] = []
    if args.adalora_init_r <= args.adalora_target_r:
        errors.append(_conflict("--adalora_init_r is not above --adalora_target_r: ranks only shrink"))
    if 0 < args.max_steps <= args.adalora_tinit + args.adalora_tfinal:
        errors.append(
            _conflict("--adalora_tinit and --adalora_tfinal leave none of --max_steps for the ranks to shrink")
        )
    for name in ("adalora_beta1", "adalora_beta2"):
        if getattr(args, name) in (0, 1):
            errors.append(_conflict(f"--{name} has to be above 0 and below 1"))
    return errors


def _full_contradictions(args: SftArguments) -> list[SwiftError]:
    """What only training the model itself can do, and what it cannot."""
    errors: list[SwiftError] = []
    is_full = args.sft_type == "full"
    for name in ("freeze_parameters", "additional_trainable_parameters", "use_galore", "lisa_activated_layers"):
        if not is_full and getattr(args, name):
            errors.append(_conflict(f"--{name} only works with --sft_type full"))
    if args.use_galore and args.lisa_activated_layers:
        errors.append(_conflict("--use_galore and --lisa_activated_layers exclude each other", "drop one of the two"))
    if is_full and args.neftune_noise_alpha and args.neftune_backend == "swift":
        errors.append(_conflict("--neftune_backend swift needs a tuner", "--neftune_backend transformers"))
    if is_full and args.dtype == "fp16":
        errors.append(_conflict("--sft_type full cannot train fp16 weights", "--dtype bf16 or --dtype fp32"))
    return errors


def _resume_contradictions(args: SftArguments) -> list[SwiftError]:
    """What cannot be gone on from, or not in the way that is said."""
    errors: list[SwiftError] = []
    if args.save_only_model and args.resume_from_checkpoint == "auto":
        errors.append(_conflict("--save_only_model checkpoints cannot be resumed", "drop one of the two"))
    if not args.resume_only_model:
        return errors
    if not args.resume_from_checkpoint:
        what = "--resume_only_model does nothing without --resume_from_checkpoint"
        return [*errors, _conflict(what, "name the checkpoint to begin with, or drop --resume_only_model")]
    if args.resume_from_checkpoint == "auto":
        what = "--resume_only_model begins a new run, and --resume_from_checkpoint auto goes on with the old one"
        errors.append(_conflict(what, "name the checkpoint to begin with, or drop --resume_only_model to go on"))
    if args.sft_type == "full":
        what = "--resume_only_model takes adapters, and --sft_type full has none"
        errors.append(_conflict(what, "--model_id_or_path <the checkpoint> begins with a whole model's weights"))
    return errors


def unlike_reference(args: RLHFArguments) -> list[SwiftError]:
    """What makes the model without its adapter another one than that which training begins with."""
    named = args.ref_model_id_or_path or args.ref_model_type
    if named or args.sft_type == "full" or not (args.resume_only_model and args.resume_from_checkpoint):
        return []
    what = "--resume_only_model begins with an adapter, and the reference would be the model without it"
    fix = "merge it (swift merge-lora --ckpt_dir) and train on that, or name --ref_model_id_or_path"
    return [_conflict(what, fix)]


def _beyond(args: ModelOptions, hardware: Hardware, source: ModelSource) -> list[SwiftError]:
    """What this machine cannot do, or not on this base."""
    if isinstance(args, QuantisedOptions) and args.quant_method:
        kinds = _kinds_and_starts(args) if isinstance(args, SftArguments) else []
        errors = check_quantisation(args, source.config, hardware, kinds)
        if errors:
            return errors
    errors = check_kernels(args, hardware, tuner_kinds(args) if isinstance(args, SftArguments) else [])
    if errors:
        return errors
    if isinstance(args, SftArguments) and args.tuner_backend == "unsloth":
        several = bool(args.tuner) or (args.neftune_noise_alpha is not None and args.neftune_backend == "swift")
        try:
            check_unsloth(hardware, args.sft_type, several=several, dora=args.use_dora)
        except SwiftError as error:
            return [error]
    return []


def _evaluates(args: SftArguments) -> bool:
    return bool(args.val_dataset) or args.dataset_test_ratio > 0


def _conflict(what: str, fix: str | None = None) -> ConfigError:
    return ConfigError("CONFIG-02", what, fix=fix)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
