"""New tokens: rows that train alone, in checkpoints that remember them, found again wherever they are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from swift.commands.export import export_main
from swift.commands.infer import infer_main
from swift.commands.sft import sft_main
from swift.errors import DataError, SwiftError, UsageError
from swift.models import new_tokens
from swift.models.load import load_model, load_tokenizer
from swift.models.new_tokens import NewTokens, add_tokens, check_same, restore, spelt_tokens
from swift.models.room import make_room, token_rows
from swift.models.source import find_model
from swift.tuners import Swift
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

WORDS = ["<|call|>", "⟨tool⟩"]
IDS = [400, 401]


@pytest.fixture(scope="module", params=["untied", "tied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "model", tie_word_embeddings=request.param == "tied")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "chat.jsonl"
    chats = [{"query": f"What is {WORDS[0]} {i}?", "response": f"It is {WORDS[1]} {i}."} for i in range(8)]
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def train(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(*options: str, words: list[str] | None = None, output: Path | None = None) -> Path:
        said = WORDS if words is None else words
        report = sft_main(
            [
                *("--model_id_or_path", str(base), "--dataset", str(rows), "--template_type", "chatml"),
                *("--output_dir", str(output or tmp_path_factory.mktemp("out")), "--add_output_dir_suffix", "false"),
                *("--batch_size", "2", "--gradient_accumulation_steps", "1", "--learning_rate", "0.05"),
                *("--evaluation_strategy", "no", "--save_steps", "2", "--max_steps", "4", "--warmup_ratio", "0"),
                *(("--new_special_tokens", *said) if said else ()),
                *options,
            ]
        )
        return Path(report["last_model_checkpoint"])

    return run


@pytest.fixture(scope="module")
def checkpoint(train: Callable[..., Path]) -> Path:
    return train()


def tables(model: Any) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()]


def loaded(directory: Path) -> Any:
    return load_model(find_model(None, str(directory)), torch.float32)


# The tokenizer


def test_a_new_token_is_one_token_anywhere_and_is_shown():
    tokenizer = tiny_tokenizer()
    assert add_tokens(tokenizer, WORDS) == dict(zip(WORDS, IDS, strict=True))
    ids = tokenizer(f"a{WORDS[0]}b {WORDS[1]}", add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i in IDS] == IDS
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"a{WORDS[0]}b {WORDS[1]}"


def test_a_token_that_is_there_is_refused():
    with pytest.raises(UsageError, match="as id 2") as error:
        add_tokens(tiny_tokenizer(), ["<new>", "<|im_end|>"])
    assert error.value.fix == "leave it out: it needs no new row"


def test_tokens_come_from_words_and_files(tmp_path: Path):
    (tmp_path / "tokens.txt").write_text("\ufeff<a>\n\n<b>\n", encoding="utf-8")
    assert spelt_tokens(["<x>", str(tmp_path / "tokens.txt")]) == ["<x>", "<a>", "<b>"]
    assert spelt_tokens([]) == []


@pytest.mark.parametrize(("said", "message"), [([" <a>"], "spaces"), (["<a>", "<a>"], "twice"), ([""], "no token")])
def test_what_is_no_token(said: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        spelt_tokens(said)


def test_a_tokenizer_that_gives_other_ids_is_refused():
    new = NewTokens(dict(zip(WORDS, IDS, strict=True)), 402)
    tokenizer = tiny_tokenizer()
    restore(tokenizer, new, "here")
    restore(tokenizer, new, "here")
    assert tokenizer.convert_tokens_to_ids(WORDS) == IDS
    with pytest.raises(DataError, match="as id 400, and this tokenizer gives it id 401"):
        restore(tiny_tokenizer(extra_special=("<other>",), vocab_size=401), new, "here")


@pytest.mark.parametrize("text", ['{"ids": {"<a>": 9}, "rows": 9}', '{"ids": ["<a>"], "rows": 9}', "{", "[]"])
def test_a_damaged_note_is_refused(text: str, tmp_path: Path):
    (tmp_path / new_tokens.FILE).write_text(text)
    with pytest.raises(DataError):
        new_tokens.read(tmp_path)


# The model


@pytest.mark.parametrize("tied", [False, True])
def test_room_is_made_for_as_many_as_are_needed(tied: bool):
    model, again = (tiny_model(tie_word_embeddings=tied) for _ in range(2))
    before = [table.clone() for table in tables(model)]
    make_room(model, IDS)
    torch.manual_seed(7)
    make_room(again, IDS)
    for table, same, old in zip(tables(model), tables(again), before, strict=True):
        assert table.shape == (402, 64)
        assert torch.equal(table[:400], old)
        assert torch.equal(table, same), "rows are not the same on every load"
        assert not torch.equal(table[400], table[401])
        assert (table[400:] - old.mean(0)).abs().max() < 0.1 * old.std()
    assert model.config.vocab_size == 402
    assert list(token_rows(model, IDS)) == ["model.embed_tokens"] + ([] if tied else ["lm_head"])


def test_rows_are_padded_only_when_asked_and_spare_ones_are_used():
    model = tiny_model()
    make_room(model, IDS, 64)
    assert len(tables(model)[0]) == 448
    assert all(torch.isfinite(table).all() for table in tables(model))
    make_room(model, [402])
    assert len(tables(model)[0]) == 448
    make_room(model, [])
    assert len(tables(model)[0]) == 448
    with pytest.raises(DataError, match="448 rows"):
        make_room(model, IDS, rows=402)


# A run


def test_only_new_rows_are_trained_and_saved(checkpoint: Path, base: Path):
    saved = {k: v for k, v in load_file(checkpoint / "adapter_model.safetensors").items() if "lora_" not in k}
    config = json.loads((base / "config.json").read_text())
    assert len(saved) == (1 if config["tie_word_embeddings"] else 2)
    assert all(tensor.shape == (2, 64) for tensor in saved.values())
    assert new_tokens.read(checkpoint) == NewTokens(dict(zip(WORDS, IDS, strict=True)), 402)
    tokenizer = load_tokenizer(find_model(None, str(base)))
    start = loaded(base)
    make_room(start, IDS)
    assert len(tokenizer) == 400
    assert all((tensor - tables(start)[0][IDS]).abs().max() > 1e-3 for tensor in saved.values())


def test_merged_other_rows_are_equal_to_the_bit(checkpoint: Path, base: Path):
    export_main(["--ckpt_dir", str(checkpoint), "--merge_lora", "true", "--replace_if_exists", "true"])
    merged = checkpoint.with_name(f"{checkpoint.name}-merged")
    for table, old in zip(tables(loaded(merged)), tables(loaded(base)), strict=True):
        assert len(table) == 402
        assert torch.equal(table[:400], old)
    assert load_tokenizer(find_model(None, str(merged))).convert_tokens_to_ids(WORDS) == IDS
    answers = [
        infer_main(["--ckpt_dir", str(path), "--query", f"What is {WORDS[0]}?", "--max_new_tokens", "8"])["result"]
        for path in (checkpoint, merged)
    ]
    assert answers[0] == answers[1]


def test_plain_peft_reads_it(checkpoint: Path, base: Path):
    model = loaded(base)
    with pytest.raises(DataError, match=r"up to id 401, and the model has 400 rows"):
        Swift.from_pretrained(model, str(checkpoint))
    model.resize_token_embeddings(402)
    ours = loaded(base)
    make_room(ours, IDS)
    ids_BT = torch.tensor([[5, 400, 7, 401]])
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(model, str(checkpoint)).eval()(input_ids=ids_BT).logits
        expected = Swift.from_pretrained(ours, str(checkpoint), inference_mode=True)(input_ids=ids_BT).logits
    assert torch.equal(theirs, expected)


def test_going_on_is_exact(train: Callable[..., Path], checkpoint: Path, tmp_path: Path):
    half = checkpoint.with_name("checkpoint-2")
    on = train("--resume_from_checkpoint", str(half), output=tmp_path)
    first, second = (load_file(path / "adapter_model.safetensors") for path in (checkpoint, on))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_going_on_with_other_tokens_is_refused(train: Callable[..., Path], checkpoint: Path, tmp_path: Path):
    for words in ([], WORDS[::-1]):
        with pytest.raises(UsageError, match="was trained with --new_special_tokens"):
            train("--resume_from_checkpoint", str(checkpoint), words=words, output=tmp_path)
    with pytest.raises(UsageError, match="no --new_special_tokens"):
        check_same(None, WORDS, "here")


@pytest.mark.slow
def test_in_our_layout_too_and_rewritten_for_peft(train: Callable[..., Path], base: Path):
    directory = train("--tuner_backend", "swift")
    export_main(["--ckpt_dir", str(directory), "--to_peft_format", "true"])
    rewritten = directory.with_name(f"{directory.name}-peft")
    ids_BT = torch.tensor([[5, 400, 7, 401]])
    logits = []
    for path in (directory, rewritten):
        model = loaded(base)
        make_room(model, IDS)
        with torch.no_grad():
            logits.append(Swift.from_pretrained(model, str(path), inference_mode=True)(input_ids=ids_BT).logits)
    assert torch.equal(*logits)


@pytest.mark.slow
def test_of_a_full_run_with_frozen_embeddings_new_rows_train_alone(train: Callable[..., Path], base: Path):
    size = sum(p.numel() for p in loaded(base).parameters())
    share = str(tables(loaded(base))[0].numel() * 1.05 / size)
    directory = train("--sft_type", "full", "--dtype", "fp32", "--freeze_parameters", share, "--weight_decay", "0.5")
    start, trained = loaded(base), loaded(directory)
    make_room(start, IDS)
    old, new = (tables(model)[0] for model in (start, trained))
    assert torch.equal(new[:400], old[:400])
    assert (new[400:] != old[400:]).any(dim=1).all()
    answer = infer_main(["--ckpt_dir", str(directory), "--query", WORDS[0], "--max_new_tokens", "4"])["result"]
    assert answer


@pytest.mark.slow
def test_a_full_run_saves_a_model_that_is_whole(train: Callable[..., Path]):
    directory = train("--sft_type", "full", "--pad_vocab_to_multiple_of", "16")
    assert json.loads((directory / "config.json").read_text())["vocab_size"] == 416
    assert load_tokenizer(find_model(None, str(directory))).convert_tokens_to_ids(WORDS) == IDS


@pytest.mark.parametrize(
    "options",
    [
        ("--sft_type", "adapter"),
        ("--lora_target_modules", "EMBEDDING"),
        ("--lora_modules_to_save", "lm_head"),
        ("--tuner", "adapter"),
    ],
)
def test_what_cannot_train_beside_them_is_said_at_once(options: tuple[str, ...], train: Callable[..., Path]):
    with pytest.raises(SwiftError, match="--new_special_tokens"):
        train(*options)
    with pytest.raises(SwiftError, match="needs --new_special_tokens"):
        train("--pad_vocab_to_multiple_of", "8", words=[])
