import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift import storage
from swift.arguments.infer import InferArguments
from swift.commands.infer import in_file_order, infer_main
from swift.datasets.load import load_datasets
from swift.errors import ConfigError, DataError, OutputError, SwiftError
from swift.inference.generate import generate_batch
from swift.inference.results import Results
from tests.tiny import save_tiny

GREEDY = {"do_sample": False, "max_new_tokens": 12}
QUESTIONS = ["What is the capital of France?", "hi", "你是谁？", "one two three " * 8, "Who are you?"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("infer") / "model", initializer_range=0.2)


@pytest.fixture
def options(model_dir, tmp_path):
    return {"model_id_or_path": str(model_dir), "result_dir": str(tmp_path / "out"), **GREEDY}


@pytest.fixture(scope="module")
def plain(model_dir):
    """What plain transformers answers to messages, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()

    def answer(messages, tuned=None):
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        output = (tuned or model).generate(**inputs, max_new_tokens=12, do_sample=False)
        ids = output[0, inputs["input_ids"].shape[1] :].tolist()
        ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
        return tokenizer.decode(ids)

    return answer


def user(text):
    return [{"role": "user", "content": text}]


def write_rows(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def saved(directory) -> list[dict]:
    (path,) = Path(directory).glob("*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("stream", [True, False])
def test_one_question_gets_the_answer_of_plain_transformers(options, plain, capsys, stream):
    result = infer_main(InferArguments(query=QUESTIONS[0], stream=stream, **options))
    expected = plain(user(QUESTIONS[0]))
    assert capsys.readouterr().out == expected + "\n"
    assert result == {"result": [{"system": None, "query": QUESTIONS[0], "response": expected, "history": []}]}
    assert saved(options["result_dir"]) == result["result"]


def test_the_system_prompt_is_used_and_recorded(options, plain):
    (record,) = infer_main(InferArguments(query="hi", system="be kind", **options))["result"]
    assert record["system"] == "be kind"
    assert record["response"] == plain([{"role": "system", "content": "be kind"}, *user("hi")])


def test_command_line_words_are_taken(options, plain, capsys):
    words = [f"--{name}={value}" for name, value in options.items()]
    result = infer_main([*words, "--query", "hi", "--save_result", "false"])
    assert result["result"][0]["response"] == plain(user("hi"))
    assert not Path(options["result_dir"]).exists()


def test_a_data_set_is_answered_in_order_and_in_batches_as_singly(options, plain, tmp_path, capsys):
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user(text)} for text in QUESTIONS])
    result = infer_main(InferArguments(dataset=[data], batch_size=3, **options))
    assert [row["query"] for row in result["result"]] == QUESTIONS
    assert [row["response"] for row in result["result"]] == [plain(user(text)) for text in QUESTIONS]
    assert saved(options["result_dir"]) == result["result"]
    assert "metrics" not in result
    out = capsys.readouterr().out
    assert all(f"[QUERY] {text}\n[RESPONSE] " in out for text in QUESTIONS)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_killed_run_goes_on_behind_its_last_answer(options, tmp_path, sampled, monkeypatch):
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user(text)} for text in QUESTIONS])
    options |= {"dataset": [data], "save_result": True, "do_sample": sampled, "temperature": 1.5, "top_k": 0}
    whole = infer_main(InferArguments(**options | {"result_dir": str(tmp_path / "whole")}))["result"]
    assert not list((tmp_path / "whole").glob("*.unfinished.json"))

    def killed(results, *said):
        if len(results.records) == 2:
            raise KeyboardInterrupt
        return keep(results, *said)

    keep = Results._keep
    with monkeypatch.context() as short:
        short.setattr(Results, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            infer_main(InferArguments(**options))
    (path,) = Path(options["result_dir"]).glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"system": null, "que')
    asked: list[int] = []
    monkeypatch.setattr(
        "swift.commands.infer.generate_batch", lambda *a, **k: asked.append(k["first"]) or generate_batch(*a, **k)
    )
    assert infer_main(InferArguments(**options, batch_size=2))["result"] == whole
    assert asked == [2]
    assert saved(options["result_dir"]) == whole
    assert not list(path.parent.glob("*.unfinished.json"))
    begun = infer_main(InferArguments(**options | {"max_new_tokens": 3}))["result"]  # finished: nothing to go on with
    assert begun != whole
    assert asked == [2, 0]


def test_rows_keep_the_order_of_their_files():
    wheres = ["b.json:1 (row 2)", "b.json:1", "a/c.csv:10", "a/c.csv:9", "b.json:1 (row 10)", "hub/x", "a/c.csv:9"]
    rows = [{"messages": [], "where": where} for where in wheres]
    assert [row["where"] for row in in_file_order(rows)] == [
        "b.json:1", "b.json:1 (row 2)", "b.json:1 (row 10)", "a/c.csv:9", "a/c.csv:9", "a/c.csv:10", "hub/x",
    ]  # fmt: skip


def test_labels_are_compared_and_not_shown_to_the_model(options, plain, tmp_path, capsys):
    right = plain(user("hi"))
    rows = [
        {"query": "hi", "response": right, "system": ""},
        {"query": "hi", "response": "no", "history": [["a", "b"]]},
    ]
    data = write_rows(tmp_path / "d.jsonl", rows)
    result = infer_main(InferArguments(val_dataset=[data], verbose=True, **options))
    first, second = result["result"]
    assert first["response"] == right == first["label"]
    assert second["history"] == [["a", "b"]]
    assert second["response"] == plain([*user("a"), {"role": "assistant", "content": "b"}, *user("hi")])
    assert result["metrics"]["exact"] == 50.0
    out = capsys.readouterr().out
    assert "[LABEL] no" in out
    assert "[SYSTEM]" not in out


def test_a_system_prompt_is_shown_with_its_row(options, tmp_path, capsys):
    data = write_rows(tmp_path / "d.jsonl", [{"query": "hi", "response": "x", "system": "be kind"}])
    infer_main(InferArguments(dataset=[data], **options))
    assert "[SYSTEM] be kind\n[QUERY] hi\n" in capsys.readouterr().out


def test_a_sample_of_the_rows_is_the_same_for_a_seed_and_in_order(options, tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user(f"q{k}")} for k in range(9)])
    options |= {"max_new_tokens": 1, "save_result": False, "show_dataset_sample": 4}
    first = [row["query"] for row in infer_main(InferArguments(dataset=[data], **options))["result"]]
    again = [row["query"] for row in infer_main(InferArguments(dataset=[data], **options))["result"]]
    other = [row["query"] for row in infer_main(InferArguments(dataset=[data], dataset_seed=1, **options))["result"]]
    assert first == again != other
    assert len(set(first)) == 4


def test_a_share_that_is_said_is_answered(options, tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user(f"q{k}")} for k in range(9)])
    options |= {"max_new_tokens": 1, "save_result": False}
    assert len(infer_main(InferArguments(dataset=[data], dataset_test_ratio=0.5, **options))["result"]) == 4


def test_rows_that_do_not_fit_are_named_and_the_others_answered(options, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("swift.commands.infer.logger.warning", notes.append)
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user("one two three " * 400)}, {"messages": user("hi")}])
    long, short = infer_main(InferArguments(dataset=[data], **options))["result"]
    assert long["response"] == ""
    assert short["response"]
    assert len(notes) == 1
    assert "d.jsonl:1" in notes[0]


def test_long_data_sets_report_progress(options, tmp_path, monkeypatch, capsys):
    notes = []
    monkeypatch.setattr("swift.commands.infer.SECONDS_BETWEEN_NOTES", 0.0)
    monkeypatch.setattr("swift.commands.infer.logger.info", notes.append)
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user(f"q{k}")} for k in range(3)])
    infer_main(InferArguments(dataset=[data], verbose=False, batch_size=1, **options))
    assert [note.split(",")[0] for note in notes if "answered" in note] == [
        f"answered {k} of 3 rows" for k in (1, 2, 3)
    ]
    assert capsys.readouterr().out == ""


def test_a_chat_is_typed_and_saved(options, plain, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nand you\nexit\n"))
    first, second = infer_main(InferArguments(**options))["result"]
    assert first["response"] == plain(user("hi"))
    assert second["history"] == [["hi", first["response"]]]
    assert saved(options["result_dir"]) == [first, second]
    assert first["response"] in capsys.readouterr().out


def test_sampling_is_repeated_by_its_seed(options):
    options |= {"do_sample": True, "temperature": 1.0, "query": "hi", "save_result": False}
    answers = [infer_main(InferArguments(seed=seed, **options))["result"][0]["response"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_mistakes_are_found_before_weights_load(options, tmp_path, monkeypatch):
    def never(*args):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("swift.commands.infer.load_tuned_model", never)
    data = write_rows(tmp_path / "d.jsonl", [{"messages": user("hi")}])
    bad = write_rows(tmp_path / "bad.jsonl", [{"messages": user("hi")}, {"messages": user(None)}])
    with pytest.raises(ConfigError, match="exclude"):
        infer_main(InferArguments(query="hi", dataset=[data], **options))
    with pytest.raises(DataError, match=r"bad.jsonl:2"):
        infer_main(InferArguments(dataset=[bad], **options))
    with pytest.raises(OutputError, match="result_dir"):
        infer_main(InferArguments(query="hi", **{**options, "result_dir": data}))
    with pytest.raises(SwiftError):
        infer_main(InferArguments(query="hi", ckpt_dir=str(tmp_path / "nothing"), **options))


def test_answers_go_beside_the_model_unless_said(model_dir, tmp_path):
    target = save_tiny(tmp_path / "m")
    infer_main(InferArguments(query="hi", model_id_or_path=str(target), **GREEDY))
    assert len(saved(target / "infer_result")) == 1


def test_generation_settings_are_written_when_asked(tmp_path):
    target = save_tiny(tmp_path / "m")
    before = json.loads((target / "generation_config.json").read_text())
    infer_main(InferArguments(query="hi", model_id_or_path=str(target), save_result=False, **GREEDY))
    assert json.loads((target / "generation_config.json").read_text()) == before
    storage.commit(target, tmp_path / "committed", {})
    infer_main(
        InferArguments(
            query="hi", model_id_or_path=str(tmp_path / "committed"), overwrite_generation_config=True,
            save_result=False, **GREEDY,
        )
    )  # fmt: skip
    after = json.loads((tmp_path / "committed" / "generation_config.json").read_text())
    assert after["max_new_tokens"] == 12
    assert after["eos_token_id"] == [before["eos_token_id"]]
    assert storage.verify(tmp_path / "committed") == []


@pytest.fixture(scope="module")
def peft_dir(model_dir, tmp_path_factory):
    """A plain PEFT LoRA directory with weights that change the answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    directory = tmp_path_factory.mktemp("peft") / "adapter"
    tuned.save_pretrained(directory)
    return directory, tuned.eval()


