"""Training: the trainer and its arguments, the loss, callbacks, metrics, plots."""

from swift._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
