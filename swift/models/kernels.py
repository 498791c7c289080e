"""Whether this machine has what faster kernels want: flash attention, Liger, `torch.compile`, half precision."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec

from swift.arguments.model import ModelOptions
from swift.arguments.sft import SftArguments
from swift.dist import Hardware
from swift.errors import ConfigError, MissingPackageError, SwiftError


def check_kernels(args: ModelOptions, hardware: Hardware, kinds: list[str]) -> list[SwiftError]:
    """What of `args`, their precision decided, is not to be had on this machine; `kinds` are the tuners'."""
    errors = [_precision(args.dtype, hardware), _flash_attention(args, hardware) if args.use_flash_attn else None]
    said = args.training_options if isinstance(args, SftArguments) else {}
    if isinstance(args, SftArguments) and (args.use_liger_kernel or said.get("use_liger_kernel")):
        errors.append(_liger(args, hardware))
    asked = any(said.get(f"torch_compile{more}") for more in ("", "_backend", "_mode"))
    if isinstance(args, SftArguments) and (args.torch_compile or asked):
        errors.append(_compile(args, hardware, kinds))
    return [error for error in errors if error is not None]


def _precision(dtype: str, hardware: Hardware) -> SwiftError | None:
    if dtype != "bf16" or hardware.accelerator is None or hardware.bf16:
        return None
    return ConfigError("CONFIG-03", "--dtype bf16: this GPU does not compute in bf16", fix="--dtype fp16 or fp32")


def _flash_attention(args: ModelOptions, hardware: Hardware) -> SwiftError | None:
    off = "--use_flash_attn false, which is PyTorch's own attention"
    if hardware.accelerator is None:
        return ConfigError("CONFIG-03", "--use_flash_attn needs a GPU", fix=off)
    if hardware.accelerator == "cuda" and not hardware.bf16:
        return ConfigError("CONFIG-03", "--use_flash_attn needs a GPU of the Ampere generation or a newer one", fix=off)
    if args.dtype == "fp32":
        return ConfigError("CONFIG-02", "--use_flash_attn computes in bf16 or fp16, not in fp32", fix="--dtype bf16")
    if find_spec("flash_attn") is None:
        return MissingPackageError(
            "PACKAGE-01", "--use_flash_attn needs the package flash-attn", fix=f"pip install flash-attn; or {off}"
        )
    return None


def _liger(args: SftArguments, hardware: Hardware) -> SwiftError | None:
    if hardware.accelerator != "cuda":
        return ConfigError("CONFIG-03", "--use_liger_kernel needs a CUDA GPU", fix="--use_liger_kernel false")
    if args.tuner_backend == "unsloth" or args.tensor_parallel_size > 1:
        other = "--tuner_backend unsloth" if args.tuner_backend == "unsloth" else "--tensor_parallel_size"
        what = f"--use_liger_kernel and {other} both put their own code into the layers"
        return ConfigError("CONFIG-02", what, fix="drop one of the two")
    if find_spec("liger_kernel") is None:
        fix = "pip install 'swift-finetune[liger]', or --use_liger_kernel false"
        return MissingPackageError("PACKAGE-01", "--use_liger_kernel needs the package liger-kernel", fix=fix)
    return None


def _compile(args: SftArguments, hardware: Hardware, kinds: list[str]) -> SwiftError | None:
    for reason, holds in {
        "--tuner_backend unsloth has kernels of its own": args.tuner_backend == "unsloth",
        "--tensor_parallel_size talks to other processes inside layers": args.tensor_parallel_size > 1,
        "--deepspeed fetches weights inside layers": bool(args.deepspeed),
        "--lisa_activated_layers would compile anew with every draw of layers": bool(args.lisa_activated_layers),
        "prefix_tuning hands layers a cache that they write to": "prefix_tuning" in kinds,
    }.items():
        if holds:
            return ConfigError("CONFIG-02", f"--torch_compile: {reason}", fix="--torch_compile false")
    if args.training_options.get("torch_compile_backend", args.torch_compile_backend) != "inductor":
        return None
    if hardware.accelerator == "cuda" and find_spec("triton") is None:
        what = "--torch_compile needs the package triton on a GPU"
        return MissingPackageError("PACKAGE-01", what, fix="pip install triton, or --torch_compile false")
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if hardware.accelerator is None and shutil.which(compiler) is None:
        what = f"--torch_compile needs a C++ compiler on a CPU, and there is no {compiler}"
        return ConfigError("CONFIG-03", what, fix=f"install {compiler}, or name another in the variable CXX")
    return None
