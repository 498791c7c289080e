"""Files called *.pdparams: named tensors, written by us (`torch.save`) or by Paddle (a pickle of numpy arrays).

Paddle's pickle is read by an unpickler that knows the few names such a file needs and stands in for all of them with
functions of its own: nothing of the file is ever called, imported or passed to numpy's own unpickling. A file that
names anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift import storage
from swift.errors import DataError

ZIP = b"PK\x03\x04"  # how torch's own files begin
PARAMETER_NAMES, SLICES = "StructuredToParameterName@@", "UnpackBigParamInfor@@"
BFLOAT16 = np.dtype("uint16")  # numpy has no bfloat16: Paddle writes its bits


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors so that `torch.load(file, weights_only=True)` reads them; whole or not at all."""
    buffer = io.BytesIO()
    torch.save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, buffer)
    storage.write_bytes(file, buffer.getvalue())


def read(file: Path) -> dict[str, Tensor]:
    """The named tensors of a file of ours or of Paddle's, on the CPU.

    Raises:
        DataError: it is damaged, or holds anything but named tensors.
    """
    try:
        with file.open("rb") as stream:
            ours = stream.read(len(ZIP)) == ZIP
        return _named(torch.load(file, map_location="cpu", weights_only=True) if ours else read_paddle(file))
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
        MemoryError, OverflowError, struct.error,
    ) as error:  # fmt: skip
        why = f"it is damaged, or holds more than named arrays ({str(error).splitlines()[0] if str(error) else 'cut'})"
        raise DataError("CKPT-01", f"{file} cannot be read", why=why, fix="copy it again from its source") from error


def read_paddle(file: Path) -> dict[str, Any]:
    """The contents of a file that Paddle wrote, slices of big arrays joined."""
    values = ArraysOnly(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    if not isinstance(values, dict):
        raise ValueError("no dictionary")
    plain = {key: _array(value) for key, value in values.items() if key not in (PARAMETER_NAMES, SLICES)}
    for key, parts in (values.get(SLICES) or {}).items():
        joined = np.concatenate([plain.pop(name).reshape(-1) for name in parts["slices"]])
        plain[key] = joined.reshape([int(size) for size in parts["OriginShape"]])
    return {key: _tensor(array) for key, array in plain.items()}


class ArraysOnly(pickle._Unpickler):
    """Reads dictionaries, lists, tuples, numbers, text and numeric arrays; refuses every other name.

    It is pickle's own unpickler in Python: the one in C takes memory for as many values as the file says it has.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Our stand-in for a name in the file. Raises UnpicklingError for one that Paddle's files do not need."""
        stand_in = STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: nothing is stored outside of the file."""
        raise pickle.UnpicklingError("it points to another place")


class _Dtype:
    """What `numpy.dtype(name, align, copy)` is read as."""

    def __init__(self, name: str, *_: Any) -> None:
        self.numpy = np.dtype(name)
        if self.numpy.kind not in "fiub":
            raise pickle.UnpicklingError(f"it holds arrays of {name!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.numpy = self.numpy.newbyteorder(">" if state[1] == ">" else "=")


class _Array:
    """What a numpy array is read as: its bytes, checked against its shape."""

    values: np.ndarray

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or not all(type(n) is int for n in shape):
            raise pickle.UnpicklingError("an array of something else than numbers")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.numpy.itemsize != len(raw):
            raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
        flat = np.frombuffer(raw, dtype.numpy)
        self.values = flat.reshape(shape, order="F" if columns_first else "C")


class _Call:
    """A function that the file may call but, unlike a plain one, cannot change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it was given")


def _empty_array(*_: Any) -> _Array:
    """How numpy's pickles begin an array; its contents follow."""
    return _Array()


def _latin1(text: str, coding: str) -> bytes:
    """How pickles of protocol 2 hold bytes."""
    if coding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the coding {coding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How pickles of protocol 2 hold no bytes."""
    return b""


def _ndarray(*_: Any) -> None:
    """The class `numpy.ndarray` is only ever an argument, which is not looked at."""
    raise pickle.UnpicklingError("it makes an array without contents")


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Call(_latin1),
    ("numpy", "ndarray"): _Call(_ndarray),
    ("numpy", "dtype"): _Call(_Dtype),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Call(_empty_array) for core in ("core", "_core")},
    **{(builtins, "tuple"): tuple for builtins in ("builtins", "__builtin__")},
    **{(builtins, "bytes"): _Call(_no_bytes) for builtins in ("builtins", "__builtin__")},
}


def _array(value: Any) -> np.ndarray:
    """The array of a value, which may stand beside its name: Paddle writes a tensor as (name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, _Array):
        raise pickle.UnpicklingError(f"a {type(value).__name__} where an array should be")
    return value.values


def _tensor(array: np.ndarray) -> Tensor:
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if native.dtype == BFLOAT16:
        return torch.from_numpy(native.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(native)


def _named(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items()
    ):
        raise ValueError("something else than named tensors")
    return values
