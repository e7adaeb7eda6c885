"""What lies ready before the first run of an instance, and what goes with it."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.model import Mount, Project, Rootfs, ServiceSpec, Volume
from supervisor.core.network import Resolver
from supervisor.core.paths import Paths
from supervisor.image.layerstack import OPAQUE, LayerStack
from supervisor.launcher import plan
from supervisor.runtime.etcfiles import etc_files, hosts_text, write_etc_files
from supervisor.runtime.hostview import HostView, ViewMount, prepare_host
from supervisor.runtime.masklayer import forget_masks
from supervisor.runtime.plan import PreparedInstance, launch_plan
from supervisor.runtime.resolvconf import resolv_conf
from supervisor.runtime.rootfs import (
    PrepareError,
    prepare_instance,
    prune_roots,
    remove_instance,
)
from supervisor.runtime.volumes import VolumeError, fill_volume, remove_volume, volume_names

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, whiteouts and trusted attributes"),
]

PROJECT = Project("p", "/")


@pytest.fixture
def paths() -> Iterator[Paths]:
    """A state and a run directory of its own."""
    base = tempfile.mkdtemp(prefix="shipkeeper-test-")
    made = Paths(f"{base}/state", f"{base}/run")
    yield made
    forget_masks(made)
    shutil.rmtree(base)


@pytest.fixture
def view(paths: Paths) -> HostView:
    """The view of this host."""
    return prepare_host(paths)


def prepare(
    spec: ServiceSpec, paths: Paths, view: HostView, instance: str = "i1", project: Project = PROJECT
) -> PreparedInstance:
    """The usual call."""
    return prepare_instance(spec, instance, paths, project, container_name=f"p-{instance}", view=view)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small root with a data directory of user 33, and links as hostile as they come."""
    root = tmp_path / "image"
    (root / "data/inner").mkdir(parents=True)
    (root / "data/file").write_text("from the image")
    os.chown(root / "data/file", 33, 33)
    os.chown(root / "data", 33, 34)
    os.chmod(root / "data", 0o750)
    os.symlink("file", root / "data/link")
    os.symlink("/data", root / "absolute")
    os.symlink("../../../../../../etc", root / "climbing")
    (root / "etc").mkdir()
    (root / "etc/mark").write_text("image")
    os.symlink("/run/nowhere", root / "etc/resolv.conf")
    return root


def of(image: Path, **changes: object) -> ServiceSpec:
    """A service on that root."""
    spec = ServiceSpec("web", command=("true",), rootfs=Rootfs("directory", str(image)))
    return replace(spec, **changes)  # type: ignore[arg-type]  # the fields are the caller's


def test_a_host_view_instance_has_masks_etc_files_and_layers(paths: Paths, view: HostView) -> None:
    """The plan of it names what lies on the disk."""
    spec = ServiceSpec("web", command=("true",), hostname="h1")
    ready = prepare(spec, paths, view)
    assert ready.lowers == view.lowers
    assert ready.lowers[1:] == ("/",)
    assert os.getxattr(f"{ready.lowers[0]}/root", OPAQUE) == b"y"
    assert os.listdir(ready.files.upper) == [], "masks are in a layer of their own"
    assert stat.S_IMODE(os.stat(ready.files.upper).st_mode) == stat.S_IMODE(os.stat("/").st_mode)
    assert Path(ready.files.etc, "hostname").read_text() == "h1\n"
    assert "h1" in Path(ready.files.etc, "hosts").read_text().split()
    it = launch_plan(spec, ready, 1, paths, host=view.facts, cgroup_base="c", seccomp_path="/s")
    for step in it.steps:
        match step:
            case plan.Overlay():
                assert all(os.path.isdir(p) for p in (*step.lowers, str(step.upper), str(step.work)))
            case plan.Bind():
                assert os.path.exists(step.source)
    assert os.path.isdir(it.root)


