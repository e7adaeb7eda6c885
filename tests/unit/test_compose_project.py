"""What a file means: the model of its services, merging, names, variables, profiles, printing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.compose import (
    ComposeError,
    ComposeErrors,
    Loaded,
    config_document,
    find_files,
    load_project,
    to_yaml,
)
from supervisor.core.model import (
    Backoff,
    Dependency,
    Device,
    Limits,
    Logging,
    Mount,
    Policy,
    RestartRules,
    Rootfs,
    SecurityOptions,
    ServiceSpec,
    Ulimit,
    Volume,
)
from supervisor.core.network import Attachment


def load(directory: Path, *texts: str, **options: object) -> Loaded:
    """Load texts as c0.yaml, c1.yaml ... in a directory."""
    files = []
    for number, text in enumerate(texts):
        (directory / f"c{number}.yaml").write_text(text)
        files.append(str(directory / f"c{number}.yaml"))
    arguments: dict[str, object] = {"project_name": None, "project_dir": None, "env": {"HOME": "/home/me"}}
    return load_project(files, **(arguments | options))  # type: ignore[arg-type] # options of each test


def service(directory: Path, body: str, **options: object) -> ServiceSpec:
    """The one service of a file, with `body` as its flow mapping."""
    text = body if "command" in body or "entrypoint" in body else body.replace("{", "{command: x, ", 1)
    loaded = load(
        directory,
        f"name: p\nservices: {{s: {text}}}\nvolumes: {{data: , far: {{external: true}}}}",
        **options,
    )
    return loaded.project.services[0]


def test_everything_that_a_service_may_have(tmp_path: Path) -> None:
    """One service with every key, and what the model has of it."""
    (tmp_path / "e.env").write_text("FROM_FILE=1\nTWICE=file\n")
    text = """
name: demo
services:
  db: {command: [postgres]}
  web:
    command: serve --port 80
    entrypoint: [/bin/tini, --]
    environment: {TWICE: written, NUMBER: 1, EMPTY: '', FROM_SHELL: , NOWHERE: }
    env_file: e.env
    working_dir: /app
    user: app:app
    group_add: [audio, 1000]
    hostname: box
    container_name: web-1
    init: true
    tty: true
    stdin_open: true
    read_only: true
    tmpfs: ['/run:size=64m,mode=1770,uid=5,noexec']
    volumes:
      - ./src:/src:ro
      - data:/data
      - /anonymous
      - {type: bind, source: ~/x, target: /x, bind: {create_host_path: false, propagation: rslave}}
      - {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0o700}}
    restart: on-failure:4
    mem_limit: 64m
    memswap_limit: 128m
    mem_reservation: 32m
    cpus: 1.5
    cpu_shares: 512
    pids_limit: 20
    ulimits: {nofile: 1024, nproc: {soft: 1, hard: -1}}
    oom_score_adj: 100
    cap_add: [NET_ADMIN]
    cap_drop: [ALL]
    security_opt: [no-new-privileges:false, seccomp=./profile.json]
    devices: ['/dev/fuse:/dev/f:rw']
    sysctls: [kernel.shmmax=1]
    stop_signal: SIGINT
    stop_grace_period: 1m30s
    labels: {a: 1, b: }
    depends_on: [db]
    profiles: [p]
    network_mode: host
    logging: {driver: local, options: {max-size: 5m, max-file: '2'}}
    x-shipkeeper: {rootfs: ./root.tar.zst}
