"""What the files say: read, check, compile into the frozen types of core. The only home of YAML."""

from __future__ import annotations

from gateway.settings.load import LoadedMigration, load_migration
from gateway.settings.problems import Problem, SettingsError

__all__ = ["LoadedMigration", "Problem", "SettingsError", "load_migration"]
