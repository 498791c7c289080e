"""The table that the laws of tuners run over: methods by hosts, and what it takes to move a model off its start.

A row more in `METHODS` is all that a new method needs to be held to every law; a host more in `HOSTS` likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)
from torch import nn

from swift.tuners import (
    AdapterConfig,
    LLaMAProConfig,
    LongLoRAConfig,
    LoRAConfig,
    LoraConfig,
    PartConfig,
    PromptConfig,
    ReftConfig,
    ResTuningConfig,
    SCETuningConfig,
    SideConfig,
    Swift,
    SwiftModel,
)
from tests.tiny import tiny_encoder, tiny_model
from tests.tuners.vision import IMAGES, NOISE, Unet, tiny_vit


class Mlp(nn.Module):
    """Two blocks of a linear layer and an activation; a scalar loss when there are labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        outputs = self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))
        return {"logits": outputs} | ({"loss": (outputs - labels).square().mean()} if labels is not None else {})


@dataclass(frozen=True)
class Host:
    """A model to tune, and which of its modules methods go to.

    `inputs` are the arguments of its forward, of which `labels` are left out where only the output is wanted;
    `linears` are endings of paths of linear layers; `wide` ends the path of a module that takes and gives hidden
    states of size `dim`; `read` finds the tensor that counts in what the model returns.
    """

    make: Callable[[], nn.Module]
    inputs: dict[str, torch.Tensor]
    linears: list[str]
    wide: str
    dim: int
    read: Callable[[Any], torch.Tensor] = lambda output: output["logits"]


IDS = {"input_ids": torch.arange(16).reshape(2, 8), "labels": torch.arange(16).reshape(2, 8)}
LM = Host(
    make=lambda: tiny_model("qwen2", vocab_size=64, hidden=32),
    inputs=IDS,
    linears=["q_proj", "v_proj"],
    wide="mlp",
    dim=32,
)

QUIET = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}

HOSTS = {
    "mlp": Host(
        make=Mlp,
        inputs={"inputs": torch.linspace(-1, 1, 24).reshape(3, 8), "labels": torch.ones(3, 4)},
        linears=["first", "second"],
        wide="second",
        dim=8,
    ),
    "lm": LM,
    "llama": replace(LM, make=lambda: tiny_model("llama", vocab_size=64, hidden=32)),
    "gpt2": replace(LM, make=lambda: tiny_model("gpt2", vocab_size=64, hidden=32, **QUIET), linears=["c_attn"]),
    "bert": replace(
        LM, make=lambda: tiny_encoder("bert", vocab_size=64, hidden=32), linears=["query", "value"], wide="output"
    ),
    "vit": replace(LM, make=tiny_vit, inputs={"pixel_values": IMAGES, "labels": torch.tensor([1, 2])}),
    "unet": Host(make=Unet, inputs=NOISE, linears=["to_q", "to_v"], wide="ff", dim=8),
}
VISION = ("vit", "unet")
LANGUAGE = ("lm", "llama", "gpt2")  # causal language models
ANY = ("mlp", *LANGUAGE, "bert")  # models with linear layers and hidden states
LINEAR = ("mlp", "lm", "llama", "bert")  # the same, without the transposed weights of GPT-2


@dataclass(frozen=True)
class Method:
    """One row: a method, where it belongs, and what is promised of it.

    Calling it with a host gives the config. `at_start` says how far from the base it may begin: 0 is bit for bit, None
    is anywhere. `merged` says how far the merged model may be from the unmerged one; None is a method that cannot be
    merged. `learns` and `saves` are false where there is nothing to train or to save; `peft` marks PEFT's own kinds.
    `rate` is a learning rate with which the loss falls. `nests` is false where PEFT does not let two of one kind work one
    on the other. Of methods with one `slot` only one can be active. `recomputes` is false where it does
    not go with gradient checkpointing, `over` where it cannot be put on a layer of another of PEFT's kinds.
    `hides` is true where what others change may not show. `like` names the row that is the same layers from another
    start: beside other methods, and compiled, that one stands for both in the slow tier.
    """

    config: Callable[[Host], Any]
    hosts: tuple[str, ...] = ANY
    at_start: float | None = 0.0
    merged: float | None = None
    learns: bool = True
    saves: bool = True
    peft: bool = False
    rate: float = 0.02
    nests: bool = True
    slot: str = ""
    recomputes: bool = True
    over: bool = True
    hides: bool = False
    like: str = ""

    def __call__(self, host: Host) -> Any:
        return self.config(host)

    @property
    def home(self) -> str:
        """The host on which the method is held to every law in the quick tier."""
        return "lm" if "lm" in self.hosts else self.hosts[0]