volumes: {data: {labels: {l: m}}, unused: }
"""
    loaded = load(tmp_path, text, profiles=["p"], env={"HOME": "/home/me", "FROM_SHELL": "shell"})
    web = loaded.project.service("web")
    assert web == ServiceSpec(
        name="web",
        command=("serve", "--port", "80"),
        entrypoint=("/bin/tini", "--"),
        environment=(
            ("EMPTY", ""),
            ("FROM_FILE", "1"),
            ("FROM_SHELL", "shell"),
            ("NUMBER", "1"),
            ("TWICE", "written"),
        ),
        working_dir="/app",
        user="app:app",
        group_add=("audio", "1000"),
        hostname="box",
        container_name="web-1",
        init=True,
        tty=True,
        stdin_open=True,
        read_only=True,
        rootfs=Rootfs("archive", f"{tmp_path}/root.tar.zst"),
        mounts=(
            Mount(
                "tmpfs",
                "/run",
                tmpfs_size_bytes=64 << 20,
                tmpfs_mode=0o1770,
                tmpfs_options=("uid=5", "noexec"),
            ),
            Mount("bind", "/src", f"{tmp_path}/src", read_only=True),
            Mount("volume", "/data", "demo_data"),
            Mount("volume", "/anonymous"),
            Mount("bind", "/x", "/home/me/x", create_host_path=False, propagation="rslave"),
            Mount("tmpfs", "/t", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o700),
        ),
        devices=(Device("/dev/fuse", "/dev/f", "rw"),),
        restart=RestartRules(Policy.ON_FAILURE, 4),
        limits=Limits(64 << 20, 128 << 20, 32 << 20, 1.5, 512, 20),
        ulimits=(Ulimit("nofile", 1024, 1024), Ulimit("nproc", 1, -1)),
        oom_score_adj=100,
        cap_add=("NET_ADMIN",),
        cap_drop=("ALL",),
        security=SecurityOptions(no_new_privileges=False, seccomp=f"{tmp_path}/profile.json"),
        sysctls=(("kernel.shmmax", "1"),),
        stop_signal="SIGINT",
        stop_grace_s=90.0,
        labels=(("a", "1"), ("b", "")),
        depends_on=(Dependency("db"),),
        network_mode="host",
        profiles=("p",),
        logging=Logging(5_000_000, 2),
    )
    assert loaded.project.volumes == (Volume("data", "demo_data", labels=(("l", "m"),)),)
    assert loaded.project.config_files == (f"{tmp_path}/c0.yaml",)
    assert loaded.project.working_dir == str(tmp_path)


def test_a_bare_service_has_docker_s_defaults(tmp_path: Path) -> None:
    """Nothing but a command: the model's own defaults."""
    networks = {"network_mode": "bridge", "networks": (Attachment("p_default"),)}
    spec = ServiceSpec("s", command=("sleep", "5"), **networks)  # type: ignore[arg-type]
    assert service(tmp_path, "{command: sleep 5}") == spec


ALWAYS = RestartRules(Policy.ALWAYS)
NEVER_RESET = 3_153_600_000.0

RESTARTS = [
    ("restart: 'no'", RestartRules()),
    ("restart: no", RestartRules()),
    ("restart: false", RestartRules()),
    ("restart: always", ALWAYS),
    ("restart: unless-stopped", RestartRules(Policy.UNLESS_STOPPED)),
    ("restart: on-failure", RestartRules(Policy.ON_FAILURE)),
    ("restart: on-failure:0", RestartRules(Policy.ON_FAILURE)),
    ("restart: on-failure:5", RestartRules(Policy.ON_FAILURE, 5)),
    ("deploy: {restart_policy: {condition: none}}", RestartRules()),
    ("deploy: {restart_policy: {condition: any}}", ALWAYS),
    ("deploy: {restart_policy: {}}", ALWAYS),
    (
        "restart: 'no', deploy: {restart_policy: {condition: on-failure, max_attempts: 2}}",
        RestartRules(Policy.ON_FAILURE, 2),
    ),
    ("restart: on-failure:5, deploy: {restart_policy: {condition: any}}", ALWAYS),
    (
        "deploy: {restart_policy: {condition: on-failure, delay: 5s, max_attempts: 0, window: 2m}}",
        RestartRules(Policy.ON_FAILURE, None, 120.0, Backoff(5.0, 1.0, 5.0, NEVER_RESET)),
    ),
    (
        "restart: always, x-shipkeeper: {backoff: {initial: 1s, factor: 3, max: 9s, reset_after: 1m, jitter: 0.5}}",  # noqa: E501 - one case a line
        RestartRules(Policy.ALWAYS, backoff=Backoff(1.0, 3.0, 9.0, 60.0, 0.5)),
    ),
    (
        "restart: always, x-shipkeeper: {backoff: {initial: 2m}}",
        RestartRules(Policy.ALWAYS, backoff=Backoff(120.0, 2.0, 120.0)),
    ),
    (
        "restart: on-failure:5, x-shipkeeper: {max_attempts: 9, window: 10m, on_exhausted: stop-project, resume_after: 30m}",  # noqa: E501 - one case a line
        RestartRules(Policy.ON_FAILURE, 9, 600.0, on_exhausted="stop-project", resume_after_s=1800.0),
    ),
    (
        "restart: always, x-shipkeeper: {restart_on: [SIGTERM, 3, '4'], no_restart_on: [kill, 0, SIGRTMIN+1]}",  # noqa: E501 - one case a line
        RestartRules(Policy.ALWAYS, restart_on=(3, 4, 143), no_restart_on=(0, 137, 163)),
    ),
]


