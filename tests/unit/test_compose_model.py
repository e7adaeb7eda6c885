"""Keys whose executing part may be missing yet: what the model has of them, with everything built in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.cli.following import Wish, is_shown
from supervisor.cli.main import cli
from supervisor.compose import ComposeErrors, Loaded, load_project, merged_document
from supervisor.core.grants import FileGrant, FileSource
from supervisor.core.healthcheck import Healthcheck, Hook, Hooks, Probe, Ready
from supervisor.core.model import Dependency, DeviceLimit, Limits, Mount, ServiceSpec, Update, Volume
from supervisor.core.network import Attachment, Network, Pool, Port, Resolver

ENV = {"HOME": "/home/me", "TOKEN": "t"}


def load(directory: Path, text: str, **files: str) -> Loaded:
    """A project with everything built in; `files` beside it, `__` in a name is a directory."""
    (directory / "c.yaml").write_text(text)
    for name, content in files.items():
        path = directory / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return load_project([str(directory / "c.yaml")], project_name="p", project_dir=None, env=ENV, not_yet={})


def service(directory: Path, body: str, rest: str = "") -> ServiceSpec:
    """The service `s`."""
    return load(
        directory, f"services:\n  s: {{image: x, {body}}}\n  v: {{image: x}}\n{rest}"
    ).project.service("s")


def problems(directory: Path, text: str, **files: str) -> list[tuple[str, int, str]]:
    """(file, line, message) of each."""
    with pytest.raises(ComposeErrors) as raised:
        load(directory, text, **files)
    return [(Path(one.file).name, one.line, one.message) for one in raised.value.problems]


def test_a_service_that_says_nothing_is_in_the_default_network(tmp_path: Path) -> None:
    """Unless it names a mode; what is declared and not used is no part of the project."""
    loaded = load(
        tmp_path,
        "services:\n  a: {image: x}\n  b: {image: x, network_mode: host}\n  c: {image: x, networks: {}}\n"
        "networks: {unused: {}, default: {driver_opts: {o: 1}}}\n",
    )
    a, b, c = loaded.project.services
    assert (a.network_mode, a.networks) == ("bridge", (Attachment("p_default"),))
    assert (b.network_mode, b.networks) == ("host", ())
    assert c.networks == a.networks
    assert loaded.project.networks == (Network("default", "p_default", driver_opts=(("o", "1"),)),)


def test_networks_and_places_in_them(tmp_path: Path) -> None:
    """Every key of both; places stand by their priority."""
    text = """\
services:
  s:
    image: x
    mac_address: 02:42:ac:11:00:02
    networks:
      back:
      front:
        aliases: [web, web]
        ipv4_address: 10.1.0.5
        ipv6_address: fd00::5
        link_local_ips: [169.254.1.1]
        interface_name: eth7
        driver_opts: {a: 1}
        priority: 10
        gw_priority: 3
networks:
  back: {external: true, name: far}
  front:
    internal: true
    attachable: true
    enable_ipv6: true
    enable_ipv4: false
    labels: {a: b}
    ipam:
      config:
        - {subnet: 10.1.0.0/16, gateway: 10.1.0.9, ip_range: 10.1.2.0/24, aux_addresses: {h: 10.1.0.7}}