def _peft(
    config_class: type,
    hosts: tuple[str, ...] = LINEAR,
    at_start: float | None = 0.0,
    rate: float = 0.05,
    nests: bool = True,
    slot: str = "",
    over: bool = True,
    like: str = "",
    **options: Any,
) -> Method:
    def config(host: Host) -> Any:
        return config_class(target_modules=host.linears, **options)

    return Method(config, hosts, at_start, 1e-4, peft=True, rate=rate, nests=nests, slot=slot, over=over, like=like)


def _before(config_class: type, **options: Any) -> Method:
    """One of PEFT's methods that put something before the text."""
    options |= {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
    return Method(
        lambda host: config_class(**options),
        LANGUAGE,
        at_start=None,
        peft=True,
        rate=0.05,
        slot="prompt",
        recomputes=config_class is not PrefixTuningConfig,
    )


METHODS = {
    "lora": _peft(LoraConfig, ANY, r=4, lora_alpha=8),
    "lora_ours": _peft(LoRAConfig, ANY, like="lora", r=4, lora_alpha=8, lora_dtype="fp32"),
    "fused": _peft(LoRAConfig, ANY, r=4, lora_alpha=8, use_merged_linear=True, enable_lora=[True, False]),
    "rslora": _peft(LoraConfig, ANY, like="lora", r=4, lora_alpha=8, use_rslora=True),
    "dora": _peft(LoraConfig, ANY, at_start=1e-6, nests=False, over=False, r=4, lora_alpha=8, use_dora=True),
    "pissa": _peft(LoraConfig, ANY, at_start=1e-6, r=4, lora_alpha=8, init_lora_weights="pissa"),
    "olora": _peft(LoraConfig, ANY, at_start=1e-6, like="pissa", r=4, lora_alpha=8, init_lora_weights="olora"),
    "ia3": _peft(IA3Config, ANY, rate=0.1, feedforward_modules=[]),
    "adalora": _peft(AdaLoraConfig, slot="adalora", init_r=6, total_step=100),
    "loha": _peft(LoHaConfig, r=4),
    "lokr": _peft(LoKrConfig, r=4),
    "oft": _peft(OFTConfig, at_start=1e-6, nests=False, r=0, oft_block_size=4),
    "boft": _peft(BOFTConfig, at_start=1e-6, boft_block_size=4),
    "vera": _peft(VeraConfig, ("lm", "llama", "bert"), r=4),
    "prefix": _before(PrefixTuningConfig),
    "prompt_tuning": _before(PromptTuningConfig),
    "p_tuning": _before(PromptEncoderConfig, encoder_hidden_size=16),
    "fourierft": _peft(FourierFTConfig, at_start=None, n_frequency=20),
    "adapter": Method(
        lambda host: AdapterConfig(dim=host.dim, target_modules=[host.wide], adapter_length=6), rate=0.005
    ),
}

LAYER = r".*\.(layers|layer|h)\."  # the layers of the language models and of the vision transformer
NORM = r"model\.norm|vit\.layernorm|transformer\.ln_f"  # what comes behind them


def _restuning(**options: Any) -> Callable[[Host], Any]:
    def config(host: Host) -> Any:
        if "sample" in host.inputs:
            chain = {"dims": [16, 16, 8], "stem_modules": ["mid_block", "up_blocks.0", "up_blocks.1"]}
            ends = {"root_modules": ".*mid_block", "root_modules_hook": "output", "target_modules": ".*conv_norm_out"}
            return ResTuningConfig(**chain, **ends, use_upsample=True, tuner_cfg="res_group_adapter")
        places = {"root_modules": rf"{LAYER}0", "stem_modules": rf"{LAYER}\d+", "target_modules": NORM}
        return ResTuningConfig(dims=host.dim, **places, **options)

    return config


def _side(host: Host) -> Any:
    target = {"target_modules": ["vit"], "target_hidden_pos": "last_hidden_state"}
    return SideConfig(dim=host.dim, **(target if "pixel_values" in host.inputs else {"target_modules": ["conv_in"]}))


def _prompt(**options: Any) -> Callable[[Host], Any]:
    return lambda host: PromptConfig(dim=host.dim, target_modules=rf"{LAYER}\d+", prompt_length=3, **options)


SEEING = (*LANGUAGE, "vit")
SKIPS = {"target_modules": r".*up_blocks\.\d\.resnets\.\d", "dims": [16, 8, 8, 8]}
METHODS |= {
    "prompt": Method(_prompt(extract_embedding=True), (*SEEING, "bert"), at_start=None),
    "prompt_behind": Method(_prompt(attach_front=False), ("vit",), at_start=None),
    "side": Method(_side, VISION, at_start=None),
    "side_mlp": Method(
        lambda host: SideConfig(dim=host.dim, target_modules=[host.wide], side_module_name="mlp"),
        (*SEEING, "unet"),
        at_start=None,
    ),
    "restuning": Method(_restuning(), ("vit", *LANGUAGE, "unet"), at_start=None, hides=True),
    "restuning_beside": Method(_restuning(use_bypass=False, zero_init_last=True), SEEING),
    "scetuning": Method(lambda host: SCETuningConfig(**SKIPS, down_ratio=0.5), ("unet",)),
}

METHODS |= {
    "llamapro": Method(lambda host: LLaMAProConfig(num_new_blocks=1), LANGUAGE, rate=0.005),
    "longlora": Method(
        lambda host: LongLoRAConfig(target_modules=host.linears, r=4, group_size_ratio=0.5),
        LANGUAGE,
        merged=1e-4,
        peft=True,
        rate=0.01,
        slot="embeddings",
    ),
    "part": Method(lambda host: PartConfig(target_modules=[host.wide]), (*ANY, "unet"), rate=0.005),
    "reft": Method(lambda host: ReftConfig(), (*LANGUAGE, "bert")),
    "consreft": Method(
        lambda host: ReftConfig(intervention_type="ConsreftIntervention"), LANGUAGE, at_start=None, rate=0.05
    ),
}


def rows(
    *, everywhere: bool = False, only: Callable[[Method], bool] = lambda row: True, quick: Container[str] = METHODS
) -> list[Any]:
    """Parameters (name of a host, name of a method): each method at home, and elsewhere in the slow tier.

    Args:
        everywhere: the law is cheap: run it on every host in the quick tier.
        only: the rows that it is about.
        quick: the methods that are not left to the slow tier at home too, for a law that takes its time.
    """

    def marks(host: str, name: str) -> Any:
        at_once = name in quick and (everywhere or host == METHODS[name].home)
        return [] if at_once else pytest.mark.slow

    return [
        pytest.param(host, name, id=f"{name}-{host}", marks=marks(host, name))
        for name, row in METHODS.items()
        for host in row.hosts
        if only(row)
    ]


def tuned(host: Host, method: str, seed: int | None = 1, name: str = "one", model: nn.Module | None = None):
    """The host with one adapter, moved off its start unless `seed` is None."""
    torch.manual_seed(7)
    model = Swift.prepare_model(host.make() if model is None else model, {name: METHODS[method](host)})
    assert isinstance(model, SwiftModel)
    if seed is not None:
        stir(model, seed)
    return model


def outputs_of(model: nn.Module, host: Host) -> torch.Tensor:
    """What the model gives; for a text without what a tuner put before it."""
    found = host.read(model(**{key: value for key, value in host.inputs.items() if key != "labels"}))
    return found[:, -host.inputs["input_ids"].shape[1] :] if "input_ids" in host.inputs else found


def run(model: nn.Module, host: Host) -> torch.Tensor:
    """What the model gives in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return outputs_of(model, host)


def loss_of(model: nn.Module, host: Host) -> torch.Tensor:
    """How far the model is from its labels, or from zero, in float32."""
    found, labels = outputs_of(model, host).float(), host.inputs.get("labels")
    if labels is None or labels.is_floating_point():
        return (found if labels is None else found - labels).square().mean()
    return nn.functional.cross_entropy(found.flatten(0, -2), labels.flatten())


def stir(model: nn.Module, seed: int = 1) -> None:
    """Give every trainable parameter new values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def train(model: nn.Module, host: Host, steps: int = 3, rate: float = 0.02) -> list[float]:
    """Losses of a few steps of Adam."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, host)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
