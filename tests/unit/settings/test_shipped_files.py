"""The files that ship are files that work."""

from __future__ import annotations

from pathlib import Path

from gateway.core.model import OperationClass, Side, Stage, Writes
from gateway.settings import load_migration
from gateway.settings.addresses import is_placeholder

CONFIG = Path(__file__).parents[3] / "config"

READS = {"git.status", "git.branch", "git.diff", "git.log", "git.show", "file.read", "file.list"}
WRITES = {
    "git.clone", "git.pull", "git.push", "git.add", "git.commit", "git.reset", "git.checkout", "git.create_branch",
    "file.write", "file.delete",
}  # fmt: skip


def test_the_shipped_migration_loads_without_a_warning() -> None:
    assert load_migration(CONFIG / "migration.yaml").warnings == []


def test_the_shipped_migration_has_every_operation_of_the_services() -> None:
    operations = load_migration(CONFIG / "migration.yaml").definition.operations
    assert {name for name, op in operations.items() if op.op_class is OperationClass.READ} == READS
    assert {name for name, op in operations.items() if op.op_class is OperationClass.WRITE} == WRITES
    for name, operation in operations.items():
        assert [str(rest) for rest in operation.rest] == [f"POST /v1/{name.replace('.', '/')}"]
        assert operation.mcp == name.replace(".", "_")
        assert operation.group == "workspace"


def test_the_shipped_migration_sends_everything_to_old_and_copies_nothing() -> None:
    loaded = load_migration(CONFIG / "migration.yaml")
    assert loaded.definition.groups["workspace"].writes is Writes.NONE
    assert loaded.definition.groups["workspace"].salt == "git:workspace"
    assert {(p.stage, p.percent) for p in loaded.policy.operations.values()} == {(Stage.OFF, 0)}
    assert all(is_placeholder(loaded.definition.sides[side].instances[0]) for side in Side)


def test_what_talks_to_a_remote_may_take_minutes_and_a_status_may_not() -> None:
    operations = load_migration(CONFIG / "migration.yaml").definition.operations
    assert {operations[name].deadlines.total_s for name in ("git.clone", "git.pull", "git.push")} == {300}
    assert operations["git.status"].deadlines.total_s == 30
