"""Whatever trains, and however rows come: a run that goes on is the one that never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.prove.resume import same_log
from scripts.prove.ways import CHAT, COMMON, WAYS, train, unlike
from swift.commands.sft import sft_main
from swift.errors import ConfigError

QUICK = ("AdaLoRA",)  # packs: tests/road/test_packing.py; streams: test_stream.py; LISA and GaLore: tests/trainers


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way in QUICK else pytest.mark.slow) for way in WAYS])
def test_going_on_is_never_having_stopped(way: str, here: Path) -> None:
    train(way)
    assert unlike(here) == []
    assert same_log(here / "straight" / "checkpoint-6", here / "on" / "checkpoint-6")


def test_other_rows_of_the_same_number_are_refused(here: Path) -> None:
    sft_main([*COMMON, *CHAT, "--output_dir", "straight"])
    (here / "other.jsonl").write_text((here / "chat.jsonl").read_text().replace("Paris", "Lyon!"))
    on = ["--output_dir", "on", "--resume_from_checkpoint", "straight/checkpoint-3"]
    with pytest.raises(ConfigError, match=r"data was [0-9a-f]{12}…, is [0-9a-f]{12}…") as caught:
        sft_main([*COMMON, *on, "--dataset", "other.jsonl", "--lora_alpha", "64", "--learning_rate", "1e-3"])
    assert "rows was" not in str(caught.value)
    assert "learning_rate was 0.01, is 0.001" in str(caught.value)
    assert "lora_alpha was 32, is 64" in str(caught.value)
    assert caught.value.exit_code == 78
