"""Words and files become arguments; whatever cannot is told, all at once, with what to type instead."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.arguments.aliases import ALIASES, current_name
from swift.arguments.fields import option, options_of, to_json
from swift.arguments.infer import InferArguments
from swift.arguments.reading import parse, read_arguments
from swift.arguments.sft import SftArguments
from swift.arguments.specs import parse_specs
from swift.errors import ConfigError, NotFoundError, SwiftError, UsageError


@dataclass(kw_only=True)
class Options:
    """Every kind of option there is."""

    text: str = option("a", group="A", help="Text.")
    system: str | None = option(None, group="A", help="Text that may be empty.")
    count: int = option(1, group="A", minimum=0, maximum=100, help="Count.")
    limit: int | None = option(None, group="A", help="Limit.")
    rate: float = option(0.5, group="A", minimum=0, maximum=1, help="Rate.")
    flag: bool = option(False, group="A", help="Flag.")
    maybe: bool | None = option(None, group="A", help="Maybe.")
    kind: str = option("AUTO", group="A", choices=("AUTO", "bf16"), help="Kind.")
    report_to: list[str] | None = option(None, group="A", choices=("none", "wandb"), help="Trackers.")
    dataset: list[str] = option([], group="B", help="Data sets.")
    val_dataset: list[str] = option([], group="B", help="More.")
    more: dict[str, Any] = option({}, group="B", help="More.")
    batch_size: int = option(1, group="B", help="Rows.")
    max_bad_rows: int = option(3, group="B", minimum=-1, help="Rows.")
    ignore_args_error: bool = option(False, group="B", help="Warn.")


def said(line: str | list[str]) -> dict[str, Any]:
    """What differs from the defaults."""
    args = parse(Options, line.split() if isinstance(line, str) else line, quiet=True)
    return {name: value for name, value in vars(args).items() if value != vars(Options())[name]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--text b", {"text": "b"}),
        ("--text=b=c", {"text": "b=c"}),
        (["--text", "--not an option"], {"text": "--not an option"}),
        (["--text=--count"], {"text": "--count"}),
        (["--text", "two\nlines"], {"text": "two\nlines"}),
        (["--text=two\nlines"], {"text": "two\nlines"}),
        (["--system", ""], {"system": ""}),
        (["--system="], {"system": ""}),
        ("--count 7 --count 8", {"count": 8}),
        ("--count 1e2", {"count": 100}),
        ("--rate 1e-4", {"rate": 1e-4}),
        ("--rate 1", {"rate": 1.0}),
        ("--limit -1", {"limit": -1}),
        ("--limit None", {}),
        ("--limit none", {}),
        ("--system None", {}),
        ("--system none", {"system": "none"}),
        ("--flag", {"flag": True}),
        ("--flag --maybe false", {"flag": True, "maybe": False}),
        ("--flag TRUE --maybe off", {"flag": True, "maybe": False}),
        ("--flag=1", {"flag": True}),
        ("--kind BF16", {"kind": "bf16"}),
        ("--report_to none", {"report_to": ["none"]}),
        ("--report-to wandb none", {"report_to": ["wandb", "none"]}),
        ("--dataset a b#100", {"dataset": ["a", "b#100"]}),
        ("--dataset a --dataset b c", {"dataset": ["a", "b", "c"]}),
        ("--more a=1 b=x c=null d=[1,2] e=1=2", {"more": {"a": 1, "b": "x", "c": None, "d": [1, 2], "e": "1=2"}}),
        (["--more", '{"a": {"b": 1.5, "c": "1", "d": true}}'], {"more": {"a": {"b": 1.5, "c": "1", "d": True}}}),
        ("--per_device_train_batch_size 4", {"batch_size": 4}),
        ("--per-device-train-batch-size 4", {"batch_size": 4}),
        ("--custom_train_dataset_path x.jsonl --dataset y", {"dataset": ["x.jsonl", "y"]}),
        ("--train_dataset_sample 20 --dataset y", {"dataset": ["y#20"]}),
        ("--train_dataset_sample -1 --dataset y z", {"dataset": ["y", "z"]}),
        ("--val_dataset_sample 5 --val_dataset y", {"val_dataset": ["y#5"]}),
        ("--self_cognition_sample 500 --dataset y", {"dataset": ["y", "self-cognition#500"]}),
        ("--self_cognition_sample 0", {}),
        ("--check_dataset_strategy discard", {"max_bad_rows": -1}),
        ("--check-dataset-strategy warning", {"max_bad_rows": -1}),
        ("--check_dataset_strategy none", {"max_bad_rows": 0}),
        ("--dataset ms-bench-mini", {"dataset": ["ms-bench#20000"]}),
        ("--ignore_args_error --unheard -f of", {"ignore_args_error": True}),
    ],
)
def test_words_become_values(line: str | list[str], expected: dict[str, Any]) -> None:
    assert said(line) == expected


@pytest.mark.parametrize(
    ("line", "says", "fix"),
    [
        ("--txet b", "--txet is not an option", "did you mean --text?"),
        ("--per_device_batch_size 1", "--per_device_batch_size is not", "did you mean --batch_size?"),
        ("--zzzz 1", "--zzzz is not an option", "`--help` lists"),
        ("stray", "'stray' belongs to no option", "begin with `--`"),
        ("--text", "--text has no value", "--text a"),
        ("--text a b", "takes one value, not 2: a b", "quote it: --text 'a b'"),
        (["--text", ""], "--text is empty", "--text a"),
        ("--count x", "takes a whole number, not 'x'", "--count 1"),
        ("--count 1.5", "takes a whole number, not '1.5'", "--count 1"),
        ("--count 1e999", "takes a whole number", "--count 1"),
        ("--count 1 2", "takes one value", "--count 1"),
        ("--count -1", "below its minimum 0", None),
        ("--count 101", "above its maximum 100", None),
        ("--count None", "takes a whole number, not 'None'", "--count 1"),
        ("-count 3", "'-count 3' belongs to no option", "begin with `--`"),
        ("--flag -text b", "'-text b' belongs to no option", "begin with `--`"),
        (["--count="], "--count is empty", "--count 1"),
        ("--limit x", "takes a whole number", "--limit 10"),
        ("--rate nan", "takes a number, not 'nan'", "--rate 0.5"),
        ("--rate inf", "takes a number, not 'inf'", "--rate 0.5"),
        ("--rate 2", "above its maximum 1", None),
        ("--flag maybe", "takes true or false, not 'maybe'", "--flag true or --flag false"),
        ("--flag true false", "takes one value", "--flag true or --flag false"),
        ("--kind fp8", "cannot be 'fp8'", "one of: AUTO, bf16"),
        ("--kind", "has no value", "one of: AUTO, bf16"),
        ("--report_to paper", "cannot be 'paper'", "one of: none, wandb"),
        ("--dataset", "--dataset has no value", "--dataset <text>"),
        (["--dataset", "a", ""], "--dataset is empty", "--dataset <text>"),
        ("--more", "takes a JSON object", "--more name=value"),
        ("--more {", "takes a JSON object", "--more name=value"),
        ("--more [1]", "takes a JSON object", "--more name=value"),
        ("--config", "--config has no value", "--config run.yaml"),
        ("--train_dataset_sample 5", "needs one --dataset", "--dataset <name>#5"),
        ("--train_dataset_sample 5 --dataset a#1", "needs one --dataset", "--dataset <name>#5"),
        ("--train_dataset_sample x --dataset a", "takes a whole number", None),
        ("--train_dataset_sample --dataset a", "takes a whole number", None),
        ("--check_dataset_strategy drop", "--check_dataset_strategy cannot be 'drop'", "none, error, warning, discard"),
        ("--check_dataset_strategy", "--check_dataset_strategy cannot be ''", "none, error, warning, discard"),
    ],
)
def test_mistakes_are_told_in_three_lines_with_a_way_out(line: str | list[str], says: str, fix: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        said(line)
    assert caught.value.exit_code == 2
    assert says in caught.value.what
    assert (fix is None) == (caught.value.fix is None)
    assert fix is None or fix in str(caught.value.fix)
    assert len(str(caught.value).splitlines()) <= 3


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SwiftError) as caught:
        said("stray --count x --txet a --rate 2 --kind z")
    assert [line.split()[1] for line in str(caught.value).splitlines() if line.startswith("error[")] == [
        "'stray'",
        "--count",
        "--txet",
        "--rate",
        "--kind",
    ]


def test_notes_name_the_option_that_is_meant_once(monkeypatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("swift.arguments.reading.get_logger", lambda: type("L", (), {"info": notes.append}))
    line = "--per_device_train_batch_size 2 --per_device_train_batch_size 3 --dataset ms-bench-mini"
    parse(Options, line.split())
    assert notes == [
        "note: --per_device_train_batch_size is read as --batch_size",
        "note: ms-bench-mini is read as ms-bench#20000",
    ]


def test_ignored_words_are_named(monkeypatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("swift.arguments.reading.get_logger", lambda: type("L", (), {"info": notes.append}))
    parse(Options, "--ignore_args_error true -f kernel.json --unheard 1".split())
    assert notes == [
        "ignored: '-f kernel.json' belongs to no option",
        "ignored: --unheard is not an option of this command",
    ]
    with pytest.raises(UsageError, match="whole number"):
        parse(Options, "--ignore_args_error true --count x".split())


def test_an_old_value_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("text: b\ncheck_dataset_strategy: discard\n")
    assert said(["--config", str(file)]) == {"text": "b", "max_bad_rows": -1}
    file.write_text("text: b\ncheck_dataset_strategy: drop\n")
    with pytest.raises(UsageError, match=r"run\.yaml:2: --check_dataset_strategy cannot be 'drop'"):
        said(["--config", str(file)])


YAML = """
text: no
count: 3
rate: 1e-4
flag: yes
limit: null
kind: bf16
dataset:
  - a
  - b#10
