"""How an operator copes with thousands of Workflows: the first sync, a restart, and what each costs the API server.

    python tests/bench/operator_sync.py [10000]

Needs kube-apiserver, etcd and kubectl in KUBEBUILDER_ASSETS or /usr/local/kubebuilder/bin. Prints a table.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import kube_api
import kube_server
import psycopg
import services
from prometheus_client.parser import text_string_to_metric_families
from waiting import eventually_sync

from stepwell.adapters.postgres.migrate import migrate

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PORT = 19_190
LONG = 1_800.0
SPEC: dict[str, Any] = {
    "triggers": [{"name": "hook", "webhook": {"auth": {"public": {}}}, "input": {"email": "{{ body.email }}"}}],
    "steps": [
        {"name": "pick", "transform": {"select": ["email"]}},
        {"name": "notify", "httpCall": {"method": "POST", "url": "https://api.example.com/users", "body": {"email": "{{ email }}"}}},
    ],
}  # fmt: skip


def main(count: int) -> None:
    with kube_server.kube_server() as kube, services.postgres() as dsn, services.valkey() as redis_url:
        asyncio.run(migrate(dsn))
        api = kube_api.of_server(kube)
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: api.create(f"w{number:05}", SPEC), range(count)))
        report(f"created {count:,} Workflows in", f"{time.monotonic() - began:.0f} s")
        first = last_version(api.versions())
        environment = {"KUBECONFIG": str(kube.kubeconfig), "DATABASE_URL": dsn, "REDIS_URL": redis_url}
        with operator(environment) as process:
            began = time.monotonic()
            eventually_sync(lambda: synced(dsn) == count, LONG)
            report("all synced after", f"{time.monotonic() - began:.1f} s")
            eventually_sync(lambda: ready() == count, LONG)
            eventually_sync(lambda: settled(api, count), LONG)
            report("all shown after", f"{time.monotonic() - began:.1f} s")
            tell(process)
        before = api.versions()
        writes = last_version(before) - first
        report("API writes an object", f"{writes / count:.2f}, Events among them")
        with operator(environment) as process:
            began = time.monotonic()
            eventually_sync(lambda: ready() == count, LONG)
            report("restart: all known after", f"{time.monotonic() - began:.1f} s")
            time.sleep(20)  # two looks of the refresh
            tell(process)
        after = api.versions()
        report("restart: objects written", str(sum(after[uid] != version for uid, version in before.items())))


@contextmanager
def operator(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    import subprocess

    extra = {"STEPWELL_METRICS_PORT": str(PORT), "STEPWELL_METRICS_ADDRESS": "127.0.0.1", "STEPWELL_ADMISSION_PORT": "0",
             "STEPWELL_LOG_LEVEL": "WARNING"}  # fmt: skip
    command = [sys.executable, "-c", "from stepwell_cli.main import main; main()", "operator"]
    process = subprocess.Popen(command, env=os.environ | environment | extra)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def last_version(versions: dict[str, str]) -> int:
    """Every write of the cluster takes the next number."""
    return max(map(int, versions.values()))


def synced(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM workflows WHERE active_revision_id IS NOT NULL").fetchone()
    return row[0] if row else 0


def ready() -> int:
    """How many Workflows the operator says are ready."""
    return int(sample("stepwell_operator_workflows", ready="True"))


def sample(name: str, **labels: str) -> float:
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0
    families = text_string_to_metric_families(text)
    return next(
        (s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()), 0.0
    )


def settled(api: kube_api.Api, count: int) -> bool:
    """Whether every object has its status and its annotation."""
    time.sleep(2)
    if sample("stepwell_operator_status_writes_total", result="written") < count:
        return False
    return all("annotations" in item["metadata"] and "runs" in item.get("status", {}) for item in api.all())


def tell(process: subprocess.Popen[bytes]) -> None:
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    report("  its memory at most", f"{peak / 1024:.0f} MiB")
    report("  its CPU", f"{cpu:.1f} s")
    report("  status writes", f"{sample('stepwell_operator_status_writes_total', result='written'):.0f}")


def report(what: str, value: str) -> None:
    print(f"{what:32} {value}", flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
