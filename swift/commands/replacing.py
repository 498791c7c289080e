"""What an export may replace: what an export wrote, and nothing that somebody put there, trained or is reading."""

from __future__ import annotations

from pathlib import Path

from swift import storage
from swift.errors import OutputError

FACT = "base"  # by which the manifest of what an export wrote says what it was made of
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def check_gives_way(output: Path, *read: Path, fix: str = "another --output_dir, or move what is there") -> None:
    """See that nothing is lost when the directory `output` is written anew.

    Args:
        output: where an export goes; it need not exist.
        read: the directories that the export reads.
        fix: what to do where it does not give way.

    Raises:
        OutputError: it holds one of `read`, or is not what an export wrote, or has other weights in it.
    """
    output = output.resolve()
    inside = next((one for one in map(Path.resolve, read) if one == output or output in one.parents), None)
    what = f"it holds {inside}, which is read" if inside else _foreign(output)
    if what:
        raise OutputError("OUTPUT-01", f"{output} is not replaced: {what}", fix=fix)


def _foreign(output: Path) -> str | None:
    """What is in a directory that no export wrote there, None when nothing is."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not output.is_dir():
        return "it is a file"
    try:
        manifest = storage.read_manifest(output)
    except ValueError as error:
        return f"no export wrote it ({error})"
    if FACT not in manifest:
        return "no export wrote it"
    weights = (path for path in sorted(output.rglob("*")) if path.suffix in WEIGHTS and path.is_file())
    names = (str(path.relative_to(output)) for path in weights)
    other = next((name for name in names if name not in manifest["files"]), None)
    return f"no export wrote {other}" if other else None