"""
    loaded = load(tmp_path, text)
    assert loaded.project.services[0].networks == (
        Attachment(
            "p_front",
            ("web",),
            "10.1.0.5",
            "fd00::5",
            ("169.254.1.1",),
            "02:42:ac:11:00:02",
            "eth7",
            (("a", "1"),),
            10,
            3,
        ),
        Attachment("far"),
    )
    pool = Pool("10.1.0.0/16", "10.1.0.9", "10.1.2.0/24", (("h", "10.1.0.7"),))
    assert loaded.project.networks == (
        Network("back", "far", external=True),
        Network(
            "front",
            "p_front",
            internal=True,
            attachable=True,
            ipv4=False,
            ipv6=True,
            pools=(pool,),
            labels=(("a", "b"),),
        ),
    )


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [Port(80)]),
        ("'8080:80/udp'", [Port(80, "udp", (8080, 8080))]),
        ("'127.0.0.1::53'", [Port(53, host_ip="127.0.0.1")]),
        ("'[::1]:6000:6001'", [Port(6001, published=(6000, 6000), host_ip="::1")]),
        ("'8000-8002:80'", [Port(80, published=(8000, 8002))]),
        ("'1000-1001:2000-2001'", [Port(2000, published=(1000, 1000)), Port(2001, published=(1001, 1001))]),
        (
            "{target: 80, published: '1-2', mode: host, name: w, app_protocol: http}",
            [Port(80, published=(1, 2), mode="host", name="w", app_protocol="http")],
        ),
        ("'0:80'", [Port(80)]),
    ],
)
def test_ports(tmp_path: Path, text: str, ports: list[Port]) -> None:
    """Short and long forms; a range of the host alone is a choice, 0 is any."""
    assert list(service(tmp_path, f"ports: [{text}]").ports) == ports


def test_finding_others(tmp_path: Path) -> None:
    """DNS, hosts and links; a link is a dependency, too."""
    found = service(
        tmp_path,
        "dns: 1.1.1.1, dns_search: [a.b], dns_opt: [use-vc], domainname: d.e, expose: [80],"
        " extra_hosts: {h: ['1.2.3.4', '::1'], g: host-gateway}, links: ['v:q'], external_links: [far]",
    )
    assert found.resolver == Resolver(
        ("1.1.1.1",),
        ("a.b",),
        ("use-vc",),
        "d.e",
        (("h", "1.2.3.4"), ("h", "::1"), ("g", "host-gateway")),
        (("v", "q"), ("far", "far")),
    )
    assert found.depends_on == (Dependency("v", restart=True),)
    assert found.expose == ("80",)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("healthcheck: {test: a b}", Healthcheck(Probe("command", ("/bin/sh", "-c", "a b")))),
        (
            "healthcheck: {test: [CMD, a, b], interval: 5s, timeout: 1500ms, retries: 2, start_period: 1m}",
            Healthcheck(
                Probe("command", ("a", "b")), interval_s=5, timeout_s=1.5, retries=2, start_period_s=60
            ),
        ),
        ("healthcheck: {interval: 5s}", Healthcheck(interval_s=5)),
        ("healthcheck: {interval: 0s, retries: 0}", Healthcheck()),
        ("healthcheck: {test: [NONE]}", Healthcheck(disabled=True)),
        ("healthcheck: {disable: true, test: x}", Healthcheck(disabled=True)),
        ("x-shipkeeper: {probe: {tcp: 5432}}", Healthcheck(Probe("tcp", port=5432))),
        ("x-shipkeeper: {probe: {http: 8080}}", Healthcheck(Probe("http", port=8080))),
        ("x-shipkeeper: {probe: {http: 8080/ok}}", Healthcheck(Probe("http", port=8080, path="/ok"))),
        (
            "x-shipkeeper: {probe: {http: 'http://h:81/a/b?c'}, on_unhealthy: restart}",
            Healthcheck(Probe("http", port=81, path="/a/b?c", host="h"), on_unhealthy="restart"),
        ),
        ("x-shipkeeper: {probe: {http: 'http://localhost'}}", Healthcheck(Probe("http", port=80))),
        (
            "healthcheck: {interval: 2s}, x-shipkeeper: {probe: {command: 'a b'}}",
            Healthcheck(Probe("command", ("a", "b")), interval_s=2),
        ),
    ],
)
def test_health(tmp_path: Path, text: str, check: Healthcheck) -> None:
    """What is left out is left to the image or the default."""
    assert service(tmp_path, text).healthcheck == check


@pytest.mark.parametrize(
    ("text", "ready"),
    [
        ("notify", Ready()),
        ("{notify: true}", Ready()),
        ("{notify: true, timeout: 1m30s, watchdog: 500ms}", Ready(timeout_s=90, watchdog_s=0.5)),
        ("{fd: 3, timeout: 5s}", Ready(fd=3, timeout_s=5)),
        ("{notify: false, fd: 7}", Ready(fd=7)),
    ],
)
def test_ready(tmp_path: Path, text: str, ready: Ready) -> None:
    """By words or by a descriptor; beside a healthcheck, which stays as it is."""
    found = service(tmp_path, f"healthcheck: {{test: a}}, x-shipkeeper: {{ready: {text}}}")
    assert found.ready == ready
    assert found.healthcheck == Healthcheck(Probe("command", ("/bin/sh", "-c", "a")))


def test_limits_of_devices_and_mounts_of_images(tmp_path: Path) -> None:
    """As they stand in the file, in its order."""
    found = service(
        tmp_path,
        "blkio_config: {weight_device: [{path: /dev/a, weight: 20}],"
        " device_write_iops: [{path: /dev/b, rate: '7'}, {path: /dev/a, rate: 1k}]},"
        " volumes: [{type: image, source: tools, target: /t, image: {subpath: etc}}]",
    )
    assert found.limits.blkio_devices == (
        DeviceLimit("weight", "/dev/a", 20),
        DeviceLimit("write_iops", "/dev/b", 7),
        DeviceLimit("write_iops", "/dev/a", 1024),
    )
    (mount,) = found.mounts
    assert (mount.type, mount.source, mount.subpath, mount.read_only) == (
        "image", "docker.io/library/tools:latest", "etc", True,
    )  # fmt: skip


@pytest.mark.parametrize("probe", ["{}", "{tcp: 0}", "{http: 'https://x'}", "{http: x}", "{tcp: 1, http: 2}"])
def test_a_probe_that_asks_nothing_is_refused(tmp_path: Path, probe: str) -> None:
    """At its place."""
    text = f"services:\n  s:\n    image: x\n    x-shipkeeper: {{probe: {probe}}}\n"
    assert [line for _, line, _ in problems(tmp_path, text)] == [4]


def test_hooks_replicas_and_conditions(tmp_path: Path) -> None:
    """In their order; a name without a value has the project's."""
    found = service(
        tmp_path,
        "pre_start: [{command: [m], image: other, per_replica: true}],"
        " post_start: [{command: a b, user: root, environment: [TOKEN, NOPE, A=1]}, {command: c}],"
        " pre_stop: [{command: [z], privileged: true, working_dir: /w}], deploy: {replicas: 3},"
        " depends_on: {v: {condition: service_completed_successfully, required: false, restart: true}}",
    )
    assert found.hooks == Hooks(
        (Hook(("m",), image=found.hooks.pre_start[0].image, per_replica=True),),
        (Hook(("a", "b"), "root", environment=(("A", "1"), ("TOKEN", "t"))), Hook(("c",))),
        (Hook(("z",), privileged=True, working_dir="/w"),),
    )
    assert found.hooks.pre_start[0].image == "docker.io/library/other:latest"
    assert found.replicas == 3
    assert found.depends_on == (
        Dependency("v", "service_completed_successfully", required=False, restart=True),
    )


