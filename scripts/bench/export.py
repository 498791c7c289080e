"""Export the model that comes with swift in every way there is, and write the table of docs/export.md.

    python scripts/bench/export.py [--write] [merge|<gguf type>|<method>:<bits> …]

A LoRA is trained for a few steps and merged, and the merged model is written in each way. Every result is loaded again,
GGUF by transformers, and asked the same rows, which no calibration saw; how often its likeliest token is the merged
model's is the agreement. That of the merged model itself is with the adapter on its base.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from swift.arguments.quantise import WRITTEN_METHODS
from swift.commands.merge import REPORT as MERGED
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_source, load_template, prepare_model_template, quiet_libraries
from swift.commands.quantize import REPORT as QUANTISED
from swift.commands.quantize import Answers, Rows, answers, answers_of, quantize, read_rows, same
from swift.commands.to_gguf import to_gguf
from swift.llm import ExportArguments, InferArguments, sft_main
from swift.models.files import read_json
from swift.models.quantisation import WRITTEN
from swift.models.source import find_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
BEGIN, END = "<!-- scripts/bench/export.py begins -->\n", "<!-- scripts/bench/export.py ends -->"
MODEL, DATA = "demo-chat", ["demo-general"]
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8, "q4_0": 4}  # of GGUF's types, without their scales
TITLES = ("written by", "bits", "size", "likeliest tokens equal", "seconds")


@dataclass(frozen=True)
class Line:
    """One way: the option, bits of a weight, bytes of the weights, share of equal tokens, seconds to write it."""

    option: str
    bits: int
    size: int
    agreement: float
    seconds: float


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/export.md")
    parser.add_argument("ways", nargs="*", help="only these: merge, q8_0, bnb:4 and so on")
    args = parser.parse_args()
    few = [f"{method}:{bits}" for method in WRITTEN_METHODS for bits in sorted(WRITTEN[method], reverse=True)]
    few.remove("awq:4")  # the model's heads are too narrow for it
    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        lines = measured(Path(name), args.ways or ["merge", *BITS, *few])
    text = table(lines)
    print(text)
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{rest.partition(END)[2]}", "utf-8")


def measured(place: Path, ways: list[str]) -> list[Line]:
    """One line for each way."""
    run = sft_main(
        model_type=MODEL,
        dataset=["demo-general#64"],
        lora_target_modules=["ALL"],
        learning_rate=1e-3,
        max_steps=4,
        dataset_test_ratio=0.0,
        output_dir=str(place / "run"),
        add_output_dir_suffix=False,
    )
    merged = Path(merge_lora(ExportArguments(ckpt_dir=run["last_model_checkpoint"])))
    said = ExportArguments(
        model_id_or_path=str(merged), template_type="chatml", dataset=DATA, quant_n_samples=256, quant_seqlen=512
    )
    rows = read_rows(said, load_template(said, find_source(said)))
    before = answers(find_model(None, str(merged)), rows.measured)
    assert before is not None
    lines = []
    for way in ways:
        if way == "merge":
            lines.append(merge(run["last_model_checkpoint"], merged, rows, before))
        else:
            lines.append(written(place, said, way, rows, before))
        print(line(lines[-1]), flush=True)
    return lines


def merge(checkpoint: str, merged: Path, rows: Rows, before: Answers) -> Line:
    """The line of the merged model, beside the adapter on its base."""
    tuned = prepare_model_template(InferArguments(ckpt_dir=checkpoint)).model
    found = same(answers_of(tuned, rows.measured), before)
    return Line("--merge_lora true", 16, weights(merged), found, read_json(merged / MERGED)["seconds"])


def written(place: Path, said: ExportArguments, way: str, rows: Rows, before: Answers) -> Line:
    """The line of another file of the merged model."""
    method, _, bits = way.partition(":")
    output = place / way.replace(":", "-")
    options: dict[str, Any] = {**vars(said)}
    if not bits:
        to_gguf(ExportArguments(**{**options, "to_gguf": way, "output_dir": str(output)}))
        [file] = output.glob("*.gguf")
        model = AutoModelForCausalLM.from_pretrained(output, gguf_file=file.name, dtype=torch.float32)
        report = read_json(output / "gguf_report.json")
        found = same(before, answers_of(model.eval(), rows.measured))
        return Line(f"--to_gguf {way}", BITS[way], report["bytes"], found, report["seconds"])
    options |= {"quant_method": method, "quant_bits": int(bits), "quant_output_dir": str(output)}
    quantize(ExportArguments(**options))
    report = read_json(output / QUANTISED)
    after = answers(find_model(None, str(output)), rows.measured)
    assert after is not None
    return Line(
        f"--quant_method {method} --quant_bits {bits}",
        int(bits),
        weights(output),
        same(before, after),
        report["seconds"],
    )


def weights(directory: Path) -> int:
    """Bytes of the files of weights."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def table(lines: list[Line]) -> str:
    """The lines as a table."""
    return "\n".join([f"| {' | '.join(TITLES)} |", "|---|--:|--:|--:|--:|", *map(line, lines)])


def line(one: Line) -> str:
    """One line of the table."""
    size = f"{one.size / 2**20:.2f} MiB"
    return f"| `{one.option}` | {one.bits} | {size} | {one.agreement:.1%} | {one.seconds:.1f} |"


if __name__ == "__main__":
    main()
