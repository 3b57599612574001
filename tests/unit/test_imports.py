"""What a process imports before it knows that it needs it."""

from __future__ import annotations

import subprocess
import sys

LISTED = "import sys, stepwell_worker.process, stepwell_gateway.process, stepwell_cli.run; print(*sys.modules)"


def test_the_client_of_kubernetes_is_imported_in_a_cluster_only() -> None:
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"stepwell.adapters.kube.client", "aiohttp"} <= imported
    assert "kubernetes" not in imported, "half a second of CPU for every process outside of a cluster"
