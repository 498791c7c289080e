"""Options of what answers with several adapters of one model."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class AdapterOptions:
    """Which adapters are there beside that of the checkpoint."""

    lora_modules: list[str] = option(
        [], group="Server", help="Adapters to serve beside, as `name=directory`; who asks names one of them."
    )