def test_preparing_again_changes_nothing_that_a_service_wrote(
    paths: Paths, view: HostView, image: Path
) -> None:
    """It may be running."""
    spec = of(image, mounts=(Mount("volume", "/data", "v"),))
    first = prepare(spec, paths, view)
    written = {
        f"{first.files.upper}/new": "1",
        f"{first.files.etc}/hosts": "2",
        f"{first.sources['/data']}/file": "3",
    }
    for path, text in written.items():
        Path(path).write_text(text)
    os.unlink(f"{first.sources['/data']}/link")
    assert prepare(spec, paths, view) == first
    assert {path: Path(path).read_text() for path in written} == written
    shutil.rmtree(first.sources["/data"])
    prepare(spec, paths, view)
    assert os.listdir(first.sources["/data"]) == [], "an emptied volume is the service's choice"


@pytest.mark.parametrize("target", ["/data", "/absolute", "//data/."])
@pytest.mark.parametrize("source", ["named", None])
def test_a_fresh_volume_starts_with_what_the_root_has_there(
    paths: Paths, view: HostView, image: Path, target: str, source: str | None
) -> None:
    """Content, owner and mode, through links that stay inside the root (docker)."""
    ready = prepare(of(image, mounts=(Mount("volume", target, source),)), paths, view)
    data = ready.sources[target]
    assert sorted(os.listdir(data)) == ["file", "inner", "link"]
    assert (os.stat(data).st_uid, os.stat(data).st_gid, stat.S_IMODE(os.stat(data).st_mode)) == (
        33,
        34,
        0o750,
    )
    assert os.stat(f"{data}/file").st_uid == 33
    assert data.startswith(paths.state_dir)


def test_a_link_out_of_the_root_copies_nothing_of_the_host(paths: Paths, view: HostView, image: Path) -> None:
    """/climbing points far above the root, which is where the root's own /etc is."""
    ready = prepare(of(image, mounts=(Mount("volume", "/climbing", "v"),)), paths, view)
    assert sorted(os.listdir(ready.sources["/climbing"])) == ["hostname", "hosts", "mark", "resolv.conf"]
    assert Path(ready.sources["/climbing"], "hosts").read_text() == "", "a place to bind over, not the host's"


def test_nocopy_and_a_used_volume_are_left_alone(paths: Paths, view: HostView, image: Path) -> None:
    """Docker copies into an empty volume only."""
    bare = prepare(of(image, mounts=(Mount("volume", "/data", "bare", nocopy=True),)), paths, view, "a")
    assert os.listdir(bare.sources["/data"]) == []
    Path(bare.sources["/data"], "mine").touch()
    used = prepare(of(image, mounts=(Mount("volume", "/data", "bare"),)), paths, view, "b")
    assert os.listdir(used.sources["/data"]) == ["mine"]


def test_a_volume_over_a_masked_place_gets_nothing_of_the_host(paths: Paths, view: HostView) -> None:
    """The merged view is copied, masks included, not the host's directory."""
    spec = ServiceSpec(
        "w", command=("x",), mounts=(Mount("volume", "/root", "r"), Mount("volume", "/etc/ssh", "s"))
    )
    ready = prepare(spec, paths, view)
    assert [os.listdir(source) for source in ready.sources.values()] == [[], []]
    assert stat.S_IMODE(os.stat(ready.sources["/root"]).st_mode) == stat.S_IMODE(os.stat("/root").st_mode)


def test_a_cut_off_copy_is_not_taken_for_a_volume(paths: Paths, image: Path, tmp_path: Path) -> None:
    """The copy appears whole or not at all."""
    data = tmp_path / "v/_data"
    data.mkdir(parents=True)
    (image / "data/zz").write_text("x")
    stack = LayerStack((str(image),))
    os.chmod(tmp_path / "v", 0o700)
    os.unlink(image / "data/zz")
    os.mknod(image / "data/zz", stat.S_IFSOCK)
    fill_volume(str(data), stack, "/data")
    assert "file" in os.listdir(data)
    assert "zz" not in os.listdir(data), "a socket means nothing in a volume"
    assert os.listdir(tmp_path / "v") == ["_data"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "-x", "a\0"])
def test_a_volume_name_that_is_a_path_is_refused(
    paths: Paths, view: HostView, image: Path, name: str
) -> None:
    """The name is a directory of the state."""
    with pytest.raises(PrepareError, match="volume name"):
        prepare(of(image, mounts=(Mount("volume", "/data", name),)), paths, view)
    with pytest.raises(VolumeError):
        remove_volume(name, paths)


