from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swift.datasets.convert import Conversation
from swift.datasets.encode import encode, length_statistics
from swift.datasets.judge import MOST, processes_for
from swift.datasets.ledger import Ledger
from swift.errors import DataError, InternalError
from swift.templates.template import get_template
from tests.datasets.fake import END, FakeTemplate


def talk(number: int, query: str = "q", response: str = "a") -> Conversation:
    return {
        "messages": [{"role": "user", "content": query}, {"role": "assistant", "content": response}],
        "where": f"x.jsonl:{number}",
    }


def opened(rows: list[Conversation], max_bad_rows: int = 0, split: str = "train") -> Ledger:
    ledger = Ledger(max_bad_rows)
    ledger.read("x.jsonl", len({row["where"] for row in rows}), "messages")
    ledger.use(split, rows)  # type: ignore[arg-type]
    return ledger


def test_rows_become_ids_and_labels_in_order() -> None:
    rows = [talk(1, "hello", "you"), talk(2), talk(3, "more", "text")]
    template = FakeTemplate()
    encoded = encode(rows, template, opened(rows), batch_size=2)
    assert encoded[1] == {"input_ids": [ord("q"), END, ord("a"), END], "labels": [-100, -100, ord("a"), END]}
    assert [encoded[i] for i in range(3)] == template.encode_batch(rows, [])
    assert encoded.lengths == [10, 4, 10]
    assert len(encoded) == 3
    assert template.calls == 3


def test_a_row_drawn_again_is_encoded_once() -> None:
    row, other = talk(1), talk(2, "b")
    rows = [row, other, row, row]
    encoded = encode(rows, FakeTemplate(), opened(rows))
    assert encoded[0] == encoded[2] == encoded[3] != encoded[1]
    assert len(encoded.rows) == 2


def test_what_cannot_be_learnt_is_counted() -> None:
    long = talk(2, "q" * 50)
    rows = [talk(1), long, long, talk(3, "q", "~")]
    ledger = opened(rows)
    encoded = encode(rows, FakeTemplate(max_length=20, silent="~"), ledger)
    assert len(encoded) == 1
    assert ledger.dropped == {"longer than 20 tokens": ["x.jsonl:2"], "no supervised token": ["x.jsonl:3"]}
    assert ledger.balanced
    assert (ledger.parts["train"].rows, ledger.parts["train"].examples) == (1, 1)


def test_rows_that_are_cut_are_told_and_trained() -> None:
    rows = [talk(1), talk(2, "q" * 50), talk(3, "q", "a" * 50)]
    ledger = opened(rows)
    encoded = encode(rows, FakeTemplate(max_length=20, truncation_strategy="truncation_left"), ledger)
    assert encoded.lengths == [4, 20, 20]
    assert ledger.cut == ["x.jsonl:2", "x.jsonl:3"]
    assert ledger.summary().endswith("= 3 trained + 0 validation (2 cut to the maximal length)")


def test_tokens_that_are_cut_off_are_counted(tokenizer: Any) -> None:
    rows = [talk(1), talk(2, "long " * 60), talk(3, "long " * 60)]
    whole = encode(rows, get_template("qwen", tokenizer), opened(rows)).lengths
    ledger = opened(rows)
    encoded = encode([*rows, rows[1]], get_template("qwen", tokenizer, None, 50, "truncation_left"), ledger)
    assert encoded.lengths[1:] == [50] * 3
    assert ledger.parts["train"].truncated == 3 * (whole[1] - 50)


def test_nothing_predicts_the_first_token() -> None:
    class Prompts(FakeTemplate):
        def encode_batch(self, rows: Any, errors: Any) -> list[dict[str, Any]]:
            return [{"input_ids": [5, 6], "labels": [5, -100]}, {"input_ids": [5, 6], "labels": [5, 6]}]

    rows = [talk(1), talk(2)]
    ledger = opened(rows)
    assert len(encode(rows, Prompts(), ledger)) == 1
    assert ledger.dropped == {"no supervised token": ["x.jsonl:1"]}


def test_several_processes_give_what_one_gives() -> None:
    rows = [talk(k, "!" if k == 7 else "q" * (k % 9), "a" * (k % 5 + 1)) for k in range(1, 40)]
    rows.append(rows[3])

    def done(processes: int) -> tuple[list[Any], dict[str, Any], list[int]]:
        ledger = opened(rows, max_bad_rows=1)
        template = FakeTemplate(max_length=9, refuses="!")
        encoded = encode(rows, template, ledger, batch_size=4, processes=processes)
        return [encoded[k] for k in range(len(encoded))], ledger.to_json(), [template.calls]

    one, two = done(1), done(2)
    assert one[:2] == two[:2]
    assert two[2] == [0]  # all of it was done elsewhere
    assert one[1]["dropped"].keys() == {"bad row", "longer than 9 tokens"}


def test_a_killed_process_is_told() -> None:
    class Killed(FakeTemplate):
        def encode_batch(self, rows: Any, errors: Any) -> list[dict[str, Any]]:
            os.kill(os.getpid(), signal.SIGKILL)
            return []

    rows = [talk(k) for k in range(8)]
    with pytest.raises(InternalError, match="a process that encodes rows was killed"):
        encode(rows, Killed(), opened(rows), batch_size=2, processes=2)


