"""Options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

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
