"""DeepSpeed's ZeRO on two gloo processes trains what one process does; its configurations and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from swift import storage
from swift.errors import ConfigError, MissingPackageError, NotFoundError, UsageError
from swift.trainers import zero
from tests.trainers import shared
from tests.trainers.test_fsdp import alone, check_alike, check_rows_together

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
STAGES = ("default-zero1", "default-zero2", "default-zero3", "zero2-offload", "zero3-offload")


def written(checkpoint: Path) -> dict[str, Any]:
    """The weights of a checkpoint by file."""
    files = checkpoint.rglob("*.safetensors")
    return {str(path.relative_to(checkpoint)): shared.load_file(path) for path in files}


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("kind", ["lora", "full", "ours", "dora", "plus"])
def test_every_stage_trains_as_one_process_does(tmp_path: Path, kind: str) -> None:
    alone(tmp_path, ("one", kind, {}))
    shared.group(tmp_path, [{"label": stage, "kind": kind, "said": {"deepspeed": stage}} for stage in STAGES])
    plain = written(tmp_path / "one" / "checkpoint-6")
    for stage in STAGES:
        check_alike(tmp_path, stage, "one")
        saved = tmp_path / stage / "checkpoint-6"
        assert storage.verify(saved) == []
        assert written(saved).keys() == plain.keys()
        for name, weights in written(saved).items():
            assert shared.furthest(plain[name], weights) <= 1e-5


@pytest.mark.slow
@needs_deepspeed
def test_rows_put_together_train_with_zero_too(tmp_path: Path) -> None:
    check_rows_together(tmp_path, {stage: {"deepspeed": stage} for stage in ("zero2", "zero3")})


@pytest.mark.slow
@needs_deepspeed
def test_zero_goes_on_exactly(tmp_path: Path) -> None:
    ways = [(stage, kind) for stage in ("zero2", "zero3", "zero2-offload") for kind in ("lora", "full", "ours")]
    cases = [{"label": f"{stage}-{kind}", "kind": kind, "said": {"deepspeed": stage}} for stage, kind in ways]
    shared.group(tmp_path, cases)
    later = [
        {"resume": str(tmp_path / case["label"] / "checkpoint-3"), "label": f"again-{case['label']}"} for case in cases
    ]
    shared.group(tmp_path, [{**case, **more} for case, more in zip(cases, later, strict=True)])
    for case in cases:
        straight, again = (shared.read(tmp_path, label)[1] for label in (case["label"], f"again-{case['label']}"))
        assert all(torch.equal(straight[name], again[name]) for name in straight), case["label"]


@needs_deepspeed
def test_configurations(tmp_path: Path) -> None:
    for name in STAGES:
        config = zero.read_config(name)
        assert zero.stage_of(config) == int(name.removeprefix("default-")[4])
        assert zero.offloads(config) == name.endswith("offload")
        assert "optimizer" not in config  # ours decides its groups
    assert zero.read_config("default-zero3") == zero.read_config("zero3")
    own: dict[str, Any] = {"zero_optimization": {"stage": 2}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    assert zero.read_config(str(tmp_path / "own.json")) == zero.read_config(json.dumps(own)) == own
    with pytest.raises(NotFoundError, match="zero4"):
        zero.read_config("zero4")
    for part in ('{"stage": 0}', '{"stage": 9}', '{"stage": "two"}', "2"):
        with pytest.raises(ConfigError, match="no ZeRO stage"):
            zero.read_config(f'{{"zero_optimization": {part}}}')
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="object"):
        zero.read_config(str(tmp_path / "list.json"))
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ConfigError, match="torn"):
        zero.read_config(str(tmp_path / "torn.json"))


@needs_deepspeed
def test_what_differs_from_the_options_is_named() -> None:
    filled = HfTrainerDeepSpeedConfig({"train_micro_batch_size_per_gpu": 7, "gradient_clipping": "auto"})
    zero.check_agrees(filled)
    filled.fill_match("train_micro_batch_size_per_gpu", 2, "per_device_train_batch_size")
    with pytest.raises(ConfigError, match="size_per_gpu=7 there, per_device_train_batch_size=2 here"):
        zero.check_agrees(filled)
    with pytest.raises(ConfigError, match="--deepspeed: no such bucket"), zero.told_as_said():
        raise ValueError("no such\n bucket")
    with pytest.raises(UsageError, match=r"^error\[USAGE-01\]: told"), zero.told_as_said():
        raise UsageError("USAGE-01", "told already")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="deepspeed") as caught:
        zero.read_config("default-zero2")
    assert "[deepspeed]" in str(caught.value)


def test_what_is_compiled_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(zero.logger, "info", said.append)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(zero.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    config = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    zero.prepare_build(config)
    assert "cpu_adam" in said[0]
    for name in (zero.COLLECTIVES, zero.ADAM):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.so").touch()
    zero.prepare_build(config)
    assert len(said) == 1
    monkeypatch.setattr(zero.shutil, "which", lambda tool: None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="g\\+\\+"):
        zero.prepare_build(config)
