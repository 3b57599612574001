"""A real kube-apiserver with its etcd, from where envtest keeps them: `KUBEBUILDER_ASSETS` or /usr/local/kubebuilder/bin.

Both listen on loopback, end with the test process, and keep nothing. `shared` is one for all modules of a test process: each
leaves it without an object. RBAC is on; `admin` is in ``system:masters``, and
`KubeServer.user` makes kubeconfigs of others by their token.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
START = 90.0  #: seconds that the API server may take to become ready on a busy machine
ROOT = Path(__file__).parents[1]


def assets() -> Path | None:
    """The directory with the programs, None where one is missing."""
    place = Path(os.environ.get("KUBEBUILDER_ASSETS") or "/usr/local/kubebuilder/bin")
    return place if all((place / name).exists() for name in PROGRAMS) else None


@dataclass
class KubeServer:
    """A running API server. ``tokens`` is the file of its static tokens, read once at its start."""

    directory: Path
    kubectl_path: Path
    url: str
    authority: Path
    users: dict[str, str]
    _configs: dict[tuple[str, str], Path] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.user("admin")

    def token(self, name: str) -> str:
        """The bearer token of a user: one of `USERS`."""
        return self.users[name]

    def user(self, name: str, namespace: str = "default") -> Path:
        """The kubeconfig of one of `USERS`."""
        found = self._configs.get((name, namespace))
        if found is None:
            found = self._configs[name, namespace] = self.directory / f"{name}-{namespace}.kubeconfig"
            cluster = {"server": self.url, "certificate-authority": str(self.authority)}
            found.write_text(
                yaml.safe_dump(
                    {
                        "apiVersion": "v1",
                        "kind": "Config",
                        "clusters": [{"name": "tests", "cluster": cluster}],
                        "users": [{"name": name, "user": {"token": self.users[name]}}],
                        "contexts": [
                            {"name": "tests", "context": {"cluster": "tests", "user": name, "namespace": namespace}}
                        ],
                        "current-context": "tests",
                    }
                )
            )
        return found

    def client(self) -> httpx.Client:
        """Speaks to it as the administrator."""
        trust = ssl.create_default_context(cafile=str(self.authority))
        headers = {"Authorization": f"Bearer {self.token('admin')}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=trust, timeout=30)

    def kubectl(
        self,
        *arguments: str,
        user: str = "admin",
        namespace: str = "default",
        given: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a user; ``given`` goes to its stdin."""
        environment = {"KUBECONFIG": str(self.user(user, namespace)), "PATH": os.defpath, "HOME": str(self.directory)}
        done = subprocess.run(
            [str(self.kubectl_path), *arguments],
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done

    def apply(self, *paths: Path | str) -> None:
        """Apply manifests server-side, as the administrator."""
        for path in paths:
            self.kubectl("apply", "--server-side", "-f", str(path))


USERS = ("admin", "alice", "bob", "operator", "worker", "gateway")
"""Who has a token. Only `admin` may do anything without a binding."""


@cache
def shared() -> KubeServer:
    """The one of this test process, started when it is first needed."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(kube_server())


@contextmanager
def kube_server() -> Iterator[KubeServer]:
    """Start both, with the project's CRDs applied."""
    place = assets()
    assert place is not None
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepwell-kube-")))
        users = {name: secrets.token_hex(16) for name in USERS}
        (directory / "tokens.csv").write_text(
            "".join(f'{token},{name},{name},"{_groups(name)}"\n' for name, token in users.items())
        )
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.crt"))
        served = authority.issue_cert("127.0.0.1", "localhost")
        served.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
        _service_account_keys(directory)
        etcd, peer, api = _free_ports(3)
        _start(stack, directory, [str(place / "etcd"), *_etcd(directory, etcd, peer)])
        server = _start(stack, directory, [str(place / "kube-apiserver"), *_apiserver(directory, etcd, api)])
        kube = KubeServer(directory, place / "kubectl", f"https://127.0.0.1:{api}", directory / "ca.crt", users)
        with kube.client() as client:
            eventually_sync(lambda: _ready(client, server, directory), START, pause=0.05)
            _define_kinds(client)
        yield kube


def _groups(name: str) -> str:
    return "system:masters" if name == "admin" else "people"


def _ready(client: httpx.Client, server: subprocess.Popen[bytes], directory: Path) -> bool:
    assert server.poll() is None, (directory / "kube-apiserver.log").read_text("utf-8", "replace")[-3000:]
    with contextlib.suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def _define_kinds(client: httpx.Client) -> None:
    """Without kubectl, which takes longer to start than the API server to answer."""
    for name in ("workflows", "workflowruns"):
        place = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}.stepwell.dev"
        applied = client.patch(
            place,
            params={"fieldManager": "tests"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            content=(ROOT / "crds" / f"{name}.yaml").read_bytes(),
        )
        assert applied.is_success, applied.text
        eventually_sync(lambda place=place: _established(client.get(place).json()), START, pause=0.02)


def _established(definition: dict[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)


def _etcd(directory: Path, port: int, peer: int) -> list[str]:
    return [
        *("--name", "default", "--data-dir", str(directory / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", f"http://127.0.0.1:{port}", "--advertise-client-urls", f"http://127.0.0.1:{port}"),
        *(
            "--listen-peer-urls",
            f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls",
            f"http://127.0.0.1:{peer}",
        ),
        *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
    ]


def _apiserver(directory: Path, etcd: int, port: int) -> list[str]:
    files = {name: str(directory / name) for name in ("server.pem", "ca.crt", "tokens.csv", "sa.key", "sa.pub")}
    return [
        *("--etcd-servers", f"http://127.0.0.1:{etcd}", "--bind-address", "127.0.0.1", "--secure-port", str(port)),
        *("--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"),
        *("--service-cluster-ip-range", "10.0.0.0/24", "--authorization-mode", "RBAC"),
        *("--tls-cert-file", files["server.pem"], "--tls-private-key-file", files["server.pem"]),
        *("--token-auth-file", files["tokens.csv"], "--disable-admission-plugins", "ServiceAccount"),
        *("--service-account-issuer", "https://127.0.0.1", "--service-account-key-file", files["sa.pub"]),
        *("--service-account-signing-key-file", files["sa.key"]),
    ]


def _start(stack: ExitStack, directory: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    log = stack.enter_context((directory / f"{Path(argv[0]).name}.log").open("wb"))
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_finish, process)
    return process


def _finish(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _service_account_keys(directory: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    (directory / "sa.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    (directory / "sa.pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def kubectl_there() -> bool:
    """Whether kubectl is installed at all."""
    return shutil.which("kubectl") is not None
