import io
import json

import pytest

from swift.commands.chat import COMMANDS, LINE, Chat
from swift.commands.infer import tools_of
from swift.errors import DataError


class Model:
    """Answers `<number of the turn>: <query>` in two steps and remembers what it was asked."""

    def __init__(self):
        self.asked, self.tools, self.closed = [], [], 0

    def __call__(self, query, history, system, tools):
        self.asked.append((query, [list(pair) for pair in history], system))
        self.tools.append([tool["function"]["name"] for tool in tools])
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
def talk(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def talk(*lines, **options):
        model, saved = Model(), []
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        chat = Chat(model, lambda *answer: saved.append(answer), **options)
        chat.run()
        talk.tools = model.tools
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


def test_help_and_what_is_no_command(talk):
    asked, _, out = talk("/help", "/hlep", "/zzzz now", "/etc/passwd is what?", "//help me", "/exit", "x")
    for name in COMMANDS:
        assert f"/{name} " in out
    assert "/hlep is no command; did you mean /help?" in out
    assert "/zzzz is no command; /help lists them" in out
    assert [query for query, *_ in asked] == ["/etc/passwd is what?", "/help me"]


def test_the_conversation_is_shown_cleared_and_saved(talk, tmp_path):
    file = tmp_path / "chat.jsonl"
    _, _, out = talk(
        "/history", "/save", "/system be kind", "/system", "one", "two", "/history", f"/save {file}", "/clear", "/history",
        "three", f"/save {file}", f"/save {tmp_path}",
    )  # fmt: skip
    assert out.count("nothing was said yet") == 3
    assert f"<<< one\n0: one\n{LINE}<<< two\n1: two\n" in out
    assert "\nbe kind\n" in out.replace("<<< ", "\n")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    system = {"role": "system", "content": "be kind"}
    said = ["one", "0: one", "two", "1: two"]
    assert [message["content"] for message in rows[0]["messages"]] == ["be kind", *said]
    assert rows[1]["messages"] == [
        system,
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "0: three"},
    ]
    assert f"{tmp_path} cannot be written" in out


def test_tools_come_and_go(talk, tmp_path):
    file = tmp_path / "tools.json"
    file.write_text('[{"name": "clock"}, {"name": "weather"}]')
    first = [{"type": "function", "function": {"name": "first"}}]
    out = talk(
        "one", f"/tools {file}", "two", "/tools off", "three", "/tools absent.json", "/tools", "/save rows.jsonl",
        tools=first, read_tools=tools_of,
    )[2]  # fmt: skip
    assert talk.tools == [["first"], ["clock", "weather"], []]
    assert "tools: clock, weather" in out
    assert "tools: none" in out
    assert "--tools absent.json is not a file" in out


def test_ctrl_c_at_the_prompt_drops_the_line_and_twice_leaves(monkeypatch, capsys):
    lines = iter([KeyboardInterrupt, "one", KeyboardInterrupt, KeyboardInterrupt])

    def typed(prompt=""):
        line = next(lines)
        if line is KeyboardInterrupt:
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    model = Model()
    with pytest.raises(KeyboardInterrupt):
        Chat(model, lambda *_: None).run()
    assert [query for query, *_ in model.asked] == ["one"]
    assert "again Ctrl-C leaves" in capsys.readouterr().out
