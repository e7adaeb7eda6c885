"""Every instruction of a Dockerfile on the real kernel: what the image says and holds after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import BUSYBOX, Bench

from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.request import Secret

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "b"))
    made.add_base()
    yield made
    assert made.leftovers() == []


# --- RUN -------------------------------------------------------------------------------------------------
def test_run_in_shell_form_writes_a_layer(bench: Bench) -> None:
    """What a command writes is in the layer, and nothing else is: no mount points, no /etc files."""
    result = bench.build("FROM base:1\nRUN echo one > /one && echo shown")
    assert result.text("/one") == "one\n"
    assert "shown\n" in result.output
    assert result.layer_names() == ["one"]


def test_run_in_exec_form_has_no_shell(bench: Bench) -> None:
    """Nothing expands the variable."""
    result = bench.build('FROM base:1\nENV A=b\nRUN ["/bin/echo", "$A"]')
    assert "$A\n" in result.output


def test_run_uses_the_shell_that_was_set(bench: Bench) -> None:
    """SHELL is of later shell forms, and in the image."""
    result = bench.build('FROM base:1\nSHELL ["/bin/sh", "-x", "-c"]\nRUN echo hi\nCMD run me')
    assert "+ echo hi" in result.output
    assert result.image.config.config.shell == ["/bin/sh", "-x", "-c"]
    assert result.image.config.config.cmd == ["/bin/sh", "-x", "-c", "run me"]


def test_run_heredoc_is_a_script(bench: Bench) -> None:
    result = bench.build('FROM base:1\nRUN <<EOF\nA=two\necho "one $A" > /f\nEOF')
    assert result.text("/f") == "one two\n"


def test_run_heredoc_with_an_interpreter_is_a_program(bench: Bench) -> None:
    result = bench.build("FROM base:1\nRUN <<EOF\n#!/bin/sh -e\necho $0 > /f\nEOF")
    assert result.text("/f") == "/dev/pipes/EOF\n"
    assert result.layer_names() == ["f"]


def test_run_heredocs_are_read_by_the_shell(bench: Bench) -> None:
    result = bench.build("FROM base:1\nRUN cat <<A > /a && cat <<B > /b\none\nA\ntwo\nB\n")
    assert (result.text("/a"), result.text("/b")) == ("one\n", "two\n")


def test_run_is_isolated_as_a_service_is(bench: Bench) -> None:
    """Its own pid namespace and host name, a filter of system calls, Docker's capabilities, masked paths."""
    result = bench.build(
        "FROM base:1\nRUN echo pid $$; hostname; grep -E 'Seccomp:|CapEff|NoNewPrivs' /proc/self/status;"
        " cat /proc/kcore | wc -c; cat /sys/firmware/* 2>/dev/null | wc -c"
    )
    output = result.output.splitlines()
    assert "pid 1" in output
    assert "builder" in output
    assert "CapEff:\t00000000a80425fb" in output
    assert "Seccomp:\t2" in output
    assert "NoNewPrivs:\t0" in output


def test_run_without_a_network_has_loopback_only(bench: Bench) -> None:
    result = bench.build("FROM base:1\nRUN --network=none ip link | grep -c mtu\n")
    assert result.output.strip().endswith("1")
    shared = bench.build("FROM base:1\nRUN readlink /proc/self/ns/net", network="host")
    assert os.readlink("/proc/self/ns/net") in shared.output
    own = bench.build("FROM base:1\nRUN readlink /proc/self/ns/net", network="none")
    assert os.readlink("/proc/self/ns/net") not in own.output


def test_run_as_another_user(bench: Bench) -> None:
    result = bench.build("FROM base:1\nUSER app\nRUN id && touch /tmp/mine")
    assert "uid=7(app) gid=8(apps)" in result.output
    assert result.mode("/tmp/mine") == "0644 7:8"
    assert result.image.config.config.user == "app"


def test_a_failing_run_says_where_and_shows_its_last_lines(bench: Bench) -> None:
    """With the exit code, and the layers before it are cached."""
    dockerfile = "FROM base:1\nRUN echo fine > /fine\nRUN echo broken; exit 3\n"
    with pytest.raises(BuildError) as caught:
        bench.build(dockerfile)
    assert "Dockerfile:3: RUN echo broken; exit 3" in str(caught.value)
    assert "exit code: 3" in str(caught.value)
    assert caught.value.exit_code == 3
    assert caught.value.output == "broken\n"
    assert "[2/3] RUN echo fine > /fine" in bench.build(dockerfile.replace("exit 3", "exit 0")).cached


def test_a_command_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(BuildError, match=r"Dockerfile:2: cannot run /none"):
        bench.build('FROM base:1\nRUN ["/none"]')