def test_external_volumes_must_exist(paths: Paths, view: HostView, image: Path) -> None:
    """And are used when they do."""
    project = replace(PROJECT, volumes=(Volume("e", "e", external=True),))
    spec = of(image, mounts=(Mount("volume", "/data", "e"),))
    with pytest.raises(PrepareError, match='external volume "e" not found'):
        prepare(spec, paths, view, project=project)
    os.makedirs(paths.volume("e"))
    assert prepare(spec, paths, view, project=project).sources == {"/data": paths.volume("e")}


def test_removing_takes_everything_of_an_instance_and_no_named_volume(
    paths: Paths, view: HostView, image: Path
) -> None:
    """rm of an instance, then of its volume; both may be called twice."""
    prepare(of(image, mounts=(Mount("volume", "/data", "v"), Mount("volume", "/x"))), paths, view)
    for _ in range(2):
        remove_instance("i1", paths)
        assert os.listdir(paths.instances) == []
    assert volume_names(paths) == ["v"]
    assert remove_volume("v", paths)
    assert not remove_volume("v", paths)
    assert volume_names(paths) == []
    with pytest.raises(PrepareError):
        remove_instance("..", paths)


def test_bind_sources_are_made_or_missed_by_the_rule(
    paths: Paths, view: HostView, image: Path, tmp_path: Path
) -> None:
    """create_host_path, else an error with Docker's words in it; a dangling link is never made."""
    source = tmp_path / "a/b"
    missing = Mount("bind", "/b", str(source), create_host_path=False)
    with pytest.raises(PrepareError, match="no such file or directory"):
        prepare(of(image, mounts=(missing,)), paths, view)
    prepare(of(image, mounts=(replace(missing, create_host_path=True),)), paths, view)
    assert source.is_dir()
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(PrepareError, match="no such file or directory"):
        prepare(of(image, mounts=(Mount("bind", "/b", str(tmp_path / "link")),)), paths, view, "i2")


def test_what_a_root_lacks_is_made_in_its_upper_layer(paths: Paths, view: HostView, image: Path) -> None:
    """The working directory, and plain files where /etc's three are bound over a link or nothing."""
    ready = prepare(of(image, working_dir="/absolute/inner/new"), paths, view)
    upper = Path(ready.files.upper)
    assert (upper / "data/inner/new").is_dir()
    assert (os.stat(upper / "data").st_uid, stat.S_IMODE(os.stat(upper / "data").st_mode)) == (33, 0o750)
    assert sorted(os.listdir(upper / "etc")) == ["hostname", "hosts", "resolv.conf"]
    assert not (upper / "etc/resolv.conf").is_symlink()
    assert not (image / "data/inner/new").exists()


def test_layers_of_a_submount_are_made_and_filled(paths: Paths, view: HostView, tmp_path: Path) -> None:
    """A working directory on a separate file system belongs into that file system's upper layer."""
    extra = replace(
        view, mounts=(ViewMount("/opt", ("/opt",), ()), ViewMount("/usr/games", (), ("/usr/games/x",)))
    )
    spec = ServiceSpec("w", command=("x",), working_dir="/opt/shipkeeper-test/new")
    ready = prepare(spec, paths, extra)
    assert [mount.target for mount in ready.submounts] == ["/opt", "/usr/games"]
    assert os.path.isdir(f"{ready.submounts[0].upper}/shipkeeper-test/new")
    assert not os.path.exists(f"{ready.files.upper}/opt/shipkeeper-test")
    assert os.path.isdir(ready.submounts[0].work)


def test_the_mode_of_what_a_tmpfs_hides_is_kept(paths: Paths, view: HostView, image: Path) -> None:
    """runc: a tmpfs over /tmp stays 1777, one over a private directory stays private."""
    ready = prepare(of(image, mounts=(Mount("tmpfs", "/data"), Mount("tmpfs", "/none"))), paths, view)
    assert ready.tmpfs_modes == {"/data": 0o750}


