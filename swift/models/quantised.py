"""Loading a base in few bits, each method by its own package, ready for adapters to train on it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from swift.arguments.quantised import QuantisedOptions
from swift.errors import ConfigError, DataError, brief
from swift.models.files import read_json
from swift.models.quantisation import check_packages, group_size, method_of
from swift.models.source import ModelSource

HQQ_GROUP = TORCHAO_GROUP = 64
HQQ_MARK = {"quant_method": "hqq"}
HQQ_WEIGHT = ".W_q"


def prepare_packages(method: str | None) -> None:
    """What has to be set before a package of `method` is imported or loads anything."""
    check_packages(method)
    quiet_quantisers()
    if method == "bnb":
        keep_unpacked()
    if method in ("gptq", "awq"):
        workers = max(2, len(os.sched_getaffinity(0)))
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(workers))  # one alone is an error there
        warnings.filterwarnings("ignore", module="gptqmodel.*")


def quiet_quantisers() -> None:
    """Keep gptqmodel's banner and notes, which it prints on stdout wherever PEFT looks for it, out of the answers."""
    if importlib.util.find_spec("logbar"):
        with contextlib.redirect_stdout(io.StringIO()):  # where it begins with an empty line
            from logbar import LogBar  # pyright: ignore[reportMissingImports]

            LogBar.shared().setLevel(logging.CRITICAL)
        logging.getLogger("tokenicer").setLevel(logging.ERROR)


def keep_unpacked() -> None:
    """Let bitsandbytes leave 4-bit weights as they are.

    On a CPU with AVX512-BF16 the first answer repacks them for good: gradients through them are wrong from then on, and
    merging into them gives a broken model.
    """
    import bitsandbytes.nn.modules as modules  # pyright: ignore[reportMissingImports]

    modules.has_avx512bf16 = lambda: False  # pyright: ignore[reportPrivateImportUsage]
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")


def config_for(
    args: QuantisedOptions, config: Mapping[str, Any], dtype: torch.dtype, dtypes: Mapping[str, torch.dtype]
) -> Any:
    """What transformers is told to quantise with while loading; None where it is not transformers that does it.

    Args:
        args: the decided options.
        config: the model's config.json.
        dtype: of everything that stays in full.
        dtypes: dtypes by the names of options.
    """
    if args.quant_method == "bnb":
        if args.quantization_bit == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        storage: dict[str, Any] = (
            {"bnb_4bit_quant_storage": args.bnb_4bit_quant_storage} if args.bnb_4bit_quant_storage else {}
        )
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtypes.get(args.bnb_4bit_comp_dtype, dtype),
            bnb_4bit_quant_type=args.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=args.bnb_4bit_use_double_quant,
            **storage,
        )
    if args.quant_method == "torchao":
        return torchao_config(args.quantization_bit, group_size(config, TORCHAO_GROUP))
    if args.quant_method == "eetq":  # needs-cuda
        from transformers import EetqConfig

        return EetqConfig("int8")
    return None


def torchao_config(bits: int, group: int) -> Any:
    """Weights alone in int8 (a scale for each output) or int4 (one for each group), as torchao keeps them."""
    import torchao.quantization as torchao  # pyright: ignore[reportMissingImports]
    from torchao.quantization.granularity import PerGroup  # pyright: ignore[reportMissingImports]
    from transformers import TorchAoConfig

    int4: Any = getattr(torch, "int4")  # noqa: B009 - the stubs of torch do not have it
    if bits == 8:
        return TorchAoConfig(torchao.Int8WeightOnlyConfig())
    return TorchAoConfig(torchao.IntxWeightOnlyConfig(weight_dtype=int4, granularity=PerGroup(group)))


