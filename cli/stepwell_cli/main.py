"""The ``stepwell`` command. What a command does is imported when it is called: ``stepwell --help`` takes no time."""

from __future__ import annotations

from inspect import cleandoc
from typing import Annotated

import typer

from stepwell_cli.errors import presented
from stepwell_cli.options import Json
from stepwell_cli.steering_commands import approve, reject, runs, trigger

app = typer.Typer(
    name="stepwell",
    help="Workflow automation for Kubernetes: declare a Workflow, start it, and nothing accepted is ever lost.",
    epilog="Exit codes: 0 done or succeeded, 1 the run failed, 2 bad manifest, input or usage, 3 environment "
    "(database, port, server), 130 interrupted. Settings come from the environment: docs/settings.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of the package."""
    presented(app)


def _unwrapped(group: typer.Typer) -> None:
    """The docstrings as help, a paragraph a line: the terminal's width is what breaks them."""
    for command in group.registered_commands:
        paragraphs = cleandoc(command.callback.__doc__ or "").split("\n\n") if command.callback else []
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _version(asked: bool) -> None:
    if asked:
        from stepwell.version import VERSION

        typer.echo(f"stepwell {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The manifest; - reads stdin.")],
    input: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option("--input", "-i", metavar="JSON|@FILE|-", help="The run's input, a JSON object. Default: {}."),
    ] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", "-w", metavar="NAME", help="Run this one instead of the first.")
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option("--secrets", metavar="FILE", help="Secrets in Kubernetes' form; may be given several times."),
    ] = None,
    tables: Annotated[
        bool,
        typer.Option(
            "--tables", metavar="", help="Show the tables of runs and steps on stderr when the run has ended."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Run a manifest's workflow on this machine, from start to end, and print its output.

    PostgreSQL and Valkey are started for the run, with data that goes when it ends, unless DATABASE_URL and REDIS_URL
    name running ones. All Workflows of the manifest are applied; triggers start nothing. Progress is shown on stderr,
    and the output, as JSON, is all that is written to stdout; with --json it is the whole run with its steps.

    In a folder where `stepwell dev` runs, or below it, the run is started there and executed by it.
    """
    from stepwell_cli.run import Options
    from stepwell_cli.run import run as execute

    raise typer.Exit(execute(Options(file, input, workflow, secrets or (), json, tables)))


@app.command()
def dev(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]…", help="Manifests, or directories with manifests. Default: .")
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option("--secrets", metavar="FILE", help="Secrets in Kubernetes' form; may be given several times."),
    ] = None,
    json: Json = False,
) -> None:
    """Run the whole system on this machine, over the manifests in PATH, until Ctrl-C.

    Every *.yaml and *.yml in PATH that holds a Workflow is applied, now and whenever it changes; a file without one is
    passed over, and so are hidden and vendored directories. A bad manifest is shown as `file:line: path: message`, and its
    last good version goes on. A workflow that is in no manifest any more is withdrawn: runs that were accepted end.
    Secrets among the manifests serve steps and webhooks, and are kept in memory only. Webhooks and the API are served on
    127.0.0.1, port 8080 unless PORT says another (0: any free one); cron triggers fire. A WorkflowRun in a manifest starts
    nothing.

    PostgreSQL and Valkey are started with data in .stepwell/ of the current folder, unless DATABASE_URL and REDIS_URL name
    running ones. While this runs, `stepwell run` and `stepwell runs` in this folder, or below it, use it. The first Ctrl-C
    lets the steps in flight end, the second one does not; runs that have not ended go on at the next start, and also after
    a crash.
    """
    from stepwell_cli.dev.command import Options
    from stepwell_cli.dev.command import dev as execute

    raise typer.Exit(execute(Options(paths or (".",), secrets or (), json)))


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Manifests; - reads stdin.")],
    json: Json = False,
) -> None:
    """Check manifests as the cluster would, without one: `file:line: path: message` for each problem."""
    from stepwell_cli.validate import validate as check

    raise typer.Exit(check(files, json=json))


@app.command()
def rbac(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Manifests; - reads stdin.")],
    worker: Annotated[
        str, typer.Option("--worker", metavar="[NS/]NAME", help="The worker's ServiceAccount.")
    ] = "stepwell-worker",
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="[NS/]NAME", help="The gateway's ServiceAccount.")
    ] = "stepwell-gateway",
    accounts: Annotated[
        str, typer.Option("--accounts", metavar="NAMESPACE", help="Where the ServiceAccounts are.")
    ] = "stepwell-system",
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", metavar="NAME", help="Of Workflows that state none. Default: kubectl's."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="NAME", help="Begins the names of what is printed.")
    ] = "stepwell",
    json: Json = False,
) -> None:
    """Print the Roles and RoleBindings that the Secrets of manifests need, for `kubectl apply -f -`.

    The worker may get the Secrets that steps name, the gateway those that webhooks name, each by its name and in its
    namespace; nothing else. Give all manifests of a namespace at once: a later call prints Roles of the same names. For
    several sets side by side, give each its own --prefix.
    """
    from stepwell_cli.rbac import Options
    from stepwell_cli.rbac import rbac as show

    show(Options(files, worker, gateway, accounts, namespace, prefix, json))


@app.command()
def migrate(
    wait: Annotated[
        str | None,
        typer.Option("--wait", metavar="DURATION", help="Wait so long for a database that is away, such as 10m."),
    ] = None,
    json: Json = False,
) -> None:
    """Bring the database named by DATABASE_URL to this version's schema.

    Any number of these may run at once, and again: what was applied stays as it is. A newer version's schema is left alone.
    """
    from stepwell_cli.processes import migrate as apply

    apply(wait, json=json)


@app.command()
def worker() -> None:
    """Execute runs until SIGTERM. Needs DATABASE_URL and REDIS_URL; the log goes to stderr (STEPWELL_LOG=text|json)."""
    from stepwell_cli.processes import worker as work

    work()


@app.command()
def operator() -> None:
    """Keep a cluster's resources and the database in step until SIGTERM. Needs DATABASE_URL, REDIS_URL and a cluster."""
    from stepwell_cli.processes import operator as operate

    operate()


@app.command()
def gateway() -> None:
    """Serve webhooks and the HTTP API until SIGTERM. Needs DATABASE_URL and REDIS_URL; PORT is 8080 unless set."""
    from stepwell_cli.processes import gateway as serve

    serve()


for command in (trigger, approve, reject):
    app.command()(command)
app.add_typer(runs)
_unwrapped(app)
_unwrapped(runs)
