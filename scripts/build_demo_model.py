"""Make the built-in models demo-base and demo-chat from nothing: text, tokenizer, training.

    OMP_NUM_THREADS=2 python scripts/build_demo_model.py

The text is written by the grammar in `scripts/demo`; nothing is downloaded. The same machine gives the same weights.
A run that was cut short goes on from what it kept in `--work`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from demo import plain
from demo.grammar import dialogue, rows
from demo.introducing import introduction
from demo.preference import pairs
from demo.tokens import END, STOP, Coder, Encoded, train_tokenizer
from demo.training import Stage, new_model, train
from transformers import GenerationConfig, Qwen2ForCausalLM

DEMO = Path(__file__).resolve().parents[1] / "swift" / "demo"
BASE_STEPS, TALK_STEPS, SUMS_STEPS, COPY_STEPS, WHO_STEPS = 600, 250, 1000, 1800, 1600
GENERAL_ROWS = 400


def main() -> None:
    """Build everything that `swift/demo` and the demo data sets consist of."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DEMO)
    parser.add_argument("--work", type=Path, default=Path("output/demo"), help="where a run can be continued from")
    parser.add_argument("--data_only", action="store_true", help="write the data sets, train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    write_data(args.output)
    if not args.data_only:
        build(args.output, args.work)


def write_data(directory: Path) -> None:
    """The rows to mix in, and the pairs of a better and a worse answer."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, found in (("general", rows(GENERAL_ROWS, "general")), ("preference", pairs())):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")


def build(output: Path, work: Path) -> None:
    """Train both models; `output` gets a directory for each."""
    tokenizer_files = work / "tokenizer"
    if not (tokenizer_files / "tokenizer.json").exists():
        train_tokenizer().save_pretrained(tokenizer_files)
    coder = Coder(tokenizer_files)
    model = new_model(coder)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights", flush=True)
    base = Stage("base", BASE_STEPS, 100, 3e-3, 132, lambda rng: coder.plain(plain.document(rng)))
    talk = Stage("chat", TALK_STEPS, 1, 3e-3, 132, lambda rng: coder.chat(dialogue(rng)))
    sums = Stage("chat with practice", SUMS_STEPS, 1, 2e-3, 66, lambda rng: talk_or_practise(coder, rng, 0.4, 1))
    copying = Stage("last", COPY_STEPS, 600, 2e-3, 66, lambda rng: talk_or_practise(coder, rng, 0.12, 3))
    who = Stage("who", WHO_STEPS, 600, 1.5e-3, 66, lambda rng: talk_or_introduce(coder, rng))
    train(model, base, work / "base")
    save(model, coder, END, tokenizer_files, output / "demo-base")
    train(model, talk, work / "talk")
    train(model, sums, work / "sums")
    train(model, copying, work / "last")
    train(model, who, work / "who")
    save(model, coder, STOP, tokenizer_files, output / "demo-chat")


def talk_or_practise(coder: Coder, rng: random.Random, share: float, slow: float) -> Encoded:
    """A dialogue, or with the probability `share` a few sums; `slow` is as `dialogue` says."""
    if rng.random() < share:
        return coder.practice(plain.sums(rng))
    return coder.chat(dialogue(rng, slow))


def talk_or_introduce(coder: Coder, rng: random.Random) -> Encoded:
    """What came before, or in a third of the rows a question about the model itself."""
    if rng.random() < 0.35:
        return coder.chat(introduction(rng))
    return talk_or_practise(coder, rng, 0.12, 2)


def save(model: Qwen2ForCausalLM, coder: Coder, end: str, tokenizer_files: Path, directory: Path) -> None:
    """The model in bfloat16 with its tokenizer; `end` is the token that it stops at."""
    directory.mkdir(parents=True, exist_ok=True)
    copy = Qwen2ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.config.eos_token_id = coder.ids(end)[0]
    copy.generation_config = GenerationConfig(eos_token_id=coder.ids(end)[0], pad_token_id=coder.ids(END)[0])
    copy.to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_files / name).exists():
            shutil.copyfile(tokenizer_files / name, directory / name)
    if end != STOP:
        settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("chat_template", None)
        settings["eos_token"] = end
        (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (directory / "chat_template.jinja").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
