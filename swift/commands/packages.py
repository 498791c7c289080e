"""Which packages are installed, against what this version of ours needs; and the command that adds what is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

OURS = "swift-finetune"
ROOT = Path(__file__).parents[2]
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*([^;#]*?)\s*(?:;\s*extra\s*==\s*[\"']([\w-]+)[\"'])?\s*")
BOUND = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([\w.+*]+)")
COMPANIONS = ("torchvision", "torchaudio")


@dataclass(frozen=True)
class Package:
    """A requirement and what is there: `installed` None is nothing, `needed` "" is any version."""

    name: str
    needed: str
    installed: str | None
    extra: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it is installed in a version that is allowed."""
        return self.installed is not None and allowed(self.installed, self.needed)


@cache
def packages() -> tuple[Package, ...]:
    """Every requirement of ours, those of the extras too."""
    found = []
    for line in requirements():
        match = REQUIREMENT.fullmatch(line)
        if match:
            name, needed, extra = match.groups()
            found.append(Package(name, needed.strip("() "), version(name), extra))
    return tuple(found)


def requirements() -> list[str]:
    """The requirements as the installed package says them; from the checkout's files where it is not installed."""
    try:
        return metadata.requires(OURS) or []
    except metadata.PackageNotFoundError:
        lines = []
        for path in sorted((ROOT / "requirements").glob("*.txt")):
            if path.stem in ("constraints", "test"):
                continue
            mark = "" if path.stem == "framework" else f'; extra == "{path.stem}"'
            lines += [f"{line}{mark}" for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return lines


def version(name: str) -> str | None:
    """The installed version of a package, None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def allowed(installed: str, needed: str) -> bool:
    """Whether a version is within bounds such as ">=5.3,<6"; what is not a number in it counts for nothing."""
    have = release(installed)
    for sign, text in BOUND.findall(needed):
        bound = release(text)
        width = max(len(have), len(bound))
        a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (have, bound))
        same = have[: len(bound)] == bound if text.endswith("*") else a == b
        fits = {">=": a >= b, "<=": a <= b, ">": a > b, "<": a < b, "==": same, "!=": not same}
        if not fits.get(sign, a >= b):
            return False
    return True


def release(text: str) -> tuple[int, ...]:
    """The numbers a version begins with: "2.13.0+cpu" is (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def extras(found: Sequence[Package]) -> dict[str, list[Package]]:
    """The packages of every extra."""
    groups: dict[str, list[Package]] = {}
    for package in found:
        if package.extra:
            groups.setdefault(package.extra, []).append(package)
    return groups


def install_command(extra: str | None = None) -> str:
    """What to type to install ours anew, with an extra."""
    wanted = f"[{extra}]" if extra else ""
    if (ROOT / "pyproject.toml").is_file():
        return f"pip install -e '{ROOT}{wanted}'"
    return f"pip install '{OURS}{wanted}'" if extra else f"pip install --upgrade {OURS}"


def mismatches() -> list[str]:
    """Libraries that were built for another torch than the one installed, a sentence each."""
    torch = version("torch")
    found = []
    for name in COMPANIONS:
        installed = version(name)
        if installed is None or torch is None:
            continue
        for line in metadata.requires(name) or []:
            match = REQUIREMENT.fullmatch(line.partition(";")[0])
            if match and match[1] == "torch" and not allowed(torch, match[2]):
                found.append(f"{name} {installed} is made for torch{match[2]}, and torch {torch} is installed")
    return found
