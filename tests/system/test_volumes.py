"""Volumes under the daemon, as a user has them: options, subpaths, anonymous ones, and what goes when."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from supervising import Supervisor, until

from supervisor.cli.client import Client
from supervisor.cli.grants import request_body
from supervisor.core.model import Mount, Project, ServiceSpec

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]

MOUNTS = Path("/proc/self/mounts")


def volumes(supervisor: Supervisor, *options: str) -> dict[str, dict[str, Any]]:
    lines = supervisor.ok("volume", "ls", "--format", "json", *options).splitlines()
    return {row["Name"]: row for row in map(json.loads, lines)}


def mounted(supervisor: Supervisor, name: str) -> bool:
    return f"{supervisor.base}/run/mounts/{name} " in MOUNTS.read_text()


def up(supervisor: Supervisor, services: str, rest: str = "") -> str:
    supervisor.compose(f"name: shop\nservices:\n{services}{rest}")
    return supervisor.ok("up", "-d")


def bring_up(
    supervisor: Supervisor, project: Project, contents: Mapping[str, bytes] | None = None
) -> list[dict[str, Any]]:
    """What no Compose file says here; the lines of the answer."""
    client = Client(str(supervisor.base / "run/shipkeeper.sock"))
    body = request_body(project, contents or {})
    return list(client.stream("POST", f"/projects/{project.name}/up", body=body))


def test_volume_verbs(supervisor: Supervisor) -> None:
    """create, ls, inspect, rm and prune as Docker has them; what is in use stays, and its users are named."""
    ok = supervisor.ok
    assert ok("volume", "create", "--label", "a=1", "one") == "one\n"
    assert ok("volume", "create", "one") == "one\n", "it is there, and stays as it is"
    anonymous = ok("volume", "create").strip()
    assert len(anonymous) == 64
    up(
        supervisor,
        "  db: {command: sleep 600, volumes: ['data:/data']}\n",
        "volumes: {data: {labels: {x: y}}}\n",
    )
    found = volumes(supervisor)
    assert found.keys() == {"one", anonymous, "shop_data"}
    assert found["one"]["Labels"] == {"a": "1"}
    assert found["shop_data"]["UsedBy"] == ["shop-db-1"]
    assert found["shop_data"]["Labels"] == {
        "x": "y",
        "com.docker.compose.project": "shop",
        "com.docker.compose.volume": "data",
    }
    assert volumes(supervisor, "--filter", "dangling=true").keys() == {"one", anonymous}
    assert volumes(supervisor, "--filter", "dangling=false").keys() == {"shop_data"}
    assert volumes(supervisor, "--filter", "label=a").keys() == {"one"}
    assert volumes(supervisor, "--filter", "label=a=2") == {}
    assert ok("volume", "ls", "-q", "--filter", "name=op_da") == "shop_data\n"
    (shown,) = json.loads(ok("volume", "inspect", "shop_data"))
    assert shown["Mountpoint"] == f"{supervisor.base}/state/volumes/shop_data/_data"
    assert shown["CreatedAt"].startswith("20")
    refused = supervisor.run("volume", "rm", "shop_data")
    assert refused.returncode == 1
    assert "volume is in use by shop-db-1" in refused.stderr
    assert supervisor.run("volume", "rm", "nothing").returncode == 4
    assert supervisor.run("volume", "rm", "-f", "nothing").returncode == 0
    assert anonymous in ok("volume", "prune", "-f")
    assert volumes(supervisor).keys() == {"one", "shop_data"}, "named ones go with -a only"
    assert "shop_data" not in ok("volume", "prune", "-f", "-a")
    assert volumes(supervisor).keys() == {"shop_data"}
    ok("down")
    assert volumes(supervisor).keys() == {"shop_data"}
    ok("down", "-v")
    assert volumes(supervisor) == {}, "it is known by its label, though nothing of the project is left"


def test_an_external_volume_has_to_exist(supervisor: Supervisor) -> None:
    """Said before anything is touched; it never goes with the project."""
    service = "  db: {command: sleep 600, volumes: ['data:/data']}\n"
    supervisor.compose(f"name: shop\nservices:\n{service}volumes: {{data: {{external: true, name: ours}}}}\n")
    refused = supervisor.run("up", "-d")
    assert refused.returncode != 0
    assert 'external volume "ours" not found; `shipkeeper volume create ours` first' in refused.stderr
    assert supervisor.ok("ps", "-a", "-q").strip() == ""
    supervisor.ok("volume", "create", "ours")
    supervisor.ok("up", "-d")
    supervisor.ok("down", "-v")
    assert volumes(supervisor).keys() == {"ours"}


def test_anonymous_volumes_stay_over_a_recreation(supervisor: Supervisor) -> None:
    """By their mount points, until -V; down -v and rm -v take them along, and down does not."""
    service = "  db: {{command: sleep {}, volumes: [/data, /other]}}\n"
    up(supervisor, service.format(600))
    supervisor.ok("exec", "db", "sh", "-c", "echo kept > /data/file")
    before = volumes(supervisor)
    assert len(before) == 2
    supervisor.kill()
    supervisor.start()
    assert "recreate" not in up(supervisor, service.format(600))
    assert "definition has changed" in up(supervisor, service.format(601))
    assert supervisor.ok("exec", "db", "cat", "/data/file") == "kept\n"
    assert volumes(supervisor).keys() == before.keys()
    supervisor.compose(f"name: shop\nservices:\n{service.format(602)}")
    supervisor.ok("up", "-d", "--renew-anon-volumes")
    assert supervisor.run("exec", "db", "cat", "/data/file").returncode != 0
    assert len(volumes(supervisor)) == 2
    assert not volumes(supervisor).keys() & before.keys()
    supervisor.ok("down")
    assert len(volumes(supervisor)) == 2, "as with Docker"
    up(supervisor, service.format(600))
    assert len(volumes(supervisor)) == 4
    supervisor.ok("down", "-v")
    assert len(volumes(supervisor)) == 2
    up(supervisor, service.format(600))
    supervisor.ok("rm", "-f", "-v", "db")
    assert len(volumes(supervisor)) == 2


def create(supervisor: Supervisor, name: str, *options: str) -> None:
    words = [word for option in options for word in ("-o", option)]
    supervisor.ok("volume", "create", *words, name)


EXTERNAL = "volumes: {v: {external: true, name: v}}\n"


def test_a_volume_with_options_is_mounted_while_in_use(supervisor: Supervisor) -> None:
    """Over a killed daemon; when nobody is up it is unmounted, and then mounted again."""
    create(supervisor, "v", "type=tmpfs", "device=tmpfs", "o=size=1m,uid=1000")
    services = "".join(
        f"  {name}: {{command: [sh, -c, 'echo run >> /v/{name}; sleep 600'], restart: always,"
        f" volumes: ['v:/v']}}\n"
        for name in ("a", "b")
    )
    assert not mounted(supervisor, "volume-v")
    up(supervisor, services, EXTERNAL)
    assert mounted(supervisor, "volume-v")
    assert supervisor.ok("exec", "a", "stat", "-f", "-c", "%T", "/v").strip() == "tmpfs"

    def runs(name: str) -> int:
        return len(supervisor.run("exec", "b", "cat", f"/v/{name}").stdout.splitlines())

    until(lambda: runs("a") == 1, "a has written")
    supervisor.kill()
    supervisor.start()
    os.kill(supervisor.row("a")["Pid"], 9)
    until(lambda: runs("a") == 2, "a has written again, into the same tmpfs")
    supervisor.ok("stop", "-t", "0", "a")
    assert mounted(supervisor, "volume-v"), "b uses it"
    supervisor.ok("stop", "-t", "0", "b")
    until(lambda: not mounted(supervisor, "volume-v"), "nobody uses it")
    supervisor.ok("start", "b")
    assert mounted(supervisor, "volume-v")
    until(lambda: runs("b") == 1, "it is a new one")
    supervisor.ok("stop", "-t", "0", "b")
    until(lambda: not mounted(supervisor, "volume-v"), "it is down again")


def test_a_volume_of_a_directory_of_the_host(supervisor: Supervisor, tmp_path: Path) -> None:
    """type none, o bind: what is written is there; without a source the start says which volume it is."""
    create(supervisor, "v", "type=none", "o=bind", f"device={tmp_path}/data")
    service = "  a: {command: [sh, -c, 'echo x > /v/file; sleep 600'], volumes: ['v:/v']}\n"
    supervisor.compose(f"name: shop\nservices:\n{service}{EXTERNAL}")
    assert supervisor.run("up", "-d").returncode == 1
    assert f"cannot mount volume v (type: none, o: bind, device: {tmp_path}/data)" in supervisor.ok(
        "why", "a"
    )
    (tmp_path / "data").mkdir()
    supervisor.ok("start", "a")
    until((tmp_path / "data/file").exists, "it has written")
    supervisor.ok("down", "-v")
    supervisor.ok("volume", "rm", "v")
    assert (tmp_path / "data/file").read_text() == "x\n", "what is not ours stays"
    other = supervisor.run("volume", "create", "-o", "type=tmpfs", "w")
    assert 'missing required option: "device"' in other.stderr


def test_a_subpath_does_not_lead_out(supervisor: Supervisor) -> None:
    """A service may write what it likes into its volume: a link to the host is no way to the host."""
    supervisor.ok("volume", "create", "v")
    data = supervisor.base / "state/volumes/v/_data"
    (data / "in/side").mkdir(parents=True)
    (data / "in/side/file").write_text("inside")
    (data / "link").symlink_to("in/side")
    (data / "root").symlink_to("/etc")
    (data / "up").symlink_to("../../../..")
    for subpath, good in (("in/side", True), ("link", True), ("root", False), ("up", False), ("none", False)):
        service = ServiceSpec(
            "a",
            command=("sh", "-c", "cat /v/file; sleep 600"),
            mounts=(Mount("volume", "/v", "v", subpath=subpath),),
        )
        bring_up(supervisor, Project("shop", "/", services=(service,)))
        if good:
            until(lambda: supervisor.ok("logs", "-p", "shop", "a").strip().endswith("inside"), subpath)
        else:
            assert f"subpath {subpath} of the volume" in supervisor.ok("why", "a")
            assert "inside" not in supervisor.ok("logs", "a")
        supervisor.ok("rm", "-f", "a")
    service = ServiceSpec("a", command=("true",), mounts=(Mount("volume", "/v", "v", subpath="../x"),))
    bring_up(supervisor, Project("shop", "/", services=(service,)))
    assert "leads out of the volume" in supervisor.ok("why", "a")