@pytest.mark.parametrize(("keys", "rules"), RESTARTS)
def test_restart_rules_come_from_three_keys(tmp_path: Path, keys: str, rules: RestartRules) -> None:
    """restart, deploy.restart_policy over it as `docker compose up` has it, x-shipkeeper over both."""
    assert service(tmp_path, f"{{{keys}}}").restart == rules


@pytest.mark.parametrize(
    ("keys", "limits"),
    [
        ("mem_limit: -1, pids_limit: -1, cpus: 0", Limits()),
        ("mem_limit: 64m, memswap_limit: -1", Limits(64 << 20, -1)),
        (
            "deploy: {resources: {limits: {cpus: '0.5', memory: 64M, pids: 9}}}",
            Limits(64 << 20, cpus=0.5, pids=9),
        ),
        ("deploy: {resources: {reservations: {memory: 8m}}}", Limits(memory_reservation_bytes=8 << 20)),
        ("cpus: 0.5, deploy: {resources: {limits: {cpus: 0.5}}}", Limits(cpus=0.5)),
    ],
)
def test_limits_come_from_either_place(tmp_path: Path, keys: str, limits: Limits) -> None:
    """0 and -1 are without limit."""
    assert service(tmp_path, f"{{{keys}}}").limits == limits


def test_privileged_lifts_no_new_privileges(tmp_path: Path) -> None:
    """As Docker, which sets it for no privileged container."""
    assert not service(tmp_path, "{privileged: true}").security.no_new_privileges


@pytest.mark.parametrize(
    ("volume", "mount"),
    [
        ("v:/d", None),  # one letter is a name on Linux, no drive
        ("far:/d", Mount("volume", "/d", "far")),
        ("'../up/./x:/d/../e/'", "up"),
        ("'./a:/d:ro,rw'", "rw"),
    ],
)
def test_short_volumes(tmp_path: Path, volume: str, mount: object) -> None:
    """The corners of the short form."""
    if volume == "v:/d":
        loaded = load(tmp_path, "name: p\nservices: {s: {command: x, volumes: ['v:/d']}}\nvolumes: {v: }")
        assert loaded.project.services[0].mounts == (Mount("volume", "/d", "p_v"),)
        return
    (found,) = service(tmp_path, f"{{volumes: [{volume}]}}").mounts
    if mount == "up":
        assert found == Mount("bind", "/e", f"{tmp_path.parent}/up/x")
    elif mount == "rw":
        assert not found.read_only
    else:
        assert found == mount


def test_a_later_mount_of_a_target_wins_in_the_earlier_place(tmp_path: Path) -> None:
    """Within a file and over files, short or long."""
    spec = service(
        tmp_path, "{volumes: ['./a:/same', './b:/other', {type: bind, source: ./c, target: /same/}]}"
    )
    assert [(mount.target, mount.source) for mount in spec.mounts] == [
        ("/same", f"{tmp_path}/c"),
        ("/other", f"{tmp_path}/b"),
    ]


