"""Options of `swift sft`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.data import DataOptions, EncodingOptions, KeepingOptions, LossOptions, MixOptions
from swift.arguments.engines import EngineOptions
from swift.arguments.generation import SamplingOptions
from swift.arguments.heads import HeadOptions
from swift.arguments.hub import PushingOptions
from swift.arguments.model import ModelOptions, NewTokenOptions
from swift.arguments.quantised import QuantisedOptions
from swift.arguments.training import OptimisationOptions, RunOptions
from swift.arguments.tuner import TunerOptions


@dataclass(kw_only=True)
class SftArguments(
    EngineOptions,
    PushingOptions,
    RunOptions,
    OptimisationOptions,
    TunerOptions,
    HeadOptions,
    LossOptions,
    MixOptions,
    EncodingOptions,
    KeepingOptions,
    DataOptions,
    SamplingOptions,
    NewTokenOptions,
    QuantisedOptions,
    ModelOptions,
):
    """Fine-tune a model on conversations."""
