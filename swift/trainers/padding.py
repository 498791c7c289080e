"""How much padding went into the model: in all, and beside the rows of each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Named(Protocol):
    """Rows of data sets that have names; of several, each row says which it is of."""

    dataset_names: Sequence[str]


class Padding:
    """Tokens of padding, of all processes, from the first step of a run that may have been gone on with.

    Args:
        rows: what is trained on; a data set of somebody else has no names, nor have packs, which mix rows.
    """

    def __init__(self, rows: Any) -> None:
        self.names = list(rows.dataset_names) if isinstance(rows, Named) else []
        self._now = self._before = [0] * (1 + len(self.names))

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self._now[0]

    @property
    def of_datasets(self) -> dict[str, int]:
        """Beside the rows of each data set."""
        return dict(zip(self.names, self._now[1:], strict=True))

    def count(self, totals: Mapping[str, Any]) -> None:
        """Take what a tally, which began with the last `keep`, has summed up until now."""
        new = [totals["padding"], *totals["paddings"]]
        self._now = [before + round(count) for before, count in zip(self._before, new, strict=True)]

    def keep(self) -> None:
        """A new tally begins."""
        self._before = self._now

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs, as a checkpoint's manifest says it."""
        return {"padded": self.tokens, "padded_datasets": self.of_datasets}

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_state` gave; what an older checkpoint does not tell is 0."""
        of = state.get("padded_datasets", {})
        self._now = self._before = [state.get("padded", 0), *(of.get(name, 0) for name in self.names)]