def test_deleting_and_replacing_what_lies_below(bench: Bench) -> None:
    """Whiteouts and opaque directories are in the layer."""
    result = bench.build(
        "FROM base:1\nRUN mkdir /d && touch /d/a /d/b /gone\n"
        "RUN rm /gone && rm -r /d && mkdir /d && touch /d/c"
    )
    assert result.entry("/gone") is None
    assert result.stack.names("/d") == ["c"]


# --- RUN --mount -----------------------------------------------------------------------------------------
def test_bind_mounts_of_the_context_are_read_only_and_filtered(bench: Bench) -> None:
    bench.file("src/a", "a")
    bench.file("src/secret", "s")
    result = bench.build(
        "FROM base:1\nRUN --mount=type=bind,source=src,target=/mnt/src ls -l /mnt/src;"
        " touch /mnt/src/new && echo written; cat /mnt/src/a",
        ignore="**/secret\n",
    )
    assert "secret" not in result.output
    assert "written" not in result.output
    assert "root" in result.output or " 0 " in result.output
    assert result.layer_names() == []


def test_a_writable_bind_mount_keeps_nothing(bench: Bench) -> None:
    bench.file("a", "a")
    result = bench.build(
        "FROM base:1\nRUN --mount=target=/src,rw echo b >> /src/a && cat /src/a\n"
        "RUN --mount=target=/src cat /src/a"
    )
    assert "a" + "b\n" + "a" in result.output
    assert (bench.context / "a").read_text() == "a"


def test_bind_mounts_from_stages_and_of_single_files(bench: Bench) -> None:
    result = bench.build(
        "FROM base:1 AS one\nRUN mkdir /d && echo x > /d/x && echo y > /d/y\nRUN rm /d/y && echo z > /d/z\n"
        "FROM base:1\nRUN --mount=from=one,source=/d,target=/m ls /m; touch /m/n || echo read-only\n"
        "RUN --mount=from=one,source=/d/x,target=/one/file cat /one/file > /copy\n"
    )
    assert "x\nz\nread-only" in result.output.replace("touch: /m/n: Read-only file system\n", "")
    assert result.text("/copy") == "x\n"
    assert result.layer_names() == ["copy"]


def test_cache_mounts_last_and_are_in_no_layer(bench: Bench) -> None:
    first = (
        "FROM base:1\nRUN --mount=type=cache,target=/root/.cache echo 1 >> /root/.cache/n; cat /root/.cache/n"
    )
    bench.build(first)
    result = bench.build(first.replace("cat", "wc -l <"))
    assert result.output.strip() == "2"
    assert result.layer_names() == []
    other = bench.build(
        "FROM base:1\n"
        "RUN --mount=type=cache,id=other,target=/root/.cache,uid=7,mode=0700 stat -c '%u %a' /root/.cache"
    )
    assert other.output.strip() == "7 700"


def test_a_stub_s_parents_come_along_only_with_what_is_written(bench: Bench) -> None:
    """A file beside the target of a mount brings the directory, made as by mkdir -p, and not the target."""
    result = bench.build("FROM base:1\nRUN --mount=type=cache,target=/var/cache/x touch /var/cache/kept")
    assert result.layer_names() == ["var", "var/cache", "var/cache/kept"]
    assert result.mode("/var") == "0755 0:0"


def test_tmpfs_mounts_are_empty_and_limited(bench: Bench) -> None:
    result = bench.build(
        "FROM base:1\n"
        "RUN --mount=type=tmpfs,target=/scratch,size=1m df -k /scratch | tail -1; touch /scratch/a"
    )
    assert "1024" in result.output
    assert result.layer_names() == []


def test_secrets_are_there_for_one_step_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("hidden")
    monkeypatch.setenv("FROM_HOST", "from-env")
    result = bench.build(
        "FROM base:1\n"
        "RUN --mount=type=secret,id=key stat -c '%a %u' /run/secrets/key; sha256sum /run/secrets/key\n"
        "RUN --mount=type=secret,id=key,target=/s,mode=0444,uid=7 --mount=type=secret,id=v,env=V"
        " stat -c '%a %u' /s; echo $V | wc -c\n"
        "RUN ! ls /s && echo $V > /v",
        secrets=(Secret("key", str(tmp_path / "key")), Secret("v", env="FROM_HOST")),
    )
    assert "400 0\n" in result.output
    assert "444 7\n" in result.output
    assert "9\n" in result.output
    assert result.text("/v") == "\n"
    for index in range(1, len(result.image.diff_ids)):
        assert "hidden" not in "".join(result.layer_names(index))
    assert result.layer_names(1) == []


