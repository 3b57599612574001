"""A receiver for the examples: answers every request with the JSON that it was sent. Standard library only.

python examples/receiver.py                     serves until Ctrl-C
python examples/receiver.py -- stepwell run …   serves while the command runs, and ends with its exit code
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

PORT = 8099
UNAVAILABLE = 3  # the exit code


class Receiver(ThreadingHTTPServer):
    """Remembers how often each key was tried; ``report`` gets a line for each request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, report: list[str] | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self._report = report
        self._tries: dict[str, int] = {}

    def said(self, line: str) -> None:
        """Print it, or keep it until the command has ended: it may have a table on the terminal."""
        if self._report is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._report.append(line)

    def tries(self, key: str) -> int:
        """How often this key was tried, this time included."""
        self._tries[key] = self._tries.get(key, 0) + 1
        return self._tries[key]


class Handler(BaseHTTPRequestHandler):
    """``/status/418`` answers 418; ``/flaky`` answers 503 to the first try of each Idempotency-Key; all else 200.

    ``/slow/10`` takes ten seconds.
    """

    protocol_version = "HTTP/1.1"
    server: Receiver

    def answer(self) -> None:
        """Take the request in and answer it."""
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("utf-8", "replace")
        try:
            received = json.loads(text) if text else None
        except ValueError:
            received = text
        status = self._status()
        time.sleep(self._delay())
        self.server.said(f"receiver: {self.command} {self.path} {text or '(no body)'} -> {status}")
        body = json.dumps({"received": received}, ensure_ascii=False).encode()
        with contextlib.suppress(ConnectionError):  # whoever asked is gone
            self._send(status, body)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer  # noqa: N815 - the names that http.server calls

    def _parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.path.partition("?")[0]).parts[1:]

    def _delay(self) -> int:
        parts = self._parts()
        return int(parts[1]) if len(parts) == 2 and parts[0] == "slow" and parts[1].isdecimal() else 0

    def _status(self) -> int:
        parts = self._parts()
        if len(parts) == 2 and parts[0] == "status" and parts[1].isdecimal():
            return int(parts[1])
        if parts[:1] == ("flaky",) and self.server.tries(self.headers.get("Idempotency-Key", "")) == 1:
            return 503
        return 200

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Said above already."""


def main() -> int:
    """Serve; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=PORT, help=f"on 127.0.0.1; default {PORT}")
    parser.add_argument("command", nargs="*", help="what to run meanwhile, after --")
    options = parser.parse_args()
    report: list[str] | None = [] if options.command else None
    try:
        server = Receiver(options.port, report)
    except OSError as exc:
        message = f"receiver: cannot listen on 127.0.0.1:{options.port}: {exc.strerror}"
        print(f"{message}; end the program that does, or choose another port here and in the manifest", file=sys.stderr)
        return UNAVAILABLE
    with server:
        if report is None:
            return _serve(server, options.port)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        code = _run(options.command)
        server.shutdown()
    print("\n".join(["", *report]), file=sys.stderr)
    return code


def _serve(server: Receiver, port: int) -> int:
    print(f"receiver: listening on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


def _run(command: list[str]) -> int:
    """The command's exit code. Ctrl-C reaches it as well: it ends by itself."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


if __name__ == "__main__":
    sys.exit(main())
