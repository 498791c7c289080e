from __future__ import annotations

from typing import Any

import pytest

from swift.datasets.convert import FORMATS, convert_row, describe, detect, unused_columns
from swift.errors import DataError

Row = dict[str, Any]
ROUND = [("user", "q"), ("assistant", "a")]


def turns(row: Row, **how: bool) -> list[tuple[str, str]]:
    messages = convert_row(detect("x", [row], **how), row, "x.jsonl:1", **how)["messages"]
    return [(message["role"], message["content"]) for message in messages]


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("query/response", {"query": "q", "response": "a"}, ROUND),
        ("query/response", {"response": "a"}, [("assistant", "a")]),
        ("query/response", {"query": "", "response": "a"}, [("assistant", "a")]),
        ("query/response", {"query": None, "response": "a", "history": [], "system": None}, [("assistant", "a")]),
        ("query/response", {"query": "q", "response": "a", "history": [["h", "i"]]}, [("user", "h"), ("assistant", "i"), *ROUND]),
        ("query/response", {"query": "q", "response": "a", "history": "[('h', 'i')]"}, [("user", "h"), ("assistant", "i"), *ROUND]),
        ("query/response", {"query": "q", "response": "a", "history": '[["h", "i"]]'}, [("user", "h"), ("assistant", "i"), *ROUND]),
        ("query/response", {"query": "q", "response": "a", "history": ""}, ROUND),
        ("query/response", {"query": "", "response": "a", "history": [["h", "i"]]}, [("user", "h"), ("assistant", "i"), ("user", ""), ("assistant", "a")]),
        ("query/response", {"query": "q", "response": "a", "system": ""}, [("system", ""), *ROUND]),
        ("query/response", {"query": "q", "response": "a", "system": "s"}, [("system", "s"), *ROUND]),
        ("alpaca", {"instruction": "q", "output": "a"}, ROUND),
        ("alpaca", {"instruction": "q", "input": "", "output": "a"}, ROUND),
        ("alpaca", {"instruction": "q", "input": "i", "output": "a", "system": "s"}, [("system", "s"), ("user", "q\ni"), ("assistant", "a")]),
        ("conversations", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ROUND),
        ("conversations", {"conversations": [{"from": "user", "value": "q"}, {"from": "bot", "value": "a"}], "system": "s"}, [("system", "s"), *ROUND]),
        ("conversations", {"conversations": "[{'from': 'user', 'value': 'q'}, {'from': 'assistant', 'value': 'a'}]"}, ROUND),
        ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ROUND),
        ("messages", {"messages": [{"role": "system", "content": ""}, {"role": "User", "content": "q"}, {"role": "assistant", "content": "a"}]}, [("system", ""), *ROUND]),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]}, ROUND),
        ("messages", {"messages": [{"role": "assistant", "content": "a"}]}, [("assistant", "a")]),
        ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "t"}, {"role": "assistant", "content": "b"}]}, [*ROUND, ("tool", "t"), ("assistant", "b")]),
        ("sharegpt", {"conversation": [{"human": "q", "assistant": "a"}]}, ROUND),
        ("sharegpt", {"conversation": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ROUND),
        ("text", {"text": "a"}, [("assistant", "a")]),
    ],
)  # fmt: skip
def test_every_format(name: str, row: Row, expected: list[tuple[str, str]]) -> None:
    assert detect("x", [row]).name == name
    assert turns(row) == expected


def test_the_order_of_formats_decides_between_equals() -> None:
    row = {"response": "a", "instruction": "i", "output": "o", "conversations": [], "messages": [], "conversation": [], "text": "t"}  # fmt: skip
    seen = []
    for known in FORMATS:
        assert detect("x", [row]) is known
        seen.append(known.name)
        row = {key: value for key, value in row.items() if key not in known.needs}
    assert seen == ["query/response", "alpaca", "conversations", "messages", "sharegpt", "text"]


def test_one_stray_row_does_not_decide() -> None:
    good = {"messages": [{"role": "assistant", "content": "a"}], "response": None}
    assert detect("x", [{"response": "a"}, good, good]).name == "messages"


def test_query_beside_messages_is_named_as_not_used() -> None:
    row = {"query": "q", "messages": [{"role": "assistant", "content": "a"}], "note": "", "id": 3}
    known = detect("x", [row])
    assert (known.name, unused_columns(known, [row])) == ("messages", ["query", "id"])


