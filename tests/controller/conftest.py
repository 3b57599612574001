"""The API server of these tests: a real one where its programs are at hand. Tests that need it take `kube`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import fake_kube
import kube_api
import kube_server
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = "no kube-apiserver, etcd and kubectl in KUBEBUILDER_ASSETS or /usr/local/kubebuilder/bin (or STEPWELL_TEST_KUBE=fake)"


RIGHTS = "clusterrolebindings,rolebindings,clusterroles,roles"
REAL = kube_server.assets() is not None and os.environ.get("STEPWELL_TEST_KUBE") != "fake"


def pytest_report_header() -> str:
    return f"API server: real, from {kube_server.assets()}" if REAL else f"API server: the fake; {MISSING}"


@pytest.fixture(scope="session")
def kube_of_all() -> kube_server.KubeServer:
    """A real API server with the project's CRDs; skips where there is none."""
    if not REAL:
        pytest.skip(MISSING)
    return kube_server.shared()


@pytest.fixture(scope="session")
def fake_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with fake_kube.fake_api(tmp_path_factory.mktemp("fake")) as fake:
        yield fake


@pytest.fixture(scope="module")
def kube(kube_of_all: kube_server.KubeServer) -> Iterator[kube_server.KubeServer]:
    """The real API server, which the module leaves to the next one without an object and without a right of its own."""
    yield kube_of_all
    api = kube_api.of_server(kube_of_all)
    api.clear()
    api.close()
    kube_of_all.kubectl("delete", RIGHTS, "-A", "-l", "!kubernetes.io/bootstrapping", "--wait=false")


@pytest.fixture(scope="module")
def api(request: pytest.FixtureRequest) -> Iterator[kube_api.Api]:
    """The real API server where there is one, else the fake. For tests that need no more than the fake knows."""
    if REAL:
        found = kube_api.of_server(request.getfixturevalue("kube"))
        yield found
        found.close()
    else:
        fake = request.getfixturevalue("fake_of_all")
        yield fake
        fake.clear()
