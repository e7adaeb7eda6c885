"""What is wrong with a file is said at once, at its place, with a remedy; and nothing else is raised."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supervisor.compose import ComposeErrors, Loaded, Problem, load_project
from supervisor.compose import keys as key_tables


def load(directory: Path, *texts: str | bytes, **options: object) -> Loaded:
    """Load texts as c0.yaml, c1.yaml ... in a directory."""
    files = []
    for number, text in enumerate(texts):
        file = directory / f"c{number}.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        files.append(str(file))
    arguments: dict[str, object] = {"project_name": "p", "project_dir": str(directory), "env": {}}
    return load_project(files, **(arguments | options))  # type: ignore[arg-type] # options of each test


def problems(directory: Path, *texts: str | bytes, **options: object) -> tuple[Problem, ...]:
    """The problems of files that cannot be loaded."""
    with pytest.raises(ComposeErrors) as raised:
        load(directory, *texts, **options)
    return raised.value.problems


def test_everything_is_reported_at_once_in_order(tmp_path: Path) -> None:
    """Two files, many mistakes of all kinds, one error, each with file:line:column."""
    first = """\
services:
  web:
    comand: x
    restart: allways
    ports: [80:many]
    depends_on: [dbb]
  db:
    command: ${X:?need x}
    cap_add: [NET_ADMN]
"""
    second = """\
services:
  db:
    stop_signal: SIGFOO
    mem_limit: lots
