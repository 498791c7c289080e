"""A merge by rows writes what PEFT's merge in the model writes, leaves the rest alone, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from swift.errors import DataError
from swift.merging import adapters, combine, stream, tensors
from swift.merging.combine import Combination
from swift.merging.parts import NeedsModel
from swift.merging.plan import make
from swift.merging.weights import Base
from swift.models.new_tokens import NewTokens
from swift.tuners.layout import read_json
from tests.merging.cases import CASES, TWO, adapted, base_of, lora, merged, planned, tensors_of

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def by_peft(model: Any, directory: Path) -> Tensors:
    model.merge_and_unload().save_pretrained(directory)
    return tensors_of(directory)


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_peft_merges(case: str, place: Path, tmp_path: Path) -> None:
    kind, config = CASES[case]
    base = base_of(place, kind, tie_word_embeddings=False)
    model = adapted(base, config())
    model.save_pretrained(tmp_path / "adapter")
    before, after = tensors_of(base), merged(base, tmp_path / "ours", tmp_path / "adapter")
    wanted = by_peft(model, tmp_path / "theirs")
    assert after.keys() == wanted.keys()
    assert adapters.why_not(read_json(tmp_path / "adapter" / "adapter_config.json")) is None
    changed = 0
    for name, tensor in wanted.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-6, atol=1e-6)
        changed += not torch.equal(before[name], tensor)
    assert changed


@pytest.mark.parametrize("case", ["lora", "dora", "conv1d"])
def test_half_precision_is_rounded_once(case: str, place: Path, tmp_path: Path) -> None:
    kind, config = CASES[case]
    full = base_of(place, kind)
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(full, dtype=torch.bfloat16).save_pretrained(half)
    model = adapted(half, config(), dtype=torch.float32)
    model.save_pretrained(tmp_path / "adapter")
    after = merged(half, tmp_path / "ours", tmp_path / "adapter")
    for name, tensor in by_peft(model, tmp_path / "theirs").items():
        wanted = tensor.to(torch.bfloat16)
        apart = (after[name].view(torch.int16).int() - wanted.view(torch.int16).int()).abs()
        assert after[name].dtype == torch.bfloat16
        assert apart.max() <= 1, name  # sums in another order may fall on the other side of a rounding edge
        assert (apart > 0).float().mean() < 1e-3
    wide = merged(half, tmp_path / "wide", tmp_path / "adapter", dtype=torch.float32)
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}


def sharded(base: Path, place: Path) -> Path:
    """The same model in three files."""
    directory = place / "sharded"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(directory, max_shard_size="200KB")
    return directory


def test_what_is_not_adapted_stays_byte_for_byte(place: Path, tmp_path: Path) -> None:
    base = sharded(base_of(place, "qwen2"), tmp_path)
    model = adapted(base, lora(target_modules=["layers.0.self_attn.q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    wanted = planned(base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    done = stream.write(wanted, tmp_path / "out", Combination())
    files = sorted(base.glob("*.safetensors"))
    assert len(files) > 2
    assert [path.name for path in files] == sorted(path.name for path in (tmp_path / "out").iterdir())
    differing = [path.name for path in files if path.read_bytes() != (tmp_path / "out" / path.name).read_bytes()]
    assert len(differing) == 1
    header = tensors.spans(base / differing[0])[1]
    assert (tmp_path / "out" / differing[0]).read_bytes().startswith(header)
    assert (done.changed, done.copied) == (1, len(Base(base, {}).names) - 1)
    index = read_json(base / "model.safetensors.index.json")["weight_map"]
    assert done.where == index


def test_blocks_make_no_difference(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("lora", "dora on conv1d", "lokr", "oft", "whole modules", "experts in one"):
        kind, config = CASES[case]
        base = base_of(place, kind)
        adapted(base, config()).save_pretrained(tmp_path / case)
        whole = merged(base, tmp_path / f"{case} whole", tmp_path / case)
        monkeypatch.setattr(tensors, "BLOCK", 1000)
        monkeypatch.setattr(stream, "BLOCK", 1000)
        parts = merged(base, tmp_path / f"{case} in parts", tmp_path / case)
        monkeypatch.undo()
        for name, tensor in whole.items():
            torch.testing.assert_close(parts[name], tensor, rtol=1e-6, atol=1e-7)


def test_bin_files_are_read_and_nothing_in_them_runs(place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2")
    adapted(base, lora()).save_pretrained(tmp_path / "adapter")
    wanted = merged(base, tmp_path / "safe", tmp_path / "adapter")
    old = tmp_path / "old"
    shutil.copytree(base, old)
    torch.save(load_file(base / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    found = merged(old, tmp_path / "out", tmp_path / "adapter")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "canary"),)

    torch.save({"model.embed_tokens.weight": Canary()}, old / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be read"):
        planned(old, tmp_path / "adapter")
    assert not (tmp_path / "canary").exists()


IDS = torch.arange(20)[None]
NEW = torch.tensor([[5, 400, 7, 401]])  # of a resized vocabulary


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(NEW if model.config.vocab_size > 401 else IDS).logits


def loaded(base: Path, output: Path, untied: bool, **fields: Any) -> Any:
    """The model in `output`, with the small files of its base."""
    config = read_json(base / "config.json")
    (output / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": not untied, **fields}))
    return AutoModelForCausalLM.from_pretrained(output).eval()


@pytest.mark.parametrize(
    ("fields", "untied"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": ["lm_head"]}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"modules_to_save": ["embed_tokens"]}, True),
        ({"trainable_token_indices": {"embed_tokens": [3, 7]}}, False),
        ({}, False),
    ],
)
def test_tied_embeddings_part_where_only_one_was_trained(
    fields: dict[str, Any], untied: bool, place: Path, tmp_path: Path
) -> None:
    base = base_of(place, "qwen2", tie_word_embeddings=True)
    model = adapted(base, lora(**fields))
    model.save_pretrained(tmp_path / "adapter")
    wanted = planned(base, tmp_path / "adapter")
    assert wanted.untied is untied
    (tmp_path / "out").mkdir()
    stream.write(wanted, tmp_path / "out", Combination())
    torch.testing.assert_close(logits(loaded(base, tmp_path / "out", untied)), logits(model), rtol=1e-4, atol=1e-5)


def with_head(base: Path, place: Path) -> Path:
    """A tied model whose file holds the head too, as some on the hubs do."""
    shutil.copytree(base, place)
    found = load_file(place / "model.safetensors")
    save_file({**found, "lm_head.weight": found["model.embed_tokens.weight"].clone()}, place / "model.safetensors")
    return place


@pytest.mark.parametrize(
    ("fields", "untied", "stored"),
    [
        ({"trainable_token_indices": {"embed_tokens": [3, 7]}}, False, False),
        ({"target_modules": ["lm_head"]}, True, True),
        ({"modules_to_save": ["embed_tokens"]}, True, True),
        ({}, False, True),
    ],
)
def test_a_tied_head_that_is_stored_does_not_go_stale(
    fields: dict[str, Any], untied: bool, stored: bool, place: Path, tmp_path: Path
) -> None:
    base = with_head(base_of(place, "qwen2", tie_word_embeddings=True), tmp_path / "base")
    model = adapted(base, lora(**fields))
    model.save_pretrained(tmp_path / "adapter")
    wanted = planned(base, tmp_path / "adapter")
    assert wanted.untied is untied
    (tmp_path / "out").mkdir()
    stream.write(wanted, tmp_path / "out", Combination())
    assert ("lm_head.weight" in tensors_of(tmp_path / "out")) is stored
    torch.testing.assert_close(logits(loaded(base, tmp_path / "out", untied)), logits(model), rtol=1e-4, atol=1e-5)


def test_rows_for_new_tokens_beside_a_stored_head(place: Path, tmp_path: Path) -> None:
    base = with_head(base_of(place, "qwen2", tie_word_embeddings=True), tmp_path / "base")
    adapted(base, lora()).save_pretrained(tmp_path / "adapter")
    new = NewTokens({"<a>": 400, "<b>": 401}, 402)
    found = merged(base, tmp_path / "out", tmp_path / "adapter", new=new)
    assert "lm_head.weight" not in found
    assert len(found["model.embed_tokens.weight"]) == 402
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(402)
    grown.save_pretrained(tmp_path / "grown")
    other = adapted(tmp_path / "grown", lora(target_modules=["lm_head"]))
    other.save_pretrained(tmp_path / "other", save_embedding_layers=False)
    parted = merged(base, tmp_path / "parted", tmp_path / "other", new=new)
    assert len(parted["lm_head.weight"]) == len(parted["model.embed_tokens.weight"]) == 402


def test_a_config_that_ties_what_differs_in_the_files_ties_nothing(place: Path, tmp_path: Path) -> None:
    """As transformers reads it."""
    base = with_head(base_of(place, "qwen2", tie_word_embeddings=True), tmp_path / "base")
    found = load_file(base / "model.safetensors")
    save_file({**found, "lm_head.weight": found["lm_head.weight"] * 2}, base / "model.safetensors")
    model = adapted(base, lora(target_modules=["embed_tokens"]))
    model.save_pretrained(tmp_path / "adapter")
    found = merged(base, tmp_path / "out", tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded(base, tmp_path / "out", False)), logits(model), rtol=1e-4, atol=1e-5)


def test_a_resized_vocabulary(place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2")
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(410)
    model = adapted(base, lora())
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    kept = {
        f"base_model.model.{name}": grown.state_dict()[name] for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    save_file({**load_file(file), **{name: tensor.clone() for name, tensor in kept.items()}}, file)
    wanted = planned(base, tmp_path / "adapter")
    assert wanted.vocabulary == 410
    (tmp_path / "out").mkdir()
    stream.write(wanted, tmp_path / "out", Combination())
    found = tensors_of(tmp_path / "out")
    assert torch.equal(found["model.embed_tokens.weight"], grown.model.embed_tokens.weight)
    assert torch.equal(found["lm_head.weight"], grown.lm_head.weight)


RESIZED: dict[str, dict[str, Any]] = {
    "layers": {},
    "whole tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "rows of new tokens": {"trainable_token_indices": {"embed_tokens": [3, 400, 401]}},
    "adapted tables": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "an adapted table": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize(("case", "tied"), [(case, tied) for case in RESIZED for tied in (True, False)][:-1])
def test_what_peft_saves_of_a_resized_model(case: str, tied: bool, place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2", tie_word_embeddings=tied)
    model = adapted(base, lora(**RESIZED[case]), rows=402)
    model.save_pretrained(tmp_path / "adapter")
    wanted = planned(base, tmp_path / "adapter")
    assert wanted.vocabulary == adapters.table_rows(tmp_path / "adapter") == 402
    (tmp_path / "out").mkdir()
    stream.write(wanted, tmp_path / "out", Combination())
    found = loaded(base, tmp_path / "out", wanted.untied, vocab_size=402)
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-5)


def test_a_resized_head_that_was_not_saved_is_missed(place: Path, tmp_path: Path) -> None:
    """PEFT saves only those tables that it adapts; the other's new rows are lost."""
    base = base_of(place, "qwen2")
    adapted(base, lora(**RESIZED["an adapted table"]), rows=402).save_pretrained(tmp_path / "adapter")
    with pytest.raises(DataError, match="one of two tables"):
        planned(base, tmp_path / "adapter")


