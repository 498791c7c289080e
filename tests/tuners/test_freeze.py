"""Full training of a part of the model."""

from __future__ import annotations

import pytest

from swift.errors import UsageError
from swift.tuners.freeze import freeze_parameters
from tests.tuners.cases import Mlp


def trained(share: float, thawed: tuple[str, ...] = ()) -> set[str]:
    model = Mlp()
    freeze_parameters(model, share, thawed)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_first_share_is_frozen():
    everything = {f"{part}.{kind}" for part in ("first", "second", "head") for kind in ("weight", "bias")}
    assert trained(0.0) == everything
    assert trained(0.5) == everything - {"first.weight", "first.bias"}
    assert trained(1.0, ("head", "first.b")) == {"head.weight", "head.bias", "first.bias"}


def test_nothing_to_train_and_an_unknown_prefix_are_refused():
    with pytest.raises(UsageError, match="nothing to train"):
        trained(1.0)
    with pytest.raises(UsageError, match="no parameter starts so"):
        trained(0.5, ("tail",))
