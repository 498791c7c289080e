"""`swift push`: publish a checkpoint or model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from swift._lazy import named
from swift.arguments.export import ExportArguments
from swift.arguments.hub import PushArguments
from swift.arguments.reading import read_arguments
from swift.errors import UsageError
from swift.publish import token
from swift.publish.push import check_leaks, describe, prepare, push, repository

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def push_main(said: PushArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Publish as the options say; return what became of it, or what would leave."""
    args = token.settle(read_arguments(PushArguments, said, **options))
    directory = find(str(args.directory))
    folder = (args.path_in_repo or "").strip("/")
    if args.dry_run:
        return _rehearse(directory, args, folder)
    pushed = push(directory, args, message=args.commit_message, folder=folder, with_state=args.with_state)
    sys.stdout.write(f"{json.dumps(pushed.to_json()) if args.json else pushed.line()}\n")
    return pushed.to_json()


def check_token(args: ExportArguments) -> None:
    """Make sure, before anything is written, that there is a token and something that can be published."""
    token.find()
    if not (args.ckpt_dir or args.model_id_or_path or args.from_sharded):
        raise UsageError("USAGE-03", "--push_to_hub has nothing to publish", fix="--ckpt_dir <checkpoint>")


def push_exported(args: ExportArguments) -> str:
    """Publish what an export wrote, or its checkpoint; return the directory."""
    directory = find(str(args.ckpt_dir or args.model_id_or_path))
    sys.stdout.write(f"{push(directory, args, message=args.commit_message).line()}\n")
    return str(directory)


def find(said: str) -> Path:
    """The directory that is said, or the newest checkpoint of the run that is."""
    directory = Path(said).expanduser().resolve()
    if any(next(directory.glob(pattern), None) for pattern in WEIGHTS):
        return directory
    return named("swift.commands.chosen:find_checkpoint")(said)


def _rehearse(directory: Path, args: PushArguments, folder: str) -> dict[str, Any]:
    repo = repository(directory, args, None)
    with TemporaryDirectory(prefix="swift-push-") as place:
        outgoing = prepare(directory, Path(place), repo, args, folder=folder, with_state=args.with_state)
        leaks = check_leaks(outgoing, args)
        told = {"repo": repo, "files": sorted(outgoing.names), "left": outgoing.left, "leaks": leaks}
        sys.stdout.write(f"{json.dumps(told) if args.json else describe(outgoing, repo)}\n")
    return told
