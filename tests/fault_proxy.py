"""A store that fails now and then: a proxy in front of a test's S3 which answers 500 or 503, waits, or hangs up.

    client ─▶ proxy ─▶ moto
               │ before: 500 · 503 · slow · dropped, the request never arrives
               │ after:  dropped, the request was carried out and nobody hears of it

Which request fails how follows from a seed and the request's number. Writes with a condition go through one at a time:
moto looks and writes without a lock, and a real store does not.
"""

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("500", "503", "slow", "dropped before", "dropped after")
SLOW_SECONDS = 0.7
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultProxy:
    """The proxy; `faults` counts what it did.

    Args:
        target: http://host:port of the store.
        seed: of the faults.
        share: of requests that fail, 0 to 1.
        kinds: what may happen to them.
    """

    def __init__(self, target: str, *, seed: int, share: float, kinds: tuple[str, ...] = KINDS) -> None:
        self.target = urlsplit(target)
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._random, self._share, self._kinds = random.Random(seed), share, kinds
        self._lock, self.conditional = threading.Lock(), threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="fault-proxy", daemon=True).start()

    def draw(self) -> str | None:
        """What happens to the next request."""
        with self._lock:
            self.requests += 1
            fails = self._random.random() < self._share
            kind = self._random.choice(self._kinds)
            if not fails:
                return None
            self.faults[kind] += 1
            return kind

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def faulty(target: str, *, seed: int, share: float, kinds: tuple[str, ...] = KINDS) -> Iterator[FaultProxy]:
    """A proxy for the length of a `with`."""
    proxy = FaultProxy(target, seed=seed, share=share, kinds=kinds)
    try:
        yield proxy
    finally:
        proxy.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self._body()
        kind = self.proxy.draw()
        if kind in ("500", "503"):
            self._answer(int(kind), [("Content-Type", "application/xml")], _error(int(kind)))
            return
        if kind == "dropped before":
            self._hang_up()
            return
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        if "If-None-Match" in self.headers or "If-Match" in self.headers:
            with self.proxy.conditional:
                answer = self._forward(body)
        else:
            answer = self._forward(body)
        if kind == "dropped after":
            self._hang_up()
            return
        self._answer(*answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(str(self.proxy.target.hostname), self.proxy.target.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers["Content-Length"] = str(len(body))
        try:
            connection.request(self.command, self.path, body, headers)
            found = connection.getresponse()
            kept = [(name, value) for name, value in found.getheaders() if name.lower() not in _HOP]
            length = found.getheader("Content-Length")
            if self.command == "HEAD" and length is not None:
                kept.append(("Content-Length", length))
            return found.status, kept, found.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        # a client that was killed, or that has asked again meanwhile, hears no answer
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _error(status: int) -> bytes:
    code = {500: "InternalError", 503: "SlowDown"}[status]
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>".encode()