def test_a_required_secret_that_is_missing(bench: Bench) -> None:
    with pytest.raises(BuildError, match=r"Dockerfile:2: secret k is required, .*--secret id=k"):
        bench.build("FROM base:1\nRUN --mount=type=secret,id=k,required true")
    bench.build("FROM base:1\nRUN --mount=type=secret,id=k true")


def test_ssh_agents_are_reached_through_a_socket(bench: Bench) -> None:
    """Without one the step runs, unless it is required."""
    with pytest.raises(BuildError, match="SSH agent default is required"):
        bench.build("FROM base:1\nRUN --mount=type=ssh,required true")


# --- configuration ---------------------------------------------------------------------------------------
def test_env_values_of_one_instruction_see_the_old_ones(bench: Bench) -> None:
    result = bench.build(
        'FROM base:1\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi $abc old style\nRUN echo "$abc $def"'
    )
    assert result.image.config.config.env == ["abc=bye", "def=hello", "ghi=bye old style"]
    assert "bye hello" in result.output


def test_args_global_and_of_a_stage(bench: Bench) -> None:
    dockerfile = (
        "ARG VERSION=1\nARG LEFT=kept\nFROM base:${VERSION}\nRUN echo [$VERSION]\nARG VERSION\nARG LEFT=own\n"
        "ARG NONE\nRUN echo [$VERSION] [$LEFT] [${NONE-unset}]"
    )
    result = bench.build(dockerfile)
    assert result.output.splitlines() == ["[]", "[1] [own] [unset]"]
    given = bench.build(dockerfile, args=(("LEFT", "given"), ("NONE", "")))
    assert given.output.splitlines()[-1] == "[1] [given] []"
    assert given.image.config.config.env is None
    assert given.image.config.history[-1].created_by.startswith(
        "RUN |3 VERSION=1 LEFT=given NONE= /bin/sh -c"
    )


def test_env_wins_over_an_arg(bench: Bench) -> None:
    result = bench.build("FROM base:1\nARG A=arg\nENV A=env\nRUN echo $A", args=(("A", "given"),))
    assert result.output.strip() == "env"


def test_predefined_and_platform_args(bench: Bench) -> None:
    result = bench.build(
        "FROM --platform=$BUILDPLATFORM base:1\nARG TARGETARCH\nARG TARGETPLATFORM\n"
        "RUN echo $TARGETPLATFORM $TARGETARCH $TARGETOS $HTTP_PROXY",
        args=(("HTTP_PROXY", "http://p"),),
    )
    assert result.output.strip() == "linux/amd64 amd64 http://p"
    assert "http://p" not in str(result.image.config)


def test_commands_and_the_reset_of_an_inherited_one(bench: Bench) -> None:
    bench.add_base("parent:1", cmd=["old"], entrypoint=["entry"])
    result = bench.build('FROM parent:1\nENTRYPOINT ["new"]')
    assert (result.image.config.config.entrypoint, result.image.config.config.cmd) == (["new"], None)
    result = bench.build('FROM parent:1\nCMD ["own"]\nENTRYPOINT new')
    process = result.image.config.config
    assert (process.entrypoint, process.cmd) == (["/bin/sh", "-c", "new"], ["own"])


def test_everything_else_that_an_image_says(bench: Bench) -> None:
    result = bench.build(
        'FROM base:1\nARG P=80\nEXPOSE $P 53/udp 8000-8001\nLABEL a=b c="d e"\nVOLUME /data /more\n'
        'VOLUME ["/third"]\nSTOPSIGNAL SIGINT\nMAINTAINER somebody\n'
        "HEALTHCHECK --interval=5s --timeout=1s --start-period=2s --start-interval=1s --retries=4"
        " CMD test -f /x\n"
    )
    config = result.image.config
    process = config.config
    assert sorted(process.exposed_ports or {}) == ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
    assert {name: (process.labels or {})[name] for name in "ac"} == {"a": "b", "c": "d e"}
    assert sorted(process.volumes or {}) == ["/data", "/more", "/third"]
    assert process.stop_signal == "SIGINT"
    assert config.author == "somebody"
    health = process.healthcheck
    assert health is not None
    assert health.test == ["CMD-SHELL", "test -f /x"]
    assert (health.interval, health.retries, health.start_interval) == (5_000_000_000, 4, 1_000_000_000)
    assert len(config.rootfs.diff_ids) == sum(not row.empty_layer for row in config.history) + 1
    none = bench.build("FROM test:1\nHEALTHCHECK NONE")
    assert none.image.config.config.healthcheck is not None
    assert none.image.config.config.healthcheck.test == ["NONE"]


