"""LoRA: PEFT's own config with the few fields that PEFT lacks, and the config of LoRA as a tuner of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import peft
import torch
from torch import nn

from swift import storage
from swift.errors import ConfigError, MissingPackageError
from swift.registry import unknown
from swift.tuners.branch import Active
from swift.tuners.config import check_type

OURS = ("use_merged_linear", "enable_lora")
RETIRED = ("use_qa_lora", "group_size")
LONG = ("embedder_and_normalizer", "model_type", "group_size_ratio")
EXTRAS = ("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "lora_start", *OURS, *RETIRED, *LONG)
EXTRAS_FILE = "additional_config.json"
DTYPES = {
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


@dataclass
class LoraConfig(peft.LoraConfig):
    """W x + (alpha / r) B A drop(x), as PEFT does it; B is zero at the start. Everything of PEFT's config may be said.

    - `use_rslora`: the scale is alpha / sqrt(r) (https://arxiv.org/abs/2312.03732, theorem 3.2).
    - `use_dora`: W' = m (W + s B A) / |W + s B A|, row by row, m trained (https://arxiv.org/abs/2402.09353, eq. 5).
    - `init_lora_weights`: "gaussian" draws A from N(0, 1/r^2); "pissa", "pissa_niter_N" and "olora" start in the middle
      of W (see `swift.tuners.relative`); "loftq" starts where a quantised W is nearest to W
      (https://arxiv.org/abs/2310.08659, algorithm 1) and, as in PEFT, puts that W into the base: it needs a GPU, scipy
      and bitsandbytes, and off is then the quantised base.

    Paper: LoRA, https://arxiv.org/abs/2106.09685, section 4.1; LoRA+, https://arxiv.org/abs/2402.12354, section 4.
    Shapes: x (..., in), A (r, in), B (out, r).
    Saved: A and B (with DoRA m, too) of each target.
    Cost: r (in + out) parameters and 2r (in + out) operations per token and target; none once merged.

    Args:
        lora_dtype: precision of A and B: "fp16", "bf16" or "fp32"; None is PEFT's rule: that of the layer, but float32
            where the layer's is half.
        lorap_lr_ratio: learning rate of B over that of A in `create_optimizer_param_groups`, which a SwiftModel has and
            our trainer asks (`{"default": config}` gives a SwiftModel); None is plain LoRA. It is on here, since the
            paper finds 16 good for most tasks; the command line says None unless told.
        lorap_emb_lr: learning rate of the LoRA parts of embeddings, while there is a ratio.
        lora_start: written by us, not to be said: how A and B began, where a file holds their start as well.
    """

    kind: ClassVar[str] = "lora"

    lora_dtype: str | None = None
    lorap_lr_ratio: float | None = 16.0
    lorap_emb_lr: float = 1e-6
    lora_start: str | None = None

    def __post_init__(self) -> None:
        if self.init_lora_weights == "loftq":
            _check_packages("LoftQ", ("scipy", "bitsandbytes"))
        super().__post_init__()
        if self.lora_dtype is not None and self.lora_dtype not in DTYPES:
            raise unknown("precision", self.lora_dtype, DTYPES)
        check_type("LoraConfig.lorap_lr_ratio", self.lorap_lr_ratio, float | None)
        if self.lorap_lr_ratio is not None and not self.lorap_lr_ratio > 0:
            raise ConfigError("CONFIG-02", f"lorap_lr_ratio={self.lorap_lr_ratio} is not above 0", fix="16.0, or None")

    @property
    def extras(self) -> dict[str, Any]:
        """The fields that PEFT does not know."""
        known = {field.name for field in fields(self)} - ({"lora_start"} if self.lora_start is None else set())
        return {name: getattr(self, name) for name in EXTRAS if name in known}

    def to_dict(self) -> dict[str, Any]:
        """The fields that PEFT knows, so that whatever PEFT writes stays plain PEFT."""
        return {key: value for key, value in super().to_dict().items() if key not in EXTRAS}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write PEFT's adapter_config.json, and the other fields beside it."""
        stored = folded(self)
        peft.LoraConfig.save_pretrained(stored, save_directory, **kwargs)
        text = json.dumps(stored.extras, indent=2, sort_keys=True)
        storage.write_text(Path(save_directory) / EXTRAS_FILE, text)


@dataclass
class LoRAConfig(LoraConfig):
    """LoRA as a tuner of ours: `Swift.prepare_model` gives a SwiftModel, and it is saved in our layout.

    The layers are PEFT's, so all that `LoraConfig` says holds. With `use_merged_linear` only some of the equal chunks
    of a fused projection (query, key and value in one weight) are tuned; see `swift.tuners.merged_linear`.

    Args:
        use_merged_linear: the targets are fused projections.
        enable_lora: which of the chunks are tuned, in their order, such as [True, False, True] for query and value.
        use_qa_lora: QA-LoRA is not offered: it needs GPTQ kernels that are no longer made.
        group_size: of QA-LoRA.
    """

    use_merged_linear: bool = False
    enable_lora: Sequence[bool] | None = None
    use_qa_lora: bool = False
    group_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in RETIRED:
            if getattr(self, name):
                raise ConfigError("CONFIG-02", f"{name}: QA-LoRA is not offered", fix="LoRA on a quantised model")
        if self.use_merged_linear:
            self._check_fused()
        elif self.enable_lora is not None:
            raise ConfigError("CONFIG-02", "enable_lora needs use_merged_linear", fix="use_merged_linear=True")

    def fit(self, model: nn.Module) -> None:
        """Fill in what depends on `model`, before the layers go into it. A child with such fields overrides this."""

    def extend(self, model: nn.Module, name: str, active: Active) -> None:
        """Put into `model` what goes with the layers of the adapter `name`. A child that has more overrides this."""

    def _check_fused(self) -> None:
        if not self.enable_lora or not any(self.enable_lora):
            raise ConfigError(
                "CONFIG-02",
                "use_merged_linear needs enable_lora with a True in it",
                fix="enable_lora=[True, False, True] tunes the first and third of three chunks",
            )
        if self.use_dora or self.lora_bias or self.init_lora_weights not in (True, False, "gaussian"):
            what = (
                "use_merged_linear goes with init_lora_weights True, False or 'gaussian', no use_dora and no lora_bias"
            )
            raise ConfigError("CONFIG-02", what)


def of(plain: peft.LoraConfig, **extras: Any) -> LoraConfig:
    """PEFT's config `plain` with our fields, as a LoRAConfig if there are any of its; without LoRA+ unless said."""
    values = {field.name: getattr(plain, field.name) for field in fields(plain) if field.init}
    config = LoRAConfig if set(extras) & {*OURS, *RETIRED} else LoraConfig
    return config(**{**values, "lorap_lr_ratio": None, **extras})


def _check_packages(what: str, names: Sequence[str]) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        raise MissingPackageError("PACKAGE-01", f"{what} needs {' and '.join(missing)}", fix=fix)


def is_relative(config: Any) -> bool:
    """Whether the adapter trains from a start inside the weight (see `swift.tuners.relative`)."""
    start = config.init_lora_weights if isinstance(config, peft.LoraConfig) else None
    return isinstance(start, str) and (start.startswith("pissa") or start.lower() == "olora")


def check_plain(configs: Mapping[str, Any]) -> None:
    """Raise ConfigError if a LoRA adapter, by its name, is not one A and one B that can be combined with others'."""
    for name, config in configs.items():
        if is_relative(config):
            what = f"adapter {name!r} trains from a start inside the weight and cannot be combined with others yet"
            raise ConfigError("CONFIG-02", what, fix="save it and load it again: it is plain LoRA then")
        if isinstance(config, LoRAConfig) and config.use_merged_linear:
            raise ConfigError(
                "CONFIG-02",
                f"adapter {name!r} has use_merged_linear and cannot be combined with others",
                fix="activate both together instead",
            )


def folded(config: Any) -> Any:
    """The config of an adapter as its file has it: plain LoRA of twice the rank and of the same scale."""
    if not is_relative(config):
        return config
    start = config.lora_start or config.init_lora_weights
    return replace(_scaled(config, 2), init_lora_weights=True, lora_start=start)


def unfolded(config: Any) -> Any:
    """The config with which an adapter from a file goes on training."""
    if not isinstance(config, LoraConfig) or config.lora_start is None or is_relative(config):
        return config
    return replace(_scaled(config, 0.5), init_lora_weights=config.lora_start)


def _scaled(config: LoraConfig, factor: float) -> LoraConfig:
    """The config with ranks times `factor` and alphas so that the scale of B A stays."""
    alpha = math.sqrt(factor) if config.use_rslora else factor
    return replace(
        config,
        r=int(config.r * factor),
        lora_alpha=_whole(config.lora_alpha * alpha),
        rank_pattern={key: int(rank * factor) for key, rank in (config.rank_pattern or {}).items()},
        alpha_pattern={key: _whole(one * alpha) for key, one in (config.alpha_pattern or {}).items()},
    )


def _whole(number: float) -> Any:
    return round(number) if math.isclose(number, round(number), rel_tol=1e-12) else number


def kind_of(config: peft.PeftConfig) -> peft.PeftType:
    """Which of PEFT's methods the config is of."""
    return peft.PeftType(config.peft_type)


def cast(model: nn.Module, config: peft.PeftConfig, keys: list[str]) -> None:
    """Give the adapter's parameters `keys` of `model` the precision that `config.lora_dtype` asks for, if it does."""
    if isinstance(config, LoraConfig) and config.lora_dtype is not None:
        own = set(keys)
        for key, parameter in model.named_parameters():
            if key in own:
                parameter.data = parameter.data.to(DTYPES[config.lora_dtype])
