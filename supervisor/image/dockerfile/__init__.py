"""Dockerfiles: text to instructions, every problem at its place. Pure. `parse` is the way in."""

from __future__ import annotations

from supervisor.image.dockerfile.instructions import Dockerfile, Instruction, Stage
from supervisor.image.dockerfile.parse import DockerfileError, parse_dockerfile

__all__ = ["Dockerfile", "DockerfileError", "Instruction", "Stage", "parse_dockerfile"]
