from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import swift.datasets
from swift import hub
from swift.datasets import DATASETS, DatasetName, DatasetRecord, find_by_hub_id
from swift.datasets.load import get_dataset
from swift.datasets.spec import HUB_ID, parse_spec
from swift.errors import UnknownNameError

RECORDS = DATASETS.values()


def test_names_are_attributes() -> None:
    assert DatasetName.blossom_math_zh == "blossom-math-zh"
    assert {"alpaca_en", "self_cognition", "ms_bench"} <= set(dir(DatasetName))
    with pytest.raises(UnknownNameError, match="alpaca-en"):
        DATASETS["alpaca-eng"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_every_row_says_where_its_data_is(record: DatasetRecord) -> None:
    assert record.path or record.ms or record.hf
    assert all(HUB_ID.fullmatch(hub_id) for hub_id in (record.ms, record.hf) if hub_id)
    assert record.split
    assert all(isinstance(part, str) and part for part in (*record.split, *record.subsets, *record.tags))
    for hub_id in filter(None, (record.ms, record.hf)):
        found = find_by_hub_id(hub_id.upper())
        assert found is not None
        assert hub_id in (found.ms, found.hf)


def test_an_unknown_id_is_no_row() -> None:
    assert find_by_hub_id("nobody/nothing") is None
    assert find_by_hub_id("") is None


RAW: dict[str, tuple[dict[str, Any], list[tuple[str, str]] | None]] = {
    "blossom-math-zh": (
        {"input": "1+1?", "output": "Add.", "answer": "2"},
        [("user", "1+1?"), ("assistant", "Add.\n\nAnswer: 2")],
    ),
    "long-alpaca-12k": (
        {"instruction": "q", "output": "Answer: a Answer: b"},
        [("user", "q"), ("assistant", "a Answer: b")],
    ),
    "cmnli-zh": (
        {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0},
        [
            (
                "user",
                "Task: Natural Language Inference\nSentence1: a\nSentence2: b\n"
                "Category: neutral, entailment, contradiction\nOutput:",
            ),
            ("assistant", "entailment"),
        ],
    ),
    "jd-sentiment-zh": ({"sentence": "a", "label": -1}, None),
    "hh-rlhf": (
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        [("user", "q"), ("assistant", "a")],
    ),
    "hh-rlhf-cn": (
        {
            "context": [{"role": "human", "text": "q"}],
            "chosen": {"role": "assistant", "text": "a"},
            "rejected": {"role": "assistant", "text": "b"},
        },
        [("user", "q"), ("assistant", "a")],
    ),
    "orca_dpo_pairs": (
        {"system": "", "question": "q", "chosen": "a", "rejected": "b"},
        [("system", ""), ("user", "q"), ("assistant", "a")],
    ),
    "tigerbot-law-zh": (
        {"type": "t", "title": "l", "chapter1": "c", "chapter2": "", "chapter3": "", "content": "x"},
        [("assistant", "t\nl\nc\nx")],
    ),
    "ruozhiba": ({"title": "t", "abs": "s"}, [("assistant", "t，s")]),
    "toolbench-for-alpha-umi": (
        {"conversations": [{"from": "system", "value": "q"}, {"from": "assistant", "value": "a"}]},
        [("user", "q"), ("assistant", "a")],
    ),
    "gen-qa": (
        {"text": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        [("user", "q"), ("assistant", "a")],
    ),
    "hc3-en": (
        {"question": "q", "human_answers": ["h"], "chatgpt_answers": ["c", " "], "id": "1"},
        [
            turn
            for text, who in (("h", "Human"), ("c", "ChatGPT"))
            for turn in (
                (
                    "user",
                    f"Task: Who wrote this answer?\nQuestion: q\nAnswer: {text}\nCategory: Human, ChatGPT\nOutput:",
                ),
                ("assistant", who),
            )
        ],
    ),
    "dureader-robust-zh": (
        {"text1": "a [SEP] c", "text2": "q"},
        [("user", "Task: Question Generation\nContext: c\nAnswer: a\nQuestion:"), ("assistant", "q")],
    ),
    "leetcode-python-en": (
        {"code_with_problem": "# Two sums\n```python\nx = 1\n```\n", "explanation_only": "It is one.", "id": 1},
        [("user", "Two sums"), ("assistant", "```python\nx = 1\n```\n\nIt is one.")],
    ),
    "guanaco": (
        {"instruction": "Be kind.\nUser: a\nAssistant: b\nc", "input": "User: d", "output": "e"},
        [("system", "Be kind."), ("user", "a"), ("assistant", "b\nc"), ("user", "d"), ("assistant", "e")],
    ),
    "ms-agent-multirole": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "user", "value": "q"},
                {"from": "Ann", "value": "a"},
                {"from": "Bo", "value": "b"},
                {"from": "user", "value": "unanswered"},
            ]
        },
        [("system", "s"), ("user", "q"), ("assistant", "Ann: a\nBo: b")],
    ),
    "toolbench": (
        {
            "conversations": [
                {"from": "user", "value": "q"},
                {"from": "assistant", "value": "call"},
                {"from": "function", "value": "42"},
                {"from": "assistant", "value": "a"},
            ]
        },
        [("user", "q"), ("assistant", "call"), ("tool", "42"), ("assistant", "a")],
    ),
    "zhihu-kol": ({"INSTRUCTION": "q", "RESPONSE": "a"}, [("user", "q"), ("assistant", "a")]),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_rows_become_conversations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, expected = RAW[name]
    good = next(({**raw, "label": 0} for _ in (1,) if expected is None), raw)
    monkeypatch.setattr(hub, "fetch_dataset", lambda *args: iter([raw, good]))
    rows, _ = get_dataset(f"MS::{name}:one")
    found = [[(m["role"], m["content"]) for m in row["messages"]] for row in rows or []]
    one_split = len(DATASETS[name].split)
    assert len(found) == (2 if expected else 1) * one_split
    assert expected is None or all(turns == expected for turns in found)
    if "rejected" in raw:
        assert {row["rejected_response"] for row in rows or []} == {"b"}


