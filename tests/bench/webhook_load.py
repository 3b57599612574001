"""Sends signed webhooks, in a process of its own: ``webhook_load.py PORT PATH SECONDS CONNECTIONS RATE``.

RATE 0: each connection sends its next one as soon as it is answered. Else so many a second over all connections, at their
intended times; what is answered late counts from when it should have been sent. One connection with a rate is a plain
blocking client: the timers of an event loop tick in milliseconds, which is what an idle system takes. Prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from collections import deque
from pathlib import Path
from time import perf_counter  # the loop's own clock ticks in milliseconds
from typing import Any

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateways import github

BODY = orjson.dumps({"action": "created", "user": {"email": "user@example.com", "age": 20}, "padding": "x" * 900})


def request(path: str) -> bytes:
    """One delivery; without a name of its own, so that each starts a run."""
    headers = {"host": "bench", "content-type": "application/json", "content-length": str(len(BODY)), **github(BODY)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + BODY


def whole(answer: bytes) -> bool:
    """Whether all of it has come."""
    head, found, body = answer.partition(b"\r\n\r\n")
    return bool(found) and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])


class Load:
    """What all connections share."""

    def __init__(self, delivery: bytes, until: float) -> None:
        self.delivery = delivery
        self.until = until
        self.took: list[float] = []
        self.refused: dict[str, int] = {}
        self.free: deque[Sender] = deque()
        self.late: deque[float] = deque()
        self.closed_loop = True

    def ended(self, status: bytes, took: float) -> None:
        """One request was answered, after some seconds."""
        if status == b"202":
            self.took.append(took)
        else:
            self.refused[status.decode()] = self.refused.get(status.decode(), 0) + 1

    def report(self, seconds: float) -> None:
        """Print what was seen."""
        took = sorted(value * 1000 for value in self.took)
        print(orjson.dumps({
            "accepted": len(took), "refused": self.refused, "seconds": seconds,
            "p50_ms": took[len(took) // 2], "p99_ms": took[int(len(took) * 0.99)],
        }).decode())  # fmt: skip


class Sender(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, intended: float) -> None:
        self.intended = intended
        self.transport.write(self.load.delivery)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not whole(self.data):
            return
        status, now = self.data[9:12], perf_counter()
        self.data = b""
        self.load.ended(status, now - self.intended)
        if self.load.closed_loop and now < self.load.until:
            self.send(now)
        elif self.load.late:
            self.send(self.load.late.popleft())
        else:
            self.load.free.append(self)


def alone(port: int, path: str, seconds: float, rate: float) -> None:
    """One blocking client."""
    load = Load(request(path), 0.0)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gc.disable()
        began = perf_counter()
        for number in range(int(seconds * rate)):
            sent = began + number / rate
            if (early := sent - perf_counter()) > 0:
                time.sleep(early)
                sent = perf_counter()
            connection.sendall(load.delivery)
            answer, came = b"", sent
            while not whole(answer):
                answer += connection.recv(65_536)
                came = perf_counter()
            load.ended(answer[9:12], came - sent)
        load.report(perf_counter() - began)


async def main(port: int, path: str, seconds: float, connections: int, rate: float) -> None:
    loop = asyncio.get_running_loop()
    load = Load(request(path), 0.0)
    load.closed_loop = rate == 0
    senders = [(await loop.create_connection(lambda: Sender(load), "127.0.0.1", port))[1] for _ in range(connections)]
    gc.disable()
    began = perf_counter()
    load.until = began + seconds
    if rate == 0:
        for sender in senders:
            sender.send(perf_counter())
        await asyncio.sleep(seconds)
    else:
        load.free.extend(senders)
        await spread(load, began, rate, int(rate * seconds))
    while len(load.free) < connections:  # noqa: ASYNC110 - a benchmark
        await asyncio.sleep(0.01)
    load.report(perf_counter() - began)


async def spread(load: Load, began: float, rate: float, total: int) -> None:
    sent = 0
    while sent < total:
        due = min(total, int((perf_counter() - began) * rate) + 1)
        for number in range(sent, due):
            intended = began + number / rate
            if load.free:
                load.free.popleft().send(intended)
            else:
                load.late.append(intended)
        sent = due
        await asyncio.sleep(max(0.0, began + sent / rate - perf_counter()))


if __name__ == "__main__":
    arguments = (int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    if arguments[3] == 1 and arguments[4]:
        alone(*arguments[:3], arguments[4])
    else:
        uvloop.run(main(*arguments))
