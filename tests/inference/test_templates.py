"""With every kind of real template: answers are those of plain transformers on the same prompt."""

import pytest
import torch
from transformers import GenerationConfig

from swift.inference.generate import generate_batch, inference, inference_stream
from swift.templates.template import get_template
from tests.tiny import tiny_model, tiny_tokenizer

GREEDY = GenerationConfig(max_new_tokens=16, do_sample=False)
SPECIAL = (
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<end_of_turn>",
    "<start_of_turn>",
)
HISTORY = [["Who are you?", "I am a small model."], ["你好", "世界"]]
NAMES = ["auto", "default", "default-generation", "chatml", "qwen", "llama", "llama3", "gemma", "mistral-nemo"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(extra_special=SPECIAL)


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(vocab_size=len(tokenizer), initializer_range=0.2).eval()


@pytest.mark.parametrize("name", NAMES)
def test_single_streamed_and_batched_answers_are_plain_greedy_decoding(name, tokenizer, model):
    template = get_template(name, tokenizer)
    past = [] if template.generation else HISTORY
    prompt = template.encode({"query": "hi", "history": past})[0]["input_ids"]
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False,
        eos_token_id=template.stop_ids, pad_token_id=0,
    )  # fmt: skip
    expected = template.generate_ids_to_response(template.get_generate_ids(output, len(prompt)))
    answer, history = inference(model, template, "hi", past, generation_config=GREEDY)
    assert answer == expected
    assert history == [*past, ["hi", expected]]
    assert list(inference_stream(model, template, "hi", past, generation_config=GREEDY))[-1] == (answer, history)
    rows = [{"query": "one two three four five"}, {"query": "hi", "history": past}, {"query": ""}]
    assert dict(generate_batch(model, template, rows, GREEDY))[1].text == expected


@pytest.mark.parametrize("name", NAMES)
def test_an_observation_is_read_as_training_reads_it(name, tokenizer, model):
    template = get_template(name, tokenizer)
    begun = "Action: look\nObservation: 42 found"
    trained = template.encode({"query": "q", "response": begun + "\nso it is 42"})[0]
    info: dict = {}
    _, history = inference(
        model, template, " 42 found", [["q", "Action: look\nObservation:"]],
        generation_config=GenerationConfig(max_new_tokens=1), generation_info=info,
    )  # fmt: skip
    asked = template.encode({"query": "q"})[0]["input_ids"]
    said = tokenizer(begun, add_special_tokens=False)["input_ids"]
    assert trained["input_ids"][: len(asked) + len(said)] == asked + said
    assert info["num_prompt_tokens"] == len(asked) + len(said)
    assert history[0][1].startswith(begun)
