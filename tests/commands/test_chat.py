import io

import pytest

from swift.commands.chat import LINE, Chat
from swift.errors import DataError


class Model:
    """Answers `<number of the turn>: <query>` in two steps and remembers what it was asked."""

    def __init__(self):
        self.asked, self.closed = [], 0

    def __call__(self, query, history, system):
        self.asked.append((query, [list(pair) for pair in history], system))
        text = f"{len(history)}: {query}"
        try:
            if query == "too much":
                raise DataError("DATA-06", "the prompt leaves no room", fix="clear the history")
            yield text[:2], [*history, [query, text[:2]]]
            if query == "stop me":
                raise KeyboardInterrupt
            yield text, [*history, [query, text]]
        finally:
            self.closed += 1


@pytest.fixture
def talk(monkeypatch, capsys):
    def talk(*lines, **options):
        model, saved = Model(), []
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        chat = Chat(model, lambda *answer: saved.append(answer), **options)
        chat.run()
        return model.asked, saved, capsys.readouterr().out

    return talk


def test_answers_are_shown_once_and_saved_with_the_history_before(talk):
    asked, saved, out = talk("hello", "and you", "exit", "not read")
    assert asked == [("hello", [], None), ("and you", [["hello", "0: hello"]], None)]
    assert saved == [("hello", "0: hello", [], None), ("and you", "1: and you", [["hello", "0: hello"]], None)]
    assert f"<<< 0: hello\n{LINE}\n<<< 1: and you\n{LINE}\n<<< " in out


@pytest.mark.parametrize("word", ["exit", "quit", " quit "])
def test_a_word_or_the_end_of_the_input_ends_it(talk, word):
    assert talk(word, "more")[0] == []
    assert len(talk("one")[0]) == 1


def test_clear_forgets(talk):
    asked, _, _ = talk("one", "clear", "two")
    assert asked[-1] == ("two", [], None)


def test_reset_system_forgets_and_takes_the_next_line_an_empty_one_for_none(talk):
    asked, saved, out = talk("one", "reset-system", "be kind", "two", "three", "reset-system", "", "four")
    assert asked[1] == ("two", [], "be kind")
    assert asked[2] == ("three", [["two", "0: two"]], "be kind")
    assert asked[3] == ("four", [], None)
    assert saved[1][-1] == "be kind"
    assert "<<<[S] " in out


def test_questions_of_several_lines_end_with_a_hash(talk):
    asked, _, out = talk(
        "multi-line", "one", "", "two#", "reset-system", "be", "kind #", "three", "#", "single-line", "x#y#"
    )
    assert [query for query, _, _ in asked] == ["one\n\ntwo", "three", "x#y#"]
    assert asked[1][2] == "be\nkind"
    assert "<<<[M] " in out
    assert "<<<[MS] " in out
    assert talk("multi-line", "exit", "no")[0] == []


def test_the_end_of_the_input_in_a_question_of_several_lines_ends_it(talk):
    assert talk("multi-line", "half a question")[0] == []


def test_an_empty_line_asks_nothing(talk):
    assert talk("", "  ", "x")[0] == [("x", [], None)]


def test_a_model_that_completes_text_forgets_each_time(talk):
    asked, saved, _ = talk("one", "two", single_round=True)
    assert [history for _, history, _ in asked] == [[], []]
    assert len(saved) == 2


def test_an_interrupted_answer_keeps_what_was_said(talk):
    asked, saved, out = talk("stop me", "next")
    assert saved[0] == ("stop me", "0:", [], None)
    assert asked[1] == ("next", [["stop me", "0:"]], None)
    assert f"0: ...\n{LINE}" in out


def test_an_error_is_told_and_the_conversation_goes_on(talk):
    asked, saved, out = talk("one", "too much", "two")
    assert "error[DATA-06]: the prompt leaves no room\n  fix: clear the history" in out
    assert [query for query, *_ in saved] == ["one", "two"]
    assert asked[2][1] == [["one", "0: one"]]
