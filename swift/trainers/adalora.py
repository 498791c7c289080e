"""AdaLoRA while it trains: the loss that keeps its factors orthogonal, and the ranks that shrink after every step.

PEFT has both in the forward pass and in methods of its own model; here they work for any model with such adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraLayer, RankAllocator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.errors import ConfigError
from swift.tuners.model import SwiftModel

STATE_FILE = "adalora.safetensors"
PARTS = ("ipt:", "unc:", "live:")


class Ranks(TrainerCallback):
    """Shrinks the ranks of a model's one AdaLoRA adapter that trains, from `init_r` to a mean of `target_r`.

    An update P diag(E) Q loses the entries of E whose importance, a smoothed |parameter * gradient|, is least; they are
    set to zero, so the tensors keep their shapes and a run can be resumed at any step.

    Paper: AdaLoRA, https://arxiv.org/abs/2303.10512, sections 3.1 to 3.3.
    Cost: two numbers beside each trained parameter.
    """

    def __init__(self, model: nn.Module, name: str, config: AdaLoraConfig) -> None:
        self.model, self.name, self.config = model, name, config
        self.allocator = RankAllocator(model, config, name)

    def orthogonality(self) -> Tensor:
        """The weighted mean of |P'P - I| and |QQ' - I| over all layers, equation 4 without its squares, as in PEFT."""
        norms = []
        for layer in self.model.modules():
            if isinstance(layer, AdaLoraLayer) and self.name in layer.lora_A:
                right_RI, left_OR = layer.lora_A[self.name], layer.lora_B[self.name]
                for gram_RR in (right_RI @ right_RI.T, left_OR.T @ left_OR):
                    norms.append(torch.linalg.norm(gram_RR - torch.eye(len(gram_RR)).to(gram_RR)))
        return self.config.orth_reg_weight * torch.stack(norms).mean()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the number of steps into the schedule of the ranks."""
        config = self.config
        if config.tinit + config.tfinal >= state.max_steps:
            what = f"AdaLoRA: tinit {config.tinit} and tfinal {config.tfinal} leave none of {state.max_steps} steps"
            raise ConfigError("CONFIG-02", what, fix="train longer, or lower --adalora_tinit and --adalora_tfinal")
        config.total_step = state.max_steps

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the importance with the gradients, which are still there, and shrink the ranks."""
        for name, parameter in self.model.named_parameters():
            if "lora_" in name and parameter.grad is not None:  # not finite after a step that fp16's scaler left out
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        step, last = state.global_step + 1, state.max_steps - self.config.tfinal
        if step <= last:
            if step == last and not self.allocator.exp_avg_ipt:  # a run of one step
                self.allocator.update_ipt(self.model)
            _, pattern = self.allocator.update_and_allocate(self.model, step, force_mask=step == last)
            self.config.rank_pattern = pattern or self.config.rank_pattern
        elif self.config.rank_pattern:
            self.allocator.mask_using_rank_pattern(self.model, self.config.rank_pattern)

    def save(self, directory: Path) -> None:
        """Write the importance and which entries live, which an exact resume needs."""
        parts = {"ipt": self.allocator.exp_avg_ipt, "unc": self.allocator.exp_avg_unc}
        parts["live"] = {name: torch.tensor(live) for name, live in (self.config.rank_pattern or {}).items()}
        state = {
            f"{part}:{name}": tensor.contiguous() for part, named in parts.items() for name, tensor in named.items()
        }
        save_file(state, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """Read it again; a checkpoint of another program has none."""
        if not (directory / STATE_FILE).is_file():
            return
        state, device = load_file(directory / STATE_FILE), next(self.model.parameters()).device
        ipt, unc, live = (
            {key[len(part) :]: tensor for key, tensor in state.items() if key.startswith(part)} for part in PARTS
        )
        self.allocator.exp_avg_ipt = {name: tensor.to(device) for name, tensor in ipt.items()}
        self.allocator.exp_avg_unc = {name: tensor.to(device) for name, tensor in unc.items()}
        self.allocator.ipt = {name: torch.zeros_like(tensor) for name, tensor in self.allocator.exp_avg_ipt.items()}
        self.config.rank_pattern = {name: tensor.tolist() for name, tensor in live.items()} or None


def find_ranks(model: Any) -> Ranks | None:
    """The callback for the AdaLoRA adapter of `model` that trains; None without one."""
    for name, config in configs_of(model).items():
        if isinstance(config, AdaLoraConfig) and not config.inference_mode:
            return Ranks(model.get_base_model(), name, config)
    return None


@contextmanager
def whole_ranks(model: Any) -> Iterator[None]:
    """Let PEFT write every entry of E, the zeros too, inside the block: what it cuts off cannot be trained on."""
    patterns = [(config, config.rank_pattern) for config in configs_of(model).values() if _is_adalora(config)]
    for config, _ in patterns:
        config.rank_pattern = None
    try:
        yield
    finally:
        for config, pattern in patterns:
            config.rank_pattern = pattern


def configs_of(model: Any) -> dict[str, Any]:
    """The configs of a model's adapters by name; those that PEFT itself holds."""
    if isinstance(model, PeftModel):
        return dict(model.peft_config)
    return dict(model.adapters) if isinstance(model, SwiftModel) else {}


def _is_adalora(config: Any) -> bool:
    return isinstance(config, AdaLoraConfig)
