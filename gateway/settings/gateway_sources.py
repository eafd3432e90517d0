"""Brings the settings of a gateway together: command line over environment over file over default.

Owns the precedence, and which source a fault is blamed on. What the settings are is `gateway_file`'s business.
"""

from __future__ import annotations

import copy
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from gateway.settings.environment import PLACE, read_environment
from gateway.settings.gateway_file import GatewaySettings
from gateway.settings.problems import KeyPath, Problem, SettingsError, show_path
from gateway.settings.validation import leaves_of, validate
from gateway.settings.yaml_source import Document, read_yaml

COMMAND_LINE: Final = "command line"


def load_gateway_settings(
    path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object]
) -> GatewaySettings:
    """Brings the settings of a gateway together.

    Args:
        path: The file, or None for none.
        env: The environment; variables are `CROSSFADE_` and the setting's path in capitals, `__` between its parts.
        overrides: From the command line, by path with dots: `{"port": 0, "edge.in_flight": 100}`. None = not given.

    Raises:
        SettingsError: With everything that is wrong, in whichever source.
        ValueError: `overrides` names a setting that does not exist.
    """
    document = read_yaml(path, may_be_empty=True) if path is not None else Document("defaults", {}, {})
    merged = _Merged(document, copy.deepcopy(document.data))
    found, problems = read_environment(env, leaves_of(GatewaySettings))
    for setting in found:
        merged.put(setting.path, setting.value, Problem(PLACE, 0, setting.name, ""))
    known = {show_path(leaf.path): leaf.path for leaf in leaves_of(GatewaySettings)}
    for name, value in overrides.items():
        if name not in known:
            raise ValueError(f"{name} is no setting")
        if value is not None:
            merged.put(known[name], value, Problem(COMMAND_LINE, 0, name, ""))
    # The file is held against the model by itself too: a mistake in it must not hide behind a variable.
    for fault in validate(GatewaySettings, document.data).faults:
        problems.append(Problem(document.file, document.locate(fault.path).line, show_path(fault.path), fault.message))
    validated = validate(GatewaySettings, merged.data)
    problems += [merged.problem(f.path, f.message) for f in validated.faults if f.path in merged.origins]
    if validated.value is not None:
        problems += _contradictions(validated.value, merged)
    if problems:
        raise SettingsError(problems)
    assert validated.value is not None
    return validated.value


@dataclass(slots=True)
class _Merged:
    """Values of all sources, and for those not from the file a problem without message that names the place."""

    document: Document
    data: dict[str, object]
    origins: dict[KeyPath, Problem] = field(default_factory=dict)

    def put(self, path: KeyPath, value: object, origin: Problem) -> None:
        inner: dict[str, object] = self.data
        for part in path[:-1]:
            below = inner.get(str(part))
            if not isinstance(below, dict):
                below = inner[str(part)] = {}
            inner = below
        inner[str(path[-1])] = value
        self.origins[path] = origin

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem with the value at `path`, at the place that gave it."""
        origin = self.origins.get(path)
        if origin is None:
            line = self.document.locate(path).line if path in self.document.positions else 0
            origin = Problem(self.document.file, line, show_path(path), "")
        return Problem(origin.file, origin.line, origin.path, message)


def _contradictions(settings: GatewaySettings, merged: _Merged) -> list[Problem]:
    """What settings that are right by themselves do to each other."""
    problems = []
    if not settings.insecure_control and not _is_loopback(settings.control_host):
        problems.append(
            merged.problem(
                ("control_host",),
                f"{settings.control_host} is open to others, and tokens would travel in the clear;"
                " write 127.0.0.1 and put TLS in front, or insecure_control: true",
            )
        )
    if (settings.tls.cert_file is None) != (settings.tls.key_file is None):
        given, missing = ("cert_file", "key_file") if settings.tls.cert_file else ("key_file", "cert_file")
        problems.append(merged.problem(("tls", given), f"tls.{missing} is missing; a certificate needs its key"))
    elif settings.tls.cert_file and settings.tls.key_file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                settings.tls.cert_file, settings.tls.key_file, password=lambda: ""
            )
        except OSError as exc:
            problems.append(merged.problem(("tls", "cert_file"), f"cannot be used with its key: {exc}"))
    listeners: dict[int, str] = {}
    for name in ("port", "control_port", "ops_port"):
        port = getattr(settings, name)
        other = listeners.setdefault(port, name)
        if port and other != name:
            problems.append(merged.problem((name,), f"{port} is {other} as well; give each a port of its own"))
    if settings.upstream.ejection.max_s < settings.upstream.ejection.base_s:
        problems.append(
            merged.problem(
                ("upstream", "ejection", "max_s"),
                f"is below base_s ({settings.upstream.ejection.base_s:g} s); write at least that",
            )
        )
    return problems


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
