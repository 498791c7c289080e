"""Make the models and data sets of the practice scripts: a tiny OPT, a tiny ChatGLM with its own code, two data sets.

    python scripts/practice/assets.py [DIRECTORY]

They stand in for facebook/opt-6.7b, zai-org/chatglm3-6b, Abirate/english_quotes and HasturOfficial/adgen: the same
classes and columns, random weights, nothing to download.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, GPT2Tokenizer, OPTConfig, OPTForCausalLM

HERE = Path(__file__).resolve().parent
QUOTES = [
    ("A short answer that is right beats a long one that is not.", "Ada", ["brevity", "truth"]),
    ("Measure before you cut, and again before you boast.", "Ben", ["measuring"]),
    ("The best error says what to type next.", "Cleo", ["errors", "writing"]),
    ("Small steps arrive; great leaps are told about.", "Ada", ["patience"]),
    ("Python is the best programming language for the second try.", "Dan", ["programming"]),
    ("What is not tested is only hoped for.", "Ben", ["testing", "hope"]),
]
WARES = ["coat", "shirt", "dress", "skirt", "scarf", "cap"]
COLOURS = ["red", "blue", "green", "black"]


def place() -> Path:
    """The directory that the command line names, with everything in it."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "practice").resolve()
    if not (directory / "adgen.jsonl").is_file():
        make(directory)
    return directory


def make(directory: Path) -> None:
    """Write both models and both data sets."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    quotes = [{"quote": quote, "author": author, "tags": tags} for quote, author, tags in QUOTES * 4]
    wares = [
        {"content": f"type#{ware}*colour#{colour}", "summary": f"This {colour} {ware} is light, warm and made to last."}
        for ware in WARES
        for colour in COLOURS
    ]
    texts = [row["quote"] for row in quotes] + [f"{row['content']} {row['summary']}" for row in wares]
    make_opt(directory / "opt", texts)
    make_chatglm(directory / "chatglm", texts)
    for name, rows in (("english_quotes", quotes), ("adgen", wares)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def make_opt(directory: Path, texts: list[str]) -> None:
    """A tiny OPT with the tokenizer class of the real one."""
    vocab, merges = learnt(texts, ["<pad>", "</s>", "<unk>"])
    tokenizer = GPT2Tokenizer(
        vocab, merges, bos_token="</s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=128
    )
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    OPTForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def make_chatglm(directory: Path, texts: list[str]) -> None:
    """A tiny model of ChatGLM's kind, which comes with its own code: one projection for query, key and value."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("modeling_chatglm.py", "tokenization_chatglm.py"):
        shutil.copy2(HERE / "chatglm" / name, directory / name)
    vocab, merges = learnt(texts, ["<pad>", "</s>", "<unk>", "[gMASK]", "sop"])
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>", "[gMASK]", "sop"])
    backend.save(str(directory / "tokenizer.json"))
    write(
        directory / "tokenizer_config.json",
        tokenizer_class="ChatGLMTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_chatglm.ChatGLMTokenizer"]},
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )
    write(
        directory / "config.json",
        model_type="chatglm",
        auto_map={
            "AutoConfig": "modeling_chatglm.ChatGLMConfig",
            "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        },
        vocab_size=backend.get_vocab_size(),
        pad_token_id=vocab["<pad>"],
        eos_token_id=vocab["</s>"],
    )
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    AutoModel.from_config(config, trust_remote_code=True).save_pretrained(directory)


def learnt(texts: list[str], special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of a byte-level BPE trained on a few texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]


def write(path: Path, **values: object) -> None:
    """A JSON file."""
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


if __name__ == "__main__":
    print(place())
