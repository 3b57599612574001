"""The real API server that these tests use works as it must."""

from __future__ import annotations

from kube_server import KubeServer


def test_crds_are_served_and_rbac_is_on(kube: KubeServer) -> None:
    assert "workflows" in kube.kubectl("api-resources", "--api-group=stepwell.dev", "-o", "name").stdout
    assert kube.kubectl("get", "swf", "-A").returncode == 0
    denied = kube.kubectl("get", "swf", user="alice", check=False)
    assert 'User "alice" cannot list resource "workflows"' in denied.stderr
