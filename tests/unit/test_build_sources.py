"""What a CONTEXT argument and the small languages of options mean."""

from __future__ import annotations

import io

import pytest

from supervisor.cli.buildoptions import (
    OptionError,
    check_platforms,
    epoch_of,
    parse_args,
    parse_pairs,
    parse_platform,
    parse_secret,
    parse_ssh,
)
from supervisor.cli.buildservices import plan_works
from supervisor.cli.screen import Screen
from supervisor.core.build import BuildSpec, ImageSource
from supervisor.image.builder.request import Secret, SshAgent
from supervisor.image.sources import (
    Directory,
    Git,
    Remote,
    Source,
    SourceError,
    Stdin,
    is_archive,
    parse_source,
)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (".", Directory(".")),
        ("some/dir.git", Directory("some/dir.git")),
        ("-", Stdin()),
        ("https://h/x.git", Git("https://h/x.git")),
        ("https://h/x.git#main", Git("https://h/x.git", "main")),
        ("https://h/x.git#main:a/b", Git("https://h/x.git", "main", "a/b")),
        ("https://h/x.git#:a/b", Git("https://h/x.git", "", "a/b")),
        ("https://h/x.git?branch=b&subdir=s", Git("https://h/x.git", "refs/heads/b", "s")),
        ("https://h/x.git?tag=v1", Git("https://h/x.git", "refs/tags/v1")),
        ("https://h/x.git?commit=0123abcd", Git("https://h/x.git", "0123abcd", "", "0123abcd")),
        ("git://h/x#v1", Git("git://h/x", "v1")),
        ("ssh://git@h/x", Git("ssh://git@h/x")),
        ("git@h:x/y.git#v1:s", Git("git@h:x/y.git", "v1", "s")),
        ("github.com/o/r#v1", Git("https://github.com/o/r", "v1")),
        ("file:///srv/x.git#v1", Git("file:///srv/x.git", "v1")),
        ("https://h/x.tar.gz", Remote("https://h/x.tar.gz")),
        ("http://h/Dockerfile?x=1", Remote("http://h/Dockerfile?x=1")),
    ],
)
def test_sources(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "https://h/x.git#-x",
        "https://h/x.git#main:../..",
        "https://h/x.git?brunch=x",
        "https://h/x.git?branch=x#y",
        "file:///etc",
    ],
)
def test_sources_that_mean_nothing(text: str) -> None:
    with pytest.raises(SourceError, match="cannot use"):
        parse_source(text)


def test_archives_are_told_from_dockerfiles() -> None:
    assert is_archive(b"\x1f\x8b\x08")
    assert is_archive(b"x" * 257 + b"ustar" + b"x" * 250)
    assert not is_archive(b"FROM scratch\n")
    assert not is_archive(b"FROM scratch\n# " + b"ustar" * 200)


def test_secrets() -> None:
    env = {"TOKEN": "x"}
    assert parse_secret("id=a,src=f", env) == Secret("a", "f")
    assert parse_secret("type=file,id=a,source=f", env) == Secret("a", "f")
    assert parse_secret("id=a,env=TOKEN", env) == Secret("a", "", "TOKEN")
    assert parse_secret("type=env,id=TOKEN", env) == Secret("TOKEN", "", "TOKEN")
    assert parse_secret("id=TOKEN", env) == Secret("TOKEN", "", "TOKEN")
    assert parse_secret("id=other", env) == Secret("other", "other")
    assert parse_secret('"id=a","src=f,g"', env) == Secret("a", "f,g")
    for bad in ("src=f", "id=a,src=f,env=TOKEN", "id=a,env=NOPE", "id=a,sorce=f", "id", "type=x,id=a", ""):
        with pytest.raises(OptionError, match="--secret"):
            parse_secret(bad, env)


def test_other_options() -> None:
    assert parse_ssh("default") == SshAgent()
    assert parse_ssh("a=/k1,/k2") == SshAgent("a", ("/k1", "/k2"))
    assert parse_args(["A=1", "B", "C", "A=2"], {"B": "b"}) == (("B", "b"), ("A", "2"))
    assert parse_pairs("--label", ["a=b=c", "d"]) == (("a", "b=c"), ("d", ""))
    assert parse_platform("x86_64") == parse_platform("linux/amd64") == "linux/amd64"
    assert parse_platform("linux/aarch64/v8") == "linux/arm64"
    check_platforms(["linux/amd64,amd64"], "linux/amd64")
    with pytest.raises(OptionError, match="cannot build for linux/arm64"):
        check_platforms(["linux/amd64,linux/arm64"], "linux/amd64")
    assert epoch_of({"SOURCE_DATE_EPOCH": "5"}, {"SOURCE_DATE_EPOCH": "6"}) == 5
    assert epoch_of({}, {"SOURCE_DATE_EPOCH": "6"}) == 6
    assert epoch_of({}, {}) is None
    with pytest.raises(OptionError, match="no number"):
        epoch_of({"SOURCE_DATE_EPOCH": "yesterday"}, {})


def test_services_of_one_build_are_built_once_and_what_is_needed_first() -> None:
    def source(name: str, build: BuildSpec | None) -> ImageSource:
        return ImageSource(name, f"docker.io/library/{name}:latest", "", build)

    same = BuildSpec("/web", tags=("x",))
    sources = {
        "a": source("a", same),
        "b": source("b", BuildSpec("/web")),
        "top": source("top", BuildSpec("/top", contexts=(("o", "service:a"), ("d", "/dir")))),
        "plain": source("plain", None),
    }
    (both,) = plan_works(sources, ["a", "b", "plain"])
    assert both.services == ("a", "b")
    assert both.names == ("docker.io/library/a:latest", "x", "docker.io/library/b:latest")
    below, above = plan_works(sources, ["top"])
    assert (below.services, above.services, above.needs) == (("a",), ("top",), {"a"})


def test_a_narrowed_terminal_is_repainted_from_the_right_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of a wider terminal take several rows of a narrow one: so far up the next frame begins."""
    stream = io.StringIO()
    screen = Screen(stream)
    width = 80
    monkeypatch.setattr(screen, "size", lambda: (width, 24))
    screen.paint(["x" * 70, "\x1b[34m" + "y" * 10 + "\x1b[0m"])
    width = 30
    screen.paint(["z"])
    assert "\r\x1b[4A" in stream.getvalue(), "three rows, and one"
    before = stream.getvalue()
    screen.paint(["z"])
    assert stream.getvalue() == before, "what has not changed is not painted"
