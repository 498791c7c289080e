import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.inference.answer import Reader
from tests.inference.fake import FakeTemplate
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEMPLATE = FakeTemplate(TOKENIZER)
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


def test_whole_words_and_characters_are_shown():
    reader = Reader(TEMPLATE, [END])
    text = "The capital of France is Paris. 世界😀好"
    ids = ids_of(text)
    shown = list(dict.fromkeys(reader.so_far(ids[:n]) for n in range(len(ids) + 1)))
    assert shown == ["", "The ", "The capital ", "The capital of ", "The capital of France ",
                     "The capital of France is ", "The capital of France is Paris. ",
                     "The capital of France is Paris. 世", "The capital of France is Paris. 世界", text]  # fmt: skip
    assert reader.whole([*ids, END, *ids]) == text


def test_a_stop_word_is_cut_and_its_beginning_is_held_back():
    reader = Reader(TEMPLATE, [END], ["\nUser:", ""])
    ids = ids_of("one two\nUser: three")
    shown = [reader.so_far(ids[:n]) for n in range(len(ids) + 1)]
    assert shown[-1] == reader.whole(ids) == "one two"
    assert not any("\n" in text for text in shown)
    assert reader.so_far(ids_of("one \nUs ")) == "one \nUs "


def test_the_end_of_turn_and_what_follows_is_never_part_of_the_text():
    reader = Reader(TEMPLATE, [END, 0])
    assert reader.num_ids([7, 8, 0, 9, END]) == 3
    assert reader.num_ids([7, 8]) == 2
    assert reader.stopped([7, 0, 9])
    assert reader.whole([END]) == reader.so_far([END]) == ""


def test_several_stop_words_end_at_the_first_one_met():
    reader = Reader(TEMPLATE, [], ["three", "two"])
    assert reader.whole(ids_of("one two three")) == "one "
    assert reader.stopped(ids_of("a three"))
    assert not reader.stopped(ids_of("a thre"))
    assert not Reader(TEMPLATE, []).stopped(ids_of("three"))


@pytest.mark.parametrize("stop_words", [(), ("e f", "好"), ("ab", "abc", "b")])
@given(ids=st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
@settings(max_examples=80, deadline=None)
def test_what_is_shown_only_grows_and_begins_the_whole(stop_words, ids):
    reader = Reader(TEMPLATE, [END], stop_words)
    whole, shown = reader.whole(ids), ""
    for n in range(len(ids) + 1):
        longer = reader.so_far(ids[:n])
        assert longer.startswith(shown)
        shown = longer
    assert whole.startswith(shown)


@given(text=st.text(alphabet="ab \n好世😀.e", max_size=20))
@settings(max_examples=80, deadline=None)
def test_what_is_shown_never_breaks_a_character(text):
    reader, ids = Reader(TEMPLATE, [END]), ids_of(text)
    assert all(text.startswith(reader.so_far(ids[:n])) for n in range(len(ids) + 1))