def test_a_checkpoint_lends_its_settings_and_the_rows_it_held_out(options, plain, peft_dir, tmp_path):
    directory, tuned = peft_dir
    checkpoint = tmp_path / "checkpoint-1"
    shutil.copytree(directory, checkpoint)
    rows = [{"query": f"q{k}", "response": "a"} for k in range(12)] + [{"query": "no answer"}]
    trained_on = {"dataset": [write_rows(tmp_path / "d.jsonl", rows)], "dataset_test_ratio": 0.25, "max_bad_rows": 1}
    held_out = load_datasets(trained_on["dataset"], test_ratio=0.25, seed=7, max_bad_rows=1).val
    saved_options = {
        **trained_on,
        "dataset_seed": 7,
        "system": "be kind",
        "model_id_or_path": options["model_id_or_path"],
    }
    (checkpoint / "sft_args.json").write_text(json.dumps(saved_options))
    result = infer_main(InferArguments(ckpt_dir=str(checkpoint), load_dataset_config=True, **GREEDY))["result"]
    assert {row["query"] for row in result} == {row["messages"][-2]["content"] for row in held_out}
    assert len(result) == 3
    first = result[0]
    assert first["response"] == plain([{"role": "system", "content": "be kind"}, *user(first["query"])], tuned)
    assert saved(checkpoint / "infer_result") == result
    said = infer_main(InferArguments(ckpt_dir=str(checkpoint), system="", query="hi", save_result=False, **GREEDY))
    assert said["result"][0]["response"] == plain(user("hi"), tuned)