def test_files_merge_by_the_rules_of_the_specification(tmp_path: Path) -> None:
    """Mappings merge, lists append, command and entrypoint and ulimits are replaced, each env entry wins."""
    first = """
services:
  s:
    command: [a, b]
    environment: [A=1, B=2, C=3]
    labels: {x: "1", y: "2"}
    cap_add: [NET_ADMIN]
    volumes: ['./one:/v', './keep:/k']
    depends_on: [d]
    ulimits: {nofile: {soft: 1, hard: 2}}
    logging: {driver: local, options: {max-file: 5}}
    tmpfs: /a
    stop_signal: SIGINT
    hostname: gone
  d: {command: y}
"""
    second = """
services:
  s:
    command: [c]
    environment: {B: two, C: , D: 4}
    labels: [y=zwei]
    cap_add: [NET_ADMIN, CHOWN]
    volumes: [{type: bind, source: ./other, target: /v}]
    depends_on: {e: {condition: service_started, restart: true}}
    ulimits: {nofile: 9}
    logging: {driver: json-file}
    tmpfs: [/b]
    stop_signal:
    hostname: !reset null
    profiles: !override []
  e: {command: z}
"""
    spec = load(tmp_path, first, second).project.service("s")
    assert spec.command == ("c",)
    assert dict(spec.environment) == {"A": "1", "B": "two", "D": "4"}
    assert spec.labels == (("x", "1"), ("y", "zwei"))
    assert spec.cap_add == ("NET_ADMIN", "CHOWN")
    assert [(mount.target, mount.source) for mount in spec.mounts] == [
        ("/a", None),
        ("/b", None),
        ("/v", f"{tmp_path}/other"),
        ("/k", f"{tmp_path}/keep"),
    ]
    assert spec.depends_on == (Dependency("d"), Dependency("e", restart=True))
    assert spec.ulimits == (Ulimit("nofile", 9, 9),)
    assert spec.logging == Logging()
    assert spec.stop_signal == "SIGINT"
    assert spec.hostname is None


def test_override_replaces_instead_of_merging(tmp_path: Path) -> None:
    """!override on a mapping and on a list; !reset of one entry of a base in list form."""
    first = "services: {s: {command: x, environment: [A=1, B=2], cap_add: [CHOWN], labels: {a: b}}}"
    second = (
        "services: {s: {environment: {A: !reset null}, cap_add: !override [KILL], labels: !override {c: d}}}"
    )
    spec = load(tmp_path, first, second).project.services[0]
    assert spec.environment == (("B", "2"),)
    assert spec.cap_add == ("KILL",)
    assert spec.labels == (("c", "d"),)


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    """An anchor may be defined twice; the first of several sources wins, and over all what stands beside."""
    text = """
x-a: &a {tty: true, stop_signal: SIGINT, user: a}
x-b: &b {stop_signal: SIGHUP, hostname: b}
x-c: &a {tty: false, stop_signal: SIGUSR1, user: c}
services:
  s: {<<: [*a, *b], user: own, command: x}
"""
    spec = load(tmp_path, text).project.services[0]
    assert (spec.tty, spec.stop_signal, spec.user, spec.hostname) == (False, "SIGUSR1", "own", "b")


def test_a_shared_anchor_is_not_changed_by_merging(tmp_path: Path) -> None:
    """An override of one service leaves the other, which shares a list with it, alone."""
    first = "x-c: &c [CHOWN]\nservices: {a: {command: x, cap_add: *c}, b: {command: x, cap_add: *c}}"
    project = load(tmp_path, first, "services: {a: {cap_add: [KILL]}}").project
    assert project.service("a").cap_add == ("CHOWN", "KILL")
    assert project.service("b").cap_add == ("CHOWN",)


