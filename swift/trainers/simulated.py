"""A step of training without numbers, for which a model on the meta device is enough.

Every operation is gone through with shapes alone; its memory is followed and its work counted.

Letters in names: B rows, T tokens.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from swift.errors import SwiftError
from swift.estimate import Moment, Step
from swift.parallel.plan import group_of
from swift.trainers import saving
from swift.trainers.arguments import OwnTrainingArguments
from swift.trainers.fused_lora import fused_lora
from swift.trainers.head import HeadLoss, Rule, stand_in, whole_logits
from swift.trainers.loss import TokenLoss, sum_losses
from swift.tuners.layers import telling

aten = torch.ops.aten
GRADIENTS, LOGITS, ACTIVATIONS = "gradients", "logits", "activations"
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
ATTENTION_BACK = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
BACK = 2.5  # products of attention's backward pass, which makes its weights anew, next to the forward pass


class UnknownStepError(Exception):
    """A model whose operations depend on numbers, so that shapes alone do not tell them."""


@dataclass(frozen=True)
class Batch:
    """How large a batch is.

    Attributes:
        rows: B.
        tokens: T, with padding.
        supervised: how many of B·T are learnt.
        padded: whether rows differ in length, so that attention has a mask.
    """

    rows: int
    tokens: int
    supervised: int
    padded: bool = True


class AnyHeadLoss(Protocol):
    """Makes what takes the place of a head's logits, of the head and of what another model says."""

    def __call__(self, head: nn.Linear, told: Asked | None) -> HeadLoss:
        """The loss of a batch."""
        ...


@dataclass(frozen=True)
class Asked:
    """What a model says without learning: hidden states of what is learnt, and the head that reads them."""

    hidden_NG: Tensor
    head: nn.Linear


@dataclass(frozen=True)
class Lesson:
    """What a step does besides learning its own tokens.

    Attributes:
        passes: how often a model is asked about a batch before it is learnt.
        other: which, on the meta device; None is the model that trains.
        reads: whether those that are asked say log-probabilities at once; else their states are kept for the loss.
        loss: the loss of the batch; None is the cross-entropy.
    """

    passes: int = 0
    other: nn.Module | None = None
    reads: bool = True
    loss: AnyHeadLoss | None = None


NOTHING = Lesson()


def simulate(
    model: nn.Module,
    batch: Batch,
    args: OwnTrainingArguments,
    loss: TokenLoss,
    optimizer: Callable[[nn.Module], Optimizer],
    lesson: Lesson = NOTHING,
) -> Step:
    """What a step of training `model` on such a batch needs. The model is of no use afterwards.

    Args:
        model: with its tuner, on the meta device; the part of it that one process has, where several hold it.
        batch: its shape.
        args: whether activations are computed twice, and which functions are fused.
        loss: what each token's loss is.
        optimizer: makes the optimiser of the model.
        lesson: what else is done; the weights of another model are not counted.

    Raises:
        UnknownStepError: shapes alone do not tell.
    """
    try:
        with warnings.catch_warnings(), FakeTensorMode():
            warnings.simplefilter("ignore")
            return _simulate(model, batch, args, loss, optimizer, lesson)
    except (SwiftError, UnknownStepError):
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise UnknownStepError(f"{type(error).__name__}: {error}") from error


