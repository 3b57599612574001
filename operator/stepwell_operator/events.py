"""Events of the cluster (``kubectl describe``), posted beside the work and never in its way.

They are for people: where the API server is slow or refuses them, they are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stepwell.adapters.kube.calls import KubeCalls
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from kubernetes.aio import client

    from stepwell.metrics.operator import OperatorMetrics

COMPONENT = "stepwell-operator"
BACKLOG = 1_000  # that wait to be posted; one more is dropped
RATE = 20.0  # a second, at most
MAX_MESSAGE = 1_024  # characters, as the API server has it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an event is about; ``kind`` is one of ``stepwell.dev/v1alpha1``."""

    kind: str
    namespace: str
    name: str
    uid: str


class Events:
    """A bounded queue and one task that posts from it."""

    def __init__(self, api: client.ApiClient, metrics: OperatorMetrics) -> None:
        self._calls = KubeCalls(api)  # not CoreV1Api: its 250 modules take 0.7 s of CPU time to import
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(BACKLOG)
        self._number = time.time_ns()

    def post(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        """Post an event soon. ``reason`` is one specific word such as ``InvalidSpec``."""
        self._number += 1
        body = _event(subject, reason, message, self._number, warning=warning)
        try:
            self._waiting.put_nowait((subject.namespace, body))
        except asyncio.QueueFull:
            self._metrics.event("dropped")

    async def run(self) -> None:
        """Post for ever; cancelled to stop."""
        while True:
            namespace, body = await self._waiting.get()
            refusal = await self._refusal(namespace, body)
            if refusal:
                log.debug("an event was not posted: %s", refusal)
            self._metrics.event("dropped" if refusal else "posted")
            await asyncio.sleep(1 / RATE)

    async def _refusal(self, namespace: str, body: dict[str, Any]) -> str:
        """Post one; why it could not be, or ""."""
        try:
            answer = await self._calls.ask("Event", f"/api/v1/namespaces/{namespace}/events", body)
        except UnavailableError as exc:
            return str(exc)
        # a call is repeated where its answer was lost: then the name is taken, by this event
        return "" if answer.status < 300 or answer.status == 409 else f"it was answered {answer.status}"


def _event(subject: Subject, reason: str, message: str, number: int, *, warning: bool) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"
    return {
        "metadata": {"name": f"{subject.name[:200].rstrip('-.')}.{number:x}", "namespace": subject.namespace},
        "involvedObject": {
            "apiVersion": "stepwell.dev/v1alpha1",
            "kind": subject.kind,
            "namespace": subject.namespace,
            "name": subject.name,
            "uid": subject.uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": text,
        "source": {"component": COMPONENT},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