@pytest.mark.parametrize(
    ("options", "name_key", "expected"),
    [
        ({"project_name": "given"}, "name: written", "given"),
        ({"env": {"COMPOSE_PROJECT_NAME": "fromenv"}}, "name: written", "fromenv"),
        ({}, "name: Writ.ten-${V:-1}", "written-1"),
        ({}, "", "myproj_x-1"),
    ],
)
def test_the_project_is_named_by_precedence(
    tmp_path: Path, options: dict[str, object], name_key: str, expected: str
) -> None:
    """-p, COMPOSE_PROJECT_NAME, name:, directory; the last two are brought into form."""
    directory = tmp_path / "_My.Proj_X-1"
    directory.mkdir()
    loaded = load(directory, f"{name_key}\nservices: {{s: {{command: $COMPOSE_PROJECT_NAME}}}}", **options)
    assert loaded.project.name == expected
    assert loaded.project.services[0].command == (expected,)


def test_a_wrong_project_name_is_an_error(tmp_path: Path) -> None:
    """What a person gives is not silently changed."""
    with pytest.raises(ComposeErrors, match=r'invalid project name "My P".*write -p myp'):
        load(tmp_path, "services: {s: {command: x}}", project_name="My P")


def test_variables_by_precedence(tmp_path: Path) -> None:
    """Shell over --env-file (later over earlier) or .env; .env only where no file is named."""
    (tmp_path / ".env").write_text("A=dot\nB=dot\nC=${A}-c\n")
    (tmp_path / "one.env").write_text("B=one\nD=one\n")
    (tmp_path / "two.env").write_text("D=two\n")
    text = "services: {s: {command: '$A $B $C ${D:-none}'}}"
    env = {"A": "shell"}
    assert load(tmp_path, text, env=env).project.services[0].command == ("shell", "dot", "shell-c", "none")
    files = [str(tmp_path / "one.env"), str(tmp_path / "two.env")]
    found = load(tmp_path, text, env=env, env_files=files).project.services[0].command
    assert found == ("shell", "one", "two")
    off = env | {"COMPOSE_DISABLE_ENV_FILE": "1"}
    assert load(tmp_path, text, env=off).project.services[0].command == ("shell", "none")


def test_env_file_is_for_the_service_only(tmp_path: Path) -> None:
    """environment over env_file, later over earlier; values see the project first; YAML never sees them."""
    (tmp_path / ".env").write_text("A=dot\n")
    (tmp_path / "1.env").write_text("A=file\nS=${A}-x\nOWN=1\nT=${OWN}2\nLATER=1\nBARE\n")
    (tmp_path / "2.env").write_text('LATER=2\nR="raw"\n')
    text = """
services:
  s:
    command: "${OWN:-unseen}"
    env_file: [1.env, {path: 2.env, format: raw}, {path: missing.env, required: false}]
    environment: {E: "1", A: , UNSET: }
"""
    spec = load(tmp_path, text, env={"BARE": "b"}).project.services[0]
    assert spec.command == ("unseen",)
    assert dict(spec.environment) == {
        "A": "dot",
        "S": "dot-x",
        "OWN": "1",
        "T": "12",
        "LATER": "2",
        "BARE": "b",
        "R": '"raw"',
        "E": "1",
    }


def test_wrong_env_files_are_errors_at_their_place(tmp_path: Path) -> None:
    """A missing one where it is named, a wrong line in the file itself; a disabled service's are not read."""
    (tmp_path / "bad.env").write_text("A=1\n!=2\n")
    text = """\
services:
  s: {command: x, env_file: [gone.env, bad.env]}
  t: {command: x, env_file: gone2.env, profiles: [p]}
"""
    with pytest.raises(ComposeErrors) as raised:
        load(tmp_path, text)
    found = [(Path(one.file).name, one.line, one.column) for one in raised.value.problems]
    assert found == [("c0.yaml", 2, 30), ("bad.env", 2, 1)]


