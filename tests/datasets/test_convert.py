from __future__ import annotations

import json
from typing import Any

import pytest

from swift.datasets.convert import FORMATS, convert_row, describe, detect, renamed_format, unused_columns
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
        ("text", {"text": "a", "prompt": "q"}, ROUND),
        ("query/response", {"instruction": "q", "context": "", "response": "a"}, ROUND),
        ("query/response", {"instruction": "q", "context": "c", "response": "a"}, [("user", "q\nc"), ("assistant", "a")]),
        ("query/response", {"prompt": "q", "response": "a"}, ROUND),
        ("query/response", {"query": "t", "response": "a", "query_role": "tool", "history": [["q", "c"]], "history_roles": [["user", "assistant"]]}, [("user", "q"), ("assistant", "c"), ("tool", "t"), ("assistant", "a")]),
        ("alpaca", {"instruction": "q", "output": "a", "completion": "not this"}, ROUND),
        ("prompt/completion", {"prompt": "q", "completion": "a"}, ROUND),
        ("prompt/completion", {"question": "q", "answer": "a"}, ROUND),
        ("prompt/completion", {"input": "q", "output": "a"}, ROUND),
        ("prompt/completion", {"inputs": "q", "targets": "a"}, ROUND),
        ("prompt/completion", {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}, ROUND),
        ("prompt/completion", {"prompt": [{"role": "user", "content": "q"}], "completion": "a"}, ROUND),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, ROUND),
        ("preference", {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}, ROUND),
        ("preference", {"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}, ROUND),
        ("preference", {"chosen": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}, [("system", "s"), *ROUND]),
        ("messages", {"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}}, ROUND),
        ("messages", {"messages": [{"role": "developer", "content": "s"}, {"role": "prompter", "content": "q"}, {"role": "ai", "content": "a"}]}, [("system", "s"), *ROUND]),
    ],
)  # fmt: skip
def test_every_format(name: str, row: Row, expected: list[tuple[str, str]]) -> None:
    assert detect("x", [row]).name == name
    assert turns(row) == expected


def test_the_order_of_formats_decides_between_equals() -> None:
    row = {"choices": ["x", "y"], "A": "x", "B": "y", "answer": "x", "response": "a", "instruction": "i", "output": "o", "conversations": [], "messages": [], "conversation": [], "text": "t", "chosen": "c", "rejected": "r", "prompt": "p", "completion": "c"}  # fmt: skip
    seen = []
    for known in FORMATS:
        assert detect("x", [row]) is known
        seen.append(known.name)
        row = {key: value for key, value in row.items() if key not in known.needs or key in ("instruction", "prompt")}
    assert seen == [
        "multiple choice",
        "multiple choice in columns",
        "query/response",
        "alpaca",
        "conversations",
        "messages",
        "sharegpt",
        "text",
        "preference",
        "prompt/completion",
    ]


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
        (messages(("wizard", "q"), A), "\"messages[0].role\" is 'wizard', not one of system, developer, user"),
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
        (messages(U, ("tool", "t"), A), '"messages[1]" is of role tool after user'),
        ({"messages": {"role": ["user"], "content": ["q", "a"]}}, '"messages" is an object, not a list'),
        ({"chosen": "a", "rejected": "b"}, '"prompt" is missing'),
        ({"prompt": "q", "chosen": "a", "rejected": 3}, '"rejected" is a number'),
        ({"prompt": "q", "chosen": [], "rejected": []}, '"chosen" is empty'),
        ({"prompt": "q", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"}, "is of role user after user"),
        (
            {"prompt": "q", "chosen": "a", "rejected": [{"role": "user", "content": "b"}]},
            '"rejected" ends with the user',
        ),
        ({"prompt": "q", "chosen": "a", "rejected": messages(("user", "z"), A)["messages"]}, "differs from the chosen"),
        ({"response": "a", "query_role": "wizard"}, "\"query_role\" is 'wizard'"),
        ({"response": "a", "history": [["q", "a"]], "history_roles": [["user"]]}, '"history_roles[0]" is not a pair'),
        ({"response": "a", "history": [["q", "a"]], "history_roles": [["user", "gpt"]] * 2}, "one for each"),
        ({"messages": ["x"]}, '"messages[0]" is a string, not an object'),
        ({"messages": [{"role": "user"}]}, '"messages[0].content" is missing'),
        ({"messages": [{"content": "q"}]}, '"messages[0].role" is missing'),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "is of type 'image_url'; only text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "is of type 'a string'; only text"),
        ({"conversations": [{"from": "human", "value": 1}]}, '"conversations[0].value" is a number'),
        ({"conversation": [{"human": "q", "assistant": None}]}, '"conversation[0].assistant" is null'),
        ({"text": " "}, '"text" is empty'),
        ({"response": "a", "query": 3}, '"query" is a number'),
        ({"response": ""}, '"response" is empty'),
        ({"response": ["a"]}, '"response[0]" is a string, not an object'),
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
    line = describe(convert_row(detect("x", [row]), row, "x:1"), width=20)
    assert line == "system: 's' | user: 'c' | assistant: 'd' | ..."
    assert describe({"messages": [{"role": "user", "content": "x" * 30}], "where": ""}, 5) == "user: 'xxxx…'"


def converted(row: Row) -> Any:
    return convert_row(detect("x", [row]), row, "x:1")


def test_columns_that_are_passed_on_are_untouched() -> None:
    more = {"tools": '[{"name": "f"}]', "images": ["a.png", b"x"], "objects": {"bbox": [1]}, "label": 3, "videos": []}
    row = {"query": "q", "response": "a", "note": "n", "audios": None, **more}
    assert {key: converted(row)[key] for key in more} == more
    assert converted(row).keys() == {"messages", "where", *more}
    assert unused_columns(detect("x", [row]), [row]) == ["note"]


@pytest.mark.parametrize(
    ("label", "kept"), [(True, True), (False, False), ("False", False), ("true", True), ("3", "3")]
)
def test_kto_labels(label: Any, kept: Any) -> None:
    assert converted({"prompt": "q", "completion": "a", "label": label})["label"] is kept


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "response": "a", "rejected_response": "b"},
        {"messages": messages(U, A)["messages"], "rejected_response": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": messages(U, A)["messages"], "rejected": messages(U, ("assistant", "b"))["messages"]},
        {"prompt": "q", "chosen": "a", "rejected": messages(("assistant", "b"))["messages"]},
        {"prompt": messages(U)["messages"], "chosen": messages(A)["messages"], "rejected": "b"},
    ],
)
def test_rejected_responses(row: Row) -> None:
    assert converted(row)["rejected_response"] == "b"


def test_calls_of_tools() -> None:
    call = {"name": "f", "arguments": {"x": 1}}
    row = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "t"},
            {"from": "gpt", "value": "a"},
        ]
    }
    assert converted(row)["messages"] == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "t"},
        {"role": "assistant", "content": "a"},
    ]
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "tool_call", "value": "f(x)"}]}
    assert converted(row)["messages"][1] == {"role": "assistant", "content": "f(x)"}
    said = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": call}], "name": None}
    old = {"role": "assistant", "content": None, "function_call": call}
    answer = {"role": "tool", "content": "t", "tool_call_id": "1"}
    turns = [{"role": "user", "content": "q"}, said, answer, {"role": "assistant", "content": "a"}]
    assert converted({"messages": turns})["messages"][1:3] == [
        {"role": "assistant", "content": "", "tool_calls": said["tool_calls"]},
        answer,
    ]
    assert converted({"messages": [turns[0], old]})["messages"][1]["tool_calls"] == [call]


def test_what_is_learnt_of_a_message() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}]
    turns += [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0, "loss": None}]
    assert [m.get("loss") for m in converted({"messages": turns})["messages"]] == [None, False, None, 0]


def test_renamed_turns() -> None:
    known = renamed_format({"user_role": "Q", "assistant_role": "A", "from_key": "who", "value_key": "says", "conversations_key": "talk", "system_role": "-"})  # fmt: skip
    row = {"talk": [{"who": "Q", "says": "q"}, {"who": "A", "says": "a"}]}
    assert [(m["role"], m["content"]) for m in convert_row(known, row, "x:1")["messages"]] == ROUND
    with pytest.raises(DataError, match="'user', not one of"):
        convert_row(known, {"talk": [{"who": "user", "says": "q"}]}, "x:1")
    with pytest.raises(DataError, match="'system', not one of"):
        convert_row(known, {"talk": [{"who": "system", "says": "q"}]}, "x:1")
    known = renamed_format({"user_role": "system", "system_role": "-"})
    row = {"conversations": [{"from": "system", "value": "q"}, {"from": "assistant", "value": "a"}]}
    assert [(m["role"], m["content"]) for m in convert_row(known, row, "x:1")["messages"]] == ROUND
