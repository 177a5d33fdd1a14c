"""A stand-in for the Hugging Face hub: the three requests that fetching a repository takes, on this machine."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(root: Path, repo: str = "owner/model"):
    """Serves the files under `root`.

    Yields:
        the endpoint, and the list that every request's (method, path, authorization) is appended to.
    """
    requests = []
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlparse(self.path).path)
            requests.append((self.command, path, self.headers.get("authorization")))
            if path.startswith(f"/api/models/{repo}"):
                siblings = [{"rfilename": name, "size": file.stat().st_size} for name, file in files.items()]
                self._send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())
            elif (name := path.removeprefix(f"/{repo}/resolve/{COMMIT}/")) in files:
                self._send_file(files[name])
            else:
                self._send(404, b"not found", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def _send_file(self, file: Path):
            data, status, extra = file.read_bytes(), 200, {}
            if wanted := self.headers.get("range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                size, data, status = len(data), data[int(first) : int(last) + 1 if last else None], 206
                extra = {"Content-Range": f"bytes {first}-{int(first) + len(data) - 1}/{size}"}
            etag = f'"{file.stat().st_size:040x}"'
            self._send(status, data, extra | {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

        def _send(self, status: int, body: bytes, headers=None):
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
