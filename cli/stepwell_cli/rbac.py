"""``stepwell rbac``: the Roles and RoleBindings that the Secrets of manifests need, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from stepwell.domain.errors import UsageError
from stepwell.domain.secret_uses import secret_uses
from stepwell_cli.console import print_json, say
from stepwell_cli.manifests import load_files, workflows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.domain.manifest import Document
    from stepwell.domain.spec import Workflow

API = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Options:
    """``worker`` and ``gateway`` are ServiceAccounts, ``name`` or ``namespace/name``; ``prefix`` begins what is printed."""

    files: Sequence[str]
    worker: str = "stepwell-worker"
    gateway: str = "stepwell-gateway"
    accounts: str = "stepwell-system"
    namespace: str | None = None
    prefix: str = "stepwell"
    json: bool = False


def rbac(options: Options) -> None:
    """Print one list for `kubectl apply -f -`. Raises ManifestError with every problem, UsageError without a Workflow."""
    found = workflows(load_files(options.files))
    if not found:
        message = f"{', '.join(options.files)}: holds no Workflow"
        raise UsageError(message)
    objects = [
        part
        for (namespace, role), names in needs(found, options).items()
        for part in _grant(namespace, role, names, options)
    ]
    if not objects:
        say("no Workflow here uses a Secret: nothing is needed")
    if options.json:
        print_json({"apiVersion": "v1", "kind": "List", "items": objects})
    elif objects:
        print(yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True), end="")


def needs(found: Iterable[tuple[Document, Workflow]], options: Options) -> dict[tuple[str, str], set[str]]:
    """The Secrets that each of ``worker`` and ``gateway`` reads in each namespace; only where there is any.

    A namespace that nobody states is empty: kubectl puts what is printed where it puts the Workflow.
    """
    needed: dict[tuple[str, str], set[str]] = {}
    for document, workflow in found:
        stated = "metadata.namespace" in document.lines
        namespace = document.namespace if stated else options.namespace or ""
        uses = secret_uses(workflow.spec)
        for role, names in (("worker", uses.steps), ("gateway", uses.webhooks)):
            if names:
                needed.setdefault((namespace, role), set()).update(names)
    return dict(sorted(needed.items()))


def _grant(namespace: str, role: str, names: Iterable[str], options: Options) -> list[dict[str, Any]]:
    metadata = {"name": f"{options.prefix}-{role}-secrets"} | ({"namespace": namespace} if namespace else {})
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": sorted(names), "verbs": ["get"]}
    account = options.worker if role == "worker" else options.gateway
    place, _, name = account.rpartition("/")
    subject = {"kind": "ServiceAccount", "name": name, "namespace": place or options.accounts}
    return [
        {"apiVersion": f"{API}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{API}/v1",
            "kind": "RoleBinding",
            "metadata": dict(metadata),
            "roleRef": {"apiGroup": API, "kind": "Role", "name": metadata["name"]},
            "subjects": [subject],
        },
    ]