def test_configs_and_secrets(tmp_path: Path) -> None:
    """Where they come from, with a digest of what that gives, and where the service sees them."""
    (tmp_path / "f").write_text("content")
    loaded = load(
        tmp_path,
        "services: {s: {image: x, configs: [a, {source: b, target: /etc/b, uid: '5', mode: 0440}],"
        " secrets: [t, {source: far, target: f}]}}\n"
        "configs: {a: {content: hi}, b: {file: ./f}, unused: {content: x}}\n"
        "secrets: {t: {environment: TOKEN}, far: {external: true}}\n",
    )
    digests = [hashlib.sha256(data).hexdigest() for data in (b"hi", b"content", b"t")]
    assert loaded.project.files == (
        FileSource("config", "a", "p_a", "content", "hi", digests[0]),
        FileSource("config", "b", "p_b", "file", f"{tmp_path}/f", digests[1]),
        FileSource("secret", "far", "far", "external"),
        FileSource("secret", "t", "p_t", "environment", "TOKEN", digests[2]),
    )
    assert loaded.project.services[0].grants == (
        FileGrant("config", "a", "/a"),
        FileGrant("config", "b", "/etc/b", uid="5", mode=0o440),
        FileGrant("secret", "t", "/run/secrets/t"),
        FileGrant("secret", "far", "/run/secrets/f"),
    )


