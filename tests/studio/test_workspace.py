"""Nothing outside the workspace is read or written, whatever a file is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swift.errors import SwiftError
from swift.studio import workspace as workspaces
from swift.studio.workspace import Workspace, free_name, safe_name


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path))


def upload(tmp_path: Path, name: str, text: str = "{}\n") -> Path:
    folder = tmp_path / ".swift-studio" / "uploads"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_a_workspace_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(SwiftError, match="no directory"):
        Workspace.at(str(tmp_path / "none"))
    (tmp_path / "link").symlink_to(tmp_path)
    assert Workspace.at(str(tmp_path / "link")).root == tmp_path.resolve()


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a.jsonl", "a.jsonl"), ("../../a.jsonl", "a.jsonl"), (".bashrc.jsonl", "bashrc.jsonl"), ("-x y;$(z).json", "x_y_z_.json"), ("数据.csv", "数据.csv"), ("a" * 300 + ".jsonl", "a" * 80 + ".jsonl"), ("a\nb.jsonl", "a_b.jsonl")],
)  # fmt: skip
def test_names_are_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_an_upload_lands_in_data_and_replaces_nothing(workspace: Workspace, tmp_path: Path) -> None:
    first = workspace.take(upload(tmp_path, "my rows.jsonl", "1"))
    second = workspace.take(upload(tmp_path, "my rows.jsonl", "2"))
    assert (first, second) == ("data/my_rows.jsonl", "data/my_rows-2.jsonl")
    assert (workspace.root / first).read_text() == "1"
    assert not list(workspace.uploads.iterdir())
    assert workspace.data_files()[:2] in ([first, second], [second, first])


@pytest.mark.parametrize("name", ["evil.py", "sft_args.exe", "x.sh", "noending", "a.jsonl.py"])
def test_only_data_is_taken(workspace: Workspace, tmp_path: Path, name: str) -> None:
    file = upload(tmp_path, name)
    with pytest.raises(SwiftError, match="no data file"):
        workspace.take(file)
    assert not file.exists()
    assert not (workspace.root / "data").exists()


def test_an_uploaded_file_is_no_run(workspace: Workspace, tmp_path: Path) -> None:
    assert workspace.take(upload(tmp_path, "sft_args.json", "{}")) == "data/upload-sft_args.json"
    assert workspace.take(upload(tmp_path, "manifest.json", "{}")) == "data/upload-manifest.json"


def test_what_was_not_uploaded_is_not_taken(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}")
    workspace.uploads.mkdir()
    (workspace.uploads / "link.jsonl").symlink_to(tmp_path / "mine.jsonl")
    for path in (
        tmp_path / "mine.jsonl",
        workspace.uploads / "link.jsonl",
        workspace.uploads / ".." / ".." / "mine.jsonl",
    ):
        with pytest.raises(SwiftError, match="not uploaded"):
            workspace.take(path)
    assert (tmp_path / "mine.jsonl").exists()


def test_uploads_that_nobody_takes_are_forgotten(workspace: Workspace, tmp_path: Path) -> None:
    old, new = upload(tmp_path, "old.jsonl"), upload(tmp_path, "new.jsonl")
    outside = tmp_path / "mine.jsonl"
    outside.write_text("{}")
    (workspace.uploads / "link.jsonl").symlink_to(outside)
    (workspace.uploads / "ab").mkdir()
    for path in (old, outside, workspace.uploads / "ab"):
        os.utime(path, (0, 0))
    workspace.forget_uploads()
    assert sorted(path.name for path in workspace.uploads.iterdir()) == ["link.jsonl", "new.jsonl"]
    assert new.exists()
    assert outside.exists()


def test_what_lies_behind_a_link_is_not_forgotten(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    thesis = elsewhere / "thesis.txt"
    thesis.write_text("mine")
    os.utime(thesis, (0, 0))
    root = tmp_path / "brought"
    (root / workspaces.STATE).mkdir(parents=True)
    (root / workspaces.STATE / "uploads").symlink_to(elsewhere)
    Workspace(root.resolve()).forget_uploads()
    assert thesis.exists()


def test_a_large_upload_is_refused(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "LARGEST_UPLOAD", 10)
    with pytest.raises(SwiftError, match="larger"):
        workspace.take(upload(tmp_path, "a.jsonl", "x" * 11))


def test_data_through_a_link_is_not_offered(workspace: Workspace) -> None:
    (workspace.root / "etc").symlink_to("/etc")
    (workspace.root / "a.jsonl").write_text("")
    (workspace.root / ".hidden").mkdir()
    (workspace.root / ".hidden" / "b.jsonl").write_text("")
    assert workspace.data_files() == ["a.jsonl"]
    assert not workspace.holds("etc/hosts.jsonl")
    assert not workspace.holds("etc/*")
    assert workspace.holds("not/yet/there")


def test_links_below_what_is_named_are_followed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.root / "rows" / "more"
    folder.mkdir(parents=True)
    (folder / "in.jsonl").symlink_to(workspace.root / "a.jsonl")
    assert workspace.holds("rows")
    assert workspace.holds("row*")
    with monkeypatch.context() as patch:
        patch.setattr(workspaces, "MOST_FILES", 1)
        assert not workspace.holds("rows")
    (folder / "out.jsonl").symlink_to("/etc/hosts")
    assert not workspace.holds("rows")
    assert not workspace.holds("row*")
    assert not workspace.holds("rows/more")
    assert workspace.holds("rows/more/in.jsonl")


def test_looking_around_ends(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "MOST_FILES", 20)
    for k in range(50):
        (workspace.root / f"{k:02}.jsonl").write_text("")
    deep = workspace.root
    for _ in range(10):
        deep /= "d"
        os.mkdir(deep)
    (deep / "z.jsonl").write_text("")
    assert len(list(workspace.walk())) <= 51
    assert free_name(workspace.root, "00.jsonl").name == "00-2.jsonl"
