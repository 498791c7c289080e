"""Files of weights: what Paddle writes is read, whatever else is refused without running any of it."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from swift.errors import DataError
from swift.peft import LoRAConfig, LoRAModel, PrefixConfig, PrefixModel, pdparams
from tests.tiny import tiny_model

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
IDS = torch.tensor([[5, 6, 7, 8]])


class PaddleTensor:
    """Pickles as Paddle's tensors do: as the tuple of its name and its values."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.values = name, values

    def __reduce__(self) -> tuple[Any, ...]:
        return (tuple, ((self.name, self.values),))


def read(tmp_path: Path, data: bytes) -> dict[str, Tensor]:
    file = tmp_path / "x.pdparams"
    file.write_bytes(data)
    return pdparams.read(file)


def refused(tmp_path: Path, data: bytes, says: str = "") -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        read(tmp_path, data)
    assert says in str(caught.value)


# --- what Paddle writes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_names_and_arrays(tmp_path: Path, protocol: int) -> None:
    values = {
        "a.weight": MATRIX,
        "columns first": np.asfortranarray(MATRIX),
        "big end first": MATRIX.astype(">f4"),
        "half": MATRIX.astype(np.float16),
        "double": MATRIX.astype(np.float64),
        "ids": np.arange(4),
        "yes": np.array([True, False]),
        "number": np.array(2.5, dtype=np.float32),
        "nothing": np.zeros((0, 3), dtype=np.float32),
        "StructuredToParameterName@@": {"a.weight": "linear_0.w_0"},
    }
    got = read(tmp_path, pickle.dumps(values, protocol))
    assert got.keys() == values.keys() - {"StructuredToParameterName@@"}
    for key, tensor in got.items():
        expected = torch.from_numpy(np.array(values[key], dtype=values[key].dtype.newbyteorder("=")))
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)
    got["a.weight"] += 1  # it is ours, and can be written to


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_tensors_with_their_names(tmp_path: Path, protocol: int, kind: type) -> None:
    values = kind({"a.weight": PaddleTensor("linear_0.w_0", MATRIX), "b": MATRIX})
    got = read(tmp_path, pickle.dumps(values, protocol))
    assert torch.equal(got["a.weight"], torch.from_numpy(MATRIX))
    assert torch.equal(got["b"], torch.from_numpy(MATRIX))


def test_numpy_of_before_version_2(tmp_path: Path) -> None:
    data = pickle.dumps({"a": MATRIX}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in data
    assert torch.equal(read(tmp_path, data)["a"], torch.from_numpy(MATRIX))


def test_bfloat16_comes_as_its_bits(tmp_path: Path) -> None:
    expected = torch.randn(4, 3).to(torch.bfloat16)
    bits = expected.view(torch.int16).numpy().view(np.uint16)
    got = read(tmp_path, pickle.dumps({"a": bits}, 4))["a"]
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)


def test_big_arrays_in_slices(tmp_path: Path) -> None:
    flat = MATRIX.reshape(-1)
    parts = {"OriginShape": (2, 3), "slices": ["a@@.0", "a@@.1"]}
    values = {"a@@.0": flat[:4], "a@@.1": flat[4:], "UnpackBigParamInfor@@": {"a": parts}}
    got = read(tmp_path, pickle.dumps(values, 2))
    assert got.keys() == {"a"}
    assert torch.equal(got["a"], torch.from_numpy(MATRIX))


def test_ours_are_read_by_plain_torch_and_by_us(tmp_path: Path) -> None:
    file = tmp_path / "x.pdparams"
    tensors = {"a": torch.randn(3, 2).T, "b": torch.randn(2).to(torch.bfloat16), "c": torch.randn(9)[:2]}
    pdparams.write(file, tensors)
    assert file.stat().st_size < 4000
    for got in (torch.load(file, weights_only=True), pdparams.read(file)):
        assert all(torch.equal(got[key], tensor) for key, tensor in tensors.items())