def test_unknown_columns() -> None:
    with pytest.raises(DataError) as caught:
        detect("x.csv", [{"Instruction": "a", "Output": "b", **{f"c{i}": i for i in range(20)}}])
    assert caught.value.code == "DATA-04"
    assert "and 10 more" in caught.value.what
    assert caught.value.fix == "--columns Instruction=instruction Output=output"
    with pytest.raises(DataError, match="theirs=ours"):
        detect("x.csv", [{"a": 1}])


def test_inference_needs_no_answer() -> None:
    assert turns({"query": "q"}, answers=False) == [("user", "q")]
    assert turns({"instruction": "q"}, answers=False) == [("user", "q")]
    assert turns({"messages": [{"role": "user", "content": "q"}]}, answers=False) == [("user", "q")]
    assert turns({"query": "q", "response": "a"}, answers=False) == ROUND


def messages(*said: tuple[Any, Any], **more: Any) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in said], **more}


U, A = ("user", "q"), ("assistant", "a")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (messages(U, ("assistant", None)), '"messages[1].content" is null'),
        (messages(U, ("assistant", 3)), '"messages[1].content" is a number, not a string'),
        (messages(U, ("assistant", True)), "is true or false, not a string"),
        (messages(U, ("assistant", " \n")), '"messages[1].content" is empty'),
        (messages(U, ("assistant", [])), "is a list, not a string"),
        (messages((None, "q"), A), '"messages[0].role" is null'),
        (messages(("wizard", "q"), A), "\"messages[0].role\" is 'wizard', not one of system, user"),
        (messages(U), '"messages" ends with the user'),
        (messages(A, U, A), '"messages" starts with the assistant'),
        (messages(U, U, A), '"messages[1]" is of role user after user, where assistant comes'),
        (messages(U, A, ("system", "s"), U, A), '"messages[2]" is of role system after assistant, where user or tool'),
        (messages(("system", "s")), '"messages" has no user message'),
        (messages(("system", "s"), U, A, system="t"), '"system" is given twice'),
        (messages(U, A, system=3), '"system" is a number'),
        ({"messages": []}, '"messages" is empty'),
        ({"messages": 3}, '"messages" is a number, not a list'),
        ({"messages": "nonsense"}, '"messages" is text that is not a list'),
        ({"messages": "(" * 5000}, '"messages" is text that is not a list'),
        ({"messages": ["x"]}, '"messages[0]" is a string, not an object'),
        ({"messages": [{"role": "user"}]}, '"messages[0].content" is missing'),
        ({"messages": [{"content": "q"}]}, '"messages[0].role" is missing'),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "is of type 'image_url'; only text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "is of type 'a string'; only text"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "holds tool calls"),
        ({"conversations": [{"from": "human", "value": 1}]}, '"conversations[0].value" is a number'),
        ({"conversation": [{"human": "q", "assistant": None}]}, '"conversation[0].assistant" is null'),
        ({"text": " "}, '"text" is empty'),
        ({"response": "a", "query": 3}, '"query" is a number'),
        ({"response": ""}, '"response" is empty'),
        ({"response": ["a"]}, '"response" is a list'),
        ({"response": "a", "history": 3}, '"history" is a number, not a list of'),
        ({"response": "a", "history": [["q"]]}, '"history[0]" is not a [query, response] pair'),
        ({"response": "a", "history": [["q", None]]}, '"history[0]" is not a [query, response] pair'),
        ({"response": "a", "history": [["q", ""]]}, '"history[0][1]" is empty'),
        ({"instruction": "i", "output": "o", "input": 1}, '"input" is a number'),
    ],
)
def test_a_bad_row_names_file_line_and_key(row: Row, says: str) -> None:
    with pytest.raises(DataError) as caught:
        convert_row(detect("x", [row]), row, "x.jsonl:418")
    assert caught.value.code == "DATA-03"
    assert caught.value.what.startswith("x.jsonl:418: ")
    assert says in caught.value.what


@pytest.mark.parametrize(("row", "says"), [({"query": "q"}, "missing"), ({"query": "q", "response": None}, "null")])
def test_a_row_without_the_column_of_its_file(row: Row, says: str) -> None:
    known = detect("x", [{"query": "q", "response": "a"}, row])
    with pytest.raises(DataError, match=f'"response" is {says}'):
        convert_row(known, row, "x:2")


def test_describe_is_one_short_line() -> None:
    row = {"query": "a\n" * 200, "response": "b", "history": [["c", "d"]], "system": "s"}
    line = describe(convert_row(FORMATS[0], row, "x:1"), width=20)
    assert line == "system: 's' | user: 'c' | assistant: 'd' | ..."
    assert describe({"messages": [{"role": "user", "content": "x" * 30}], "where": ""}, 5) == "user: 'xxxx…'"
