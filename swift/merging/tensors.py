"""Tensors in files, read and written by rows, so that no whole model and hardly a whole tensor is ever in memory.

A safetensors file is eight bytes that say how long the header is, the header (JSON: name -> dtype, shape, offsets), and
the numbers. Reading a part of a tensor is reading a part of the file; writing is the header and then the tensors in its
order.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from swift.errors import DataError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
SAID = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CODES = {dtype: code for code, dtype in DTYPES.items()}
LONGEST_HEADER = 100 << 20  # bytes, as safetensors allows
BLOCK = 8 << 20  # bytes that are read at once
WAITING = 4  # blocks between the reader and the disk
FLUSHED = 64 << 20  # bytes after which the system is told to begin writing


class Stored(Protocol):
    """A tensor that lies in a file."""

    @property
    def name(self) -> str:
        """What it is called in its file."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the first axis, in the stored precision, as memory of their own."""
        ...


@dataclass(frozen=True)
class Span:
    """A tensor in a safetensors file: from byte `begin` to byte `end` of `file`."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def rows(self, start: int, stop: int) -> Tensor:
        """See `Stored.rows`."""
        size = row_bytes(self)
        data = self.read(start * size, stop * size)
        return torch.frombuffer(data, dtype=self.dtype).view(stop - start, *self.shape[1:])

    def read(self, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop` of the tensor. Raises DataError when the file ends before."""
        data = bytearray(stop - start)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.begin + start)
            view, got = memoryview(data), 0
            while got < len(data) and (more := file.readinto(view[got:])):
                got += more
        if got < len(data):
            raise DataError("MODEL-01", f"{self.file} is cut", fix="download it again")
        return data


@dataclass(frozen=True)
class Held:
    """A tensor that another reader holds, such as one of a `.bin` file, of which the system maps what is looked at."""

    name: str
    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """See `Stored.rows`."""
        return self.tensor[start:stop].clone()


def named_dtype(said: str) -> torch.dtype:
    """The precision that an option names."""
    return SAID[said]


def whole(stored: Stored) -> Tensor:
    """All of a tensor in float32, read by blocks, so that it is in memory once."""
    if not stored.shape:
        return stored.rows(0, 1).reshape(()).float()
    values = torch.empty(stored.shape, dtype=torch.float32)
    for start, stop in blocks(stored):
        values[start:stop] = stored.rows(start, stop)
    return values


def row_bytes(stored: Stored) -> int:
    """How many bytes a row of the first axis takes."""
    return size_bytes(stored.shape[1:], stored.dtype)


def size_bytes(shape: Iterable[int], dtype: torch.dtype) -> int:
    """How many bytes a tensor takes."""
    count = 1
    for size in shape:
        count *= size
    return count * dtype.itemsize


def blocks(stored: Stored) -> Iterator[tuple[int, int]]:
    """From which row to which, block by block of about `BLOCK` bytes."""
    rows = stored.shape[0] if stored.shape else 1
    step = max(1, BLOCK // max(1, row_bytes(stored)))
    yield from ((start, min(start + step, rows)) for start in range(0, rows, step))


def read(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors or `.bin` file by name, in the order in which they lie there. Nothing is loaded.

    Raises:
        DataError: the file is damaged, or holds more than tensors.
    """
    if file.suffix == ".safetensors":
        return dict(spans(file)[0].items())
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = "it is damaged, or holds more than tensors"
        raise DataError("MODEL-01", f"{file} cannot be read", why=why, fix="download it again") from error
    values = values.get("state_dict", values) if isinstance(values, dict) else values
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise DataError("MODEL-01", f"{file} holds something else than named tensors", fix="save a dict of tensors")
    return {name: Held(name, value.detach()) for name, value in values.items()}


def spans(file: Path) -> tuple[dict[str, Span], bytes]:
    """The tensors of a safetensors file, and its header as it is, with its length before it.

    Raises:
        DataError: the header is damaged or does not fit the file.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little") if len(start) == 8 else size
        if length > min(size - 8, LONGEST_HEADER):
            raise DataError("MODEL-01", f"{file} is cut or not safetensors", fix="download it again")
        text = opened.read(length)
    try:
        found = [_span(file, name, entry, 8 + length) for name, entry in json.loads(text).items() if name[:2] != "__"]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise DataError("MODEL-01", f"{file} has a damaged header: {error}", fix="download it again") from None
    found.sort(key=lambda span: (span.begin, span.end))
    end = 8 + length
    for span in found:
        if span.begin != end or span.end - span.begin != size_bytes(span.shape, span.dtype):
            raise DataError("MODEL-01", f"{file} has a damaged header: {span.name}", fix="download it again")
        end = span.end
    if end != size:
        raise DataError("MODEL-01", f"{file} has {size} bytes, its header says {end}", fix="download it again")
    return {span.name: span for span in found}, start + text


def _span(file: Path, name: str, entry: Mapping[str, Any], start: int) -> Span:
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name} is of an unknown type {entry['dtype']!r}")
    return Span(name, file, DTYPES[entry["dtype"]], tuple(entry["shape"]), start + begin, start + end)


def header_of(entries: Sequence[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """The header of a safetensors file of tensors in this order, with its length before it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in entries:
        begin, end = end, end + size_bytes(shape, dtype)
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Writer:
    """A file that is written while the next block is made, and hashed on the way. Use it in a `with` block.

    Attributes:
        sha256: of the whole file, in hex, after the block.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.sha256 = file, ""
        self._queue: queue.Queue[Any] = queue.Queue(WAITING)
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer of {file.name}")

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self._check()

    def put(self, data: Any) -> None:
        """Write bytes, or the numbers of a tensor, after what was written before. They must not change any more.

        Raises:
            OSError: the disk is full or failed.
        """
        self._check()
        self._queue.put(data)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with self.file.open("wb", buffering=0) as opened:
                self._write(opened)
        except OSError as error:
            self._failure = error
            while self._queue.get() is not None:
                continue  # so that nobody waits for room

    def _write(self, opened: Any) -> None:
        digest, size, told = hashlib.sha256(), 0, 0
        while (data := self._queue.get()) is not None:
            flat: Any = data.contiguous().view(-1).view(torch.uint8).numpy() if isinstance(data, Tensor) else data
            view = memoryview(flat)
            done = 0
            while done < len(view):
                done += opened.write(view[done:])
            digest.update(view)
            size += len(view)
            if size - told >= FLUSHED:  # the disk begins now, not when all is written
                os.posix_fadvise(opened.fileno(), told, size - told, os.POSIX_FADV_DONTNEED)
                told = size
        self.sha256 = digest.hexdigest()