@pytest.mark.parametrize("merge", [False, True])
def test_a_plain_peft_adapter_answers_as_peft_does(options, plain, peft_dir, merge):
    directory, tuned = peft_dir
    result = infer_main(InferArguments(query="hi", ckpt_dir=str(directory), merge_lora=merge, **options))
    assert result["result"][0]["response"] == plain(user("hi"), tuned)
    assert plain(user("hi"), tuned) != plain(user("hi"))
    assert directory.with_name("adapter-merged").exists() == merge


def test_answers_of_a_model_of_the_package_go_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = infer_main(["--model_type", "demo-chat", "--query", "What is 2 + 3?", "--do_sample", "false"])["result"]
    assert "5" in result[0]["response"]
    assert len(list((tmp_path / "infer_result").glob("*.jsonl"))) == 1


def test_another_base_is_refused_unless_it_is_allowed(model_dir, options, tmp_path):
    from swift import LoraConfig, Swift

    base = AutoModelForCausalLM.from_pretrained(model_dir)
    Swift.prepare_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    other = save_tiny(tmp_path / "other", initializer_range=0.3)
    said = {**options, "ckpt_dir": str(tmp_path / "adapter"), "model_id_or_path": str(other), "query": "hi"}
    for merge in (False, True):
        with pytest.raises(DataError, match="--allow_other_base") as caught:
            infer_main(InferArguments(**said, merge_lora=merge))
        assert caught.value.exit_code == 65
        assert infer_main(InferArguments(**said, merge_lora=merge, allow_other_base=True))["result"]


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {}}}