def test_names_without_the_models_prefix(place: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_of(place, "gpt2"), base)
    file = base / "model.safetensors"
    save_file({name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}, file)
    model = adapted(base, CASES["conv1d"][1]())
    model.save_pretrained(tmp_path / "adapter")
    found = merged(base, tmp_path / "out", tmp_path / "adapter")
    wanted = by_peft(model, tmp_path / "theirs")
    assert "h.0.attn.c_attn.weight" in found
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[f"transformer.{name}"], rtol=1e-6, atol=1e-6)


def spoilt(base: Path, place: Path, **changes: Any) -> Path:
    """An adapter on disk some of whose tensors are others: a new value or a new name by key, None without it."""
    adapted(base, lora()).save_pretrained(place)
    file = place / "adapter_model.safetensors"
    found = load_file(file)
    change = changes["change"]
    save_file({key: value for old, tensor in found.items() for key, value in change(old, tensor)}, file)
    return place


FAULTS: dict[str, tuple[Any, str]] = {
    "renamed": (lambda key, one: [(key.replace("q_proj", "query"), one)], "not in the model"),
    "prefixed": (
        lambda key, one: [(key.replace("base_model.model.", "base_model.model.module.x."), one)],
        "not in the model",
    ),
    "one too many": (
        lambda key, one: [(key, one), (key.replace("layers.0", "layers.9"), one.clone())],
        "not in the model",
    ),
    "fewer layers": (lambda key, one: [(key, one)] if "layers.0" in key else [], "have no weights"),
    "without its other half": (lambda key, one: [(key, one)] if "lora_A" in key else [], "lacks"),
    "another size": (lambda key, one: [(key, one[..., :-1].clone() if "lora_A" in key else one)], "not"),
    "not finite": (lambda key, one: [(key, one * float("nan"))], "not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_of_another_model_is_refused(fault: str, place: Path, tmp_path: Path) -> None:
    change, told = FAULTS[fault]
    base = base_of(place, "qwen2")
    with pytest.raises(DataError, match=told) as caught:
        planned(base, spoilt(base, tmp_path / "adapter", change=change))
    assert caught.value.exit_code == 65


def test_an_adapter_of_another_kind_than_it_says_is_refused(place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2")
    adapted(base, lora()).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**read_json(file), "peft_type": "IA3"}))
    with pytest.raises(DataError, match="not in the model"):
        planned(base, tmp_path / "adapter")


