"""Everything about tuners that can be damaged, hostile or strange ends in a sentence, and leaves what was there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swift.errors import ConfigError, DataError, SwiftError, UnknownNameError, UsageError
from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel
from tests.tuners.cases import HOSTS, METHODS, run, stir, tuned

LM = HOSTS["lm"]


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": LM.linears, **options})


def adapter(**options) -> AdapterConfig:
    return AdapterConfig(**{"dim": LM.dim, "target_modules": [LM.wide], "adapter_length": 6, **options})


def saved(path: Path, safe: bool = True) -> torch.Tensor:
    """A checkpoint of a LoRA `a` and an adapter `b`, and what its model gives."""
    model = Swift.prepare_model(LM.make(), {"a": lora(), "b": adapter()}, extra_state_keys=["lm_head.*"])
    stir(model)
    model.save_pretrained(path, safe_serialization=safe)
    return run(model, LM)


def load(path: Path) -> SwiftModel:
    return Swift.from_pretrained(LM.make(), path)


def same_bytes(first: dict, second: dict) -> bool:
    return set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)


# Files.


@pytest.mark.parametrize("folder", ["a", "b", "extra_states", "peft"])
@pytest.mark.parametrize("how", ["pickle", "zip", "legacy", "nested"])
def test_a_pickle_in_place_of_weights_never_runs(folder, how, tmp_path):
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return (os.system, (f"touch {canary}",))

    path = tmp_path / "ckpt"
    if folder == "peft":
        Swift.prepare_model(LM.make(), lora()).save_pretrained(path)
        file = path / "adapter_model.bin"
        (path / "adapter_model.safetensors").unlink()
    else:
        saved(path, safe=False)
        file = path / folder / "adapter_model.bin"
    value = {"w": torch.zeros(2), "x": Payload()} if how == "nested" else Payload()
    with file.open("wb") as out:
        if how == "pickle":
            pickle.dump(value, out)
        else:
            torch.save(value, out, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(DataError, match=r"adapter_model\.bin"):
        load(path)
    assert not canary.exists()


def test_safetensors_cut_anywhere(tmp_path):
    saved(tmp_path)
    file = tmp_path / "a/adapter_model.safetensors"
    whole = file.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
            load(tmp_path)
    file.write_bytes(whole + b"\0")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        load(tmp_path)


def test_safetensors_with_a_flipped_header_never_load_as_something_else(tmp_path):
    before = saved(tmp_path)
    file = tmp_path / "a/adapter_model.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for place in [*range(8), *range(8, header, header // 60)]:
        for bit in (1, 0x20, 0x80):
            changed = bytearray(whole)
            changed[place] ^= bit
            file.write_bytes(changed)
            try:
                assert torch.equal(run(load(tmp_path), LM), before)
            except DataError:
                refused += 1
    assert refused > 100


def test_weights_that_are_not_finite_are_not_loaded_in_silence(tmp_path, caplog):
    saved(tmp_path)
    file = tmp_path / "a/adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, file)
    with pytest.raises(DataError, match="finite"):
        load(tmp_path)


HOSTILE = {
    "huge": lambda values: json.dumps({**values, "inference_mode": False, "x": "y" * 50_000_000}),
    "deep": lambda values: json.dumps(values)[:-1] + ', "x": ' + "[" * 200_000 + "]" * 200_000 + "}",
    "nan": lambda values: json.dumps({**values, "lora_alpha": float("nan"), "adapter_length": float("nan")}),
    "infinite": lambda values: json.dumps({**values, "r": float("inf"), "dim": float("inf")}),
    "twice": lambda values: json.dumps(values)[:-1] + ', "swift_type": "ADAPTER", "swift_type": "LORA"}',
    "bom": lambda values: "﻿" + json.dumps(values)[:-1],
    "list": lambda values: json.dumps([values]),
    "number": lambda values: json.dumps({**values, "target_modules": 3}),
    "negative": lambda values: json.dumps({**values, "r": -1, "adapter_length": -1}),
    "text": lambda values: json.dumps({**values, "r": "four", "dim": "wide"}),
    "no kind": lambda values: json.dumps({**values, "swift_type": ["LORA"]}),
    "unknown kind": lambda values: json.dumps({**values, "swift_type": "ADAPTR", "peft_type": "LORAA"}),
    "a module of Python": lambda values: json.dumps({**values, "swift_type": "os.path"}),
    "a regular expression without an end": lambda values: json.dumps({**values, "target_modules": "(a+)+$("}),
}


@pytest.mark.parametrize("folder", ["a", "b", "peft"])
@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_config_is_refused_at_once(folder, how, tmp_path):
    if folder == "peft":
        Swift.prepare_model(LM.make(), lora()).save_pretrained(tmp_path)
        file = tmp_path / "adapter_config.json"
    else:
        saved(tmp_path)
        file = tmp_path / folder / "adapter_config.json"
    file.write_text(HOSTILE[how](json.loads(file.read_text())))
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert time.monotonic() - start < 3
    assert len(str(caught.value)) < 2000
    assert str(tmp_path) in str(caught.value)


def test_an_unknown_kind_is_named_with_the_nearest(tmp_path):
    saved(tmp_path)
    file = tmp_path / "b/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "swift_type": "ADAPTR"}))
    with pytest.raises(DataError, match="ADAPTR") as caught:
        load(tmp_path)
    assert "ADAPTER" in str(caught.value)


@pytest.mark.parametrize("text", ['{"adapters": ["../a", "/etc", 3, null]}', '{"adapters": {"a": 1}}'])
def test_the_stated_order_is_only_an_order(text, tmp_path):
    before = saved(tmp_path)
    (tmp_path / "configuration.json").write_text(text)
    assert set(load(tmp_path).adapters) == {"a", "b"}
    (tmp_path / "configuration.json").write_text('{"adapters": ["a", "b", "gone"]}')
    assert torch.equal(run(load(tmp_path), LM), before)


# Names.


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "", "a/b", "/etc/x", "a\0b", "a.b", "a b", "a\n", "x" * 300, "extra_states"]
)
def test_a_name_that_cannot_be_a_folder_is_refused(name, tmp_path):
    model = Swift.prepare_model(LM.make(), {"ok": adapter()})
    before = set(model.base_model.state_dict())
    for config in (lora(), adapter()):
        with pytest.raises(UsageError, match="adapter"):
            Swift.prepare_model(model, {name: config})
    assert set(model.base_model.state_dict()) == before
    assert set(model.adapters) == {"ok"}
    saved(tmp_path)
    with pytest.raises(UsageError, match="adapter"):
        Swift.from_pretrained(LM.make(), tmp_path, {"a": name})
    with pytest.raises(UsageError):
        model.save_pretrained(tmp_path / "out", adapter_name=name)
    assert not (tmp_path / "out").exists()


SIMILAR = [
    "lora1",
    "lora10",
    "lora",
    "1",
    "lora_A",
    "weight",
    "base_layer",
    "default",
    "adapter",
    "adapter_lora",
    "A-1",
]


@pytest.mark.parametrize("kinds", [("lora", "lora"), ("adapter", "adapter"), ("lora", "adapter"), ("ia3", "lora")])
def test_names_that_contain_each_other_never_meet(kinds, tmp_path):
    model, alone = LM.make(), {}
    for seed, name in enumerate(SIMILAR):
        kind = kinds[seed % 2]
        model = Swift.prepare_model(model, {name: METHODS[kind](LM)})
        alone[name] = tuned(LM, kind, seed, name)
        model.load_state_dict(alone[name].state_dict(), adapter_name=name)
    owned = [key for name in SIMILAR for key in model.owned(name)]
    assert len(owned) == len(set(owned))
    model.save_pretrained(tmp_path)
    for name in SIMILAR:
        assert same_bytes(model.state_dict(adapter_name=name), alone[name].state_dict())
        model.set_active_adapters(name)
        assert torch.equal(run(model, LM), run(alone[name], LM))
        loaded = Swift.from_pretrained(LM.make(), tmp_path, {name: "q_proj"})
        assert torch.equal(run(loaded, LM), run(alone[name], LM))


@pytest.mark.parametrize("name", ["pop", "keys", "type", "training", "forward", "values", "_modules", "clear"])
@pytest.mark.parametrize("config", [lora, adapter])
def test_a_name_that_python_uses_works_or_is_refused(name, config, tmp_path):
    model = Swift.prepare_model(LM.make(), {"ok": config()})
    stir(model)
    before, state = run(model, LM), set(model.base_model.state_dict())
    try:
        model = Swift.prepare_model(model, {name: config()})
    except UsageError:
        assert set(model.base_model.state_dict()) == state
        assert set(model.adapters) == {"ok"}
    else:
        model.save_pretrained(tmp_path)
        assert torch.equal(run(load(tmp_path), LM), before)
    assert torch.equal(run(model, LM), before)
    assert torch.equal(run(Swift.prepare_model(model, {"next": config()}), LM), before)


# Targets and values.


@pytest.mark.parametrize("method", METHODS)
def test_targets_that_match_nothing_are_named_with_the_nearest(method):
    row = METHODS[method]
    host = HOSTS[row.home]
    config = row(host)
    known = {field.name for field in fields(config)}
    if "target_modules" not in known or not vars(config).get("use_bypass", True):
        pytest.skip("it finds its modules itself")
    wrong = f"{host.linears[0]}x"
    config.target_modules = [wrong]
    model = Swift.prepare_model(host.make(), {"ok": METHODS["lora"](host)})
    stir(model)
    before, state = run(model, host), set(model.base_model.state_dict())
    for target in ([wrong], wrong):
        config.target_modules = target
        with pytest.raises(UnknownNameError, match=wrong) as caught:
            Swift.prepare_model(model, {"bad": config})
        assert host.linears[0] in str(caught.value.fix)
    assert set(model.base_model.state_dict()) == state
    assert set(model.adapters) == model.active_adapters == {"ok"}
    assert torch.equal(run(model, host), before)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_name_twice_changes_nothing_and_is_said(method, tmp_path, caplog):
    host = HOSTS[METHODS[method].home]
    model = tuned(host, method)
    before, state = run(model, host), set(model.base_model.state_dict())
    assert Swift.prepare_model(model, {"one": METHODS["lora"](host)}) is model
    assert set(model.base_model.state_dict()) == state
    assert torch.equal(run(model, host), before)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="'one' already"):
        Swift.from_pretrained(model, tmp_path)
    assert torch.equal(run(model, host), before)


def test_adapters_that_are_not_there_are_named_with_the_nearest(tmp_path):
    saved(tmp_path)
    model = load(tmp_path)
    for act in (
        lambda: model.set_active_adapters(["a", "bb"]),
        lambda: model.activate_adapter("bb"),
        lambda: model.deactivate_adapter("bb", offload="meta"),
        lambda: model.save_pretrained(tmp_path / "x", adapter_name="bb"),
        lambda: model.state_dict(adapter_name="bb"),
        lambda: Swift.from_pretrained(LM.make(), tmp_path, "bb"),
    ):
        with pytest.raises(UnknownNameError, match="bb") as caught:
            act()
        assert "b" in str(caught.value.fix)
    assert model.active_adapters == {"a", "b"}
    with pytest.raises(UsageError, match="offload"):
        model.deactivate_adapter("a", offload="disk")


# The disk.


def test_what_is_away_on_meta_is_saved_all_the_same(tmp_path):
    before = saved(tmp_path / "first")
    model = load(tmp_path / "first")
    model.set_active_adapters([], offload="meta")
    for safe in (False, True):
        model.save_pretrained(tmp_path / str(safe), safe_serialization=safe)
        assert torch.equal(run(load(tmp_path / str(safe)), LM), before)
    assert {model.base_model.state_dict()[key].device.type for key in model.owned("a")} == {"meta"}


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_disk_that_does_not_take_it_is_named_and_loses_nothing(call, safe, fault, tmp_path, monkeypatch):
    before = saved(tmp_path, safe)
    model = load(tmp_path)
    model.set_active_adapters("a")
    stir(model.requires_grad_(True), 9)
    calls, works = [], os.open

    def refuse(*args, **kwargs):
        if call == "open" and not args[1] & os.O_CREAT:  # reading goes on
            return works(*args, **kwargs)
        calls.append(args)
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patched:
        patched.setattr(f"swift.storage.os.{call}", refuse)
        with pytest.raises(SwiftError) as caught:
            model.save_pretrained(tmp_path, safe_serialization=safe)
    assert calls
    assert caught.value.code in {"DISK-01", "OUTPUT-01"}
    assert str(tmp_path) in str(caught.value)
    assert torch.equal(run(load(tmp_path), LM), before)
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".tmp")]


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    model = Swift.prepare_model(LM.make(), {"a": adapter()})
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file/inside"):
        with pytest.raises(SwiftError, match="file"):
            model.save_pretrained(directory)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_text("")
    with pytest.raises(SwiftError, match="a"):
        model.save_pretrained(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_named(tmp_path):
    model = Swift.prepare_model(LM.make(), {"a": adapter()})
    tmp_path.chmod(0o500)
    with pytest.raises(SwiftError, match=tmp_path.name):
        model.save_pretrained(tmp_path / "out")
