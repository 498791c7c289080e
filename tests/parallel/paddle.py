"""One of two processes that use PaddleNLP's names on a model that they share: `paddle.py OUT MODEL`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from swift.parallel.cuts import cut_of, whole
from swift.parallel.groups import make_group
from swift.peft import AutoModelForCausalLM, LoRAConfig, LoRAModel, PrefixConfig, PrefixModelForCausalLM
from swift.peft.weights import DegreeError
from tests.parallel.layers import batch, worst

TARGETS = [".*q_proj.*", ".*v_proj.*", ".*k_proj.*", ".*gate_proj.*", ".*up_proj.*", ".*o_proj.*", ".*down_proj.*"]
STEPS = 20


def load(model: str, degree: int = 2) -> Any:
    rank = torch.distributed.get_rank() if degree > 1 else 0
    options = {"tensor_parallel_output": False, "tensor_parallel_degree": degree, "tensor_parallel_rank": rank}
    return AutoModelForCausalLM.from_pretrained(model, **options)


def with_lora(base: Any, **options: Any) -> LoRAModel:
    torch.manual_seed(0)
    config = LoRAConfig(target_modules=TARGETS, r=4, lora_alpha=8, lora_dropout=0.1, merge_weights=True, **options)
    model = LoRAModel(base, config)
    model.mark_only_lora_as_trainable()
    return model


def with_prefix(base: Any, projection: bool) -> PrefixModelForCausalLM:
    torch.manual_seed(0)
    config = PrefixConfig(
        prefix_dropout=0.1,
        num_prefix_tokens=6,
        num_attention_heads=base.config.n_head,
        num_hidden_layers=base.config.n_layer,
        hidden_size=base.config.hidden_size,
        prefix_projection=projection,
        prefix_projection_hidden_size=24,
    )
    model = PrefixModelForCausalLM(base, config)
    model.mark_only_prefix_as_trainable()
    return model


def train(model: Any) -> list[float]:
    """The losses of some steps."""
    torch.manual_seed(5)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(p) for name, p in model.named_parameters() if p.requires_grad}


def compare(alone: Any, cut: Any) -> dict[str, float]:
    """How far a model in one process and one in two come apart in training."""
    losses = [train(model) for model in (alone, cut)]
    a, b = weights(alone), weights(cut)
    assert a.keys() == b.keys()
    trained = [p for p in cut.parameters() if p.requires_grad]
    return {
        "first loss": abs(losses[0][0] - losses[1][0]),
        "last loss": abs(losses[0][-1] - losses[1][-1]),
        "learnt": losses[0][-1] - losses[0][0],
        "weights": worst((a[name], b[name]) for name in a),
        "logits": outputs_apart(alone, cut),
        "cut": sum(cut_of(p) is not None for p in trained) / len(trained),
    }


@torch.no_grad()
def outputs_apart(one: Any, other: Any) -> float:
    inputs = batch()
    logits = [model(**inputs).logits[inputs["attention_mask"].bool()] for model in (one, other)]
    return worst([(logits[0], logits[1])])


def main(out: str, model: str) -> None:
    rank = make_group(2).rank
    place, report = Path(out).with_suffix(""), {}
    alone, cut = with_lora(load(model, 1)), with_lora(load(model), tensor_parallel_degree=2)
    report["lora"] = compare(alone, cut)
    report["lora files"] = saved_and_loaded(alone, cut, LoRAModel, lambda degree: load(model, degree), place / "lora")
    for projection in (False, True):
        name = f"prefix {'projected' if projection else 'plain'}"
        alone, cut = with_prefix(load(model, 1), projection), with_prefix(load(model), projection)
        report[name] = compare(alone, cut)
        kind = PrefixModelForCausalLM
        report[f"{name} files"] = saved_and_loaded(alone, cut, kind, lambda degree: load(model, degree), place / name)
    if rank == 0:
        Path(out).write_text(json.dumps(report))
    torch.distributed.barrier()


def saved_and_loaded(alone: Any, cut: Any, kind: Any, load: Any, place: Path) -> dict[str, float]:
    """How far models are from `alone` that read what the two wrote, as one file or as two."""
    found = {}
    for merged in (True, False):
        directory = place / ("merged" if merged else "parts")
        cut.save_pretrained(directory, merge_tensor_parallel=merged)
        torch.distributed.barrier()
        for degree in (1, 2):
            if not merged and degree == 1:
                try:
                    kind.from_pretrained(load(degree), directory)
                except DegreeError:
                    found["refused"] = 1.0
            options = {} if merged or degree == 2 else {"merge_tensor_parallel": True}
            model = kind.from_pretrained(load(degree), directory, **options).eval()
            found[f"{'merged' if merged else 'parts'} in {degree}"] = outputs_apart(alone, model)
        torch.distributed.barrier()
    alone.save_pretrained(place / "alone", is_main_process=torch.distributed.get_rank() == 0)
    torch.distributed.barrier()
    found["of one in 2"] = outputs_apart(alone, kind.from_pretrained(load(2), place / "alone").eval())
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
