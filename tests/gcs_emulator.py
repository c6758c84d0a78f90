"""A Google Cloud Storage emulator in a process of its own, with faults on demand.

The storage is `gcp-storage-emulator`, which keeps its objects in memory. In front of it stands a proxy, for what that
emulator leaves out of the JSON API and the clients rely on, and for the faults:

* `ifGenerationMatch` and `ifGenerationNotMatch`, answered with 412 and 304;
* the `x-goog-generation` header of contents, `generation` in their address, and ranges from the end or beyond it;
* `startOffset` and `endOffset` of listings;
* `moveTo`, which renames an object.

    python -m tests.gcs_emulator     prints the port that it listens on; ends when its standard input does
"""

import contextlib
import dataclasses
import email.parser
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["503", "429", "403", "drop", "lost", "slow", "short", "truncate", "corrupt"]
"""An error; the connection closed before the request is looked at, or before its answer; an answer that comes late; the
connection closed within it; half of it, as if that were all; one with a byte changed."""

_CONTROL = "/control/"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Fault:
    """Strikes the first `times` requests that fit, after `after` others that do."""

    kind: Kind
    method: str = "GET"
    part: str = ""
    times: int = 1
    after: int = 0
    seconds: float = 0.0


class Emulator:
    """The running emulator, seen from a test."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def make_bucket(self, name: str) -> None:
        body = json.dumps({"name": name}).encode()
        self._request("POST", "/storage/v1/b?project=test", body)

    def inject(self, *faults: Fault) -> None:
        """Adds faults; each part is a piece of the decoded address."""
        self._request("POST", f"{_CONTROL}faults", json.dumps([dataclasses.asdict(fault) for fault in faults]).encode())

    def reset(self) -> None:
        """Forgets all faults and requests."""
        self._request("POST", f"{_CONTROL}reset", b"")

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was asked since the reset: "method", "target" (decoded), "range", and the "fault" that struck."""
        return json.loads(self._request("GET", f"{_CONTROL}requests", None))

    def _request(self, method: str, target: str, body: bytes | None) -> bytes:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            connection.request(method, target, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            assert response.status == 200, (target, response.status, data)
            return data


@contextlib.contextmanager
def running() -> Iterator[Emulator]:
    """Starts the process, and ends it."""
    command = [sys.executable, "-m", "tests.gcs_emulator"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Emulator(int(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait(timeout=10)


class _State:
    """The faults that are to come, and the requests that came."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.lock = threading.Lock()
        # A condition and the write that depends on it are one step.
        self.storage = threading.Lock()
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []

    def strike(self, method: str, target: str, asked_range: str | None) -> Fault | None:
        with self.lock:
            found = None
            for fault in self.faults:
                if fault.method == method and fault.part in target and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    found = fault
                    break
            kind = None if found is None else found.kind
            self.requests.append({"method": method, "target": target, "range": asked_range, "fault": kind})
            return found


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def handle_one_request(self) -> None:
        # A client that gave up waiting is no error.
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _handle(self) -> None:
        body = self._body()
        if self.path.startswith(_CONTROL):
            self._send(self._control(self.path.removeprefix(_CONTROL), body))
            return
        decoded = urllib.parse.unquote(self.path)
        fault = self.state.strike(self.command, decoded, self.headers.get("Range"))
        kind = None if fault is None else fault.kind
        if kind in ("503", "429", "403"):
            content = {"error": {"code": int(kind), "message": "injected", "errors": [{"reason": "backendError"}]}}
            self._send(_json(int(kind), content))
            return
        if kind == "drop":
            self.close_connection = True
            return
        with self.state.storage:
            answer = self._answer(body)
        if kind == "lost":
            self.close_connection = True
            return
        if fault is not None and kind == "slow":
            time.sleep(fault.seconds)
        if kind == "truncate":
            answer.body = answer.body[: len(answer.body) // 2]
        if kind == "corrupt":
            middle = len(answer.body) // 2
            answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]
        self._send(answer, short=kind == "short")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _control(self, action: str, body: bytes) -> _Answer:
        state = self.state
        with state.lock:
            if action == "faults":
                state.faults += [Fault(**one) for one in json.loads(body)]
            elif action == "reset":
                state.faults, state.requests = [], []
            return _json(200, state.requests)

    def _answer(self, body: bytes) -> _Answer:
        address = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(address.query).items()}
        match, not_match = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if self.command == "GET" and query.get("alt") == "media":
            return self._content(address.path, query)
        if self.command == "POST" and "/moveTo/o/" in address.path:
            return self._move(*address.path.split("/moveTo/o/"))
        if match is not None or not_match is not None:
            there = self._generation(self._object_address(address.path, query, body))
            if match not in (None, there) or (not_match is not None and not_match == there):
                return _json(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        answer = self._forward(self.command, self.path, body)
        if self.command == "GET" and {"startOffset", "endOffset"} & set(query):
            listed = json.loads(answer.body)
            listed["items"] = [
                item
                for item in listed.get("items", ())
                if query.get("startOffset", "") <= item["name"]
                and ("endOffset" not in query or item["name"] < query["endOffset"])
            ]
            return _json(200, listed)
        return answer

    def _content(self, path: str, query: dict[str, str]) -> _Answer:
        metadata = self._forward("GET", path.removeprefix("/download"), b"")
        if metadata.status != 200:
            return metadata
        stored = json.loads(metadata.body)
        generation, size = stored["generation"], int(stored["size"])
        if query.get("generation", generation) != generation:
            return _json(404, {"error": {"code": 404, "message": "No such object"}})
        if query.get("ifGenerationMatch", generation) != generation:
            return _json(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        if query.get("ifGenerationNotMatch") == generation:
            return _Answer(304, {}, b"")
        asked = self.headers.get("Range")
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = (int(first), int(last or size - 1)) if first else (max(0, size - int(last)), size - 1)
            if start >= size:
                return _json(416, {"error": {"code": 416, "message": "Requested range not satisfiable"}})
            self.headers.replace_header("Range", f"bytes={start}-{end}")
        answer = self._forward("GET", f"{path}?alt=media", b"")
        answer.headers |= {"x-goog-generation": generation, "x-goog-stored-content-length": stored["size"]}
        return answer

    def _move(self, source: str, name: str) -> _Answer:
        """Renames the object at the address `source`, within its bucket."""
        bucket, _ = source.split("/o/")
        copied = self._forward("POST", f"{source}/rewriteTo{bucket.removeprefix('/storage/v1')}/o/{name}", b"{}")
        if copied.status != 200:
            return copied
        self._forward("DELETE", source, b"")
        return _json(200, json.loads(copied.body)["resource"])

    def _object_address(self, path: str, query: dict[str, str], body: bytes) -> str:
        """The address of the object that a request writes or deletes."""
        if not path.startswith("/upload/"):
            return path
        if query["uploadType"] == "multipart":
            message = email.parser.BytesParser().parsebytes(
                b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body
            )
            first, *_ = message.walk() if not message.is_multipart() else list(message.walk())[1:]
            name = json.loads(str(first.get_payload()))["name"]
        elif query["uploadType"] == "media":
            name = query["name"]
        else:
            raise AssertionError(f"conditions of an upload of the kind {query['uploadType']} are not emulated")
        return f"{path.removeprefix('/upload')}/{urllib.parse.quote(name, safe='')}"

    def _generation(self, address: str) -> str:
        """The generation of the object there; "0" where there is none, as conditions call it."""
        metadata = self._forward("GET", address, b"")
        return json.loads(metadata.body)["generation"] if metadata.status == 200 else "0"

    def _forward(self, method: str, target: str, body: bytes) -> _Answer:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.state.upstream)) as connection:
            connection.request(method, target, body, {**headers, "Content-Length": str(len(body))})
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
            return _Answer(response.status, kept, response.read())

    def _send(self, answer: _Answer, *, short: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if short else answer.body)
        if short:
            self.close_connection = True


def _json(status: int, content: Any) -> _Answer:
    return _Answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


def main() -> None:
    """Runs both servers until the standard input ends."""
    import logging

    from gcp_storage_emulator.server import create_server

    logging.disable(logging.CRITICAL)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        upstream = probe.getsockname()[1]
    storage = create_server("127.0.0.1", upstream, in_memory=True)
    storage.start()
    handler = type("Handler", (_Handler,), {"state": _State(upstream)})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(proxy.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
