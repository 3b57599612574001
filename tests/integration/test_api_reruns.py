"""`:retry` and `:rerun` over HTTP; what runs again is held by test_reruns.py."""

from __future__ import annotations

from api import MICROS, api, attempt, ending
from gateways import NAMESPACE

from stepwell.domain.states import RunStatus, StepStatus


async def test_a_retry_is_a_new_run_with_the_finished_results(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        first = await a.ended(status=RunStatus.FAILED)
        response = await a.post(f"/runs/{first}:retry")
        assert response.status_code == 202
        run_id = response.json()["runId"]
        assert response.headers["location"] == f"/api/v1/namespaces/{NAMESPACE}/runs/{run_id}"
        run = await a.get(f"/runs/{run_id}")
        assert (run["status"], run["retryOf"], run["rerunOf"], run["input"]) == ("queued", first, None, {"n": 1})
        steps = (await a.get(f"/runs/{run_id}/steps"))["steps"]
        assert [(s["step"], s["status"], s["copied"], s["output"]) for s in steps] == [
            ("one", "succeeded", True, {"secret": "out"})
        ]
        (claimed,) = await a.runs.claim(a.worker, [run_id], token=1)
        assert claimed.continues
        assert [r.step for r in await a.runs.attempts([run_id])] == ["one"]


async def test_only_the_attempt_that_was_the_last_is_taken_over(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.running()
        tried = attempt("one", 1, StepStatus.FAILED, at=1, retry_at=1_800_000_001 * MICROS)
        failed = [attempt("two", 1, StepStatus.FAILED, at=3, retry_at=1_800_000_002 * MICROS)]
        await a.flush(run, [tried, attempt("one", 2, at=2), *failed], ending(RunStatus.FAILED))
        new = (await a.post(f"/runs/{run.id}:retry")).json()["runId"]
        steps = (await a.get(f"/runs/{new}/steps"))["steps"]
        assert [(s["step"], s["attempt"], s["status"]) for s in steps] == [("one", 2, "succeeded")]


async def test_a_rerun_may_have_another_input_or_begin_at_a_step(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        first = await a.ended()
        same = (await a.call("POST", f"/runs/{first}:rerun")).json()["runId"]
        other = (await a.post(f"/runs/{first}:rerun", {"input": {"n": 9}})).json()["runId"]
        part = (await a.post(f"/runs/{first}:rerun", {"fromStep": "two"})).json()["runId"]
        runs = [await a.get(f"/runs/{run_id}") for run_id in (same, other, part)]
        assert [run["input"]["n"] for run in runs] == [1, 9, 1]
        assert {run["rerunOf"] for run in runs} == {first}
        counts = [len((await a.get(f"/runs/{run_id}/steps"))["steps"]) for run_id in (same, other, part)]
        assert counts == [0, 0, 1]


async def test_what_stands_in_the_way_is_said(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        good, live = await a.ended(), await a.queued()
        for path, body, status, words in (
            (f"/runs/{good}:retry", {}, 409, "succeeded, so there is nothing to retry"),
            (f"/runs/{live}:retry", {}, 409, "is queued; only a run that ended"),
            (f"/runs/{live}:rerun", {}, 409, "is queued; only a run that ended"),
            (f"/runs/{good}:rerun", {"fromStep": "six"}, 400, "no step 'six'"),
            (f"/runs/{good}:rerun", {"fromStep": "two", "input": {}}, 400, "give input or fromStep"),
            (f"/runs/{good}:rerun", {"input": {"n": "x"}}, 400, "n"),
            (f"/runs/{good}:retry", {"input": {}}, 400, "input: there is no such field"),
        ):
            response = await a.post(path, body)
            assert (response.status_code, words in response.json()["detail"]) == (status, True), response.text
        await a.apply(suspended=True)
        suspended = await a.post(f"/runs/{good}:rerun")
        assert (suspended.status_code, "retry-after" in suspended.headers) == (503, True)


async def test_a_key_leads_to_the_first_repetition(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        first = await a.ended(status=RunStatus.FAILED)
        key = {"idempotency-key": "k"}
        answers = [await a.post(f"/runs/{first}:retry", headers=key) for _ in range(2)]
        answers += [await a.post(f"/runs/{first}:rerun", {"input": {"n": n}}, headers=key) for n in (1, 2)]
        assert [r.status_code for r in answers] == [202, 200, 202, 200]
        retried, again, rerun, differs = (r.json() for r in answers)
        assert retried["runId"] == again["runId"] != rerun["runId"] == differs["runId"]
        assert (again["inputDiffers"], differs["inputDiffers"]) == (False, True)


async def test_a_repetition_counts_as_a_start_of_the_namespace(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        first = await a.ended(status=RunStatus.FAILED)
        a.gateway.context.quotas._queued = 2  # Redis still knows the first one, which was not taken from there
        assert (await a.post(f"/runs/{first}:retry")).status_code == 202
        refused = await a.post(f"/runs/{first}:rerun")
        assert (refused.status_code, refused.json()["quota"]) == (429, "queued")
