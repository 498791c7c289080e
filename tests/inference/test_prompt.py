import pytest

from swift.inference.prompt import history_to_messages, make_turn, messages_to_history
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


def test_messages_and_history_are_the_same_conversation():
    history, query, system = [["q1", "a1"], ["q2", "a2"]], "q3", "s"
    messages = history_to_messages(history, query, system)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages_to_history(messages) == {"query": query, "history": history, "system": system, "response": None}
    answered = [*messages, {"role": "assistant", "content": "a3"}]
    assert messages_to_history(answered) == {"query": query, "history": history, "system": system, "response": "a3"}


def test_odd_conversations_keep_every_message():
    def said(*pairs):
        return messages_to_history([{"role": role, "content": content} for role, content in pairs])

    assert said(("assistant", "a")) == {"query": "", "history": [], "system": None, "response": "a"}
    assert said(("user", "q"), ("tool", "t"))["query"] == "q\nt"
    assert said(("system", "")) == {"query": None, "history": [], "system": "", "response": None}
    assert said(("assistant", "a"), ("user", "q"))["history"] == [["", "a"]]
