"""Laws of GaLore: its subspace against the SVD, its steps against dense ones and the equation, exact resume, memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.optimization import Adafactor
from transformers.pytorch_utils import Conv1D

from swift.commands.sft import sft_main
from swift.errors import ConfigError, DataError, InternalError, UnknownNameError
from swift.trainers import GaLore, GaLoreConfig, create_galore_optimizer, register_loss
from swift.trainers.galore import PROJECTIONS, Subspace, pack, restored, rounded_to_bf16, sides, stored, unpack
from swift.trainers.loss import LOSSES
from tests.road.conftest import conversations, write_jsonl
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, losses, trainer_of, weights

SHAPES = [(12, 7), (7, 12), (9, 9), (2, 9, 6)]


def adafactor(parameters: list[nn.Parameter], **options: Any) -> Adafactor:
    return Adafactor(parameters, scale_parameter=False, relative_step=False, warmup_init=False, **options)


class Weights(nn.Module):
    """Matrices in layers of their own, a Conv1D, and a vector."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        for number, shape in enumerate(SHAPES):
            layer = nn.Linear(2, 2, bias=False)
            layer.weight = nn.Parameter(torch.randn(shape))
            self.add_module(f"layer{number}", layer)
        self.conv = Conv1D(5, 8)
        self.norm = nn.LayerNorm(5)
        self.to(dtype)

    def loss(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        parts = [(p * torch.randn(p.shape, generator=generator).to(p) + 0.1 * p**2).sum() for p in self.parameters()]
        return torch.stack(parts).sum()


def train(model: Weights, optimizer: Optimizer, steps: range = range(6)) -> list[Tensor]:
    for step in steps:
        model.loss(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def far(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in zip(a, b, strict=True))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


@pytest.mark.parametrize("proj_type", PROJECTIONS)
def test_the_subspace_is_that_of_the_svd(proj_type: str) -> None:
    for rows, columns in ((12, 7), (7, 12), (8, 8)):
        gradient = torch.randn(rows, columns, dtype=torch.float64)
        u, s, vt = torch.linalg.svd(gradient)
        left, right = Subspace().bases(gradient, GaLoreConfig(rank=3, proj_type=proj_type))
        shorter_is_right = rows >= columns
        expected = {"std": shorter_is_right, "reverse_std": not shorter_is_right, "right": True, "left": False}
        assert (right is not None) == expected.get(proj_type, True)
        assert (left is not None) == (not expected.get(proj_type, False))
        for basis, vectors in ((left, u[:, :3]), (None if right is None else right.mT, vt[:3].mT)):
            if basis is not None:
                assert basis.dtype == torch.float64
                assert float((basis @ basis.mT - vectors @ vectors.mT).abs().max()) < 1e-12
        whole = gradient
        whole = whole if left is None else left @ left.mT @ whole
        whole = whole if right is None else whole @ right.mT @ right
        best = (u[:, :3] * s[:3]) @ vt[:3]
        assert float((whole - best).abs().max()) < 1e-12  # the best approximation of rank 3


@pytest.mark.parametrize("proj_type", PROJECTIONS)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, adafactor])
def test_a_full_rank_is_the_dense_optimiser(proj_type: str, kind: Callable[..., Optimizer]) -> None:
    model, dense = Weights(), Weights()
    config = GaLoreConfig(rank=12, proj_type=proj_type, update_proj_gap=2)
    got = train(model, create_galore_optimizer(model, config, kind, lr=1e-2, weight_decay=0.3))
    groups = [
        {"params": [p for p in dense.parameters() if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in dense.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    assert far(got, train(dense, kind(groups, lr=1e-2))) < 1e-12


def adamw_by_hand(model: Weights, config: GaLoreConfig, lr: float, decay: float, steps: int) -> list[Tensor]:
    """Algorithm 1 with AdamW, written out for the first matrix alone, projected on one side."""
    weight = model.layer0.weight.detach().clone()  # 12 x 7: std is the right side
    first = second = basis = None
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        gradient = torch.randn(weight.shape, generator=generator).to(weight) + 0.2 * weight
        if step % config.update_proj_gap == 0:
            basis = torch.linalg.svd(gradient).Vh[: config.rank]
        low = gradient @ basis.mT
        first = 0.1 * low if first is None else 0.9 * first + 0.1 * low
        second = 0.001 * low**2 if second is None else 0.999 * second + 0.001 * low**2
        normed = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        weight = weight * (1 - lr * decay) - lr * config.galore_scale * normed @ basis
    return [weight]


def test_the_steps_are_those_of_the_paper() -> None:
    model = Weights()
    config = GaLoreConfig(rank=3, update_proj_gap=4, galore_scale=0.25)
    expected = adamw_by_hand(model, config, 1e-2, 0.3, 10)
    got = train(model, create_galore_optimizer(model, config, lr=1e-2, weight_decay=0.3), range(10))
    assert far(got[:1], expected) < 1e-12


@pytest.mark.parametrize("proj_type", ["std", "reverse_std", "left", "right", "full"])
def test_the_steps_are_those_of_the_authors_package(proj_type: str) -> None:
    package = pytest.importorskip("galore_torch")
    ours, theirs = Weights(torch.float32), Weights(torch.float32)
    config = GaLoreConfig(rank=3, proj_type=proj_type, update_proj_gap=4, galore_scale=0.5, target_modules=["layer0"])
    galore = {"rank": 3, "proj_type": proj_type, "update_proj_gap": 4, "scale": 0.5}
    other = package.GaLoreAdamW(
        [{"params": [theirs.layer0.weight], **galore}], lr=1e-2, eps=1e-12, no_deprecation_warning=True
    )
    got = train(ours, create_galore_optimizer(ours, config, lr=1e-2, eps=1e-12), range(9))
    assert far(got[:1], train(theirs, other, range(9))[:1]) < 1e-5


def test_only_what_is_named_is_projected() -> None:
    model = Weights()
    model.layer1.weight.requires_grad_(False)
    optimizer = create_galore_optimizer(model, GaLoreConfig(rank=2), lr=1e-2)
    names = {p: name for name, p in model.named_parameters()}
    groups = {bool(group["galore"]): [names[p] for p in group["params"]] for group in optimizer.param_groups[:2]}
    assert groups[True] == ["layer0.weight", "layer2.weight", "layer3.weight", "conv.weight"]
    assert [names[p] for p in optimizer.param_groups[-1]["params"]] == ["conv.bias", "norm.weight", "norm.bias"]
    one = create_galore_optimizer(model, GaLoreConfig(rank=2, target_modules=["layer0", "norm"]), lr=1e-2)
    assert [names[p] for p in one.param_groups[0]["params"]] == ["layer0.weight"]
    chosen = create_galore_optimizer(model, GaLoreConfig(rank=2, target_modules=r"layer[02]"), lr=1e-2)
    assert [names[p] for p in chosen.param_groups[0]["params"]] == ["layer0.weight", "layer2.weight"]
    with pytest.raises(UnknownNameError, match="layr0"):
        create_galore_optimizer(model, GaLoreConfig(target_modules=["layr0"]), lr=1e-2)
    with pytest.raises(ConfigError, match="no matrix that trains"):
        create_galore_optimizer(model, GaLoreConfig(target_modules=["layer1"]), lr=1e-2)


def test_the_embedding_is_projected_when_asked() -> None:
    model = tiny_model(vocab_size=VOCAB, hidden=32)
    for asked in (False, True):
        optimizer = create_galore_optimizer(model, GaLoreConfig(rank=4, with_embedding=asked), lr=1e-2)
        projected = {id(p) for group in optimizer.param_groups if group["galore"] for p in group["params"]}
        assert (id(model.get_input_embeddings().weight) in projected) == asked
        assert id(model.get_output_embeddings().weight) not in projected


@pytest.mark.parametrize("proj_type", PROJECTIONS)
@pytest.mark.parametrize("quantised", [False, True])
def test_the_state_has_the_stated_size(proj_type: str, quantised: bool) -> None:
    rows, columns, rank, group, bits = 48, 32, 8, 64, 4
    layer = nn.Sequential(nn.Linear(columns, rows, bias=False))
    config = GaLoreConfig(rank=rank, proj_type=proj_type, proj_quant=quantised, proj_group_size=group)
    optimizer = create_galore_optimizer(layer, config, lr=1e-3)
    layer(torch.randn(4, columns)).square().sum().backward()
    optimizer.step()
    side = {"std": columns, "reverse_std": rows, "left": rows, "right": columns, "full": rows + columns}[proj_type]
    moments = 2 * rank * rank if proj_type == "full" else 2 * rank * rows * columns // side
    basis = side * rank * bits // 8 + side * rank // group * 8 if quantised else 4 * side * rank
    found = sum(t.numel() * t.element_size() for t in tensors(dict(optimizer.state)))
    assert found == 4 * moments + basis + 4  # and AdamW's count of steps
    stand_ins = [target for target, _ in optimizer._inner.values()]
    assert [(t.numel(), t.grad) for t in stand_ins] == [(0, None)]


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, adafactor])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_going_on_from_a_state_is_exact(
    tmp_path: Path, kind: Callable[..., Optimizer], quantize: bool, dtype: torch.dtype
) -> None:
    config = GaLoreConfig(
        rank=3, update_proj_gap=2, quantize=quantize, proj_quant=quantize, queue_size=1, cos_threshold=0.0
    )

    def made(model: Weights) -> GaLore:
        if dtype == torch.bfloat16:  # the dense state of half precision is torch's own affair
            model.norm.requires_grad_(False)
            model.conv.bias.requires_grad_(False)
        return create_galore_optimizer(model, config, kind, lr=1e-2, weight_decay=0.1)

    straight = Weights(dtype)
    whole = made(straight)
    train(straight, whole, range(5))
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    again = Weights(dtype)
    again.load_state_dict(straight.state_dict())
    resumed = made(again)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    a, b = train(straight, whole, range(5, 12)), train(again, resumed, range(5, 12))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    states = list(tensors(whole.state_dict())), list(tensors(resumed.state_dict()))
    assert all(torch.equal(x, y) for x, y in zip(*states, strict=True))


def test_a_state_of_something_else_is_refused() -> None:
    model = Weights()
    state = create_galore_optimizer(model, GaLoreConfig(rank=2), lr=1e-2).state_dict()
    with pytest.raises(DataError, match="of other parameters"):
        create_galore_optimizer(model, GaLoreConfig(rank=2, target_modules=["layer0"]), lr=1e-2).load_state_dict(state)


def test_eight_bit_moments(tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes")

    def kind(parameters: list[nn.Parameter], **options: Any) -> Optimizer:
        return bnb.optim.AdamW(parameters, optim_bits=8, **options)

    def made() -> tuple[nn.Module, GaLore]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(256, 256, bias=False))
        return model, create_galore_optimizer(model, GaLoreConfig(rank=64, update_proj_gap=2), kind, lr=1e-3)

    def go(model: nn.Module, optimizer: GaLore, steps: range) -> None:
        for step in steps:
            x = torch.randn(8, 256, generator=torch.Generator().manual_seed(step))
            (model(x) - x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = made()
    go(model, optimizer, range(3))
    assert optimizer.state[model[0].weight]["inner"]["state1"].dtype == torch.uint8
    other, resumed = made()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(model, optimizer, range(3, 6))
    go(other, resumed, range(3, 6))
    assert torch.equal(model[0].weight, other[0].weight)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(7, 5), (16, 32), (2, 5, 3)])
