"""From a directory to a hub: gather, describe, search for secrets, send what is not there yet, compare."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from swift import hub
from swift.arguments.hub import PublishOptions
from swift.errors import RefusedError, TemporaryError
from swift.log import get_logger
from swift.publish import faults, secrets, token
from swift.publish.card import PICTURE, write_card
from swift.publish.outgoing import CARD, Outgoing, gather
from swift.publish.remote import Remote, Stored, open_remote
from swift.publish.told import own_card, repository_name, tell

logger = get_logger()
YOU = "<you>"
SHOWN = 5


@dataclass(frozen=True)
class Pushed:
    """What became of a push.

    Attributes:
        repo: `owner/name`.
        address: where people look at it.
        commit: its name, "" where the hub gives none or nothing was new.
        sent: files that were written.
        same: files that were there already.
        left: files of the directory that stay here.
        size_bytes: of what was written.
        seconds: it took.
        leaks: what leaves because it was allowed to, `file:line what`.
    """

    repo: str
    address: str
    commit: str
    sent: list[str]
    same: list[str]
    left: list[str]
    size_bytes: int
    seconds: float
    leaks: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))

    def line(self) -> str:
        """One line of what happened."""
        there = f"; {len(self.same)} were there already" if self.same else ""
        return f"published: {self.address} ({len(self.sent)} files, {self.size_bytes / 2**20:.1f} MiB sent{there})"


def push(
    directory: Path, args: PublishOptions, *, message: str | None = None, folder: str = "", with_state: bool = False
) -> Pushed:
    """Publish what of a directory a hub is for.

    Args:
        directory: a checkpoint or a model.
        args: which repository, and what it is allowed.
        message: of the commit; None names the directory.
        folder: of the repository, without a card; "" is its root, with one.
        with_state: whether what resuming needs leaves too.

    Raises:
        RefusedError: there are secrets in it, no token, or the hub does not allow it.
        DataError: it is damaged or no model.
        TemporaryError: the hub does not answer, or keeps other content than was sent; what arrived is kept.
    """
    args = token.settle(args)
    remote = open_remote(token.find())
    began = time.monotonic()
    repo = repository(directory, args, remote)
    with TemporaryDirectory(prefix="swift-push-") as place:
        outgoing = prepare(directory, Path(place), repo, args, folder=folder, with_state=with_state)
        leaks = check_leaks(outgoing, args)
        make(remote, repo, args.hub_private_repo)
        message = message or f"{directory.name} of swift"
        commit, sent = faults.trying(lambda: _send(remote, repo, outgoing, folder, message), f"publishing {repo}")
        return Pushed(
            repo=repo,
            address=remote.address(repo),
            commit=commit,
            sent=sent,
            same=[name for name in outgoing.names if name not in sent],
            left=outgoing.left,
            size_bytes=sum((outgoing.stage / name).stat().st_size for name in sent),
            seconds=round(time.monotonic() - began, 2),
            leaks=leaks,
        )


def push_to_hub(
    repo_name: str,
    output_dir: str | Path,
    token: str | None = None,
    private: bool = True,
    commit_message: str | None = None,
) -> dict[str, Any]:
    """Publish a checkpoint or model from Python; what became of it, as `Pushed` says.

    Args:
        repo_name: `owner/name`, or `name` for one of yours.
        output_dir: the checkpoint or model.
        token: None takes that of the environment or the login.
        private: whether only its owner may see it.
        commit_message: None names the directory.
    """
    options = PublishOptions(hub_model_id=repo_name, hub_token=token, hub_private_repo=private)
    return push(Path(output_dir).expanduser().resolve(), options, message=commit_message).to_json()


def repository(directory: Path, args: PublishOptions, remote: Remote | None) -> str:
    """`owner/name` for what is in a directory; without a hub to ask, `<you>/name` where no owner is said."""
    return with_owner(args.hub_model_id or repository_name(directory, tell(directory)), remote)


def with_owner(name: str, remote: Remote | None) -> str:
    """`owner/name`, the owner being whose token it is where none is said; `<you>` without a hub to ask."""
    if "/" in name:
        return name
    return f"{faults.trying(remote.owner, 'asking who you are') if remote else YOU}/{name}"


def prepare(
    directory: Path, stage: Path, repo: str, args: PublishOptions, *, folder: str = "", with_state: bool = False
) -> Outgoing:
    """Lay into `stage` what will leave; at the root with a card, in a folder without, unless somebody wrote one."""
    own = own_card(directory)
    if folder:  # the card of a library names the directory of the base model
        return gather(directory, stage, with_state=with_state, without=() if own else (CARD,))
    told = tell(directory)
    files = [path.name for path in directory.iterdir()]
    card = None if own else write_card(repo, told, files, args.hub_license)
    pictures = {PICTURE: told.picture} if told.picture and card else {}
    return gather(directory, stage, with_state=with_state, card=card, pictures=pictures)


def check_leaks(outgoing: Outgoing, args: PublishOptions) -> list[str]:
    """Refuse secrets and paths of this machine; return those that were allowed, `file:line what`."""
    files = [(name, outgoing.stage / name) for name in outgoing.names]
    found = secrets.check(files, args.allow_leak, [*outgoing.left, CARD, PICTURE])
    for finding in found:
        logger.warning(f"{finding.place} {finding.what}, and leaves: --allow_leak")
    return [f"{finding.place} {finding.what}" for finding in found]


def describe(outgoing: Outgoing, repo: str) -> str:
    """What would be published, for a dry run."""
    size = f"{len(outgoing.names)} files, {outgoing.size_bytes / 2**20:.1f} MiB"
    lines = [f"would publish {repo} on {hub.name()}: {size}", *(f"  {name}" for name in sorted(outgoing.names))]
    lines += [f"stays here: {', '.join(outgoing.left)}"] if outgoing.left else []
    card = outgoing.stage / CARD
    return "\n".join([*lines, *(["", card.read_text(encoding="utf-8")] if card.is_file() else [])])


def make(remote: Remote, repo: str, private: bool) -> None:
    """Make sure that a repository is there, and seen by whom it should be.

    Raises:
        RefusedError: the hub does not allow it, or everybody can see what should be private.
    """
    is_private = faults.trying(lambda: remote.make(repo, private), f"opening {repo}")
    if private and not is_private:
        what = f"{repo} exists and everybody can see it, which --hub_private_repo forbids"
        raise RefusedError("HUB-02", what, fix="another --hub_model_id, or make it private on the hub's page")


def _send(remote: Remote, repo: str, outgoing: Outgoing, folder: str, message: str) -> tuple[str, list[str]]:
    """Write what is not there yet and look whether it is then; the commit, and what was written."""
    missing = _differing(outgoing, remote.stored(repo), folder)
    if not missing:
        return "", []
    commit = remote.send(repo, outgoing.stage, list(missing), folder, message)
    wrong = _differing(outgoing, remote.stored(repo), folder)
    if wrong:
        shown = "; ".join(f"{name} {fault}" for name, fault in list(wrong.items())[:SHOWN])
        raise TemporaryError("HUB-03", f"{repo} is not what was sent: {shown}", fix="push again")
    return commit, list(missing)


def _differing(outgoing: Outgoing, there: dict[str, Stored], folder: str) -> dict[str, str]:
    """The files that the repository has not, or has with other content, and how."""
    found = {}
    for name in outgoing.names:
        stored = there.get(f"{folder}/{name}" if folder else name)
        fault = stored.fault(outgoing.stage / name) if stored else "is not there"
        if fault:
            found[name] = fault
    return found
