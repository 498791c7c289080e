"""Writing a model in few bits, each method by its own package."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from swift import storage
from swift.arguments.quantised import QuantisedOptions
from swift.errors import MissingPackageError, brief
from swift.log import get_logger
from swift.models.load import load_model
from swift.models.quantisation import group_size
from swift.models.quantised import hqq_settings, hqq_state, prepare_packages, quantise_hqq
from swift.models.source import ModelSource

logger = get_logger()
GROUP = 128
SHORTEST = 10  # tokens of a block; gptqmodel leaves out shorter ones
Blocks = Sequence[Sequence[int]]
Write = Callable[[ModelSource, Path, int, torch.dtype, Blocks], dict[str, Any]]


def quantise(
    method: str, bits: int, source: ModelSource, directory: Path, dtype: torch.dtype, blocks: Blocks
) -> dict[str, Any]:
    """Write config and weights of `source` in `bits` into `directory`; give the settings that were not said.

    Args:
        method: a row of `WRITERS`.
        bits: of each weight of its linear layers; the head and the embedding stay as they are.
        source: a model in full precision.
        directory: exists, and is filled.
        dtype: of what stays in full.
        blocks: token ids to calibrate with, which only gptq and awq look at.

    Raises:
        MissingPackageError: the method's package is missing or refuses this machine.
    """
    prepare_packages(PACKAGE.get(method, method))
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # these packages draw bars there
            return WRITERS[method](source, directory, bits, dtype, blocks)
    except ImportError as error:
        raise MissingPackageError("PACKAGE-01", f"--quant_method {method}: {brief(error)}") from error


def _by_gptqmodel(kind: str, source: ModelSource, directory: Path, bits: int, blocks: Blocks) -> dict[str, Any]:
    import gptqmodel  # pyright: ignore[reportMissingImports]
    from gptqmodel.looper import loop_processor  # pyright: ignore[reportMissingImports]

    group = group_size(source.config, GROUP)
    own: dict[str, Any] = (
        {"quant_method": "awq", "format": "gemm"} if kind == "awq" else {"desc_act": False, "sym": True}
    )
    settings = gptqmodel.QuantizeConfig(bits=bits, group_size=group, **own)
    cpu = not torch.cuda.is_available()
    model = gptqmodel.GPTQModel.load(
        str(source.path), settings, trust_remote_code=source.trusted, **({"device": "cpu"} if cpu else {})
    )
    rows: Any = [{"input_ids": list(block), "attention_mask": [1] * len(block)} for block in blocks]
    backend: dict[str, Any] = {"backend": gptqmodel.BACKEND.AWQ_TORCH} if kind == "awq" and cpu else {}
    with tempfile.TemporaryDirectory() as logs:
        loop_processor._PROJECT_LOG_DIR = Path(logs)  # it would make a directory `logs` wherever the command runs
        model.quantize(rows, batch_size=1, calibration_data_min_length=SHORTEST, **backend)
    model.save(str(directory))
    return {"group_size": group}


def _gptq(source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks) -> dict[str, Any]:
    return _by_gptqmodel("gptq", source, directory, bits, blocks)


def _awq(source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks) -> dict[str, Any]:
    return _by_gptqmodel("awq", source, directory, bits, blocks)


def _while_loading(
    source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks, method: str
) -> dict[str, Any]:
    options = QuantisedOptions(quant_method=method, quantization_bit=bits)
    model: Any = load_model(source, dtype, quantised=options)
    model.save_pretrained(directory)
    return {}


def _bnb(source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks) -> dict[str, Any]:
    _while_loading(source, directory, bits, dtype, blocks, "bnb")
    return {"quant_type": "nf4", "double_quant": True} if bits == 4 else {}


def _torchao(source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks) -> dict[str, Any]:
    return _while_loading(source, directory, bits, dtype, blocks, "torchao")


def _fp8(source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks) -> dict[str, Any]:
    from torchao.quantization import Float8WeightOnlyConfig  # pyright: ignore[reportMissingImports]
    from transformers import TorchAoConfig

    model: Any = load_model(source, dtype, quantization_config=TorchAoConfig(Float8WeightOnlyConfig()))
    model.save_pretrained(directory)
    return {"format": "torchao float8_e4m3, weights alone"}


def _hqq(source: ModelSource, directory: Path, bits: int, dtype: torch.dtype, blocks: Blocks) -> dict[str, Any]:
    model: Any = load_model(source, dtype)
    made = quantise_hqq(model, *hqq_settings(QuantisedOptions(quantization_bit=bits)), dtype)
    save_torch_state_dict(hqq_state(model), directory)
    storage.write_json(directory / "config.json", {**model.config.to_dict(), "quantization_config": made})
    return {"group_size": made["group_size"], "axis": made["axis"]}


WRITERS: dict[str, Write] = {
    "gptq": _gptq,
    "awq": _awq,
    "bnb": _bnb,
    "hqq": _hqq,
    "torchao": _torchao,
    "fp8": _fp8,
}
PACKAGE = {"fp8": "torchao"}
"""The package of a method that is not called like it."""
