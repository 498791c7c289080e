from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from swift.datasets.show import elements_of, printable, random_elements, show_random_elements
from swift.errors import UsageError

ROWS = [{"n": k, "text": f"row number {k}"} for k in range(30)]


def test_different_rows_are_drawn_and_a_seed_draws_them_again() -> None:
    drawn = random_elements(ROWS, 10, seed=3)
    numbers = [row[0] for row in drawn.rows]
    assert len(set(numbers)) == 10
    assert drawn == random_elements(ROWS, 10, seed=3) != random_elements(ROWS, 10, seed=4)
    assert {row[0] for row in random_elements(ROWS, 30).rows} == {str(k) for k in range(30)}


@pytest.mark.parametrize("count", [0, 31])
def test_more_rows_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="30"):
        show_random_elements(ROWS, count)


def test_class_labels_are_shown_by_name() -> None:
    kinds = ClassLabel(names=["question", "order"])
    rows = {"text": ["a", "b"], "kind": [0, 1], "kinds": [[0, 1], [1]]}
    dataset = Dataset.from_dict(rows, Features({"text": Value("string"), "kind": kinds, "kinds": List(kinds)}))
    assert random_elements(dataset, 2).rows == [["a", "question", "question, order"], ["b", "order", "order"]]


def test_text_is_never_markup_nor_steers_the_terminal() -> None:
    shown = elements_of([{"<b>": "<script>alert('x')</script> [red]bold[/red] \x1b[31m \u202e", "none": None}])
    page = shown._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    text = str(shown)
    assert "\x1b" not in text
    assert "\\x1b[31m" in text.replace("\n", "")
    assert "[red]bold[/red]" in text
    assert printable("a\tb\nc\r\u202e") == "a\tb\nc\\x0d\\u202e"


def test_long_cells_are_cut_and_wide_text_keeps_its_columns() -> None:
    shown = elements_of([{"a": "好" * 3000, "b": {"x": [1]}}])
    assert shown.rows[0][0].endswith("[…1,000 more characters]")
    assert shown.rows[0][1] == '{"x": [1]}'
    assert all(len(line) <= 80 for line in shown.to_text(80).splitlines())


def test_it_prints_here_and_displays_in_a_notebook(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_random_elements(ROWS[:1], 1)
    assert "row number 0" in capsys.readouterr().out
    shown: list[Any] = []
    display: Any = ModuleType("IPython.display")
    display.display = shown.append
    for name, module in (("ipykernel", ModuleType("ipykernel")), ("IPython", ModuleType("IPython"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    show_random_elements(ROWS[:1], 1)
    assert "<td>row number 0</td>" in shown[0]._repr_html_()
