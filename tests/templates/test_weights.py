"""What is learnt of a conversation, and how much: never another id, and a loss that no cut of a step changes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.errors import SwiftError
from swift.templates.template import get_template
from swift.templates.weights import CHOICES, RULES, find_loss_scale, read_rules
from swift.trainers import loss as losses
from tests.templates.chats import chat_tokenizer, marked_tokenizer, talk

REACT = "Thought: look\nAction: find\nAction Input: {}\nObservation: 18 degrees\nThought: done\nFinal Answer: 18"
NAMES = [*CHOICES, *RULES]
WORDS = st.sampled_from(
    ["Action:", "Action Input:", "Observation:", "Thought:", "Next:", " a", "\n", "答", "x1", "<s>"]
)


def templates(loss_scale: str = "default"):
    yield get_template("qwen", marked_tokenizer(), loss_scale=loss_scale)
    yield get_template("auto", chat_tokenizer("qwen2.5"), loss_scale=loss_scale)


def weighed(template, row: dict) -> list[tuple[str, float]]:
    """The learnt text of a row in stretches of equal weight."""
    inputs = template.encode(row)[0]
    scales = inputs.get("loss_scale") or [float(label != -100) for label in inputs["labels"]]
    found: list[tuple[list[int], float]] = []
    for label, scale in zip(inputs["labels"], scales, strict=True):
        assert (label == -100) == (scale == 0)
        if not found or found[-1][1] != scale:
            found.append(([], scale))
        found[-1][0].append(label)
    return [(template.tokenizer.decode(ids), scale) for ids, scale in found if scale]


@pytest.mark.parametrize("name", NAMES)
@given(reply=st.lists(WORDS, min_size=1, max_size=9).map("".join))
@settings(max_examples=25, deadline=None)
def test_weights_change_no_id(name, reply):
    row = talk("Why?", "So.", "What next?", reply)
    for plain, template in zip(templates(), templates(name), strict=True):
        inputs = template.encode(row)[0]
        assert inputs["input_ids"] == plain.encode(row)[0]["input_ids"]
        assert len(inputs["labels"]) == len(inputs["input_ids"])
        assert template.encode_batch([row, row]) == [inputs, inputs]
        if name in RULES:
            assert len(inputs["loss_scale"]) == len(inputs["input_ids"])


def test_calls_of_tools_weigh_more_and_what_tools_say_nothing():
    for template in templates("react"):
        found = weighed(template, talk("How warm?", REACT))
        assert [weight for _, weight in found] == [1, 2, 1]
        assert found[1][0] == "Action: find\nAction Input: {}\nObservation:"
        assert found[2][0] == "Thought: done\nFinal Answer: 18<|im_end|>"


def test_arguments_weigh_three_times_with_agent_flan():
    for template in templates("agent-flan"):
        assert (" find\n", 3.0) in weighed(template, talk("How warm?", REACT))


@pytest.mark.parametrize(
    ("name", "expected"), [("default", ["So.", "Now."]), ("last_round", ["Now."])], ids=["default", "last_round"]
)
def test_which_replies_are_learnt(name, expected):
    for template in templates(name):
        found = weighed(template, talk("Why?", "So.", "When?", "Now."))
        assert [text for text, _ in found] == [f"{text}<|im_end|>" for text in expected]


def test_all_learns_prompts_too():
    for template in templates("all"):
        inputs = template.encode(talk("Why?", "So."))[0]
        assert inputs["labels"] == inputs["input_ids"]
        assert "loss_scale" not in inputs


def test_a_message_says_itself_what_it_weighs():
    row = talk("Why?", "So.", "When?", "Now.", "Sure?", "Yes.")
    for k, loss in ((1, False), (3, 0.5), (5, True)):
        row["messages"][k]["loss"] = loss
    for template in (*templates(), *templates("last_round")):
        assert weighed(template, row) == [("Now.<|im_end|>", 0.5), ("Yes.<|im_end|>", 1.0)]


def test_an_end_that_is_not_learnt_is_still_shown():
    row = talk("Why?", "So.")
    row["messages"][1]["loss"] = False
    for plain, template in zip(templates(), templates(), strict=True):
        inputs = template.encode(row)[0]
        assert inputs["input_ids"] == plain.encode(talk("Why?", "So."))[0]["input_ids"]
        assert set(inputs["labels"]) == {-100}


@pytest.mark.parametrize("loss", ["yes", -1, float("nan"), float("inf"), [1]])
def test_a_weight_that_is_none_is_refused(loss):
    row = talk("Why?", "So.")
    row["messages"][1]["loss"] = loss
    for template in templates():
        with pytest.raises(SwiftError, match="loss"):
            template.encode(row)


def test_a_question_is_not_learnt_by_its_own_word():
    row = talk("Why?", "So.")
    row["messages"][0]["loss"] = True
    with pytest.raises(SwiftError, match="--loss_scale all"):
        next(templates()).encode(row)


def test_rules_from_a_file(tmp_path):
    rules = {"Answer:": [1, 4], "[0-9]+": [5], "query": {"Name the tool": [3]}}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    for template in templates(str(tmp_path / "rules.json")):
        found = weighed(template, talk("How warm?", "So 7\nAnswer: yes"))
        assert [weight for _, weight in found] == [1, 5, 1, 4, 1]
        assert weighed(template, talk("Name the tool", "It is find")) == [("It is find", 3.0), ("<|im_end|>", 1.0)]


@pytest.mark.parametrize(
    "value", [[], {"a": []}, {"a": [1, 2, 3]}, {"a": "x"}, {"(": [1]}, {"(a)": [1]}, {"query": 3}, {"a": [-1]}, {"": 1}]
)
def test_what_are_no_rules_is_refused(value):
    with pytest.raises(SwiftError, match="loss_scale here"):
        read_rules(value, "here")


def test_names_and_files_that_are_none(tmp_path):
    with pytest.raises(SwiftError, match="last_round"):
        find_loss_scale("last-round")
    with pytest.raises(SwiftError, match="not a file"):
        find_loss_scale(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SwiftError, match="not JSON"):
        find_loss_scale(str(tmp_path / "bad.json"))


def test_pieces_cover_the_reply():
    for name in RULES:
        pieces = find_loss_scale(name).pieces(REACT, "")
        ends = [end for end, _ in pieces]
        assert ends == sorted(set(ends))
        assert ends[-1] == len(REACT)


def test_a_batch_without_weights_beside_one_with_them():
    template = next(templates())
    row = talk("Why?", "So.")
    row["messages"][1]["loss"] = 2
    plain, heavy = template.encode(talk("Why?", "So it is."))[0], template.encode(row)[0]
    batch = template.data_collator([plain, heavy])
    assert batch["loss_scale"].shape == batch["labels"].shape
    assert torch.equal(batch["loss_scale"] > 0, batch["labels"] != -100)
    assert batch["loss_scale"][1].max() == 2
    assert "loss_scale" not in template.data_collator([plain, plain])


@given(st.integers(1, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_the_loss_of_a_step_is_the_weighted_mean_however_it_is_cut(cut, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits_BTV = torch.randn(6, 5, 7, generator=generator, dtype=torch.float64)
    targets_BT = torch.randint(-1, 7, (6, 5), generator=generator)
    targets_BT[targets_BT == -1] = -100
    weights_BT = torch.rand(6, 5, generator=generator, dtype=torch.float64) * 3
    each = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    on = (targets_BT != -100).flatten()
    expected = (each * weights_BT.flatten())[on].sum() / weights_BT.flatten()[on].sum()
    parts = [
        losses.sum_losses(logits_BTV[part], targets_BT[part], weights_BK=weights_BT[part])
        for part in (slice(cut), slice(cut, None))
    ]
    found = sum(part.loss for part in parts) / sum(part.weight for part in parts)
    assert abs(float(found - expected)) <= 1e-12


def test_weights_of_one_are_the_loss_without_weights():
    logits_BTV, targets_BT = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3))
    plain, weighty = (
        losses.sum_losses(logits_BTV, targets_BT, weights_BK=weights) for weights in (None, torch.ones(2, 3))
    )
    assert torch.equal(plain.loss, weighty.loss)
    assert float(plain.weight) == float(weighty.weight) == 6


def test_what_a_batch_weighs_leaves_the_first_column_out():
    labels_BT, scale_BT = torch.tensor([[1, 2, -100, 3]]), torch.tensor([[9.0, 0.5, 7.0, 2.0]])
    assert float(losses.total_weight(labels_BT, scale_BT)) == 2.5
    assert int(losses.total_weight(labels_BT)) == 2
