"""A service's healthcheck over its image's, by Docker's rules (moby, daemon/commit.go, merge)."""

from __future__ import annotations

import pytest

from supervisor.api.createspec import RefusedError, read_spec
from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import Rootfs, ServiceSpec
from supervisor.image.config import Health, ImageConfig, Process, RootFs
from supervisor.runtime.imagespec import apply_image

OWN = Probe("command", ("own",))
SECOND = 1_000_000_000


def merged(
    service: Healthcheck | None, image: Health | None, shell: list[str] | None = None
) -> Healthcheck | None:
    spec = ServiceSpec("web", rootfs=Rootfs("image", "box"), healthcheck=service)
    config = ImageConfig("amd64", "linux", RootFs(), Process(cmd=["x"], healthcheck=image, shell=shell))
    return apply_image(spec, "sha256:1", config).healthcheck


IMAGE = Health(["CMD", "theirs"], interval=7 * SECOND, retries=9)


@pytest.mark.parametrize(
    ("service", "image", "expected"),
    [
        (None, None, None),
        (Healthcheck(OWN), None, Healthcheck(OWN)),
        (None, IMAGE, Healthcheck(Probe("command", ("theirs",)), interval_s=7.0, retries=9)),
        (
            Healthcheck(retries=2, on_unhealthy="restart"),
            IMAGE,
            Healthcheck(Probe("command", ("theirs",)), interval_s=7.0, retries=2, on_unhealthy="restart"),
        ),
        (Healthcheck(OWN, interval_s=1.0), IMAGE, Healthcheck(OWN, interval_s=1.0, retries=9)),
        (Healthcheck(disabled=True), IMAGE, Healthcheck(disabled=True)),
        (None, Health(["NONE"]), Healthcheck(disabled=True)),
        (Healthcheck(OWN), Health(["NONE"]), Healthcheck(OWN)),
        (Healthcheck(OWN), Health([]), Healthcheck(OWN)),
    ],
)
def test_the_service_wins_and_the_image_fills(
    service: Healthcheck | None, image: Health | None, expected: Healthcheck | None
) -> None:
    assert merged(service, image) == expected


def test_a_command_of_the_image_is_for_the_images_shell() -> None:
    found = merged(None, Health(["CMD-SHELL", "curl -f x"]), ["/bin/bash", "-o", "pipefail", "-c"])
    assert found is not None
    assert found.probe == Probe("command", ("/bin/bash", "-o", "pipefail", "-c", "curl -f x"))


def test_the_document_of_docker_is_read() -> None:
    fields = {"Test": ["CMD-SHELL", "x"], "Interval": SECOND, "Retries": 2, "OnUnhealthy": "restart"}
    spec = read_spec({"Image": "box", "Healthcheck": fields})
    expected = Probe("command", ("/bin/sh", "-c", "x"))
    assert spec.healthcheck == Healthcheck(expected, interval_s=1.0, retries=2, on_unhealthy="restart")
    assert read_spec({"Image": "box", "Healthcheck": {"Test": None, "Interval": 0}}).healthcheck is None
    off = read_spec({"Image": "box", "Healthcheck": {"Test": ["NONE"]}}).healthcheck
    assert off == Healthcheck(disabled=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"Test": ["CMD"]},
        {"Test": ["SHELL", "x"]},
        {"Interval": 10},
        {"Retries": -1},
        {"OnUnhealthy": "explode"},
        {"Unknown": 1},
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        read_spec({"Image": "box", "Healthcheck": fields})
