"""A model as one GGUF file for llama.cpp and Ollama, with a Modelfile that writes conversations as training did."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swift import storage
from swift.arguments.export import ExportArguments
from swift.commands import merge_files
from swift.commands.chosen import from_checkpoint, load_plugins
from swift.commands.prepare import find_source, load_template
from swift.decide import decide_template, tidy
from swift.errors import ConfigError, DataError, MissingPackageError, UsageError
from swift.inference.modelfile import write_modelfile
from swift.log import get_logger
from swift.merging import tensors
from swift.merging.plan import Base
from swift.merging.tensors import Stored
from swift.models.load import load_model, load_tokenizer
from swift.models.source import ModelSource, with_weights
from swift.templates.template import Template
from swift.tuners import layout

logger = get_logger()
LAYOUTS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # by the model's type
# By how much logits may differ from the model's own, relative to the largest, and what each type stores.
LARGEST = {"f32": 1e-3, "f16": 1e-2, "bf16": 1e-1, "q8_0": 2e-1, "q4_0": math.inf}
# How a tokenizer cuts text before it looks for pairs, by what its rule begins with, as llama.cpp calls it.
CUTS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|": "llama-bpe",
}
PROBE = "What is the capital of France? 你好。 def add(a, b):"


def check_package(args: ExportArguments) -> None:
    """Raise MissingPackageError where GGUF cannot be written."""
    _package()


def to_gguf(args: ExportArguments) -> str:
    """Write `<model>-gguf/`, with the model in one file and a Modelfile; return the directory.

    Raises:
        UsageError: the checkpoint holds an adapter, which has to be merged first.
        ConfigError: GGUF has no layout for this kind of model or its tokenizer.
        DataError: the file, read back, does not answer as the model does.
    """
    kind = str(args.to_gguf)
    args = from_checkpoint(tidy(args))
    if args.ckpt_dir and layout.folders(Path(args.ckpt_dir)):
        fix = "--merge_lora true merges it first"
        raise UsageError("USAGE-02", f"{args.ckpt_dir} holds an adapter, and GGUF holds whole models", fix=fix)
    load_plugins(args.custom_register_path)
    source = with_weights(find_source(args))
    template = load_template(_with_template(args, source), source)
    output = _output_of(args, source)
    if output.exists() and not args.replace_if_exists:
        raise ConfigError(
            "CONFIG-02", f"{output} exists already", fix="--replace_if_exists true, or another --output_dir"
        )
    name = f"{source.path.name}-{kind}.gguf"
    with storage.staged_directory(output, {"base": str(source.path)}) as stage:
        began = time.monotonic()
        write(source, template, stage / name, kind)
        told: dict[str, Any] = {"type": kind, "seconds": round(time.monotonic() - began, 2)}
        told["bytes"] = (stage / name).stat().st_size
        told |= check(source, stage / name, kind) if merge_files.fits(source) else {}
        write_modelfile(stage / "Modelfile", name, template)
        storage.write_json(stage / "gguf_report.json", told)
    logger.info(f"GGUF: {output / name}; ollama create my-model -f {output / 'Modelfile'}")
    return str(output)


def _with_template(args: ExportArguments, source: ModelSource) -> ExportArguments:
    args.template_type = decide_template("auto" if args.chat_template else args.template_type, source)
    return args


def _output_of(args: ExportArguments, source: ModelSource) -> Path:
    if args.output_dir and not args.merge_lora:
        return Path(args.output_dir).expanduser().resolve()
    place = source.path if args.ckpt_dir else Path.cwd() / source.path.name
    return place.with_name(f"{place.name}-gguf")


def write(source: ModelSource, template: Template, file: Path, kind: str) -> None:
    """Write a model into a GGUF file, one tensor in memory at a time."""
    gguf = _package()
    config, arch = source.config, LAYOUTS.get(str(source.config.get("model_type")))
    if arch is None:
        what = f"a {config.get('model_type')} model cannot be written as GGUF yet"
        raise ConfigError("CONFIG-02", what, fix=f"llama.cpp's own converter; here: {', '.join(LAYOUTS)}")
    writer = gguf.GGUFWriter(str(file), arch)
    _facts(writer, source, arch)
    _words(gguf, writer, source, template)
    base = Base(source.path, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], int(config["num_hidden_layers"]))
    wanted = list(_tensors(gguf, base, names, kind))
    for name, stored, type_ in wanted:
        shape = gguf.quant_shape_to_byte_shape(stored.shape, type_) if type_.name.startswith("Q") else stored.shape
        width = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}.get(type_.name, np.uint8)
        if type_.name == "BF16":
            shape, width = gguf.quant_shape_to_byte_shape(stored.shape, type_), np.uint8
        size = int(np.prod(shape)) * np.dtype(width).itemsize
        writer.add_tensor_info(name, shape, np.dtype(width), size, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(writer.fout[0], writer.fout[0].tell())
    for name, stored, type_ in wanted:
        writer.write_tensor_data(_as(gguf, _turned(name, tensors.whole(stored), config, arch).numpy(), type_))
    writer.close()


def _package() -> Any:
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        fix = "pip install 'swift-finetune[gguf]'"
        raise MissingPackageError("PACKAGE-01", "--to_gguf needs gguf", fix=fix) from error
    return gguf


def _facts(writer: Any, source: ModelSource, arch: str) -> None:
    """What llama.cpp has to know of the model's shape. Raises ConfigError for positions that are scaled."""
    config = source.config
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if str(rope.get("rope_type", rope.get("type", "default"))) != "default":
        what = f"{source.name} scales its positions ({rope.get('rope_type')}), which is not written as GGUF here"
        raise ConfigError("CONFIG-02", what, fix="llama.cpp's own converter")
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_name(source.name)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_vocab_size(int(config["vocab_size"]))
    if arch == "llama":
        writer.add_rope_dimension_count(size)
    if config.get("head_dim"):
        writer.add_key_length(size)
        writer.add_value_length(size)