def _simulate(
    model: nn.Module,
    batch: Batch,
    args: OwnTrainingArguments,
    loss: TokenLoss,
    optimizer: Callable[[nn.Module], Optimizer],
    lesson: Lesson,
) -> Step:
    _without_numbers(model)
    base: Any = saving.base_of(model)
    model.train()
    if args.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    states, updater = _states(model, trained, optimizer)
    ledger = Ledger(base.config.get_text_config(decoder=True).vocab_size, batch)
    group = group_of(base)
    ledger.keep([*model.parameters(), *model.buffers(), *_tensors_of(updater)])
    if lesson.other is not None:
        _without_numbers(lesson.other.requires_grad_(False))
        ledger.keep([*lesson.other.parameters(), *lesson.other.buffers()])
    accumulates = args.gradient_accumulation_steps > 1
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter) if accumulates else None
        parameter.register_post_accumulate_grad_hook(lambda p: ledger.call(p.grad, GRADIENTS))
    with ledger, fused_lora(model, quiet=True) if args.fused_lora else nullcontext():
        for parameter in trained:
            if parameter.grad is not None:
                ledger.call(ledger.track(parameter.grad), GRADIENTS)
        with _autocast(args):
            total = _loss(model, base, batch, args, loss, lesson)
        total.backward()
        del total
        sent = [] if group is None else list(group.sent)
        passed, flops, moved = ledger.highest, ledger.flops, ledger.moved
        ledger.restart()
        if updater is not None:
            updater.step()
    return Step(
        weights=_bytes({*model.parameters(), *model.buffers()}),
        trained=_bytes(trained),
        masters=sum(4 * p.numel() for p in trained if p.element_size() < 4),
        optimiser=states,
        layer=_largest_layer(base),
        moments=(_moment(passed), _moment(ledger.highest)),
        flops=flops,
        moved=moved,
        updated=ledger.moved,
        sent=sum(sent),
        calls=len(sent),
    )


def _moment(live: Counter[str]) -> Moment:
    return Moment(live[GRADIENTS], live[ACTIVATIONS], live[LOGITS])


def _without_numbers(model: nn.Module) -> None:
    """Give the model tensors that only have shapes; what was tied stays tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                made[parameter] = nn.Parameter(empty, parameter.requires_grad)
            module._parameters[name] = made[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _states(
    model: nn.Module, trained: list[nn.Parameter], optimizer: Callable[[nn.Module], Optimizer]
) -> tuple[int | None, Optimizer | None]:
    """The bytes of the optimiser's states, and the optimiser; None where it does not work without numbers."""
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    try:
        made = optimizer(model)
        made.step()
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None, None
    return _bytes(set(_tensors_of(made))), made


def _tensors_of(optimizer: Optimizer | None) -> list[Tensor]:
    leaves = tree_leaves([dict(state) for state in optimizer.state.values()]) if optimizer is not None else []
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _loss(model: Any, base: Any, batch: Batch, args: OwnTrainingArguments, loss: TokenLoss, lesson: Lesson) -> Tensor:
    """The loss as the trainer makes it."""
    ids_BT = torch.zeros(batch.rows, batch.tokens, dtype=torch.long)
    mask_BT = torch.ones_like(ids_BT) if batch.padded else None
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    with telling(ids_BT):
        if args.fused_cross_entropy and whole_logits(base, loss) is None:
            told = None
            for _ in range(lesson.passes):
                told = _ask(lesson.other or model, inputs, lesson.reads)
            own = base.get_output_embeddings()
            head = HeadLoss(own, Rule()) if lesson.loss is None else lesson.loss(own, told)
            with head.learning(ids_BT):
                model(**inputs)
            return head.take().loss / 1
        if lesson.loss is not None:
            raise UnknownStepError("whole logits of two models are not gone through")
        asked: Any = lesson.other or model
        with torch.no_grad():
            for _ in range(lesson.passes):
                asked(**inputs)
        logits_BTV = model(**inputs).logits[:, -batch.tokens :]
        return sum_losses(logits_BTV, ids_BT, loss).loss / 1


@torch.no_grad()
def _ask(model: Any, inputs: dict[str, Any], reads: bool) -> Asked | None:
    """Let a model say something of a batch without learning; its states, unless it says all it has to."""
    ids_BT = inputs["input_ids"]
    base: Any = saving.base_of(model)
    head = base.get_output_embeddings()
    if reads:
        with HeadLoss(head, Rule()).learning(ids_BT):
            model(**inputs)
        return None
    kept: list[Tensor] = []

    def keep(hidden_BTG: Tensor) -> Tensor:
        kept.append(hidden_BTG[:, -ids_BT.shape[1] :][ids_BT == ids_BT])
        return hidden_BTG.new_zeros(len(hidden_BTG), 1, 1)

    with stand_in(head, keep):
        model(**inputs)
    return Asked(kept[0], head)


