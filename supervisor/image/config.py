"""What an image says of itself: its OCI configuration and manifest, to and from JSON.

Encoding is deterministic: keys sorted, nothing that is empty. Source: the OCI image specification (config.md,
manifest.md, descriptor.md), and Docker's own fields (Healthcheck, OnBuild, Shell) as every image has them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = f"{LAYER}+gzip"
LAYER_ZSTD = f"{LAYER}+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class ConfigError(Exception):
    """A configuration or manifest that cannot be read."""


class _Document(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    pass


class Health(_Document, frozen=True):
    """How the image wants to be examined. Times in nanoseconds; 0 means Docker's default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Process(_Document, frozen=True):
    """How a service of the image runs, unless it says otherwise: the field `config`."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Health | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None


class RootFs(msgspec.Struct, frozen=True):
    """diff_ids: digests of the uncompressed layers, the lowest first."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instruction. empty_layer: it changed no file."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole configuration; the digest of its bytes is the image's id."""

    architecture: str
    os: str
    rootfs: RootFs
    config: Process = Process()
    history: list[History] = []
    created: str = ""
    author: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A blob, by digest. platform: {"os", "architecture", "variant"}."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image: its configuration and its layers, the lowest first."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = MANIFEST


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Several manifests: of the platforms of one image, or of all images of a layout."""

    manifests: list[Descriptor]
    schema_version: int = msgspec.field(name="schemaVersion", default_factory=lambda: 2)
    media_type: str = msgspec.field(name="mediaType", default_factory=lambda: INDEX)


def encode(document: msgspec.Struct) -> bytes:
    """The JSON of a document, always the same for the same one."""
    return msgspec.json.encode(document, order="sorted")


def decode_config(text: bytes) -> ImageConfig:
    """Raises ConfigError."""
    try:
        return msgspec.json.decode(text, type=ImageConfig)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"cannot read an image configuration: {error}") from error


def decode_manifest(text: bytes) -> Manifest | Index:
    """A manifest, or an index of several. Raises ConfigError."""
    try:
        kind = msgspec.json.decode(text, type=dict[str, Any])
        if "manifests" in kind:
            return msgspec.json.decode(text, type=Index)
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"cannot read an image manifest: {error}") from error


def as_oci_layer(media_type: str) -> str:
    """The type of a layer in OCI's words."""
    return LAYER_GZIP if media_type == DOCKER_LAYER_GZIP else media_type


def digest_of(data: bytes) -> str:
    """sha256:..."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