more: {x: 1, y: [true, z]}
batch-size: 2
"""


def test_files_hold_options_and_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    expected = {
        "text": "no",
        "count": 3,
        "rate": 1e-4,
        "flag": True,
        "kind": "bf16",
        "dataset": ["a", "b#10"],
        "more": {"x": 1, "y": [True, "z"]},
        "batch_size": 2,
    }
    assert said(["--config", str(path)]) == expected
    assert said([str(path)]) == expected
    assert said([f"--config={path}"]) == expected
    won = said(["--dataset", "c", "--config", str(path), "--count", "4", "--flag", "false"])
    assert (won["dataset"], won["count"], "flag" in won) == (["c"], 4, False)


def test_what_is_saved_can_be_read_back(tmp_path: Path) -> None:
    args = SftArguments(
        dataset=["a", "b"], learning_rate=1e-5, system="", use_dora=True, lr_scheduler_kwargs={"a": 1, "b": [0.5]}
    )
    path = tmp_path / "sft_args.json"
    path.write_text(json.dumps(to_json(args)))
    assert parse(SftArguments, [str(path)]) == args


def test_a_later_file_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yml"
    first.write_text("count: 1\ntext: x\ndataset: [a]\n")
    second.write_text("count: 2\ndataset: b\n")
    assert said([str(first), "--config", str(second)]) == {"count": 2, "text": "x", "dataset": ["b"]}
    assert said([str(first), "--train_dataset_sample", "7"])["dataset"] == ["a#7"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("count: 3\ntxet: a\n", "run.yaml:2: txet is not an option"),
        ("\n\ncount: x\n", "run.yaml:3: --count takes a whole number, not 'x'"),
        ("count: 1000\n", "run.yaml:1: --count is 1000, above its maximum"),
        ("count: [1, 2]\n", "run.yaml:1: --count takes one value"),
        ("count: {a: 1}\n", "run.yaml:1: --count takes a whole number, not {'a': 1}"),
        ("dataset: [{a: 1}]\n", "run.yaml:1: --dataset takes text, not {'a': 1}"),
        ("count:\n", "run.yaml:1: --count cannot be None"),
        ("text: ''\n", "run.yaml:1: --text is empty"),
        ("flag: []\n", "run.yaml:1: --flag has no value"),
        ("more: 3\n", "run.yaml:1: --more takes a JSON object"),
        ("config: other.yaml\n", "run.yaml:1: config is not an option"),
    ],
)
def test_mistakes_in_files_are_named_by_line(tmp_path: Path, monkeypatch, text: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        said("run.yaml")
    assert says in caught.value.what


def test_a_file_may_empty_a_list_and_the_system(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"dataset": [], "system": "", "maybe": true, "limit": 5, "more": {"a": 1.0}}')
    assert said([str(path)]) == {"system": "", "maybe": True, "limit": 5, "more": {"a": 1.0}}


def test_files_that_are_missing_or_broken_stop_the_reading(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        said("gone.yaml")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError):
        said(["--config", str(tmp_path / "x.json")])


def test_read_arguments_takes_what_python_callers_have(monkeypatch, tmp_path: Path) -> None:
    assert read_arguments(Options, Options(count=3)).count == 3
    assert read_arguments(Options, ["--count", 4]).count == 4
    assert read_arguments(Options, (), text="x").text == "x"
    assert read_arguments(Options, count=5).count == 5
    assert read_arguments(Options, Options(count=3), text="y") == Options(count=3, text="y")
    path = tmp_path / "x.json"
    path.write_text('{"count": 6}')
    assert read_arguments(Options, [str(path)]).count == 6
    monkeypatch.setattr("sys.argv", ["swift", "--count", "7"])
    assert read_arguments(Options).count == 7
    with pytest.raises(UsageError, match="--cuont is not an option"):
        read_arguments(Options, cuont=1)


def test_other_arguments_lend_what_they_share() -> None:
    given_args = InferArguments(model_type="m", dataset=["d"], ckpt_dir="c")
    lent = read_arguments(SftArguments, given_args)
    assert isinstance(lent, SftArguments)
    assert (lent.model_type, lent.dataset) == ("m", ["d"])


def test_every_default_survives_being_typed() -> None:
    for cls in (SftArguments, InferArguments):
        words: list[str] = []
        for info in options_of(cls).values():
            value = info.default
            if isinstance(value, dict) or value == []:
                continue
            words += [f"--{info.name}", *map(str, value if isinstance(value, list) else [value])]
        assert parse(cls, words) == cls()


@given(st.text(min_size=1).filter(str.strip), st.integers(0, 100), st.floats(0, 1), st.booleans())
def test_values_come_back_as_typed(text: str, count: int, rate: float, flag: bool) -> None:
    words = [f"--text={text}", f"--count={count}", f"--rate={rate}", f"--flag={flag}"]
    args = parse(Options, words, quiet=True)
    assert (args.text, args.count, args.rate, args.flag) == (text, count, rate, flag)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_no_words_cause_anything_but_our_errors(words: list[str]) -> None:
    with contextlib.suppress(UsageError, NotFoundError, ConfigError):
        assert isinstance(parse(Options, words, quiet=True), Options)


def test_aliases_lead_to_no_alias() -> None:
    assert not set(ALIASES) & set(ALIASES.values())


@pytest.mark.parametrize(
    ("option_name", "old", "new"),
    [
        ("dataset", "ms-bench-mini", "ms-bench#20000"),
        ("dataset", "ms-bench-mini#50", "ms-bench#50"),
        ("dataset", "firefly-all-zh#7", "firefly-zh#7"),
        ("val_dataset", "hh-rlhf-cn-helpful-base", "hh-rlhf-cn:helpful_base"),
        ("dataset", "hh-rlhf-cn", "hh-rlhf-cn"),
        ("dataset", "hh-rlhf-red-team#3", "hh-rlhf:red_team#3"),
        ("dataset", "ruozhiba-mine.jsonl#5", "ruozhiba-mine.jsonl#5"),
        ("dataset", "ruozhiba-fans/jokes", "ruozhiba-fans/jokes"),
        ("dataset", "alpaca-en", "alpaca-en"),
        ("template_type", "chatglm2-generation", "chatglm-generation"),
        ("model_type", "ms-bench-mini", "ms-bench-mini"),
    ],
)
def test_names_of_old(option_name: str, old: str, new: str) -> None:
    assert current_name(option_name, old) == new


def test_a_file_with_an_old_name_is_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ms-bench-mini").write_text("")
    assert said("--dataset ms-bench-mini") == {"dataset": ["ms-bench-mini"]}


def test_tuners_are_said_in_words_or_spelt_out_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "tuner:\n- lora: {rank: 8, targets: [q_proj, v_proj], use_dora: true}\n- {kind: ia3, name: scale}\n- adapter:\n"
        "- vera:d_initial=.5\n"
    )
    words = ["lora:rank=8,targets=[q_proj,v_proj],use_dora=true", "ia3:name=scale", "adapter", "vera:d_initial=.5"]
    assert parse(SftArguments, ["--config", str(file)]).tuner == words
    typed = [word for spec in words for word in ("--tuner", spec)]
    assert parse(SftArguments, typed).tuner == words
    assert [(spec.kind, spec.name) for spec in parse_specs(words)] == [
        ("lora", "lora"), ("ia3", "scale"), ("adapter", "adapter"), ("vera", "vera"),
    ]  # fmt: skip
    for wrong in ("{a: 1, b: 2}", "{lora: 8}"):
        file.write_text(f"tuner:\n- {wrong}\n")
        with pytest.raises(UsageError, match=r"run.yaml:1: --tuner has an item that is"):
            parse(SftArguments, [str(file)])