volume: {}
"""
    found = problems(tmp_path, first, second)
    places = [(Path(one.file).name, one.line, one.column, one.path) for one in found]
    assert places == [
        ("c0.yaml", 3, 5, "services.web.comand"),
        ("c0.yaml", 4, 14, "services.web.restart"),
        ("c0.yaml", 5, 13, "services.web.ports[0]"),
        ("c0.yaml", 6, 18, "services.web.depends_on.dbb"),
        ("c0.yaml", 8, 14, "services.db.command"),
        ("c0.yaml", 9, 15, "services.db.cap_add[0]"),
        ("c1.yaml", 3, 18, "services.db.stop_signal"),
        ("c1.yaml", 4, 16, "services.db.mem_limit"),
        ("c1.yaml", 5, 1, "volume"),
    ]
    assert all(one.hint for one in found)
    assert str(found[0]) == (
        f'{tmp_path}/c0.yaml:3:5: unknown key "comand" in a service; did you mean `command`?'
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{restart: allways}", "use one of 'no', 'always', 'on-failure', or 'unless-stopped'", "always"),
        ("{restart: always:3}", "maximum retry count can only be used with 'on-failure'", "on-failure:5"),
        ("{restart: on-failure:-1}", "maximum retry count cannot be negative", "on-failure:5"),
        ("{restart: on-failure:x}", "maximum retry count must be an integer", "on-failure:5"),
        ("{restart: true}", "must be a string, not the boolean true", "unless-stopped"),
        ("{user: 1000}", "must be a string, not the number 1000", '"1000"'),
        ("{environment: }", "must be a mapping, not nothing", "NAME=value"),
        ("{environment: [1]}", "must be a mapping, not a list", "NAME"),
        ("{environment: {A: [x]}}", "services.s.environment.A must be", "quoted"),
        ("{stop_grace_period: 10}", "a duration with its unit, not the number 10", "10s"),
        ("{stop_grace_period: '10'}", '"10" is no duration', "10s"),
        ("{cpus: -1}", "from 0.01", "0.5"),
        ("{mem_limit: 1m}", "minimum memory limit allowed is 6MB", "6m"),
        ("{memswap_limit: 64m}", "needs a memory limit", "mem_limit"),
        ("{mem_limit: 64m, memswap_limit: 32m}", "must not be below mem_limit", "-1"),
        ("{mem_limit: 64m, mem_reservation: 128m}", "above the memory limit", "lower"),
        ("{oom_score_adj: 2000}", "2000 is not between -1000 and 1000", "500"),
        ("{ulimits: {nofiles: 1}}", 'unknown ulimit "nofiles"', "nofile"),
        ("{ulimits: {nofile: {soft: 2, hard: 1}}}", "less than or equal to the hard limit: 2 > 1", "lower"),
        ("{ulimits: {nofile: {soft: 2}}}", "hard is missing", "one number for both"),
        ("{cap_drop: [NET_RAWW]}", 'unknown capability "NET_RAWW"', "NET_RAW"),
        ("{stop_signal: SIGTREM}", 'unknown signal "SIGTREM"', "SIGTERM"),
        (
            "{network_mode: host, sysctls: {net.core.somaxconn: 1}}",
            "not allowed in the host's network",
            "network_mode: none",
        ),
        ("{sysctls: {kernel.panic: 1}}", "not in a separate kernel namespace", "host"),
        ("{sysctls: {x: 1}}", '"x" is no sysctl', "dotted"),
        ("{tmpfs: '/x:sizes=1m'}", 'invalid tmpfs option "sizes=1m"', "size"),
        ("{tmpfs: [/x, '/x:size=1m']}", "already mounted as tmpfs", "remove"),
        ("{tmpfs: /x, volumes: [/x]}", "target /x already mounted", "remove"),
        ("{volumes: [data:/x]}", 'the volume "data" is not declared', "./data"),
        ("{volumes: ['./a:b']}", '"b" is no absolute path', "/b"),
        ("{volumes: ['./a:/']}", "can't be /", "rootfs"),
        ("{volumes: ['./a:/proc/x']}", "inside /proc", "elsewhere"),
        ("{volumes: ['./a:/b:roo']}", 'unknown mount option "roo"', "ro"),
        ("{volumes: ['./a::/b']}", "an empty section between colons", "./data:/data"),
        ("{volumes: [{type: bnd, source: a, target: /b}]}", "is not one of bind, volume, tmpfs", "bind"),
        (
            "{volumes: [{type: image, target: /b}]}",
            "an image mount needs a source",
            "add `source: debian:bookworm`",
        ),
        ("{volumes: [{type: tmpfs, target: /b, bind: {}}]}", "of type tmpfs has no bind options", "remove"),
        ("{devices: [null0]}", "does not name a device by its path", "/dev/fuse"),
        ("{devices: ['/dev/null:/dev/n:r']}", "cannot be kept, only rw and rwm", "mode"),
        ("{network_mode: hots}", "is not one of host, none", "host"),
        ("{logging: {driver: syslog}}", 'not supported yet: logging driver "syslog"', "json-file"),
        ("{logging: {options: {max-sise: 1m}}}", 'unknown key "max-sise"', "max-size"),
        ("{logging: {options: {max-size: -1}}}", "a log is bounded", "10m"),
        ("{security_opt: [no-new-privs]}", "unknown security option", "no-new-privileges"),
        ("{security_opt: [apparmor=x]}", "not supported yet", "seccomp"),
        ("{working_dir: app}", "needs to be an absolute path", "/app"),
        ("{container_name: 'a b'}", "is no container name", "letters"),
        ("{depends_on: {t: {}}}", "condition is missing", "service_started"),
        ("{depends_on: [tt]}", 'depends on undefined service "tt"', "did you mean t?"),
        ("{deploy: {restart_policy: {condition: allways}}}", "is not one of none", "always"),
        (
            "{cpus: 1, deploy: {resources: {limits: {memory: 64m}}}}",
            "can't set distinct values on 'cpus'",
            "remove",
        ),
        ("{build: {ulimits: {nproc: 1}}}", "not supported: `ulimits` in a build", "limits of the host"),
        ("{build: {dockerfil: x}}", 'unknown key "dockerfil" in a build', "dockerfile"),
        ("{build: {privileged: true}}", "not supported: a privileged build", "remove"),
        ("{build: {isolation: hyperv}}", 'not supported: isolation "hyperv"', "Windows"),
        ("{build: {network: mine}}", 'not supported yet: network "mine"', "host or none"),
        ("{build: {secrets: [s]}}", 'the secret "s" is not defined', "secrets: {s: {file: ./token}}"),
        ("{build: {context: 'service:t'}}", '"service:t" has no Dockerfile', "directory"),
        ("{build: {tags: [Bad]}}", "must be lowercase", "name:tag"),
        ("{build: {additional_contexts: {x: 'service:t'}}}", 'unknown service "t"', "has `build`"),
        ("{build: {dockerfile: a, dockerfile_inline: b}}", "exclude each other", "remove one"),
        ("{image: x, pull_policy: sometime}", "is not one of always", "always"),
        ("{image: x, pull_policy: every_3y}", "is not one of always", "every_12h"),
        ("{x-shipkeeper: {rootfss: x}}", 'unknown key "rootfss"', "rootfs"),
        ("{x-shipkeeper: {backoff: {initial: 0s}}}", "must be more than 0", "100ms"),
        ("{x-shipkeeper: {backoff: {initial: 2s, max: 1s}}}", "it is below initial", "initial"),
        ("{x-shipkeeper: {ready: systemd}}", "must be `notify` or a mapping", "{fd: 3}"),
        ("{x-shipkeeper: {ready: {timeout: 3s}}}", "it needs one of notify and fd", "{fd: 3}"),
        ("{x-shipkeeper: {ready: {notify: true, fd: 3}}}", "it needs one of notify and fd", "{fd: 3}"),
        ("{x-shipkeeper: {ready: {fd: 2}}}", "2 is not between 3 and 255", "write 3"),
        ("{x-shipkeeper: {ready: {fd: 3, watchdog: 9s}}}", "a descriptor has no watchdog", "use notify"),
        ("{x-shipkeeper: {ready: {notify: true, timeout: 0s}}}", "it is below 1ms", "write 30s"),
        ("{blkio_config: {weight_device: [{path: /dev/a, weight: 5}]}}", "5 is below 10", "10 to 1000"),
        ("{blkio_config: {device_read_bps: [{path: /dev/a, rate: 0}]}}", "0 is no rate", "write 12m"),
        ("{x-shipkeeper: {backoff: {jitter: 2}}}", "2 is not between 0 and 1", "0.1"),
        ("{x-shipkeeper: {restart_on: [SIGTRM]}}", "neither an exit code nor a signal", "SIGTERM"),
        ("{x-shipkeeper: {restart_on: [256]}}", "256 is no exit code", "0 to 255"),
        (
            "{x-shipkeeper: {restart_on: [1], no_restart_on: [1]}}",
            "in restart_on and in no_restart_on",
            "wins",
        ),
        (
            "{x-shipkeeper: {on_exhausted: stop-projects}}",
            "is not one of ignore, stop-project",
            "stop-project",
        ),
        ("{deploy: {x-shipkeeper: {}}}", "x-shipkeeper has no meaning in deploy", "below a service"),
        ('{command: "a\\0b"}', "a NUL character cannot be part of it", "remove"),
    ],
)
def test_names_the_mistake_and_the_remedy(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """One mistake, one problem, at a place of its line."""
    body = text if "command" in text else text.replace("{", "{entrypoint: x, ", 1)
    (found,) = problems(tmp_path, f"services:\n  s: {body}\n  t: {{command: y}}\n")
    assert message in found.message
    assert hint in found.hint
    assert found.line == 2
    assert found.column > 1
    assert found.path.startswith("services.s")


@pytest.mark.parametrize(
    ("key", "word"),
    [(key, "not supported") for key in sorted(key_tables.SERVICE.refused)]
    + [(key, "not supported yet") for what, key in sorted(key_tables.NOT_YET) if what == "a service"],
)
def test_every_key_that_is_not_built_says_so(tmp_path: Path, key: str, word: str) -> None:
    """Never silently ignored, never called a misspelling."""
    found = problems(tmp_path, f"services:\n  s:\n    command: x\n    {key}: 1\n")
    assert [one.message for one in found] == [f"{word}: `{key}` in a service"]
    assert found[0].hint
    assert (found[0].line, found[0].column) == (4, 5)


def test_the_tables_hold_the_whole_specification() -> None:
    """93 service keys and 9 at the top, as in compose-spec.json; x-shipkeeper is ours."""
    service = (key_tables.SERVICE.known | key_tables.SERVICE.refused.keys()) - {"x-shipkeeper"}
    assert len(service) == 93
    assert not key_tables.SERVICE.known & key_tables.SERVICE.refused.keys()
    assert len(key_tables.TOP.known | key_tables.TOP.refused.keys()) == 9


def test_cycles_are_named(tmp_path: Path) -> None:
    """a -> b -> a, at the dependency that closes it; a service that needs itself too."""
    text = """\
