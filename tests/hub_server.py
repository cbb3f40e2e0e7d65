"""A small Hugging Face Hub on loopback, which answers the real client and can be told to fail."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"/api/models/(?P<repo>.+?)(?:/revision/(?P<revision>[^/]+))?$")
_FILE = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that reached the server."""

    method: str
    path: str
    range: str | None
    token: str | None

    @property
    def file(self) -> str | None:
        """Name of the file it was for, whether at the Hub or at the content store."""
        found = _FILE.match(self.path)
        return unquote(found["name"]) if found else None


@dataclass(slots=True)
class Repo:
    """A model repository: its files at one commit."""

    files: Mapping[str, bytes]
    commit: str = "1" * 40
    gated_token: str | None = None


@dataclass(slots=True)
class HubServer:
    """The server; a context manager.

    Attributes:
        repos: By id.
        refusals: Status and headers for the next requests, first come first served.
        cuts: How many more answers to break off, by file name.
        busy: How many more times to answer 503 in place of a file's bytes, by file name.
        reset: Whether a cut resets the connection instead of closing it.
        seen: Every request so far, in order.
    """

    repos: dict[str, Repo]
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    reset: bool = False
    seen: list[Seen] = field(default_factory=list)
    _http: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    @property
    def port(self) -> int:
        assert self._http is not None
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        """Where large files are redirected to: another host name, as with the real Hub."""
        return f"http://localhost:{self.port}/store"

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order, without repetitions."""
        names = [seen.file for seen in self.seen if seen.method == "GET" and seen.file]
        return list(dict.fromkeys(names))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: ClassVar[HubServer]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *args: Any) -> None:
        """Says nothing on stderr."""

    def _answer(self) -> None:
        hub, path = self.server_state, urlsplit(self.path).path
        authorization = self.headers.get("Authorization")
        token = authorization.removeprefix("Bearer ") if authorization else None
        if path == "/api/agent-harnesses":
            # The client asks on its own account, at most once a day; no part of any model.
            self._send(b'{"standardEnvVars": [], "harnesses": {}}')
            return
        hub.seen.append(Seen(self.command, path, self.headers.get("Range"), token))
        if hub.refusals:
            status, headers = hub.refusals.pop(0)
            self._refuse(status, **headers)
        elif path.startswith("/store/"):
            self._store(path.removeprefix("/store"))
        elif found := _INFO.match(path):
            self._info(found["repo"], found["revision"])
        elif found := _FILE.match(path):
            self._file(found["repo"], found["revision"], unquote(found["name"]), token)
        else:
            self._refuse(404)

    def _info(self, name: str, revision: str | None) -> None:
        repo = self._repo(name, revision)
        if repo is not None:
            names = [{"rfilename": file} for file in repo.files]
            self._send(json.dumps({"id": name, "sha": repo.commit, "siblings": names}).encode())

    def _file(self, name: str, revision: str, file: str, token: str | None) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        if repo.gated_token is not None and token != repo.gated_token:
            self._refuse(403 if token else 401, **{"X-Error-Code": "GatedRepo"})
        elif file not in repo.files:
            self._refuse(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        elif file.endswith((".safetensors", ".bin")):
            self._redirect(name, repo, file)
        else:
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{_digest(repo.files[file])}"'}
            self._send(repo.files[file], headers)

    def _redirect(self, name: str, repo: Repo, file: str) -> None:
        data = repo.files[file]
        self.send_response(302)
        self.send_header("Location", f"{self.server_state.store_url}/{name}/resolve/-/{file}")
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("X-Linked-ETag", f'"{_digest(data)}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _store(self, path: str) -> None:
        found = _FILE.match(path)
        assert found is not None
        hub, file = self.server_state, unquote(found["name"])
        if hub.busy.get(file, 0) > 0:
            hub.busy[file] -= 1
            self._refuse(503)
            return
        data = hub.repos[found["repo"]].files[file]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if asked else {}
        cut = hub.cuts.get(file, 0) > 0 and self.command == "GET"
        if cut:
            hub.cuts[file] -= 1
        self._send(data[start:], headers, status=206 if asked else 200, cut=cut)

    def _repo(self, name: str, revision: str | None) -> Repo | None:
        repo = self.server_state.repos.get(name)
        if repo is None:
            self._refuse(404, **{"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", repo.commit):
            self._refuse(404, **{"X-Error-Code": "RevisionNotFound"})
            return None
        return repo

    def _refuse(self, status: int, **headers: str) -> None:
        self._send(b"", headers, status=status)

    def _send(
        self,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        status: int = 200,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._break_off()

    def _break_off(self) -> None:
        self.wfile.flush()
        if self.server_state.reset:
            # Lingering for zero seconds makes close() send a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
