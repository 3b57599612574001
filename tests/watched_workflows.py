"""The workflows of a system that is watched, and the server that they call."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAMESPACE = "growth"


def workflows(port: int) -> dict[str, dict[str, Any]]:
    """Their specs by name; ``port`` is the receiver's."""

    def hook(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"triggers": [{"name": "hook", "webhook": {"auth": {"public": {}}}, **more}], "steps": list(steps)}

    def call(path: str) -> dict[str, Any]:
        return {"name": "call", "httpCall": {"method": "POST", "url": f"http://127.0.0.1:{port}{path}", "body": {}}}

    pick = {"name": "pick", "transform": {"value": {"n": "{{ run.input.n }}"}}}
    return {
        "welcome": hook(pick, call("/ok"), **{"if": "body.n % 10 != 0"}),
        "orders": hook(pick, call("/ok"), {"name": "later", "wait": {"duration": "2500ms"}}),
        "slow": hook(call("/slow")),
        "held": hook(call("/held")),
        "poison": hook(call("/held")),
        "resting": hook({"name": "rest", "wait": {"duration": "1h"}}),
        "broken": hook({"name": "stop", "fail": {"message": "no"}}),
        "paused": hook(pick) | {"suspend": True},
        "nightly": {
            "triggers": [
                {"name": "skipping", "cron": {"schedule": "* * * * *", "missedRuns": "Skip"}},
                {"name": "yearly", "cron": {"schedule": "0 4 1 1 *"}},
            ],
            "steps": [{"name": "one", "transform": {"value": 1}}],
        },
    }


class Receiver(ThreadingHTTPServer):
    """Answers at once; what is posted to ``/slow`` after `SLOW` seconds, and to ``/held`` while ``open`` is set."""

    SLOW = 0.5
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.open = threading.Event()
        self.open.set()
        self.holding = 0
        self.counting = threading.Lock()
        self._closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def hold(self, path: str) -> None:
        """As long as this one is held."""
        if path == "/slow":
            self._closing.wait(self.SLOW)
        elif path == "/held":
            with self.counting:
                self.holding += 1
            self.open.wait()
            with self.counting:
                self.holding -= 1

    def handle_error(self, *_: object) -> None:
        """Clients are killed on purpose."""

    def close(self) -> None:
        self.open.set()
        self._closing.set()
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.hold(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass
