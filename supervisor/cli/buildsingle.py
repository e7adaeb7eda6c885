"""`build CONTEXT`: the options become a request, and one image is built or checked."""

from __future__ import annotations

import json
import os
from typing import Any

from supervisor.cli import output
from supervisor.cli.building import build_or_exit, check_or_exit
from supervisor.cli.buildinputs import Job
from supervisor.cli.buildoptions import (
    OptionError,
    check_platforms,
    epoch_of,
    parse_args,
    parse_pairs,
    parse_secret,
    parse_ssh,
)
from supervisor.cli.buildview import Mode
from supervisor.cli.context import FAILED, USAGE, Context, fail
from supervisor.core.reference import InvalidReferenceError, Reference, parse_reference
from supervisor.image.builder.progress import Built
from supervisor.image.builder.request import BuildRequest
from supervisor.image.machine import host_platform
from supervisor.image.sources import SourceError, parse_source


def build_one(context: Context, source: str, file: str | None, mode: Mode, options: dict[str, Any]) -> None:
    """Build or check one image; ends the command where that fails."""
    try:
        job = job_of(source, file, options)
    except (OptionError, SourceError, InvalidReferenceError) as error:
        fail(USAGE, str(error))
        return
    if options["check"]:
        check_or_exit(context, job, options["form"])
        return
    built = build_or_exit(context, job, mode)
    files = (
        (options["iidfile"], built.id),
        (options["metadata_file"], json.dumps(metadata(built), indent=2) + "\n"),
    )
    for path, text in files:
        if not path:
            continue
        try:
            with output.whole_file(path) as wanted:
                wanted.write(text.encode())
        except output.WriteError as error:
            fail(FAILED, f"{error}; the image was built")


def job_of(source: str, file: str | None, options: dict[str, Any]) -> Job:
    """What the options ask for. Raises OptionError, SourceError, InvalidReferenceError."""
    check_platforms(options["platforms"], "/".join(host_platform()))
    args = parse_args(options["args"], os.environ)
    contexts = parse_pairs("--build-context", options["contexts"])
    for name, value in contexts:
        if not value:
            raise OptionError(f"cannot use --build-context {name}: it has no source; write {name}=PATH")
    request = BuildRequest(
        b"",
        target=options["target"],
        names=tuple(_name(text) for text in options["tags"]),
        args=args,
        labels=parse_pairs("--label", options["labels"]),
        secrets=tuple(parse_secret(text, os.environ) for text in options["secrets"]),
        ssh=tuple(parse_ssh(text) for text in options["agents"]),
        network=options["network"],
        allows_insecure="security.insecure" in options["allowed"],
        no_cache=options["no_cache"],
        no_cache_stages=tuple(options["no_cache_stages"]),
        pull=options["pull"],
        epoch_s=epoch_of(dict(args), os.environ),
    )
    return Job(parse_source(source), request, file, contexts=contexts, verify=options["verify"])


def _name(text: str) -> Reference:
    found = parse_reference(text)
    if found.digest:
        raise OptionError(f"cannot call an image {text}: its digest is not known before; leave it away")
    return found


def metadata(built: Built) -> dict[str, str]:
    """What buildx writes of an image."""
    found = {"containerimage.config.digest": built.id, "containerimage.digest": built.manifest_digest}
    return found | ({"image.name": ",".join(built.names)} if built.names else {})
