"""What autoscalers ask, and how many workers that makes: the manifests' own queries and targets over a load in PostgreSQL."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from history import History, explain
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lending import Databases

COMPONENTS = Path(__file__).parents[2] / "deploy" / "components"
TOLERANCE = 0.1  #: how far the API server's autoscaler lets a ratio be from 1 before it acts


WORKFLOW = """
WITH w AS (INSERT INTO workflows (namespace, name) VALUES ('shop', 'order') RETURNING id)
INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)
SELECT id, '\\x00', '{}', '{}', interval '1 day', interval '7 days' FROM w
"""

RUNS = """
INSERT INTO runs (id, workflow_id, revision_id, created_at, status, fence, worker_id, started_at, namespace, trigger, input_data)
SELECT (left(uuid_floor(now())::text, 14) || '7' || right(gen_random_uuid()::text, 21))::uuid, 1, 1,
  clock_timestamp() - CASE WHEN i = 1 THEN %(age)s ELSE 0 END * interval '1 second', %(status)s,
  1, 1, CASE WHEN %(status)s <> 'queued' THEN now() END, 'shop-' || i %% 3, 'api', '{}'
FROM generate_series(1, %(count)s) AS i
"""


@pytest.fixture(scope="module")
def filled(databases: Databases) -> Iterator[str]:
    """The DSN of a database with one workflow."""
    with databases.clone() as dsn:
        execute(dsn, WORKFLOW)
        yield dsn


@pytest.fixture(scope="module")
def scaler(filled: str) -> Iterator[str]:
    """The DSN of the role of role.sql, under a name of the test's own: roles belong to the whole server."""
    name = f"scaler_{os.getpid()}"
    text = (COMPONENTS / "keda" / "role.sql").read_text("utf-8")
    execute(filled, text.replace(":'password'", "'secret'").replace("stepwell_scaler", name))
    yield make_conninfo(filled, user=name, password="secret")
    execute(filled, f"DROP OWNED BY {name}")
    execute(filled, f"DROP ROLE {name}")


def execute(dsn: str, statement: str, **params: object) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode(), params or None)


def given(dsn: str, queued: int, running: int = 0, waiting: int = 0, *, oldest: float = 0) -> None:
    """So many live runs, and no others; ``oldest`` is the age of the oldest queued one in seconds."""
    execute(dsn, "DELETE FROM runs")
    for status, count in {"queued": queued, "running": running, "waiting": waiting}.items():
        execute(dsn, RUNS, status=status, count=count, age=oldest)


def documents(file: str) -> dict[str, dict[str, Any]]:
    """Of a file of a component, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((COMPONENTS / file).read_text("utf-8"))}


def desired(current: int, value: float, target: float, kind: str) -> int:
    """The autoscaler's formula: https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/.

    ``AverageValue`` shares the value among the pods; ``Value`` takes it for the state that the present number gives.
    """
    ratio = value / target if kind == "Value" else value / (current * target)
    return current if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * current)


def keda(dsn: str, current: int) -> int:
    """What KEDA's ScaledObject makes of the database: the most that any trigger asks for, within its limits."""
    spec = documents("keda/scaledobject.yaml")["ScaledObject"]["spec"]
    wanted = []
    with psycopg.connect(dsn) as connection:
        for trigger in spec["triggers"]:
            row = connection.execute(trigger["metadata"]["query"]).fetchone()
            assert row is not None
            assert len(row) == 1
            target = float(trigger["metadata"]["targetQueryValue"])
            wanted.append(desired(current, float(row[0]), target, trigger["metricType"]))
    return min(max(*wanted, spec["minReplicaCount"]), spec["maxReplicaCount"])


def demand(dsn: str) -> tuple[int, int, float]:
    with psycopg.connect(dsn) as connection:
        found: tuple[int, int, float] | None = connection.execute("SELECT * FROM worker_demand").fetchone()
    assert found is not None
    return found


