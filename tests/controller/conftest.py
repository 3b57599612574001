"""The API server of these tests: a real one where its programs are at hand. Tests that need it take `kube`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kube_api
import kube_server
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = "no kube-apiserver, etcd and kubectl in KUBEBUILDER_ASSETS or /usr/local/kubebuilder/bin"


def pytest_report_header() -> str:
    return (
        f"API server: real, from {kube_server.assets()}" if kube_server.assets() else f"API server: the fake; {MISSING}"
    )


@pytest.fixture(scope="session")
def kube() -> Iterator[kube_server.KubeServer]:
    """A real API server with the project's CRDs; skips where there is none."""
    if kube_server.assets() is None:
        pytest.skip(MISSING)
    with kube_server.kube_server() as server:
        yield server


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[kube_api.Api]:
    """The real API server where there is one, else the fake. For tests that need no more than the fake knows."""
    found = kube_api.of_server(request.getfixturevalue("kube"))
    yield found
    found.close()
