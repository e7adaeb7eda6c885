"""The host view through a real overlay: what shows, what does not, and what the mask layer is on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.paths import Paths
from supervisor.image.layerstack import LayerStack
from supervisor.runtime.hostmounts import mount_of, parse_mountinfo
from supervisor.runtime.hostview import HostError, HostView, prepare_host
from supervisor.runtime.masklayer import forget_masks, provide_masks
from supervisor.runtime.masks import Masked, MaskRules

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlayfs and device nodes"),
]


@pytest.fixture
def paths() -> Iterator[Paths]:
    """A state and a run directory of its own."""
    base = tempfile.mkdtemp(prefix="shipkeeper-test-")
    made = Paths(f"{base}/state", f"{base}/run")
    yield made
    forget_masks(made)
    shutil.rmtree(base)


def inside(view: HostView, paths: Paths, script: str) -> str:
    """Run a script in a chroot of a fresh overlay of the view; its mounts end with it."""
    base = tempfile.mkdtemp(dir=paths.instances)
    os.mkdir(f"{base}/root")
    os.chmod(base, 0o755)
    mounts = []
    for number, (target, lowers) in enumerate(
        [("/", view.lowers), *((m.target, m.lowers) for m in view.mounts)]
    ):
        for name in ("upper", "work"):
            os.mkdir(f"{base}/{name}{number}")
        options = (
            f"lowerdir={':'.join(lowers)},upperdir={base}/upper{number},workdir={base}/work{number},xino=on"
        )
        mounts.append(f'mount -t overlay overlay -o "{options}" {base}/root{target}')
    command = f"{' && '.join(mounts)} && exec chroot {base}/root /bin/sh -c '{script}'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_well_known_top_level_shows(paths: Paths) -> None:
    """Everything unknown at the top is not there; what every program expects is there and empty."""
    view = prepare_host(paths)
    shown = inside(view, paths, "ls -A /").split()
    known = (
        "bin boot dev etc home lib lib32 lib64 libx32 media mnt opt proc root run sbin srv sys tmp usr var"
    )
    assert set(shown) <= set(known.split())
    assert (
        inside(view, paths, "ls -A /root /home /run /srv /tmp /var/tmp /mnt | grep -v : || true").split()
        == []
    )
    assert inside(view, paths, "stat -c %a /tmp /root /var/tmp").split() == ["1777", "700", "1777"]


def test_secrets_of_the_host_are_not_there(paths: Paths) -> None:
    """No password hash, no key, no machine id; and nothing in /etc that not every user may read."""
    Path(paths.state_dir).mkdir(parents=True)
    (Path(paths.state_dir) / "secret").write_text("top")
    view = prepare_host(paths)
    assert inside(view, paths, "cat /etc/shadow | cut -d: -f2 | sort -u").split() == ["*"]
    assert "root" in inside(view, paths, "cut -d: -f1 /etc/shadow").split()
    gone = "/etc/shadow- /etc/machine-id /etc/sudoers /etc/krb5.keytab"
    assert (
        inside(view, paths, f"for f in {gone} {paths.state_dir}; do test -e $f && echo $f; done; true") == ""
    )
    assert (
        inside(view, paths, "ls -A /etc/ssh /etc/ssl/private /var/backups | grep -v : || true").split() == []
    )
    unreadable = "find /etc -type f ! -perm -o=r ! -name shadow ! -name gshadow"
    assert inside(view, paths, unreadable) == ""


def test_programs_of_the_host_run_in_the_view(paths: Paths) -> None:
    """A shell, the package database and a python: what a plain command stands on."""
    view = prepare_host(paths)
    assert inside(
        view, paths, "bash -c echo\\ ok; dpkg -s bash | grep -c ^Status; python3 -c print\\(6*7\\)"
    ) == ("ok\n1\n42\n")


def test_state_directories_are_there_and_empty(paths: Paths) -> None:
    """A program finds its directory with its owner and mode, and nothing of the host's instance of it."""
    view = prepare_host(paths)
    sample = [name for name in os.listdir("/var/lib") if os.path.isdir(f"/var/lib/{name}") and name != "dpkg"]
    for name in sample:
        host = os.lstat(f"/var/lib/{name}")
        entry = LayerStack(view.lowers).entry(f"/var/lib/{name}")
        assert entry is not None
        assert (entry.status.st_mode, entry.status.st_uid) == (host.st_mode, host.st_uid)
    assert inside(view, paths, "find /var/log /var/spool -type f") == ""
    assert int(inside(view, paths, "ls /var/lib/dpkg/info | wc -l")) > 10


