"""Where a reply ends, in ids and in text, at once and while it grows."""

from __future__ import annotations

import pytest
import torch

from swift.templates import TEMPLATES
from swift.templates.stop import StopWordsCriteria
from swift.templates.template import get_template
from tests.templates.chats import bare_tokenizer, marked_tokenizer
from tests.tiny import tiny_tokenizer

NAMES = list(TEMPLATES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [marked_tokenizer, bare_tokenizer])
def test_what_is_supervised_ends_inference(name, make):
    template = get_template(name, make())
    assert template.end_ids[-1] in template.stop_ids or template.end_text in template.stop_words
    assert template.tokenizer.eos_token_id in template.stop_ids
    line = template.describe_end()
    assert repr(template.end_text) in line
    assert str(template.end_ids[-1]) in line


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [marked_tokenizer, bare_tokenizer])
@pytest.mark.parametrize("reply", ["Fine, thanks.", "我是一个小模型。 🙂 ok", " a  b\n\nc\n", ""])
def test_a_reply_comes_back_without_its_end(name, make, reply):
    template = get_template(name, make())
    inputs, _ = template.encode({"query": "Q", "response": reply})
    prompt, _ = template.encode({"query": "Q"})
    ids = template.get_generate_ids(torch.tensor([inputs["input_ids"]]), len(prompt["input_ids"]))
    assert ids == template.get_generate_ids([inputs["input_ids"]], len(prompt["input_ids"]))
    padded = [*ids, *[template.tokenizer.pad_token_id] * 3]
    reply = reply.strip() if "assistant" in TEMPLATES[name].trim else reply
    assert template.generate_ids_to_response(ids) == reply
    assert template.generate_ids_to_response(padded) == reply


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [marked_tokenizer, bare_tokenizer])
def test_a_growing_reply_only_grows(name, make):
    template = get_template(name, make())
    reply = "Fine, thanks 🙂 我是一个小模型。 the <| end\nof it"
    prompt, _ = template.encode({"query": "Q"})
    ids = template.encode({"query": "Q", "response": reply})[0]["input_ids"][len(prompt["input_ids"]) :]
    shown, joined = [0], ""
    for count in range(1, len(ids) + 1):
        done = count == len(ids)
        delta = template.generate_ids_to_response(ids[:count], done, return_delta=True, print_idx=shown)
        joined += delta
        assert reply.startswith(joined)
        assert "\ufffd" not in joined
    assert joined == reply


def test_half_a_word_is_held_back():
    template = get_template("qwen", tiny_tokenizer())
    ids = tiny_tokenizer().encode("one two thr")
    assert template.generate_ids_to_response(ids, False) == "one two "
    assert template.generate_ids_to_response(ids, True) == "one two thr"


def test_stop_words_end_their_own_row():
    tokenizer = tiny_tokenizer()
    prompt = tokenizer.encode("STOP ")
    rows = [prompt + tokenizer.encode(text)[:8] for text in ("go on and on", "now STOP it", "one two thr")]
    width = max(map(len, rows))
    batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    tail = batch[2, -2:].tolist()
    stop = StopWordsCriteria(tokenizer, ["STOP", tail, ""], num_prompt_tokens=len(prompt))
    assert stop(batch, None).tolist() == [False, True, True]
    assert StopWordsCriteria(tokenizer, [])(batch, None).tolist() == [False, False, False]
