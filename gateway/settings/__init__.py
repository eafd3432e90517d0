"""What the files say: read, check, compile into the frozen types of core. The only home of YAML."""

from __future__ import annotations

from gateway.settings.gateway_file import GatewaySettings
from gateway.settings.gateway_sources import load_gateway_settings
from gateway.settings.load import LoadedMigration, load_migration
from gateway.settings.locate import locate_gateway, locate_migration
from gateway.settings.problems import Problem, SettingsError

__all__ = [
    "GatewaySettings",
    "LoadedMigration",
    "Problem",
    "SettingsError",
    "load_gateway_settings",
    "load_migration",
    "locate_gateway",
    "locate_migration",
]
