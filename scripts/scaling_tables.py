"""Write the tables of docs/scaling.md anew, from swift.scaling: `python scripts/scaling_tables.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from swift.scaling import DECODERS, Cluster, Decoder, Link, Way, fewest, row  # noqa: E402

PAGE = ROOT / "docs" / "scaling.md"
PART = re.compile(r"(<!-- tables -->\n).*(<!-- end of tables -->)", re.DOTALL)
GIB, GB = 2**30, 10**9
GPU = 80 * GIB * 9 // 10  # a tenth is for the allocator and the libraries
EACH = 8  # GPUs of a machine
INSIDE, BETWEEN = Link(300 * GB, 5e-6), Link(400 * GB, 15e-6)  # of a GPU; of a machine, all its cards together
FLOPS = 0.4 * 989e12
TOKENS = 4096
TRAINS: tuple[tuple[str, int | None, int], ...] = (("all", None, 16), ("LoRA 16", 16, 16), ("QLoRA 16", 16, 4))
ENGINES = {
    "ddp": ("ddp", 1),
    "zero1": ("zero1", 1),
    "zero2": ("zero2", 1),
    "zero3": ("zero3", 1),
    "tensor 8": ("ddp", 8),
}
"""How processes share, and how many hold one model."""


def cluster(processes: int) -> Cluster:
    """So many GPUs, on as few machines as hold them."""
    return Cluster(processes, max(1, -(-processes // EACH)), INSIDE, BETWEEN)


def memory_table(model: Decoder) -> list[str]:
    """How much memory each of so many GPUs needs."""
    counts = (1, 8, 16, 64, 256)
    lines = [
        f"| what trains | engine | {' | '.join(f'{n} GPUs' if n > 1 else '1 GPU' for n in counts)} | fewest of 80 GiB |"
    ]
    lines += ["|" + "---|" * (len(counts) + 3)]
    for name, rank, bits in TRAINS:
        for engine, (sharding, degree) in ENGINES.items():
            if bits < 16 and engine != "ddp":  # quantised weights are not cut
                continue
            way = Way(sharding, rank, bits, degree)
            shown = " | ".join(needs(model, way, count) for count in counts)
            lines.append(f"| {name} | {engine} | {shown} | {fewest(model, way, GPU, TOKENS) or '–'} |")
    return lines


def needs(model: Decoder, way: Way, count: int) -> str:
    """GiB of each of so many GPUs; nothing where they are too few to hold a model together."""
    if count < way.degree:
        return ""
    size = row(model, way, cluster(count), TOKENS, FLOPS).memory.total
    return f"**{size / GIB:.0f}**" if size <= GPU else f"{size / GIB:.0f}"


def traffic_table(model: Decoder) -> list[str]:
    """What each GPU sends, and how long a step takes."""
    lines = ["| what trains | engine | GPUs | sent by each | sending | computing | step | of the time computing |"]
    lines += ["|" + "---|" * 8]
    for name, rank, bits in TRAINS[:2]:
        for engine in ("ddp", "zero3", "tensor 8"):
            sharding, degree = ENGINES[engine]
            for count in (8, 64):
                found = row(model, Way(sharding, rank, bits, degree), cluster(count), TOKENS, FLOPS)
                if found.memory.total > GPU:
                    continue
                cost = found.cost
                low, high = (f"{100 * share:.0f}" for share in cost.efficiency)
                lines.append(
                    f"| {name} | {engine} | {count} | {found.sent / GB:.2f} GB | {cost.wait + cost.send:.3f} s | "
                    f"{cost.compute:.2f} s | {cost.best:.2f}–{cost.worst:.2f} s | {low}–{high} % |"
                )
    return lines


def tables() -> str:
    """All of them."""
    parts: list[str] = []
    for model in DECODERS:
        parts += [f"### {model.name} ({model.parameters / 1e9:.1f} · 10⁹ parameters)", ""]
        parts += ["GiB of each GPU; bold fits into 80 GiB:", "", *memory_table(model), ""]
        sent = traffic_table(model)
        parts += [*sent, ""] if len(sent) > 2 else []
    return "\n".join(parts)


def written(page: str) -> str:
    """The page with its tables as they are now."""
    return PART.sub(lambda found: f"{found[1]}\n{tables()}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