def test_archives_are_unpacked_once_and_pruned_when_unused(
    paths: Paths, view: HostView, image: Path, tmp_path: Path
) -> None:
    """Two instances share one root; it stays theirs when the file is gone, and goes after them."""
    file = tmp_path / "root.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        tar.add(image, ".")
    spec = of(image, rootfs=Rootfs("archive", str(file)))
    one, two = prepare(spec, paths, view, "a"), prepare(spec, paths, view, "b")
    assert one.lowers == two.lowers
    assert (Path(one.lowers[0]) / "etc/mark").read_text() == "image"
    file.unlink()
    assert prepare(spec, paths, view, "a") == one
    with pytest.raises(PrepareError, match="cannot unpack"):
        prepare(spec, paths, view, "c")
    remove_instance("a", paths)
    remove_instance("c", paths)
    assert prune_roots(paths) == []
    remove_instance("b", paths)
    assert prune_roots(paths) == [os.path.basename(one.lowers[0])]


def test_a_root_that_cannot_be_one_is_refused(
    paths: Paths, view: HostView, image: Path, tmp_path: Path
) -> None:
    """A missing directory; the host's own root, where the state directory lies, unmasked."""
    with pytest.raises(PrepareError, match="no such directory"):
        prepare(of(tmp_path / "none"), paths, view)
    for place in ("/", os.path.dirname(paths.state_dir), paths.state_dir):
        with pytest.raises(PrepareError, match="the state directory lies in it"):
            prepare(of(Path(place)), paths, view)


def test_refreshing_brings_etc_files_back_in_place(paths: Paths, view: HostView, image: Path) -> None:
    """The same inode, since a mount may hold it; a link planted there is not followed."""
    spec = of(image, network_mode="none", hostname="h")
    ready = prepare(spec, paths, view)
    hosts = Path(ready.files.etc, "hosts")
    inode = hosts.stat().st_ino
    hosts.write_text("x")
    write_etc_files(ready.files.etc, etc_files("h", "none"), keep=False)
    assert hosts.stat().st_ino == inode
    assert "127.0.1.1\th\n" in hosts.read_text()
    hosts.unlink()
    os.symlink("/etc/passwd", hosts)
    with pytest.raises(OSError):
        write_etc_files(ready.files.etc, {"hosts": "x"}, keep=False)


def test_etc_texts_follow_the_network() -> None:
    """The host's files in the host's network; no resolver on a loopback that is not the host's."""
    assert hosts_text("me", "1.2.3.4 other").splitlines() == ["1.2.3.4 other", "127.0.1.1\tme"]
    assert hosts_text("me", "1.2.3.4 x me\n") == "1.2.3.4 x me\n"
    stub = "nameserver 127.0.0.53\nsearch a\n"
    assert resolv_conf(Resolver(), "host", stub, "nameserver 9.9.9.9\n") == stub
    assert resolv_conf(Resolver(), "none", stub, "nameserver 9.9.9.9\n") == "nameserver 9.9.9.9\n"
    assert resolv_conf(Resolver(), "none", stub, None) == "search a\n"


def test_layers_are_read_as_the_kernel_reads_them(tmp_path: Path) -> None:
    """Whiteouts, opaque directories, files over directories and merged names."""
    top, low = tmp_path / "top", tmp_path / "low"
    for path in ("top/opaque", "top/merged", "low/opaque", "low/merged", "low/over", "low/gone"):
        (tmp_path / path).mkdir(parents=True)
    for path in (
        "low/opaque/hidden",
        "low/merged/b",
        "top/merged/a",
        "top/over",
        "low/gone/x",
        "low/over/x",
        "low/keep",
    ):
        (tmp_path / path).touch()
    os.setxattr(top / "opaque", OPAQUE, b"y")
    os.mknod(top / "gone", stat.S_IFCHR)
    os.mknod(top / "merged/b", stat.S_IFCHR)
    stack = LayerStack((str(top), str(low)))
    assert stack.names("/") == ["keep", "merged", "opaque", "over"]
    assert stack.names("/opaque") == []
    assert stack.names("/merged") == ["a"]
    assert stack.names("/over") == []
    assert stack.entry("/gone/x") is None
    assert stack.entry("/over/x") is None
    over = stack.entry("/over")
    assert over is not None
    assert not over.is_dir
    os.symlink("loop", top / "loop")
    with pytest.raises(OSError):
        stack.resolve("/loop")