def test_what_is_written_in_a_view_stays_in_it(paths: Paths) -> None:
    """The host's file is untouched and the next view does not know of it."""
    view = prepare_host(paths)
    before = Path("/etc/passwd").read_bytes()
    inside(view, paths, "echo x > /etc/passwd; rm -r /usr/share/doc; touch /shipkeeper-test")
    assert Path("/etc/passwd").read_bytes() == before
    assert Path("/usr/share/doc").is_dir()
    assert not Path("/shipkeeper-test").exists()
    assert "root" in inside(view, paths, "cat /etc/passwd")


def test_rules_of_the_administrator_hide_and_show(paths: Paths) -> None:
    """A path below a masked one can be shown, and one below a shown path hidden."""
    with tempfile.TemporaryDirectory(dir="/srv") as srv, tempfile.TemporaryDirectory(dir="/opt") as opt:
        (Path(srv) / "seen").write_text("seen")
        (Path(srv) / "secret").write_text("secret")
        (Path(opt) / "key").write_text("key")
        rules = MaskRules(hide=(f"{srv}/secret", f"{opt}/key"), show=(srv,))
        view = prepare_host(paths, rules)
        assert inside(view, paths, f"ls {srv}").split() == ["seen"]
        assert inside(view, paths, "ls -A /srv").split() == [os.path.basename(srv)]
        assert inside(view, paths, f"ls -A {opt}") == ""
        view = prepare_host(paths, MaskRules(hide=("/opt/",), show=(f"{opt}/key", paths.state_dir)))
        assert inside(view, paths, "ls -A /opt").split() == [os.path.basename(opt)]
        assert inside(view, paths, f"ls -A {opt}").split() == ["key"]
        assert inside(view, paths, f"test -e {paths.state_dir}/instances && echo there; true") == ""
        with pytest.raises(HostError, match="absolute path"):
            prepare_host(paths, MaskRules(hide=("etc",)))


def test_masks_cannot_be_taken_away_from_inside(paths: Paths) -> None:
    """Whatever root in a service does to a masked place, the host's files do not come to light."""
    with tempfile.TemporaryDirectory(dir="/srv") as srv:
        (Path(srv) / "secret").write_text("secret")
        script = (
            "rm -rf /srv; mkdir -p /srv; ls -AR /srv; mv /home /home2; ls -AR /home2; mkdir /home;"
            " ls -A /home; rm /etc/shadow; ls /etc | grep -c ^shadow$;"
            " touch /etc/shadow; cat /etc/shadow; rmdir /srv;"
            f" mkdir -p {srv}; ls -A {srv}; ln -s /root /r; ls -A /r/"
        )
        shown = inside(prepare_host(paths), paths, script).split()
        assert shown == ["/srv:", "/home2:", "0"]


def test_a_new_secret_has_a_new_layer_and_leaves_the_old_one(paths: Paths) -> None:
    """Plans that were made stand on the earlier masks until they are made anew; then those are let go."""
    first = prepare_host(paths)
    with tempfile.NamedTemporaryFile(dir="/etc/security", prefix="shipkeeper-test-") as secret:
        second = prepare_host(paths)
        assert second.lowers != first.lowers
        assert inside(second, paths, f"test -e {secret.name} || echo hidden") == "hidden\n"
        assert os.path.isdir(first.lowers[0])
        forget_masks(paths, second.lowers)
        assert not os.path.exists(first.lowers[0])
        assert os.path.isdir(second.lowers[0])
    assert prepare_host(paths).lowers == first.lowers, "of the same masks, at the same place"


def test_nothing_takes_a_mask_out_of_the_layer(paths: Paths) -> None:
    """Neither by its name nor through another mount of it; and where it is not, a view cannot be made."""
    view = prepare_host(paths)
    layer = view.lowers[0]
    with pytest.raises(OSError, match="Read-only"):
        os.rmdir(f"{layer}/root")
    script = f"mount -o remount,bind,rw {os.path.dirname(layer)}; rmdir {layer}/root"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert "Read-only" in done.stderr
    forget_masks(paths)
    os.makedirs(os.path.dirname(layer))
    with pytest.raises(AssertionError, match="mount"):
        inside(view, paths, "ls /root")
    assert prepare_host(paths) == view, "made again where it is missing"
    assert os.path.isdir(layer)