@pytest.mark.parametrize("stream", [True, False])
def test_tools_are_shown_to_the_model(options, plain, tmp_path, stream):
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([TOOL]), encoding="utf-8")
    answers = [
        infer_main(**options, template_type="qwen", query="hi", stream=stream, tools=tools)["result"][0]["response"]
        for tools in (str(file), json.dumps([TOOL]), None)
    ]
    assert answers[0] == answers[1] != answers[2]
    row = {"query": "hi", "tools": [TOOL]}
    rows = write_rows(tmp_path / "rows.jsonl", [row])
    asked = infer_main(**options, template_type="qwen", val_dataset=[rows], show_dataset_sample=-1)
    assert asked["result"][0]["response"] == answers[0]


@pytest.mark.parametrize(
    ("tools", "kind", "says"),
    [
        ("nothing.json", "FOUND-01", "--tools nothing.json is not a file"),
        ("[3]", "DATA-03", 'tools[0] is not a function with a "name"'),
        ("bad.json", "DATA-03", "--tools bad.json: "),
    ],
)
def test_tools_that_are_none_are_told_before_weights_load(options, tmp_path, monkeypatch, tools, kind, says):
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("get_weather()", encoding="utf-8")
    with pytest.raises(SwiftError) as error:
        infer_main(**{**options, "model_id_or_path": "no/model"}, query="hi", tools=tools)
    assert error.value.code == kind
    assert says in error.value.what


def test_tools_beside_a_data_set_are_refused(options, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"query": "hi"}])
    with pytest.raises(ConfigError, match=r'--tools is for --query and chats(?s:.*)a column "tools"'):
        infer_main(**options, val_dataset=[rows], tools=json.dumps([TOOL]))
