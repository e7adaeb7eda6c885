"""The codec of the launcher's protocol: what is sent is what arrives, and rubbish is named, not obeyed."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.launcher import codec, plan, protocol

text = st.text(max_size=12)
number = st.integers(-(2**63), 2**63)
maybe = st.none() | number
STEPS = st.one_of(
    st.builds(plan.Overlay, text, st.lists(text), st.none() | text, st.none() | text, st.booleans()),
    st.builds(plan.Bind, text, text, st.booleans(), st.booleans(), st.booleans(), st.none() | text),
    st.builds(plan.Bind, text, text, subpath=text, top_only=st.booleans(), namespace=text),
    st.builds(plan.Mount, text, text, number, text),
    st.builds(plan.Symlink, text, text),
    st.just(plan.Pivot()),
    st.builds(plan.ReadOnly, st.lists(text)),
    st.builds(plan.Mask, st.lists(text)),
    st.just(plan.ReadOnlyRoot()),
    st.builds(plan.Sysctl, text, text),
    st.builds(plan.Chown, text, number, number, number),
)
PROCESSES = st.builds(
    plan.Process,
    argv=st.lists(text | st.sampled_from(["Launch", "Overlay", "Pivot"])),
    env=st.lists(st.lists(text, min_size=2, max_size=2)),
    user=text,
    groups=st.lists(text),
    caps=st.lists(number),
    seccomp=st.none() | text,
    rlimits=st.lists(st.lists(number, min_size=3, max_size=3)),
    oom_score_adj=maybe,
    init=st.booleans(),
    notify_fd=number,
)
PLANS = st.builds(
    plan.LaunchPlan,
    text,
    number,
    text,
    st.builds(plan.Limits, maybe, maybe, maybe, maybe, number, maybe, maybe)
    | st.builds(plan.Limits, maybe, memory_swappiness=maybe, oom_kill_disable=st.booleans())
    | st.builds(plan.Limits, cpuset=st.none() | text, blkio_devices=st.lists(st.lists(text | number))),
    st.none() | text,
    text,
    text,
    st.lists(STEPS),
    PROCESSES,
    st.builds(plan.LogPlan, text, number, number),
    text,
    notify=text,
)
INFOS = st.builds(
    protocol.RunInfo,
    text,
    number,
    number,
    number,
    text,
    number,
    st.floats(allow_nan=False),
    st.booleans(),
    text,
    notified=text,
)
ENDED = st.builds(protocol.LaunchFailed, text, number, text, number, text, number, number, st.just(1.5), text)
MESSAGES = st.one_of(
    st.builds(protocol.Launch, PLANS),
    st.builds(protocol.Exec, text, text, number, PROCESSES),
    st.builds(protocol.Begun, text, number, number),
    st.builds(protocol.Started, INFOS),
    st.builds(protocol.State, number, number, st.lists(INFOS), st.lists(ENDED)),
    st.builds(protocol.LogCounted, st.lists(st.lists(text | number)), number),
    st.builds(protocol.Ack, text, number),
    st.builds(protocol.Notified, text, number, text),
    PLANS,
)


@given(MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: Any) -> None:
    """decode(encode(m)) == m, with every class as it was, whatever the texts look like."""
    arrived = codec.decode(codec.encode(message))
    assert arrived == message
    assert type(arrived) is type(message)
    if isinstance(message, plan.LaunchPlan):
        assert [type(step) for step in arrived.steps] == [type(step) for step in message.steps]


def test_an_earlier_launcher_understands_a_plan_that_uses_nothing_new() -> None:
    """It outlives the daemon that started it, and knows as many fields as there were at its time."""
    limits = json.loads(codec.encode(plan.Limits(1, 2, 3, 4, 5, 6, 7)))
    bind = json.loads(codec.encode(plan.Bind("/a", "/b", propagation="rslave")))
    assert limits == ["Limits", 1, 2, 3, 4, 5, 6, 7]
    assert bind == ["Bind", "/a", "/b", False, False, False, "rslave"]


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b"{}", b"[1]", b'["Launch"]', b'["Launch",["Ack"]]']))
def test_rubbish_is_an_error_of_the_protocol(data: bytes) -> None:
    """Bytes that are no message raise ProtocolError and nothing else."""
    try:
        codec.decode(data)
    except codec.ProtocolError:
        return
    assert data.startswith(b"[")


def test_every_message_of_the_protocol_is_known() -> None:
    """No request, event or step was forgotten in the table."""
    for kind in (*protocol.Request.__args__, *protocol.Event.__args__, *plan.Step.__args__):
        with pytest.raises(codec.ProtocolError):
            codec.decode(f'["{kind.__name__}",1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]'.encode())


def test_names_that_are_not_utf8_survive() -> None:
    """A path or an argument is bytes to the kernel."""
    ack = protocol.Ack(os.fsdecode(b"\xff\xfe/x"), 1)
    assert codec.decode(codec.encode(ack)) == ack


@pytest.mark.parametrize("size", [10, codec.LARGE_BYTES - 30, codec.LARGE_BYTES + 1, 3_000_000])
def test_a_packet_carries_any_size_and_its_descriptors(size: int) -> None:
    """Small ones as they are, large ones in a sealed memfd; descriptors beside both."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    with near, far:
        data = codec.encode(protocol.Problem("x" * size))
        codec.send(near, data, [writing])
        os.close(writing)
        arrived, fds = codec.receive(far)
        assert arrived == data
        os.write(fds[0], b"ok")
        assert os.read(reading, 2) == b"ok"
        for fd in (*fds, reading):
            os.close(fd)
        near.close()
        assert codec.receive(far) == (b"", [])


def test_a_memfd_that_can_still_change_is_refused() -> None:
    """What is not sealed could be altered while it is read."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = os.memfd_create("test")
    with near, far:
        socket.send_fds(near, [b"@"], [memory])
        os.close(memory)
        with pytest.raises(codec.ProtocolError):
            codec.receive(far)