def test_a_view_that_runs_keeps_its_masks(paths: Paths) -> None:
    """Its layer is unmounted below it: what it hides stays hidden."""
    view = prepare_host(paths)
    script = "echo ready; read go; ls -A /root /home | grep -v : ; cut -d: -f2 /etc/shadow | sort -u"
    base = tempfile.mkdtemp(dir=paths.instances)
    for name in ("upper", "work", "root"):
        os.mkdir(f"{base}/{name}")
    options = f"lowerdir={':'.join(view.lowers)},upperdir={base}/upper,workdir={base}/work"
    command = f"mount -t overlay overlay -o {options} {base}/root && exec chroot {base}/root sh -c '{script}'"
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        forget_masks(paths)
        running.stdin.write("go\n")
        running.stdin.close()
        assert running.stdout.read().split() == ["*"]


def test_files_and_directories_of_a_view_are_of_one_device(paths: Paths) -> None:
    """Though its layers are of two file systems: find -xdev and tar --one-file-system see all of it."""
    shown = inside(prepare_host(paths), paths, "stat -c %d / /etc /etc/passwd /etc/shadow /root /usr/bin/env")
    assert len(set(shown.split())) == 1


def test_masks_are_not_shared_by_what_is_hidden_elsewhere(paths: Paths) -> None:
    """Each file system of the view has what lies on it, and one with nothing to hide has no layer."""
    rows = (("/a", "absent"), ("/opt", "parent"), ("/opt/x", "parent"), ("/opt/x/y", "absent"))
    masked = [Masked(path, kind, 0o755) for path, kind in rows]  # type: ignore[arg-type]  # they are kinds
    layers = provide_masks(paths, masked, ("/", "/opt/x", "/usr"))
    assert sorted(layers) == ["/", "/opt/x"]
    assert sorted(os.listdir(layers["/"])) == ["a", "opt"]
    assert os.listdir(layers["/opt/x"]) == ["y"]


def test_a_state_directory_on_overlayfs_is_refused_with_a_remedy() -> None:
    """An upper layer cannot lie on an overlay: said at the start, not at the first launch."""
    base = tempfile.mkdtemp(prefix="shipkeeper-test-")
    code = (
        "from supervisor.core.paths import Paths; from supervisor.runtime.hostview import *\n"
        f"try: prepare_host(Paths('{base}/m/state', '{base}/run'))\n"
        "except HostError as error: print(error)"
    )
    script = (
        f"cd {base} && mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m"
        f' && cd - >/dev/null && exec "$PYTHON" -c "{code}"'
    )
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(base)
    assert "lies on overlay" in done.stdout
    assert "SHIPKEEPER_STATE_DIR" in done.stdout


def test_a_file_system_below_the_root_is_part_of_the_view(paths: Paths) -> None:
    """A separate /opt is seen and copy-on-write, and what is hidden in it is hidden."""
    code = (
        "from supervisor.core.paths import Paths; from supervisor.runtime.hostview import *\n"
        "from supervisor.runtime.masks import MaskRules; from test_rootfs_hostview import *\n"
        f"p = Paths('{paths.state_dir}', '{paths.run_dir}')\n"
        "v = prepare_host(p, MaskRules(hide=('/opt/secret',)))\n"
        "print([m.target for m in v.mounts]); print(inside(v, p, 'ls /opt; touch /opt/new'))"
    )
    script = f'mount -t tmpfs tmpfs /opt && touch /opt/a /opt/secret && "$PYTHON" -c "{code}" && ls /opt'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['/opt']", "a", "a", "secret"]


def test_mountinfo_is_read_with_its_escapes_and_covers() -> None:
    """A space in a name is \\040; of two mounts at one place the later one shows."""
    mounts = parse_mountinfo(
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "30 27 0:5 / /a\\040b rw shared:1 master:2 - xfs /dev/b rw\n"
        "31 30 0:6 / /a\\040b rw - tmpfs none rw\n"
    )
    assert [(mount.target, mount.fstype) for mount in mounts] == [("/", "ext4"), ("/a b", "tmpfs")]
    at = mount_of("/a b/c", mounts)
    assert at is not None
    assert at.fstype == "tmpfs"
    assert mount_of("/a bc", mounts) == mounts[0]
    assert replace(mounts[0], fstype="overlay").writable_layer is False
