"""The options of LoRA and of prefix tuning, with PaddleNLP's fields, and their JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from swift import storage
from swift.errors import ConfigError, DataError, OutputError
from swift.log import get_logger

# How dtypes print, in torch ("torch.float32") and in Paddle ("paddle.float32", "VarType.FP32").
DTYPES = {
    **dict.fromkeys(("float16", "fp16", "half"), torch.float16),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float32", "fp32", "float"), torch.float32),
    **dict.fromkeys(("float64", "fp64", "double"), torch.float64),
}
CONFIG = "CONFIG-02"


def as_dtype(said: object) -> torch.dtype:
    """The floating dtype that is meant: a torch dtype, its name, or an object that prints so, such as Paddle's.

    Args:
        said: None stands for `torch.get_default_dtype()`.

    Raises:
        ConfigError: it names no floating dtype.
    """
    if said is None:
        return torch.get_default_dtype()
    name = str(said).rpartition(".")[2].lower()
    if name not in DTYPES:
        raise ConfigError(CONFIG, f"dtype {said!r} is no floating dtype", fix="float32, bfloat16, float16 or float64")
    return DTYPES[name]


@dataclass
class Options:
    """What both configs share: their files."""

    file_name: ClassVar[str]

    def check(self) -> None:
        """Raise ConfigError for a value that makes no sense."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The fields, fit for JSON."""
        values = asdict(self)
        return {
            **values,
            "dtype": None if values["dtype"] is None else str(as_dtype(values["dtype"])).partition(".")[2],
        }

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the config into a directory, which is made when missing."""
        directory = writable(save_directory)
        storage.write_text(directory / self.file_name, json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path) -> Self:
        """The config in a directory.

        Raises:
            DataError: also a ValueError; there is none, or it is damaged.
        """
        file = Path(pretrained_model_name_or_path) / cls.file_name
        if not file.is_file():
            raise DataError(
                "CKPT-01",
                f"{pretrained_model_name_or_path} has no {cls.file_name}",
                fix="give the directory that save_pretrained was given",
            )
        return cls(**cls.from_json_file(file))

    @classmethod
    def from_json_file(cls, path_json_file: str | Path) -> dict[str, Any]:
        """The fields in a JSON file; what is computed, such as `scaling`, and switches that are off are left out.

        Raises:
            DataError: it is damaged, or switches on what is not offered here.
        """
        try:
            values = json.loads(Path(path_json_file).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                "CKPT-01", f"{path_json_file} is not JSON: {error}", fix="copy it again from where it was made"
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                "CKPT-01", f"{path_json_file} is not a JSON object", fix="copy it again from where it was made"
            )
        known = {field.name for field in fields(cls)}
        on = [key for key, value in values.items() if key not in known and value is True]
        if on:
            raise DataError(
                "CKPT-01", f"{path_json_file}: {', '.join(on)} is not offered here", fix="train it anew without"
            )
        ignored = sorted(values.keys() - known - {"scaling"})
        if ignored:
            get_logger().warning(f"{path_json_file}: ignored {', '.join(ignored)}")
        return {key: value for key, value in values.items() if key in known}


@dataclass
class LoRAConfig(Options):
    """LoRA: y = x W + b + s · dropout(x) A B, where only A and B are trained.

    A [in, r] starts Kaiming-uniform (slope √5, so within ±1/√in), B [r, out] at zero: the model starts as it was.
    s = lora_alpha / r. Of each target r·(in + out) numbers are saved; training costs 2·r·(in + out) multiplications a
    token and target more. The paper draws A from a normal distribution and tunes s by `lora_alpha` as we do.

    Paper: https://arxiv.org/abs/2106.09685, section 4.1; `rslora`: https://arxiv.org/abs/2312.03732;
    `lora_plus_scale`: https://arxiv.org/abs/2402.12354.

    Args:
        r: the rank.
        target_modules: regular expressions, each for the **whole** path of a layer: ".*q_proj.*", not "q_proj".
        trainable_modules: regular expressions for whole names of parameters that are trained as well.
        lora_alpha: numerator of the scaling.
        lora_dropout: dropout before A.
        merge_weights: fold s·A·B into W at `eval()`, take it out at `train()`.
        trainable_bias: None, "lora" (biases of the targets) or "all".
        enable_lora_list: beside `target_modules`: None, or for a layer that holds several in one (a fused QKV) a list
            of bools, one per part, saying which parts get LoRA. With a single string as target: that list alone.
        tensor_parallel_degree: over how many processes the base is cut; that of the base counts.
        dtype: of A and B: a torch or Paddle dtype or its name; None is torch's default.
        head_dim: how the parts of a fused layer lie: alternating in blocks of `head_dim` outputs, [heads, parts,
            head_dim], as in Paddle, BLOOM and GPT-NeoX; None: one whole part after the other, as in GPT-2.
        do_qat: not offered.
        rslora: s = lora_alpha / √r.
        lora_plus_scale: B learns at this multiple of the rate of A; see `LoRAModel.create_optimizer_param_groups`.
        base_model_name_or_path: a note for the reader of the file.
        use_quick_lora: kept for its name; it changes no number.
    """

    file_name: ClassVar[str] = "lora_config.json"

    r: int = 8
    target_modules: str | Sequence[str] | None = None
    trainable_modules: str | Sequence[str] | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    merge_weights: bool = False
    trainable_bias: str | None = None
    enable_lora_list: Sequence[Any] | None = None
    tensor_parallel_degree: int = -1
    dtype: Any = None
    head_dim: int | None = None
    do_qat: bool = False
    rslora: bool = False
    lora_plus_scale: float = 1.0
    base_model_name_or_path: str | None = None
    use_quick_lora: bool = False

    @property
    def scaling(self) -> float:
        """The factor s."""
        return self.lora_alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def to_dict(self) -> dict[str, Any]:
        """The fields and `scaling`, fit for JSON."""
        return {**super().to_dict(), "scaling": self.scaling}

    def check(self) -> None:
        """Raise ConfigError for a value that makes no sense."""
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r <= 0:
            raise ConfigError(CONFIG, f"r={self.r!r}: the rank is a positive whole number")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(CONFIG, f"lora_dropout={self.lora_dropout!r} is not in [0, 1)")
        if self.trainable_bias not in (None, "lora", "all"):
            raise ConfigError(CONFIG, f"trainable_bias={self.trainable_bias!r}", fix='None, "lora" or "all"')
        if self.lora_plus_scale <= 0:
            raise ConfigError(CONFIG, f"lora_plus_scale={self.lora_plus_scale!r} is not positive")
        if self.do_qat:
            raise ConfigError(CONFIG, "do_qat=True: training for quantised weights is not offered")
        as_dtype(self.dtype)


@dataclass
class PrefixConfig(Options):
    """Prefix tuning: n trained keys and values stand before those of the text, in every layer.

    An encoder gives [n, 2·layers·heads·head_dim] numbers, all keys before all values. Plain, they are an embedding
    table themselves; with `prefix_projection` they come from a smaller one: Linear(tanh(Linear(Embedding))). The table
    has 2·n·layers·width numbers, width = heads·head_dim, which is what is saved; attention gets n keys longer. The
    paper always projects, and drops the projection after training; here it is off until asked for, as in Paddle.

    Paper: https://arxiv.org/abs/2101.00190, section 4.

    Args:
        prefix_dropout: dropout after the encoder.
        num_prefix_tokens: n.
        num_attention_heads: of the base model.
        num_hidden_layers: of the base model.
        hidden_size: of the base model.
        multi_query_group_num: heads of keys and values, where they are fewer than `num_attention_heads`; None: what the
            base model says.
        prefix_projection: whether to project.
        prefix_projection_hidden_size: width between the two linear layers of the projection.
        tensor_parallel_degree: over how many processes the base is cut; that of the base counts.
        dtype: of the encoder: a torch or Paddle dtype or its name; None is torch's default.
    """

    file_name: ClassVar[str] = "prefix_config.json"

    prefix_dropout: float = 0.0
    num_prefix_tokens: int | None = None
    num_attention_heads: int | None = None
    num_hidden_layers: int | None = None
    hidden_size: int | None = None
    multi_query_group_num: int | None = None
    prefix_projection: bool = False
    prefix_projection_hidden_size: int | None = None
    tensor_parallel_degree: int = -1
    dtype: Any = None

    def check(self) -> None:
        """Raise ConfigError for a value that makes no sense."""
        needed = ["num_prefix_tokens", "num_attention_heads", "num_hidden_layers", "hidden_size"]
        needed += ["prefix_projection_hidden_size"] if self.prefix_projection else []
        for name in needed:
            value = self.__dict__[name]
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ConfigError(CONFIG, f"{name}={value!r}: PrefixConfig needs a positive whole number")
        if not 0 <= self.prefix_dropout < 1:
            raise ConfigError(CONFIG, f"prefix_dropout={self.prefix_dropout!r} is not in [0, 1)")
        as_dtype(self.dtype)


def writable(directory: str | Path) -> Path:
    """The directory, made when missing. Raises OutputError when a file has its name."""
    path = Path(directory)
    if path.is_file():
        raise OutputError("OUTPUT-01", f"{path} is a file", fix="give a directory")
    path.mkdir(parents=True, exist_ok=True)
    return path
