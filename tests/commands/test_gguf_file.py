"""What stands in a GGUF file, read by the reader of GGUF's own package: every tensor, every token, the shape, the ends.

Where llama.cpp is installed as a Python package (`pip install xllamacpp`, as scripts/test.sh --all does), it reads the
files itself: the same tokens, the same likelihoods, the same greedy answers.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, normalizers, trainers
from tokenizers import models as kinds
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from swift.arguments.export import ExportArguments
from swift.commands import to_gguf
from swift.commands.export import export_main
from swift.commands.prepare import find_source, load_template
from swift.errors import ConfigError
from swift.models import MODELS
from tests.merging.cases import adapted, lora
from tests.tiny import LINES, save_tiny, tiny_model

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

# Largest error of a value, in units of the largest value: half a step of what the type can tell apart, which blocks
# count in steps of half precision.
STEPS = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11, "q4_0": 1 / 8 + 2**-11}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    for kind in ("llama", "qwen2", "qwen3"):
        save_tiny(place / kind, kind)
    return {kind: place / kind for kind in ("llama", "qwen2", "qwen3")}


def written(model: Path, file: Path, type_: str, template: str = "auto") -> tuple[Any, Any, dict[str, Any]]:
    args = ExportArguments(model_id_or_path=str(model), to_gguf=type_, template_type=template)
    source = find_source(args)
    made = load_template(args, source)
    to_gguf.write(source, made, file, type_)
    return gguf.GGUFReader(file), made, source.config


def turned_back(values: np.ndarray, heads: int) -> np.ndarray:
    """Queries or keys of Llama as transformers has them: the halves of a head one after the other."""
    width = values.shape[0] // heads
    return values.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("type_", STEPS)
def test_every_tensor_is_there(models: dict[str, Path], kind: str, type_: str, tmp_path: Path) -> None:
    reader, _, config = written(models[kind], tmp_path / "model.gguf", type_)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == to_gguf.LAYOUTS[config["model_type"]])
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    weights = load_file(models[kind] / "model.safetensors")
    expected = {names.get_name(name, try_suffixes=(".weight", ".bias")): value for name, value in weights.items()}
    assert {tensor.name for tensor in reader.tensors} == set(expected)
    for tensor in reader.tensors:
        wanted = expected[tensor.name].astype(np.float32)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        part = tensor.name.split(".")[-2]
        if kind == "llama" and part in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
            found = turned_back(found, heads)
        step = 0.0 if wanted.ndim == 1 else STEPS[type_]
        assert np.abs(found - wanted).max() <= step * np.abs(wanted).max() * 1.001, tensor.name


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_shape_tokens_and_ends_are_the_model_s(models: dict[str, Path], kind: str, tmp_path: Path) -> None:
    reader, template, config = written(models[kind], tmp_path / "model.gguf", "f16")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    arch = fields["general.architecture"]
    assert arch == to_gguf.LAYOUTS[config["model_type"]]
    shape = {
        "block_count": "num_hidden_layers",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "context_length": "max_position_embeddings",
        "vocab_size": "vocab_size",
    }
    assert {name: fields[f"{arch}.{name}"] for name in shape} == {name: config[key] for name, key in shape.items()}
    tokenizer = template.tokenizer
    spelt = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens) == config["vocab_size"] == len(fields["tokenizer.ggml.token_type"])
    assert all(tokens[index] == word for word, index in tokenizer.get_vocab().items())
    assert [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]] == [
        pair.split(" ") if isinstance(pair, str) else list(pair) for pair in spelt["model"]["merges"]
    ]
    assert fields["tokenizer.ggml.eos_token_id"] == template.stop_ids[0]
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    controls = {
        index for index, type_ in enumerate(fields["tokenizer.ggml.token_type"]) if type_ == gguf.TokenType.CONTROL
    }
    assert controls == {one["id"] for one in spelt["added_tokens"] if one["special"]}


LONGER = {"factor": 4.0, "rope_theta": 10000.0}
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", **LONGER},
    "yarn": {"rope_type": "yarn", "original_max_position_embeddings": 16, **LONGER},
    "llama3": {
        "rope_type": "llama3",
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        **LONGER,
    },
}


def test_llama_3_turns_as_slowly_as_there(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "llama", rope_parameters=SCALED["llama3"])
    reader, _, config = written(tmp_path / "model", tmp_path / "model.gguf", "f32")
    [slower] = [tensor for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    size = config["hidden_size"] // config["num_attention_heads"]
    usual = 10000.0 ** -(np.arange(0, size, 2) / size)
    theirs = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path / "model")).inv_freq.numpy()
    np.testing.assert_allclose(usual / slower.data, theirs, rtol=1e-5)
    assert slower.data.min() == pytest.approx(1.0)
    assert slower.data.max() == pytest.approx(4.0)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_longer_texts_are_told(kind: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "llama", rope_parameters=SCALED[kind])
    reader, _, _ = written(tmp_path / "model", tmp_path / "model.gguf", "f32")
    fields = {name: field.contents() for name, field in reader.fields.items() if "rope.scaling" in name}
    told = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}
    assert fields == {**told, **({"llama.rope.scaling.original_context_length": 16} if kind == "yarn" else {})}


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", **LONGER}, {**SCALED["yarn"], "beta_fast": 16.0}])
def test_other_ways_to_scale_positions_are_refused(rope: dict[str, Any], tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "llama", rope_parameters=rope)
    with pytest.raises(ConfigError, match=f"scales its positions \\({rope['rope_type']}\\)"):
        written(tmp_path / "model", tmp_path / "model.gguf", "f32")


def save_pieces(directory: Path, *, whole: bool = True) -> Path:
    """A tiny Llama with a tokenizer as Llama 2's is: pieces with blanks in them, bytes for what has no piece."""
    marked = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    learnt = Tokenizer(kinds.BPE())
    learnt.normalizer = marked
    learnt.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    joined = ["".join(pair) for pair in json.loads(learnt.to_str())["model"]["merges"]]
    letters = sorted(word for word in learnt.get_vocab() if len(word) == 1)
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *joined, *letters]
    vocab = {word: index for index, word in enumerate(words)}
    halves = [[(word[:at], word[at:]) for at in range(1, len(word))] for word in joined]
    merges = [pair for some in halves for pair in some if pair[0] in vocab and pair[1] in vocab]
    if not whole:
        merges.pop(next(k for k, pair in enumerate(merges) if merges[k - 1][0] + merges[k - 1][1] == "".join(pair)))
    backend = Tokenizer(kinds.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = marked
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    tiny_model("llama", vocab_size=len(words)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


TEXTS = (*LINES[:7], "two  blanks,\n\ttabs and \N{SNOWMAN}: 1234567", "a")


def read_by_score(fields: dict[str, Any], text: str) -> list[int]:
    """How llama.cpp reads a text with pieces: of all neighbours those become one whose piece has the best score."""
    words, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    index = {word: number for number, word in enumerate(words)}
    parts = list("\u2581" * fields["tokenizer.ggml.add_space_prefix"] + text.replace(" ", "\u2581"))
    while True:
        pairs = [(a + b, place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in index]
        if not pairs:
            break
        best, place = max(pairs, key=lambda pair: (scores[index[pair[0]]], -pair[1]))
        parts[place : place + 2] = [best]
    bytes_of = ([f"<0x{byte:02X}>" for byte in part.encode()] if part not in index else [part] for part in parts)
    return [index[word] for some in bytes_of for word in some]


def test_pieces_have_the_scores_that_make_the_same_tokens(tmp_path: Path) -> None:
    save_pieces(tmp_path / "model")
    reader, template, _ = written(tmp_path / "model", tmp_path / "model.gguf", "f32", "llama")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["tokenizer.ggml.model"] == "llama"
    assert [fields["tokenizer.ggml.token_type"][index] for index in (0, 1, 2, 3, 258, 259)] == [2, 3, 3, 6, 6, 1]
    for text in TEXTS:
        assert read_by_score(fields, text) == template.tokenizer(text, add_special_tokens=False).input_ids
    save_pieces(tmp_path / "other", whole=False)
    with pytest.raises(ConfigError, match="not all pairs"):
        written(tmp_path / "other", tmp_path / "other.gguf", "f32", "llama")


def test_tokens_that_the_model_has_no_rows_for_are_left_out(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model", "llama")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(directory)
    reader, template, config = written(directory, tmp_path / "model.gguf", "f32")
    assert template.tokenizer.pad_token_id == config["vocab_size"] == len(reader.fields["tokenizer.ggml.tokens"].data)
    assert "tokenizer.ggml.padding_token_id" not in reader.fields


def test_what_has_no_layout_is_known_before_anything_is_merged(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "gpt2")
    adapted(base, lora(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained(tmp_path / "adapter")
    said = {"model_id_or_path": str(base), "ckpt_dir": str(tmp_path / "adapter"), "merge_lora": True}
    with pytest.raises(ConfigError, match="a gpt2 model is not written as GGUF"):
        export_main(ExportArguments(to_gguf="q8_0", **said))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


PLUGIN = """
from swift.models import MODELS, ModelRecord

MODELS.add(ModelRecord("of-a-plug-in", "auto", path={path!r}))
"""


def test_a_plug_in_brings_a_model_and_all_is_told_once(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(MODELS, "_records", {name: MODELS[name] for name in MODELS})
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.syspath_prepend(tmp_path)
    base, run = str(models["llama"]), tmp_path / "run"
    adapted(Path(base), lora()).save_pretrained(run / "checkpoint-1")
    (run / "checkpoint-1" / "sft_args.json").write_text(json.dumps({"model_type": "of-a-plug-in", "sft_type": "lora"}))
    (tmp_path / "plug_in.py").write_text(PLUGIN.format(path=base))
    caplog.set_level("INFO")
    said = {"ckpt_dir": str(run / "checkpoint-1"), "custom_register_path": [str(tmp_path / "plug_in.py")]}
    export_main(ExportArguments(merge_lora=True, to_gguf="f32", **said))
    file = run / "checkpoint-1-merged-gguf" / "checkpoint-1-merged-f32.gguf"
    assert file.is_file()
    lines = [record.getMessage() for record in caplog.records if record.name == "swift"]
    assert len(lines) == len(set(lines)) > 5


class LlamaCpp:
    """llama.cpp with a file: its own server, in this process."""

    def __init__(self, file: Path) -> None:
        xllamacpp = pytest.importorskip("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.port = 256, 1, 1, 0
        params.warmup = params.fit_params = False
        self.server = xllamacpp.Server(params)

    def ask(self, path: str, **said: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(said).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        return self.ask("/tokenize", content=text, add_special=False, parse_special=False)["tokens"]

    def greedy(self, ids: list[int], length: int, likelihoods: int = 0) -> dict[str, Any]:
        """The likeliest tokens after `ids`, with the logarithms of as many likelihoods at each place."""
        said = {"prompt": ids, "n_predict": length, "n_probs": likelihoods, "return_tokens": True}
        return self.ask("/completion", **said, samplers=["top_k"], top_k=1, cache_prompt=False)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "pieces", *SCALED])
def test_llama_cpp_reads_the_same_tokens_and_says_the_same(kind: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    if kind == "pieces":
        save_pieces(model)
    elif kind in SCALED:
        save_tiny(model, "llama", rope_parameters=SCALED[kind])
    else:
        save_tiny(model, kind)
    _, template, config = written(model, tmp_path / "model.gguf", "f32", "llama" if kind == "pieces" else "auto")
    theirs = LlamaCpp(tmp_path / "model.gguf")
    tokenizer = template.tokenizer
    for text in TEXTS:
        assert theirs.tokens(text) == tokenizer(text, add_special_tokens=False).input_ids
    ids = tokenizer(" ".join(LINES[:3])).input_ids[:100]
    with torch.inference_mode():
        logits_TV = AutoModelForCausalLM.from_pretrained(model)(input_ids=torch.tensor([ids])).logits[0]
    wanted_TV = logits_TV.log_softmax(-1).numpy()
    likeliest = [tokenizer.decode([index], skip_special_tokens=True) for index in wanted_TV.argmax(-1).tolist()]
    places = [place for place, text in enumerate(likeliest) if text and "\ufffd" not in text]  # of others it tells none
    for place in (places[0], places[len(places) // 2], places[-1]):
        [told] = theirs.greedy(ids[: place + 1], 1, config["vocab_size"])["completion_probabilities"]
        found = {one["id"]: one["logprob"] for one in told["top_logprobs"]}
        found_V = np.array([found[index] for index in range(config["vocab_size"])])
        assert np.abs(found_V - wanted_TV[place]).max() < 1e-2 * np.ptp(wanted_TV[place])


@pytest.mark.parametrize("type_", ["f32", "f16", "q8_0"])
def test_llama_cpp_answers_in_the_same_greedy_tokens(type_: str, tmp_path: Path) -> None:
    record = MODELS["demo-chat"]
    args = ExportArguments(model_type=record.name, to_gguf=type_)
    source = find_source(args)
    template = load_template(ExportArguments(template_type="auto"), source)
    to_gguf.write(source, template, tmp_path / "model.gguf", type_)
    theirs, model = LlamaCpp(tmp_path / "model.gguf"), AutoModelForCausalLM.from_pretrained(source.path)
    for query in ("Who are you?", "What is the capital of France?", "你好"):
        ids = template.encode({"query": query})[0]["input_ids"]
        with torch.inference_mode():
            wanted = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0, len(ids) :].tolist()
        assert theirs.greedy(ids, len(wanted))["tokens"] == wanted
