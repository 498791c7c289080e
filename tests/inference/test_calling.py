"""Answers that have to call a tool, whatever the model would rather say."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from swift.errors import UsageError
from swift.inference.calling import CallConstraint, find_wording
from swift.templates.calls import read_calls
from swift.templates.template import get_template
from tests.inference.test_tools import CALLS
from tests.templates.test_check import shipped, tokenizer_of

pytest.importorskip("llguidance")
READABLE = ("qwen3", "qwen3_instruct_2507", "llama3_1", "gemma3", "cohere2", "phi3_5")
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Ōtsu", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
DAYS = {"type": "object", "properties": {"days": {"type": "integer", "minimum": 2, "maximum": 4}}, "required": ["days"],
        "additionalProperties": False}  # fmt: skip
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "look-ahead", "parameters": DAYS}},
    {"type": "function", "function": {"name": "stay"}},
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(shipped("qwen2_5"))


def written(tokenizer: Any, template: Any, seed: int, tools: Any = TOOLS, several: bool = True) -> str:
    """What a model without any sense says under the constraint."""
    constraint = CallConstraint(tokenizer, template.stop_ids, find_wording(template), tools, several)
    generator, ids = torch.Generator().manual_seed(seed), []
    for _ in range(300):
        logits = torch.randn(len(tokenizer), generator=generator)
        logits[template.stop_ids] += 1.0
        token = int(constraint.allow(logits).argmax())
        constraint.accept(token)
        if token in template.stop_ids:
            break
        ids.append(token)
    return template.generate_ids_to_response([*ids, *template.end_ids])


def checked(name: str, arguments: Any) -> bool:
    if name == "get_weather":
        return arguments["city"] in ("Ōtsu", "Oslo") and len(arguments) == 1
    return arguments["days"] in (2, 3, 4) if name == "look-ahead" else isinstance(arguments, dict)


@pytest.mark.parametrize(("kind", "style", "_"), CALLS)
def test_whatever_a_model_says_is_a_call_that_fits(tokenizer: Any, kind: str, style: str | None, _: str) -> None:
    template = get_template(kind, tokenizer, tools_prompt=style)
    names = [tool["function"]["name"] for tool in TOOLS]
    seen = set()
    for seed in range(6):
        said, calls = read_calls(written(tokenizer, template, seed, TOOLS[:2]), template.tools_name, names)
        assert calls
        assert all(checked(call.name, call.arguments) for call in calls)
        assert said in ("", "<think>\n\n</think>")
        seen.add(calls[0].name)
    assert seen == {"get_weather", "look-ahead"}
    assert (
        read_calls(written(tokenizer, template, 0, TOOLS[1:2]), template.tools_name, names)[1][0].name == "look-ahead"
    )


def test_one_or_several(tokenizer: Any) -> None:
    template = get_template("qwen2_5", tokenizer)
    names = [tool["function"]["name"] for tool in TOOLS]

    def counts(several: bool) -> set[int]:
        texts = [written(tokenizer, template, seed, TOOLS[:2], several) for seed in range(12)]
        return {len(read_calls(text, template.tools_name, names)[1]) for text in texts}

    assert counts(False) == {1}
    assert max(counts(True)) > 1
    assert find_wording(get_template("qwen", tokenizer)).between is None


@pytest.mark.parametrize("name", READABLE)
def test_the_models_own_templates(name: str) -> None:
    template = get_template("auto", tokenizer_of(shipped(name)))
    calls = read_calls(written(template.tokenizer, template, 1, TOOLS[:1]), template.tools_name, ["get_weather"])[1]
    assert json.loads(calls[0].json)["city"] in ("Ōtsu", "Oslo")


def test_a_template_whose_calls_cannot_be_read_says_so() -> None:
    template = get_template("auto", tokenizer_of(shipped("gptoss")))
    with pytest.raises(UsageError, match="writes no calls"):
        find_wording(template)