def _words(gguf: Any, writer: Any, source: ModelSource, template: Template) -> None:
    """The tokenizer: its tokens, its pairs, how it cuts text, and its chat template."""
    tokenizer: Any = template.tokenizer
    spelt = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spelt["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        what = "only byte-level BPE tokenizers are written as GGUF here"
        raise ConfigError("CONFIG-02", f"{source.name}: {what}", fix="llama.cpp's own converter")
    added = {one["content"]: one for one in spelt["added_tokens"]}
    known = {**model["vocab"], **{content: one["id"] for content, one in added.items()}}
    words = [f"[PAD{index}]" for index in range(int(source.config["vocab_size"]))]
    types = [gguf.TokenType.UNUSED] * len(words)
    for word, index in known.items():
        words[index] = word
        special = added[word]["special"] if word in added else None
        kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
        types[index] = kinds[special]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(source, spelt.get("pre_tokenizer") or {}))
    writer.add_token_list(words)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(template.stop_ids[0] if template.stop_ids else tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _cut(source: ModelSource, rule: Mapping[str, Any]) -> str:
    """The name that llama.cpp has for how text is cut. Raises ConfigError where it has none."""
    steps = rule.get("pretokenizers", [rule])
    patterns = [step["pattern"].get("Regex", "") for step in steps if step.get("type") == "Split"]
    for beginning, name in CUTS.items():
        if any(pattern.startswith(beginning) for pattern in patterns):
            return name
    if not patterns and any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps):
        return "gpt-2"
    what = f"{source.name}: llama.cpp has no name for how its tokenizer cuts text"
    raise ConfigError("CONFIG-02", what, fix="llama.cpp's own converter")


def _tensors(gguf: Any, base: Base, names: Any, kind: str) -> Iterator[tuple[str, Stored, Any]]:
    """Every tensor with its name in GGUF and its type: vectors in f32, what does not fall into blocks in f16."""
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    for name, stored in base.names.items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None and name.endswith("rotary_emb.inv_freq"):
            continue
        if place is None:
            raise DataError("MODEL-01", f"GGUF has no name for {name}", fix="llama.cpp's own converter")
        type_ = gguf.GGMLQuantizationType.F32 if len(stored.shape) == 1 else wanted
        blocks = gguf.GGML_QUANT_SIZES[type_][0]
        yield place, stored, type_ if stored.shape[-1] % blocks == 0 else gguf.GGMLQuantizationType.F16


def _turned(name: str, values: torch.Tensor, config: Mapping[str, Any], arch: str) -> torch.Tensor:
    """The weight as llama.cpp wants it: in Llama, queries and keys have the pairs of a rotation side by side."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config.get("num_key_value_heads")}
    count = heads.get(name.split(".")[-2]) if arch == "llama" else None
    if not count:
        return values
    split = values.view(int(count), 2, values.shape[0] // int(count) // 2, *values.shape[1:])
    return split.transpose(1, 2).reshape(values.shape)


def _as(gguf: Any, values: np.ndarray, type_: Any) -> np.ndarray:
    if type_.name == "F32":
        return values
    return values.astype(np.float16) if type_.name == "F16" else gguf.quants.quantize(values, type_)


def check(source: ModelSource, file: Path, kind: str) -> dict[str, float]:
    """Read the file back and compare it with the model: logits, likeliest tokens.

    Raises:
        DataError: they differ by more than the type explains.
    """
    ids = load_tokenizer(source)(PROBE, return_tensors="pt").input_ids
    with torch.inference_mode():
        before = load_model(source, torch.float32)(input_ids=ids).logits
        place, options = str(file.parent), {"gguf_file": file.name}
        config = AutoConfig.from_pretrained(place, **options)
        config.head_dim = source.config.get("head_dim") or config.hidden_size // config.num_attention_heads
        back: Any = AutoModelForCausalLM.from_pretrained(place, config=config, dtype=torch.float32, **options)
        after = back.eval()(input_ids=ids).logits
    found = {
        "difference": float((after - before).abs().max() / before.abs().max().clamp_min(1.0)),
        "agreement": float((after.argmax(-1) == before.argmax(-1)).float().mean()),
    }
    logger.info(f"read back: {found['difference']:.1e} of the largest logit, {found['agreement']:.1%} of tokens equal")
    if not found["difference"] <= LARGEST[kind]:
        raise DataError("MODEL-01", f"the GGUF file answers differently: logits by {found['difference']:.1e}")
    return found
