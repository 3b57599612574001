"""A gateway for benchmarks, with a Secret from memory: prints its port, and serves until its input ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateways import NAMESPACE, vendors_secrets

from stepwell.collector import settle
from stepwell.settings import read
from stepwell_gateway.context import opened
from stepwell_gateway.serving import serving


async def main() -> None:
    secrets = vendors_secrets()
    secrets.values["bench", "hook"] = secrets.values[NAMESPACE, "hook"]
    async with opened(read(), secrets) as context, serving(context, address="127.0.0.1", port=0) as port:
        settle()
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
