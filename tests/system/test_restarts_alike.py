"""Every run of a service is isolated like its first: the quick ways of the launcher leave nothing out.

A service prints what it sees of itself and ends; its first run is launched from nothing, the later ones from
what was prepared. All of them must see the same.
"""

from __future__ import annotations

import os

import pytest
from supervising import Supervisor, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SEEN = r"""
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|SigBlk|SigIgn)' /proc/self/status
sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //; s/(master|shared|propagate_from):[0-9]+ //g' \
    /proc/self/mountinfo | sort
env | sort
pwd; umask; ulimit -a; id
cat /proc/1/comm /proc/self/oom_score_adj /proc/self/cgroup /proc/sys/kernel/hostname
cat /proc/sys/net/ipv4/ip_unprivileged_port_start
ls -la /proc/self/fd | sed -E 's/^.* ([0-9]+ -> )/\1/; s/:\[[0-9]+\]//' | grep -v /proc/
ls /dev /sys
for file in /proc/kcore /proc/sys/kernel/core_pattern /sys/firmware /proc/sysrq-trigger; do
    (: >>"$file") 2>&1
    head -c 1 "$file" 2>&1 | wc -c
done
grep -c . /proc/net/dev
exit 1
"""

SERVICES = {
    "plain": "network_mode: host",
    "none": "network_mode: none",
    "sysctls": "network_mode: none, sysctls: {net.ipv4.ip_unprivileged_port_start: 7}",
    "ipc": "network_mode: host, sysctls: {kernel.msgmax: 9000}",
    "init": "network_mode: host, init: true",
    "user": "network_mode: none, user: 'nobody', group_add: [daemon], working_dir: /tmp",
    "readonly": "network_mode: none, read_only: true, tmpfs: ['/tmp:size=1m', /run], cap_drop: [ALL]",
    "caps": "network_mode: none, cap_add: [NET_ADMIN, SYS_PTRACE], cap_drop: [MKNOD]",
    "limits": "network_mode: none, mem_limit: 64m, pids_limit: 50, oom_score_adj: 500, ulimits: {nofile: 77}",
    "privileged": "network_mode: none, privileged: true",
    "unconfined": "network_mode: none, security_opt: [seccomp=unconfined, 'no-new-privileges:false']",
    "volumes": "network_mode: none, volumes: ['data:/data', './host:/host:ro', /anonymous], hostname: mine",
    "devices": "network_mode: none, devices: [/dev/loop-control], environment: {A: b}",
    "inside": "network_mode: none, volumes: ['./host:/dev/mine', './host:/dev/shm/mine']",
    "tty": "network_mode: none, tty: true",
}


def test_every_run_sees_what_the_first_one_saw(supervisor: Supervisor) -> None:
    (supervisor.base / "host").mkdir()
    (supervisor.base / "seen.sh").write_text(SEEN)
    lines = ["name: alike", "volumes: {data: {}}", "services:"]
    for name, keys in SERVICES.items():
        keys = keys.replace("volumes: [", "volumes: ['./seen.sh:/seen.sh:ro', ")
        if "volumes: [" not in keys:
            keys += ", volumes: ['./seen.sh:/seen.sh:ro']"
        lines.append(
            f"  {name}: {{{keys}, command: [sh, /seen.sh], restart: 'on-failure:3',"
            " x-shipkeeper: {backoff: {initial: 50ms, max: 50ms}}}"
        )
    supervisor.compose("\n".join(lines) + "\n")
    result = supervisor.run("up", "-d")
    assert result.returncode in (0, 1), result.stderr  # 1: one has ended already when all have been started
    until(lambda: all(supervisor.state(name) == "exited" for name in SERVICES), "all have run four times")
    for name in SERVICES:
        assert supervisor.row(name)["RestartCount"] == 3, supervisor.ok("why", name)
        text = supervisor.ok("logs", name)
        runs: list[list[str]] = []
        for line in text.splitlines():
            line = line.partition(" | ")[2]
            if line.startswith("-- run "):
                assert "could not start" not in line, f"{name}: {line}"
                continue
            if line.startswith("Uid:"):
                runs.append([])
            runs[-1].append(line)
        assert len(runs) == 4, f"{name}: {text}"
        for run in runs[1:]:
            assert run == runs[0], name