services:
  a: {command: x, depends_on: [b]}
  b: {command: x, depends_on: [c]}
  c:
    command: x
    depends_on:
      - a
  d: {command: x, depends_on: [d]}
"""
    found = problems(tmp_path, text)
    assert [(one.line, one.message) for one in found] == [
        (7, "dependency cycle: a -> b -> c -> a"),
        (8, "dependency cycle: d -> d"),
    ]


def test_container_names_are_used_once(tmp_path: Path) -> None:
    """The second service that wants a name is the wrong one; one that is not enabled does not count."""
    text = "services:\n  a: {command: x, container_name: n1}\n  b: {command: x, container_name: n1%s}\n"
    (found,) = problems(tmp_path, text % "")
    assert (found.line, found.path) == (3, "services.b.container_name")
    assert 'already in use by service "a"' in found.message
    load(tmp_path, text % ", profiles: [p]")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("services:\n  a: {tty: true, tty: false}", (2, 18), 'the key "tty" is already defined in line 2'),
        ("x: &a {b: c}\ny: {<<: *a, <<: *a}", (2, 13), 'the key "<<" is already defined in line 2'),
        ("a: *b", (1, 4), 'unknown anchor "b"'),
        ("a: &a [*a]", (1, 8), "lies inside the value that it names"),
        ("a: {1: b}", (1, 5), "the key 1 is not a string"),
        ("a: !!set {}", (1, 4), "does not fit"),
        ("a: !other x", (1, 4), "unknown tag !other"),
        ("a: {<<: x}", (1, 5), "<< needs a mapping"),
        ("- a", (1, 1), "must be a mapping at its top level"),
        ("a: b: c", (1, 5), "mapping values are not allowed"),
        ("a:\n\tb: c", (2, 1), "cannot parse the file as YAML"),
        ("a: [1,\n", (2, 1), "cannot parse the file as YAML"),
        ("a: b\0c", (1, 5), "control character U+0000"),
        ("ok: 1\na: \x07", (2, 4), "control character U+0007"),
        (b"a: b\nc: caf\xe9", (2, 1), "the byte 0xe9 is not UTF-8"),
        (b"\xff\xfea\0", (1, 1), "is not UTF-8"),
        ("", (0, 0), "it is empty"),
        ("# only a comment\n", (0, 0), "it is empty"),
        ("name: x", (1, 1), "the file has no services"),
    ],
)
def test_bad_yaml_is_one_line_with_its_place(
    tmp_path: Path, text: str | bytes, place: tuple[int, int], message: str
) -> None:
    """Of the file's syntax, types of keys, anchors and encoding."""
    found = problems(tmp_path, text)
    (meant,) = [one for one in found if message in one.message]
    assert (meant.line, meant.column) == place
    assert "\n" not in str(meant)


