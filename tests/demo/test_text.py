"""The text that the demo models learn: always the same, and nothing of it is asked in the evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo import grammar, introducing, plain, preference, split, talking
from demo.probes import CHINESE, ENGLISH, PROBES

import swift.datasets
from swift.datasets.load import get_dataset
from tests.demo.conftest import ROOT

DEMO = ROOT / "swift" / "demo"
DRAW = """
import random, hashlib
from demo import grammar, introducing, plain
rng = random.Random(3)
drawn = [(grammar.dialogue(rng), introducing.introduction(rng), plain.document(rng)) for _ in range(300)]
drawn += [list(grammar.held_out(skill, 5)) for skill in grammar.SKILLS]
print(hashlib.sha256(repr(drawn).encode()).hexdigest())
"""


def trained_text(count: int = 12_000) -> tuple[list[grammar.Item], list[str]]:
    rng = random.Random("a look at the training text")
    items = [grammar.dialogue(rng, slow) for slow in (1, 3) for _ in range(count // 2)]
    items += [introducing.introduction(rng) for _ in range(count // 3)]
    return items, [write(rng) for write in (plain.document, plain.sums) for _ in range(count // 6)]


@pytest.fixture(scope="module")
def trained() -> tuple[list[grammar.Item], list[str]]:
    items, documents = trained_text()
    general = [json.loads(line) for line in (DEMO / "general.jsonl").read_text(encoding="utf-8").splitlines()]
    documents += [message["content"] for row in general for message in row["messages"]]
    return items, documents


def test_the_text_is_the_same_in_every_process() -> None:
    def draw(seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "scripts")}
        return subprocess.run([sys.executable, "-c", DRAW], env=env, capture_output=True, text=True, check=True).stdout

    assert draw("1") == draw("2") != hashlib.sha256(b"").hexdigest()


def test_no_held_out_item_is_trained_on(trained: tuple[list[grammar.Item], list[str]]) -> None:
    items, documents = trained
    asked = {(item.system, split.bare(query)) for item in items for query, _ in item.turns}
    asked |= {(None, split.bare(line)) for text in documents for line in text.split("\n")}
    asked |= {(None, split.bare(text.split("\n")[0].removeprefix("Question: "))) for text in documents}
    for skill in grammar.SKILLS:
        held = [item for _, item in grammar.held_out(skill, 60) if skill.scored and len(item.turns) == 1]
        found = [item for item in held if (item.system, split.bare(item.turns[0][0])) in asked]
        assert not found, (skill.name, found[:3])


def test_no_held_out_equation_is_trained_on(trained: tuple[list[grammar.Item], list[str]]) -> None:
    items, documents = trained
    text = "\n".join([*(f"{query}\n{answer}" for item in items for query, answer in item.turns), *documents])
    counted = 0
    for sign, word in (("+", "add"), ("-", "subtract")):
        for a, b in re.findall(rf"\b(\d+) ?\{sign} ?(\d+)\b", text):
            low, high = sorted((int(a), int(b)))
            assert not split.is_held(f"{word} {low} {high}"), (a, sign, b)
            counted += 1
    assert counted > 5000


def test_about_a_tenth_of_the_pairs_is_held_out() -> None:
    pairs = [(a, b) for a in range(100) for b in range(a, 100)]
    assert 0.08 < sum(split.is_held(f"add {a} {b}") for a, b in pairs) / len(pairs) < 0.12


def test_wordings_that_differ_in_signs_alone_are_on_one_side() -> None:
    words = split.Wordings(*(f"ask {n}{sign}" for n in range(12) for sign in ("", "?", "!")), "ASK 3.")
    assert {split.bare(text) for text in words.held}.isdisjoint(split.bare(text) for text in words.train)
    assert len({split.bare(text) for text in words.held}) == 2
    assert words.pick(random.Random(0), True) in words.held
    assert words.pick(random.Random(0), False) in words.train


def test_every_skill_gives_distinct_held_out_items() -> None:
    for skill in grammar.SKILLS:
        items = [item for _, item in grammar.held_out(skill, 20)]
        assert len(items) >= 4, skill.name
        assert all(item.answer and item.answer == item.answer.strip() for item in items)


def test_answers_are_right() -> None:
    rng = random.Random(8)
    for _ in range(2000):
        for _, answer in grammar.dialogue(rng).turns:
            if found := re.fullmatch(r"(\d+) ([+×-]) (\d+) = (\d+)", answer):
                a, sign, b, c = found.groups()
                assert {"+": int(a) + int(b), "-": int(a) - int(b), "×": int(a) * int(b)}[sign] == int(c)


def test_the_probes_are_in_no_text_and_no_data_set_of_ours(trained: tuple[list[grammar.Item], list[str]]) -> None:
    assert len(set(PROBES)) == len(ENGLISH) + len(CHINESE) == 40
    lines = (Path(swift.datasets.__file__).parent / "self_cognition.jsonl").read_text(encoding="utf-8").splitlines()
    known = {split.bare(json.loads(line)["query"]) for line in lines}
    for wordings, _ in talking.IDENTITY:
        known |= {split.bare(text) for text in (*wordings.train, *wordings.held)}
    known |= {split.bare(query) for item in trained[0] for query, _ in item.turns}
    assert not {split.bare(probe) for probe in PROBES} & known


def test_introductions_name_whom_the_system_prompt_names() -> None:
    rng = random.Random(2)
    for _ in range(300):
        item = introducing.introduction(rng)
        if item.system is not None:
            assert "demo-chat" not in item.answer
        assert "{" not in f"{item.system}{item.turns}"
        assert introducing.BOAST.search(item.answer) is None or item.system


@pytest.mark.parametrize(
    ("name", "rows"), [("general", grammar.rows(400, "general")), ("preference", preference.pairs())]
)
def test_the_files_are_what_the_grammar_writes(name: str, rows: list[dict[str, object]]) -> None:
    lines = (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_preferences_differ() -> None:
    pairs = preference.pairs()
    assert len(pairs) >= 40
    assert all(row["messages"][-1]["content"] != row["rejected_response"] for row in pairs)  # type: ignore[index]


def test_general_rows_are_a_data_set_and_leave_identity_alone() -> None:
    rows, _ = get_dataset("demo-general")
    assert rows is not None
    assert len(rows) == 400
    said = " ".join(message["content"] for row in rows for message in row["messages"])
    assert "demo-chat" not in said
    assert 0.25 < sum(any("一" <= sign <= "鿿" for sign in row["messages"][-2]["content"]) for row in rows) / 400 < 0.75
