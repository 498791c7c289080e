"""`swift pt`: what it trains on is every token of the corpus once, its loss is the model's own, it goes on to the bit."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.arguments.pt import PtArguments
from swift.arguments.sft import SftArguments
from swift.commands import prepare, ready
from swift.datasets.pack import PackedDataset
from swift.decide import decide_sft
from swift.dist import Hardware
from swift.errors import ConfigError, DataError
from swift.llm import pt_main
from swift.trainers.arguments import training_arguments
from tests.road.conftest import write_jsonl

WORDS = "one two three four five six seven eight nine ten what is the capital of France".split()
SIZE = 48
ROOT = Path(__file__).parents[2]
SETS = ["corpus.jsonl", "more.jsonl"]


def text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 90)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """A model and a corpus, which tests only read."""
    place, draw = tmp_path_factory.mktemp("pt"), random.Random(0)
    (place / "my-model").symlink_to(tiny_dir)
    write_jsonl(place / "corpus.jsonl", [{"text": text(draw)} for _ in range(14)])
    write_jsonl(place / "more.jsonl", [{"response": "one two three"}])
    return place


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("my-model", *SETS):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMON = {
    "model_id_or_path": "my-model", "dataset": SETS, "max_length": SIZE, "dataset_test_ratio": 0.0,
    "report_to": ["none"], "add_output_dir_suffix": False, "logging_steps": 1, "gradient_accumulation_steps": 1,
    "batch_size": 2, "data_cache": False,
}  # fmt: skip


def corpus(place: Path) -> list[list[int]]:
    """The ids of every document with its end, by the tokenizer alone."""
    tokenizer = AutoTokenizer.from_pretrained(place / "my-model")
    rows = [json.loads(line) for name in SETS for line in (place / name).read_text().splitlines()]
    texts = [row.get("text") or row["response"] for row in rows]
    return [[*tokenizer(t, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for t in texts]


def read(**said: Any) -> ready.Data:
    said_args = PtArguments(**{**COMMON, **said})
    args = decide_sft(said_args, Hardware(), prepare.find_source(said_args))
    return ready.read_data(args, prepare.load_template(args, prepare.find_source(args)))


def taught(rows: Any) -> list[tuple[int, int]]:
    pairs = []
    for k in range(len(rows)):
        ids, labels = list(rows[k]["input_ids"]), list(rows[k]["labels"])
        pairs += [(a, b) for a, b in zip(ids, labels[1:], strict=False) if b != -100]
    return sorted(pairs)


@pytest.mark.parametrize("how", [{}, {"packing": False}, {"isolate_documents": False}])
def test_the_rows_are_the_tokens_of_the_corpus(here: Path, how: dict[str, Any]) -> None:
    documents = corpus(here)
    data = read(**how)
    account = data.ledger.to_json()
    assert (account["rows_read"], account["train"]["supervised"]) == (15, sum(map(len, documents)))
    assert account["dropped"] == {}
    pieces: Any = data.train.rows if isinstance(data.train, PackedDataset) else data.train
    assert account["pieces"] == {"train": len(pieces)}
    within = sorted(pair for ids in documents for pair in itertools.pairwise(ids))
    found = taught(data.train)
    if how.get("isolate_documents", True):
        assert found == within
    else:
        assert len(found) == sum(map(len, documents)) - 1
    assert all(len(data.train[k]["input_ids"]) <= SIZE for k in range(len(data.train)))  # type: ignore[arg-type]


def nll(place: Path) -> float:
    """The mean over all tokens but first ones of -log p, of pieces as documented, in float64."""
    model = AutoModelForCausalLM.from_pretrained(place / "my-model", dtype=torch.float64)
    total, count = 0.0, 0
    for ids in corpus(place):
        for start in range(0, max(len(ids) - 1, 1), SIZE - 1):
            piece = torch.tensor([ids[start : start + SIZE]])
            with torch.no_grad():
                logits = model(input_ids=piece).logits
            total += float(F.cross_entropy(logits[0, :-1], piece[0, 1:], reduction="sum"))
            count += piece.shape[1] - 1
    return total / count


def test_the_loss_is_the_models_own(here: Path) -> None:
    expected = nll(here)
    for number, how in enumerate(({"packing": True}, {"packing": False})):
        report = pt_main(**{**COMMON, "batch_size": 64, "max_steps": 1, "output_dir": f"out-{number}", **how})
        assert report["log_history"][0]["loss"] == pytest.approx(expected, abs=2e-6)
    saved = json.loads((here / "out-0" / "checkpoint-1" / "sft_args.json").read_text())
    assert (saved["sft_type"], saved["template_type"]) == ("full", "default-generation")


STREAM = {"streaming": True, "streaming_buffer_size": 5}
STEPS = {"max_steps": 8, "save_steps": 4, "eval_steps": 4, "learning_rate": 1e-2, "save_total_limit": -1}


@pytest.mark.parametrize(
    "how",
    [
        {**STREAM, "isolate_documents": False},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({"sft_type": "lora"}, {**STREAM})),
    ],
)
def test_it_goes_on_to_the_bit(here: Path, how: dict[str, Any]) -> None:
    common = {**COMMON, **STEPS, **how}
    whole = pt_main(**common, output_dir="whole")
    again = pt_main(**common, output_dir="again", resume_from_checkpoint="whole/checkpoint-4")
    files = list((here / "whole" / "checkpoint-8").glob("*.safetensors"))
    assert files
    for file in files:
        assert (here / "again" / "checkpoint-8" / file.name).read_bytes() == file.read_bytes()
    assert again["dataset_info"] == whole["dataset_info"]


def test_where_a_stream_stands_is_what_was_learnt_of_it(here: Path) -> None:
    common = {**COMMON, **STREAM, "evaluation_strategy": "no", "save_steps": 2, "save_total_limit": -1}
    given = []
    for number, said in enumerate((
        {},
        {"ignore_data_skip": True},
        {"batch_size": 3, "allow_inexact_resume": True},
    )):  # fmt: skip
        on = {"resume_from_checkpoint": f"out/checkpoint-{2 * number}"} if number else {}
        pt_main(**{**common, "output_dir": "out", "max_steps": 2 * number + 2, **on, **said})
        state = json.loads((here / "out" / f"checkpoint-{2 * number + 2}" / "data_state.json").read_text())
        given.append(state["examples"])
    assert given == [4, 4, 4 + 2 * 3]
    (here / "out" / "checkpoint-6").rename(here / "kept")  # a checkpoint's step is not in its name
    again = {"resume_from_checkpoint": "kept", "allow_inexact_resume": True}
    pt_main(**{**common, "output_dir": "on", "max_steps": 7, "batch_size": 3, **again})
    assert json.loads((here / "on" / "checkpoint-7" / "data_state.json").read_text())["examples"] == 10 + 3


def test_what_cannot_be_is_said_first(here: Path) -> None:
    for words, message in {
        ("isolate_documents=False", "packing=False"): "--isolate_documents false lets documents run on in packs",
        ("isolate_documents=False", "truncation_strategy='delete'"): "--truncation_strategy split",
        ("lazy_tokenize=True", "packing=False"): "has to know the lengths of all texts",
        ("max_length=1",): "a token to read and one to learn",
        ("max_length=-1",): "--packing needs --max_length",
        ("predict_with_generate=True", "dataset_test_ratio=0.5"): "plain texts do not have",
    }.items():
        said = eval(f"dict({', '.join(words)})")
        with pytest.raises(ConfigError, match=message):
            read(**said)
    write_jsonl(here / "chat.jsonl", [{"history": [["a", "b"]], "query": "c", "response": "d"}])
    with pytest.raises(DataError, match="has a single round"):
        read(dataset=["chat.jsonl"])


def shape(args: PtArguments) -> Any:
    """What the first rows are, and what is printed of them."""
    data = read(**{f.name: getattr(args, f.name) for f in fields(PtArguments)})
    lengths = [len(data.train[k]["input_ids"]) for k in range(len(data.train))]  # type: ignore[arg-type]
    return type(data.train).__name__, lengths, "position_ids" in data.train[0]  # type: ignore[index]


def streamed(args: PtArguments) -> Any:
    said = {f.name: getattr(args, f.name) for f in fields(PtArguments)}
    given = iter(read(**{**said, "streaming": True, "max_steps": 2, "packing": False}).train)  # type: ignore[call-overload]
    return [next(given)["input_ids"].tolist() for _ in range(4)]


def chosen(name: str) -> Any:
    return lambda args: getattr(decide_sft(args, Hardware(), prepare.find_source(args)), name)


def texts(args: PtArguments) -> Any:
    Path("a.txt").write_text("one two\nthree\n\nfour\n" * 3)
    return shape(replace(args, dataset=["a.txt"], packing=False))[1]


OWN: dict[str, tuple[Any, Any]] = {
    "isolate_documents": (False, shape),
    "text_unit": ("paragraph", texts),
    "sft_type": ("lora", chosen("learning_rate")),
    "lora_target_modules": (["q_proj"], lambda args: chosen("lora_target_modules")(replace(args, sft_type="lora"))),
    "template_type": ("auto", shape),
    "truncation_strategy": ("delete", lambda args: shape(replace(args, packing=False))),
    "packing": (False, shape),
    "streaming_buffer_size": (2, streamed),
    "eval_steps": (7, lambda args: training_arguments(args).eval_steps),
}


def test_every_option_of_its_own_changes_something(here: Path) -> None:
    own = set(PtArguments.__annotations__)
    defaults, common = SftArguments(), PtArguments(**COMMON)
    differing = {
        f.name for f in fields(PtArguments) if getattr(PtArguments(), f.name) != getattr(defaults, f.name, "-")
    }
    assert set(OWN) == own | differing
    for name, (value, look) in OWN.items():
        assert look(replace(common, **{name: value})) != look(common), name


@pytest.mark.slow
def test_a_held_out_text_becomes_likelier(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "pretraining.py"), "--output_dir", str(tmp_path), "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
