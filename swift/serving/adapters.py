"""The models that callers can name: the base, and adapters on it that come and go."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

from peft import PeftModel

from swift.arguments.deploy import DeployArguments
from swift.errors import ConfigError, RefusedError, UsageError
from swift.inference.engine import BASE
from swift.inference.sharing import plain_lora, tells_rows_apart, without
from swift.inference.vllm_engine import VllmModel
from swift.log import get_logger
from swift.serving.protocol import ApiError
from swift.tuners import SwiftModel, files
from swift.tuners.facade import attach_adapters

logger = get_logger()
DEFAULT = "default-lora"  # what callers say for the adapter of --ckpt_dir


class Adapters:
    """Names of models and the adapters they mean.

    Args:
        args: decided options.
        base: what callers say for the model without adapters.
        model: with the adapter of `--ckpt_dir` on, where there is one.

    Raises:
        UsageError: `--lora_modules` is not `name=directory`.
        ConfigError: adapters were asked for that cannot be served beside others.
        DataError: an adapter is damaged or made for another model.
    """

    def __init__(self, args: DeployArguments, base: str, model: Any) -> None:
        self.args, self.base, self.model = args, base, model
        self.adapters: dict[str, str | None] = {}  # name that callers say -> in the model; None is what is active
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self.adapters[base] = BASE
        if isinstance(model, VllmModel) and model.engine.active is not None:
            self.adapters = {DEFAULT: model.engine.active, base: BASE}
        elif isinstance(model, (PeftModel, SwiftModel)):
            shared = isinstance(model, PeftModel) and plain_lora(model.active_peft_config.to_dict())
            shared = shared and tells_rows_apart(model, str(model.active_adapter))
            own: dict[str, str | None] = {DEFAULT: str(model.active_adapter), base: BASE} if shared else {base: None}
            self.adapters = own  # what cannot be told apart in a batch is all that there is
        for said in args.lora_modules:
            name, _, path = said.partition("=")
            if not name or not path:
                raise UsageError("USAGE-02", f"--lora_modules {said}: not name=directory")
            self.add(name, Path(path))

    @property
    def names(self) -> list[str]:
        """What callers can say; the first is what the options ask for."""
        return list(self.adapters)

    def find(self, name: str) -> str | None:
        """What the engine calls it.

        Raises:
            ApiError: there is none of that name.
        """
        if name not in self.adapters:
            known = ", ".join(self.names)
            raise ApiError(404, f"no model {name!r}; there are: {known}", param="model", code="model_not_found")
        return self.adapters[name]

    def add(self, name: str, path: Path) -> None:
        """Load an adapter; the engine must not be at work.

        Raises:
            UsageError: the name is taken.
            ConfigError: the model cannot hold several, or this one cannot be told apart in a batch.
            DataError: it is damaged or made for another model.
        """
        with self._lock:
            if name in self.adapters:
                raise UsageError("USAGE-02", f"there is a model {name!r} already")
            if self.adapters[self.base] is None:
                what = "the model that is served has a tuner that cannot share a batch with adapters"
                raise ConfigError("CONFIG-02", what, fix="serve the model without it, or merge it first")
            check_kind(path.expanduser())
            inside = f"served_{next(self._numbers)}"  # never used again: nothing computed by another is found under it
            if isinstance(self.model, VllmModel):
                self.model.engine.add_adapter(inside, path.expanduser())
                self.adapters[name] = inside
                return
            allowed = self.args.allow_other_base
            found = files.folders(path.expanduser())
            tuned = attach_adapters(
                self.model, str(path.expanduser()), {next(iter(found)): inside}, frozen=True, allow_other_base=allowed
            )
            if not isinstance(tuned, PeftModel):
                raise ConfigError("CONFIG-02", f"{path} cannot be served beside others", fix="swift deploy --ckpt_dir")
            if not tells_rows_apart(tuned, inside):
                self.model = without(tuned, inside)
                what = f"{path} changes layers of this model that cannot tell the rows of a batch apart"
                raise ConfigError("CONFIG-02", what, fix=f"serve it alone: swift deploy --ckpt_dir {path}")
            self.model = tuned.eval()
            self.adapters[name] = inside

    def load(self, name: str, path: str) -> None:
        """Load an adapter below `--adapters_dir`; the engine must not be at work.

        Raises:
            RefusedError: it lies elsewhere, or none may be loaded.
        """
        if self.args.adapters_dir is None:
            raise RefusedError("REFUSED-01", "this server loads no adapters", fix="start it with --adapters_dir")
        home = Path(self.args.adapters_dir).expanduser().resolve()
        try:
            place = (home / path).resolve()
            inside = place.is_relative_to(home) and place.is_dir()
        except (OSError, ValueError):  # no path at all
            inside, place = False, home
        if not inside:
            raise RefusedError("REFUSED-01", f"no adapter {path!r} in the directory that this server loads from")
        self.add(name, place)

    def forget(self, name: str) -> str:
        """Take no more questions for an adapter; what the model calls it.

        Raises:
            ApiError: there is none of that name, or it is the base.
        """
        inside = self.find(name)
        if name == self.base or inside is None:
            raise ApiError(400, f"{name!r} is the base model", param="name")
        with self._lock:
            del self.adapters[name]
        return inside

    def drop(self, inside: str) -> None:
        """Delete an adapter from the model; the engine must not be at work, nor have rows that want it."""
        with self._lock:
            if isinstance(self.model, VllmModel):
                return self.model.engine.drop_adapter(inside)
            self.model = without(self.model, inside)


def check_kind(path: Path) -> None:
    """Raise ConfigError unless an adapter can be told from others in a batch: LoRA without DoRA."""
    if not files.folders(path):
        raise UsageError("USAGE-02", f"{path} holds no adapter")
    config = files.read_json(next(iter(files.folders(path).values())) / files.CONFIG_FILE)
    if not plain_lora(config) or (path / files.EXTRA_STATES).is_dir():
        what = f"{path} is not a plain LoRA, which alone can be served beside others"
        raise ConfigError("CONFIG-02", what, fix=f"swift deploy --ckpt_dir {path}")
