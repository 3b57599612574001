"""A gateway in a cluster: as the kubeconfig's user, through a port that kubectl forwards."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson

from stepwell.domain.errors import UnavailableError, UsageError
from stepwell_cli.server.client import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMESPACE = "stepwell-system"
SERVICE = "service/stepwell-gateway"
PORT = 8080
PATIENCE = 20.0  # seconds until the port is forwarded
TOKEN_LIFE = "10m"  # noqa: S105 - of a token that is asked for

_FORWARDED = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")


@asynccontextmanager
async def cluster(context: str | None, service_account: str | None) -> AsyncIterator[Server]:
    """The gateway of the kubeconfig's cluster. Raises UsageError, UnavailableError."""
    kubectl = _kubectl(context)
    view = orjson.loads(await _said(*kubectl, "config", "view", "--minify", "--raw", "-o", "json"))
    namespace = str(_first(view, "contexts", "context").get("namespace") or "default")
    token = await _token(kubectl, _first(view, "users", "user"), namespace, service_account)
    async with _forwarded(kubectl) as port:
        yield Server(f"http://127.0.0.1:{port}", token, namespace)


def _kubectl(context: str | None) -> tuple[str, ...]:
    found = shutil.which("kubectl")
    if found is None:
        raise UsageError(
            "kubectl is needed to reach a gateway in a cluster; or name one by --server and STEPWELL_TOKEN"
        )
    return (found, "--context", context) if context else (found,)


async def _token(kubectl: tuple[str, ...], user: dict[str, Any], namespace: str, account: str | None) -> str:
    """The user's own bearer token, also one that a plug-in fetches; or a service account's, by a TokenRequest."""
    if account is not None:
        where, _, name = account.rpartition("/")
        made = await _said(*kubectl, "create", "token", name, "-n", where or namespace, "--duration", TOKEN_LIFE)
        return made.decode().strip()
    if user.get("token"):
        return str(user["token"])
    if user.get("exec"):
        return await _executed(user["exec"])
    raise UsageError(
        "the kubeconfig's user has no bearer token (it shows a certificate?): the gateway needs one. Use"
        " --service-account [NAMESPACE/]NAME, for which a token is requested, or set STEPWELL_TOKEN"
    )


async def _executed(plugin: dict[str, Any]) -> str:
    """What a credential plug-in of the kubeconfig gives (client.authentication.k8s.io)."""
    extra = {item["name"]: item["value"] for item in plugin.get("env") or ()}
    about = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = os.environ | extra | {"KUBERNETES_EXEC_INFO": orjson.dumps(about).decode()}
    said = await _said(plugin["command"], *(plugin.get("args") or ()), env=environment)
    token = (orjson.loads(said).get("status") or {}).get("token")
    if not token:
        message = f"the kubeconfig's plug-in {plugin['command']} gave no bearer token; use --service-account"
        raise UsageError(message)
    return str(token)


@asynccontextmanager
async def _forwarded(kubectl: tuple[str, ...]) -> AsyncIterator[int]:
    namespace = os.environ.get("STEPWELL_NAMESPACE") or NAMESPACE
    argv = [*kubectl, "port-forward", "-n", namespace, "--address", "127.0.0.1", SERVICE, f":{PORT}"]
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        yield await _port(process, namespace)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _port(process: asyncio.subprocess.Process, namespace: str) -> int:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    assert process.stderr is not None  # noqa: S101
    try:
        async with asyncio.timeout(PATIENCE):
            async for line in process.stdout:
                if found := _FORWARDED.search(line):
                    return int(found[1])
            why = (await process.stderr.read()).decode("utf-8", "replace").strip()
    except TimeoutError:
        why = f"nothing was forwarded within {PATIENCE:g} s"
    message = f"the gateway {namespace}/{SERVICE} cannot be reached: {why}; STEPWELL_NAMESPACE names another namespace"
    raise UnavailableError(message)


async def _said(*argv: str, env: dict[str, str] | None = None) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        message = f"{argv[0].rpartition('/')[2]}: {err.decode('utf-8', 'replace').strip() or 'failed'}"
        raise UnavailableError(message)
    return out


def _first(view: dict[str, Any], many: str, one: str) -> dict[str, Any]:
    listed = view.get(many) or [{}]
    found: dict[str, Any] = listed[0].get(one) or {}
    return found
