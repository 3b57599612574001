"""The same with Temporal's Python SDK: a web server that takes GitHub's deliveries, a workflow, an activity and their worker."""

import asyncio
import hashlib
import hmac
import json
import os
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

QUEUE = "welcome"


@activity.defn
async def notify(email: str) -> str:
    info = activity.info()
    headers = {
        "Authorization": f"Bearer {os.environ['API_TOKEN']}",
        "Idempotency-Key": f"{info.workflow_run_id}/{info.activity_id}",
    }
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.post("https://api.example.com/users", json={"email": email}, headers=headers)
    return answer.raise_for_status().text


@workflow.defn
class Welcome:
    @workflow.run
    async def run(self, email: str) -> str:
        return await workflow.execute_activity(
            notify,
            email,
            start_to_close_timeout=timedelta(seconds=15),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1),
                backoff_coefficient=2,
                maximum_interval=timedelta(minutes=1),
                maximum_attempts=6,
            ),
        )


async def signup(request: Request) -> Response:
    body = await request.body()
    expected = "sha256=" + hmac.new(os.environ["HOOK_SECRET"].encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(request.headers.get("X-Hub-Signature-256", "").encode(), expected.encode()):
        return Response(status_code=401)
    payload = json.loads(body)
    if payload.get("action") != "created":
        return JSONResponse({"status": "Filtered"})
    run = f"welcome-{request.headers['X-GitHub-Delivery']}"
    client: Client = request.app.state.client
    try:
        await client.start_workflow(
            Welcome.run,
            payload["user"]["email"],
            id=run,
            task_queue=QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        )
    except WorkflowAlreadyStartedError:
        return JSONResponse({"runId": run})
    return JSONResponse({"runId": run}, status_code=202)


async def main() -> None:
    app = Starlette(routes=[Route("/signup", signup, methods=["POST"])])
    app.state.client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(app.state.client, task_queue=QUEUE, workflows=[Welcome], activities=[notify]):
        await uvicorn.Server(uvicorn.Config(app, host="0.0.0.0", port=8080)).serve()


if __name__ == "__main__":
    asyncio.run(main())
