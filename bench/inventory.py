"""What the inventory of many workspaces costs: a page, and the digest of a range, on each store.

.venv/bin/python -m bench.inventory [--workspaces N]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from sqlalchemy import insert

from backends.approach1.notes import FileNotes
from backends.approach2.database import Database, utc
from backends.approach2.models import GitSandbox
from backends.approach2.table import SandboxTable
from backends.common.calls import now
from backends.common.inventory import PAGE, Inventory, Record, State
from backends.common.workspace import WorkspaceId
from tests.support.postgres_process import running_postgres

_ROUNDS: Final = 21
_REPOSITORY: Final = "https://example.org/project.git"


def records(count: int) -> list[Record]:
    """So many workspaces, surveyed."""
    at = now()
    return [
        Record(
            WorkspaceId(f"agent-{n % 997}", f"task-{n}"), _REPOSITORY, 1, at, State("main", f"{n:040x}", f"{n:064x}")
        )
        for n in range(count)
    ]


async def filled(database: Database, made: list[Record]) -> SandboxTable:
    """A table with these workspaces."""
    await database.start()
    rows = [row(record, number) for number, record in enumerate(made)]
    for start in range(0, len(rows), 500):
        part = rows[start : start + 500]
        await database.ask(lambda session, part=part: session.execute(insert(GitSandbox), part))
    return SandboxTable(database)


def row(record: Record, number: int) -> dict[str, Any]:
    """As the table keeps it."""
    state = record.state
    assert state is not None
    parts = {f"fingerprint_{n}": record.fingerprint >> (32 * n) & 0xFFFFFFFF for n in range(4)}
    return {
        "name": f"{number:032x}",
        "state": "assigned",
        "agent_id": record.workspace.agent_id,
        "task_id": record.workspace.task_id,
        "workspace_hash": record.workspace.digest,
        "created_at": utc(record.updated_at),
        "version": 1,
        "updated_at": utc(record.updated_at),
        "repository": record.repository,
        "branch": state.branch,
        "head": state.head,
        "digest": state.digest,
        **parts,
    }


async def took_ms(work: Callable[[], Awaitable[object]]) -> float:
    """Median of some rounds."""
    found = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        await work()
        found.append((time.perf_counter() - begun) * 1000)
    return median(found)


async def report(name: str, inventory: Inventory, after: str) -> None:
    """Measures one store."""
    page = await took_ms(lambda: inventory.page("", after, None, PAGE))
    whole = await took_ms(lambda: inventory.digests(""))
    part = await took_ms(lambda: inventory.digests("a"))
    open_ = await took_ms(lambda: inventory.unsurveyed(""))
    print(
        f"{name:12} page of {PAGE} {page:6.1f} ms   digest of all {whole:6.1f} ms   of a sixteenth {part:6.1f} ms   "
        f"looking for what is not surveyed {open_:6.1f} ms"
    )


async def main() -> None:
    """Measures all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workspaces", type=int, default=10_000)
    options = parser.parse_args()
    made = records(options.workspaces)
    middle = sorted(record.workspace.digest for record in made)[len(made) // 2]
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as home, running_postgres() as server:
        notes = FileNotes(Path(home) / "notes")
        await notes.start()
        for record in made:
            version = await notes.changed(record.workspace, record.repository)
            assert record.state is not None
            await notes.surveyed(record.workspace, version, record.state)
        await report("files", notes, middle)
        for name, url in (
            ("SQLite", f"sqlite+aiosqlite:///{home}/bench.db"),
            ("PostgreSQL", server.new_database()),
        ):
            database = Database(url)
            await report(name, await filled(database, made), middle)
            await database.aclose()


if __name__ == "__main__":
    asyncio.run(main())
