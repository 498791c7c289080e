from __future__ import annotations

import json
import sys
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from swift.datasets.compact import Compactor, CompactRow, opened

PLAIN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()})
MORE = st.fixed_dictionaries({"role": st.text(), "content": st.none() | st.text(), "loss": st.booleans()})
ROWS: Any = st.fixed_dictionaries(
    {
        "messages": st.lists(PLAIN, max_size=4) | st.lists(PLAIN | MORE, max_size=4),
        "where": st.text() | st.sampled_from(["a.jsonl:7", "a:b.csv:012", "a:", ":3", "7", "a.jsonl:٣"]),
    },
    optional={"dataset": st.text(), "tools": st.just([{"name": "f"}]), "label": st.booleans()},
)


@given(ROWS)
def test_a_row_reads_as_it_did(row: Any) -> None:
    small = Compactor()(row)
    assert opened(small) == row
    assert dict(small) == row
    assert len(small) == len(row)
    assert [small.get(name) for name in ("where", "dataset", "tools")] == [
        row.get(name) for name in ("where", "dataset", "tools")
    ]


def test_half_a_character_survives() -> None:
    row: Any = {"messages": [{"role": "user", "content": "\ud800 \x00 é"}], "where": "a:1"}
    assert opened(Compactor()(row)) == row


def test_a_row_takes_little_more_than_its_text() -> None:
    text = "x" * 600
    row: Any = {"messages": [{"role": "user", "content": text}], "where": "/a/long/path/to/a/file.jsonl:12345"}
    keep = Compactor()
    small = keep(row)
    assert isinstance(small, CompactRow)
    assert sys.getsizeof(small) + sys.getsizeof(small._bytes) < len(json.dumps(row)) + 120
    assert small._file is cast(CompactRow, keep(row))._file
