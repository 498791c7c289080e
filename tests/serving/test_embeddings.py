"""`/v1/embeddings` through OpenAI's client, beside vectors worked out by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from swift.arguments.deploy import DeployArguments
from swift.commands.deploy import deploy_main
from swift.commands.prepare import find_decided, load_embedder
from swift.errors import ConfigError, DataError
from swift.inference.embedding import OLD_NAMES, TOKENS_OF_A_PASS, Embedder, EmbeddingService, read_recipe
from swift.serving import embeddings
from tests.tiny import tiny_encoder, tiny_model, tiny_tokenizer

TEXTS = ["What is the capital of France?", "hi", "你好，世界。今天天气很好。", "one two three four five six " * 4]


def save_embedder(
    home: Path, kind: str = "bert", pooling: Any = "mean", normalize: bool = True, old: bool = False
) -> Path:
    """A tiny model with the files that sentence-transformers writes."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(home)
    made = tiny_encoder(vocab_size=len(tokenizer)).bert if kind == "bert" else tiny_model(kind, len(tokenizer)).model
    made.save_pretrained(home)
    steps = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    places = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": k, "name": str(k), "path": places[k], "type": f"sentence_transformers.models.{step}"}
        for k, step in enumerate(steps)
    ]
    (home / "modules.json").write_text(json.dumps(modules))
    (home / "1_Pooling").mkdir(exist_ok=True)
    said = {key: name == pooling for key, name in OLD_NAMES.items()} if old else {"pooling_mode": pooling}
    (home / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **said}))
    (home / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 60}))
    return home


BY_HAND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.max(0),
    "mean_sqrt_len": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean": lambda states: np.average(states, axis=0, weights=np.arange(1, len(states) + 1)),
}


def by_hand(home: Path, text: str, pooling: str, normalize: bool) -> np.ndarray:
    """One text alone, without padding."""
    model, tokenizer = AutoModel.from_pretrained(home).eval(), AutoTokenizer.from_pretrained(home)
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
    vector = BY_HAND[pooling](states)
    return vector / np.linalg.norm(vector) if normalize else vector


def serve(home: Path, *words: str) -> Any:
    return deploy_main(["--model_id_or_path", str(home), "--port", "0", *words], prevent_thread_lock=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = save_embedder(tmp_path_factory.mktemp("encoder"))
    served = serve(home, "--served_model_name", "vectors")
    served.home = home
    yield served
    served.close()


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}v1", api_key="none", max_retries=0)


def test_vectors_are_those_of_the_texts_alone(served: Any, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="vectors", input=TEXTS)  # the client asks for base64
    expected = [by_hand(served.home, text, "mean", True) for text in TEXTS]
    assert [each.index for each in answer.data] == [0, 1, 2, 3]
    np.testing.assert_allclose([each.embedding for each in answer.data], expected, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(served.home)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    plain = client.embeddings.create(model="vectors", input=ids, encoding_format="float")
    np.testing.assert_allclose([each.embedding for each in plain.data], expected, atol=1e-5)
    single = client.embeddings.create(model="vectors", input=ids[0], encoding_format="float", dimensions=8)
    short = expected[0][:8] / np.linalg.norm(expected[0][:8])
    np.testing.assert_allclose(single.data[0].embedding, short, atol=1e-5)
    assert [model.id for model in client.models.list()] == ["vectors"]


def test_many_callers_are_answered_together(served: Any, client: openai.OpenAI) -> None:
    expected = {text: by_hand(served.home, text, "mean", True) for text in TEXTS}
    asked = TEXTS * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: client.embeddings.create(model="vectors", input=text), asked))
    for text, answer in zip(asked, found, strict=True):
        np.testing.assert_allclose(answer.data[0].embedding, expected[text], atol=1e-5)


