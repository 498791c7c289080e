"""In how many bits a base is held: what its files say, what options ask for, and what of it can be done here.

Nothing is loaded here; `swift.models.quantised` does that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from swift.arguments.quantised import QuantisedOptions
from swift.dist import Hardware
from swift.errors import ConfigError, MissingPackageError, SwiftError

Q = TypeVar("Q", bound=QuantisedOptions)

INSTALL = "pip install 'swift-finetune[quant]'"
PACKAGES = {
    "bnb": ("bitsandbytes",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "hqq": ("hqq",),
    "torchao": ("torchao",),
    "eetq": ("kernels",),
    "aqlm": ("aqlm",),
}
BITS = {"bnb": (4, 8), "hqq": (4, 8, 3, 2, 1), "torchao": (8, 4), "eetq": (8,)}
"""What each method makes of a base in full precision while loading it, the usual first."""
NAMES = {"bitsandbytes": "bnb"}
NEEDS_CUDA = ("eetq", "aqlm")
CANNOT = {
    "": ("full", "part", "llamapro", "loha", "lokr", "fourierft", "pissa", "loftq"),
    "hqq": ("adalora", "ia3", "vera"),
    "bnb8": ("dora",),
}
"""Tuners and starts of LoRA that do not go with quantised layers, of any method or of one: they read the weights."""
WRITTEN = {
    "gptq": (4, 8, 3, 2),
    "awq": (4,),
    "bnb": (4, 8),
    "hqq": (4, 8, 3, 2, 1),
    "torchao": (8, 4),
    "fp8": (8,),
}
"""What `swift export` writes, the usual bits first."""
CALIBRATED = ("gptq", "awq")
"""Methods that look at data and take long: done once, not while loading."""
SUFFIX = re.compile(r"(.+?)(-merged)?(-(?:gptq|awq|bnb|hqq|torchao)-int[1-8]|-fp8)")
WIDTHS = ("hidden_size", "intermediate_size", "moe_intermediate_size", "n_embd", "n_inner", "ffn_dim", "d_model")
AWQ_WIDTH = 64
UNTRAINED = ("fp8", "finegrained_fp8", "mxfp4", "compressed-tensors", "fbgemm_fp8")


def method_of(config: Mapping[str, Any]) -> str | None:
    """How the weights of a model are quantised, by its config.json; None when they are not."""
    quantisation = config.get("quantization_config")
    name = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
    return NAMES.get(str(name), str(name)) if name else None


def bits_of(config: Mapping[str, Any]) -> int:
    """Bits of each weight by config.json; 0 when it does not say."""
    quantisation = config.get("quantization_config") or {}
    for name in ("bits", "nbits", "w_bit"):
        if isinstance(quantisation.get(name), int):
            return quantisation[name]
    return 4 if quantisation.get("load_in_4bit") else 8 if quantisation.get("load_in_8bit") else 0


def group_size(config: Mapping[str, Any], wanted: int) -> int:
    """How many weights share a scale: `wanted`, or the largest half of it that divides the rows of every layer."""
    widths = widths_of(config)
    while wanted > 8 and any(width % wanted for width in widths):
        wanted //= 2
    return wanted


def widths_of(config: Mapping[str, Any], heads: str = "num_attention_heads") -> list[int]:
    """How wide the layers of a model are, as far as its config.json says; of attention that of all `heads`."""
    text = config.get("text_config") or config
    widths = [text[name] for name in WIDTHS if isinstance(text.get(name), int)]
    of_head = text.get("head_dim") or (text.get("hidden_size") or 0) // (text.get("num_attention_heads") or 1)
    return [*widths, *([of_head * text[heads]] if of_head and isinstance(text.get(heads), int) else [])]


def check_shapes(method: str, config: Mapping[str, Any]) -> None:
    """Raise ConfigError when the layers of a model have shapes that a method cannot write."""
    wrong = [width for width in widths_of(config, "num_key_value_heads") if width % AWQ_WIDTH]
    if method == "awq" and wrong:
        what = f"--quant_method awq needs layers whose outputs are multiples of {AWQ_WIDTH}; one here has {wrong[0]}"
        raise ConfigError("CONFIG-02", what, fix="--quant_method gptq")


def usual(method: str | None, bits: int) -> tuple[str, int]:
    """How to write a model, with what was not said filled in.

    Raises:
        ConfigError: the method has no such bits.
    """
    method = method or ("awq" if bits == 4 else "gptq")
    if bits and bits not in WRITTEN[method]:
        able = [name for name, allowed in WRITTEN.items() if bits in allowed]
        fix = f"--quant_bits {WRITTEN[method][0]}, or --quant_method {' or '.join(able)}"
        raise ConfigError("CONFIG-02", f"--quant_method {method} has no {bits} bits", fix=fix)
    return method, bits or WRITTEN[method][0]


def directory_suffix(method: str, bits: int) -> str:
    """What the name of a quantised model's directory ends with."""
    return "-fp8" if method == "fp8" else f"-{method}-int{bits}"


