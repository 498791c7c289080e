"""Write the tables of docs/scaling.md anew, from swift.scaling: `python scripts/scaling_tables.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from swift.scaling import DECODERS, Cluster, Decoder, Link, fewest, row  # noqa: E402

PAGE = ROOT / "docs" / "scaling.md"
PART = re.compile(r"(<!-- tables -->\n).*(<!-- end of tables -->)", re.DOTALL)
GIB, GB = 2**30, 10**9
GPU = 80 * GIB * 9 // 10  # a tenth is for the allocator and the libraries
EACH = 8  # GPUs of a machine
INSIDE, BETWEEN = Link(300 * GB, 5e-6), Link(400 * GB, 15e-6)  # of a GPU; of a machine, all its cards together
FLOPS = 0.4 * 989e12
TOKENS = 4096
WAYS: tuple[tuple[str, int | None, int], ...] = (("all", None, 16), ("LoRA 16", 16, 16), ("QLoRA 16", 16, 4))
SHARDINGS = ("ddp", "zero1", "zero2", "zero3")


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
    for name, rank, bits in WAYS:
        for sharding in SHARDINGS:
            if bits < 16 and sharding != "ddp":  # quantised weights are not cut
                continue
            sizes = [row(model, sharding, cluster(n), TOKENS, FLOPS, rank, bits).memory.total / GIB for n in counts]
            shown = " | ".join(f"**{size:.0f}**" if size * GIB <= GPU else f"{size:.0f}" for size in sizes)
            least = fewest(model, sharding, GPU, TOKENS, rank, bits)
            lines.append(f"| {name} | {sharding} | {shown} | {least or '–'} |")
    return lines


def traffic_table(model: Decoder) -> list[str]:
    """What each GPU sends, and how long a step takes."""
    lines = ["| what trains | engine | GPUs | sent by each | sending | computing | step | of the time computing |"]
    lines += ["|" + "---|" * 8]
    for name, rank, bits in WAYS[:2]:
        for sharding in ("ddp", "zero3"):
            for count in (8, 64):
                found = row(model, sharding, cluster(count), TOKENS, FLOPS, rank, bits)
                if found.memory.total > GPU:
                    continue
                cost = found.cost
                low, high = (f"{100 * share:.0f}" for share in cost.efficiency)
                lines.append(
                    f"| {name} | {sharding} | {count} | {found.traffic.bytes / GB:.2f} GB | {cost.send:.3f} s | "
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