def test_a_secret_that_is_missing_does_not_keep_from_looking_at_the_project(tmp_path: Path) -> None:
    """A warning, and no digest: `up` needs it, `down` does not."""
    loaded = load(tmp_path, "services: {s: {image: x, secrets: [a]}}\nsecrets: {a: {file: ./nope}}\n")
    assert loaded.project.files[0].digest == ""
    assert ["cannot read secret" in one.message for one in loaded.warnings] == [True]


def test_mounts_volumes_and_limits(tmp_path: Path) -> None:
    """Long forms, options of a volume, and the volumes of another service."""
    loaded = load(
        tmp_path,
        "services:\n"
        "  s: {image: x, volumes_from: ['v:ro'], volumes: ['./own:/mine', {type: image, source: alpine,"
        " target: /i, image: {subpath: bin}}], cpu_quota: 5000, cpu_period: 20000, mem_swappiness: 7,"
        " oom_kill_disable: true, cpuset: '0-1', blkio_config: {weight: 300}, shm_size: 8m, attach: false}\n"
        "  v: {image: x, volumes: ['data:/d', './a:/mine'], tmpfs: /t}\n"
        "volumes: {data: {driver: local, driver_opts: {type: none, o: bind, device: ./x}}}\n",
    )
    found = loaded.project.service("s")
    assert found.mounts == (
        Mount("volume", "/d", "p_data", read_only=True),
        Mount("bind", "/mine", f"{tmp_path}/own"),
        Mount("image", "/i", "docker.io/library/alpine:latest", read_only=True, subpath="bin"),
    )
    assert found.depends_on == (Dependency("v"),)
    assert loaded.project.volumes == (
        Volume("data", "p_data", driver_opts=(("device", f"{tmp_path}/x"), ("o", "bind"), ("type", "none"))),
    )
    assert found.limits == Limits(
        cpu_quota_us=5000,
        cpu_period_us=20000,
        memory_swappiness=7,
        oom_kill_disable=True,
        cpuset="0-1",
        blkio_weight=300,
    )
    assert found.shm_size_bytes == 8 << 20
    assert [is_shown(Wish(), loaded.project, name) for name in ("p-s-1", "p-s-2", "p-v-1")] == [
        False,
        False,
        True,
    ]


def test_problems_of_included_and_extended_files_have_their_places(tmp_path: Path) -> None:
    """All at once, each in the file that it was written in, with the nearest word."""
    found = problems(
        tmp_path,
        "include: [in/a.yaml]\nservices:\n  s: {extends: {file: in/b.yaml, service: b}, comand: x}\n",
        in__a="services:\n  a:\n    imge: x\n",
        in__b="services:\n  b:\n    image: x\n    restart: allways\n",
    )
    assert [(file, line) for file, line, _ in found] == [("c.yaml", 3), ("a.yaml", 3), ("b.yaml", 4)]
    assert 'unknown key "imge"' in found[1][2]


def test_circles_of_extends_name_both_places(tmp_path: Path) -> None:
    """The file and line of each."""
    (found,) = problems(
        tmp_path,
        "services:\n  a: {extends: {file: d.yaml, service: b}}\n",
        d="services:\n  b:\n    extends: {file: c.yaml, service: a}\n",
    )
    assert found[2].endswith("circular extends: a -> b -> a (c.yaml line 2, c.yaml line 2, d.yaml line 3)")


def test_circles_of_include_are_named(tmp_path: Path) -> None:
    """With the files that they go through."""
    (found,) = problems(tmp_path, "include: [d.yaml]\nservices: {a: {image: x}}\n", d="include: [c.yaml]\n")
    assert "include cycle: " in found[2]
    assert found[:2] == ("d.yaml", 1)


def test_files_that_include_each_other_twice_end_soon(tmp_path: Path) -> None:
    """Thirty levels of two includes would be a billion loads."""
    files = {f"f{n}": f"include: [f{n + 1}.yaml, f{n + 1}.yaml]\n" for n in range(30)}
    files["f30"] = "services: {a: {image: x}}\n"
    found = problems(tmp_path, "include: [f0.yaml]\n", **files)
    assert any("files are included or extended" in message for _, _, message in found)