def test_the_view_counts_what_workers_could_do(filled: str) -> None:
    given(filled, 200, 10, 70, oldest=25)
    depth, running, oldest = demand(filled)
    assert (depth, running) == (200, 10)
    assert 25 <= oldest < 60
    execute(filled, "UPDATE runs SET started_at = now() WHERE status = 'queued'")
    assert demand(filled) == (200, 10, 0), "what has begun before does not wait for its first worker"
    given(filled, 0)
    assert demand(filled) == (0, 0, 0)


@pytest.mark.parametrize(
    ("queued", "oldest", "current", "wanted"),
    [
        (0, 0, 6, 2),  # 100 runs that are executed fit into one worker; two are the least
        (500, 0, 2, 4),  # 600 runs, 150 a worker
        (500, 0, 8, 4),
        (800, 0, 6, 6),
        (100, 21, 2, 5),  # twice as late as it may be
        (100, 21, 3, 7),
        (2_000, 0, 2, 10),  # 14 would fit, 10 is the most
    ],
)
def test_keda_wants(scaler: str, filled: str, queued: int, oldest: int, current: int, wanted: int) -> None:
    given(filled, queued, 100, 700, oldest=oldest)
    assert keda(scaler, current) == wanted


def test_the_scalers_role_reads_the_view_and_nothing_else(scaler: str, filled: str) -> None:
    given(filled, 20)
    with psycopg.connect(scaler, autocommit=True) as connection:
        assert connection.execute("SELECT depth FROM worker_demand").fetchone() == (20,)
        assert connection.execute("SHOW statement_timeout").fetchone() == ("5s",)
        for table in ("runs", "workflow_runs", "workflow_revisions"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT 1 FROM {table}".encode())
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("CREATE TEMP TABLE runs (LIKE worker_demand)")
        assert connection.execute("SELECT depth FROM worker_demand").fetchone() == (20,), "the owner's table is meant"


def test_others_may_not_even_count(scaler: str, filled: str) -> None:
    with psycopg.connect(filled) as connection:
        name = conninfo_to_dict(scaler)["user"]
        connection.execute(f"REVOKE EXECUTE ON FUNCTION measure_demand() FROM {name}".encode())
        connection.execute(f"SET ROLE {name}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM worker_demand")
        connection.rollback()


def test_the_view_reads_live_runs_only(database: str) -> None:
    history = History.begin(database)
    history.fill(3_000, 200, 10, 70, worker=1)
    for _ in range(2):  # without statistics, then with them
        plan = explain(database, "SELECT * FROM worker_demand", {})
        assert 210 <= plan.rows("runs") <= 290, plan.fetched
        history.analyze()


@pytest.mark.parametrize(
    ("cores", "busy", "current", "wanted"),
    [
        (2.1, 0, 3, 3),  # 0.7 a worker: as it should be
        (2.9, 0, 3, 5),  # all three are full
        (0.2, 0, 4, 1),
        (0.3, 600, 3, 4),  # idle cores, but every slot waits for an answer
        (0.3, 450, 3, 3),
    ],
)
def test_the_hpa_wants(cores: float, busy: int, current: int, wanted: int) -> None:
    """Cores and busy slots of all workers together, as metrics-server and an adapter give them."""
    (cpu,) = documents("hpa/hpa.yaml")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    slots = yaml.safe_load(documents("hpa-slots/kustomization.yaml")["Component"]["patches"][0]["patch"])[0]["value"]
    target = cpu["containerResource"]["target"]
    assert (target["type"], slots["pods"]["target"]["type"]) == ("AverageValue", "AverageValue")
    by_cpu = desired(current, cores, int(target["averageValue"].removesuffix("m")) / 1000, "AverageValue")
    by_slots = desired(current, busy, float(slots["pods"]["target"]["averageValue"]), "AverageValue")
    assert max(by_cpu, by_slots) == wanted