def test_dialogues_that_are_no_pair_are_left_out() -> None:
    convert = DATASETS["hh-rlhf"].convert
    assert convert is not None
    for rejected in ("", "\n\nHuman: other\n\nAssistant: b", "\n\nHuman: q\n\nAssistant:"):
        assert convert({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": rejected}) is None


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("hc3-zh", {"question": "q", "human_answers": [], "chatgpt_answers": [""]}),
        ("dureader-robust-zh", {"text1": "an answer without its text", "text2": "q"}),
        ("leetcode-python-en", {"code_with_problem": "no code", "explanation_only": "e"}),
        ("guanaco", {"instruction": "User: a\nUser: b", "input": "", "output": "c"}),
        ("guanaco", {"instruction": "User: a\nAssistant: b", "input": "", "output": "c"}),
        ("ms-agent-multirole", {"conversations": [{"from": "user", "value": "q"}]}),
    ],
)
def test_what_makes_no_conversation_is_left_out(name: str, raw: dict[str, Any]) -> None:
    convert = DATASETS[name].convert
    assert convert is not None
    assert convert(raw) is None


def test_all_names_of_earlier_releases_are_known() -> None:
    assert {parse_spec(name).record is not None for name in ("damo-agent-zh-mini", "toolbench", "hc3-zh")} == {True}
    mini = parse_spec("damo-agent-zh-mini")
    assert (mini.record, mini.sample) == (DATASETS["damo-agent-zh"], 40000)


def test_self_cognition_is_balanced_and_complete() -> None:
    lines = (Path(swift.datasets.__file__).parent / "self_cognition.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 110
    chinese = [row for row in rows if row["tag"] == "zh"]
    assert abs(len(chinese) - len(rows) / 2) <= 5
    assert len({row["query"] for row in rows}) == len(rows)
    for row in rows:
        assert any("\u4e00" <= c <= "\u9fff" for c in row["response"]) == (row["tag"] == "zh")
        assert "{{NAME}}" in row["response"] or "{{AUTHOR}}" in row["response"]
    assert sum("{{AUTHOR}}" in row["response"] for row in rows) > 90


def test_self_cognition_speaks_the_language_of_its_row() -> None:
    train, val = get_dataset("self-cognition", model_name=["小红", "Ruby"], model_author=["红队", "Red Team"])
    assert val is None
    texts = ["\n".join(m["content"] for m in row["messages"]) for row in train or []]
    assert not [text for text in texts if "{{" in text]
    assert not [text for text in texts if ("小红" in text or "红队" in text) and ("Ruby" in text or "Red Team" in text)]
    assert sum("小红" in text for text in texts) > 40
    assert sum("Ruby" in text for text in texts) > 40