def hqq_settings(args: QuantisedOptions) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Bits, group and axis of all layers, and what differs for those whose path ends with a name.

    Raises:
        ConfigError: the file of differences is not one.
    """
    common = {"bits": args.quantization_bit, "group_size": HQQ_GROUP, "axis": args.hqq_axis}
    if not args.hqq_dynamic_config_path:
        return common, {}
    path = Path(args.hqq_dynamic_config_path).expanduser()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return common, {ending: {key: int(of[key]) for key in of} for ending, of in said.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        what = f"--hqq_dynamic_config_path {path}: {brief(error)}"
        raise ConfigError("CONFIG-01", what, fix='{"mlp.down_proj": {"bits": 8, "group_size": 128}}') from error


def quantise_hqq(
    model: Any, common: Mapping[str, int], others: Mapping[str, Mapping[str, int]], dtype: torch.dtype
) -> dict[str, Any]:
    """Put HQQ's layers in the place of all linear ones but the head; give what config.json says of it."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear  # pyright: ignore[reportMissingImports]

    unused = set(others)
    for path, layer in _linears(model):
        ending = next((name for name in others if path == name or path.endswith(f".{name}")), None)
        unused.discard(str(ending))
        values = {**common, **(others[ending] if ending else {})}
        settings = BaseQuantizeConfig(
            nbits=values["bits"], group_size=_group(layer, values["group_size"]), axis=values["axis"]
        )
        device = str(layer.weight.device)
        model.set_submodule(path, HQQLinear(layer, settings, compute_dtype=dtype, device=device))
    if unused:
        raise ConfigError("CONFIG-02", f"--hqq_dynamic_config_path: no layer is called {', '.join(sorted(unused))}")
    return {**HQQ_MARK, **common, **({"others": others} if others else {})}


def load_hqq(source: ModelSource, dtype: torch.dtype, device: str = "cpu") -> Any:
    """A model that `swift export --quant_method hqq` wrote.

    Raises:
        DataError: its files lack weights, or have others.
    """
    from hqq.core.quantize import HQQLinear  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    config: Any = AutoConfig.from_pretrained(str(source.path), trust_remote_code=source.trusted, local_files_only=True)
    del config.quantization_config
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=source.trusted)
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(source.path.glob("*.safetensors")):
        weights |= load_file(path, device)
    for path, _ in _linears(model):
        if path + HQQ_WEIGHT in weights:
            own = {key.removeprefix(f"{path}."): weights.pop(key) for key in _keys_below(weights, path)}
            empty: Any = None
            layer = HQQLinear(empty, empty, compute_dtype=dtype, device=device, initialize=False)
            layer.load_state_dict(own)
            model.set_submodule(path, layer)
    plain = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    report = model.load_state_dict(plain, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing or report.unexpected_keys:
        wrong = ", ".join([*missing, *report.unexpected_keys][:5])
        raise DataError("MODEL-01", f"{source.path}: its weights are not those of the model: {wrong}")
    model.config.quantization_config = read_json(source.path / "config.json")["quantization_config"]
    return model.to(device).eval()


def dequantise(model: Any, method: str | None) -> Any:
    """The model with plain layers in float32, with the weights that those in few bits stand for.

    Args:
        model: one that is held in few bits; it is changed.
        method: how; transformers takes back what is neither HQQ's nor torchao's, or says that it cannot.
    """
    if method not in ("hqq", "torchao"):
        return model.dequantize().float()
    for path, layer in list(model.named_modules()):
        if type(layer).__name__ == "HQQLinear":
            weight = layer.dequantize()
        elif method == "torchao" and isinstance(layer, nn.Linear) and type(layer.weight.data) is not torch.Tensor:
            weight = layer.weight.data.dequantize()
        else:
            continue
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.float())
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().float())
        model.set_submodule(path, plain)
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):  # by which transformers refuses to cast it
        vars(model).pop(name, None)
    return model.float()


def hqq_state(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model with HQQ layers, as `load_hqq` reads them; tied ones once."""
    state: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            state[name] = tensor.contiguous().cpu()
            seen.add(tensor.data_ptr())
    return state


def is_hqq(source: ModelSource) -> bool:
    """Whether the files of a model are in HQQ's layout, which transformers does not read."""
    return method_of(source.config) == "hqq"


def _linears(model: Any) -> list[tuple[str, Any]]:
    head = model.get_output_embeddings()
    return [
        (path, module) for path, module in model.named_modules() if type(module) is nn.Linear and module is not head
    ]


def _group(layer: Any, wanted: int) -> int:
    """The size of a group: as wanted where it divides the layer's weights, else the largest half of it that does."""
    while wanted > 8 and layer.weight.numel() % wanted:
        wanted //= 2
    return wanted


def _keys_below(weights: Mapping[str, Any], path: str) -> list[str]:
    return [key for key in weights if key.startswith(f"{path}.")]
