"""The resolved model as text: what `config` prints, in the form of `docker compose config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from supervisor.compose import scalars

if TYPE_CHECKING:
    from supervisor.compose.project import Loaded

_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def config_document(loaded: Loaded, *, env_files: bool = False) -> dict[str, Any]:
    """The project in Compose's canonical shape, of plain values; loading it gives the same project.

    Environment files are part of `environment`, or stay what they are with `env_files`; paths are absolute,
    durations and sizes are written as Compose writes them, and `$` is doubled, as it will be interpolated
    again.
    """
    parts = loaded.documents
    services = loaded.unresolved if env_files else parts.get("services", {})
    document: dict[str, Any] = {
        "name": loaded.project.name,
        "services": {name: dict(sorted(services[name].items())) for name in sorted(services)},
    }
    for section in ("networks", "volumes", "secrets", "configs"):
        if parts.get(section):
            document[section] = parts[section]
    document |= parts.get("extensions", {})
    escaped: dict[str, Any] = _escape(document)
    return escaped


def normalized(document: dict[str, Any], project: str) -> dict[str, Any]:
    """A merged document with the names of its resources, and with the default network where it is used."""
    found = {key: value for key, value in document.items() if key != "name"}
    services = found.get("services")
    if isinstance(services, dict):
        joined = False
        for name, service in services.items():
            if not isinstance(service, dict) or "network_mode" in service or "provider" in service:
                continue
            if not service.get("networks"):
                services[name] = service | {"networks": {"default": None}}
            places = services[name]["networks"]
            joined = joined or (isinstance(places, dict) and "default" in places)
        if joined and isinstance(found.get("networks", {}), dict):
            found["networks"] = {"default": None} | found.get("networks", {})
    for section in ("networks", "volumes", "configs", "secrets"):
        resources = found.get(section)
        if isinstance(resources, dict):
            found[section] = {
                key: _with_name(value, key, project) if isinstance(value, dict | None) else value
                for key, value in resources.items()
            }
    return found


def _with_name(resource: dict[str, Any] | None, key: str, project: str) -> dict[str, Any]:
    external = str((resource or {}).get("external")).lower() == "true"
    return {"name": key if external else f"{project}_{key}"} | (resource or {})


def _escape(value: Any) -> Any:
    match value:
        case str():
            return value.replace("$", "$$")
        case dict():
            return {key: _escape(item) for key, item in value.items()}
        case list() | tuple():
            return [_escape(item) for item in value]
        case _:
            return value


class _Dumper(_Base):  # type: ignore[misc] # the base is chosen at run time: libyaml may be missing
    """Block style, no anchors, and quotes around every string that would be read back as something else."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base's signature
        return True


def _string(dumper: Any, text: str) -> Any:
    ambiguous = not isinstance(scalars.resolve(text), str) or scalars.is_date(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if ambiguous else None)


_Dumper.add_representer(str, _string)


def to_yaml(document: dict[str, Any]) -> str:
    """YAML that Compose and we read back alike."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=2**20
    )
    return text
