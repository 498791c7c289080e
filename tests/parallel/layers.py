"""One of two processes that compare their model with a whole one: `layers.py OUT KIND ...`; differences go to OUT."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from swift.parallel.cuts import cut_of, norm_of_gradients, whole, whole_shape
from swift.parallel.groups import Group, imagine_group, make_group
from swift.parallel.load import load_part
from swift.parallel.lora import cut_lora
from swift.parallel.plan import cut_model, share_gradients
from tests.tiny import tiny_model

HEAD_DIM = {"head_dim": 16}
SHAPES: dict[str, dict[str, Any]] = dict.fromkeys(("gemma2", "gemma3_text", "qwen3", "glm4", "glm"), HEAD_DIM)


def main(out: str, *kinds: str) -> None:
    group = make_group(2)
    report: dict[str, dict[str, float]] = {}
    for kind in kinds:
        name, _, tied = kind.partition("+")
        report[kind] = compare(Path(out).with_suffix("") / kind, name, group, bool(tied))
    if group.rank == 0:
        Path(out).write_text(json.dumps(report))
    torch.distributed.barrier()


def compare(directory: Path, kind: str, group: Group, tied: bool) -> dict[str, float]:
    """The largest differences between a model and the same one cut in two."""
    shape = {"attention_dropout": 0.0, "tie_word_embeddings": tied, **SHAPES.get(kind, {})}
    if group.rank == 0:
        model = tiny_model(kind, **shape)
        for parameter in model.parameters():  # what starts at 0 or 1 would hide a mistake
            parameter.data += 0.05 * torch.randn(parameter.shape)
        model.save_pretrained(directory)
    torch.distributed.barrier()
    models: Any = AutoModelForCausalLM.from_pretrained(directory), load_part(directory, group)
    alone, cut = models
    inputs = batch()
    found = {"weights": worst((whole(p), alone.get_parameter(n)) for n, p in cut.named_parameters())}
    found |= differences(alone, cut, inputs, group)
    found |= imagined(directory, cut, inputs)
    split = load_part(directory, group, whole_logits=False)(**inputs)
    found["split loss"] = abs(split.loss.item() - alone(**inputs).loss.item())
    found["split width"] = split.logits.shape[-1]
    found["cut"] = sum(cut_of(p) is not None for p in cut.parameters()) / len(list(cut.parameters()))
    prompt = {name: value[:1, :6] for name, value in inputs.items() if name != "labels"}
    said = [m.generate(**prompt, max_new_tokens=6, do_sample=False)[0].tolist() for m in (alone, cut)]
    found["other words"] = sum(a != b for a, b in zip(*said, strict=True))
    tuned = [with_lora(model) for model in (alone, cut)]
    return found | {f"lora {name}": value for name, value in differences(*tuned, inputs, group).items()}


def imagined(directory: Path, cut: Any, inputs: dict[str, Tensor]) -> dict[str, float]:
    """How far what a process holds and sends is from what one finds that imagines the others, as an estimate does."""
    group = imagine_group(2)
    model = cut_model(AutoModelForCausalLM.from_pretrained(directory), group)
    share_gradients(model, group)
    with counted() as sent:
        torch.autograd.grad(cut(**inputs).loss, list(cut.parameters()))
    torch.autograd.grad(model(**inputs).loss, list(model.parameters()))
    sizes = [sum(p.numel() for p in one.parameters()) for one in (model, cut)]
    return {"held": abs(sizes[0] - sizes[1]), "sent": abs(sum(group.sent) - sum(sent)), "nothing": not sum(sent)}


@contextmanager
def counted() -> Iterator[list[int]]:
    """What two processes say to each other, in bytes: a sum goes there and back, a part is given once."""
    found: list[int] = []
    plain = torch.distributed.all_reduce, torch.distributed.all_gather

    def all_reduce(tensor: Tensor, *said: Any, **more: Any) -> Any:
        found.append(tensor.numel() * tensor.element_size())
        return plain[0](tensor, *said, **more)

    def all_gather(parts: list[Tensor], tensor: Tensor, *said: Any, **more: Any) -> Any:
        found.append(tensor.numel() * tensor.element_size())
        return plain[1](parts, tensor, *said, **more)

    torch.distributed.all_reduce, torch.distributed.all_gather = all_reduce, all_gather
    try:
        yield found
    finally:
        torch.distributed.all_reduce, torch.distributed.all_gather = plain


def batch() -> dict[str, Tensor]:
    """Two rows, one of which is padded on the left."""
    ids = torch.randint(3, 400, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def with_lora(model: Any) -> nn.Module:
    """The model with LoRA in every linear layer, which drops, and whose B is not zero."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2, target_modules="all-linear")
    tuned = cut_lora(get_peft_model(model, config)).train()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            values = 0.1 * torch.randn(whole_shape(parameter), generator=torch.Generator().manual_seed(len(name)))
            cut = cut_of(parameter)
            parameter.data = values if cut is None else cut.part(values)
    return tuned


def differences(alone: Any, cut: Any, inputs: dict[str, Tensor], group: Group) -> dict[str, float]:
    """Of logits, loss, gradients and their norm."""
    outputs = []
    for model in (alone, cut):
        torch.manual_seed(3)
        outputs.append(model(**inputs))
        outputs[-1].loss.backward()
    seen = inputs["attention_mask"].bool()
    of_alone = dict(alone.named_parameters())
    trained = [(name, p) for name, p in cut.named_parameters() if p.grad is not None]
    gradients = worst((joined_gradient(p), of_alone[name].grad) for name, p in trained)
    norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), float("inf"))
    copies = [p.grad for _, p in trained if cut_of(p) is None]
    return {
        "logits": worst([(outputs[0].logits[seen], outputs[1].logits[seen])]),
        "loss": abs(outputs[0].loss.item() - outputs[1].loss.item()),
        "gradients": gradients,
        "norm": abs(float(norm) - float(norm_of_gradients(cut.parameters(), group))),
        "unlike copies": worst((gradient, of_first(gradient)) for gradient in copies),
        "missing": sum(p.grad is not None for p in alone.parameters()) - len(trained),
    }


def joined_gradient(parameter: Tensor) -> Tensor:
    cut = cut_of(parameter)
    assert parameter.grad is not None
    return parameter.grad if cut is None else cut.whole(parameter.grad)


def of_first(tensor: Tensor) -> Tensor:
    """What the first process has."""
    other = tensor.clone()
    torch.distributed.broadcast(other, 0)
    return other


def worst(pairs: Iterable[tuple[Tensor, Tensor | None]]) -> float:
    """The largest difference between the tensors of a pair; those of unlike shapes are infinitely far apart."""
    found = [0.0]
    for a, b in pairs:
        same = b is not None and a.shape == b.shape
        found.append(float((a - b).abs().max()) if b is not None and same else float("inf"))
    return max(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
