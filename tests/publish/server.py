"""A hub of one process: it stores what it is sent, speaks as Hugging Face and as ModelScope do, and fails on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

COMMIT = "c" * 40


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)


@dataclass
class Fault:
    """What the next requests that match get in place of an answer: a status, or with 0 a cut connection."""

    where: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    said: str = "so it is"
    after: bool = False  # whether the request is done all the same, and only its answer is lost


@dataclass
class Hub:
    users: dict[str, str] = field(default_factory=dict)
    repos: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    spoils: bool = False  # stores other bytes than it is sent
    url: str = ""

    def fail(self, where: str, status: int, times: int = 1, **more: Any) -> None:
        self.faults.append(Fault(where, status, times, **more))

    def count(self, where: str) -> int:
        return sum(1 for method, path in self.asked if re.search(where, f"{method} {path}"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        if self.fault and self.fault.after:
            status, data, headers = self.fault.status, b"{}", self.fault.headers
            if not status:
                self.close_connection = True
                return
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def take(self) -> None:
        self.path = unquote(self.path)
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self.chunks()
        hub = self.hub
        hub.asked.append((self.command, self.path))
        line = f"{self.command} {parts.path}"
        self.fault = next(
            (f for f in hub.faults if f.times and re.search(f.where, f"{self.command} {self.path}")), None
        )
        if self.fault:
            self.fault.times -= 1
            if not self.fault.after:
                if not self.fault.status:
                    self.close_connection = True
                    return
                headers = {"X-Error-Message": self.fault.said, **self.fault.headers}
                self.answer(self.fault.status, {"error": self.fault.said, "Message": self.fault.said}, headers)
                return
        said = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.user = hub.users.get(said)
        if said and not self.user:
            self.answer(401, {"error": "Invalid"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, line):
                method(self, *match.groups())
                return
        self.answer(404, {"error": f"no route for {line}"})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = take

    def chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def find(self, repo: str, *, write: bool = False) -> Repository | None:
        """The repository, where this user may see it, or write to it; else the answer is given."""
        found = self.hub.repos.get(repo)
        owner = repo.partition("/")[0]
        if found is None or (found.private and self.user != owner):
            status = 401 if self.user is None else 404
            self.answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        if write and self.user != owner:
            self.answer(403, {"error": "not yours"}, {"X-Error-Message": "you may not write here"})
            return None
        return found

    # Hugging Face

    def whoami(self) -> None:
        self.answer(200 if self.user else 401, {"name": self.user, "type": "user", "orgs": []})

    def info(self, repo: str, revision: str | None = None) -> None:
        if found := self.find(repo):
            siblings = [{"rfilename": name} for name in found.files]
            self.answer(200, {"id": repo, "sha": COMMIT, "private": found.private, "siblings": siblings})

    def create(self) -> None:
        said = json.loads(self.body)
        repo = f"{said.get('organization') or self.user}/{said['name']}"
        if repo.partition("/")[0] != self.user:
            self.answer(403, {"error": "not your namespace"}, {"X-Error-Message": "not your namespace"})
            return
        private = bool(said.get("private")) or said.get("visibility") == "private"
        self.hub.repos.setdefault(repo, Repository(private))
        self.answer(200, {"url": f"{self.hub.url}/{repo}"})

    def tree(self, repo: str, revision: str) -> None:
        if found := self.find(repo):
            self.answer(200, [entry(name, data, name in found.large) for name, data in found.files.items()])

    def front_matter(self) -> None:
        text = json.loads(self.body)["content"]
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        errors = [] if isinstance(front, dict) else [{"message": "no mapping"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self.find(repo, write=True):
            files = json.loads(self.body)["files"]
            modes = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]
            self.answer(200, {"files": modes})

    def batch(self, repo: str) -> None:
        objects = [self.wanted(found) for found in json.loads(self.body)["objects"]]
        self.answer(200, {"objects": objects, "transfer": "basic"})

    def wanted(self, said: dict[str, Any]) -> dict[str, Any]:
        there = said["oid"] in self.hub.blobs
        link = {"upload": {"href": f"{self.hub.url}/blobs/{said['oid']}?X-Signature=abc123", "header": {}}}
        return {"oid": said["oid"], "size": said["size"], **({} if there else {"actions": link})}

    def blob(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.answer(400, {"error": "cut short"})
            return
        self.hub.blobs[oid] = self.body[:-1] + b"!" if self.hub.spoils else self.body
        self.answer(200)

    def commit(self, repo: str, revision: str) -> None:
        found = self.find(repo, write=True)
        if found is None:
            return
        for line in self.body.decode().splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "header":
                found.messages.append(value["summary"])
            elif said["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            else:
                found.files[value["path"]] = self.hub.blobs[value["oid"]]
                found.large.add(value["path"])
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        found = self.find(repo)
        if found is None:
            return
        data = found.files.get(name)
        if data is None:
            self.answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
            return
        large = name in found.large
        tag = hashlib.sha256(data).hexdigest() if large else git_sha1(data)
        self.ranged(data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def ranged(self, data: bytes, headers: dict[str, str]) -> None:
        headers = {"Content-Type": "application/octet-stream", **headers}
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            part = data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
            self.answer(206, part, headers)
        else:
            self.answer(200, data, {**headers, "Content-Length": str(len(data))})

    # ModelScope

    def ms_me(self) -> None:
        if self.user:
            self.answer(200, {"success": True, "data": {"username": self.user}})
        else:
            self.answer(401, {"Message": "user not logged in"})

    def ms_info(self, repo: str) -> None:
        found = self.hub.repos.get(repo)
        if found is None or (found.private and self.user != repo.partition("/")[0]):
            self.answer(404, {"Message": "no such model"})
            return
        visibility = 1 if found.private else 5
        self.answer(
            200, {"success": True, "data": {"id": repo, "visibility": visibility}, "Data": {"Visibility": visibility}}
        )

    def ms_create(self) -> None:
        said = json.loads(self.body)
        if said["Path"] != self.user:
            self.answer(403, {"Message": "not your namespace"})
            return
        self.hub.repos[f"{said['Path']}/{said['Name']}"] = Repository(said["Visibility"] == 1)
        self.answer(200, {"Code": 200, "Data": {"Path": said["Path"], "Name": said["Name"]}, "Success": True})

    def ms_files(self, repo: str) -> None:
        if found := self.find(repo):
            files = [
                {
                    "Path": n,
                    "Name": n.rpartition("/")[2],
                    "Size": len(d),
                    "Type": "blob",
                    "Sha256": hashlib.sha256(d).hexdigest(),
                }
                for n, d in found.files.items()
            ]
            self.answer(200, {"Code": 200, "Data": {"Files": files}, "Success": True})

    def ms_batch(self, repo: str) -> None:
        if self.find(repo, write=True):
            objects = [self.wanted(found) for found in json.loads(self.body)["objects"]]
            self.answer(200, {"Code": 200, "Data": {"objects": objects}, "Success": True})

    def ms_commit(self, repo: str, revision: str) -> None:
        found = self.find(repo, write=True)
        if found is None:
            return
        said = json.loads(self.body)
        found.messages.append(said["commit_message"])
        for action in said["actions"]:
            content = (
                base64.b64decode(action["content"]) if action["type"] == "normal" else self.hub.blobs[action["sha256"]]
            )
            found.files[action["path"]] = content
        self.answer(200, {"Code": 200, "Data": {"oid": COMMIT}, "Success": True})

    def ms_file(self, repo: str) -> None:
        if found := self.find(repo):
            data = found.files.get(self.query.get("FilePath", ""))
            if data is None:
                self.answer(404, {"Message": "no such file"})
            else:
                self.ranged(data, {})


def mode(name: str) -> str:
    return "lfs" if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf", ".png")) else "regular"


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(name: str, data: bytes, large: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
    if large:
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 120}
    return found


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/validate-yaml", Handler.front_matter),
    (r"POST /api/repos/create", Handler.create),
    (rf"GET /api/models/{REPO}", Handler.info),
    (rf"GET /api/models/{REPO}/revision/([\w.-]+)", Handler.info),
    (rf"GET /api/models/{REPO}/tree/([\w.-]+)", Handler.tree),
    (rf"POST /api/models/{REPO}/preupload/([\w.-]+)", Handler.preupload),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /blobs/(\w+)", Handler.blob),
    (rf"POST /api/models/{REPO}/commit/([\w.-]+)", Handler.commit),
    (rf"(?:GET|HEAD) /{REPO}/resolve/([\w.-]+)/(.+)", Handler.resolve),
    (r"GET /openapi/v1/users/me", Handler.ms_me),
    (rf"GET /(?:openapi|api)/v1/models/{REPO}", Handler.ms_info),
    (r"POST /api/v1/models", Handler.ms_create),
    (rf"GET /api/v1/models/{REPO}/repo/files", Handler.ms_files),
    (rf"POST /api/v1/repos/models/{REPO}/info/lfs/objects/batch", Handler.ms_batch),
    (rf"POST /api/v1/repos/models/{REPO}/commit/([\w.-]+)", Handler.ms_commit),
    (rf"(?:GET|HEAD) /api/v1/models/{REPO}/repo", Handler.ms_file),
]


@contextmanager
def serving(users: dict[str, str]) -> Iterator[Hub]:
    """A hub whose users are those of the tokens, while the block runs."""
    hub = Hub(users)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
