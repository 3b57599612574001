"""The pods of a rendered overlay as processes of this machine: image, command, environment, user, mounts and probes are the
manifests'; only ports and the addresses of other services are the test's.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import manifests
from image_build import Image
from kube_access import SYSTEM, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import KubeServer

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
SETTINGS = {"metrics": "STEPWELL_METRICS_PORT", "http": "PORT", "admission": "STEPWELL_ADMISSION_PORT"}
END = 30.0  #: seconds that a process may take to end by itself


@dataclass
class Pod:
    """A running container. ``ports`` maps the names of its ports to those that it has here."""

    name: str
    container: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: Path
    ports: dict[str, int]

    def ready(self) -> bool:
        """Whether both probes pass."""
        assert self.process.poll() is None, self.text()
        return all(self._probe(self.container[each]["httpGet"]) for each in ("livenessProbe", "readinessProbe"))

    def _probe(self, probe: dict[str, Any]) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[probe['port']]}{probe['path']}").status_code == 200
        except httpx.HTTPError:
            return False

    def text(self) -> str:
        """What it wrote."""
        return self.log.read_text("utf-8", "replace")

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(END)


@dataclass
class Node:
    """Where pods run. ``documents`` are what was applied, ``secrets`` the data of Secrets by name, ``hosts`` lines of /etc/hosts."""

    image: Image
    directory: Path
    documents: list[manifests.Document]
    secrets: dict[str, dict[str, str]]
    kube: KubeServer | None = None
    hosts: str = ""

    def run_init(self, workload: str) -> subprocess.CompletedProcess[str]:
        """A workload's init container to its end."""
        pod = self._template(workload)["spec"]
        (container,) = pod["initContainers"]
        box = self.image.sandbox(self.directory / f"{workload}-init")
        user = pod["securityContext"]["runAsUser"]
        return box.run(*container["args"], environment=self._environment(container), user=user)

    @contextmanager
    def running(self, workload: str, **environment: str) -> Iterator[Pod]:
        """A workload's container while the block runs. Its ports are free ones, as far as settings can say so."""
        pod = self._template(workload)["spec"]
        (container,) = pod["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        if workload.startswith("stepwell-"):
            ports = {each: free_port() for each in ports}
        given = {SETTINGS[each]: str(port) for each, port in ports.items()}
        place = self.directory / workload
        box = self.image.sandbox(place, **self._places(place, pod))
        command = box.command(
            container["args"],
            self._environment(container) | self._cluster(pod) | given | environment,
            user=pod["securityContext"]["runAsUser"],
        )
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                yield Pod(workload, container, process, place / "log", ports)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def _template(self, workload: str) -> dict[str, Any]:
        return manifests.pods(self.documents)[workload]

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        config = manifests.of(self.documents, "ConfigMap")
        found = dict(self.image.environment)
        for each in container.get("envFrom", ()):
            found |= config[each["configMapRef"]["name"]]["data"]
        for each in container.get("env", ()):
            source = each["valueFrom"]["secretKeyRef"]
            if source["name"] in self.secrets or not source.get("optional"):
                found[each["name"]] = self.secrets[source["name"]][source["key"]]
        return found

    def _cluster(self, pod: dict[str, Any]) -> dict[str, str]:
        if self.kube is None or not pod["automountServiceAccountToken"]:
            return {}
        host, port = self.kube.url.removeprefix("https://").split(":")
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}

    def _places(self, place: Path, pod: dict[str, Any]) -> dict[str, Path]:
        """What the kubelet would mount: ConfigMaps, the account's token, and /etc/hosts."""
        place.mkdir(parents=True)
        found = self._config_maps(place, pod)
        if self.hosts:
            (place / "hosts").write_text(f"127.0.0.1 localhost\n{self.hosts}")
            found["/etc/hosts"] = place / "hosts"
        if self.kube is not None and pod["automountServiceAccountToken"]:
            token = place / "token"
            token.mkdir()
            account = pod["serviceAccountName"]
            made = self.kube.kubectl("create", "token", account, "-n", SYSTEM, "--duration=1h", "-o", "json")
            (token / "token").write_text(json.loads(made.stdout)["status"]["token"])
            (token / "ca.crt").write_bytes(self.kube.authority.read_bytes())
            (token / "namespace").write_text(SYSTEM)
            found[TOKEN] = token
        return found

    def _config_maps(self, place: Path, pod: dict[str, Any]) -> dict[str, Path]:
        maps = manifests.of(self.documents, "ConfigMap")
        volumes = {each["name"]: maps[each["configMap"]["name"]]["data"] for each in pod.get("volumes", ())}
        found = {}
        for mount in pod["containers"][0].get("volumeMounts", ()):
            found[mount["mountPath"]] = place / mount["name"]
            found[mount["mountPath"]].mkdir()
            for name, content in volumes[mount["name"]].items():
                (place / mount["name"] / name).write_text(content)
        return found