def test_what_is_too_large_to_be_a_number_is_refused(place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2")
    adapter = spoilt(base, tmp_path / "adapter", change=lambda key, one: [(key, one * 1e30)])
    with pytest.raises(DataError, match="would hold numbers that are not finite"):
        merged(base, tmp_path / "out", adapter)


@pytest.mark.parametrize("damage", ["cut", "long header", "overlap"])
def test_damaged_files_are_named(damage: str, place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2")
    adapted(base, lora()).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    data = file.read_bytes()
    if damage == "overlap":
        data = data.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1)
    file.write_bytes(
        data[:-5] if damage == "cut" else (2**63).to_bytes(8, "little") + data[8:] if damage[0] == "l" else data
    )
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        planned(base, tmp_path / "adapter")


def two(base: Path, place: Path) -> tuple[list[Path], list[Tensors]]:
    """Two adapters, of other ranks and modules, and what each changes."""
    configs = [lora(target_modules=TWO, r=4), lora(target_modules=["q_proj", "k_proj"], r=2, use_rslora=True)]
    directories, changes = [], []
    before = tensors_of(base)
    for number, config in enumerate(configs):
        adapted(base, config, seed=number).save_pretrained(place / f"adapter{number}")
        directories.append(place / f"adapter{number}")
        after = merged(base, place / f"alone{number}", directories[-1])
        changes.append({name: after[name] - before[name] for name in before})
    return directories, changes


def test_a_weighted_sum(place: Path, tmp_path: Path) -> None:
    base = base_of(place, "qwen2")
    both, changes = two(base, tmp_path)
    found = merged(base, tmp_path / "out", *both, weights=[0.7, -0.3])
    for name, tensor in tensors_of(base).items():
        wanted = tensor + 0.7 * changes[0][name] - 0.3 * changes[1][name]
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ties", "magnitude_prune", "svd", "dare_linear", "dare_ties"])
def test_other_combinations(kind: str, place: Path, tmp_path: Path) -> None:
    """Against PEFT's own functions, on the changes as a whole."""
    from peft.utils import merge_utils

    base = base_of(place, "qwen2")
    both, changes = two(base, tmp_path)
    how = Combination(kind, 0.4 if not kind.startswith("dare") else 1.0, rank=3)
    found = merged(base, tmp_path / "out", *both, weights=[0.7, 0.3], how=how)
    name = "model.layers.0.self_attn.q_proj.weight"
    tasks, weights = [one[name] for one in changes], torch.tensor([0.7, 0.3])
    if kind == "svd":
        left, sizes, right = torch.linalg.svd(0.7 * tasks[0] + 0.3 * tasks[1], full_matrices=False)
        wanted = left[:, :3] @ torch.diag(sizes[:3]) @ right[:3]
    else:
        wanted = getattr(merge_utils, kind)(tasks, weights, how.density)
    torch.testing.assert_close(found[name] - tensors_of(base)[name], wanted, rtol=1e-4, atol=1e-5)


def test_dropped_numbers_are_made_up_for() -> None:
    change = torch.ones(400, 400)
    how = Combination("dare_linear", 0.25)
    one = combine.one_of([change], [1.0], how, "a name", None)
    assert set(one.unique().tolist()) == {0.0, 4.0}
    assert one.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(one, combine.one_of([change], [1.0], how, "a name", None))
    assert not torch.equal(one, combine.one_of([change], [1.0], how, "another", None))


def test_what_needs_the_model_says_so(place: Path, tmp_path: Path) -> None:
    assert "needs the model" in str(adapters.why_not({"peft_type": "HRA"}))
    assert "needs the model" in str(adapters.why_not({"peft_type": "LORA", "init_lora_weights": "loftq"}))
    base = base_of(place, "qwen2")
    model = adapted(base, lora(init_lora_weights="pissa_niter_4"))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(NeedsModel, match="at random"):
        planned(base, tmp_path / "adapter")
    assert isinstance(model, PeftModel)
    both = lora(init_lora_weights="olora", use_dora=True)
    adapted(base, both).save_pretrained(tmp_path / "both")
    with pytest.raises(NeedsModel, match="with DoRA"):
        planned(base, tmp_path / "both")


@pytest.mark.parametrize("case", ["weight", "tokens"])
def test_a_vocabulary_may_have_become_smaller(case: str, tmp_path: Path) -> None:
    base, folder, fewer = tmp_path / "base", tmp_path / "adapter", torch.randn(18, 4)
    base.mkdir()
    folder.mkdir()
    tables = {"model.embed_tokens.weight": torch.randn(20, 4), "lm_head.weight": torch.randn(20, 4)}
    save_file(tables, base / "model.safetensors")
    of = {f"base_model.model.{name}": fewer.clone() for name in tables}
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": []}
    if case == "tokens":
        of["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = torch.ones(1, 4)
        config["trainable_token_indices"] = {"embed_tokens": [3]}
    save_file(of, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weight = 1.0 if case == "tokens" else 0.5
    plan = make(Base(base, {"vocab_size": 20}), [adapters.read(folder, "default", weight)])
    (tmp_path / "out").mkdir()
    stream.write(plan, tmp_path / "out", Combination())
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, table in tables.items():
        wanted = fewer.clone() if case == "tokens" else table[:18] + 0.5 * (fewer - table[:18])
        if case == "tokens" and name.startswith("model."):
            wanted[3] = 1.0
        torch.testing.assert_close(found[name], wanted)
