"""Tuners: small trainable parts added to a frozen model. Read facade, model, branch, then a file of methods."""

from swift._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
