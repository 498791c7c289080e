"""Every option of `swift sft` changes something: one row each, with a value and where its effect is seen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swift import dist, hub, launch
from swift.arguments.fields import options_of
from swift.arguments.infer import InferArguments
from swift.arguments.sft import SftArguments
from swift.arguments.vllm import VllmOptions
from swift.commands import prepare, ready, rows, run, sft
from swift.commands import training as road
from swift.commands.heads import kind_of
from swift.commands.training import join_group
from swift.datasets import DATASETS
from swift.datasets.ahead import Ahead
from swift.datasets.stream import Stream
from swift.decide import decide_sft
from swift.errors import RefusedError
from swift.inference.settings import generation_config
from swift.models.load import TORCH_DTYPES
from swift.models.quantised import config_for, hqq_settings
from swift.publish import token
from swift.publish.during import Job, Pushing, wanted
from swift.trainers import zero
from swift.trainers.arguments import training_arguments
from swift.tuners.choose import choose_tuner
from tests.inference import fake_vllm
from tests.road.conftest import conversations, write_jsonl
from tests.tiny import CHATML, tiny_model

Observe = Callable[[SftArguments, Path], Any]


def decided(args: SftArguments) -> SftArguments:
    return decide_sft(args, dist.Hardware(), prepare.find_source(args))


def training(field: str) -> Observe:
    return lambda args, place: getattr(training_arguments(decided(args)), field)


def choice(field: str) -> Observe:
    return lambda args, place: getattr(decided(args), field)


def held(field: str) -> Observe:
    """What bnb is told to hold the base in 4 bits as."""

    def observe(args: SftArguments, place: Path) -> Any:
        args = replace(args, quant_method="bnb", quantization_bit=4)
        return getattr(config_for(args, {}, torch.float32, TORCH_DTYPES), field)

    return observe


def rows_of_a_model(args: SftArguments, place: Path) -> int:
    """How often one of two processes adds up gradients, which hold one model together or one each."""
    return decide_sft(args, dist.Hardware(world_size=2), prepare.find_source(args)).gradient_accumulation_steps


def answering(field: str) -> Observe:
    """How the rows of an evaluation are answered."""

    def observe(args: SftArguments, place: Path) -> Any:
        return getattr(training("generation_config")(replace(args, predict_with_generate=True), place), field)

    return observe


def kernels(args: SftArguments, place: Path) -> Any:
    gpu = dist.Hardware("cuda", bf16=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swift.models.kernels.find_spec", lambda name: name)
        chosen = decide_sft(args, gpu, prepare.find_source(args))
    return training_arguments(chosen).liger_kernels


def scheduler(args: SftArguments, place: Path) -> Any:
    return training("lr_scheduler_kwargs")(replace(args, lr_scheduler_type="cosine_with_restarts"), place)


def tuner(args: SftArguments, place: Path) -> Any:
    chosen = choose_tuner(decided(args), tiny_model(), ("q_proj",))
    return chosen if isinstance(chosen, dict) else dict(vars(chosen))


def of(kind: str, **said: Any) -> Observe:
    """What a tuner is told; `said` are options without which it is told nothing."""
    more = {**({"ia3_feedforward_modules": ["down_proj"]} if kind == "ia3" else {}), **said}

    def observe(args: SftArguments, place: Path) -> Any:
        unsaid = {name: value for name, value in more.items() if getattr(args, name) == getattr(SftArguments(), name)}
        return tuner(replace(args, sft_type=kind, **unsaid), place)

    return observe


def full(field: str, **said: Any) -> Observe:
    return lambda args, place: training(field)(replace(args, sft_type="full", **said), place)


def galore(args: SftArguments, place: Path) -> Any:
    return full("galore_config", use_galore=True)(args, place)


def data(args: SftArguments, place: Path) -> Any:
    args = decided(args)
    template = prepare.load_template(args, prepare.find_source(args))
    read = ready.read_data(args, template)
    return [row["input_ids"] for row in read.train], [row["input_ids"] for row in read.val or []], read.ledger.to_json()


def encoded(args: SftArguments, row: dict[str, Any]) -> dict[str, Any]:
    args = decided(args)
    return prepare.load_template(args, prepare.find_source(args)).encode(row)[0]


def told_of_tools(args: SftArguments, place: Path) -> Any:
    args = replace(args, template_type="qwen")
    return encoded(args, {"query": "Where?", "response": "Here.", "tools": [{"name": "locate"}]})["input_ids"]


def learnt(args: SftArguments, place: Path) -> Any:
    inputs = encoded(args, {"history": [["Where?", "Here."]], "query": "When?", "response": "Action: look"})
    return inputs["labels"], inputs.get("loss_scale")


def streamed(args: SftArguments, place: Path) -> Any:
    args = decided(replace(args, max_steps=3, dataset=args.dataset or ["chat.jsonl"], streaming=True))
    read = ready.read_data(args, prepare.load_template(args, prepare.find_source(args)))
    assert isinstance(read.train, Stream)
    given = iter(read.train)
    return [next(given)["input_ids"] for _ in range(5)], len(read.val or [])


def opened(args: SftArguments, place: Path) -> Any:
    args = decided(replace(args, max_steps=3))
    return type(ready.read_data(args, prepare.load_template(args, prepare.find_source(args))).train).__name__


def encoders(args: SftArguments, place: Path) -> Any:
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "Ahead", lambda *a: seen.append(a[2]) or Ahead(*a))
        data(replace(args, data_cache=False), place)
    return seen


def read_by(args: SftArguments, task_type: str) -> Any:
    """What reads the rows of a head and learns from them."""
    labels = {"num_labels": args.num_labels or 2} if task_type == "seq_cls" else {}
    return kind_of(decided(replace(args, task_type=task_type, **labels)), [])


def mixed(args: SftArguments, place: Path) -> Any:
    return data(replace(args, dataset=["chat.jsonl", "short.jsonl#3"]), place)[2]["train"]


def further(args: SftArguments) -> dict[str, Any]:
    """Rows of other sets besides, of one at hand where none is said."""
    said = args.train_dataset_mix_ds
    return {"train_dataset_mix_ratio": 0.5, "train_dataset_mix_ds": ["short.jsonl"] if said == ["ms-bench"] else said}


def own_sets(args: SftArguments, place: Path) -> Any:
    ready.find_inputs(args)
    return "set-of-my-own" in DATASETS


def introduced(args: SftArguments, place: Path) -> Any:
    names = {"model_name": args.model_name or ["a"], "model_author": args.model_author or ["b"]}
    return data(replace(args, dataset=["self-cognition#8"], **names), place)


def bad_rows(args: SftArguments, place: Path) -> Any:
    with (place / "bad.jsonl").open("w") as file:
        file.write('{"messages": [{"role": "user", "content": null}]}\n' + (place / "chat.jsonl").read_text())
    try:
        return data(replace(args, dataset=[str(place / "bad.jsonl")]), place)[2]["rows_read"]
    except ValueError as error:
        return str(error)


def renamed(args: SftArguments, place: Path) -> Any:
    rows = [{"ask": f"question {i}", "response": "an answer"} for i in range(8)]
    file = write_jsonl(place / "odd.jsonl", rows)
    return data(replace(args, dataset=[str(file)]), place)[0]


def kept(args: SftArguments, place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(place / f"hf-{args.data_cache}"))
        data(args, place)
    return (place / f"hf-{args.data_cache}").exists()


def trainable(args: SftArguments, place: Path) -> Any:
    share = args.freeze_parameters or 0.5
    args = replace(args, sft_type="full", freeze_parameters=args.freeze_parameters if not _thawed(args) else share)
    model = ready.add_tuner(args, tiny_model(), prepare.find_source(args))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _thawed(args: SftArguments) -> bool:
    return bool(args.additional_trainable_parameters)


def run_directory(args: SftArguments, place: Path) -> Any:
    args = replace(args, output_dir=str(place / args.output_dir))
    return Path(run.choose_run(args, prepare.find_source(args))["output_dir"]).relative_to(place).parts[:2]


def resumed(args: SftArguments, place: Path) -> Any:
    return run.choose_run(replace(args, resume_only_model=True), prepare.find_source(args))["resume_from_checkpoint"]


def weights_alone(args: SftArguments, place: Path) -> Any:
    try:
        return run.choose_run(replace(args, resume_from_checkpoint=str(place)), prepare.find_source(args)) is not None
    except ValueError as error:
        return error.code  # type: ignore[attr-defined]


def asked_of_hub(args: SftArguments, place: Path) -> Any:
    asked: dict[str, Any] = {}

    def fetch(hub_id: str, revision: str | None = None, **options: Any) -> Path:
        asked.update(options, revision=revision)
        return place / "my-model"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "fetch_model", fetch)
        prepare.find_source(replace(args, model_id_or_path="someone/model"))
    return asked


def consent(args: SftArguments, place: Path) -> Any:
    own = place / "own-code"
    if not own.exists():
        shutil.copytree(place / "my-model", own)
        config = json.loads((own / "config.json").read_text())
        config |= {"model_type": "ours", "architectures": ["Ours"], "auto_map": {"AutoModelForCausalLM": "code.Ours"}}
        (own / "config.json").write_text(json.dumps(config))
        (own / "code.py").write_text("class Ours: ...\n")
    try:
        return prepare.find_source(replace(args, model_id_or_path=str(own))).trusted
    except RefusedError as error:
        return error.exit_code


def attention(args: SftArguments, place: Path) -> Any:
    seen: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ready, "load_model", lambda *a, **options: seen.update(options) or tiny_model())
        ready.load_base(
            replace(decided(replace(args, use_flash_attn=None)), use_flash_attn=args.use_flash_attn),
            prepare.find_source(args),
        )
    return seen


def vocabulary(args: SftArguments, place: Path) -> Any:
    args = replace(decided(args), new_special_tokens=args.new_special_tokens or ["<new>"])
    source = prepare.find_source(args)
    template = prepare.load_template(args, source)
    model: Any = ready.load_base(args, source, ready.new_ids(args, template))
    return sorted(template.tokenizer.get_added_vocab()), model.get_input_embeddings().num_embeddings


def push_words(args: SftArguments, place: Path) -> Any:
    """How a push of the run is asked for."""
    return Pushing(args, place).command(Job(place / "checkpoint-1"), place / "stage")


def pushed_at_a_save(args: SftArguments, place: Path) -> Any:
    return wanted(args.push_hub_strategy, place / "checkpoint-2", place / "checkpoint-1")


def publishes(args: SftArguments, place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(road, "open_repository", lambda args, name: name)
        return [pushing.args.hub_model_id for pushing in road.publishing(args, prepare.find_source(args))]


def hub_of_process(args: SftArguments, place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("USE_HF", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
            patch.setenv(name, "")
        assert token.settle(args).hub_token is None
        return [os.environ[name] for name in ("USE_HF", "HF_TOKEN", "MODELSCOPE_API_TOKEN")]


def backend(args: SftArguments, place: Path) -> Any:
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setattr("torch.distributed.init_process_group", lambda name, **options: seen.append(name))
        join_group(args)
    return seen


def zero_stage(args: SftArguments, place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: name)
        return zero.stage_of(zero.read_config(args.deepspeed)) if args.deepspeed else 0


def plugins(args: SftArguments, place: Path) -> Any:
    from swift.templates import TEMPLATES

    prepare.load_plugins(args.custom_register_path)
    return "from-a-plugin" in TEMPLATES


def trains(args: SftArguments, place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swift.commands.training.dry_run", lambda *a: {"dry": True})
        patch.setattr("swift.commands.training.load_plugins", lambda *a: pytest.fail("on its way to training"))
        try:
            return sft.sft_main(args)
        except pytest.fail.Exception:
            return "trained"


def strictness(args: SftArguments, place: Path) -> Any:
    from swift.arguments.reading import parse

    try:
        return parse(
            SftArguments, ["--no_such_option", "1", "--ignore_args_error", str(args.ignore_args_error)]
        ).batch_size
    except ValueError as error:
        return error.code  # type: ignore[attr-defined]


OWN = CHATML.replace("<|im_start|>", "<s>")
PLUGIN = """
from swift.llm import TEMPLATES, TemplateRecord
TEMPLATES.add(TemplateRecord(name="from-a-plugin", prefix=(), prompt=("{{QUERY}}",), chat_sep=None, suffix=("x",)), replace=True)
"""

EFFECTS: dict[str, tuple[Any, Observe]] = {
    "model_type": ("qwen2-7b-instruct", choice("template_type")),
    "model_id_or_path": ("other-model", lambda args, place: prepare.find_source(args).path),
    "model_revision": ("v2", asked_of_hub),
    "check_model_is_latest": (False, asked_of_hub),
    "trust_remote_code": (True, consent),
    "dtype": ("bf16", choice("dtype")),
    "use_flash_attn": (True, attention),
    "device_map": ("cpu", attention),
    "deepspeed": ("default-zero2", zero_stage),
    "fsdp": ("full_shard", training("sharding")),
    "quant_method": ("bnb", choice("quantization_bit")),
    "quantization_bit": (4, choice("quant_method")),
    "bnb_4bit_comp_dtype": ("bf16", held("bnb_4bit_compute_dtype")),
    "bnb_4bit_quant_type": ("fp4", held("bnb_4bit_quant_type")),
    "bnb_4bit_use_double_quant": (False, held("bnb_4bit_use_double_quant")),
    "bnb_4bit_quant_storage": ("bfloat16", held("bnb_4bit_quant_storage")),
    "hqq_axis": (0, lambda args, place: hqq_settings(args)),
    "hqq_dynamic_config_path": ("hqq.json", lambda args, place: hqq_settings(args)),
    "new_special_tokens": (["<a>", "<b>"], vocabulary),
    "pad_vocab_to_multiple_of": (
        256,
        lambda args, place: vocabulary(replace(args, new_special_tokens=["<new>"]), place),
    ),
    "custom_register_path": (["plugin.py"], plugins),
    "dataset": (["short.jsonl"], data),
    "val_dataset": (["short.jsonl"], data),
    "dataset_test_ratio": (0.5, data),
    "dataset_seed": (7, data),
    "columns": (["ask=query"], renamed),
    "custom_dataset_info": (['{"set-of-my-own": {"dataset_path": "chat.jsonl"}}'], own_sets),
    "interleave": (True, mixed),
    "interleave_prob": ([0.3, 0.7], mixed),
    "stopping_strategy": ("all_exhausted", lambda args, place: mixed(replace(args, interleave=True), place)),
    "train_dataset_mix_ratio": (
        0.5,
        lambda args, place: data(replace(args, train_dataset_mix_ds=["short.jsonl"]), place),
    ),
    "train_dataset_mix_ds": (
        ["chat.jsonl"],
        lambda args, place: data(replace(args, **further(args)), place),
    ),
    "task_type": ("embedding", lambda args, place: type(read_by(args, args.task_type))),
    "num_labels": (3, lambda args, place: read_by(args, "seq_cls")),
    "problem_type": ("regression", lambda args, place: read_by(args, "seq_cls")),
    "pooling": ("mean", lambda args, place: read_by(args, "embedding")),
    "infonce_temperature": (0.5, lambda args, place: read_by(args, "embedding")),
    "contrastive_margin": (0.2, lambda args, place: read_by(args, "embedding")),
    "query_prefix": ("query: ", lambda args, place: read_by(args, "embedding")),
    "document_prefix": ("passage: ", lambda args, place: read_by(args, "reranker")),
    "streaming": (True, opened),
    "packing": (True, opened),
    "lazy_tokenize": (True, opened),
    "padding_free": (True, training("padding_free")),
    "preprocess_num_proc": (2, encoders),
    "streaming_buffer_size": (2, streamed),
    "streaming_val_size": (3, streamed),
    "max_bad_rows": (1, bad_rows),
    "model_name": (["Swifty"], introduced),
    "model_author": (["the team"], introduced),
    "template_type": ("qwen", data),
    "system": ("Be brief.", data),
    "chat_template": ("own.jinja", data),
    "tools_prompt": ("react_zh", told_of_tools),
    "loss_scale": ("last_round", learnt),
    "use_loss_scale": (True, learnt),
    "train_on_prompt": (True, learnt),
    "max_length": (60, data),
    "data_cache": (False, kept),
    "truncation_strategy": ("truncation_left", lambda args, place: data(replace(args, max_length=60), place)),
    "sft_type": ("adapter", tuner),
    "tuner": (["lora:rank=2"], tuner),
    "tuner_backend": ("swift", tuner),
    "lora_target_modules": (["ALL"], tuner),
    "lora_rank": (3, tuner),
    "lora_alpha": (7, tuner),
    "lora_dropout_p": (0.3, tuner),
    "lora_bias_trainable": ("all", tuner),
    "lora_modules_to_save": (["lm_head"], tuner),
    "lora_dtype": ("bf16", tuner),
    "lora_lr_ratio": (16.0, tuner),
    "use_rslora": (True, tuner),
    "use_dora": (True, tuner),
    "init_lora_weights": ("gaussian", tuner),
    "longlora_group_size_ratio": (0.5, of("longlora")),
    "adalora_target_r": (4, of("adalora")),
    "adalora_init_r": (16, of("adalora")),
    "adalora_tinit": (3, of("adalora")),
    "adalora_tfinal": (3, of("adalora")),
    "adalora_deltaT": (3, of("adalora")),
    "adalora_beta1": (0.5, of("adalora")),
    "adalora_beta2": (0.5, of("adalora")),
    "adalora_orth_reg_weight": (0.1, of("adalora")),
    "ia3_target_modules": (["o_proj"], of("ia3")),
    "ia3_feedforward_modules": (["up_proj"], of("ia3")),
    "ia3_modules_to_save": (["lm_head"], of("ia3")),
    "boft_block_size": (2, of("boft")),
    "boft_block_num": (2, of("boft")),
    "boft_n_butterfly_factor": (2, of("boft")),
    "boft_target_modules": (["o_proj"], of("boft")),
    "boft_dropout": (0.5, of("boft")),
    "boft_modules_to_save": (["lm_head"], of("boft")),
    "oft_block_size": (8, of("oft")),
    "oft_block_num": (8, of("oft")),
    "oft_dropout": (0.5, of("oft")),
    "oft_coft": (True, of("oft")),
    "oft_block_share": (True, of("oft")),
    "vera_rank": (8, of("vera")),
    "vera_target_modules": (["v_proj"], of("vera")),
    "vera_projection_prng_key": (7, of("vera")),
    "vera_dropout": (0.5, of("vera")),
    "vera_d_initial": (0.5, of("vera")),
    "vera_modules_to_save": (["lm_head"], of("vera")),
    "fourier_n_frequency": (50, of("fourierft")),
    "fourier_scaling": (50.0, of("fourierft")),
    "loha_rank": (2, of("loha")),
    "loha_alpha": (2, of("loha")),
    "loha_dropout": (0.5, of("loha")),
    "lokr_rank": (2, of("lokr")),
    "lokr_alpha": (2, of("lokr")),
    "lokr_dropout": (0.5, of("lokr")),
    "lokr_decompose_both": (True, of("lokr")),
    "lokr_decompose_factor": (4, of("lokr")),
    "num_virtual_tokens": (3, of("prompt_tuning")),
    "prefix_projection": (True, of("prefix_tuning")),
    "prompt_init_text": ("Answer in a word.", of("prompt_tuning")),
    "encoder_hidden_size": (8, of("p_tuning")),
    "encoder_type": ("LSTM", of("p_tuning")),
    "adapter_length": (5, of("adapter")),
    "adapter_act": ("relu", of("adapter")),
    "llamapro_num_new_blocks": (2, of("llamapro")),
    "llamapro_num_groups": (2, of("llamapro")),
    "reft_layer_key": ("model.layers", of("reft")),
    "reft_layers": ([0], of("reft")),
    "reft_rank": (2, of("reft")),
    "reft_intervention_type": ("NoreftIntervention", of("reft")),
    "reft_args": ({"dropout": 0.5}, of("reft")),
    "neftune_noise_alpha": (5.0, training("neftune_noise_alpha")),
    "neftune_backend": ("swift", of("lora", neftune_noise_alpha=5.0)),
    "freeze_parameters": (0.5, trainable),
    "additional_trainable_parameters": (["model.embed_tokens"], trainable),
    "lisa_activated_layers": (2, full("lisa_activated_layers")),
    "lisa_step_interval": (2, full("lisa_step_interval", lisa_activated_layers=2)),
    "use_galore": (True, full("galore_config")),
    "galore_rank": (8, galore),
    "galore_target_modules": (["o_proj"], galore),
    "galore_update_proj_gap": (7, galore),
    "galore_scale": (0.5, galore),
    "galore_proj_type": ("left", galore),
    "galore_optim_per_parameter": (True, galore),
    "galore_with_embedding": (True, galore),
    "galore_quantization": (True, galore),
    "galore_proj_quant": (True, galore),
    "galore_proj_bits": (8, galore),
    "galore_proj_group_size": (64, galore),
    "galore_cos_threshold": (0.9, galore),
    "galore_gamma_proj": (3, galore),
    "galore_queue_size": (3, galore),
    "batch_size": (3, training("per_device_train_batch_size")),
    "gradient_accumulation_steps": (3, training("gradient_accumulation_steps")),
    "num_train_epochs": (3, training("num_train_epochs")),
    "max_steps": (3, training("max_steps")),
    "learning_rate": (0.3, training("learning_rate")),
    "lr_scheduler_type": ("cosine", training("lr_scheduler_type")),
    "lr_scheduler_kwargs": ({"num_cycles": 2}, scheduler),
    "warmup_ratio": (0.5, training("warmup_steps")),
    "warmup_steps": (9, training("warmup_steps")),
    "optim": ("adafactor", training("optim")),
    "adam_beta1": (0.1, training("adam_beta1")),
    "adam_beta2": (0.1, training("adam_beta2")),
    "adam_epsilon": (0.1, training("adam_epsilon")),
    "weight_decay": (0.3, training("weight_decay")),
    "max_grad_norm": (3.0, training("max_grad_norm")),
    "gradient_checkpointing": (False, training("activation_checkpointing")),
    "seed": (3, training("seed")),
    "full_determinism": (True, lambda args, place: decided(args).full_determinism),
    "loss_name": ("mine", training("loss_name")),
    "fused_cross_entropy": (False, training("fused_cross_entropy")),
    "max_tokens_per_batch": (4096, training("max_tokens_per_batch")),
    "group_by_length": (False, training("train_sampling_strategy")),
    "fused_lora": (False, training("fused_lora")),
    "torch_compile": (True, training("layer_compiler")),
    "torch_compile_backend": (
        "aot_eager",
        lambda args, place: training("layer_compiler")(replace(args, torch_compile=True), place),
    ),
    "use_liger_kernel": (True, kernels),
    "use_logits_to_keep": (False, training("use_logits_to_keep")),
    "metrics": (["mine"], training("metric_names")),
    "callbacks": (["mine"], training("callback_names")),
    "training_options": ({"logging_steps": 77}, training("logging_steps")),
    "push_to_hub": (True, publishes),
    "push_hub_strategy": ("checkpoint", pushed_at_a_save),
    "hub_model_id": ("ann/mine", push_words),
    "hub_private_repo": (True, push_words),
    "hub_license": ("mit", push_words),
    "allow_leak": (["README.md"], push_words),
    "hub_token": ("a-token-of-somebody", hub_of_process),
    "use_hf": (True, hub_of_process),
    "output_dir": ("elsewhere", run_directory),
    "dry_run": (True, trains),
    "add_output_dir_suffix": (False, run_directory),
    "evaluation_strategy": ("epoch", training("eval_strategy")),
    "eval_steps": (3, training("eval_steps")),
    "eval_batch_size": (3, training("per_device_eval_batch_size")),
    "predict_with_generate": (True, training("predict_with_generate")),
    "max_new_tokens": (7, answering("max_new_tokens")),
    "do_sample": (False, answering("do_sample")),
    "temperature": (0.9, answering("temperature")),
    "top_k": (3, answering("top_k")),
    "top_p": (0.2, answering("top_p")),
    "repetition_penalty": (1.5, answering("repetition_penalty")),
    "num_beams": (3, answering("num_beams")),
    "save_strategy": ("epoch", training("save_strategy")),
    "save_steps": (3, training("save_steps")),
    "save_total_limit": (7, training("save_total_limit")),
    "save_only_model": (True, training("save_only_model")),
    "resume_from_checkpoint": ("my-model", resumed),
    "resume_only_model": (True, weights_alone),
    "allow_inexact_resume": (True, training("allow_inexact_resume")),
    "resume_verify": ("fast", training("resume_verify")),
    "ignore_data_skip": (True, training("ignore_data_skip")),
    "early_stopping_patience": (3, training("early_stopping_patience")),
    "acc_strategy": ("sentence", training("acc_strategy")),
    "logging_steps": (3, training("logging_steps")),
    "logging_dir": ("logs", training("logging_dir")),
    "report_to": (["none"], training("report_to")),
    "disable_tqdm": (True, training("disable_tqdm")),
    "dataloader_num_workers": (1, training("dataloader_num_workers")),
    "dataloader_pin_memory": (False, choice("dataloader_pin_memory")),
    "dataloader_drop_last": (True, training("dataloader_drop_last")),
    "tensor_parallel_size": (2, rows_of_a_model),
    "ddp_backend": ("nccl", backend),
    "ddp_find_unused_parameters": (True, training("ddp_find_unused_parameters")),
    "ddp_broadcast_buffers": (True, training("ddp_broadcast_buffers")),
    "ddp_timeout": (3, training("ddp_timeout")),
    "max_restarts": (3, lambda args, place: launch.with_options(dist.Launch(2), args).restarts),
    "hang_timeout": (15, training("hang_timeout")),
    "ignore_args_error": (True, strictness),
}


def test_no_option_is_without_an_effect() -> None:
    assert set(EFFECTS) == set(options_of(SftArguments))


@pytest.mark.parametrize("name", EFFECTS)
def test_it_changes_something(
    name: str, tiny_dir: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").symlink_to(tiny_dir)
    (tmp_path / "other-model").symlink_to(tiny_llama_dir)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "own.jinja").write_text(OWN)
    (tmp_path / "hqq.json").write_text('{"mlp.down_proj": {"bits": 8}}')
    write_jsonl(tmp_path / "chat.jsonl", conversations(16))
    write_jsonl(tmp_path / "short.jsonl", conversations(4))
    value, observe = EFFECTS[name]
    common = SftArguments(
        model_id_or_path="my-model", dataset=["chat.jsonl"], output_dir="out", report_to=["tensorboard"]
    )
    before = _observed(observe, common, tmp_path)
    assert value != getattr(common, name)
    after = _observed(observe, replace(common, **{name: value}), tmp_path)
    assert before != after


def _observed(observe: Observe, args: SftArguments, place: Path) -> Any:
    """What is seen; a mistake in the options is seen too, so that a missing default does not count as an effect."""
    found = observe(args, place)
    return found.state_dict() if isinstance(found, nn.Module) else found


def of_vllm(field: str, **more: Any) -> Callable[[InferArguments, pytest.MonkeyPatch], Any]:
    """What vLLM is told when it starts."""

    def observe(args: InferArguments, patch: pytest.MonkeyPatch) -> Any:
        fake_vllm.install(patch)
        engine = prepare.prepare_model_template(replace(args, infer_backend="vllm", **more)).model.engine.engine
        return getattr(engine.args, field)

    return observe


def engine_of(args: InferArguments, patch: pytest.MonkeyPatch) -> str:
    fake_vllm.install(patch)
    return type(prepare.prepare_model_template(args).model).__name__


INFER_EFFECTS: dict[str, tuple[Any, Callable[[InferArguments, pytest.MonkeyPatch], Any]]] = {
    "infer_backend": ("vllm", engine_of),
    "prompt_lookup_num_tokens": (3, lambda args, patch: generation_config(args).prompt_lookup_num_tokens),
    "gpu_memory_utilization": (0.5, of_vllm("gpu_memory_utilization")),
    "tensor_parallel_size": (2, of_vllm("tensor_parallel_size")),
    "max_model_len": (100, of_vllm("max_model_len")),
    "max_num_seqs": (3, of_vllm("max_num_seqs")),
    "enforce_eager": (True, of_vllm("enforce_eager")),
    "disable_custom_all_reduce": (False, of_vllm("disable_custom_all_reduce")),
    "max_logprobs": (3, of_vllm("max_logprobs")),
    "vllm_enable_lora": (True, of_vllm("enable_lora")),
    "vllm_max_lora_rank": (32, of_vllm("max_lora_rank", vllm_enable_lora=True)),
}


def test_no_option_of_vllm_is_without_an_effect() -> None:
    assert set(options_of(VllmOptions)) <= INFER_EFFECTS.keys()


@pytest.mark.parametrize("name", INFER_EFFECTS)
def test_it_changes_an_answer_or_what_gives_it(name: str, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, observe = INFER_EFFECTS[name]
    plain = InferArguments(model_id_or_path=str(tiny_dir))
    assert observe(plain, monkeypatch) != observe(replace(plain, **{name: value}), monkeypatch)
