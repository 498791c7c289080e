"""Where the parts of a model lie, and that it answers the same wherever that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from swift.arguments.infer import InferArguments
from swift.arguments.sft import SftArguments
from swift.commands.infer import infer_main
from swift.commands.sft import sft_main
from swift.errors import ConfigError, NotFoundError, SwiftError, UsageError
from swift.models.load import load_model
from swift.models.placing import check_trains, device_map_of, loading_options
from swift.models.source import find_model

SPREAD = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu", "model.norm": "disk"}
SPREAD |= {"model.rotary_emb": "cpu", "lm_head": "disk"}


def test_what_a_device_map_means(tmp_path: Path) -> None:
    assert device_map_of(None) is None
    assert device_map_of("auto") == "auto"
    assert device_map_of("cpu") == {"": "cpu"}
    (tmp_path / "map.json").write_text(json.dumps(SPREAD))
    assert device_map_of(str(tmp_path / "map.json")) == device_map_of(json.dumps(SPREAD)) == SPREAD
    with pytest.raises(NotFoundError, match="nowhere"):
        device_map_of("nowhere.json")
    for away in ("cuda:99", '{"model": 99, "lm_head": "cpu"}', '{"model": "gpu"}'):
        with pytest.raises(ConfigError, match="this process has no"):
            device_map_of(away)
    for text, message in (("[]", "object"), ('{"a": [1]}', "object"), ("{", "map.json")):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            device_map_of(str(tmp_path / "map.json"))


@pytest.mark.parametrize("dry", [False, True])
def test_a_device_that_is_not_there_is_told_before_rows_are_read(tiny_dir: Path, tmp_path: Path, dry: bool) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    said = SftArguments(
        model_id_or_path=str(tiny_dir),
        dataset=[str(tmp_path / "bad.jsonl")],
        output_dir=str(tmp_path / "out"),
        device_map="cuda:99",
        dry_run=dry,
    )
    with pytest.raises(SwiftError, match="this process has no cuda:99") as caught:
        sft_main(said)
    assert ("bad.jsonl" in str(caught.value)) == dry


def test_parts_on_disk_answer_the_same_and_do_not_train(tiny_dir: Path) -> None:
    source, ids = find_model(None, str(tiny_dir)), torch.arange(8)[None]
    whole = load_model(source, torch.float32)
    spread = load_model(source, torch.float32, **loading_options(json.dumps(SPREAD)))
    assert torch.equal(whole(input_ids=ids).logits, spread(input_ids=ids).logits)
    check_trains(whole)
    with pytest.raises(UsageError, match="out of the devices"):
        check_trains(spread)


def test_infer_takes_a_device_map(tiny_dir: Path) -> None:
    said = {
        "model_id_or_path": str(tiny_dir),
        "query": "Who?",
        "max_new_tokens": 4,
        "do_sample": False,
        "stream": False,
    }
    answers = [infer_main(InferArguments(**said, device_map=place)) for place in (None, "cpu", json.dumps(SPREAD))]
    assert answers[0] == answers[1] == answers[2]