def test_a_merged_document_is_not_validated(tmp_path: Path) -> None:
    """For `config --no-interpolate`: variables, and names that lead nowhere, stay."""
    (tmp_path / "c.yaml").write_text(
        "services: {s: {image: 'x:${T}', ports: ['${P}:80'], networks: [nope]}}\n"
    )
    document = merged_document(
        [str(tmp_path / "c.yaml")],
        project_name="p",
        project_dir=None,
        env=ENV,
        interpolate=False,
    )
    assert document == {
        "name": "p",
        "services": {"s": {"image": "x:${T}", "ports": ["${P}:80"], "networks": {"nope": None}}},
    }


@pytest.mark.timeout(20)
def test_what_is_included_and_extended_is_bounded(tmp_path: Path) -> None:
    """A large file many times, a large service many times: one line, soon."""
    pairs = ", ".join(f"A{number}=b" for number in range(5000))
    large = f"services: {{big: {{image: x, environment: [{pairs}]}}}}\n"
    files = f"include: [{', '.join(['large.yaml'] * 300)}]\n"
    assert "values are included or extended" in problems(tmp_path, files, large=large)[0][2]
    heirs = "".join(f"  s{number}: {{extends: big}}\n" for number in range(300))
    text = f"services:\n  big: {{image: x, environment: [{pairs}]}}\n{heirs}"
    assert "values are included or extended" in problems(tmp_path, text)[0][2]


def test_a_variable_of_a_list_can_be_reset(tmp_path: Path) -> None:
    """Unlike in Compose (docker/compose#11816): both forms are one before they are merged."""
    text = (
        "services: {s: {image: x, environment: [A=1, B=2]}}\n---\n"
        "services: {s: {environment: {A: !reset null}}}\n"
    )
    assert load(tmp_path, text).project.services[0].environment == (("B", "2"),)


def test_config_prints_parts_and_the_merged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of `config`, one line for each name; a file for -o; pinning is refused."""
    (tmp_path / "compose.yaml").write_text(
        "name: p\nservices:\n  a: {image: 'x:${TAG:-1}', network_mode: none, env_file: e,"
        " volumes: ['v:/v', './d:/d']}\n"
        "  b: {build: ., network_mode: none, profiles: [q]}\nvolumes: {v: }\n"
    )
    (tmp_path / "e").write_text("E=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAG", raising=False)

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli, ["--profile", "q", "config", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert run("--services") == "a\nb\n"
    assert run("--images") == "x:1\np-b\n"
    assert run("--volumes") == "v\n"
    assert run("--profiles") == "q\n"
    assert "TAG   false     1" in run("--variables")
    assert "COMPOSE_PROJECT_NAME=p\n" in run("--environment")
    assert [line.split()[0] for line in run("--hash", "*").splitlines()] == ["a", "b"]
    assert "E: '1'" in run()
    assert "env_file" not in run()
    assert "E: '1'" not in run("--no-env-resolution")
    assert f"path: {tmp_path}/e" in run("--no-env-resolution")
    assert "source: ./d" in run("--no-path-resolution")
    assert "image: x:${TAG:-1}" in run("--no-interpolate")
    assert run("-q") == ""
    assert run("-o", "out.yaml") == ""
    assert load_project(["out.yaml"], project_name=None, project_dir=None, env=ENV).project.name == "p"
    refused = CliRunner().invoke(cli, ["config", "--resolve-image-digests"])
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("keys", "update"),
    [
        ("", Update()),
        ("x-shipkeeper: {update: start-first}", Update("start-first", 1)),
        ("x-shipkeeper: {update: stop-first}", Update("stop-first", 1)),
        ("deploy: {update_config: {}}", Update(parallelism=1)),
        (
            "deploy: {update_config: {order: start-first, parallelism: 0, delay: 1500ms}}",
            Update("start-first", 0, 1.5),
        ),
        (
            "deploy: {update_config: {failure_action: continue, parallelism: 2, order: start-first}}",
            Update("start-first", 2, on_failure="continue"),
        ),
        ("deploy: {rollback_config: {order: start-first}}", Update()),
    ],
)
def test_how_instances_are_replaced(tmp_path: Path, keys: str, update: Update) -> None:
    """The extension's order over that of `deploy`, whose parallelism is 1 where there is any of both."""
    assert service(tmp_path, keys or "command: x").update == update
