"""``stepwell trigger``, ``approve``, ``reject`` and ``runs …``. What they do is imported when they are called."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell_cli.options import Comment, Data, Json, Key, RunId, StepName, reaching
from stepwell_cli.server.where import Where


@reaching
def trigger(
    where: Where,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name.")],
    input: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option("--input", "-i", metavar="JSON|@FILE|-", help="The run's input, a JSON object. Default: {}."),
    ] = None,
    key: Key = None,
    priority: Annotated[str | None, typer.Option("--priority", metavar="WORD", help="Low, Normal or High.")] = None,
    json: Json = False,
) -> None:
    """Start a run of a workflow over a gateway, and print the run's id.

    The gateway is the one of --server, else that of the `stepwell dev` in this folder, else the cluster's of the
    kubeconfig, with the kubeconfig's token, through a port that kubectl forwards.
    """
    from stepwell_cli.steer import trigger as start

    raise typer.Exit(start(where, workflow, input, key=key, priority=priority, json=json))


@reaching
def approve(
    where: Where,
    run_id: RunId,
    step: StepName,
    comment: Comment = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Approve what a run waits for. The first decision counts."""
    from stepwell_cli.steer import decide

    raise typer.Exit(decide(where, run_id, step, approve=True, comment=comment, data=data, json=json))


@reaching
def reject(
    where: Where,
    run_id: RunId,
    step: StepName,
    comment: Comment = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Reject what a run waits for. The first decision counts; the run goes on and sees it."""
    from stepwell_cli.steer import decide

    raise typer.Exit(decide(where, run_id, step, approve=False, comment=comment, data=data, json=json))


runs = typer.Typer(
    name="runs",
    help="Look at runs, and steer them. list, get and watch read the database named by DATABASE_URL, else that of this "
    "folder's `stepwell dev`, unless a gateway is named; the others talk to a gateway, as `stepwell trigger` does.",
    no_args_is_help=True,
)


@runs.command("list")
@reaching
def list_runs(
    where: Where,
    workflow: Annotated[
        str | None,
        typer.Option("--workflow", "-w", metavar="NAME", help="Of this workflow, of --namespace or default."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Of this namespace; without it, of all.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status", metavar="WORD", help="queued, running, waiting, succeeded, failed, cancelled, timed_out."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="1h|TIME", help="Started within a duration, or since a time (RFC 3339)."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many on a page.")] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="CURSOR", help="The page after the one that gave this cursor.")
    ] = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    from stepwell_cli.runs import Query, show_list

    show_list(where, Query(workflow, namespace, status, since, limit, cursor), json=json)


@runs.command("get")
@reaching
def get_run(
    where: Where,
    run_id: RunId,
    json: Json = False,
) -> None:
    """Show a run with its steps, their inputs, outputs and errors."""
    from stepwell_cli.runs import show_run

    show_run(where, run_id, json=json)


@runs.command("watch")
@reaching
def watch_run(
    where: Where,
    run_id: RunId,
    follow: Annotated[
        bool, typer.Option("--follow", metavar="", help="A line an event, as a gateway tells them, instead of a table.")
    ] = False,
    json: Json = False,
) -> None:
    """Follow a run until it has ended; exit code 0 if it succeeded, 1 if not.

    With --json, a line is printed at each change. Ctrl-C ends the watching, never the run.
    """
    if follow:
        from stepwell_cli.steer import follow_events

        raise typer.Exit(follow_events(where, run_id, json=json))
    from stepwell_cli.runs import watch

    raise typer.Exit(watch(where, run_id, json=json))


@runs.command("cancel")
@reaching
def cancel_run(
    where: Where,
    run_id: RunId,
    json: Json = False,
) -> None:
    """Cancel a run: once this returns, no further step of it starts."""
    from stepwell_cli.steer import act

    raise typer.Exit(act(where, run_id, "cancel", json=json))


@runs.command("retry")
@reaching
def retry_run(
    where: Where,
    run_id: RunId,
    key: Key = None,
    json: Json = False,
) -> None:
    """Go on where a run failed, as a new run that takes over what had succeeded; print its id."""
    from stepwell_cli.steer import act

    raise typer.Exit(act(where, run_id, "retry", key=key, json=json))


@runs.command("rerun")
@reaching
def rerun_run(
    where: Where,
    run_id: RunId,
    input: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option("--input", "-i", metavar="JSON|@FILE|-", help="Another input. It goes with no --from.")
    ] = None,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Keep the results of what does not follow from it.")
    ] = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Run it again, as a new run on the workflow as it is now; print its id."""
    from stepwell_cli.sources import read_input
    from stepwell_cli.steer import act

    body: dict[str, object] = {} if input is None else {"input": read_input(input)}
    body |= {} if from_step is None else {"fromStep": from_step}
    raise typer.Exit(act(where, run_id, "rerun", body, key=key, json=json))
