"""`build --check` finds what BuildKit's checks find, at the same lines, in the same words.

The answers are those of BuildKit's reference of build checks and of its own tests of each rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.image.builder.ignore import parse_ignore
from supervisor.image.dockerfile import lintrules
from supervisor.image.dockerfile.lint import Inputs, LintOptionError, lint
from supervisor.image.dockerfile.lintvars import closest


def found(
    text: str, *, args: Mapping[str, str] | None = None, ignore: str | None = None
) -> list[tuple[str, int]]:
    report = lint(text.encode(), "Dockerfile", inputs(args, ignore))
    return [(finding.rule.name, finding.line) for finding in report.findings]


def details(text: str, **given: Mapping[str, str]) -> list[str]:
    return [finding.detail for finding in lint(text.encode(), "Dockerfile", inputs(**given)).findings]


def inputs(args: Mapping[str, str] | None = None, ignore: str | None = None) -> Inputs:
    parsed = None if ignore is None else parse_ignore(ignore)
    return Inputs(
        args or {},
        ignored=None if parsed is None else parsed.excludes,
        roots_ignored=parsed is not None
        and any(each.text in ("*", "**", "**/*") for each in parsed.patterns),
        base_env=lambda name: {"LANG": "C"} if name == "known" else None,
    )


CASES: list[tuple[str, str, list[tuple[str, int]]]] = [
    ("nothing", "FROM scratch\nCOPY a /\n", []),
    ("stage name", "FROM scratch AS Builder\n", [("StageNameCasing", 1)]),
    ("as", "FROM scratch as a\n", [("FromAsCasing", 1)]),
    ("as, lower", "from scratch AS a\nfrom scratch as b\n", [("FromAsCasing", 1)]),
    ("as, mixed command", "From scratch as a\nFROM scratch AS b\n", [("ConsistentInstructionCasing", 1)]),
    ("continuation", "FROM scratch\nCOPY a \\\n\n.\nCOPY b \\\n.\n", [("NoEmptyContinuation", 4)]),
    ("casing", "FROM scratch\ncopy a /\nCOPY b /\n", [("ConsistentInstructionCasing", 2)]),
    ("casing, lower", "from scratch\nCOPY a /\ncopy b /\n", [("ConsistentInstructionCasing", 2)]),
    ("casing, of FROM", "from scratch\nCOPY a /\nCOPY b /\n", [("ConsistentInstructionCasing", 1)]),
    ("casing, all lower", "from scratch\ncopy a /\ncopy b /\n", []),
    ("casing, global ARG", "arg A=b\nFROM scratch\nCOPY a /\n", []),
    ("twice", "FROM scratch AS b\nFROM scratch AS b\n", [("DuplicateStageName", 2)]),
    (
        "reserved",
        "FROM scratch AS scratch\nFROM scratch AS context\n",
        [("ReservedStageName", 1), ("ReservedStageName", 2)],
    ),
    ("shell form", "FROM scratch\nCMD run it\n", [("JSONArgsRecommended", 2)]),
    ("shell form, entrypoint", "FROM scratch\nENTRYPOINT run it\n", [("JSONArgsRecommended", 2)]),
    ("shell form, own shell", 'FROM scratch\nSHELL ["/sh"]\nCMD run it\n', []),
    ("shell form, shell below", 'FROM scratch AS a\nSHELL ["/sh"]\nFROM a\nENTRYPOINT run it\n', []),
    ("maintainer", "FROM scratch\nMAINTAINER me\n", [("MaintainerDeprecated", 2)]),
    ("from, declared", "ARG B=scratch\nFROM $B\n", []),
    ("from, platform", "FROM --platform=$BUILDPLATFORM scratch\n", []),
    ("from, not declared", "ARG T=1\nFROM busybox:${T}${version} AS b\n", [("UndefinedArgInFrom", 2)]),
    ("from, platform misspelt", "FROM --platform=$BULIDPLATFORM scratch\n", [("UndefinedArgInFrom", 1)]),
    ("workdir", "FROM scratch\nWORKDIR app/\nWORKDIR more\n", [("WorkdirRelativePath", 2)]),
    ("workdir, of the stage below", "FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n", []),
    ("variable, declared", "FROM scratch\nARG v\nCOPY f${v} /\n", []),
    ("variable, of the stage below", "FROM scratch AS b\nARG v=f\nFROM b\nCOPY $v /\n", []),
    ("variable, in RUN", "FROM scratch\nRUN echo $HOME\n", []),
    ("variable, later", "FROM scratch\nCOPY $v /\nARG v=b\n", [("UndefinedVar", 2)]),
    ("variable, base known", "FROM known\nENV A=$LANG B=$NO\n", [("UndefinedVar", 2)]),
    ("variable, base not known", "FROM elsewhere\nENV A=$NO\n", []),
    ("variable, heredoc", "FROM scratch\nCOPY <<E /f\n$x 'y\nE\n", [("UndefinedVar", 2)]),
    ("variable, quoted heredoc", "FROM scratch\nCOPY <<'E' /f\n$x\nE\n", []),
    (
        "several",
        (
            'FROM scratch\nENTRYPOINT ["a"]\nENTRYPOINT ["b"]\nCMD ["a"]\nCOPY a /\nCMD ["b"]\n'
            'HEALTHCHECK CMD ["a"]\nHEALTHCHECK CMD ["b"]\n'
        ),
        [("MultipleInstructionsDisallowed", line) for line in (2, 4, 7)],
    ),
    ("several, in stages", 'FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n', []),
    (
        "legacy",
        "FROM scratch\nENV a b\nLABEL a b\n",
        [("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)],
    ),
    ("legacy, new", "FROM scratch\nENV a=b\nLABEL a=b\n", []),
    ("platform, target", "FROM --platform=$TARGETPLATFORM scratch\n", [("RedundantTargetPlatform", 1)]),
    (
        "platform, target in braces",
        "FROM --platform=${TARGETPLATFORM} scratch\n",
        [("RedundantTargetPlatform", 1)],
    ),
    ("platform, const", "FROM --platform=linux/amd64 scratch\n", [("FromPlatformFlagConstDisallowed", 1)]),
    ("platform, const in the name", "FROM --platform=linux/amd64 scratch AS my_amd64\n", []),
    ("platform, const in the name", "FROM --platform=linux/amd64 scratch AS linux\n", []),
    ("default, none", "ARG V\nFROM busybox:$V\n", [("InvalidDefaultArgInFrom", 2)]),
    ("default, empty", "ARG IMAGE\nFROM $IMAGE\n", [("InvalidDefaultArgInFrom", 2)]),
    ("default, half", 'ARG S="box:"\nFROM busy${S}\n', [("InvalidDefaultArgInFrom", 2)]),
    ("default, whole", "ARG V=latest\nFROM busybox:${V}\nARG X\n", []),
    ("default, suffix", "ARG S\nFROM busybox:stable${S}\n", []),
    ("expose, casing", "FROM scratch\nEXPOSE 80/TcP 81/TCP 82/udp\n", [("ExposeProtoCasing", 2)] * 2),
    (
        "expose, mapping",
        "FROM scratch\nEXPOSE 127.0.0.1:80:80 [::1]:81:81 5:5 8000\n",
        [("ExposeInvalidFormat", 2)] * 3,
    ),
    ("expose, variable", "FROM scratch\nENV P=1\nEXPOSE ${P:-80}/tcp\n", []),
]


@pytest.mark.parametrize(
    ("what", "text", "expected"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_finds_what_buildkit_finds(what: str, text: str, expected: list[tuple[str, int]]) -> None:
    assert found(text) == expected
    assert found(f"# check=skip=all\n{text}") == []


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("ARG SECRET_PASSPHRASE", 1),
        ("ENV SUPER_Secret=foo", 1),
        ("ENV password=bar secret=baz", 2),
        ("ARG super_duper_secret_token=foo auth=bar", 2),
        ("ENV apikey=bar sunflower=foo", 1),
        ("ENV git_key=", 1),
        ("ENV PUBLIC_KEY=", 0),
        ("ARG public_token", 0),
        ("ARG SECRET_PASSPHRASE_FILE", 0),
        ("ENV password_file=bar secret_File=baz", 0),
        ("ARG AUTH_MODULE_VERSION", 0),
        ("ENV keyboard=x monkey=y", 0),
        ("# check=skip=SecretsUsedInArgOrEnv // on purpose\nENV password=bar", 0),
        ("# check=skip=all // only here\nENV password=bar\nENV token=x", 1),
    ],
)
def test_names_of_secrets(text: str, secrets: int) -> None:
    assert (
        found(f"FROM scratch\n{text}\n").count(("SecretsUsedInArgOrEnv", 2))
        + found(f"FROM scratch\n{text}\n").count(("SecretsUsedInArgOrEnv", 4))
        == secrets
    )


@pytest.mark.parametrize(
    ("ignore", "copied", "said"),
    [
        (
            "Dockerfile\n",
            "Dockerfile",
            ['Attempting to Copy file "Dockerfile" that is excluded by .dockerignore'],
        ),
        (
            "foobar\n",
            "foobar/file",
            ['Attempting to Copy file "foobar/file" that is excluded by .dockerignore'],
        ),
        ("foobar\n!foobar/bar\n", "other", []),
        (".*\n", ".", []),
        ("*\n", ".", ['Attempting to Copy file "." that is excluded by .dockerignore']),
        ("Dockerfile\n", "--from=other Dockerfile", []),
    ],
)
def test_copies_of_what_is_ignored(ignore: str, copied: str, said: list[str]) -> None:
    parsed = parse_ignore(ignore)
    given = Inputs(ignored=parsed.excludes, roots_ignored=ignore == "*\n")
    text = f"FROM scratch AS other\nFROM scratch\nCOPY {copied} /\n".encode()
    assert [finding.detail for finding in lint(text, "Dockerfile", given).findings] == said


def test_descriptions_are_an_experiment() -> None:
    text = (
        "# bar says something else\nARG foo=bar\n# Base with another case\nFROM scratch AS base\n"
        "# a comment\nARG version=latest\n# baz is named\nARG foo=baz baz=q\n# nobody is named\nARG a=1 b=2\n"
        "# apart\n\nARG c=1\n# about a copy\nCOPY x /\n"
    )
    assert found(text) == []
    asked = f"# check=experimental=InvalidDefinitionDescription\n{text}"
    assert details(asked) == [
        "Comment for ARG should follow the format: `# foo <description>`",
        "Comment for FROM should follow the format: `# base <description>`",
        "Comment for ARG should follow the format: `# version <description>`",
        "Comment for ARG should follow the format: `# <arg_key> <description>`",
    ]


def test_the_words_are_buildkits() -> None:
    assert details("FROM known\nARG DIR_ASSETS=a\nCOPY $DIR_ASSET .\nENV PATH=$PAHT:/b\n") == [
        "Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)",
        "Usage of undefined variable '$PAHT' (did you mean $PATH?)",
    ]
    assert details("ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox\n") == [
        "FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)"
    ]
    assert closest("abc", ["xyz"]) == ""


def test_options() -> None:
    text = "FROM scratch as base\ncopy Dockerfile .\n"
    both = [("ConsistentInstructionCasing", 2), ("FromAsCasing", 1)]
    assert sorted(found(text)) == both
    assert found(f"#check=skip=ConsistentInstructionCasing,FromAsCasing\n{text}") == []
    report = lint(
        f"#check=skip=ConsistentInstructionCasing;error=true\n{text}".encode(), "Dockerfile", Inputs()
    )
    assert report.fails
    assert [str(each) for each in report.findings] == [
        "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2)"
    ]
    assert not lint(f"#check=skip=all;error=true\n{text}".encode(), "Dockerfile", Inputs()).fails
    skip = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    assert found(f"#check=error=true\n{text}", args=skip) == [], "the argument is instead of the directive"
    with pytest.raises(LintOptionError, match="skipp"):
        lint(b"# check=skipp=all\nFROM scratch\n", "Dockerfile", Inputs())


def test_a_file_that_cannot_be_built_is_checked_as_far_as_it_goes() -> None:
    report = lint(b"FROM scratch as a\nRUNN x\n", "Dockerfile", Inputs())
    assert [finding.rule.name for finding in report.findings] == ["FromAsCasing"]
    assert report.error is not None


def test_build_arguments_that_nothing_declares() -> None:
    text = b"ARG A\nFROM scratch\nARG B\nONBUILD ARG C\n"
    given = dict.fromkeys(("A", "B", "C", "D", "https_proxy", "TARGETARCH", "BUILDKIT_INLINE_CACHE"), "x")
    assert lint(text, "Dockerfile", Inputs(given)).unused == ("D",)


def test_every_rule_has_a_case() -> None:
    """A rule that nothing here finds is not tested."""
    text = Path(__file__).read_text()
    for rule in vars(lintrules).values():
        if isinstance(rule, lintrules.Rule):
            assert re.search(rf"\b{rule.name}\b", text) or rule is lintrules.COPY_IGNORED_FILE
