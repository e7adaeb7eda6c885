"""Rules and links of ours that somebody removes are put right: on the kernel's word, never by looking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.daemon.networks import Networks
from supervisor.kernel.netevents import LinkEvents, RuleEvents
from supervisor.runtime.translate import PlanError

_SETTLE_S = 0.05
_LONGEST_S = 60.0
_CALM_S = 10.0


class NetWatch:
    """Two sockets of the event loop. `start` once there are networks; `close`."""

    def __init__(self, networks: Networks, report: Callable[[str], None]) -> None:
        self._networks = networks
        self._report = report
        self._rules: RuleEvents | None = None
        self._links: LinkEvents | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._wait_s = _SETTLE_S
        self._last = 0.0

    def start(self) -> None:
        """Begin, if it has not begun. Raises OSError."""
        if self._rules is not None:
            return
        loop = asyncio.get_running_loop()
        self._rules = RuleEvents(self._networks.wiring.table, self._networks.wiring.own)
        self._links = LinkEvents(self._names)
        loop.add_reader(self._rules.fileno(), self._on_rules)
        loop.add_reader(self._links.fileno(), self._on_links)

    def close(self) -> None:
        """Look no more."""
        loop = asyncio.get_running_loop()
        for each in (self._rules, self._links):
            if each is not None:
                loop.remove_reader(each.fileno())
                each.close()
        self._rules = self._links = None
        if self._task is not None:
            self._task.cancel()

    def _names(self) -> list[bytes]:
        """Of links that have to be there."""
        networks = self._networks
        names = [record.bridge for record in list(networks.records.values())]
        for endpoint in list(networks.endpoints.values()):
            names += [each.link for each in endpoint.interfaces]
        return [name.encode() + b"\0" for name in names]

    def _on_rules(self) -> None:
        if self._rules is not None and self._rules.touched() and self._networks.records:
            self._soon("somebody has changed the rules of our networks")

    def _on_links(self) -> None:
        if self._links is not None and self._links.touched():
            self._soon("somebody has removed a link or an address of our networks")

    def _soon(self, why: str) -> None:
        if self._task is not None:
            self._again = True
            return
        loop = asyncio.get_running_loop()
        # Where another program undoes it each time, the two must not keep the host busy.
        calm = loop.time() - self._last > _CALM_S + self._wait_s
        self._wait_s = _SETTLE_S if calm else min(self._wait_s * 2, _LONGEST_S)
        self._report(f"{why}; they are put right")
        self._task = loop.create_task(self._repair())

    async def _repair(self) -> None:
        try:
            await asyncio.sleep(self._wait_s)
            self._again = False
            await self._networks.repair()
        except PlanError as error:
            self._report(str(error))
        finally:
            self._last = asyncio.get_running_loop().time()
            self._task = None
        if self._again:
            self._again = False
            self._soon("somebody has changed our networks meanwhile")
