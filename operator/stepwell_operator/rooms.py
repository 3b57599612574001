"""The parts of the operator, each a context manager that registers its handlers (`process.py` says how to plug in)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import kopf

from stepwell_operator.admission.room import admission
from stepwell_operator.context import Context
from stepwell_operator.runs.room import workflow_runs
from stepwell_operator.workflows.room import workflows

Room: TypeAlias = Callable[[kopf.OperatorRegistry, Context], AbstractAsyncContextManager[object]]

ROOMS: tuple[Room, ...] = (admission, workflows, workflow_runs)
"""In the order in which they are entered."""