def test_a_quantised_basis_is_near(bits: int, shape: tuple[int, ...]) -> None:
    basis = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = stored(basis, GaLoreConfig(proj_quant=True, proj_bits=bits, proj_group_size=16))
    back = restored(kept)
    assert back.shape == basis.shape
    assert back.dtype == basis.dtype
    assert float((back - basis).abs().max()) <= float(kept["step"].max()) / 2 * (1 + 1e-9)
    assert kept["codes"].numel() == -(-(-(-basis.numel() // 16) * 16) * bits // 8)
    codes = torch.arange(2**bits, dtype=torch.uint8).repeat(3)[:-1]
    assert torch.equal(unpack(pack(codes, bits), bits)[: len(codes)], codes)


def test_a_basis_of_one_value_is_kept() -> None:
    basis = torch.full((3, 4), 0.5)
    assert torch.equal(restored(stored(basis, GaLoreConfig(proj_quant=True))), basis)


def test_a_subspace_that_stays_is_decomposed_less_often() -> None:
    config = GaLoreConfig(rank=2, update_proj_gap=2, quantize=True, queue_size=2, cos_threshold=0.9, gamma_proj=2)
    same, other = Subspace(), Subspace()
    constant = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    dues, others = set(), set()
    for step in range(40):
        same.bases(constant * (-1) ** step, config)  # a singular vector's sign means nothing
        dues.add(same.due)
        other.bases(torch.randn(8, 6, generator=torch.Generator().manual_seed(step)), config)
        others.add(other.due)
    assert sorted(dues) == [2, 4, 8, 16, 32, 64]  # compared at 2 and 4: from then on twice as long each time
    assert sorted(others) == list(range(2, 42, 2))
    assert len(same.similarities) == 2


def test_rounding_by_chance_is_right_on_average() -> None:
    value = torch.tensor([1.0, -3.0, 1e-3]) + torch.tensor([0.001, -0.002, 1e-7])
    rounded = torch.stack([rounded_to_bf16(value, seed) for seed in range(4000)])
    assert rounded.dtype == torch.bfloat16
    assert all(len(rounded[:, i].unique()) == 2 for i in range(3))
    steps = (rounded.amax(0) - rounded.amin(0)).float()
    assert ((rounded.float().mean(0) - value).abs() < 4 * steps / 2 / 4000**0.5).all()
    exact = torch.tensor([1.5, -2.0])
    assert torch.equal(rounded_to_bf16(exact, 1), exact.bfloat16())


def test_small_updates_of_half_precision_count_with_q_galore() -> None:
    for quantize, moves in ((False, False), (True, True)):
        layer = nn.Sequential(nn.Linear(8, 8, bias=False, dtype=torch.bfloat16))
        nn.init.constant_(layer[0].weight, 1.0)
        optimizer = create_galore_optimizer(layer, GaLoreConfig(rank=2, quantize=quantize), lr=1e-4)
        for _ in range(20):
            layer[0].weight.grad = torch.ones(8, 8, dtype=torch.bfloat16)
            optimizer.step()
        assert bool((layer[0].weight != 1).any()) == moves


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"rank": 0}, "rank"),
        ({"proj_type": "middle"}, "reverse_std"),
        ({"proj_bits": 3}, "2, 4 or 8"),
        ({"update_proj_gap": 0}, "update_proj_gap"),
        ({"proj_group_size": 0}, "proj_group_size"),
        ({"gamma_proj": 0.5}, "gamma_proj"),
        ({"queue_size": 0}, "queue_size"),
        ({"cos_threshold": 1.5}, "from 0 to 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(said: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_galore_optimizer(Weights(), GaLoreConfig(**said), lr=1e-2)
    assert word in str(caught.value)


def test_sides_within_the_rank_are_left() -> None:
    assert sides(8, 4, GaLoreConfig(rank=4, proj_type="full")) == (True, False)
    assert sides(8, 4, GaLoreConfig(rank=3, proj_type="full")) == (True, True)
    assert sides(8, 4, GaLoreConfig(rank=4)) == (False, False)


def test_one_parameter_at_a_time_is_all_at_once() -> None:
    together, single = Weights(), Weights()
    train(together, create_galore_optimizer(together, GaLoreConfig(rank=3, update_proj_gap=2), lr=1e-2))
    config = GaLoreConfig(rank=3, update_proj_gap=2, optim_per_parameter=True)
    optimizer = create_galore_optimizer(single, config, lr=1e-2)
    for step in range(6):
        single.loss(step).backward()
        assert all(p.grad is None for p in single.parameters())
        optimizer.step()
    assert far(list(together.parameters()), list(single.parameters())) == 0
    optimizer.detach()
    single.loss(7).backward()
    assert all(p.grad is not None for p in single.parameters())
    assert far(list(together.parameters()), list(single.parameters())) == 0


def test_a_single_gradient_is_clipped_or_dropped() -> None:
    layer = nn.Sequential(nn.Linear(3, 3, bias=False))
    optimizer = create_galore_optimizer(
        layer, GaLoreConfig(optim_per_parameter=True), torch.optim.SGD, lr=1.0, max_grad_norm=0.5
    )
    start = layer[0].weight.detach().clone()
    layer(10 * torch.eye(3)).sum().backward()
    assert float((layer[0].weight - start).norm()) == pytest.approx(0.5)
    assert optimizer.take_norm() == pytest.approx(30.0)
    assert optimizer.take_norm() == 0.0
    start = layer[0].weight.detach().clone()
    (layer(torch.eye(3)).sum() * float("nan")).backward()
    assert torch.equal(layer[0].weight, start)
    assert optimizer.take_norm() != optimizer.take_norm()


def test_an_optimiser_that_is_gone_takes_nothing() -> None:
    model = Weights()
    create_galore_optimizer(model, GaLoreConfig(rank=2, optim_per_parameter=True), lr=1e-2)
    model.loss(0).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_closure_is_called() -> None:
    model = Weights()
    optimizer = create_galore_optimizer(model, GaLoreConfig(rank=2), lr=1e-2)

    def closure() -> float:
        loss = model.loss(0)
        loss.backward()
        return loss.item()

    before = [p.detach().clone() for p in model.parameters()]
    assert optimizer.step(closure) == pytest.approx(Weights().loss(0).item())
    assert far(before, list(model.parameters())) > 0


# The trainer


def full() -> Any:
    return tiny_model(vocab_size=VOCAB, hidden=32, attention_dropout=0.2)


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "adamw_8bit"])
@pytest.mark.parametrize("per_parameter", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_trains_and_goes_on_exactly(tmp_path: Path, optim: str, per_parameter: bool) -> None:
    if optim == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    config = GaLoreConfig(rank=4, update_proj_gap=2, quantize=True, proj_quant=True, optim_per_parameter=per_parameter)
    said = {"galore_config": config, "optim": optim, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    straight = trainer_of(full(), tmp_path / "straight", **said)
    straight.train()
    assert losses(straight)[-1] < losses(straight)[0]
    assert all(entry["grad_norm"] > 0 for entry in straight.state.log_history if "grad_norm" in entry)
    resumed = trainer_of(full(), tmp_path / "resumed", **said)
    resumed.train(resume_from_checkpoint=tmp_path / "straight" / "checkpoint-3")
    assert losses(resumed) == losses(straight)
    same, other = weights(straight.model), weights(resumed.model)
    assert all(torch.equal(same[name], other[name]) for name in same)
    files = [tmp_path / run / "checkpoint-6" / "optimizer.pt" for run in ("straight", "resumed")]
    states = [list(tensors(torch.load(file, weights_only=True))) for file in files]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_after_training_gradients_are_the_callers(tmp_path: Path) -> None:
    config = GaLoreConfig(rank=4, optim_per_parameter=True)
    trainer = trainer_of(full(), tmp_path, galore_config=config, max_steps=1)
    for _ in range(2):
        before = weights(trainer.model)
        trainer.train()
        after = weights(trainer.model)
        assert not all(torch.equal(before[name], after[name]) for name in before)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model(**batch).loss.backward()
        assert all(torch.equal(after[name], tensor) for name, tensor in weights(trainer.model).items())
        trainer.model.zero_grad()


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    @register_loss("broken")
    def broken(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        return logits_NV.sum(-1) + (logits_NV.sum() * 0).sqrt()

    try:
        config = GaLoreConfig(rank=4, optim_per_parameter=True)
        trainer = trainer_of(full(), tmp_path, galore_config=config, loss_name="broken")
        before = weights(trainer.model)
        with pytest.raises(InternalError, match="step 1: the gradient is not finite"):
            trainer.train()
        assert all(torch.isfinite(tensor).all() for tensor in weights(trainer.model).values())
        assert before.keys() == weights(trainer.model).keys()
    finally:
        del LOSSES["broken"]


@pytest.mark.parametrize(
    ("said", "per_parameter", "word"),
    [
        ({"optim": "sgd"}, False, "--optim sgd does not work with --use_galore"),
        ({"gradient_accumulation_steps": 2}, True, "--gradient_accumulation_steps 2"),
        ({"lisa_activated_layers": 1}, False, "GaLore and LISA"),
    ],
)
def test_what_cannot_be_is_said_before_training(
    tmp_path: Path, said: dict[str, Any], per_parameter: bool, word: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer_of(full(), tmp_path, galore_config=GaLoreConfig(optim_per_parameter=per_parameter), **said)
    assert word in str(caught.value)
    assert caught.value.exit_code == 78


def test_the_arguments_can_be_written(tmp_path: Path) -> None:
    args = trainer_of(full(), tmp_path, galore_config=GaLoreConfig(rank=3)).args
    assert args.to_dict()["galore_config"]["rank"] == 3
    assert '"rank": 3' in args.to_json_string()


@pytest.mark.slow
def test_the_command_trains_so(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "chat.jsonl", conversations(16))
    common = ["--model_id_or_path", str(tiny_dir), "--dataset", "chat.jsonl", "--sft_type", "full"]
    common += [
        "--max_steps",
        "4",
        "--batch_size",
        "2",
        "--save_steps",
        "2",
        "--eval_steps",
        "2",
        "--learning_rate",
        "1e-3",
    ]
    galore = ["--use_galore", "true", "--galore_rank", "8", "--galore_update_proj_gap", "2", "--optim", "adamw_hf"]
    galore += ["--galore_quantization", "true", "--galore_proj_quant", "true", "--galore_with_embedding", "true"]
    each = ["--galore_optim_per_parameter", "true", "--galore_proj_type", "full"]
    lisa = ["--lisa_activated_layers", "1", "--lisa_step_interval", "2"]
    for number, method in enumerate((galore, [*galore, *each], lisa)):
        report = sft_main([*common, "--output_dir", f"out{number}", *method])
        assert report["global_step"] == 4
        last = Path(report["last_model_checkpoint"])
        state = torch.load(last / "optimizer.pt", weights_only=True)
        projected = [kept for kept in state["state"].values() if "subspace" in kept]
        assert len(projected) == (15 if method is not lisa else 0)  # two layers of seven, and the embedding
        assert all("codes" in kept["subspace"]["left" if kept["subspace"]["left"] else "right"] for kept in projected)
        saved = json.loads((last.parent / "training_args.json").read_text())
        assert (saved["galore_config"] is None) == (method is lisa)
        assert saved["gradient_accumulation_steps"] == (1 if each[0] in method else 8)
    with pytest.raises(ConfigError, match="--optim sgd does not work with --use_galore"):
        sft_main([*common, "--output_dir", "out", *galore, "--optim", "sgd"])
