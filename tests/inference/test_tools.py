"""Tools from training to inference: a model that learnt a row with a call asks for the tool, waits, and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GenerationConfig

from swift.commands.infer import infer_main
from swift.inference.generate import generate_batch, inference
from swift.inference.prompt import make_turn
from swift.templates.check import ANSWER, CALL, TOOL
from swift.templates.encoding import Template
from swift.templates.template import get_template
from tests.templates.test_check import shipped, tokenizer_of
from tests.tiny import save_tiny

ASKED = {"role": "user", "content": "How is the weather in Ōtsu?"}
CALLED = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
REPLIED = {"role": "assistant", "content": "It is clear."}
ROW: dict[str, Any] = {"messages": [ASKED, CALLED, ANSWER, REPLIED], "tools": [TOOL]}
GENERATION = GenerationConfig()
GREEDY = GenerationConfig(max_new_tokens=120, do_sample=False)
JSON = '{"city": "Ōtsu"}'
REACT = f"I look.\nAction: get_weather\nAction Input: {JSON}"
HERMES = f'I look.\n<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call>'
# the template, the format of its tools, and the reply that calls one
CALLS = [
    ("qwen", "react_en", f"{REACT}\nObservation:"),
    ("chatml", "react_zh", f"{REACT}\nObservation:"),
    ("llama3", None, REACT),
    ("qwen", "toolbench", REACT),
    ("chatglm4", None, f"I look.\nget_weather\n{JSON}"),
    ("qwen2_5", None, HERMES),
    ("qwen3", None, f"<think>\n\n</think>\n\n{HERMES}"),
    ("llama3_1", None, f'I look.{{"name": "get_weather", "parameters": {JSON}}}'),
    ("auto", None, HERMES),
    ("auto", "react_en", REACT),
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(shipped("qwen2_5"))


class Knows(torch.nn.Module):
    """What a model that learnt `rows` by heart says: the labels of training, token by token, after ids of training."""

    def __init__(self, template: Template, rows: list[dict[str, Any]]) -> None:
        super().__init__()
        self.rows = [template.encode(row)[0] for row in rows]
        self.config = AutoConfig.for_model("qwen2", max_position_embeddings=4096)
        self.generation_config, self.device = GENERATION, torch.device("cpu")

    def next_id(self, ids: list[int]) -> int:
        """The label that belongs after these ids, which training must have met."""
        for row in self.rows:
            known = row["input_ids"]
            if len(known) > len(ids) and known[: len(ids)] == ids:
                return row["labels"][len(ids)]
        raise AssertionError("training never met this prompt")

    def generate(self, input_ids, attention_mask, generation_config, stopping_criteria, **_):
        ends, pad = generation_config.eos_token_id, generation_config.pad_token_id
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        new: list[list[int]] = [[] for _ in prompts]
        going = [True] * len(prompts)
        while any(going) and len(new[0]) < generation_config.max_new_tokens:
            for k, prompt in enumerate(prompts):
                new[k].append(self.next_id(prompt + new[k]) if going[k] else pad)
            written = torch.cat([input_ids, torch.tensor(new)], dim=1)
            done = stopping_criteria(written, None) if len(stopping_criteria) else [False] * len(prompts)
            going = [g and ids[-1] not in ends and not bool(d) for g, ids, d in zip(going, new, done, strict=True)]
        return torch.cat([input_ids, torch.tensor(new)], dim=1)


def taught(template: Template) -> Any:
    """A model that knows the row, and the question without tools."""
    return Knows(
        template, [ROW, {"messages": [ASKED, {"role": "assistant", "content": "Observation: I do not know."}]}]
    )


@pytest.mark.parametrize(("name", "style", "call"), CALLS)
def test_a_call_is_asked_for_and_its_answer_is_used(name, style, call, tokenizer):
    template = get_template(name, tokenizer, tools_prompt=style)
    model = taught(template)
    before = [{**ROW, "messages": ROW["messages"][:k]} for k in (1, 3)]
    answers = dict(generate_batch(model, template, before, GREEDY))
    assert [answers[k].text for k in (0, 1)] == [call.removeprefix(template.lead), "It is clear."]
    assert [answers[k].finish_reason for k in (0, 1)] == ["stop", "stop"]


def test_an_observation_in_words_goes_on_in_the_same_answer(tokenizer):
    template = get_template("qwen", tokenizer, tools_prompt="react_en")
    model = taught(template)
    asked = {"generation_config": GREEDY, "tools": [TOOL]}
    text, history = inference(model, template, ASKED["content"], **asked)
    assert text == f"{REACT}\nObservation:"
    text, history = inference(model, template, f" {ANSWER['content']}\n", history, **asked)
    assert text == "It is clear."
    assert len(history) == 1
    ids = template.encode(ROW)[0]["input_ids"]
    turn = make_turn(
        template, {"query": " x\n", "history": [[ASKED["content"], f"{REACT}\nObservation:"]], "tools": [TOOL]}
    )
    own = make_turn(template, {**ROW, "messages": [ASKED, CALLED, {**ANSWER, "content": "x"}]})
    assert turn.prompt_ids == own.prompt_ids
    assert own.prompt_ids[:40] == ids[:40]


def test_a_neighbour_without_tools_does_not_wait(tokenizer):
    template = get_template("qwen", tokenizer, tools_prompt="react_en")
    model = taught(template)
    told = make_turn(template, {"messages": [ASKED], "tools": [TOOL]})
    plain = make_turn(template, {"messages": [ASKED]})
    assert (told.stop_after, plain.stop_after) == (("Observation:",), ())
    rows = [{"messages": [ASKED]}, {"messages": [ASKED], "tools": [TOOL]}] * 2
    together = dict(generate_batch(model, template, rows, GREEDY, batch_size=4))
    alone = [dict(generate_batch(model, template, [row], GREEDY))[0] for row in rows]
    assert [together[k] for k in range(4)] == alone


def test_the_command_answers_rows_with_tools(tokenizer, tmp_path: Path, monkeypatch):
    data = tmp_path / "rows.jsonl"
    save_tiny(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("swift.commands.infer.load_tuned_model", lambda *_: taught(get_template("auto", tokenizer)))
    rows = [ROW, {**ROW, "messages": ROW["messages"][:2]}, {**ROW, "tools": json.dumps([TOOL])}]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    said_ = ["--model_id_or_path", str(tmp_path / "model"), "--val_dataset", str(data), "--max_new_tokens", "120"]
    found = infer_main([*said_, "--do_sample", "false", "--dtype", "fp32", "--result_dir", str(tmp_path)])["result"]
    assert [record["response"] for record in found] == ["It is clear.", HERMES, "It is clear."]
    assert [record["label"] for record in found] == ["It is clear.", HERMES, "It is clear."]
    assert found[0]["history"] == [[ASKED["content"], f'I look.\n{{"name": "get_weather", "arguments": {JSON}}}']]
