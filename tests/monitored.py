"""A whole system as processes, with ports for metrics and a small load, to be watched by a Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import kube_server
import operating
import psycopg
from commands import STEPWELL, environment
from http_servers import unused_port
from waiting import eventually_sync

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.migrate import migrate
from stepwell.adapters.postgres.session import Session
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of
from stepwell.metrics.operator import OperatorMetrics
from stepwell.metrics.serving import serving
from stepwell.settings import OperationsSettings
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMESPACE = "growth"
START = 60.0  #: seconds that a process may take on a busy machine
#: Death is declared after 10 s, and the lead falls to another after 5: time enough for a scrape a second to see it.
TIMES = {"STEPWELL_HEARTBEAT": "1s", "STEPWELL_TRUST_WINDOW": "4s", "STEPWELL_DEATH_SILENCE": "10s"}


def workflows(port: int) -> dict[str, dict[str, Any]]:
    """Their specs by name; ``port`` is the receiver's."""

    def hook(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"triggers": [{"name": "hook", "webhook": {"auth": {"public": {}}}, **more}], "steps": list(steps)}

    def call(path: str) -> dict[str, Any]:
        return {"name": "call", "httpCall": {"method": "POST", "url": f"http://127.0.0.1:{port}{path}", "body": {}}}

    pick = {"name": "pick", "transform": {"value": {"n": "{{ run.input.n }}"}}}
    return {
        "welcome": hook(pick, call("/ok"), **{"if": "body.n % 10 != 0"}),
        "orders": hook(pick, call("/ok"), {"name": "later", "wait": {"duration": "3s"}}),
        "slow": hook(call("/held")),
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
    """Answers at once, and what is posted to ``/held`` after `HELD` seconds, or when it is closed."""

    HELD = 3.0
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Clients are killed on purpose."""

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/held":
            self.server.closing.wait(self.server.HELD)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Process:
    """One ``stepwell`` process and the port of its metrics."""

    name: str
    port: int
    log: Path
    popen: subprocess.Popen[bytes]

    def metric(self, name: str) -> float:
        """The first sample of this name, 0 where it does not answer."""
        with contextlib.suppress(httpx.TransportError):
            lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5).text.splitlines()
            return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)
        return 0.0

    def ready(self) -> bool:
        """Whether it says so."""
        assert self.popen.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        return False

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


@dataclass
class System:
    """What runs. ``kube``: the API server that the operator watches; without one its metrics are fed by hand."""

    directory: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    receiver: Receiver
    kube: kube_server.KubeServer | None = None
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10))
    gateway_port: int = field(default_factory=unused_port)
    processes: dict[str, Process] = field(default_factory=dict)
    operator_port: int = 0

    def start(self, name: str, **settings: str) -> Process:
        """``stepwell worker`` for ``worker-0``, and so on."""
        port = unused_port()
        shared = {
            "DATABASE_URL": self.postgres.dsn(),
            "REDIS_URL": self.valkey.url,
            "STEPWELL_METRICS_PORT": str(port),
            "STEPWELL_METRICS_ADDRESS": "127.0.0.1",
            "STEPWELL_ALLOW_LOOPBACK": "true",
            "STEPWELL_KUBERNETES": "off",
        }
        env = environment(**shared | TIMES | settings)
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(STEPWELL), name.split("-", maxsplit=1)[0]],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.processes[name] = Process(name, port, log, popen)
        return self.processes[name]

    def workers(self) -> list[Process]:
        """Those that run."""
        return [
            each for each in self.processes.values() if each.name.startswith("worker") and each.popen.poll() is None
        ]

    def leader(self) -> Process | None:
        """The worker that says so."""
        return next((each for each in self.workers() if each.metric("stepwell_leader ") == 1), None)

    def pods(self) -> dict[str, dict[str, int]]:
        """The ports of metrics by component and name."""
        found: dict[str, dict[str, int]] = {"worker": {}, "gateway": {}, "operator": {"operator-0": self.operator_port}}
        for process in self.processes.values():
            found[process.name.split("-")[0]][process.name] = process.port
        return found

    def post(self, workflow: str, number: int) -> int:
        """A delivery; the status of its answer, 0 without one."""
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.gateway_port}/hooks/{NAMESPACE}/{workflow}/hook"
            return self.client.post(url, json={"n": number}).status_code
        return 0

    def touch(self, number: int) -> None:
        """Change a Workflow in the cluster, and let the gateway ask the API server about a token."""
        if self.kube is None:
            return
        path = f"/apis/stepwell.dev/v1alpha1/namespaces/{NAMESPACE}/workflows/broken"
        headers = {
            "Authorization": f"Bearer {self.kube.token('admin')}",
            "Content-Type": "application/merge-patch+json",
        }
        changed = json.dumps({"spec": {"description": f"version {number}"}})
        with httpx.Client(verify=ssl.create_default_context(cafile=str(self.kube.authority))) as client:
            client.patch(self.kube.url + path, headers=headers, content=changed).raise_for_status()
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.gateway_port}/api/v1/namespaces/{NAMESPACE}/workflows"
            self.client.get(url, headers={"Authorization": f"Bearer unknown-{number}"})

    def miss_ticks(self) -> None:
        """Let the yearly trigger make up for a tick (once: no tick starts twice), and the other skip an hour of them."""
        statement = """UPDATE schedules SET (tick_at, due_at) = (CASE trigger
              WHEN 'yearly' THEN date_trunc('year', now(), 'UTC') - '1 year'::interval + '4 hours'::interval
              ELSE date_trunc('minute', now()) - '1 hour'::interval END, now())"""
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            connection.execute(statement)

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
def system(directory: Path) -> Iterator[System]:
    """Databases, two workers, a gateway and an operator, all of them ready."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as together:
        there = kube_server.assets() is not None
        coming = together.submit(stack.enter_context, kube_server.kube_server()) if there else None
        databases = [together.submit(stack.enter_context, each) for each in (EmbeddedPostgres(), EmbeddedValkey())]
        postgres, valkey = (each.result() for each in databases)
        receiver = Receiver()
        stack.callback(receiver.close)
        made = System(directory, postgres, valkey, receiver)
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
            _watched(made, kube)
        for process in made.processes.values():
            eventually_sync(process.ready, START)
        eventually_sync(made.leader, START)
        yield made


def _watched(made: System, kube: kube_server.KubeServer) -> None:
    """A real operator, which syncs the workflows."""
    operator = made.start("operator-0", KUBECONFIG=str(kube.kubeconfig), STEPWELL_ADMISSION_PORT="0")
    made.operator_port = operator.port
    kube.kubectl("create", "namespace", NAMESPACE)
    items = [
        {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
        for name, spec in workflows(made.receiver.server_port).items()
    ]  # fmt: skip
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    kube.kubectl("apply", "--server-side", "-f", "-", given=given)
    kube.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s", "workflows", "--all")


async def _applied(made: System) -> None:
    async with Session(made.postgres.dsn(), "test") as session:
        for name, spec in workflows(made.receiver.server_port).items():
            revision = revision_of(NAMESPACE, name, spec, WorkflowSpec.model_validate(spec))
            await PostgresIntakeStore(session).apply(revision)


@contextlib.contextmanager
def _fed(made: System) -> Iterator[None]:
    """The operator's metrics without an operator."""
    made.operator_port = unused_port()

    async def main(thread: operating.Thread) -> None:
        metrics = OperatorMetrics()
        metrics.look = lambda: {"True": len(workflows(0)), "False": 0, "Unknown": 0}
        async with serving(OperationsSettings(port=made.operator_port, address="127.0.0.1"), metrics.registry, dict):
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
