"""PaddleNLP's names on a model that two processes share: trained, saved and loaded as in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parallel import paddle
from tests.parallel.group import found
from tests.tiny import save_tiny


@pytest.mark.slow
def test_lora_and_prefixes_of_two_processes(tmp_path: Path) -> None:
    save_tiny(tmp_path / "m", "llama")
    report = found(Path(paddle.__file__), 2, tmp_path / "out.json", tmp_path / "m")
    for name in ("lora", "prefix plain", "prefix projected"):
        values = report[name]
        assert values.pop("learnt") < -0.005
        assert values.pop("cut") > 0
        assert max(values.values()) < 1e-5, (name, values)
        files = report[f"{name} files"]
        assert files.pop("refused") == 1
        assert len(files) == 5
        assert max(files.values()) < 1e-5, (name, files)
    written = {path.name for path in (tmp_path / "out" / "lora" / "parts").iterdir()}
    assert written == {"lora_config.json", "lora_model_state.tp00.pdparams", "lora_model_state.tp01.pdparams"}
    one = json.loads((tmp_path / "out" / "lora" / "merged" / "lora_config.json").read_text())
    assert one["tensor_parallel_degree"] == -1
