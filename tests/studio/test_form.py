"""What is entered into a form is what a command line says, for every option; nothing else can be entered."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from swift.arguments.fields import OptionInfo, options_of
from swift.arguments.reading import parse
from swift.arguments.sft import SftArguments
from swift.errors import SwiftError
from swift.redact import SECRET_KEY
from swift.studio.form import FREE_TEXT, HIDDEN, HIDDEN_GROUPS, Field, as_typed, as_yaml, read_environment
from swift.studio.offers import EVALUATE, EXPORT, TRAIN
from swift.studio.workspace import Workspace

FORM = TRAIN["sft"]
SLIPS = ("; touch x", "$(touch x)", "a\nb", "--external_plugins x", "--custom_register_path=x.py", "-x", "`touch x`", "x && y", "x | y")  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "inside").mkdir()
    return Workspace.at(str(tmp_path / "inside"))


def examples(info: OptionInfo) -> list[Any]:
    """Some values other than the default that the option may have."""
    if info.choices:
        found: list[Any] = [choice for choice in info.choices if choice != info.default][:3]
    elif info.kind is bool:
        found = [True, False]
    elif info.kind is int:
        low = int(info.minimum) if info.minimum is not None else -3
        found = [low, low + 1, low + 17]
    elif info.kind is float:
        low = info.minimum if info.minimum is not None else -1.5
        found = [low, low + 1e-5 * 3, low + 1 / 3, min(low + 1.0, info.maximum or 9.0)]
    elif info.kind is dict:
        found = [{"a": 1, "b": [1, 2], "c": "x y"}]
    else:
        found = ["one", "two words", "名字", "a=b,c;d", "it's", '"quoted"', "lora"]
        found += list(SLIPS) if info.name in FREE_TEXT else []
    if info.name == "sft_type":
        found = ["full", "adalora"]
    if info.is_list:
        return [[item] for item in found] + ([found[:3]] if len(found) > 1 else [])
    return found


@pytest.mark.parametrize("name", list(FORM.fields))
def test_every_option_is_entered_as_the_command_line_says_it(name: str) -> None:
    field = FORM.fields[name]
    assert field.words(field.default) == []
    for value in [*examples(field.info), *([None] if field.info.optional else [])]:
        words = field.words(field.show(value))
        assert getattr(parse(SftArguments, words, quiet=True), name) == value, words
        assert (words == []) == (value == field.info.default)


def test_the_form_has_every_option_that_is_not_hidden_for_a_reason() -> None:
    for form, cls in ((FORM, SftArguments), (EXPORT, EXPORT.arguments)):
        missing = set(options_of(cls)) - set(form.fields)
        hidden = {name for name, info in options_of(cls).items() if info.group in HIDDEN_GROUPS} | set(HIDDEN)
        assert missing <= hidden | set(form.without)
        assert sorted(f.name for f in form.order) == sorted(form.fields)
    assert set(FORM.basic_names) <= set(FORM.fields)
    assert not {"custom_register_path", "training_options", "callbacks", "trust_remote_code"} & set(FORM.fields)


def test_no_form_asks_for_a_secret_or_writes_elsewhere() -> None:
    for form in (*TRAIN.values(), EXPORT, EVALUATE):
        assert not [name for name in form.fields if SECRET_KEY.search(name)]
    assert "eval_output_dir" not in EVALUATE.fields


def test_a_new_option_is_in_the_form_at_once() -> None:
    from swift.arguments.fields import option

    @dataclasses.dataclass(kw_only=True)
    class More(SftArguments):
        brand_new: int = option(3, group="Brand new", help="What was just thought of.")

    form = dataclasses.replace(FORM, arguments=More)
    assert [field.name for field in form.groups["Brand new"]] == ["brand_new"]
    assert form.words({"brand_new": "4"}) == ["--brand_new", "4"]


PLAIN = {"model_type": "demo-chat", "dataset": ["self-cognition"]}
TEXTS = [field for field in FORM.fields.values() if field.info.kind is str and not field.info.choices]


@pytest.mark.parametrize("slip", [*SLIPS[:4:3], *(pytest.param(slip, marks=pytest.mark.slow) for slip in SLIPS[1:3] + SLIPS[4:])])  # fmt: skip
def test_a_text_stays_one_argument_or_is_refused(slip: str, workspace: Workspace) -> None:
    plain, taken = parse(SftArguments, FORM.words(PLAIN)), 0
    for field in TEXTS:
        try:
            words = FORM.check({**PLAIN, field.name: [slip] if field.widget == "choices" else slip}, workspace)
        except SwiftError:
            continue
        args = parse(SftArguments, words, quiet=True)
        assert shlex.split(as_typed("sft", words).replace("\\\n", " ")) == ["swift", "sft", *words]
        assert getattr(args, field.name) in (slip, [slip])
        blank = {field.name: None}
        assert dataclasses.replace(args, **blank) == dataclasses.replace(plain, **blank)
        taken += 1
    assert taken >= len(FREE_TEXT) - 1


PATHS = ["/etc/passwd", "../x.jsonl", "~/x.jsonl", "a/../../x", "/etc/passwd#5", "/etc/*", "../*", "a,/etc/passwd", "link/x.jsonl", "link#5"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(path: str, workspace: Workspace) -> None:
    (workspace.root / "link").symlink_to("/etc")
    guarded = [field for field in TEXTS if field.name not in FREE_TEXT]
    assert len(guarded) > 20
    for field in guarded:
        with pytest.raises(SwiftError):
            FORM.check({**PLAIN, field.name: [path] if field.widget == "choices" else path}, workspace)


def test_names_ids_and_paths_inside_are_taken(workspace: Workspace) -> None:
    (workspace.root / "a b.jsonl").write_text('{"query": "a", "response": "b"}\n')
    for dataset in ("self-cognition#50", "HF::a/b:c#5", "a b.jsonl", "a b.jsonl#3@0.5", "*.jsonl"):
        FORM.check({"model_id_or_path": "Qwen/Qwen3-0.6B", "dataset": [dataset]}, workspace)


def test_all_that_is_wrong_is_said_at_once(workspace: Workspace) -> None:
    with pytest.raises(SwiftError) as caught:
        FORM.check({"dataset": ["/etc/passwd", "../b"], "max_length": "x"}, workspace)
    assert str(caught.value).count("outside the workspace") == 2
    with pytest.raises(SwiftError, match="max_length takes a whole number"):
        FORM.check({"dataset": ["self-cognition"], "max_length": "x"}, workspace)
    with pytest.raises(SwiftError, match="dataset is missing"):
        FORM.check({"model_type": "demo-chat"}, workspace)


def test_a_task_that_can_name_python_is_not_measured(workspace: Workspace) -> None:
    """lm-eval imports what `!function` says in a YAML file."""
    EVALUATE.check({"eval_dataset": ["rows.jsonl", "hellaswag"]}, workspace)
    for name in ("task.yaml", "deep/TASK.YML", "task.yaml "):
        for option in ("eval_dataset", "dataset", "val_dataset"):
            with pytest.raises(SwiftError, match="Python"):
                EVALUATE.check({"eval_dataset": ["hellaswag"], option: ["rows.jsonl", name]}, workspace)


@pytest.mark.parametrize("name", ["rewards.py:f", "rewards.py", "deep/R.PY:g"])
def test_a_file_of_rewards_is_not_run(workspace: Workspace, name: str) -> None:
    said = {"model_type": "demo-base", "dataset": ["a.jsonl"], "rlhf_type": "grpo"}
    TRAIN["rlhf"].check({**said, "reward_funcs": ["math", "length"]}, workspace)
    with pytest.raises(SwiftError, match="Python"):
        TRAIN["rlhf"].check({**said, "reward_funcs": ["math", name]}, workspace)


def test_only_two_variables_can_be_set() -> None:
    assert read_environment({"NPROC_PER_NODE": " 2 ", "CUDA_VISIBLE_DEVICES": ""}) == {"NPROC_PER_NODE": "2"}
    assert read_environment({"CUDA_VISIBLE_DEVICES": "0,1"}) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    for name, text in (("LD_PRELOAD", "/x.so"), ("NPROC_PER_NODE", "2; x"), ("CUDA_VISIBLE_DEVICES", "0 LD=1"), ("NPROC_PER_NODE", "0")):  # fmt: skip
        with pytest.raises(SwiftError):
            read_environment({name: text})


def test_the_file_says_what_the_command_says(workspace: Workspace, tmp_path: Path) -> None:
    entered = {"model_type": "demo-chat", "dataset": ["self-cognition", "a#3"], "learning_rate": "3e-5", "system": "你", "packing": True}  # fmt: skip
    words = FORM.check(entered, workspace)
    file = tmp_path / "run.yaml"
    file.write_text(as_yaml(FORM, words), encoding="utf-8")
    assert parse(SftArguments, [str(file)]) == parse(SftArguments, words)
    assert list(yaml.safe_load(file.read_text("utf-8"))).count("packing") == 1


def test_a_run_s_options_fill_the_form() -> None:
    args = SftArguments(model_type="demo-chat", dataset=["a"], lora_rank=16, learning_rate=None, system="")
    shown = FORM.show(dataclasses.asdict(args))
    assert parse(SftArguments, FORM.words(shown)) == args


def test_hints_say_the_default() -> None:
    assert FORM.fields["max_length"].hint.endswith("[tokens; default: 2048]")
    assert isinstance(FORM.fields["max_length"], Field)
