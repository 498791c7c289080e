"""What is learnt is what is said: tiny models learn five conversations by heart and repeat them, ends included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from swift.commands.infer import infer_main
from swift.commands.merge import merge_lora
from swift.commands.sft import sft_main
from swift.inference.generate import generate_batch, inference, inference_stream
from swift.llm import InferArguments, get_model_tokenizer, get_template
from swift.templates.encoding import Template
from swift.tuners import Swift
from tests.road.conftest import write_jsonl
from tests.templates.chats import MARKS
from tests.tiny import tiny_model, tiny_tokenizer

TALKS = [
    [("Who are you?", "I am a small model.")],
    [("你是谁？", "我是一个小模型。")],
    [("Count", "one\ntwo\n"), ("And then?", "four  five")],
    [("Paris?", "It is in France."), ("Sure?", "Yes, I am."), ("再见", "再见，朋友！🙂")],
    [("What is {x}?", "`{x}` is </code> 1 < 2 & 3.")],
]
FULL = ["--sft_type", "full", "--learning_rate", "5e-3", "--max_steps", "60"]
LORA = [
    *("--lora_rank", "16", "--lora_target_modules", "ALL", "--lora_dropout_p", "0"),
    *("--learning_rate", "1e-2", "--max_steps", "80"),
]
# the tokenizer's end of sequence, where the template's end of turn is another token
EOS = {"llama3": "<|end_of_text|>", "chatglm3": "</s>"}
CASES = {
    "auto-full": ("auto", FULL),
    "qwen-full": ("qwen", FULL),
    "llama3-full": ("llama3", FULL),
    "chatglm3-full": ("chatglm3", FULL),
    "auto-lora": ("auto", LORA),
    "chatglm3-lora": pytest.param(("chatglm3", LORA), marks=pytest.mark.slow),
}


def talks(checkpoint: Path) -> list[list[tuple[str, str]]]:
    """The conversations as the checkpoint's template writes them: Llama 3's own trims every text."""
    trims = json.loads((checkpoint / "sft_args.json").read_text())["template_type"] == "llama3"
    return [[(query, reply.strip() if trims else reply) for query, reply in talk] for talk in TALKS]


def asked(checkpoint: Path) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Every question, with the conversation before it, and its answer."""
    for talk in talks(checkpoint):
        messages: list[dict[str, str]] = []
        for query, reply in talk:
            messages = [*messages, {"role": "user", "content": query}]
            yield messages, reply
            messages = [*messages, {"role": "assistant", "content": reply}]


def save_model(directory: Path, template_type: str) -> None:
    """A tiny model that LoRA can teach too: its frozen head tells tokens apart."""
    tokenizer = tiny_tokenizer(500, MARKS)
    tokenizer.eos_token = EOS.get(template_type, tokenizer.eos_token)
    model = tiny_model(vocab_size=len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight *= 10
    model.generation_config = GenerationConfig(max_new_tokens=64, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows the conversations by heart."""
    template_type, how = request.param
    home = tmp_path_factory.mktemp("learns")
    save_model(home / "model", template_type)
    turns = (("user", 0), ("assistant", 1))
    taught = [[{"role": role, "content": pair[k]} for pair in talk for role, k in turns] for talk in TALKS]
    data = write_jsonl(home / "talks.jsonl", [{"messages": messages} for messages in taught])
    report = sft_main(
        [
            *("--model_id_or_path", str(home / "model"), "--dataset", str(data), "--output_dir", str(home / "out")),
            *("--template_type", template_type, "--dataset_test_ratio", "0", "--lr_scheduler_type", "constant"),
            *(
                "--batch_size",
                "5",
                "--gradient_accumulation_steps",
                "1",
                "--logging_steps",
                "20",
                "--report_to",
                "none",
                *how,
            ),
        ]
    )
    return Path(report["last_model_checkpoint"])


def answers(checkpoint: Path, home: Path, batch_size: int) -> list[str]:
    rows = [{"messages": [*messages, {"role": "assistant", "content": "?"}]} for messages, _ in asked(checkpoint)]
    data = write_jsonl(home / "asked.jsonl", rows)
    args = ["--ckpt_dir", str(checkpoint), "--dataset", str(data), "--batch_size", str(batch_size)]
    result = infer_main([*args, "--do_sample", "false", "--max_new_tokens", "64", "--result_dir", str(home)])["result"]
    return [row["response"] for row in result]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_data_set_is_answered_by_heart(checkpoint: Path, tmp_path: Path, batch_size: int) -> None:
    assert answers(checkpoint, tmp_path, batch_size) == [reply for _, reply in asked(checkpoint)]


def load(checkpoint: Path) -> tuple[Any, Template]:
    """The model as Python has it, with its template."""
    said = json.loads((checkpoint / "sft_args.json").read_text())
    full = said["sft_type"] == "full"
    model, tokenizer = get_model_tokenizer(
        None, model_id_or_path=str(checkpoint) if full else said["model_id_or_path"], torch_dtype=torch.float32
    )
    if not full:
        model = Swift.from_pretrained(model, str(checkpoint), inference_mode=True)
    return model, get_template(said["template_type"], tokenizer)


def test_answers_end_by_themselves_however_they_are_asked_for(checkpoint: Path) -> None:
    model, template = load(checkpoint)
    greedy = GenerationConfig(do_sample=False, max_new_tokens=64)
    for _, answer in generate_batch(model, template, [{"messages": m} for m, _ in asked(checkpoint)], greedy, 8):
        assert answer.finish_reason == "stop"
    for talk in talks(checkpoint):
        history: list[list[str]] = []
        for query, reply in talk:
            growing = list(inference_stream(model, template, query, history, generation_config=greedy))
            texts = [text for text, _ in growing]
            assert texts[-1] == reply
            assert all(later.startswith(sooner) for sooner, later in pairwise(texts))
            response, after = inference(model, template, query, history, generation_config=greedy)
            assert (response, after) == growing[-1]
            history = after
        assert history == [list(pair) for pair in talk]


def test_plain_transformers_stops_too(checkpoint: Path) -> None:
    """The end of the turn is in the checkpoint's own generation settings, and the answer's last token is it."""
    if (checkpoint / "adapter_config.json").is_file():
        args = InferArguments(ckpt_dir=str(checkpoint))
        directory = Path(merge_lora(args, device_map="cpu", replace_if_exists=True))
        assert answers(directory, checkpoint.parent, 8) == [reply for _, reply in asked(checkpoint)]
    else:
        directory = checkpoint
    _, template = load(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(directory)
    for messages, reply in asked(checkpoint):
        prompt = template.encode({"messages": messages})[0]["input_ids"]
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=64)[0, len(prompt) :].tolist()
        assert ids[-1] == template.end_ids[-1]
        assert template.tokenizer.decode(ids[:-1]) == reply