@contextmanager
def _autocast(args: OwnTrainingArguments) -> Iterator[None]:
    with ExitStack() as stack:
        if args.bf16 or args.fp16:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16 if args.bf16 else torch.float16))
        yield


def _largest_layer(model: nn.Module) -> int:
    """The bytes of the largest part of a list of modules, or of an embedding."""
    parts = [part for found in model.modules() if isinstance(found, nn.ModuleList) for part in found]
    parts += [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return max((_bytes(set(part.parameters())) for part in parts), default=0)


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class Ledger(TorchDispatchMode):
    """Follows every tensor that operations make, until it is let go.

    Attributes:
        live: bytes there are now, by what they are for.
        highest: the same when they were most.
        flops: of matrix products.
        moved: bytes read and written by everything else.
    """

    def __init__(self, vocabulary: int, batch: Batch) -> None:
        super().__init__()
        self.vocabulary, self.batch = vocabulary, batch
        self.live: Counter[str] = Counter()
        self.highest: Counter[str] = Counter()
        self.flops = self.moved = 0
        self._kinds: dict[int, tuple[str, int]] = {}

    def keep(self, tensors: list[Tensor]) -> None:
        """Leave these out: they are there before and after."""
        for tensor in tensors:
            self._kinds[_key(tensor)] = "", 0

    def restart(self) -> None:
        """Count anew from here."""
        self.flops = self.moved = 0
        self.highest = Counter(self.live)

    def track(self, tensor: Tensor) -> Tensor:
        """Count a tensor that nothing was known of."""
        key = _key(tensor)
        if key in self._kinds:
            return tensor
        storage = tensor.untyped_storage()
        wide = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary
        self._kinds[key] = (LOGITS if wide else ACTIVATIONS), storage.nbytes()
        self._add(*self._kinds[key])
        weakref.finalize(storage, self._gone, key)
        return tensor

    def call(self, tensor: Tensor | None, kind: str) -> None:
        """Say what a tensor is for."""
        if tensor is not None and (known := self._kinds.get(_key(tensor))):
            self.live[known[0]] -= known[1]
            self._kinds[_key(tensor)] = kind, known[1]
            self._add(kind, known[1])

    def _add(self, kind: str, count: int) -> None:
        self.live[kind] += count
        if self.live.total() > self.highest.total():
            self.highest = Counter(self.live)

    def _gone(self, key: int) -> None:
        kind, count = self._kinds.pop(key)
        self.live[kind] -= count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation on shapes, and enter what it made."""
        out = self._result(func, args, kwargs or {})
        if func.namespace != "prim":
            made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            for tensor in made:
                self.track(tensor)
            self._work(func, args, kwargs or {}, out, made)
        return out

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operation gives; one that chooses by a mask chooses as many as are learnt."""
        if func is aten.nonzero.default:
            return torch.empty(self._chosen(args[0]), args[0].ndim, dtype=torch.long)
        if func is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            mask = args[1][0]
            places = [torch.empty(self._chosen(mask), dtype=torch.long) for _ in range(mask.ndim)]
            return func(args[0], places + list(args[1][1:]))
        return func(*args, **kwargs)

    def _chosen(self, mask: Tensor) -> int:
        """A mask of rows and tokens marks what is learnt; one of a list marks the few that were right."""
        return self.batch.supervised if mask.ndim > 1 else 1

    def _work(self, func: Any, args: Any, kwargs: Any, out: Any, made: list[Tensor]) -> None:
        if func in (ATTENTION, ATTENTION_BACK):
            query, key = args[:2] if func is ATTENTION else args[1:3]
            products = 4 * query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * query.shape[3]
            self.flops += round(products * (1 if func is ATTENTION else BACK))
        elif (product := IN_PLACE.get(func.overloadpacket, func.overloadpacket)) in flop_registry:
            self.flops += flop_registry[product](*args, **kwargs, out_val=out)
        elif not func.is_view and not func.name().startswith(("aten::empty", "aten::new_empty", "aten::detach")):
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.moved += _bytes(made) + _bytes(read)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