def _bomb(inner: str) -> bytes:
    lines = ["x0: &x0 {a: b}"]
    lines += [f"x{n}: &x{n} {inner % ', '.join([f'*x{n - 1}'] * 9)}" for n in range(1, 12)]
    return "\n".join(lines).encode()


HUGE: dict[str, Callable[[], bytes]] = {
    "a bomb of aliases": lambda: _bomb("[%s]"),
    "a bomb of merge keys": lambda: _bomb("{<<: [%s]}"),
    "brackets": lambda: b"[" * 2_000_000,
    "braces": lambda: b"{a: " * 1_000_000,
    "dashes": lambda: b"- " * 2_000_000,
    "a long list": lambda: b"- a\n" * 1_000_000,
    "random bytes": lambda: random.Random(1).randbytes(3_000_000),
    "open variables": lambda: b'services: {a: {command: "' + b"${A:-{" * 600_000 + b'}"}}',
    "nested variables": lambda: b'services: {a: {command: "' + b"${A:-" * 500_000 + b"}" * 500_000 + b'"}}',
    "colons": lambda: b'services: {a: {command: x, volumes: ["' + b":" * 4_000_000 + b'"]}}',
    "digits": lambda: b'services: {a: {command: x, mem_limit: "' + b"9" * 4_000_000 + b'"}}',
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HUGE)
def test_hostile_files_end_soon_in_one_line(tmp_path: Path, name: str) -> None:
    """Each takes under a second; the limit leaves room for a busy machine."""
    found = problems(tmp_path, HUGE[name]())
    assert len(found) == 1
    assert len(str(found[0])) < 1000
    assert "\n" not in str(found[0])


def test_a_file_of_fifty_megabytes_is_refused_unread(tmp_path: Path) -> None:
    """By its size, whatever it holds."""
    file = tmp_path / "big.yaml"
    file.write_text("services:\n")
    os.truncate(file, 50_000_000)
    with pytest.raises(ComposeErrors, match="larger than 4 MiB"):
        load_project([str(file)], project_name="p", project_dir=None, env={})