PROFILES = """
services:
  a: {command: x, depends_on: [b]}
  b: {command: x}
  c: {command: x, profiles: [p, q], depends_on: [d]}
  d: {command: x, profiles: [p]}
  e: {command: x, depends_on: {d: {condition: service_started, required: false}}}
"""


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "abe"),
        ({"profiles": ["p"]}, "abcde"),
        ({"profiles": ["*"]}, "abcde"),
        ({"profiles": ["other"]}, "abe"),
        ({"env": {"COMPOSE_PROFILES": "x, p"}}, "abcde"),
        ({"services": ["a"]}, "ab"),
        ({"services": ["b"]}, "b"),
        ({"services": ["c"]}, "cd"),
        ({"services": ["d", "b"]}, "bd"),
        ({"services": ["e"], "profiles": ["p"]}, "de"),
    ],
)
def test_services_are_chosen_by_profiles_and_names(
    tmp_path: Path, options: dict[str, object], names: str
) -> None:
    """Naming a service enables its profiles and takes what it depends on along."""
    loaded = load(tmp_path, PROFILES, **options)
    assert "".join(spec.name for spec in loaded.project.services) == names
    assert [spec.name for spec in loaded.all_services] == ["a", "b", "c", "d", "e"]
    for spec in loaded.project.services:
        assert all(need.service in names for need in spec.depends_on)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"services": ["aa"]}, 'no such service: "aa"; did you mean a?'),
        ({"profiles": ["q"]}, 'service "c" depends on "d", which is not enabled .*--profile p'),
    ],
)
def test_wrong_choices_are_errors(tmp_path: Path, options: dict[str, object], message: str) -> None:
    """An unknown service, and a dependency whose profile is not active."""
    with pytest.raises(ComposeErrors, match=message):
        load(tmp_path, PROFILES, **options)


