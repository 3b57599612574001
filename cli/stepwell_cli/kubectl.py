"""``kubectl stepwell …``: the same commands, always against the gateway of the kubeconfig's cluster."""

from __future__ import annotations

import os


def main() -> None:
    """The entry point ``kubectl-stepwell``, which kubectl finds on the PATH."""
    os.environ["STEPWELL_AS_PLUGIN"] = "1"
    from stepwell_cli.main import main as command_line

    command_line()
