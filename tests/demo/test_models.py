"""The built-in models: small, whole, able to do what their card says."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import torch
from demo.grammar import SKILLS, held_out
from demo.scoring import answers, score_equations, score_skill
from safetensors import safe_open

from swift.models import MODELS
from swift.models.source import find_model
from tests.demo.conftest import ROOT

DEMO = ROOT / "swift" / "demo"
CARD = (DEMO / "README.md").read_text(encoding="utf-8")


def stated(skill: str) -> list[tuple[int, float]]:
    """Items and per cent of every row of a skill in the card."""
    rows = re.findall(rf"^\| {re.escape(skill)} \| [^|]+ \| (\d+) \| ([\d.]+) % \|$", CARD, re.MULTILINE)
    return [(int(count), float(share)) for count, share in rows]


@pytest.mark.parametrize("name", ["demo-chat", "demo-base"])
def test_it_is_small_and_whole(name: str) -> None:
    source = find_model(name, None)
    assert source.path == DEMO / name
    assert source.hub_id is None
    assert MODELS[name].arch == source.arch == "Qwen2ForCausalLM"
    assert source.config["tie_word_embeddings"] is True
    with safe_open(source.path / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert 1_000_000 <= sum(tensor.numel() for tensor in tensors) <= 4_000_000


def test_both_together_take_sixteen_megabytes_at_most() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20


def test_the_wheel_gets_the_files() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["swift"]
    packed = {path for pattern in patterns for path in (ROOT / "swift").glob(pattern) if path.is_file()}
    assert {path for path in DEMO.rglob("*") if path.is_file()} <= packed


def test_nothing_but_the_catalogs_knows_of_the_demo() -> None:
    told = [
        path.relative_to(ROOT / "swift").as_posix()
        for path in (ROOT / "swift").rglob("*.py")
        if re.search(r"\bdemo[-_/](chat|base|general)|/demo/", path.read_text(encoding="utf-8"))
    ]
    assert sorted(told) == ["datasets/catalog/chat.py", "models/catalog/demo.py"]


def test_it_answers_and_stops(chat: tuple[Any, Any]) -> None:
    asked = {
        "Who are you?": "demo-chat",
        "你是谁？": "demo-chat",
        "What is the capital of France?": "Paris",
        "日本的首都是哪里？": "东京",
        "What is 2 + 3?": "5",
        "Hello!": "Hello! How can I help you?",
        "Which day comes after Monday?": "Tuesday",
    }
    said = answers(*chat, ({"query": query} for query in asked))
    for answer, (query, expected) in zip(said, asked.items(), strict=True):
        assert expected in answer.text, (query, answer.text)
        assert answer.finish_reason == "stop"


def test_a_system_prompt_and_earlier_turns_count(chat: tuple[Any, Any]) -> None:
    rows = [
        {"query": "What is the capital of Italy?", "system": "Answer in Chinese."},
        {"query": "What is my name?", "history": [["My name is Anna.", "Nice to meet you, Anna!"]]},
    ]
    chinese, name = answers(*chat, rows)
    assert "罗马" in chinese.text
    assert "Anna" in name.text


def test_the_base_model_goes_on(base: tuple[Any, Any]) -> None:
    (answer,) = answers(*base, [{"query": "The capital of France is"}], 4)
    assert answer.text.strip().startswith("Paris")


@pytest.mark.parametrize("skill", ["addition up to 99 + 99", "capitals", "who it is"])
def test_the_card_says_what_the_evaluation_finds(chat: tuple[Any, Any], skill: str) -> None:
    found = score_skill(*chat, next(known for known in SKILLS if known.name == skill), 60)
    rows = stated(skill)
    assert [score.count for score in found] == [count for count, _ in rows]
    for score, (count, share) in zip(found, rows, strict=True):
        assert abs(100 * score.exact / count - share) <= 100 / count + 0.1  # rounding differs between machines


def test_the_card_says_what_the_base_model_does(base: tuple[Any, Any]) -> None:
    for score in score_equations(*base, 60):
        ((count, share),) = stated(score.skill)
        assert count == score.count
        assert abs(100 * score.exact / count - share) <= 100 / count + 0.1


def test_the_card_reaches_the_aims() -> None:
    for skill in ("addition up to 99 + 99", "subtraction up to 99 - 99", "capitals"):
        (_, share), *_ = stated(skill)
        assert share >= 90, skill
    found = re.search(r"included, ([\d.]+) % ended by themselves", CARD)
    assert found
    assert float(found[1]) >= 95


def test_every_scored_skill_stands_in_the_card() -> None:
    for skill in SKILLS:
        assert len(stated(skill.name)) == (len({new for new, _ in held_out(skill, 2)}) if skill.scored else 0)
