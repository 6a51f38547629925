"""A local HTTP server that misbehaves on request, and the folder of real data."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deniable.data.download import Patience
from deniable.data.sources import SourceFile

CONTENT = bytes(range(256)) * 1024


@dataclass
class Server:
    """Serves CONTENT; each request takes the next of `script`, then "whole".

    The behaviours: whole, cut (half of what was asked for, then closed), wrong (right size, other
    bytes), page (a short page in place of the file), silent (headers, then nothing), trickle
    (one byte at a time), endless (no length, never stops), deaf (ignores Range), shifted (answers
    another range), or a status code.
    """

    address: str
    content: bytes = CONTENT
    script: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)

    def file(self, *paths: str, sha256: str | None = None) -> SourceFile:
        """The description of the served file, with one address for each path."""
        digest = sha256 or hashlib.sha256(self.content).hexdigest()
        addresses = tuple(self.address + path for path in paths or ("a.bin",))
        return SourceFile("a.bin", len(self.content), digest, addresses)


def _handler(server: Server, stop: threading.Event) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int, length: int | None, content_range: str = "") -> None:
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            behaviour = server.script.pop(0) if server.script else "whole"
            # The client may give up on purpose.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._behave(behaviour, asked)

        def _behave(self, behaviour: str, asked: str | None) -> None:
            if behaviour.isdigit():
                self.send_error(int(behaviour))
                return
            if behaviour == "page":
                self._answer(200, 6)
                self.wfile.write(b"<html>")
                return
            start = 0
            if asked and behaviour != "deaf":
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            rest = server.content[start:]
            size = len(server.content)
            partial = f"bytes {start + (behaviour == 'shifted')}-{size - 1}/{size}"
            self._answer(
                206 if start else 200,
                None if behaviour == "endless" else len(rest),
                partial if start else "",
            )
            if behaviour == "cut":
                self.wfile.write(rest[: len(rest) // 2])
            elif behaviour == "wrong":
                self.wfile.write(bytes(len(rest)))
            elif behaviour == "silent":
                stop.wait(5)
            elif behaviour == "trickle":
                for byte in rest[:1000]:
                    self.wfile.write(bytes([byte]))
                    if stop.wait(0.01):
                        break
            elif behaviour == "endless":
                while not stop.is_set():
                    self.wfile.write(rest)
            else:
                self.wfile.write(rest)

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    stop = threading.Event()
    state = Server("")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(state, stop)) as listener:
        state.address = f"http://127.0.0.1:{listener.server_address[1]}/"
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        yield state
        stop.set()
        listener.shutdown()
        thread.join()


@pytest.fixture
def hasty() -> Patience:
    """Gives up within a test's time."""
    return Patience(timeout=0.3, slowest=20_000, window=0.1, attempts=3, pause=0.001)


@pytest.fixture
def real_data() -> Path:
    """The folder that DENIABLE_DATA names, with the official files."""
    folder = os.environ.get("DENIABLE_DATA")
    if not folder:
        pytest.skip("needs the real data sets: set DENIABLE_DATA to the folder that holds them")
    return Path(folder)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No named folder, and a cache of one's own."""
    monkeypatch.delenv("DENIABLE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "deniable"
