"""A whole system as processes, with ports for metrics and a small load, to be watched by a Prometheus.

Its first workers have the settings that ship; others are started with `HURRY` and what a fault needs. All are forked from one
`Nursery`. The jobs of the leader that come round rarely come as much more often as Prometheus' minutes are shorter.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import kube_api
import kube_server
import operating
from commands import environment
from nursery import Nursery
from prometheus import HASTE
from waiting import eventually_sync
from watched_workflows import NAMESPACE, Receiver, workflows

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.migrate import migrate
from stepwell.adapters.postgres.session import Session
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of
from stepwell.engine.maintenance import audit, gauges
from stepwell.metrics.operator import OperatorMetrics
from stepwell.metrics.serving import serving
from stepwell.settings import OperationsSettings
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START = 60.0  #: seconds that a process may take on a busy machine
LOOK = 0.05  #: seconds between two looks at it
#: Trust ends after a second, death is declared after one and a half, the lead falls to another after half of that.
HURRY = {"STEPWELL_HEARTBEAT": "250ms", "STEPWELL_TRUST_WINDOW": "1s", "STEPWELL_DEATH_SILENCE": "1500ms"}
PERIODS = {
    "stepwell.engine.maintenance.gauges.PERIOD": gauges.PERIOD / HASTE,
    "stepwell.engine.maintenance.audit.PERIOD": audit.PERIOD / HASTE,
    "stepwell.engine.suspects.PAUSE": 0.1,
}
PODS = {"worker": ["worker-0", "worker-1"], "gateway": ["gateway-0"], "operator": ["operator-0"]}
HOOKS = {"hooks": ["gateway-0"]}


@contextlib.contextmanager
def ports() -> Iterator[dict[str, dict[str, int]]]:
    """A port for the metrics of each pod, by component and name, and one for hooks: nobody else is given them meanwhile."""
    with contextlib.ExitStack() as stack:

        def kept() -> int:
            """Bound here, and to be bound again by whoever listens."""
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
            return int(holder.getsockname()[1])

        yield {component: {name: kept() for name in names} for component, names in (PODS | HOOKS).items()}


@dataclass
class Process:
    """One ``stepwell`` process and the port of its metrics."""

    name: str
    port: int
    log: Path
    pid: int
    end: Path

    @property
    def running(self) -> bool:
        return not self.end.exists()

    def metric(self, name: str) -> float:
        """The first sample of this name, 0 where it does not answer."""
        with contextlib.suppress(httpx.TransportError):
            lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5).text.splitlines()
            return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)
        return 0.0

    def ready(self) -> bool:
        """Whether it says so."""
        assert self.running, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        return False

    def kill(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            eventually_sync(lambda: not self.running, START)


@dataclass
class System:
    """What runs. ``kube``: the API server that the operator watches; without one its metrics are fed by hand."""

    directory: Path
    nursery: Nursery
    ports: dict[str, dict[str, int]]
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    receiver: Receiver
    kube: kube_server.KubeServer | None = None
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10))
    processes: dict[str, Process] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def gateway_port(self) -> int:
        return self.ports["hooks"]["gateway-0"]

    def start(self, name: str, **settings: str) -> Process:
        """``stepwell worker`` for ``worker-0``, and so on."""
        command = name.split("-", maxsplit=1)[0]
        port = self.ports[command][name]
        shared = {
            "DATABASE_URL": self.postgres.dsn(),
            "REDIS_URL": self.valkey.url,
            "STEPWELL_METRICS_PORT": str(port),
            "STEPWELL_METRICS_ADDRESS": "127.0.0.1",
            "STEPWELL_ALLOW_LOOPBACK": "true",
            "STEPWELL_KUBERNETES": "off",
        }
        constants: dict[str, Any] = dict(PERIODS) if command == "worker" else {}
        if "KUBECONFIG" in settings:  # kubernetes reads it once, at its import
            for module in ("kubernetes", "kubernetes.aio"):
                constants[f"{module}.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"] = settings["KUBECONFIG"]
        log = self.directory / f"{name}.{next(self._numbers)}.log"
        log.touch()
        end = log.with_suffix(".end")
        pid = self.nursery.process(command, environment(**shared | settings), log, end, constants)
        self.processes[name] = Process(name, port, log, pid, end)
        return self.processes[name]

    def start_workers(self, **settings: str) -> list[Process]:
        """Those that do not run, impatient ones."""
        running = {each.name for each in self.workers()}
        return [self.start(name, **HURRY | settings) for name in PODS["worker"] if name not in running]

    def workers(self) -> list[Process]:
        """Those that run."""
        return [each for each in self.processes.values() if each.name in PODS["worker"] and each.running]

    def ready(self) -> None:
        """Wait until all processes are, and one of the workers leads."""
        for process in self.processes.values():
            eventually_sync(process.ready, START, pause=LOOK)
        eventually_sync(self.leader, START, pause=LOOK)

    def leader(self) -> Process | None:
        """The worker that says so."""
        return next((each for each in self.workers() if each.metric("stepwell_leader ") == 1), None)

    def post(self, workflow: str, number: int = 1) -> str | None:
        """A delivery: the id of the run that it starts, None without one."""
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.gateway_port}/hooks/{NAMESPACE}/{workflow}/hook"
            answer = self.client.post(url, json={"n": number})
            return str(answer.json()["runId"]) if answer.status_code == 202 else None
        return None

    def touch(self, number: int) -> None:
        """Change a Workflow in the cluster, and let the gateway ask the API server about a token."""
        if self.kube is None:
            return
        path = f"/apis/stepwell.dev/v1alpha1/namespaces/{NAMESPACE}/workflows/broken"
        merge = {"Content-Type": "application/merge-patch+json"}
        with self.kube.client() as client:
            changed = {"spec": {"description": f"version {number}"}}
            client.patch(path, headers=merge, content=json.dumps(changed)).raise_for_status()
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.gateway_port}/api/v1/namespaces/{NAMESPACE}/workflows"
            self.client.get(url, headers={"Authorization": f"Bearer unknown-{number}"})

    @contextlib.contextmanager
    def load(self, *names: str, pause: float = 0.05, mood: Callable[[int], float] = lambda _: 1.0) -> Iterator[None]:
        """Deliveries to these workflows in turn while the block runs, and a change of a Workflow every second."""
        stop = threading.Event()

        def deliver() -> None:
            for number, name in enumerate(itertools.cycle(names), 1):
                if stop.wait(pause / mood(number)):
                    return
                self.post(name, number)
                if number % int(1 / pause) == 0:
                    self.touch(number)

        thread = threading.Thread(target=deliver)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.client.close()


@contextlib.contextmanager
def system(directory: Path, ports: dict[str, dict[str, int]]) -> Iterator[System]:
    """Databases, two workers, a gateway and an operator, all of them ready; ``ports``: theirs."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as together:
        there = kube_server.assets() is not None
        coming = together.submit(kube_server.shared) if there else None
        nursery = Nursery("worker", "gateway", *["operator"] * there)
        stack.callback(nursery.close)
        databases = [together.submit(stack.enter_context, each) for each in (EmbeddedPostgres(), EmbeddedValkey())]
        postgres, valkey = (each.result() for each in databases)
        receiver = Receiver()
        stack.callback(receiver.close)
        made = System(directory, nursery, ports, postgres, valkey, receiver)
        stack.callback(made.close)
        asyncio.run(migrate(postgres.dsn()))
        made.start("worker-0")
        made.start("worker-1")
        kube = made.kube = coming.result() if coming is not None else None
        cluster = {} if kube is None else {"STEPWELL_KUBERNETES": "on", "KUBECONFIG": str(kube.kubeconfig)}
        made.start("gateway-0", PORT=str(made.gateway_port), STEPWELL_ADDRESS="127.0.0.1", **cluster)
        if kube is None:
            stack.enter_context(_fed(made))
            asyncio.run(_applied(made))
        else:
            stack.enter_context(_watched(made, kube))
        made.ready()
        yield made


