"""A daemon's part in a process of its own, for tests that kill it: `asking.py RUN_DIR NETNS ADDRESS`."""

from __future__ import annotations

import asyncio
import sys

from supervisor.core.paths import Paths
from supervisor.daemon.names import Names
from supervisor.runtime.names import Member, Membership


async def main(run_dir: str, netns: str, address: str) -> None:
    names = Names(Paths(run_dir, run_dir), lambda text: print(text, file=sys.stderr), lambda: None)
    await names.adopt()
    one = Member("shop-web-1", netns, "shop-web-1", "web", (Membership("shop_default", (address,)),))
    problems = await names.tell(lambda: [one])
    print(problems or "told", flush=True)
    await asyncio.get_running_loop().create_future()


asyncio.run(main(*sys.argv[1:]))
