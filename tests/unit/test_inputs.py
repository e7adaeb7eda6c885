"""`daemon.inputs`: a run's stdin is asked of a launcher that knows it, however late that comes."""

from __future__ import annotations

import asyncio
import os

from supervisor.daemon.inputs import Inputs
from supervisor.launcher import protocol


def test_a_launcher_is_asked_once_it_has_adopted() -> None:
    asyncio.run(_asked_before_there_is_one())


async def _asked_before_there_is_one() -> None:
    inputs = Inputs()
    asked: list[protocol.Request] = []
    first = asyncio.create_task(inputs.get("web", 3))
    await asyncio.sleep(0)
    assert not asked

    given, other = os.pipe()
    inputs.adopted(asked.append, lambda _: [given])
    await asyncio.sleep(0)
    (request,) = asked
    assert isinstance(request, protocol.Input)
    assert (request.instance, request.run) == ("web", 3)

    inputs.lost()  # before it has answered: the next one is asked
    asked.clear()
    await asyncio.sleep(0)
    assert not asked
    inputs.adopted(asked.append, lambda _: [given])
    await asyncio.sleep(0)
    (request,) = asked
    assert isinstance(request, protocol.Input)
    inputs.on_launcher(protocol.InputGiven(request.key))
    assert await first == given
    os.close(given)
    os.close(other)