def test_relative_paths_start_at_the_first_file_or_the_project_directory(tmp_path: Path) -> None:
    """Also those of the second file."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text("services: {s: {command: x}}")
    (tmp_path / "sub/b.yaml").write_text("services: {s: {volumes: ['./d:/d'], x-shipkeeper: {rootfs: r}}}")
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "sub/b.yaml")]
    spec = load_project(files, project_name=None, project_dir=None, env={}).project.services[0]
    assert (spec.mounts[0].source, spec.rootfs) == (f"{tmp_path}/d", Rootfs("directory", f"{tmp_path}/r"))
    spec = load_project(files, project_name=None, project_dir="/else", env={}).project.services[0]
    assert spec.mounts[0].source == "/else/d"


def _touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_text("services: {}")


def test_finds_the_files_of_the_nearest_directory(tmp_path: Path) -> None:
    """compose.yaml before its other names, with the override twin, upward from the working directory."""
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    _touch(tmp_path, "docker-compose.yaml", "docker-compose.yml", "compose.override.yml")
    assert find_files(str(below), {}) == [
        f"{tmp_path}/docker-compose.yml",
        f"{tmp_path}/compose.override.yml",
    ]
    _touch(tmp_path, "compose.yml", "compose.yaml")
    assert find_files(str(below), {})[0] == f"{tmp_path}/compose.yaml"
    _touch(below, "compose.yml")
    assert find_files(str(below), {}) == [f"{below}/compose.yml"]


def test_compose_file_names_the_files(tmp_path: Path) -> None:
    """From the shell or from .env, with a separator of choice."""
    _touch(tmp_path, "compose.yaml")
    assert find_files(str(tmp_path), {"COMPOSE_FILE": "x.yaml:/y.yaml"}) == [f"{tmp_path}/x.yaml", "/y.yaml"]
    env = {"COMPOSE_FILE": "x.yaml,-", "COMPOSE_PATH_SEPARATOR": ","}
    assert find_files(str(tmp_path), env) == [f"{tmp_path}/x.yaml", "-"]
    (tmp_path / ".env").write_text("COMPOSE_FILE=dot.yaml\n")
    assert find_files(str(tmp_path), {}) == [f"{tmp_path}/dot.yaml"]


def test_no_file_at_all_says_what_to_do(tmp_path: Path) -> None:
    """One line with the names that are looked for."""
    with pytest.raises(ComposeError, match=r"cannot find a Compose file: .*compose\.yaml.* -f FILE"):
        find_files(str(tmp_path), {})


ROUND_TRIPS = [
    "services: {s: {command: 'x $$HOME', environment: {A: 'yes', B: '08', C: '1e3', D: '$$x', E: '', F: '0644'}}}",  # noqa: E501 - one case a line
    "services: {s: {command: x, environment: {A: '2024-01-02', B: \"a\\nb\", C: ' x ', D: '~', E: 'null', F: é}}}",  # noqa: E501 - one case a line
    "services: {s: {command: x, volumes: ['./a:/a:ro', 'data:/d', /anon, {type: tmpfs, target: /t}]}}\nvolumes: {data: }",  # noqa: E501 - one case a line
    "services: {s: {command: x, tmpfs: '/r:size=1m', devices: ['/dev/null:/dev/n'], ulimits: {nofile: 5}}}",
    "services: {s: {command: x, restart: on-failure:3, x-shipkeeper: {backoff: {initial: 1.5s, jitter: 0.2}}}}",  # noqa: E501 - one case a line
    "services: {s: {command: x, x-shipkeeper: {rootfs: ./r, restart_on: [SIGTERM], window: 1h, max_attempts: 3}}}",  # noqa: E501 - one case a line
    "services: {s: {command: x, deploy: {restart_policy: {delay: 5s}, resources: {limits: {memory: 64m}}}}}",
    "services: {s: {command: x, mem_limit: 64m, cpus: 0.5, depends_on: [t]}, t: {command: y, network_mode: none}}",  # noqa: E501 - one case a line
    "services: {s: {command: x, logging: {options: {max-size: 5m, max-file: 2}}, stop_grace_period: 90s}}",
    "services: {s: {command: ['sh', '-c', 'a; b'], entrypoint: [], privileged: true, labels: {a: '$$b'}}}\nx-top: {a: 1}",  # noqa: E501 - one case a line
]


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_what_config_prints_loads_as_the_same_project(tmp_path: Path, text: str) -> None:
    """YAML and JSON; printing is a fixed point."""
    first = load(tmp_path, text, project_name="p")
    document = config_document(first)
    printed = to_yaml(document)
    again = load(tmp_path, printed, project_name="p")
    assert again.project == first.project
    assert to_yaml(config_document(again)) == printed
    assert load(tmp_path, json.dumps(document), project_name="p").project == first.project


def test_the_project_is_made_of_plain_frozen_values(tmp_path: Path) -> None:
    """So that it can be hashed."""
    assert hash(load(tmp_path, ROUND_TRIPS[2]).project)


def test_an_image_needs_no_command_and_is_named_in_full(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services: {web: {image: 'nginx:1.27', network_mode: none}}\n")
    loaded = load_project([str(file)], project_name=None, project_dir=None, env={})
    (spec,) = loaded.project.services
    assert (spec.rootfs.kind, spec.rootfs.path) == ("image", "docker.io/library/nginx:1.27")
    assert config_document(loaded)["services"]["web"]["image"] == "nginx:1.27"


def test_a_root_of_ones_own_replaces_the_image(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "services:\n  web: {image: x, command: sleep 1, network_mode: none, x-shipkeeper: {rootfs: ./root}}\n"
    )
    (spec,) = load_project([str(file)], project_name=None, project_dir=None, env={}).project.services
    assert (spec.rootfs.kind, spec.rootfs.path) == ("directory", f"{tmp_path}/root")


def test_a_wrong_name_of_an_image_is_named_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services:\n  web: {image: Nginx, network_mode: none}\n")
    with pytest.raises(ComposeErrors, match=r"compose.yaml:2:16: .*must be lowercase"):
        load_project([str(file)], project_name=None, project_dir=None, env={})
