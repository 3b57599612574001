"""Everything that `make kind-up` has running, without Docker: the pods of the kind overlay and of its samples as processes, over
databases of the tests and a real API server.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import manifests
import sample
import services
import yaml
from fault_proxy import FaultProxy
from kube_access import free_port
from operating import Thread
from pods import Node, Pod
from psycopg.conninfo import make_conninfo
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from image_build import Image
    from kube_server import KubeServer

ACCESS = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
PROCESSES = ("operator", "gateway", "worker")
RECEIVER = "8099"  #: the samples' port
START = 60.0  #: seconds until a pod is ready, on a busy machine


@contextmanager
def pods(
    image: Image,
    kube: KubeServer,
    dsn: str,
    redis_url: str,
    directory: Path,
    settings: Mapping[str, Mapping[str, str]],
) -> Iterator[dict[str, Pod]]:
    """Those of `PROCESSES` and ``receiver``, ready. ``dsn`` names an empty database; ``settings`` are a process's own by its name,
    and go before the manifests'. A port that they name must be a free one.
    """
    found: dict[str, Pod] = {}

    async def main(thread: Thread) -> None:
        async with _pods(image, kube, dsn, redis_url, directory, settings) as running:
            found.update(running)
            thread.ready.set()
            await thread.stopping.wait()

    thread = Thread(main)  # the databases' proxies live in its loop
    try:
        thread.is_ready(len(PROCESSES) * START)
        yield found
    finally:
        thread.stop()


@asynccontextmanager
async def _pods(
    image: Image,
    kube: KubeServer,
    dsn: str,
    redis_url: str,
    directory: Path,
    settings: Mapping[str, Mapping[str, str]],
) -> AsyncIterator[dict[str, Pod]]:
    async with AsyncExitStack() as stack:
        secret = await _databases(stack, dsn, redis_url)
        port = free_port()
        samples = _moved(manifests.rendered("overlays/kind/samples"), port)
        _apply(kube, directory, [each for each in manifests.rendered("base") if each["kind"] in ACCESS])
        _apply(kube, directory, [each for each in samples if each["kind"] not in {"Deployment", "NetworkPolicy"}])
        hosts = f"127.0.0.2 receiver.{sample.NAMESPACE}.svc\n"  # what has the API server's address is refused
        system = manifests.rendered("overlays/kind")
        node = Node(image, directory / "node", system, {"stepwell-database": secret}, kube=kube, hosts=hosts)
        migrated = await asyncio.to_thread(node.run_init, "stepwell-operator")
        assert (migrated.returncode, "applied 0001_initial" in migrated.stdout) == (0, True), migrated.stderr
        receiver = Node(image, directory / "samples", samples, {})
        running = {"receiver": stack.enter_context(receiver.running("receiver"))}
        running["receiver"].ports["http"] = port
        for name in PROCESSES:
            more = {"STEPWELL_ALLOW_LOOPBACK": "true"} if name == "worker" else {}
            more |= settings.get(name, {})
            running[name] = stack.enter_context(node.running(f"stepwell-{name}", **more))
        for pod in running.values():
            await eventually(_asked(pod.ready), START, pause=0.1)
        yield running


async def _databases(stack: AsyncExitStack, dsn: str, redis_url: str) -> dict[str, str]:
    """Both by TCP, as a pod reaches them: the tests' own listen on sockets in directories that are closed to others."""
    postgres = await stack.enter_async_context(FaultProxy(services.postgres_address(dsn)))
    valkey = await stack.enter_async_context(FaultProxy(services.redis_address(redis_url)))
    return {
        "DATABASE_URL": make_conninfo(dsn, host=postgres.host, port=postgres.port),
        "REDIS_URL": f"redis://{valkey.host}:{valkey.port}",
    }


def _moved(documents: list[manifests.Document], port: int) -> list[manifests.Document]:
    """The samples with their receiver on another port."""
    found: list[manifests.Document] = json.loads(json.dumps(documents).replace(RECEIVER, str(port)))
    return found


def _apply(kube: KubeServer, directory: Path, documents: list[manifests.Document]) -> None:
    file = directory / "applied.yaml"
    file.write_text(yaml.safe_dump_all(documents), "utf-8")
    kube.apply(file)


def _asked(probe: Callable[[], bool]) -> Any:
    """In a thread, because the databases' proxies live in this loop."""
    return lambda: asyncio.to_thread(probe)