def test_a_lora_of_paddlenlp_is_loaded(tmp_path: Path) -> None:
    """Its config with fields of later versions, its names, its pickle; beside it a norm that was trained too."""
    model = LoRAModel(tiny_model("llama").eval(), LoRAConfig(r=2, target_modules=[".*q_proj.*"]))
    torch.manual_seed(0)
    expected = {}
    for name, p in model.model.named_parameters():
        if "lora_" in name or name.endswith(("norm.weight", "lm_head.weight", "0.self_attn.k_proj.weight")):
            expected[name] = p.data = torch.randn_like(p)
    arrays = {
        name.replace("model.", "llama.", 1): PaddleTensor(
            f"p{i}", (t.T if "lm_head" in name or "k_proj" in name else t).numpy()
        )
        for i, (name, t) in enumerate(expected.items())
    }
    (tmp_path / "lora_model_state.pdparams").write_bytes(pickle.dumps(arrays, 4))
    (tmp_path / "lora_config.json").write_text(
        '{"base_model_name_or_path": null, "do_qat": false, "dtype": "float32", "enable_lora_list": null, '
        '"head_dim": null, "lora_alpha": 8, "lora_dropout": 0.0, "lora_use_mixer": false, "merge_weights": true, '
        '"r": 2, "rslora": false, "scaling": 4.0, "target_modules": [".*q_proj.*"], "tensor_parallel_degree": -1, '
        '"trainable_bias": null, "trainable_modules": null, "use_quick_lora": false, "pissa": false}'
    )
    loaded = LoRAModel.from_pretrained(tiny_model("llama", seed=3), tmp_path)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_a_prefix_of_paddlenlp_is_loaded(tmp_path: Path) -> None:
    config = PrefixConfig(0.0, 4, 4, 2, 64, 2, prefix_projection=True, prefix_projection_hidden_size=8)
    arrays = {"0.weight": (4, 32), "1.weight": (32, 8), "1.bias": (8,), "3.weight": (8, 128), "3.bias": (128,)}
    values = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    config.save_pretrained(tmp_path)
    (tmp_path / "prefix_model_state.pdparams").write_bytes(pickle.dumps(values, 4))
    loaded = PrefixModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    table = np.tanh(values["0.weight"] @ values["1.weight"] + values["1.bias"]) @ values["3.weight"] + values["3.bias"]
    key = loaded.past_key_values(1)[0][0][0]
    torch.testing.assert_close(key, torch.from_numpy(table[:, :32]).unflatten(-1, (2, 16)).transpose(0, 1))


# --- what is refused --------------------------------------------------------------------------------------------------