@contextlib.contextmanager
def _watched(made: System, kube: kube_server.KubeServer) -> Iterator[None]:
    """A real operator, which syncs the workflows."""
    made.start("operator-0", KUBECONFIG=str(kube.kubeconfig), STEPWELL_ADMISSION_PORT="0")
    with kube.client() as client:
        client.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}})
    api = kube_api.of_server(kube)
    specs = workflows(made.receiver.server_port)
    for name, spec in specs.items():
        api.create(name, spec, NAMESPACE)
    for name in specs:
        eventually_sync(lambda name=name: api.ready(name, NAMESPACE) == ("True", "Synced"), START, pause=LOOK)
    yield
    api.clear()
    api.close()


async def _applied(made: System) -> None:
    async with Session(made.postgres.dsn(), "test") as session:
        for name, spec in workflows(made.receiver.server_port).items():
            revision = revision_of(NAMESPACE, name, spec, WorkflowSpec.model_validate(spec))
            await PostgresIntakeStore(session).apply(revision)


@contextlib.contextmanager
def _fed(made: System) -> Iterator[None]:
    """The operator's metrics without an operator."""
    port = made.ports["operator"]["operator-0"]

    async def main(thread: operating.Thread) -> None:
        metrics = OperatorMetrics()
        metrics.look = lambda: {"True": len(workflows(0)), "False": 0, "Unknown": 0}
        async with serving(OperationsSettings(port=port, address="127.0.0.1"), metrics.registry, dict):
            thread.ready.set()
            while not thread.stopping.is_set():
                metrics.synced(0.02)
                metrics.status_write("Workflow", "written")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(thread.stopping.wait(), 0.5)

    thread = operating.Thread(main)
    thread.is_ready()
    try:
        yield
    finally:
        thread.stop()
