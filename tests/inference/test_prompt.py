import pytest

from swift.inference.prompt import make_turn, messages_to_history
from tests.inference.fake import FakeTemplate


@pytest.fixture
def template(tokenizer):
    return FakeTemplate(tokenizer)


def test_a_turn_is_what_the_template_encodes(template):
    turn = make_turn(template, {"query": "q2", "history": [("q1", "a1")], "system": "s"})
    text = template.tokenizer.decode(turn.prompt_ids)
    assert text == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert turn.history_with("a2") == [["q1", "a1"], ["q2", "a2"]]


def test_without_a_query_an_empty_one_is_asked(template):
    assert make_turn(template, {"query": None}) == make_turn(template, {"query": ""})


def test_an_observation_joins_the_answer_before_it(template):
    turn = make_turn(template, {"query": "42", "history": [["q1", "a1"], ["q2", "Observation:"]]})
    assert template.tokenizer.decode(turn.prompt_ids).endswith("q2<|im_end|>\n<|im_start|>assistant\nObservation:42")
    assert turn.history_with("!") == [["q1", "a1"], ["q2", "Observation:42!"]]


def test_messages_as_rounds_keep_every_message():
    def said(*pairs):
        return messages_to_history([{"role": role, "content": content} for role, content in pairs])

    rounds = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    asked = {"query": "q2", "history": [["q1", "a1"]], "system": None}
    assert said(*rounds) == {**asked, "response": "a2"}
    assert said(("system", "s"), *rounds[:-1]) == {**asked, "system": "s", "response": None}
    assert said(("assistant", "a")) == {"query": "", "history": [], "system": None, "response": "a"}
    assert said(("user", "q"), ("tool", "t"))["query"] == "q\nt"
    assert said(("system", "")) == {"query": None, "history": [], "system": "", "response": None}
    assert said(("assistant", "a"), ("user", "q"))["history"] == [["", "a"]]
