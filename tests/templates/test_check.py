"""`swift template check`: it finds what differs, says what is wanted, and its exit code is for CI."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from swift import cli
from swift.errors import DataError
from swift.templates import TEMPLATES
from swift.templates.check import EMPTY_IS_NONE, EQUAL, KEPT_APART, WANTED, Case, cases, check, check_one
from swift.templates.jinja import read_source
from swift.templates.publish import settle_chat_template
from swift.templates.template import get_template
from tests.templates.chats import CHATS, MARKS, THINK, chat_tokenizer, marked_tokenizer, talk
from tests.templates.own import own_tokenizer
from tests.tiny import CHATML, tiny_tokenizer

CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# chat templates that ship with trl, with what ends a turn that calls a tool where that is another token
SHIPPED = {
    "qwen2_5": None,
    "qwen3": None,
    "qwen3_instruct_2507": None,
    "qwen3_6": None,
    "llama3_1": None,
    "glm4moe": "<|observation|>",
    "gptoss": "<|call|>",
    "gemma3": None,
    "cohere2": None,
    "phi3_5": None,
}


def shipped(name: str) -> str:
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text()


def tokenizer_of(source: str):
    words = (
        "<|return|>",
        "<|call|>",
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
    )
    tokenizer = tiny_tokenizer(700, tuple(dict.fromkeys([*MARKS, *words, *THINK, *CALLS])))
    tokenizer.chat_template = source
    return tokenizer


@pytest.mark.parametrize("name", SHIPPED)
def test_auto_is_the_models_own_with_tools_and_thoughts(name):
    template = get_template("auto", tokenizer_of(shipped(name)))
    assert [finding for finding in check(template) if not finding.good] == []
    assert template.ends[1:] == ([SHIPPED[name]] if SHIPPED[name] else [])


@pytest.mark.parametrize("name", ["qwen2_5"])
def test_a_row_is_the_models_own_with_tools(name):
    template = get_template(name, tokenizer_of(shipped(name)))
    found = {finding.case: finding for finding in check(template)}
    assert all(finding.good for finding in found.values())
    assert found["two tools called at once"].status == "equal"


@pytest.mark.parametrize("name", [name for name in CHATS if name not in ("qwen3.6", "generation")])
def test_auto_is_every_chat_template(name):
    bad = [finding for finding in check(get_template("auto", chat_tokenizer(name))) if not finding.good]
    assert [(finding.case, finding.why) for finding in bad if finding.status != "refused"] == []


def test_the_first_difference_is_found():
    tokenizer = tokenizer_of(CHATML)
    tokenizer.chat_template = CHATML.replace("'<|im_end|>' + ", "' <|im_end|>' + ")
    found = check_one(get_template("chatml", tokenizer), Case("x", talk("Why?", "So.")))
    assert (found.status, found.good) == ("different", False)
    assert found.first is not None
    assert found.ours[: found.first] == found.theirs[: found.first]
    assert found.ours[found.first] != found.theirs[found.first]
    assert found.supervised == ["So.<|im_end|>"]


@pytest.mark.parametrize("case", ["x", "*"])
def test_a_known_difference_is_wanted(case, monkeypatch):
    template = get_template("chatml", tokenizer_of(CHATML.replace("'<|im_end|>' + ", "' <|im_end|>' + ")))
    row = replace(TEMPLATES["chatml"], differs={case: "a space"})
    monkeypatch.setattr("swift.templates.check.TEMPLATES", {"chatml": row})
    found = check_one(template, Case("x", talk("Why?", "So.")))
    assert (found.status, found.why, found.good) == ("wanted", "a space", True)


def test_a_mask_that_is_wrong_is_a_fault(monkeypatch):
    template = get_template("chatml", tokenizer_of(CHATML))
    monkeypatch.setattr(template, "loss_scale", get_template("chatml", template.tokenizer, loss_scale="all").loss_scale)
    assert check_one(template, Case("x", talk("Why?", "So."))).faults
    monkeypatch.undo()
    monkeypatch.setattr(template, "end_ids", [])
    assert any("end" in fault for fault in check_one(template, Case("x", talk("Why?", "So."))).faults)


def test_the_cases_hold_what_breaks_others():
    found = {case.name: case.row for case in cases(marked_tokenizer())}
    rounds = [sum(m["role"] == "user" for m in row["messages"]) for row in found.values()]
    assert {1, 2, 3, 4} <= set(rounds)
    assert any(row["messages"][0] == {"role": "system", "content": ""} for row in found.values())
    assert sum("tools" in row for row in found.values()) >= 3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tokenizer_of(CHATML).save_pretrained(directory)
    return directory


def test_the_command_says_equal(model, capsys):
    assert cli.main(["template", "check", str(model)]) == 0
    assert "1 round" in capsys.readouterr().out


def test_the_command_says_different(model, capsys):
    assert cli.main(["template", "check", "yi", "--model_id_or_path", str(model), "--system", "Be brief."]) == 65
    said = capsys.readouterr()
    assert "theirs" in said.out
    assert "error[TEMPLATE-01]" in said.err
    assert "--template_type auto is its own; chatml" in said.err


def test_the_command_for_machines(model, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"query": "Why?", "response": "So."}) + "\n")
    assert cli.main(["template", "check", str(model), "--json", "--conversations", str(rows)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"]
    assert found["end"]["supervised"]
    assert found["conversations"][-1]["supervised"] == ["So.<|im_end|>"]


def test_a_chat_template_in_a_file(model, tmp_path, capsys):
    own = tmp_path / "own.jinja"
    own.write_text(CHATML.replace("<|im_start|>", "<s>"))
    assert cli.main(["template", "show", str(model), "--chat_template", str(own)]) == 0
    assert "<s>user" in capsys.readouterr().out
    assert cli.main(["template", "show", "demo-chat", "--chat_template", str(own)]) == 0
    assert "<s>user" in capsys.readouterr().out
    shutil.copy(own, tmp_path / "x.jinja")
    assert (
        cli.main(["template", "check", "chatml", "--model_id_or_path", str(model), "--chat_template", str(own)]) == 65
    )


def test_list(capsys):
    assert cli.main(["template", "list", "qwen"]) == 0
    assert "qwen2_5" in capsys.readouterr().out
    assert cli.main(["template", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["templates"]}
    assert set(rows) == set(TEMPLATES)
    assert rows["qwen2_5"]["tools"] == "hermes"
    assert rows["default-generation"]["tools"] is None
    assert cli.main(["template", "list", "default-generation"]) == 0
    assert "react_en" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", "qwen"], 2),
        (["check", "qwenn"], 2),
        (["list", "no-such"], 2),
        (["check"], 2),
        (["check", "/no/such/model"], 66),
    ],
)
def test_what_the_command_refuses(words, code, capsys):
    assert cli.main(["template", *words]) == code


@pytest.mark.parametrize(
    ("text", "problem"), [("{% for %}", "Expected"), ("x" * 70000, "64 kB"), ("{% no %}", "unknown tag")]
)
def test_a_file_that_is_no_chat_template(text, problem, tmp_path):
    (tmp_path / "bad.jinja").write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        read_source(tmp_path / "bad.jinja")
    assert "correct the file" in str(caught.value.fix)


def test_generation_blocks_are_read(tmp_path):
    (tmp_path / "own.jinja").write_text(CHATS["generation"])
    assert read_source(tmp_path / "own.jinja") == CHATS["generation"]


SETTLED = [row.name for row in TEMPLATES.values() if not row.generation and row.thinking is None]


@pytest.mark.parametrize("name", SETTLED)
def test_the_chat_template_of_a_checkpoint_is_that_of_the_row(name):
    tokenizer = copy.copy(marked_tokenizer())
    tokenizer.chat_template = "another"
    template = get_template(name, tokenizer)
    assert settle_chat_template(template)
    assert tokenizer.chat_template != "another"
    row = talk("Why?", "So.") if TEMPLATES[name].chat_sep is None else talk("Why?", "So.", "When?", "Now.")
    own = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert own == tokenizer.decode(template.encode(row)[0]["input_ids"])


@pytest.mark.parametrize(
    "options", [{"loss_scale": "last_round"}, {"loss_scale": "all"}, {"loss_scale": "agent-flan"}, {"max_length": 20}]
)
def test_the_chat_template_of_a_checkpoint_knows_nothing_of_what_is_learnt(options):
    tokenizer = copy.copy(tokenizer_of(shipped("qwen2_5")))
    before = tokenizer.chat_template
    template = get_template("qwen2_5", tokenizer, **options)
    assert settle_chat_template(template)
    assert tokenizer.chat_template == before
    assert template.max_length == options.get("max_length")
    assert template.loss_scale.name == options.get("loss_scale", "default")


def test_a_chat_template_that_is_equal_stays():
    tokenizer = copy.copy(chat_tokenizer("llama3"))
    before = tokenizer.chat_template
    settle_chat_template(get_template("auto", tokenizer))
    assert tokenizer.chat_template == before
    tokenizer = tokenizer_of(shipped("qwen2_5"))
    before = tokenizer.chat_template
    assert settle_chat_template(get_template("qwen2_5", tokenizer))
    assert tokenizer.chat_template == before


def test_the_command_names_the_cause_where_auto_cannot_be_trained(tmp_path, capsys):
    tokenizer_of(shipped("qwen3_5_nothink")).save_pretrained(tmp_path)
    assert cli.main(["template", "check", str(tmp_path)]) == 65
    said = capsys.readouterr()
    assert "cannot be trained as it is: a thought" in said.err
    assert "leave thoughts out of the data, or --template_type" in said.err
    assert "says that it has no thought" in said.out


def test_the_command_knows_a_template_that_opens_a_thought(tmp_path, capsys):
    own_tokenizer("deepseek-r1").save_pretrained(tmp_path)
    assert cli.main(["template", "check", str(tmp_path)]) == 0
    assert "begins as the prompt of inference does" in capsys.readouterr().out
    assert cli.main(["template", "check", "qwen3", "--model_id_or_path", str(tmp_path)]) == 65
    assert "deepseek-r1 has the same prompt" in capsys.readouterr().err


def test_a_file_whose_tokens_reach_across_a_reply_is_explained() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template = get_template("auto", tokenizer)
    found = {finding.case: finding for finding in check(template)}
    assert {finding.status for finding in found.values()} <= {EQUAL, WANTED}
    assert (found["3 rounds"].why, found["empty system"].why) == (KEPT_APART, EMPTY_IS_NONE)
    rounds = next(case for case in cases(tokenizer) if case.name == "3 rounds").row["messages"]
    asked = check_one(template, Case("asked again", {"messages": [*rounds, {"role": "user", "content": "Sure?"}]}))
    assert (asked.status, asked.why) == (WANTED, KEPT_APART)
