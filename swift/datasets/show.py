"""Some rows of a data set drawn at random, as a table for a terminal or for a page."""

from __future__ import annotations

import html
import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swift.errors import UsageError

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST = 2000
NARROWEST = 60
STYLE = (
    "table{border-collapse:collapse}th,td{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top;"
    "white-space:pre-wrap;overflow-wrap:anywhere}th{background:#f4f4f4}"
)


@dataclass(frozen=True)
class Elements:
    """Rows as text cells; shows itself as a table, in a notebook too."""

    columns: list[str]
    rows: list[list[str]]

    def to_text(self, width: int) -> str:
        """The table for a terminal of that many columns."""
        table = Table(box=box.HEAVY_HEAD, show_lines=True)
        for column in self.columns:
            table.add_column(Text(printable(column)), overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        console = Console(width=max(width, NARROWEST), color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def to_html(self) -> str:
        """The table for a page; nothing in a cell is read as markup."""
        lines = [_html_row("th", self.columns), *(_html_row("td", row) for row in self.rows)]
        return "\n".join(["<table>", *lines, "</table>"])

    def __str__(self) -> str:
        return self.to_text(100)

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>\n{self.to_html()}"


def show_random_elements(dataset: Any, num_examples: int = 10, seed: int | None = None) -> None:
    """Show different rows of a data set, drawn at random: as a table in a notebook, else as text.

    Args:
        dataset: a `datasets.Dataset`, or a sequence of rows by column name. Class labels are shown by their names.
        num_examples: how many rows.
        seed: of the draw; None draws others each time.

    Raises:
        UsageError: there are fewer rows than that.
    """
    elements = random_elements(dataset, num_examples, seed)
    if "ipykernel" in sys.modules:
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        display(elements)
    else:
        sys.stdout.write(f"{elements}\n")


def random_elements(dataset: Any, num_examples: int = 10, seed: int | None = None) -> Elements:
    """What `show_random_elements` shows; in the order of the data set.

    Raises:
        UsageError: there are fewer rows than that.
    """
    if not 0 < num_examples <= len(dataset):
        raise UsageError("USAGE-02", f"{num_examples} rows cannot be picked from {len(dataset)}")
    picks = sorted(random.Random(seed).sample(range(len(dataset)), num_examples))
    return elements_of([dataset[k] for k in picks], getattr(dataset, "features", None))


def elements_of(rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any] | None = None) -> Elements:
    """Rows as text; columns in the order in which they appear.

    Args:
        rows: by column name.
        features: of a `datasets.Dataset`, which know the names of class labels; None without.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    named = {name: _names(feature) for name, feature in (features or {}).items()}
    return Elements(columns, [[_cell(row.get(name), named.get(name)) for name in columns] for row in rows])


def _names(feature: Any) -> list[str] | None:
    """The class names of a feature, or of the items of a list; None for another."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _cell(value: Any, names: list[str] | None) -> str:
    if value is None:
        text = ""
    elif isinstance(value, list | tuple) and names:
        text = ", ".join(_cell(item, names) for item in value)
    elif names and isinstance(value, int) and 0 <= value < len(names):
        text = names[value]
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} […{len(text) - LONGEST:,} more characters]"


def printable(text: str) -> str:
    """The text without what would steer a terminal: control and direction characters as escapes."""
    text = CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return DIRECTION.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(printable(cell))}</{tag}>' for cell in cells)}</tr>"
