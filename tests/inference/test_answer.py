import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.inference import answer
from swift.inference.answer import Following, Reader
from swift.inference.tokens import Tokens
from tests.inference.fake import FakeTemplate
from tests.tiny import sentencepiece_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEMPLATE = FakeTemplate(TOKENIZER)
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
PIECES = FakeTemplate(sentencepiece_tokenizer())


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


@pytest.mark.parametrize("template", [TEMPLATE, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize("words", [(), ("e f", "好"), ("ab", "abc", "b")])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_following_an_answer_shows_what_reading_it_anew_does(template, words, data):
    reader = Reader(template, template.stop_ids, words)
    reader.lead = data.draw(st.sampled_from(["", "\n", "ab"]))
    if template is TEMPLATE:
        ids = data.draw(st.lists(st.integers(0, len(template.tokenizer) - 1), max_size=60))
    else:  # one byte that fits nowhere makes SentencePiece take back the characters before it
        text = data.draw(st.text(alphabet="ab t\n好世😀.éef", max_size=40))
        ids = template.tokenizer(text, add_special_tokens=False).input_ids
    ids = ids[: next((n for n in range(1, len(ids)) if reader.ends(ids[:n])), len(ids))]
    following = Following(reader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "PIECE", 5)
        for n in data.draw(st.lists(st.integers(1, len(ids) or 1), max_size=30).map(sorted)):
            shown = following.so_far(ids[:n])
            assert shown == reader.so_far(ids[:n]) if template is TEMPLATE else reader.whole(ids).startswith(shown)
        assert following.so_far(ids) == reader.so_far(ids)


def test_a_longer_answer_costs_no_more_each_time(monkeypatch):
    reader, ids = Reader(TEMPLATE, [END]), ids_of("one two three 世界 ") * 200
    decoded = []
    plain = type(TOKENIZER).decode
    monkeypatch.setattr(type(TOKENIZER), "decode", lambda *a, **k: decoded.append(len(a[1])) or plain(*a, **k))
    following = Following(reader)
    for n in range(len(ids)):
        following.so_far(ids[:n])
    assert max(decoded) < 150 < len(ids)
    assert following.so_far(ids) == reader.so_far(ids)


@pytest.mark.parametrize("template", [TEMPLATE, PIECES], ids=["bytes", "pieces"])
@given(text=st.text(alphabet="ab \n好世😀.é", max_size=20))
@settings(max_examples=40, deadline=None)
def test_bytes_of_tokens_are_those_of_the_text(template, text):
    tokens = Tokens(template.tokenizer)
    ids = template.tokenizer(text, add_special_tokens=False).input_ids
    assert b"".join(map(tokens.bytes_of, ids)).decode().removeprefix(" ") == text.removeprefix(" ")
    assert tokens.text_of(template.stop_ids[0]) == "<|im_end|>"
    assert tokens.bytes_of(10**6) == b""


@pytest.mark.parametrize("template", [TEMPLATE, PIECES], ids=["bytes", "pieces"])
@given(ids=st.lists(st.integers(0, 200), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_a_text_ends_with_its_last_token(template, ids):
    words = ["e f", "好", "ab", "\x01", " t"]
    reader = Reader(template, [END], words)
    first = next((n for n in range(1, len(ids) + 1) if reader.ends(ids[:n])), None)
    decoded = [template.tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    expected = (n for n, text in enumerate(decoded, 1) if ids[n - 1] == END or any(word in text for word in words))
    assert first == next(expected, None)