def test_processes_end_with_the_one_that_reads(tmp_path: Path) -> None:
    code = """
import os, time
from swift.datasets.judge import Line
from tests.datasets.fake import FakeTemplate
from tests.datasets.test_encode import talk
class Slow(FakeTemplate):
    def encode_batch(self, rows, errors):
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(600)
line = Line(Slow(), 2)
for k in range(2):
    list(line.send([talk(k)]))
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        try:
            pids = [int(reader.stdout.readline()) for _ in range(2)]
        finally:
            reader.kill()
    deadline = time.monotonic() + 60
    while any(map(is_there, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_there, pids))


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("said", "parallelism", "threads", "expected"),
    [
        (3, "false", "1", 3),
        (None, "false", "4", 1),
        (None, None, "4", 4),
        (None, "true", "99", MOST),
        (None, "true", "1", 1),
    ],
)
def test_how_many_processes_encode(
    monkeypatch: pytest.MonkeyPatch, said: int | None, parallelism: str | None, threads: str, expected: int
) -> None:
    if parallelism is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    else:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallelism)
    monkeypatch.setenv("RAYON_NUM_THREADS", threads)
    assert processes_for(said) == expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes_for(said) == (said or 1)


def test_a_row_without_labels_is_nothing_to_learn() -> None:
    class Silent(FakeTemplate):
        def encode_batch(self, rows: Any, errors: Any) -> list[dict[str, Any]]:
            return [{**inputs, "labels": None} for inputs in super().encode_batch(rows, errors)]

    rows = [talk(1)]
    with pytest.raises(DataError, match="1 no supervised token"):
        encode(rows, Silent(), opened(rows))


def test_a_row_that_the_template_refuses_has_a_name() -> None:
    rows = [talk(1), talk(2, "!"), talk(3)]
    with pytest.raises(DataError) as caught:
        encode(rows, FakeTemplate(refuses="!"), opened(rows))
    assert (caught.value.code, caught.value.what) == ("DATA-06", 'x.jsonl:2: "messages[0]" does not fit')
    ledger = opened(rows, max_bad_rows=1)
    assert len(encode(rows, FakeTemplate(refuses="!"), ledger)) == 2
    assert ledger.dropped == {"bad row": ["x.jsonl:2"]}
    assert ledger.balanced


@pytest.mark.parametrize(("split", "purpose"), [("train", "train"), ("validation", "validate")])
def test_nothing_left_is_refused_with_counts(split: str, purpose: str) -> None:
    rows = [talk(1), talk(2)]
    with pytest.raises(DataError) as caught:
        encode(rows, FakeTemplate(max_length=2), opened(rows, split=split), split=split)  # type: ignore[arg-type]
    error = caught.value
    assert (error.code, error.exit_code) == ("DATA-05", 65)
    assert f"to {purpose} on" in error.what
    assert "2 longer than 2 tokens" in (error.why or "")
    assert "--max_length" in (error.fix or "")
    assert ("--dataset_test_ratio 0" in (error.fix or "")) == (split == "validation")


def test_no_rows_at_all() -> None:
    with pytest.raises(DataError, match="add rows"):
        encode([], FakeTemplate(), Ledger())


def test_length_statistics() -> None:
    assert length_statistics([2, 4]) == "3.0±1.0, min 2, max 4, size 2"


def test_the_real_template(tokenizer: Any) -> None:
    template = get_template("qwen", tokenizer, max_length=60)
    rows = [talk(1, "Who are you?", "A model."), talk(2, "long " * 60), talk(3, "你好", "你好。")]
    ledger = opened(rows)
    encoded = encode(rows, template, ledger)
    assert [encoded[i] for i in range(2)] == [template.encode(rows[i])[0] for i in (0, 2)]
    assert ledger.dropped == {"longer than 60 tokens": ["x.jsonl:2"]}
    said = [label for label in encoded[0]["labels"] if label != -100]
    assert tokenizer.decode(said) == "A model.<|im_end|>"
    double: Any = {"messages": [{"role": "user", "content": "a"}] * 2, "where": "x.jsonl:9"}
    with pytest.raises(DataError, match=r"x\.jsonl:9: message 1"):
        encode([double], template, opened([double]))


TEXTS = st.text("ab \n<|im_end>你好\u0301", max_size=12)
TALKS = st.lists(st.tuples(TEXTS, st.text("xyz !<|im_end|>", min_size=1, max_size=8)), min_size=1, max_size=3)


def slowly(tokenizer: Any, rounds: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """ChatML by hand: each stretch of a conversation tokenised in a call of its own, what is said kept as labels."""
    ids: list[int] = []
    labels: list[int] = []

    def plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    start, end = (tokenizer.convert_tokens_to_ids(text) for text in ("<|im_start|>", "<|im_end|>"))
    for k, (asked, said) in enumerate(rounds):
        shown = [*([start] if not k else [*plain("\n"), start])]
        shown += [*plain(f"user\n{asked}"), end, *plain("\n"), start, *plain("assistant\n")]
        learnt = [*plain(said), end]
        ids += shown + learnt
        labels += [-100] * len(shown) + learnt
    return ids, labels


@given(st.lists(TALKS, min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_fast_path_is_the_slow_one_token_for_token(tokenizer: Any, talks: list[list[tuple[str, str]]]) -> None:
    rows: list[Conversation] = []
    for k, rounds in enumerate(talks):
        messages = [
            {"role": role, "content": text}
            for pair in rounds
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        rows.append({"messages": messages, "where": f"x.jsonl:{k + 1}"})  # type: ignore[typeddict-item]
    encoded = encode(rows, get_template("chatml", tokenizer, ""), opened(rows), batch_size=4)
    for row, rounds in zip([encoded[k] for k in range(len(encoded))], talks, strict=True):
        ids, labels = slowly(tokenizer, rounds)
        assert tokenizer.decode(row["input_ids"]) == tokenizer.decode(ids)
        assert row == {"input_ids": ids, "labels": labels}
