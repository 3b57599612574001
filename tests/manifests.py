"""What kustomize makes of deploy/, as documents, and what is wrong with the pods in them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import kube_server
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
TARGETS = ("base", "overlays/kind", "overlays/kind/samples", "overlays/production")
Document: TypeAlias = dict[str, Any]
WORKLOADS = {"Deployment", "StatefulSet"}


def kubectl() -> Path | None:
    """The tests' kubectl, else the machine's; kustomize is part of it."""
    place = kube_server.assets()
    found = shutil.which("kubectl")
    return place / "kubectl" if place else Path(found) if found else None


def kustomize(directory: Path) -> subprocess.CompletedProcess[str]:
    """`kubectl kustomize` of a directory."""
    program = kubectl()
    assert program is not None
    environment = {"PATH": os.defpath, "HOME": str(directory)}
    return subprocess.run(
        [str(program), "kustomize", str(directory)], env=environment, capture_output=True, text=True, check=False
    )


@functools.cache
def text(target: str) -> str:
    """One of `TARGETS`, rendered."""
    done = kustomize(DEPLOY / target)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@functools.cache
def rendered(target: str) -> list[Document]:
    """The documents of one of `TARGETS`. They are everybody's: copy what is to be changed."""
    return parsed(text(target))


def parsed(manifests: str) -> list[Document]:
    """The documents of a text."""
    return list(yaml.load_all(manifests, yaml.CSafeLoader))


def of(documents: list[Document], *kinds: str) -> dict[str, Document]:
    """Those of some kinds by name."""
    return {each["metadata"]["name"]: each for each in documents if each["kind"] in kinds}


def pods(documents: list[Document]) -> dict[str, Document]:
    """The templates of all pods, by their workload's name."""
    return {name: each["spec"]["template"] for name, each in of(documents, *WORKLOADS).items()}


@dataclass(frozen=True, slots=True)
class Check:
    """One rule. ``ignored`` says why it is not followed."""

    name: str
    holds: Callable[[Document, Document], bool]
    ignored: str = ""


def _security(pod: Document, container: Document, field: str) -> Any:
    """As Kubernetes reads it: the container's own, else the pod's."""
    return container.get("securityContext", {}).get(field, pod.get("securityContext", {}).get(field))


CHECKS = (
    Check("runs as non-root", lambda pod, each: _security(pod, each, "runAsNonRoot") is True),
    Check("has a fixed high user id", lambda pod, each: (_security(pod, each, "runAsUser") or 0) >= 10_000),
    Check("has a read-only root", lambda pod, each: _security(pod, each, "readOnlyRootFilesystem") is True),
    Check(
        "gains no privileges",
        lambda pod, each: (
            _security(pod, each, "allowPrivilegeEscalation") is False and not _security(pod, each, "privileged")
        ),
    ),
    Check("drops all capabilities", lambda pod, each: _security(pod, each, "capabilities") == {"drop": ["ALL"]}),
    Check("has seccomp", lambda pod, each: _security(pod, each, "seccompProfile") == {"type": "RuntimeDefault"}),
    Check("shares no host", lambda pod, _: not {"hostNetwork", "hostPID", "hostIPC"} & {k for k in pod if pod[k]}),
    Check("mounts no host path", lambda pod, _: not [v for v in pod.get("volumes", ()) if "hostPath" in v]),
    Check("takes no host port", lambda _, each: not [p for p in each.get("ports", ()) if "hostPort" in p]),
    Check("bounds its memory", lambda _, each: "memory" in each.get("resources", {}).get("limits", {})),
    Check(
        "asks for CPU and memory", lambda _, each: {*each.get("resources", {}).get("requests", {})} >= {"cpu", "memory"}
    ),
    Check(
        "bounds its CPU",
        lambda _, each: "cpu" in each.get("resources", {}).get("limits", {}),
        ignored="a throttled event loop misses its heartbeats; one process takes one core at most",
    ),
    Check("names a version", lambda _, each: each["image"].rpartition(":")[2] not in {"latest", "", each["image"]}),
    Check(
        "names a digest",
        lambda _, each: "@sha256:" in each["image"],
        ignored="whoever pushes the image to a registry of theirs sets its digest",
    ),
    Check("says whether it wants a token", lambda pod, _: "automountServiceAccountToken" in pod),
    Check(
        "uses no default account",
        lambda pod, _: pod["automountServiceAccountToken"] is False or bool(pod.get("serviceAccountName")),
    ),
    Check("takes no variables of Services", lambda pod, _: pod.get("enableServiceLinks") is False),
    Check(
        "writes no password out",
        lambda _, each: (
            not [e for e in each.get("env", ()) if "value" in e and {"PASSWORD", "URL"} & {*e["name"].split("_")}]
        ),
    ),
)


def complaints(template: Document) -> Iterator[str]:
    """What is wrong with a pod's template: the names of checks, of those that are not ignored."""
    pod = template["spec"]
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        for check in CHECKS:
            if not check.ignored and not check.holds(pod, container):
                yield f"{container['name']}: {check.name}"
    for container in pod["containers"]:
        yield from (
            f"{container['name']}: {word}" for word in ("livenessProbe", "readinessProbe") if word not in container
        )
