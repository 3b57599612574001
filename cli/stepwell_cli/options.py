"""Options and arguments that several commands have."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell_cli.server.where import Where

if TYPE_CHECKING:
    from collections.abc import Callable

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON on stdout, for programs.")]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="The gateway; STEPWELL_TOKEN holds the token. Default: STEPWELL_SERVER."
    ),
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="The kubeconfig's context whose cluster is meant.")
]
Account = Annotated[
    str | None,
    typer.Option(
        "--service-account",
        metavar="[NAMESPACE/]NAME",
        help="Act as this service account, by a token that is requested.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Default: the kubeconfig's in a cluster, else default."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="TEXT", help="An idempotency key: the same one leads to the same run for a day."),
]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.")]
Comment = Annotated[str | None, typer.Option("--comment", metavar="TEXT", help="What to say to it.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="JSON|@FILE|-", help="A document for the steps that follow.")
]
StepName = Annotated[str, typer.Argument(metavar="STEP", help="The step that asks.")]


def reaching(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, whose first parameter is ``where``, the options that say which gateway it talks to.

    ``namespace`` is among them, unless the command has it itself.
    """
    options = {"namespace": Namespace, "server": Server, "context": Context, "service_account": Account}
    own = inspect.signature(command, eval_str=True).parameters
    mine = [parameter for name, parameter in own.items() if name != "where"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
        if name not in own
    ]

    @functools.wraps(command)
    def reached(**given: Any) -> None:
        where = Where(**{name: given[name] for name in options})
        command(where, **{parameter.name: given[parameter.name] for parameter in mine})

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in mine] + added
    reached.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    reached.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return reached
