"""What a model card says."""

from __future__ import annotations

import pytest
import yaml

from swift.publish.card import write_card
from swift.publish.told import Told


@pytest.mark.parametrize(("method", "loads"), [("bnb", True), ("gptq", True), ("hqq", False)])
def test_how_to_load_a_model_in_few_bits_is_what_can_load_it(method: str, loads: bool) -> None:
    card = write_card("ann/few", Told("quantized", "owner/base", report={"method": method, "bits": 4}), ())
    front = yaml.safe_load(card.split("---")[1])
    assert ("from transformers import" in card) == loads == (front.get("library_name") == "transformers")
    assert "swift infer --ckpt_dir few" in card
