"""A hub on this machine: as much of the Hugging Face hub's protocol as huggingface_hub speaks to download files.

GET /api/models/NAME/revision/REVISION describes a repository; HEAD and GET /NAME/resolve/REVISION/FILE give a file,
small ones directly, large ones by redirect to another address ("the CDN"), with ranges.
Source: https://huggingface.co/docs/hub/api and the headers that huggingface_hub's file_download.py reads.
"""

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pth", ".bin")


@dataclass
class Hub:
    """repositories: name -> {revision: {file: bytes}}; the commit of a revision is made from its files.

    faults: what goes wrong, see Handler. requests: (method, path) of all requests so far. starts: of those that
    asked for the rest of a file, from which byte. url, cdn: the addresses.
    """

    repositories: dict
    faults: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    starts: list = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def downloads(self):
        """The names of the files whose content was asked for, since the last call."""
        paths = [path.split("/") for method, path in self.requests if method == "GET"]
        self.requests.clear()
        small = ["/".join(path[5:]) for path in paths if path[3:4] == ["resolve"]]  # /OWNER/NAME/resolve/COMMIT/FILE
        return sorted(small + ["/".join(path[5:]) for path in paths if path[1] == "cdn"])  # /cdn/OWNER/NAME/COMMIT/FILE

    def commit(self, name, revision="main"):
        """The 40 digits of what this branch, tag or commit is."""
        return next((c for r, c in self.commits(name).items() if revision in (r, c)), None)

    def commits(self, name):
        return {r: sha1(repr(sorted(files.items())).encode()) for r, files in self.repositories[name].items()}

    def files(self, name, revision):
        commits = self.commits(name)
        return next(files for r, files in self.repositories[name].items() if revision in (r, commits[r]))


def sha1(data):
    return hashlib.sha1(data).hexdigest()


def checksum(name, data):
    return hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else sha1(b"blob %d\0" % len(data) + data)


class Handler(BaseHTTPRequestHandler):
    """Faults by name: "status" (every answer), "api" and "file" (status of one kind), "gated", "html" (a log-in page),
    "cut" (half of a large file and no more), "damaged" (its first byte is another), "sha" (of the commit)."""

    hub: Hub

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        faults = self.hub.faults
        if "status" in faults:
            self.answer(faults["status"])
        elif "html" in faults:
            self.answer(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
        elif path.startswith("/api/models/"):
            self.describe(*path.removeprefix("/api/models/").split("/revision/"))
        elif path.startswith("/cdn/"):
            self.large(path.removeprefix("/cdn/"))
        elif "/resolve/" in path:
            name, _, rest = path[1:].partition("/resolve/")
            revision = next((r for r in self.hub.repositories.get(name, ()) if rest.startswith(f"{r}/")), None)
            revision = revision or rest.partition("/")[0]
            self.resolve(name, revision, rest.removeprefix(f"{revision}/"))
        else:
            self.answer(404)

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for header, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def missing(self, name, revision):
        """Answers if there is no such repository or revision."""
        if name not in self.hub.repositories:
            self.answer(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif self.hub.commit(name, revision) is None:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def describe(self, name, revision="main"):
        if "api" in self.hub.faults:
            return self.answer(self.hub.faults["api"])
        if self.missing(name, revision):
            return None
        siblings = []
        for file, data in self.hub.files(name, revision).items():
            sibling = {"rfilename": file, "size": len(data), "blobId": sha1(b"blob %d\0" % len(data) + data)}
            if file.endswith(LARGE):
                sibling["lfs"] = {"size": len(data), "sha256": checksum(file, data), "pointerSize": 134}
            siblings.append(sibling)
        sha = self.hub.faults.get("sha", self.hub.commit(name, revision))
        body = {"id": name, "modelId": name, "sha": sha, "private": False, "siblings": siblings}
        return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def resolve(self, name, revision, file):
        if "file" in self.hub.faults:
            return self.answer(self.hub.faults["file"])
        if self.missing(name, revision):
            return None
        commit = {"X-Repo-Commit": self.hub.commit(name, revision)}
        files = self.hub.files(name, revision)
        if "gated" in self.hub.faults:
            return self.answer(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if file not in files:
            return self.answer(404, headers=commit | {"X-Error-Code": "EntryNotFound"})
        etag = f'"{checksum(file, files[file])}"'
        if not file.endswith(LARGE):
            return self.answer(200, files[file], commit | {"ETag": etag})
        linked = {"X-Linked-ETag": etag, "X-Linked-Size": str(len(files[file]))}
        target = f"{self.hub.cdn}/cdn/{name}/{revision}/{file}"
        return self.answer(302, headers=commit | linked | {"Location": target})

    def large(self, path):
        owner, name, rest = path.split("/", 2)
        name = f"{owner}/{name}"
        revision = next(
            r for r in [*self.hub.commits(name).values(), *self.hub.repositories[name]] if rest.startswith(r)
        )
        data = self.hub.files(name, revision)[rest.removeprefix(f"{revision}/")]
        if "damaged" in self.hub.faults:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Length": str(len(data) - start), "Accept-Ranges": "bytes"}
        if start:
            self.hub.starts.append(start)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.hub.faults.get("cut", 0) > 0:
            self.hub.faults["cut"] -= 1
            body = body[: len(body) // 2]
        self.answer(206 if start else 200, body, headers)


@contextmanager
def serve(repositories):
    """A Hub with these repositories, running until the end of the block on two free ports of this machine."""
    hub = Hub(repositories)
    handler = type("Handler", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    hub.cdn = f"http://localhost:{servers[1].server_port}"  # a host of another name, or it counts as the hub itself
    threads = [Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    try:
        for thread in threads:
            thread.start()
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
