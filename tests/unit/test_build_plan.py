"""Which stages a build needs, by the text of its plan; and what variables mean where."""

from __future__ import annotations

import pytest

from supervisor.core.environment import DEFAULT_PATH
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.scope import Globals, Platform, global_scope, platform_args
from supervisor.image.builder.stages import plan_build
from supervisor.image.builder.steps import Compiler, CopyOp, RunOp
from supervisor.image.builder.writing import new_mode, owner_of
from supervisor.image.config import Process
from supervisor.image.dockerfile import Dockerfile, parse_dockerfile

PLATFORM = Platform("linux", "amd64")


def world(text: str, **given: str) -> tuple[Dockerfile, Globals]:
    dockerfile, _ = parse_dockerfile(text.encode())
    return dockerfile, global_scope(dockerfile, given.items(), platform_args(PLATFORM, ""))


def plan(text: str, target: str = "", contexts: dict[str, str] | None = None, **given: str) -> list[str]:
    dockerfile, scope = world(text, **given)
    return str(plan_build(dockerfile, target, scope, contexts or {})).splitlines()


GRAPH = """ARG BASE=debian:12
FROM $BASE AS common
FROM common AS compile
RUN make
FROM common AS check
RUN make check
FROM golang AS Tools
FROM scratch
COPY --from=compile /out /
RUN --mount=type=bind,from=tools,target=/t true
COPY --from=busybox:1 /bin /bin
"""


def test_only_what_the_last_stage_needs() -> None:
    assert plan(GRAPH) == [
        "[0] common from image debian:12",
        "[1] compile from stage 0, needs 0",
        "[3] tools from image golang:latest",
        "[4] - from nothing, needs 1, 3 (target)",
        "skipped: check",
    ]


def test_a_target_by_name_and_by_number() -> None:
    wanted = ["[0] common from image debian:12", "[2] check from stage 0, needs 0 (target)"]
    for target in ("check", "CHECK", "2"):
        assert plan(GRAPH, target)[:2] == wanted


def test_arguments_choose_stages() -> None:
    """A stage that is chosen by an argument is needed, the others are not."""
    text = "ARG KIND=prod\nFROM a AS prod\nFROM b AS dev\nFROM ${KIND}\n"
    assert plan(text) == [
        "[0] prod from image a:latest",
        "[2] - from stage 0, needs 0 (target)",
        "skipped: dev",
    ]
    assert plan(text, KIND="dev")[0] == "[1] dev from image b:latest"


def test_additional_contexts_come_before_stages_and_images() -> None:
    text = "FROM a AS one\nFROM debian:12\nCOPY --from=one / /\n"
    contexts = {"one": "/dir", "debian:12": "docker-image://other:3"}
    assert plan(text, contexts=contexts) == ["[1] - from image other:3 (target)", "skipped: one"]


def test_a_stage_called_as_its_image_stands_on_the_image() -> None:
    assert plan("FROM debian AS debian\nFROM debian") == [
        "[0] debian from image debian:latest",
        "[1] - from stage 0, needs 0 (target)",
    ]


@pytest.mark.parametrize(
    ("text", "target", "problem"),
    [
        ("FROM a AS b\nFROM c", "d", "cannot build target d: .*stages are b"),
        (
            "FROM a\nCOPY --from=later / /\nFROM a AS later",
            "0",
            "Dockerfile:2: .*later: it comes later",
        ),
        ("FROM a\nCOPY --from=0 / /", "", "Dockerfile:2: invalid stage index 0"),
        ("FROM UPPER", "", "Dockerfile:1: cannot use image 'UPPER'.*lowercase"),
    ],
)
def test_problems(text: str, target: str, problem: str) -> None:
    with pytest.raises(BuildError, match=problem):
        plan(text, target)


# --- steps -----------------------------------------------------------------------------------------------
def compiled(text: str, **given: str) -> list[object]:
    dockerfile, scope = world(f"FROM scratch\n{text}", **given)
    compiler = Compiler.of_base(scope, Process(), "default")
    stage = dockerfile.stages[0]
    steps = [compiler.step(step, words) for step, words in zip(stage.steps, stage.texts, strict=True)]
    return [step.operation for step in steps if step.operation is not None]


def test_a_path_is_extended_on_a_base_that_has_none() -> None:
    """As in BuildKit: else what is in the usual directories is no longer found."""
    dockerfile, scope = world("FROM scratch\nENV PATH=/opt/bin:$PATH")
    compiler = Compiler.of_base(scope, Process(), "default")
    stage = dockerfile.stages[0]
    compiler.step(stage.steps[0], stage.texts[0])
    assert compiler.config.env == [f"PATH=/opt/bin:{DEFAULT_PATH}"]


def test_mounts_are_expanded_and_relative_to_the_working_directory() -> None:
    _, run = compiled("ARG ID=x\nWORKDIR /w\nRUN --mount=type=cache,target=c,id=$ID true")
    assert isinstance(run, RunOp)
    assert (run.mounts[0].target, run.mounts[0].id) == ("/w/c", "x")
    with pytest.raises(BuildError, match="from= of a mount takes no variable"):
        compiled("RUN --mount=type=bind,from=$X,target=/c true")


def test_what_a_run_depends_on() -> None:
    """Not secrets' and caches' names, nor proxies."""

    def key(text: str, **given: str) -> str:
        (run,) = compiled(text, **given)
        assert isinstance(run, RunOp)
        return run.key

    assert key("RUN x") == key("RUN x", HTTP_PROXY="p") == key("LABEL a=b\nRUN x")
    assert key("RUN --mount=type=cache,target=/c,id=1 x") == key("RUN --mount=type=cache,target=/c,id=2 x")
    assert len({key("RUN x"), key("RUN y"), key("ENV A=b\nRUN x"), key("USER u\nRUN x")}) == 4
    assert key("ARG HTTP_PROXY\nRUN x", HTTP_PROXY="p") != key("ARG HTTP_PROXY\nRUN x", HTTP_PROXY="q")


def test_copy_targets() -> None:
    def target(text: str) -> str:
        copy = compiled(f"WORKDIR /w\n{text}")[-1]
        assert isinstance(copy, CopyOp)
        return copy.target

    assert target("COPY a b") == "/w/b"
    assert target("COPY a .") == "/w/"
    assert target("COPY a ../x/") == "/x/"
    assert target("COPY a /") == "/"


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("", 0o100640, 0o640),
        ("1755", 0o100640, 0o1755),
        ("a+x", 0o100640, 0o751),
        ("u=rw,g-r,o=", 0o100755, 0o610),
        ("go=rX", 0o040700, 0o755),
        ("go=rX", 0o100600, 0o644),
        ("+t,u+s", 0o100755, 0o5755),
    ],
)
def test_modes(text: str, before: int, after: int) -> None:
    assert new_mode(text, before) == after


def test_modes_and_owners_that_are_none() -> None:
    for text in ("888", "u*x", "rwx"):
        with pytest.raises(ValueError, match="invalid mode"):
            new_mode(text, 0o100644)
    with pytest.raises(ValueError, match="unable to find group g"):
        owner_of("1:g", lambda _: "")
