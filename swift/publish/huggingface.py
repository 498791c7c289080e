"""Hugging Face through its own library."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors as hf
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars

from swift.errors import DiskError, NotFoundError, RefusedError, UsageError, brief
from swift.publish import faults
from swift.publish.remote import Stored


class HuggingFace:
    """See `swift.publish.remote.Remote`."""

    def __init__(self, token: str | None) -> None:
        self.api = HfApi(token=token)
        if not sys.stderr.isatty():
            disable_progress_bars()

    def owner(self) -> str:
        """Whose token it is."""
        with _errors("whoami"):
            return str(self.api.whoami()["name"])

    def make(self, repo: str, private: bool) -> bool:
        """Make sure that a repository is there; return whether only its owner sees it."""
        with _errors(repo):
            try:
                return bool(self.api.repo_info(repo).private)
            except hf.RepositoryNotFoundError:
                self.api.create_repo(repo, private=private or None, exist_ok=True)
                return private

    def commit(self, repo: str, revision: str | None) -> str | None:
        """The commit that a branch or tag is now."""
        with _errors(repo):
            return self.api.repo_info(repo, revision=revision).sha

    def stored(self, repo: str, revision: str | None = None) -> dict[str, Stored]:
        """The files of a repository."""
        with _errors(repo):
            tree = self.api.list_repo_tree(repo, recursive=True, revision=revision)
            files = [entry for entry in tree if isinstance(entry, RepoFile)]
        return {f.path: Stored(f.size, f.lfs.sha256 if f.lfs else None, None if f.lfs else f.blob_id) for f in files}

    def send(self, repo: str, stage: Path, names: Sequence[str], folder: str, message: str) -> str:
        """Write files in one commit; large ones that were stored before a failure are not sent again."""
        places = {f"{folder}/{name}" if folder else name: str(stage / name) for name in names}
        with _errors(repo):
            adds = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in places.items()]
            return str(self.api.create_commit(repo, adds, commit_message=message).oid)

    def fetch(self, repo: str, revision: str | None, target: Path) -> None:
        """Write the files of a repository into a directory."""
        with _errors(repo):
            token = self.api.token
            huggingface_hub.snapshot_download(repo, revision=revision, local_dir=str(target), token=token)

    def address(self, repo: str) -> str:
        """Where people look at a repository."""
        return f"{self.api.endpoint}/{repo}"


@contextmanager
def _errors(repo: str) -> Iterator[None]:
    """The library's errors in ours."""
    try:
        yield
    except (hf.OfflineModeIsEnabled, hf.HFValidationError, hf.LocalEntryNotFoundError) as error:
        if isinstance(error, hf.HFValidationError):
            raise UsageError("USAGE-02", f"--hub_model_id {repo}: {brief(error)}", fix="<owner>/<name>") from None
        if constants.is_offline_mode():
            raise faults.offline(repo) from None
        raise _meant(repo, error) from None
    except (OSError, RuntimeError, ValueError, hf.HTTPError) as error:  # type: ignore[attr-defined]
        raise _meant(repo, error) from None


def _meant(repo: str, error: BaseException) -> Exception:
    """What went wrong, said by the first of the chain of errors that came from the hub or the disk."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, hf.HfHubHTTPError) and link.response is not None:
            return _answer(repo, link)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return DiskError("DISK-01", f"{repo}: {brief(link)}", fix="free some space, or another directory")
        link = link.__cause__ or link.__context__
    return faults.unreachable(repo, brief(error))


def _answer(repo: str, error: hf.HfHubHTTPError) -> Exception:
    response = error.response
    said = error.server_message or response.reason_phrase
    after = response.headers.get("Retry-After", "")
    if response.status_code == 401 and isinstance(error, hf.RepositoryNotFoundError):
        fix = "check the id; of a private one, a token of who may see it"
        return NotFoundError("FOUND-02", f"Hugging Face shows no {repo} (401): {said}", fix=fix)
    if isinstance(error, hf.GatedRepoError):
        fix = f"ask for access at https://huggingface.co/{repo}"
        return RefusedError("HUB-02", f"{repo} is shown only to whom its owner lets in", fix=fix)
    return faults.refused(response.status_code, repo, said, float(after) if after.isdigit() else None)
