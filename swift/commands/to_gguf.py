"""A model as one GGUF file for llama.cpp and Ollama, with a Modelfile that writes conversations as training did."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from swift import storage
from swift.arguments.export import ExportArguments
from swift.commands import merge_files
from swift.commands.chosen import from_checkpoint, load_plugins
from swift.commands.gguf_tokenizer import THEIRS, write_tokenizer
from swift.commands.prepare import find_source, load_template
from swift.commands.replacing import check_gives_way
from swift.commands.verify_merge import PROBES, agreement, difference, logits
from swift.decide import decide_template, tidy
from swift.errors import ConfigError, DataError, MissingPackageError, UsageError
from swift.inference.modelfile import write_modelfile
from swift.log import get_logger
from swift.merging import tensors
from swift.merging.tensors import Stored
from swift.merging.weights import Base
from swift.models.load import load_model, load_tokenizer
from swift.models.source import ModelSource, with_weights
from swift.templates.template import Template
from swift.tuners import layout

logger = get_logger()
LAYOUTS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # by the model's type
# By how much logits may differ from the model's own, relative to the largest, and what each type stores.
LARGEST = {"f32": 1e-3, "f16": 1e-2, "bf16": 1e-1, "q8_0": 2e-1, "q4_0": math.inf}
WIDTHS = {"F32": np.float32, "F16": np.float16}  # of types whose numbers numpy knows
ROTATIONS = "rope_freqs.weight"


def check_before(args: ExportArguments) -> None:
    """See, before anything is merged, whether GGUF can be written.

    Raises:
        MissingPackageError: its package is not there.
        ConfigError: it has no layout for this kind of model.
    """
    _package()
    if not (args.adapters or args.from_sharded):
        args = from_checkpoint(tidy(args), told=False)
        load_plugins(args.custom_register_path)
        _layout(find_source(args))


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
    check_gives_way(output, source.path)
    storage.sweep(output.parent, output.name)
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
    config, arch = source.config, _layout(source)
    writer = gguf.GGUFWriter(str(file), arch)
    _facts(writer, source, arch)
    write_tokenizer(gguf, writer, source, template)
    base = Base(source.path, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], int(config["num_hidden_layers"]))
    wanted = [*_positions(gguf, writer, source), *_tensors(gguf, base, names, kind)]
    for name, stored, type_ in wanted:
        in_bytes = type_.name not in WIDTHS
        shape = gguf.quant_shape_to_byte_shape(stored.shape, type_) if in_bytes else stored.shape
        width = np.dtype(WIDTHS.get(type_.name, np.uint8))
        writer.add_tensor_info(name, shape, width, math.prod(shape) * width.itemsize, raw_dtype=type_)
    storage.check_free(file.parent.parent, sum(one.nbytes for some in writer.tensors for one in some.values()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(writer.fout[0], writer.fout[0].tell())
    for name, stored, type_ in wanted:
        writer.write_tensor_data(_as(gguf, _turned(name, tensors.whole(stored), config, arch).numpy(), type_))
    writer.close()


def _layout(source: ModelSource) -> str:
    """What llama.cpp calls this kind of model. Raises ConfigError for one that is not written here."""
    kind = str(source.config.get("model_type"))
    if kind not in LAYOUTS:
        what = f"a {kind} model is not written as GGUF here"
        raise ConfigError("CONFIG-02", what, fix=f"{THEIRS}; here: {', '.join(LAYOUTS)}")
    return LAYOUTS[kind]


def _package() -> Any:
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        fix = "pip install 'swift-finetune[gguf]'"
        raise MissingPackageError("PACKAGE-01", "--to_gguf needs gguf", fix=fix) from error
    return gguf


def _facts(writer: Any, source: ModelSource, arch: str) -> None:
    """What llama.cpp has to know of the model's shape."""
    config = source.config
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
    writer.add_vocab_size(int(config["vocab_size"]))
    if arch == "llama":
        writer.add_rope_dimension_count(size)
    if config.get("head_dim"):
        writer.add_key_length(size)
        writer.add_value_length(size)


def _positions(gguf: Any, writer: Any, source: ModelSource) -> Iterator[tuple[str, Stored, Any]]:
    """Say how positions turn queries and keys; where Llama 3 slows some pairs down, the tensor that says by how much.

    Raises:
        ConfigError: they are scaled in a way that is not written here.
    """
    rope = source.config.get("rope_parameters") or source.config.get("rope_scaling") or {}
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    writer.add_rope_freq_base(float(rope.get("rope_theta") or source.config.get("rope_theta") or 10000.0))
    known = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}
    more = {name for name, value in rope.items() if value is not None} - known
    if kind not in ("default", "linear", "yarn", "llama3") or (kind == "yarn" and more):
        what = f"{source.name} scales its positions ({kind}) in a way that is not written as GGUF here"
        raise ConfigError("CONFIG-02", what, fix=THEIRS)
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        length = rope.get("original_max_position_embeddings") or source.config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(length))
    elif kind == "llama3":
        config: Any = AutoConfig.from_pretrained(str(source.path))
        slower, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        size = 2 * len(slower)
        usual = float(config.rope_parameters["rope_theta"]) ** -(torch.arange(0, size, 2).double() / size)
        yield ROTATIONS, tensors.Held(ROTATIONS, (usual / slower).float()), gguf.GGMLQuantizationType.F32


def _tensors(gguf: Any, base: Base, names: Any, kind: str) -> Iterator[tuple[str, Stored, Any]]:
    """Every tensor with its name in GGUF and its type: vectors in f32, what does not fall into blocks in f16."""
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    for name, stored in base.names.items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None and name.endswith("rotary_emb.inv_freq"):
            continue
        if place is None:
            raise DataError("MODEL-01", f"GGUF has no name for {name}", fix=THEIRS)
        type_ = gguf.GGMLQuantizationType.F32 if len(stored.shape) == 1 else wanted
        blocks = gguf.GGML_QUANT_SIZES[type_][0]
        yield place, stored, type_ if stored.shape[-1] % blocks == 0 else gguf.GGMLQuantizationType.F16


def _turned(name: str, values: torch.Tensor, config: Mapping[str, Any], arch: str) -> torch.Tensor:
    """The weight as llama.cpp wants it: in Llama, queries and keys have the pairs of a rotation side by side."""
    queries = config["num_attention_heads"]
    heads = {"attn_q": queries, "attn_k": config.get("num_key_value_heads") or queries}
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
    tokenizer = load_tokenizer(source)
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in PROBES]
    before = logits(load_model(source, torch.float32), ids)
    place, options = str(file.parent), {"gguf_file": file.name}
    config = AutoConfig.from_pretrained(place, **options)
    config.head_dim = source.config.get("head_dim") or config.hidden_size // config.num_attention_heads
    config.rope_parameters = AutoConfig.from_pretrained(str(source.path)).rope_parameters  # it reads none of it
    back: Any = AutoModelForCausalLM.from_pretrained(place, config=config, dtype=torch.float32, **options)
    after = logits(back.eval(), ids)
    found = {"difference": difference(before, after), "agreement": agreement(before, after)}
    logger.info(f"read back: {found['difference']:.1e} of the largest logit, {found['agreement']:.1%} of tokens equal")
    if not found["difference"] <= LARGEST[kind]:
        raise DataError("MODEL-01", f"the GGUF file answers differently: logits by {found['difference']:.1e}")
    return found
