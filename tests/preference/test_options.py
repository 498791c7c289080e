"""Every option of `swift rlhf` that `swift sft` has not changes something, and what contradicts itself is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from swift import dist
from swift.arguments.fields import options_of
from swift.arguments.gkd import DistillationOptions
from swift.arguments.reading import parse
from swift.arguments.reinforcement import ReinforcementOptions
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.cli import COMMANDS, main
from swift.commands import prepare, rlhf
from swift.commands.dry_run import dry_run
from swift.errors import SeveralErrors, SwiftError
from swift.preference.decide import decide_rlhf
from swift.preference.encode import PreferenceEncoder
from swift.preference.losses import settings_of
from swift.preference.scores import Scores
from swift.preference.trainer import Method
from swift.templates.template import get_template
from tests.preference.conftest import pair, write
from tests.tiny import tiny_model

Observe = Callable[[RLHFArguments], Any]


def decided(args: RLHFArguments) -> RLHFArguments:
    return decide_rlhf(args, dist.Hardware(), prepare.find_source(args))


def loss(**said: Any) -> Observe:
    """The whole loss of a fixed batch."""

    def observe(args: RLHFArguments) -> float:
        args = decided(
            replace(args, **{name: value for name, value in said.items() if getattr(args, name) in (None, "dpo")})
        )
        method = Method(args.rlhf_type, str(args.loss_type), settings_of(args))
        logps, known = torch.tensor([-3.0, -5.0, -4.0, -2.5]), torch.tensor([-3.5, -4.5, -4.2, -3.0])
        good = torch.tensor([True, False, True, False]) if method.single else None
        weight = torch.ones(4 if method.single else 2)
        scores = Scores(logps, torch.tensor([3, 4, 2, 5]), torch.zeros(4), weight, known, good, torch.full((4,), 0.3))
        losses, s = method.losses(scores), method.settings
        return float(s.share * losses.mean() - s.nll * logps[: len(weight)].sum() / scores.chosen_tokens)

    return observe


def prompt(args: RLHFArguments) -> list[int]:
    template = get_template("auto", prepare.load_tokenizer(prepare.find_source(args)), max_length=16)
    row = {"messages": [{"role": "user", "content": "one two three four five six seven eight nine"},
                        {"role": "assistant", "content": "ten"}], "rejected_response": "nine"}  # fmt: skip
    (found,) = PreferenceEncoder(template, decided(args).max_prompt_length, pairs=True).encode_batch([row])
    return list(found.get("input_ids", []))


def reference(args: RLHFArguments) -> Any:
    args = decided(args)
    asked: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf, "load_base", lambda *_: tiny_model("qwen2"))
        patch.setattr(
            rlhf,
            "find_source",
            lambda args: (
                asked.append((args.model_id_or_path, args.model_type, args.model_revision))
                or prepare.find_source(
                    replace(args, model_type=None, model_revision=None, model_id_or_path=str(PLACE["tiny"]))
                )
            ),
        )
        patch.setattr(rlhf, "check_stays", lambda *_: None)
        found = rlhf.find_reference(args, prepare.find_source(args), tiny_model("qwen2"))
    assert found is not None
    return found.model is None, asked


def beforehand(args: RLHFArguments) -> list[int]:
    asked: list[int] = []

    class Trainer:
        reference = object()
        know_reference = staticmethod(asked.append)

    rlhf.know_reference(decided(args), Trainer())  # type: ignore[arg-type]
    return asked


def collator(args: RLHFArguments) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf, "find_reference", lambda *_: None)
        return rlhf.further(decided(args), prepare.find_source(args), tiny_model("qwen2"), None)["data_collator"].shared  # type: ignore[arg-type]


PLACE: dict[str, Path] = {}
ROWS: dict[str, tuple[Any, Observe]] = {
    "rlhf_type": ("orpo", loss()),
    "loss_type": ("hinge", loss()),
    "beta": (0.5, loss()),
    "label_smoothing": (0.2, loss()),
    "rpo_alpha": (0.0, loss()),
    "sft_beta": (0.3, loss()),
    "cpo_alpha": (0.5, loss(rlhf_type="cpo")),
    "simpo_gamma": (0.2, loss(rlhf_type="simpo")),
    "discopop_tau": (1.0, loss(loss_type="discopop")),
    "desirable_weight": (2.0, loss(rlhf_type="kto")),
    "undesirable_weight": (2.0, loss(rlhf_type="kto")),
    "max_prompt_length": (6, prompt),
    "share_prompts": (True, collator),
    "ref_model_id_or_path": ("other", reference),
    "ref_model_type": ("qwen2-0_5b", reference),
    "ref_model_revision": ("v2", lambda args: reference(replace(args, ref_model_id_or_path="other"))),
    "precompute_ref_log_probs": (True, beforehand),
    "precompute_ref_batch_size": (7, lambda args: beforehand(replace(args, precompute_ref_log_probs=True))),
}


CONTINUED = {"resume_from_checkpoint": "out/checkpoint-9", "resume_only_model": True}


def test_every_option_has_its_row() -> None:
    own = options_of(RLHFArguments).keys() - options_of(SftArguments).keys()
    elsewhere = {"center_rewards_coefficient"}  # of reward models, which have tests of their own, as teachers have
    others = options_of(DistillationOptions).keys() | options_of(ReinforcementOptions).keys()
    assert set(ROWS) == own - elsewhere - others


@pytest.mark.parametrize("name", ROWS)
def test_it_changes_something(name: str, tiny_dir: Path) -> None:
    PLACE["tiny"] = tiny_dir
    value, observe = ROWS[name]
    args = RLHFArguments(model_id_or_path=str(tiny_dir), dataset=["x"], sft_type="lora")
    assert observe(args) != observe(replace(args, **{name: value}))


def test_decided_values(tiny_dir: Path) -> None:
    def of(**said: Any) -> RLHFArguments:
        return decided(RLHFArguments(model_id_or_path=str(tiny_dir), dataset=["x"], **said))

    for method, loss_type, beta in (("dpo", "sigmoid", 0.1), ("simpo", "simpo", 2.0), ("kto", "kto", 0.1)):
        args = of(rlhf_type=method)
        assert (args.loss_type, args.beta) == (loss_type, beta)
        assert decided(args) == args  # as a rerun says it
    assert (of().rpo_alpha, of(sft_beta=0.1).rpo_alpha) == (1.0, 0.0)
    assert (of(rlhf_type="cpo").cpo_alpha, of(rlhf_type="simpo").cpo_alpha) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rlhf_type": "orpo", "loss_type": "hinge"}, "hinge is no loss of orpo"),
        ({"rlhf_type": "kto", "rpo_alpha": 0.5}, "--rpo_alpha is for dpo, not for kto"),
        ({"rlhf_type": "orpo", "ref_model_id_or_path": "x"}, "--ref_model_id_or_path is for dpo and kto"),
        ({"rlhf_type": "cpo", "precompute_ref_log_probs": True}, "--precompute_ref_log_probs is for"),
        ({"packing": True}, "--packing does not go with preferences"),
        ({"loss_name": "cross-entropy"}, "--loss_type says the loss"),
        ({"fsdp": "full_shard", "precompute_ref_log_probs": True}, "asks the model as a whole"),
        ({"train_on_prompt": True}, "the last answer counts"),
        ({"loss_scale": "react"}, "the last answer counts"),
        ({"rpo_alpha": 0.5, "sft_beta": 0.5}, "both say"),
        ({"loss_type": "exo_pair"}, "--label_smoothing above 0"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "below 0.5"),
        ({"loss_type": "ipo", "beta": 0.0}, "divides by --beta"),
        ({"loss_type": "aot", "batch_size": 1}, "compares the pairs"),
        ({"max_tokens_per_batch": 100}, "--padding_free true"),
        ({"rlhf_type": "kto", "streaming": True, "max_steps": 2}, "kto needs all rows"),
        ({"precompute_ref_log_probs": True, "lazy_tokenize": True}, "--precompute_ref_log_probs needs all rows"),
        ({"training_options": {"label_smoothing_factor": 0.1}}, "smooths tokens"),
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "--label_smoothing is not looked at by the loss ipo of dpo"),
        ({"rlhf_type": "orpo", "label_smoothing": 0.1}, "not looked at by the loss orpo"),
        ({"simpo_gamma": 0.5}, "--simpo_gamma is not looked at"),
        ({"discopop_tau": 0.5}, "--discopop_tau is not looked at"),
        ({"rlhf_type": "kto", "share_prompts": True}, "--share_prompts is for dpo"),
        ({"ref_model_revision": "v2"}, "--ref_model_revision is of a model that"),
        ({"new_special_tokens": ["<a>"], "ref_model_id_or_path": "x"}, "does not know"),
        (CONTINUED, "the reference would be the model without it"),
        ({"rlhf_type": "kto", **CONTINUED}, "the reference would be the model without it"),
        ({"teacher_model": "x"}, "--teacher_model is for gkd, not for dpo"),
        ({"reward_funcs": ["math"]}, "--reward_funcs is for grpo and rloo, not for dpo"),
    ],
)
def test_what_contradicts_itself_is_refused(said: dict[str, Any], words: str, tiny_dir: Path) -> None:
    with pytest.raises((SwiftError, SeveralErrors)) as caught:
        decided(RLHFArguments(model_id_or_path=str(tiny_dir), dataset=["x"], **said))
    assert words in str(caught.value)


def test_zero_3_computes_lora_as_peft_does(tiny_dir: Path) -> None:
    pytest.importorskip("deepspeed")
    said = {"model_id_or_path": str(tiny_dir), "dataset": ["x.jsonl"]}
    stages = [decided(RLHFArguments(**said, deepspeed=f"default-zero{stage}")).fused_lora for stage in (2, 3)]
    assert stages == [True, False]


def test_short_names_are_the_method() -> None:
    for name in ("dpo", "orpo", "simpo", "cpo", "kto"):
        assert parse(RLHFArguments, [], **COMMANDS[name].defaults).rlhf_type == name
    old = parse(RLHFArguments, ["--pref_beta", "0.3", "--ref_model", "x", "--pref_loss", "ipo"])
    assert (old.beta, old.ref_model_id_or_path, old.loss_type) == (0.3, "x", "ipo")


def test_a_dry_run_shows_a_pair_and_what_it_takes(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write(tmp_path / "pairs.jsonl", [pair(k) for k in range(8)])
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", rows, "--dry_run", "--output_dir", str(tmp_path / "out")]
    assert main(["simpo", *words]) == 0
    told = capsys.readouterr().out
    assert "memory" in told
    assert "not estimated" not in told
    assert "to run it:  swift rlhf --rlhf_type simpo --model_id_or_path" in told.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_memory_is_that_of_all_answers_and_of_a_second_model(tiny_dir: Path, tmp_path: Path) -> None:
    def memory(rlhf_type: str, **said: Any) -> dict[str, Any]:
        rows = write(tmp_path / "pairs.jsonl", [pair(k) for k in range(8)])
        args = RLHFArguments(
            rlhf_type=rlhf_type, model_id_or_path=str(tiny_dir), dataset=[rows], dataset_test_ratio=0.0, **said
        )
        return dry_run(args)["size"]["memory"]

    lora, whole, alone = memory("dpo"), memory("dpo", sft_type="full"), memory("orpo", sft_type="full")
    bytes_of_model = sum(p.numel() * p.element_size() for p in tiny_model("qwen2").parameters())
    assert whole["weights"] - alone["weights"] == bytes_of_model
    assert lora["weights"] < whole["weights"]
    assert memory("orpo", sft_type="full", batch_size=4)["activations"] > 2 * alone["activations"]
    named = memory("dpo", ref_model_id_or_path=str(tiny_dir))
    assert named["weights"] - lora["weights"] == bytes_of_model
