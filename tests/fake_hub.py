"""A small Hugging Face hub on loopback, for the real client: repositories, commits, large files, and faults."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
_LARGE = (".safetensors", ".parquet")


@dataclass
class Repo:
    """Commits and branches; files by commit."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to a branch."""
        whole = self.commits.get(self.branches.get(branch, ""), {}) | files
        text = repr((len(self.commits), self.name, sorted((k, hashlib.sha1(v).digest()) for k, v in whole.items())))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = whole
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        cuts: number of answers of files of which half is sent.
        status: HTTP status of all answers; 0 for the right ones.
        flip: whether a byte of each file is changed as it is sent.
        requests: method and path of each request.
    """

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cuts: int = 0
    status: int = 0
    flip: bool = False
    hidden: str = ""
    url: str = ""

    def repo(self, name: str, files: dict[str, bytes] | None = None, kind: str = "model", **options: Any) -> Repo:
        """A repository, with a first commit."""
        found = self.repos.setdefault((kind, name), Repo(kind, name, **options))
        found.commit(files or {})
        return found

    def fetched(self) -> list[str]:
        """Names of the files whose content was sent."""
        return [path.rpartition("/")[2] for path in self.requests if path.startswith("GET") and "/resolve/" in path]


def etag(name: str, content: bytes) -> str:
    if name.endswith(_LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, code: str = "") -> None:
        self._answer({"error": code}, status, **({"X_Error_Code": code} if code else {}))

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            self._error(self.hub.status)
            return
        self._authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for pattern, respond in _ROUTES:
            if match := re.fullmatch(pattern, path):
                respond(self, body, *match.groups())
                return
        self._error(404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _found(self, kind: str, name: str, revision: str = "main") -> tuple[Repo, str] | None:
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self._authorized):
            self._error(404 if self._authorized else 401, "RepoNotFound")
        elif repo.gated:
            self._error(403, "GatedRepo")
        elif (oid := repo.resolve(revision)) is None:
            self._error(404, "RevisionNotFound")
        else:
            return repo, oid
        return None

    def info(self, _: bytes, kind: str, name: str, revision: str | None) -> None:
        if found := self._found(kind, name, revision or "main"):
            repo, oid = found
            files = []
            for file, data in repo.commits[oid].items():
                large = {"lfs": {"sha256": etag(file, data), "size": len(data), "pointerSize": 1}}
                own = {"rfilename": file, "size": len(data), "blobId": "0" * 40}
                files.append(own | (large if file.endswith(_LARGE) else {}))
            self._answer({"id": name, "sha": oid, "private": repo.private, "siblings": files, "tags": []})

    def resolve(self, _: bytes, kind: str | None, name: str, revision: str, file: str) -> None:
        if not (found := self._found("dataset" if kind else "model", name, revision)):
            return
        repo, oid = found
        content = repo.commits[oid].get(file)
        if content is None or file == self.hub.hidden:
            self._error(404, "EntryNotFound")
            return
        mark = {"ETag": f'"{etag(file, content)}"', "X_Repo_Commit": oid, "Accept_Ranges": "bytes"}
        if self.hub.flip:
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(begin[1]) if begin else 0
        if begin:
            mark["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        if self.command == "GET" and self.hub.cuts and len(rest) > 1:
            self.hub.cuts -= 1
            self._answer(rest[: len(rest) // 2], 206 if begin else 200, Content_Length=str(len(rest)), **mark)
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(2)
            return
        self._answer(rest, 206 if begin else 200, **mark)

    def whoami(self, _: bytes) -> None:
        self._answer(
            {"name": "user", "type": "user", "orgs": []} if self._authorized else {}, 200 if self._authorized else 401
        )

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        kind = asked.get("type") or "model"
        if not self._authorized:
            self._error(401)
        elif name.startswith("other/"):
            self._error(403)
        elif (kind, name) in self.hub.repos:
            self._answer({"url": f"{self.hub.url}/{name}"}, 409)
        else:
            private = bool(asked.get("private") or asked.get("visibility") == "private")
            self.hub.repo(name, {".gitattributes": b""}, kind, private=private)
            self._answer({"url": f"{self.hub.url}/{name}"})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        if found := self._found("model", name):
            found[0].branches.setdefault(branch, found[1])
            self._answer()

    def yaml(self, _: bytes) -> None:
        self._answer({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if self._found("model", name, revision):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {file: "lfs" if file.endswith(_LARGE) else "regular" for file in files}
            self._answer({"files": [{"path": f, "uploadMode": m, "shouldIgnore": False} for f, m in modes.items()]})

    def batch(self, body: bytes, _: str) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/blob/{one['oid']}"}},
            }
            for one in json.loads(body)["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        good = hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._answer(status=200 if good else 422)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if not (found := self._found("model", name, revision)):
            return
        files = {}
        for line in filter(None, body.splitlines()):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        oid = found[0].commit(files, revision)
        self._answer({"success": True, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})


def _info(self: _Handler, body: bytes, kind: str, name: str, revision: str | None = None) -> None:
    self.info(body, kind, name, revision)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.yaml),
    (rf"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    (rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    (rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    (rf"/api/(model|dataset)s/{_NAME}/revision/(.+)", _info),
    (rf"/api/(model|dataset)s/{_NAME}", _info),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/blob/(\w+)", _Handler.upload),
    (rf"/(datasets/)?{_NAME}/resolve/((?:refs/(?:pr|convert)/)?[^/]+)/(.+)", _Handler.resolve),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