def test_workdir_is_made_and_belongs_to_the_user(bench: Bench) -> None:
    result = bench.build(
        "FROM base:1\nWORKDIR /a\nWORKDIR b\nRUN pwd\nUSER app\nENV D=c\nWORKDIR $D\nWORKDIR /tmp"
    )
    assert result.output.strip() == "/a/b"
    assert result.mode("/a/b") == "0755 0:0"
    assert result.mode("/a/b/c") == "0755 7:8"
    assert result.image.config.config.working_dir == "/tmp"
    assert result.image.config.history[-1].empty_layer  # it was there


def test_onbuild_runs_in_the_next_build_and_only_there(bench: Bench) -> None:
    bench.file("f", "text")
    parent = bench.build(
        "FROM base:1\nONBUILD COPY f /copied\nONBUILD RUN cat /copied > /ran\nONBUILD ENV T=1"
    )
    assert parent.entry("/copied") is None
    assert parent.image.config.config.on_build == ["COPY f /copied", "RUN cat /copied > /ran", "ENV T=1"]
    child = bench.build("FROM test:1\nRUN echo $T")
    assert child.text("/ran") == "text"
    assert child.output.strip() == "1"
    assert child.image.config.config.on_build is None


def test_scratch_is_empty(bench: Bench) -> None:
    bench.file("f", "x")
    result = bench.build("FROM scratch\nCOPY f /f\nENV A=b")
    assert result.stack.names("/") == ["f"]
    assert len(result.image.diff_ids) == 1
    assert "org.opencontainers.image.base.name" not in (result.image.config.config.labels or {})


def test_the_base_is_recorded(bench: Bench) -> None:
    base = bench.store.find("base:1")
    labels = bench.build("FROM base:1", labels=(("mine", "1"),)).image.config.config.labels
    assert labels == {
        "mine": "1",
        "org.opencontainers.image.base.digest": base.manifest_digest,
        "org.opencontainers.image.base.name": "docker.io/library/base:1",
    }


# --- stages ----------------------------------------------------------------------------------------------
def test_stages_nobody_needs_are_not_built(bench: Bench) -> None:
    result = bench.build(
        "FROM base:1 AS a\nRUN echo a > /a\nFROM base:1 AS unneeded\nRUN exit 1\nFROM a AS c\n"
        "RUN cat /a > /c\n"
        "FROM scratch\nCOPY --from=c /c /\nCOPY --from=0 /a /b"
    )
    assert result.stack.names("/") == ["b", "c"]
    target = bench.build("FROM base:1 AS a\nRUN echo a > /a\nFROM base:1\nRUN exit 1", target="A")
    assert target.text("/a") == "a\n"


def test_independent_stages_run_at_the_same_time(bench: Bench) -> None:
    """Each waits for the other: one after the other would never end."""
    wait = (
        "RUN --mount=type=cache,id=meet,target=/meet"
        " touch /meet/{0}; until test -f /meet/{1}; do sleep 0.05; done"
    )
    result = bench.build(
        f"FROM base:1 AS a\n{wait.format('a', 'b')}\nRUN touch /a\nFROM base:1 AS b\n"
        f"{wait.format('b', 'a')}\n"
        "RUN touch /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /"
    )
    assert result.stack.names("/") == ["a", "b"]


def test_additional_contexts(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "f").write_text("extra")
    bench.add_base("other:1")
    result = bench.build(
        "FROM named\nCOPY --from=dir f /f\nCOPY --from=other:1 /etc/group /g",
        contexts=(("dir", str(tmp_path / "extra")), ("named", "docker-image://base:1")),
    )
    assert result.text("/f") == "extra"
    assert "staff" in result.text("/g")


@pytest.mark.parametrize(
    ("dockerfile", "problem"),
    [
        ("FROM none:1", "Dockerfile:1: cannot use base image none:1: no such image"),
        ("FROM base:1\nCOPY missing /", "Dockerfile:2: cannot copy missing: not found"),
        ("FROM base:1 AS a\nFROM base:1\nCOPY --from=5 /a /", "Dockerfile:3: invalid stage index 5"),
        ("FROM $NOTHING", "Dockerfile:1: base name .* should not be blank"),
        ("FROM base:1\nENV A=${B:?say}", "Dockerfile:2: cannot expand .*say"),
        ("FROM base:1\nCOPY --chown=nobody2 f /", "unable to find user nobody2"),
        ("FROM base:1\nEXPOSE 99999", "Dockerfile:2: invalid port"),
        ("FROM base:1\nWORKDIR /etc/passwd", "it is a file"),
    ],
)
def test_problems_name_their_line(bench: Bench, dockerfile: str, problem: str) -> None:
    bench.file("f")
    with pytest.raises(BuildError, match=problem):
        bench.build(dockerfile)
