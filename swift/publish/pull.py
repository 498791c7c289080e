"""From a hub to a directory, which appears when all of it is there and is what the hub and the manifest say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift import hub, storage
from swift.arguments.hub import PullArguments
from swift.errors import DataError, OutputError, RefusedError, UsageError
from swift.publish import faults, token
from swift.publish.remote import Stored, open_remote

OF_LIBRARIES = (".cache", "._____temp", ".msc", ".mv", ".mdl")
SHOWN = 5


@dataclass(frozen=True)
class Pulled:
    """What was fetched.

    Attributes:
        repo: `owner/name`.
        directory: where it is.
        files: how many.
        size_bytes: of all.
        manifests: how many directories with a manifest verified by it.
    """

    repo: str
    directory: str
    files: int
    size_bytes: int
    manifests: int

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))

    def line(self) -> str:
        """One line of what happened."""
        return f"{self.directory}: {self.files} files, {self.size_bytes / 2**20:.1f} MiB of {self.repo}, verified"


def pull(args: PullArguments) -> Pulled:
    """Fetch a repository. What was fetched before an error is kept for the next attempt.

    Raises:
        UsageError: no `owner/name`.
        OutputError: the directory exists.
        NotFoundError: there is no such repository, or not for this token.
        DataError: what came is not what the hub, or its manifest, says.
        TemporaryError: the hub does not answer.
    """
    args = token.settle(args)
    repo = str(args.hub_model_id)
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UsageError("USAGE-02", f"{repo!r} is no repository", fix="swift pull <owner>/<name>")
    target = Path(args.output_dir or repo.partition("/")[2]).expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError("OUTPUT-01", f"{target} exists", fix="another --output_dir")
    remote = open_remote(_token_or_none())
    work = target.with_name(f".{target.name}.pulling")
    storage.make_directory(work)
    commit = faults.trying(lambda: remote.commit(repo, args.revision), f"opening {repo}")
    there = faults.trying(lambda: remote.stored(repo, commit), f"listing {repo}")
    others = _files(work) - {work / name for name in there}
    for path in others:
        path.unlink()
    for name in OF_LIBRARIES if others else ():  # what they noted is of the other repository too
        _remove(work / name)
    _drop_faulty(there, work)
    faults.trying(lambda: remote.fetch(repo, commit, work), f"fetching {repo}")
    for name in OF_LIBRARIES:
        _remove(work / name)
    manifests = _check(repo, there, work)
    if target.is_dir():
        target.rmdir()
    work.rename(target)
    files = [path for path in target.rglob("*") if path.is_file()]
    return Pulled(repo, str(target), len(files), sum(path.stat().st_size for path in files), manifests)


def _token_or_none() -> str | None:
    try:
        return token.find()
    except RefusedError:  # a public repository needs none
        return None


def _files(work: Path) -> set[Path]:
    """What was fetched, now or by an earlier pull that was interrupted, maybe of another repository or commit."""
    found = {path for path in work.rglob("*") if path.is_file()}
    return {path for path in found if path.relative_to(work).parts[0] not in OF_LIBRARIES}


def _drop_faulty(there: Mapping[str, Stored], work: Path) -> list[str]:
    """Remove the files that are not what the hub has; return what is wrong with each, and which are missing."""
    faulty = []
    for name, stored in there.items():
        path = work / name
        fault = stored.fault(path) if path.is_file() else "did not come"
        if fault:
            faulty.append(f"{name} {fault}")
            path.unlink(missing_ok=True)
    return faulty


def _check(repo: str, there: Mapping[str, Stored], work: Path) -> int:
    """Compare what came with what the hub has and with the manifests in it; return how many there are."""
    faulty = _drop_faulty(there, work)
    manifests = [path.parent for path in work.rglob(storage.MANIFEST)]
    faulty += [
        f"{path.name if path != work else repo}: {fault}" for path in manifests for fault in storage.verify(path)
    ]
    if faulty:
        what = f"{repo} of {hub.name()} did not come whole: {'; '.join(faulty[:SHOWN])}"
        raise DataError("HUB-03", what, fix="fetch it again; if that stays, it was changed on the hub")
    return len(manifests)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