@pytest.mark.timeout(20)
def test_a_long_command_is_read_in_linear_time(tmp_path: Path) -> None:
    """A script of megabytes is odd, but no reason to hang."""
    load(tmp_path, b'services: {a: {command: "' + b"x" * 4_000_000 + b'"}}')


@pytest.mark.parametrize("name", ["missing.yaml", ".", "missing/x.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """With the reason of the system."""
    with pytest.raises(ComposeErrors, match=r"cannot read the Compose file: (no such file|is a directory)"):
        load_project([str(tmp_path / name)], project_name="p", project_dir=None, env={})


def test_mistakes_behind_an_anchor_are_reported_once(tmp_path: Path) -> None:
    """Where they were written, however often they are used."""
    text = "x-a: &a {restart: nope}\nservices:\n  a: {<<: *a, command: x}\n  b: {<<: *a, command: x}\n"
    (found,) = problems(tmp_path, text)
    assert (found.line, found.column) == (1, 19)


def test_merging_different_shapes_is_an_error_at_the_second(tmp_path: Path) -> None:
    """A mapping cannot be merged into a list."""
    first = "services:\n  a: {command: x, cap_add: [ALL]}\n"
    found = problems(tmp_path, first, "services:\n  a: {cap_add: {x: y}}\n")
    assert (Path(found[0].file).name, found[0].line, found[0].column) == ("c1.yaml", 2, 16)
    assert "cannot override services.a.cap_add" in found[0].message


WARNINGS = [
    ("version: '3'\nservices: {a: {command: x, network_mode: none}}", "obsolete", 1),
    ("services: {a: {command: $NOPE x, network_mode: none}}", '"NOPE" is not set', 1),
    ("services: {a: {command: 'x; y', network_mode: none}}", 'ends before "; y"', 1),
    ("services: {a: {command: x, environment: {V: 1.10}, network_mode: none}}", "1.10 is read as 1.1", 1),
    ("services: {a: {command: x, environment: {D: 2024-01-02}, network_mode: none}}", "as a date", 1),
    ("services: {a: {command: x, tty: yes, network_mode: none}}", "not supported by YAML 1.2", 1),
    ("services:\n  a: {command: x, volumes: ['./a:/a:z'], network_mode: none}", "SELinux", 2),
]


@pytest.mark.parametrize(("text", "message", "line"), WARNINGS)
def test_doubtful_things_are_warnings(tmp_path: Path, text: str, message: str, line: int) -> None:
    """The project loads, and says what was probably not meant."""
    (found,) = load(tmp_path, text).warnings
    assert message in found.message
    assert found.line == line


def _yaml(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    word = st.sampled_from(
        sorted(key_tables.SERVICE.known | {"services", "volumes", "name", "<<", "x-a", "a", "b"})
    )
    return st.one_of(
        st.lists(children, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(word, children), max_size=5).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
        ),
    )


_SCALARS = """x|1|-1|1.5|true|null|''|'./a:/b:ro'|'${A:-b}'|'${'|'a;b'|10s|64m|!reset x|&a y|*a|always
on-failure:3|a|b|SIGTERM|[a]|{a: b}|{type: bind}|2024-01-02"""
_scalars = st.sampled_from(_SCALARS.replace("\n", "|").split("|"))
_services = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c d"]),
        st.lists(
            st.tuples(
                st.sampled_from(sorted(key_tables.SERVICE.known)), st.recursive(_scalars, _yaml, max_leaves=8)
            ),
            max_size=6,
        ),
    ),
    max_size=3,
).map(
    lambda services: (
        "services:\n"
        + "".join(
            f"  {name}:\n" + "".join(f"    {key}: {value}\n" for key, value in entries)
            for name, entries in services
        )
    )
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=200), st.recursive(_scalars, _yaml), _services),
    _services,
)
@example(b"\x85", "services: {a: {command: x}}")
@example("services: {a: {<<: [&x {b: c}, *x]}}", "")
@example("services: {b: {extra_hosts: []}}", "services: {b: {extra_hosts: [[]]}}")
def test_no_input_raises_anything_but_compose_errors(tmp_path: Path, first: str | bytes, second: str) -> None:
    """Random bytes, random text and random YAML of known keys: a project, or problems of one line each."""
    text = first if isinstance(first, bytes) else first.encode("utf-8", "surrogatepass")
    try:
        load(tmp_path, text, second)
    except ComposeErrors as errors:
        assert errors.problems
        assert all("\n" not in str(problem) for problem in errors.problems)