def test_vectors_are_written_beside_the_loop_that_answers_everybody(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote, plain = list[str](), embeddings.written
    monkeypatch.setattr(
        embeddings, "written", lambda *said: wrote.append(threading.current_thread().name) or plain(*said)
    )
    client.embeddings.create(model="vectors", input=TEXTS, dimensions=3)
    assert len(wrote) == len(TEXTS)
    assert all("AnyIO" in name for name in wrote)


@pytest.mark.parametrize("pooling", BY_HAND)
def test_every_pooling(tmp_path: Path, pooling: str) -> None:

    kind = "qwen2" if pooling in ("lasttoken", "weightedmean") else "bert"
    home = save_embedder(tmp_path, kind, pooling, normalize=False, old=pooling in ("cls", "max", "lasttoken"))
    embedder = load_embedder(*find_decided(DeployArguments(model_id_or_path=str(home))))
    found = embedder.vectors([embedder.ids(text) for text in TEXTS]).numpy()
    np.testing.assert_allclose(found, [by_hand(home, text, pooling, False) for text in TEXTS], atol=1e-4)


def test_a_prompt_stands_before_every_text(tmp_path: Path) -> None:

    home = save_embedder(tmp_path)
    said = {"prompts": {"query": "one two "}, "default_prompt_name": "query"}
    (home / "config_sentence_transformers.json").write_text(json.dumps(said))
    embedder = Embedder(AutoModel.from_pretrained(home), AutoTokenizer.from_pretrained(home), read_recipe(home))
    found = embedder.vectors([embedder.ids("three")]).numpy()[0]
    np.testing.assert_allclose(found, by_hand(home, "one two three", "mean", True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"model": "absent"}, openai.NotFoundError, "there are: vectors"),
        ({"input": ""}, openai.BadRequestError, "input 0 is empty"),
        ({"input": ["x", "x " * 100]}, openai.BadRequestError, "more than 60"),
        ({"input": [[1, 10**6]]}, openai.BadRequestError, "ids beyond"),
        ({"input": []}, openai.BadRequestError, "at least 1 item"),
        ({"input": ["x", 3]}, openai.BadRequestError, "input.1: Input should be a valid string"),
        ({"input": "x", "dimensions": 65}, openai.BadRequestError, "64 dimensions"),
        ({"input": "x", "extra_body": {"dimension": 1}}, openai.BadRequestError, "did you mean 'dimensions'"),
    ],
)
def test_mistakes(client: openai.OpenAI, options: dict[str, Any], kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        client.embeddings.create(**{"model": "vectors", "input": "x", **options})


def test_it_writes_no_text(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="v1/embeddings"):
        client.chat.completions.create(model="vectors", messages=[{"role": "user", "content": "x"}])


def test_what_fails_ends_and_what_was_closed_says_so(served: Any) -> None:
    class Broken:
        def vectors(self, rows: Any) -> Any:
            raise RuntimeError("no memory")

    service = EmbeddingService(Broken(), max_waiting=1)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no memory"):
        service.submit([[1]])[0].result(9)
    service.close()
    with pytest.raises(OSError, match="closed"):
        service.submit([[1]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda home: (home / "modules.json").write_text("{"), "not JSON"),
        (lambda home: (home / "modules.json").write_text('[{"type": "x.Dense"}]'), "has the steps Dense"),
        (lambda home: (home / "1_Pooling" / "config.json").write_text("{}"), "asks for nothing"),
        (lambda home: (home / "1_Pooling" / "config.json").write_text('{"pooling_mode": "median"}'), "median"),
    ],
)
def test_damaged_recipes(tmp_path: Path, change: Any, says: str) -> None:
    home = save_embedder(tmp_path)
    change(home)
    with pytest.raises(DataError, match=says):
        read_recipe(home)


def test_an_adapter_is_merged_first(tmp_path: Path) -> None:

    args, source = find_decided(DeployArguments(model_id_or_path=str(save_embedder(tmp_path))))
    args.ckpt_dir = "some"
    with pytest.raises(ConfigError, match="merge"):
        load_embedder(args, source)


class Slow:
    """Reads nothing before `free` is set, and notes what it reads in a pass."""

    def __init__(self) -> None:
        self.free, self.begun, self.passes = threading.Event(), threading.Event(), list[list[int]]()

    def vectors(self, rows: Any) -> torch.Tensor:
        self.begun.set()
        assert self.free.wait(9)
        self.passes.append([len(row) for row in rows])
        return torch.zeros(len(rows), 1)


def test_a_pass_has_no_more_tokens_than_it_may() -> None:
    slow = Slow()
    service = EmbeddingService(slow, 64)  # type: ignore[arg-type]
    futures = service.submit([[1]])
    slow.begun.wait(9)  # the others wait together
    lengths = [1] * 40 + [8000] + [1] * 30 + [9000, 5, 5]
    futures += service.submit([[1] * length for length in lengths])
    slow.free.set()
    assert all(future.result(9).shape == (1,) for future in futures)
    assert [length for each in slow.passes for length in each] == [1, *lengths]
    assert all(len(lengths) == 1 or max(lengths) * len(lengths) <= TOKENS_OF_A_PASS for lengths in slow.passes)
    assert len(slow.passes) < 9
    service.close()


def test_ending_twice_at_once_ends() -> None:
    slow = Slow()
    service = EmbeddingService(slow)  # type: ignore[arg-type]
    (at_work,) = service.submit([[1]])
    slow.begun.wait(9)
    waits = service.submit([[1], [1]])
    closing = threading.Thread(target=service.close, daemon=True)
    closing.start()
    while not all(future.cancelled() for future in waits) or not service._jobs.qsize():
        time.sleep(0.001)
    service.cancel_all()  # as the server does that answers too long
    slow.free.set()
    closing.join(5)
    assert not closing.is_alive()
    assert at_work.result(5).shape == (1,)