def either_spelling(path: Path) -> Path:
    """`path`; or, where it is not there, the same quantised model with "-merged" in its name, or without."""
    match = None if path.exists() else SUFFIX.fullmatch(path.name)
    if match:
        name, merged, suffix = match.groups()
        other = path.with_name(f"{name}{'' if merged else '-merged'}{suffix}")
        return other if other.is_dir() else path
    return path


def check_packages(method: str | None) -> None:
    """Raise MissingPackageError when a package that `method` needs is not installed."""
    missing = [name for name in PACKAGES.get(str(method), ()) if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            "PACKAGE-01", f"{method} needs {' and '.join(missing)}: the extra quant of this package", fix=INSTALL
        )


def decide_quantisation(args: Q, config: Mapping[str, Any]) -> Q:
    """`args` with method and bits as they will be: those of the files, those that were said, or the usual ones."""
    saved = method_of(config)
    if saved is not None:
        known = saved if args.quant_method in (None, saved) else args.quant_method
        return replace(args, quant_method=known, quantization_bit=args.quantization_bit or bits_of(config))
    method = args.quant_method
    if method is None and args.quantization_bit:
        method = "bnb" if args.quantization_bit in BITS["bnb"] else "hqq"
    bits = args.quantization_bit or (BITS[method][0] if method in BITS else 0)
    return replace(args, quant_method=method, quantization_bit=bits)


def check_quantisation(
    args: QuantisedOptions, config: Mapping[str, Any], hardware: Hardware, kinds: Sequence[str] = ()
) -> list[SwiftError]:
    """What cannot be about a quantised base.

    Args:
        args: as `decide_quantisation` gave them.
        config: the base's config.json.
        hardware: of this machine.
        kinds: what trains on it, and how LoRA starts; empty when nothing does.
    """
    method, saved = args.quant_method, method_of(config)
    if method is None:
        return []
    errors = _against_files(args, config) if saved else _while_loading(args)
    if method in NEEDS_CUDA and hardware.accelerator != "cuda":
        what = f"--quant_method {method} needs a CUDA GPU"
        errors.append(ConfigError("CONFIG-03", what, fix="--quant_method bnb --quantization_bit 8 works everywhere"))
    elif not errors:
        try:
            check_packages(method)
        except MissingPackageError as error:
            errors.append(error)
    return [*errors, *_about_training(saved or method, args.quantization_bit or _torchao_bits(config), kinds)]


def _torchao_bits(config: Mapping[str, Any]) -> int:
    """Bits of each weight as torchao's config.json has them: in the name of a class, or as a type; 0 for another's."""
    quantisation = config.get("quantization_config") or {}
    told = str(quantisation.get("quant_type") or "").lower()
    found = re.search(r"(\d)_?weight", told) or re.search(r"'int(\d)'", told)
    return int(found[1]) if found else 0


def _against_files(args: QuantisedOptions, config: Mapping[str, Any]) -> list[SwiftError]:
    saved, bits = method_of(config), bits_of(config)
    if args.quant_method == saved and (not bits or args.quantization_bit == bits):
        return []
    what = f"the model is saved in {bits or 'few'} bits of {saved}, and cannot be made "
    what += f"{args.quantization_bit} bits of {args.quant_method} while it is loaded"
    return [ConfigError("CONFIG-02", what, fix="drop --quant_method and --quantization_bit")]


def _while_loading(args: QuantisedOptions) -> list[SwiftError]:
    method, bits = args.quant_method, args.quantization_bit
    if method in CALIBRATED:
        what = f"--quant_method {method} needs a base that is saved so, and this one is in full precision"
        fix = (
            f"swift export --quant_method {method} --quant_bits {bits or 4} … once, then --model_id_or_path its result"
        )
        return [ConfigError("CONFIG-02", what, fix=fix)]
    allowed = BITS.get(str(method), ())
    if bits not in allowed:
        fix = f"one of: {', '.join(map(str, sorted(allowed)))}"
        return [ConfigError("CONFIG-02", f"--quant_method {method} has no {bits} bits", fix=fix)]
    return []


def _about_training(method: str, bits: int, kinds: Sequence[str]) -> list[SwiftError]:
    unable = {kind for name in ("", method, f"{method}{bits}") for kind in CANNOT.get(name, ())}
    cannot = [kind for kind in kinds if kind.partition("_")[0] in unable]
    if cannot:
        what = f"{' and '.join(cannot)} needs the weights in full, and a base in {method} has none"
        return [ConfigError("CONFIG-02", what, fix="--sft_type lora, or the base in full precision")]
    coarse = method == "torchao" and bits in range(1, 8)
    if kinds and (coarse or method in UNTRAINED):
        name = f"{bits} bits of {method}" if coarse else method
        what = f"nothing trains on a base in {name}: gradients do not get through it"
        return [ConfigError("CONFIG-02", what, fix="the base in full precision, with --quantization_bit 4")]
    return []