class Evil:
    """Pickles as a call of a function of the attacker's choice."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec, print, __import__, getattr, np.load, np.save, bytearray])
def test_no_function_is_ever_called(tmp_path: Path, protocol: int, function: Any) -> None:
    marker = tmp_path / "was here"
    evil = Evil(function, f"touch '{marker}'")
    refused(tmp_path, pickle.dumps({"a": evil}, protocol), "it asks for")
    refused(tmp_path, pickle.dumps({"a": (evil, MATRIX)}, protocol), "it asks for")
    assert not marker.exists()


def test_the_same_inside_of_torchs_own_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": Evil(os.system, f"touch '{tmp_path}/was here'")}, buffer)
    refused(tmp_path, buffer.getvalue())
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    "name",
    [
        "numpy.ndarray.tofile", "numpy\nload", "numpy.core.multiarray\nfromfile", "builtins\ntuple.__class__",
        "swift.peft.pdparams\nArraysOnly", "collections\nOrderedDict.fromkeys", "numpy._core.multiarray\nscalar",
    ],
)  # fmt: skip
def test_names_near_the_allowed_ones(tmp_path: Path, name: str) -> None:
    module, _, function = name.partition("\n") if "\n" in name else name.rpartition(".")
    refused(tmp_path, f"c{module}\n{function}\n.".encode(), "it asks for")


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, pickle.dumps({"a": np.array([print, 1], dtype=object)}, 4), "it holds arrays of 'O8'")
    refused(tmp_path, pickle.dumps({"a": np.array([None, 1], dtype=object)}, 4), "it holds arrays of 'O8'")
    refused(tmp_path, pickle.dumps({"a": np.array(["text"])}, 4), "it holds arrays of 'U4'")
    refused(tmp_path, pickle.dumps({"a": np.array([(1, 2)], dtype="i4,i4")}, 4), "it holds arrays of 'V8'")


def test_stand_ins_cannot_be_changed_or_called_for_an_empty_array(tmp_path: Path) -> None:
    head = b"\x80\x02"
    for name in ("numpy.core.multiarray\n_reconstruct", "numpy\nndarray", "_codecs\nencode", "numpy\ndtype"):
        refused(tmp_path, head + b"c" + name.encode() + b"\n}X\x01\x00\x00\x00xK\x01sb.")
    refused(tmp_path, head + b"ccollections\nOrderedDict\nN}X\x01\x00\x00\x00xK\x01s\x86b.")
    refused(tmp_path, head + b"cnumpy\nndarray\nK\x05\x85R.", "an array without contents")
    refused(tmp_path, head + b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "coding")
    refused(tmp_path, head + b"U\x01xQ.", "points to another place")
    assert torch.equal(read(tmp_path, pickle.dumps({"a": MATRIX}, 2))["a"], torch.from_numpy(MATRIX))


def test_bytes_that_do_not_fit_the_shape(tmp_path: Path) -> None:
    good = pickle.dumps({"a": np.zeros(5, dtype=np.float32)}, 4)
    shape = b"K\x05\x85"
    assert good.count(shape) == 1
    for wrong in (
        b"K\x06\x85",
        b"J" + struct.pack("<i", -5) + b"\x85",
        b"J" + struct.pack("<i", 2**31 - 1) + b"\x85",
        b"N\x85",
    ):
        refused(tmp_path, good.replace(shape, wrong))


def test_a_file_that_says_it_has_a_billion_values(tmp_path: Path) -> None:
    refused(tmp_path, b"\x80\x02}r\xff\xff\xff\x7f(K\x01K\x02u.")
    refused(tmp_path, b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc")


@pytest.mark.parametrize(
    "value",
    [
        [MATRIX],
        MATRIX,
        {"a": 1},
        {"a": "text"},
        {"a": [MATRIX]},
        {1: MATRIX},
        {"a": (1, MATRIX)},
        {"a": ("n", 1)},
        None,
    ],
    ids=repr,
)
def test_what_is_not_named_arrays(tmp_path: Path, value: Any) -> None:
    refused(tmp_path, pickle.dumps(value, 4))


def test_torch_files_of_something_else(tmp_path: Path) -> None:
    for value in ([torch.zeros(2)], {"a": 1}, {1: torch.zeros(2)}):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        refused(tmp_path, buffer.getvalue(), "something else than named tensors")


def test_slices_that_lie(tmp_path: Path) -> None:
    for parts in ({"slices": ["b"], "OriginShape": (1,)}, {"slices": ["a"], "OriginShape": (7,)}, {"slices": []}, 5):
        refused(tmp_path, pickle.dumps({"a": MATRIX, "UnpackBigParamInfor@@": {"x": parts}}, 2))


@pytest.mark.parametrize("ours", [True, False])
def test_damaged_files(tmp_path: Path, ours: bool) -> None:
    file = tmp_path / "good"
    pdparams.write(file, {"a": torch.from_numpy(MATRIX)})
    data = file.read_bytes() if ours else pickle.dumps({"a": MATRIX}, 4)
    for end in (0, 1, 3, 10, len(data) // 2, len(data) - 1):
        refused(tmp_path, data[:end])
    refused(tmp_path, b"not a pickle at all")
    refused(tmp_path, b"\x80\x04" + b"(" * 100_000)


def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    data = pickle.dumps({"a.weight": MATRIX, "b": PaddleTensor("n", MATRIX)}, 2)
    for position in range(0, len(data), 3):
        flipped = data[:position] + bytes([data[position] ^ 0x15]) + data[position + 1 :]
        try:
            got = read(tmp_path, flipped)
        except DataError:
            continue
        assert all(isinstance(value, Tensor) for value in got.values())
