"""The settings of a daemon: built-in values, then a YAML file, then SHIPKEEPER_* variables, then flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from supervisor.core.paths import Paths

DEFAULT_FILE = "/etc/shipkeeper/shipkeeper.yaml"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")


class SettingsError(Exception):
    """A settings file or variable that cannot be used. The text says which, where and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """See deploy/shipkeeper.yaml for what each means."""

    state_dir: str = "/var/lib/shipkeeper"
    run_dir: str = "/run/shipkeeper"
    projects_dir: str = "/etc/shipkeeper/projects"
    metrics_address: str = "127.0.0.1:10323"
    api_group: str = "shipkeeper"
    log_level: str = "info"
    log_format: str = "auto"
    services_unit: str = ""
    masked_paths: tuple[str, ...] = ()
    registries: str = ""
    image_recipes: tuple[tuple[str, str], ...] = ()
    network_pools: tuple[str, ...] = ()
    """None: those of `core.addresses`."""

    @property
    def paths(self) -> Paths:
        """The layout below the two directories."""
        return Paths(self.state_dir, self.run_dir)


def load_settings(env: Mapping[str, str], **flags: str | None) -> Settings:
    """The settings in force. flags: values of command line flags by setting name (None: not given).

    The file is SHIPKEEPER_CONFIG, which must exist then, or /etc/shipkeeper/shipkeeper.yaml, which need not.
    Raises SettingsError.
    """
    settings = Settings()
    named = env.get("SHIPKEEPER_CONFIG")
    path = named or DEFAULT_FILE
    try:
        settings = _from_document(settings, _parsed(Path(path).read_text(encoding="utf-8"), path), path)
    except FileNotFoundError:
        if named:
            raise SettingsError(
                f"cannot read settings from {path}: no such file; see SHIPKEEPER_CONFIG"
            ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read settings from {path}: {error}") from error
    for field in fields(Settings):
        if field.name in ("masked_paths", "image_recipes", "network_pools"):
            continue
        value = env.get(f"SHIPKEEPER_{field.name.upper()}")
        if value is not None:
            settings = _set(settings, field.name, value)
        flag = flags.get(field.name)
        if flag is not None:
            settings = _set(settings, field.name, flag)
    for name, values in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
        if getattr(settings, name) not in values:
            forms = f"{', '.join(values[:-1])} or {values[-1]}"
            raise SettingsError(f"cannot use {name} {getattr(settings, name)!r}: write {forms}")
    for name in ("state_dir", "run_dir"):
        if not getattr(settings, name).startswith("/"):
            raise SettingsError(f"cannot use {name} {getattr(settings, name)!r}: write an absolute path")
    return settings


def _parsed(text: str, path: str) -> Any:
    import yaml  # 12 ms of every command that has no file to read

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"cannot read settings from {path}: {error}") from error


def _from_document(settings: Settings, document: object, path: str) -> Settings:
    if document is None:
        return settings
    if not isinstance(document, dict):
        raise SettingsError(f"cannot read settings from {path}: write `name: value` lines")
    known = {field.name for field in fields(Settings)}
    for name, value in document.items():
        if name not in known:
            raise SettingsError(
                f"cannot use setting {name!r} in {path}: known are {', '.join(sorted(known))}"
            )
        if name == "masked_paths":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise SettingsError(f"cannot use masked_paths in {path}: write a list of absolute paths")
            settings = replace(settings, masked_paths=tuple(value))
        elif name == "image_recipes":
            if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
                raise SettingsError(
                    f"cannot use image_recipes in {path}: write `name: directory of its recipe` lines"
                )
            pairs = tuple((str(key), text) for key, text in value.items())
            settings = replace(settings, image_recipes=pairs)
        elif name == "network_pools":
            settings = replace(settings, network_pools=_pools(value, path))
        elif isinstance(value, str):
            settings = _set(settings, name, value)
        else:
            raise SettingsError(f"cannot use {name} in {path}: write text, not {value!r}")
    return settings


def _pools(value: object, path: str) -> tuple[str, ...]:
    from supervisor.core.addresses import AddressError, read_pool  # 5 ms of every command

    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"cannot use network_pools in {path}: write a list like [10.213.0.0/16:24]")
    try:
        for item in value:
            read_pool(item)
    except AddressError as error:
        raise SettingsError(f"cannot use network_pools in {path}: {error}") from error
    return tuple(value)


def _set(settings: Settings, name: str, value: str) -> Settings:
    change: dict[str, Any] = {name: value}
    return replace(settings, **change)
