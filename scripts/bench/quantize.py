"""Quantise the model that comes with swift in every way there is, and write the table of docs/quantization.md.

    python scripts/bench/quantize.py [--write] [--keep DIRECTORY] [method:bits …]

A row is what `swift export` says in quantization_report.json; every result is loaded again by transformers where it
can, and by swift where it cannot, and the numbers are of that.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from swift.commands.quantize import REPORT, quantize
from swift.llm import ExportArguments
from swift.models.files import read_json
from swift.models.quantisation import WRITTEN

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quantization.md"
BEGIN, END = (
    "<!-- The table is written by `python scripts/bench/quantize.py --write`. -->\n",
    "<!-- End of the table. -->",
)
MODEL, DATA = "demo-chat", ["demo-general"]
TITLES = ("method", "bits", "size", "size ratio", "equal top tokens", "perplexity", "seconds")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/quantization.md")
    parser.add_argument("--keep", type=Path, help="directory of reports: what is in it is not measured again")
    parser.add_argument("ways", nargs="*", help="only these, as method:bits")
    args = parser.parse_args()
    every = [f"{method}:{bits}" for method, allowed in WRITTEN.items() for bits in sorted(allowed, reverse=True)]
    every.remove("awq:4")  # the model's heads are too narrow for it
    reports = []
    print(f"| {' | '.join(TITLES)} |")
    with tempfile.TemporaryDirectory() as place:
        for way in args.ways or every:
            method, bits = way.split(":")
            reports.append(measured(args.keep or Path(place), method, int(bits)))
            print(row(reports[-1]), flush=True)
    if args.write:
        text = PAGE.read_text("utf-8")
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(text[:begin] + "\n".join(["", *table(reports), "", ""]) + text[end:], "utf-8")


def measured(place: Path, method: str, bits: int) -> dict[str, Any]:
    """The report of one way."""
    output = place / f"{method}-{bits}"
    if (output / REPORT).is_file():
        return read_json(output / REPORT)
    quantize(
        ExportArguments(
            model_type=MODEL,
            dataset=DATA,
            quant_method=method,
            quant_bits=bits,
            quant_n_samples=256,
            quant_seqlen=512,
            quant_output_dir=str(output),
        )
    )
    return read_json(output / REPORT)


def table(reports: list[dict[str, Any]]) -> list[str]:
    """The lines of the table, the model as it is first."""
    first = reports[0]
    size = f"{first['bytes_before'] / 2**20:.2f} MiB"
    full = f"| as it is | 16 | {size} | 100 % | 100 % | {first['perplexity_before']:.3f} | |"
    return [f"| {' | '.join(TITLES)} |", "|---|--:|--:|--:|--:|--:|--:|", full, *map(row, reports)]


def row(report: dict[str, Any]) -> str:
    """One line of the table."""
    share = report["bytes"] / report["bytes_before"]
    return (
        f"| {report['method']} | {report['bits']} | {report['bytes'] / 2**20:.2f} MiB | {share:.0%} | "
        f"{report['agreement']:.1%} | {report['perplexity']:.3f} | {report['seconds']:.1f} |"
    )


if __name__ == "__main__":
    main()
