"""Fine-tune large language models. The public names are those of the stub beside this file, imported on first use."""

from swift._lazy import attach
from swift._version import __version__ as __version__

__getattr__, __dir__, __all__ = attach(__name__)
