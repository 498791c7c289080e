"""Which modules of a model the words ALL, DEFAULT, EMBEDDING and LN stand for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from swift.errors import ConfigError
from swift.tuners.branch import matches

HEADS = ("lm_head", "output_layer", "embed_out", "score", "v_head", "classifier")
MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
VALUES = ("v_proj", "value", "v", "W_v")
REGEX_SIGNS = re.compile(r"[.*^$(|\[\\+]")


def find_targets(model: nn.Module, said: Sequence[str], default_targets: Sequence[str] = ()) -> list[str] | str:
    """The targets that the words `said` stand for: endings of paths, or one regular expression.

    DEFAULT is `default_targets`, ALL every linear layer but the head, EMBEDDING the input embedding.
    """
    if len(said) == 1 and REGEX_SIGNS.search(said[0]):
        return said[0]
    targets: list[str] = []
    for word in said:
        if REGEX_SIGNS.search(word) and not _names_a_module(model, word):
            raise ConfigError(
                "CONFIG-02",
                f"{word!r} is a regular expression, which has to be the only target",
                fix="join them to one: '.*(q_proj|v_proj)'",
            )
        if word == "DEFAULT":
            targets += default_targets or find_all_linears(model)
        elif word == "ALL":
            targets += find_all_linears(model)
        elif word == "EMBEDDING":
            targets += find_embeddings(model)
        else:
            targets.append(word)
    return list(dict.fromkeys(targets))


def find_modules_to_save(model: nn.Module, said: Sequence[str]) -> list[str]:
    """The modules that the words `said` stand for: EMBEDDING, LN (every norm), or themselves."""
    modules: list[str] = []
    for word in said:
        if word == "EMBEDDING":
            modules += find_embeddings(model)
        elif word == "LN":
            modules += _endings(model, lambda module: "Norm" in type(module).__name__)
        else:
            modules.append(word)
    return list(dict.fromkeys(modules))


def find_all_linears(model: nn.Module) -> list[str]:
    """Endings of the paths of all linear layers, quantised ones too, except the output head."""
    return _endings(model, _is_linear)


def find_embeddings(model: Any) -> list[str]:
    """The ending of the path of the input embedding; of all embeddings when the model does not say which it is."""
    if "get_input_embeddings" in dir(model):
        embedding = model.get_input_embeddings()
        return _endings(model, lambda module: module is embedding)
    return _endings(model, lambda module: isinstance(module, nn.Embedding))


def find_mlps(model: nn.Module) -> list[str]:
    """Endings of the paths of the feed-forward parts of the layers. Raises ConfigError when none has a usual name."""
    found = _endings(model, lambda _: True, among=MLPS)
    if not found:
        what = f"{type(model).__name__} has no part called {', '.join(MLPS)}"
        raise ConfigError("CONFIG-02", what, fix="say where the tuner goes with --lora_target_modules")
    return found


def find_same_shape(model: nn.Module, targets: Sequence[str] | str) -> tuple[list[str], list[str]]:
    """The linear layers of `targets` that have one shape, and the others: endings of their paths.

    The shape is that of the value projection when it is among them, else the commonest one.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        if _is_linear(module) and matches(targets, path):
            shapes[path] = tuple(module.weight.shape)  # type: ignore[union-attr]
    if len(set(shapes.values())) < 2:
        return sorted({_ending(path) for path in shapes}), []
    values = [shape for path, shape in shapes.items() if _ending(path) in VALUES]
    counted = Counter(values or shapes.values())
    shape = counted.most_common(1)[0][0]
    others = {_ending(path) for path, found in shapes.items() if found != shape}
    kept = {_ending(path) if _ending(path) not in others else path for path, found in shapes.items() if found == shape}
    return sorted(kept), sorted(others)


def _ending(path: str) -> str:
    return path.rpartition(".")[2]


def _is_linear(module: nn.Module) -> bool:
    """Whether LoRA can wrap the module: quantised kinds are known by name, since their packages are optional."""
    name = type(module).__name__
    if name == "NonDynamicallyQuantizableLinear":  # the inside of nn.MultiheadAttention, which is never called
        return False
    return isinstance(module, nn.Linear) or name.endswith("Linear") or "QuantLinear" in name or name == "Conv1D"


def _names_a_module(model: nn.Module, ending: str) -> bool:
    return any(path.endswith(ending) for path, _ in model.named_modules())


def _endings(model: Any, wanted: Callable[[nn.Module], bool], among: Sequence[str] = ()) -> list[str]:
    """The last names of the wanted modules; the whole path where the last name is that of an unwanted one too."""
    head = model.get_output_embeddings() if "get_output_embeddings" in dir(model) else None
    found, others = [], set()
    for path, module in model.named_modules():
        last = path.rpartition(".")[2]
        if path and wanted(module) and module is not head and last not in HEADS and (not among or last in among):
            found.append(path)
        else:
            others.add(last)
    short = {path: path.rpartition(".")[2] for path in found}
    return sorted({path if last in others or last.isdigit() else last for path, last in short.items()})
