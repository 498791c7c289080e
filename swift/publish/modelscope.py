"""ModelScope through its own library."""

from __future__ import annotations

import base64
import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelscope_hub.api import HubApi
from modelscope_hub.config import HubConfig
from modelscope_hub.constants import MODEL_LFS_SUFFIX, UPLOAD_LFS_FORCE_THRESHOLD_BYTES, Visibility
from modelscope_hub.errors import APIError, FileDownloadError, HubError, NotExistError

from swift.errors import DiskError, SwiftError, UsageError, brief
from swift.publish import faults
from swift.publish.remote import Stored, sha256_of

KIND = "model"


class ModelScope:
    """See `swift.publish.remote.Remote`."""

    def __init__(self, token: str | None) -> None:
        self.api = HubApi(HubConfig(token=token))
        self.endpoint = HubConfig().endpoint
        logging.getLogger("modelscope_hub").setLevel(logging.ERROR)

    def owner(self) -> str:
        """Whose token it is."""
        with _errors("users/me"):
            return self.api.openapi.get_current_username()

    def make(self, repo: str, private: bool) -> bool:
        """Make sure that a repository is there; return whether only its owner sees it."""
        with _errors(repo):
            try:
                return self.api.get_repo(repo, KIND).visibility == Visibility.PRIVATE
            except NotExistError:
                self.api.create_repo(repo, KIND, visibility="private" if private else "public")
                return private

    def commit(self, repo: str, revision: str | None) -> str | None:
        """What was said: ModelScope does not tell commits."""
        return revision

    def stored(self, repo: str, revision: str | None = None) -> dict[str, Stored]:
        """The files of a repository."""
        with _errors(repo):
            found = self.api.list_repo_files(repo, KIND, revision=revision)
        return {file.path: Stored(file.size or 0, file.sha256 or None) for file in found if file.type != "tree"}

    def send(self, repo: str, stage: Path, names: Sequence[str], folder: str, message: str) -> str:
        """Write files in one commit; large ones that were stored before a failure are not sent again."""
        large = {name: sha256_of(stage / name) for name in names if _is_large(stage / name)}
        with _errors(repo):
            self._store(repo, stage, large)
            actions = [_action(stage / name, f"{folder}/{name}" if folder else name, large.get(name)) for name in names]
            self.api.legacy.create_commit(repo, KIND, actions, message)
        return ""

    def _store(self, repo: str, stage: Path, large: Mapping[str, str]) -> None:
        objects = [{"oid": oid, "size": (stage / name).stat().st_size} for name, oid in large.items()]
        links = self.api.legacy.validate_blobs(repo, KIND, objects) if objects else {}
        for name, oid in large.items():
            link = links.pop(oid, None)  # of two files with the same content one is sent
            if link is not None:
                with (stage / name).open("rb") as file:
                    self.api.legacy.upload_blob(link, file, (stage / name).stat().st_size)

    def fetch(self, repo: str, revision: str | None, target: Path) -> None:
        """Write the files of a repository into a directory."""
        with _errors(repo):
            self.api.download_repo(repo, KIND, revision=revision, local_dir=target)

    def address(self, repo: str) -> str:
        """Where people look at a repository."""
        return f"{self.endpoint}/models/{repo}"


def _is_large(path: Path) -> bool:
    return path.suffix in MODEL_LFS_SUFFIX or path.stat().st_size >= UPLOAD_LFS_FORCE_THRESHOLD_BYTES


def _action(path: Path, name: str, stored: str | None) -> dict[str, Any]:
    """What a commit does with one file: name the content that is stored, or hold it."""
    action = {"action": "create", "path": name, "size": path.stat().st_size}
    if stored is not None:
        return {**action, "type": "lfs", "sha256": stored, "content": "", "encoding": ""}
    content = base64.b64encode(path.read_bytes()).decode()
    return {**action, "type": "normal", "sha256": "", "content": content, "encoding": "base64"}


@contextmanager
def _errors(repo: str) -> Iterator[None]:
    """The library's errors in ours."""
    try:
        yield
    except HubError as error:
        raise _meant(repo, error) from None
    except ValueError as error:
        raise UsageError("USAGE-02", f"--hub_model_id {repo}: {brief(error)}", fix="<owner>/<name>") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise DiskError("DISK-01", f"{repo}: {brief(error)}", fix="free some space") from None
        raise faults.unreachable(repo, brief(error)) from None


def _meant(repo: str, error: HubError) -> SwiftError:
    if isinstance(error, FileDownloadError):
        first = next(iter(error.failed_files.values()), error)
        error = first if isinstance(first, HubError) else error
    status = error.status_code if isinstance(error, APIError) else None
    return faults.refused(status, repo, error.message) if status else faults.unreachable(repo, brief(error))
