""".dockerignore by moby's rules; the cases are of moby/patternmatcher's documentation and behaviour."""

from __future__ import annotations

import pytest

from supervisor.image.builder.ignore import PatternError, parse_ignore


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("**", "file", True),
        ("**", "dir/file", True),
        ("**/", "file", True),
        ("**/**", "dir/file", True),
        ("dir/**", "dir/file", True),
        ("dir/**", "dir/dir2/file", True),
        ("dir/**", "other/file", False),
        ("**/dir", "dir/file", True),
        ("**/dir2/*", "dir/dir2/file", True),
        ("**/dir2/**", "dir/dir2/dir2/file.txt", True),
        ("**file", "file", True),
        ("**file", "dir/file", True),
        ("**/file", "dir/dir/file", True),
        ("**/file*.txt", "dir/dir/file.txt", True),
        ("a**/*.txt", "a/file/dir.txt", True),
        ("a[b-d]e", "ace", True),
        ("a[b-d]e", "aae", False),
        ("a[^b-d]e", "aze", True),
        ("*.go", "main.go", True),
        ("*.go", "dir/main.go", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("?", "a", True),
        ("?", "ab", False),
        ("?", "/", False),
        (".*", ".foo", True),
        (".*", "foo", False),
        ("abc.def", "abcZdef", False),
        ("/abc", "abc", True),
        ("a/../b", "b", True),
        ("node_modules", "node_modules/x/y.js", True),
        ("node_modules", "sub/node_modules/x", False),
        ("# comment\n\n  *.md  ", "README.md", True),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "keep/below", False),
        ("*\n!keep\nkeep/but", "keep/but", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
        ("dir\n!dir/file", "dir/file", False),
        ("dir\n!dir/file", "dir/other", True),
        ("", "anything", False),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: str, path: str, excluded: bool) -> None:
    assert parse_ignore(patterns).excludes(path) is excluded


@pytest.mark.parametrize(
    ("patterns", "directory", "looked_into"),
    [
        ("dir", "dir", False),
        ("dir\n!dir/file", "dir", True),
        ("dir\n!other/file", "dir", False),
        ("dir\n!**/file", "dir", True),
        ("dir\n!d*/file", "dir", True),
        ("dir\n!dir/sub/file", "dir/sub", True),
    ],
)
def test_an_excluded_directory_is_looked_into_only_where_something_could_count(
    patterns: str, directory: str, looked_into: bool
) -> None:
    assert parse_ignore(patterns).may_include_below(directory) is looked_into


@pytest.mark.parametrize("patterns", ["a\n[", "a\n[]", "a\nb[-]", "a\n!", "a\nb\\"])
def test_a_pattern_that_is_wrong_is_named_with_its_line(patterns: str) -> None:
    with pytest.raises(PatternError, match=r"^line 2: "):
        parse_ignore(patterns)
