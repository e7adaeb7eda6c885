"""Names of images as Docker reads and shows them."""

from __future__ import annotations

import pytest

from supervisor.core.reference import InvalidReferenceError, as_id, parse_reference

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("org/app", "docker.io/org/app:latest", "org/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/org/app:1", "docker.io/org/app:1", "org/app:1"),
        ("ghcr.io/org/app:v1.2", "ghcr.io/org/app:v1.2", "ghcr.io/org/app:v1.2"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
        (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}", f"app@sha256:{HEX}"),
        (f"app:1@sha256:{HEX}", f"docker.io/library/app:1@sha256:{HEX}", f"app:1@sha256:{HEX}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest", "a__b/c-d.e:latest"),
    ],
)
def test_names_are_completed_and_shown_as_people_write_them(text: str, full: str, familiar: str) -> None:
    found = parse_reference(text)
    assert (str(found), found.familiar) == (full, familiar)
    assert parse_reference(familiar) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no repository name"),
        ("Debian", "must be lowercase"),
        ("debian:", "no tag"),
        ("debian:a b", "no tag"),
        ("debian@sha256:abc", "no digest"),
        ("a//b", "no repository name"),
        ("-a", "no repository name"),
        ("../etc", "no re"),
        (HEX, "an id, and no name"),
        ("a" * 300, "at most 255"),
        ("app:" + "t" * 129, "no tag"),
    ],
)
def test_what_is_no_name_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidReferenceError, match=words):
        parse_reference(text)


def test_ids_and_their_beginnings() -> None:
    assert as_id("sha256:" + HEX) == HEX
    assert as_id("abcd") == "abcd"
    assert as_id("abc") is None
    assert as_id("ABCD") is None
