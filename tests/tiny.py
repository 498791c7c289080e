"""Tiny models and tokenizers made on the spot: random weights, a byte-level BPE tokenizer trained on a few lines.

Run `python tests/tiny.py DIR [qwen2|llama|gpt2]` to have one on disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

LINES = [
    "What is the capital of France? The capital of France is Paris.",
    "Who are you? I am a small model that was made for a test.",
    "how are you today, my friend? I am fine, thank you.",
    "one two three four five six seven eight nine ten",
    "system user assistant tool question answer instruction input output",
    "你好，世界。今天天气很好。你是谁？我是一个小模型。",
    "def add(a, b):\n    return a + b\n",
] * 4

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>"]


def tiny_tokenizer(vocab_size: int = 400, extra_special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML specials and template; any text round-trips."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[*SPECIAL, *extra_special],
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece's are: blanks are part of pieces, and what has no piece is written in bytes."""
    pieces = [
        "<unk>",
        *(f"<0x{number:02X}>" for number in range(256)),
        "\u2581",
        *"abcdeft\n.",
        "\u2581a",
        "ab",
        "\u2581t",
    ]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)},
                                     [("\u2581", "a"), ("a", "b"), ("\u2581", "t")], byte_fallback=True,
                                     unk_token="<unk>"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", unk_token="<unk>")


def tiny_model(kind: str = "qwen2", vocab_size: int = 400, hidden: int = 64, layers: int = 2, seed: int = 0, **config):
    """A random causal language model of the named architecture, in fp32, about 100 k parameters."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        shape = {"n_embd": hidden, "n_layer": layers, "n_head": 4, "n_positions": 512}
    else:
        shape = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 2 * hidden,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
        }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**common, **shape, **config}))


def tiny_encoder(kind: str = "bert", vocab_size: int = 400, hidden: int = 64, layers: int = 2, seed: int = 0):
    """A random masked language model of the named architecture, in fp32."""
    torch.manual_seed(seed)
    shape = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, vocab_size=vocab_size, **shape))


def save_tiny(directory: Path | str, kind: str = "qwen2", extra_special: tuple[str, ...] = (), **kwargs) -> Path:
    """Write a tiny model with its tokenizer as plain `save_pretrained` does; return the directory."""
    directory = Path(directory)
    tokenizer = tiny_tokenizer(extra_special=extra_special)
    model = tiny_model(kind, vocab_size=len(tokenizer), **kwargs)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=16
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    print(save_tiny(sys.argv[1], *sys.argv[2:3]))
