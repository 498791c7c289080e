"""The tokenizer of the demo models, and dialogues as token ids with what is to be learnt of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer

from demo import plain
from demo.grammar import dialogue
from demo.items import Item

END, START, STOP = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIGNS = (" + ", " - ", " × ", " = ")
VOCABULARY = 2304
SAMPLE = 15_000
IGNORED = -100
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| [-+×=] |\p{Han}|\p{N}|[^\r\n\p{L}\p{N}]?[\p{L}--\p{Han}]+"
    r"| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
).replace("[\\p{L}--\\p{Han}]", "(?:(?!\\p{Han})\\p{L})")
"""Chinese signs and digits stand alone, so that names and numbers are always written in the same tokens."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
Encoded = tuple[list[int], list[int]]
"""Token ids and labels; `IGNORED` where nothing is to be learnt."""


def train_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer learnt from a sample of the training text.

    Any Qwen2 tokenizer cuts text as Qwen2 does, whatever its file says. That never joins what `WORDS` keeps apart, as
    no such merge was learnt; the signs of arithmetic, which it would cut, become tokens that are found before.
    """
    learnt = Tokenizer(BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learnt.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), bytewise])
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learnt.train_from_iterator(_sample(), trainer)
    model = json.loads(learnt.to_str())["model"]
    written = {bytewise.pre_tokenize_str(sign)[0][0]: sign for sign in SIGNS}
    tokenizer = Qwen2Tokenizer(
        vocab={written.get(token, token): number for token, number in model["vocab"].items()},
        merges=[tuple(pair) for pair in model["merges"] if "".join(pair) not in written],
        unk_token=None,
        eos_token=STOP,
        pad_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )
    tokenizer.add_tokens([AddedToken(sign, normalized=False) for sign in SIGNS])
    assert len(tokenizer) == VOCABULARY
    return tokenizer


def _sample() -> Iterator[str]:
    rng = random.Random("tokenizer")
    for _ in range(SAMPLE):
        for message in dialogue(rng).messages():
            yield f"{message['role']}\n"
            yield message["content"]
        yield plain.document(rng)


class Coder:
    """Dialogues and plain text as token ids."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def ids(self, text: str) -> list[int]:
        """Token ids of a text that holds ChatML."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def plain(self, text: str) -> Encoded:
        """All of the text is learnt, and its end."""
        ids = self.ids(text + END)
        return ids, ids

    def practice(self, equations: str) -> Encoded:
        """Of every line, the result is learnt, and its end: nobody can foresee the numbers that are asked for."""
        ids: list[int] = []
        labels: list[int] = []
        for line in equations.split("\n"):
            asked, _, result = line.rpartition(" = ")
            shown, said = self.ids(f"{asked} = "), self.ids(f"{result}\n")
            ids += shown + said
            labels += [IGNORED] * len(shown) + said
        return ids, labels

    def chat(self, item: Item) -> Encoded:
        """Only what the model says is learnt, and its end."""
        ids: list[int] = []
        labels: list[int] = []
        before = "" if item.system is None else f"{START}system\n{item.system}{STOP}\n"
        for query, answer in item.turns:
            shown = self.ids(f"{before}{START}user\n{query}{STOP}\n{START}assistant\n")
            said = self.ids(f"{answer}{STOP}")
            ids += shown + said
            labels += [IGNORED] * len(shown) + said
            before = "\n"
        return ids, labels
