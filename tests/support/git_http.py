"""Git over HTTP: a real `git http-backend` behind a small server that wants a password, redirects or hangs."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class GitHttp:
    """What the server does, and what it saw.

    Attributes:
        root: Directory of its repositories.
        token: Wanted as `x-access-token:<token>`; None = nothing is wanted.
        url: Where it listens.
        authorizations: The field `Authorization` of every request.
        arrived: Somebody asks for `/hang/…`, which never answers, or for `/slow/…`, which waits
            for `released`. `/moved/…` redirects, `/echo/…` repeats the token.
    """

    root: Path
    token: str | None = None
    url: str = ""
    authorizations: list[str | None] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        said = handler.headers.get("Authorization")
        self.authorizations.append(said)
        path, _, query = handler.path.partition("?")
        if path.startswith("/hang/"):
            self.arrived.set()
            self.released.wait()
            return
        if path.startswith("/slow/"):
            self.arrived.set()
            self.released.wait()
            path = path.removeprefix("/slow")
        if path.startswith("/echo/"):
            content = f"you said {said}, which is {base64.b64decode((said or '').rpartition(' ')[2])!r}\n".encode()
            handler.send_response(400)
            handler.send_header("Content-Type", "text/plain")
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
            return
        if path.startswith("/moved/"):
            handler.send_response(302)
            handler.send_header("Location", f"{self.url}/{handler.path.removeprefix('/moved/')}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.token is not None:
            wanted = base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
            if said != f"Basic {wanted}":
                handler.send_response(401)
                handler.send_header("WWW-Authenticate", 'Basic realm="git"')
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
        self._run_backend(handler, path, query)

    def _run_backend(self, handler: BaseHTTPRequestHandler, path: str, query: str) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        env = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "somebody",
            "REQUEST_METHOD": handler.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": handler.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": handler.headers.get("Git-Protocol") or "",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().splitlines()]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        handler.send_response(int(status.split()[0]))
        for name, value in fields:
            if name != "Status":
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextlib.contextmanager
def git_over_http(root: Path, token: str | None = None) -> Iterator[GitHttp]:
    """A server on a free port of loopback."""
    state = GitHttp(root, token)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def do_POST(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
            thread.join()
