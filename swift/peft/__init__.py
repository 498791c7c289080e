"""LoRA and prefix tuning under the names that PaddleNLP gives them, on PyTorch models: read config, lora, prefix."""

from swift._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
