"""Checkpoints that are damaged, hostile or strange end in a sentence."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors import safe_open

from swift import storage
from swift.errors import DataError, DiskError, NotFoundError
from swift.tuners import AdapterConfig, Swift, SwiftConfig, files
from tests.tuners.cases import HOSTS, stir
from tests.tuners.test_facade import adapter, lora

LM = HOSTS["lm"]


@pytest.fixture
def saved(tmp_path):
    Swift.prepare_model(LM.make(), {"a": adapter()}, extra_state_keys=["lm_head.*"]).save_pretrained(
        tmp_path, safe_serialization=True
    )
    return tmp_path


@pytest.mark.parametrize("safe", [True, False])
def test_equal_tensors_make_equal_files(safe, tmp_path):
    tensors = {"b.ä": torch.arange(3.0), "a": torch.ones(2, 1).bfloat16(), "c": torch.tensor(7), "empty": torch.ones(0)}
    for i in range(12):
        (tmp_path / str(i)).mkdir()
        files.write_tensors(tmp_path / str(i), {key: tensor.clone() for key, tensor in tensors.items()}, safe)
    written = {next((tmp_path / str(i)).iterdir()).read_bytes() for i in range(12)}
    assert len(written) == 1
    found = files.read_tensors(tmp_path / "0")
    assert {*found} == {*tensors}
    assert all(torch.equal(found[key], tensors[key]) and found[key].dtype == tensors[key].dtype for key in tensors)
    if safe:
        with safe_open(tmp_path / "0" / files.SAFE_WEIGHTS_FILE, "pt") as opened:
            assert set(opened.metadata()) == {"format", files.DIGEST}


def load(path):
    return Swift.from_pretrained(LM.make(), path)


@pytest.mark.parametrize("text", ["{", "[]", "", "\x00", "[" * 5000])
def test_a_config_that_is_no_json_object(saved, text):
    for file in (saved / "a/adapter_config.json", saved / "extra_states/adapter_config.json"):
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(DataError, match=r"adapter_config\.json"):
            load(saved)
        file.write_text(before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"swift_type": "ADAPTR"}, "ADAPTR"),
        ({"swift_type": "../os"}, "os"),
        ({"colour": "red"}, "colour"),
        ({"dim": None, "act_layer": None}, "incomplete"),
        ({"swift_type": None, "peft_type": "LORAA"}, "LORAA"),
        (
            {"swift_type": "LORA", "peft_type": "LORA", "use_dora": True, "target_modules": 3, "layers_pattern": "a"},
            "adapter_config.json",
        ),
    ],
)
def test_a_config_of_no_known_kind(saved, change, says):
    file = saved / "a/adapter_config.json"
    values = json.loads(file.read_text()) if "peft_type" not in change else {"dim": 3}
    values.pop("dim") if change.get("dim", 0) is None else None
    file.write_text(json.dumps({key: value for key, value in {**values, **change}.items() if value is not None}))
    with pytest.raises(DataError, match=says):
        load(saved)


def test_an_old_field_is_read_past(saved):
    file = saved / "a/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_key_mapping": None}))
    assert isinstance(load(saved).adapters["a"], AdapterConfig)


@pytest.mark.parametrize("how", ["cut", "empty", "flipped header"])
def test_damaged_safetensors(saved, how):
    file = saved / "a/adapter_model.safetensors"
    data = file.read_bytes()
    file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "flipped header": b"\xff" + data[1:]}[how])
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(saved)
    assert caught.value.code == "CKPT-01"


def test_a_pickle_never_runs(saved, tmp_path):
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    (saved / "a/adapter_model.safetensors").unlink()
    for write in (lambda f: pickle.dump(Payload(), f), lambda f: torch.save({"a": Payload()}, f)):
        with (saved / "a/adapter_model.bin").open("wb") as file:
            write(file)
        with pytest.raises(DataError, match="cannot be read"):
            load(saved)
    torch.save({"a": 3}, saved / "a/adapter_model.bin")
    with pytest.raises(DataError, match="something else"):
        load(saved)
    assert not canary.exists()
    (saved / "a/adapter_model.bin").unlink()
    with pytest.raises(NotFoundError, match="adapter_model"):
        load(saved)


def test_extra_states_have_to_say_and_fit(saved):
    file = saved / "extra_states/adapter_config.json"
    file.write_text(json.dumps({"extra_state_keys": ["model.norm.*"]}))
    with pytest.raises(DataError, match="does not fit"):
        load(saved)
    file.write_text("{}")
    with pytest.raises(DataError, match="extra_state_keys"):
        load(saved)


def test_the_base_is_named_when_it_does_not_fit(tmp_path):
    base = LM.make()
    base.name_or_path = "models/one"
    Swift.prepare_model(base, {"a": lora()}).save_pretrained(tmp_path)
    from tests.tiny import tiny_model

    with pytest.raises(DataError) as caught:
        Swift.from_pretrained(tiny_model("qwen2", vocab_size=64, hidden=32, layers=3), tmp_path)
    assert caught.value.why == "it was trained on models/one"


def test_configuration_json_keeps_what_it_says(tmp_path):
    (tmp_path / "configuration.json").write_text('{"task": "chat"}')
    Swift.prepare_model(LM.make(), {"a": adapter()}).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "configuration.json").read_text()) == {"task": "chat", "adapters": ["a"]}
    (tmp_path / "configuration.json").write_text('{"adapters": 3}')
    assert list(files.find(tmp_path)) == ["a"]


def test_a_method_without_a_branch_says_so():
    config = SwiftConfig(target_modules=["x"])
    with pytest.raises(NotImplementedError):
        config.branch(torch.nn.Linear(1, 1))
    with pytest.raises(NotImplementedError):
        SwiftConfig.from_options(None, None)


def test_one_flipped_bit_of_the_tensors_is_seen(saved):
    file = saved / "a/adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(saved)
    assert caught.value.code == "CKPT-01"


@pytest.mark.parametrize("safe", [True, False])
def test_a_disk_that_fills_up_midway_leaves_all_as_it_was(safe, tmp_path, monkeypatch):
    model = Swift.prepare_model(LM.make(), {"a": adapter(), "b": lora()})
    model.save_pretrained(tmp_path / "old", safe_serialization=safe)
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    stir(model)
    write, written = storage.write_bytes, []

    def full(path, data, **options):
        written.append(path)
        if len(written) == 3:
            raise DiskError("DISK-01", "No space left")
        write(path, data, **options)

    monkeypatch.setattr(storage, "write_bytes", full)
    for place in ("old", "new"):
        written.clear()
        with pytest.raises(DiskError):
            model.save_pretrained(tmp_path / place, safe_serialization=not safe)
        assert len(written) == 3
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_the_card_names_what_is_there_and_gives_way(tmp_path):
    base = LM.make()
    base.name_or_path = "models/one"
    model = Swift.prepare_model(base, {"a": adapter(), "b": lora()})
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert 'base_model: "models/one"' in card
    assert "- `a`: ADAPTER\n- `b`: LORA\n" in card
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_config_says_what_it_is_and_of_which_base(tmp_path):
    Swift.prepare_model(LM.make(), {"a": adapter(), "b": lora()}).save_pretrained(tmp_path)
    for name, kind in {"a": "ADAPTER", "b": "LORA"}.items():
        values = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert values["swift_type"] == kind
        assert values["model_key_mapping"] is None
        assert set(values["base_fingerprint"]) == {"name", "half", "weights"}
