from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.core.model import Stage, Writes
from gateway.core.stages import next_stages, previous_stages, stages_of

ROOT = Path(__file__).parents[2]


def generate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "generate_docs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for page in ("stages.md", "glossary.md"):
        shutil.copy(ROOT / "docs" / page, tmp_path)
    return tmp_path


def test_the_generated_pages_are_what_the_code_says() -> None:
    done = generate("--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [("stages.md", "stops mirroring", "does something else"), ("glossary.md", "- `shadow_read`\n", "")],
)
def test_a_page_that_drifted_is_told_with_the_difference_and_mended(
    copy: Path, page: str, before: str, after: str
) -> None:
    right = (copy / page).read_text(encoding="utf-8")
    (copy / page).write_text(right.replace(before, after, 1), encoding="utf-8")
    told = generate("--check", "--docs", copy)
    assert told.returncode == 1
    assert before.strip() in told.stdout
    assert "run scripts/generate_docs" in told.stderr
    assert generate("--docs", copy).returncode == 0
    assert (copy / page).read_text(encoding="utf-8") == right


def test_what_is_written_by_hand_in_the_glossary_is_kept(copy: Path) -> None:
    glossary = copy / "glossary.md"
    glossary.write_text(glossary.read_text(encoding="utf-8").replace("# Glossary", "# Words"), encoding="utf-8")
    assert generate("--docs", copy).returncode == 0
    assert glossary.read_text(encoding="utf-8").startswith("# Words\n")


def test_a_glossary_without_its_marks_is_refused(copy: Path) -> None:
    (copy / "glossary.md").write_text("# Glossary\n", encoding="utf-8")
    done = generate("--docs", copy)
    assert done.returncode == 1
    assert "lacks the marks" in done.stderr


@pytest.mark.parametrize(("diagram", "writes"), [(0, Writes.DUAL), (1, Writes.SHARED), (1, Writes.NONE)])
def test_the_diagram_has_exactly_the_legal_steps(diagram: int, writes: Writes) -> None:
    page = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
    drawn = re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)[diagram]
    steps = {(Stage(a), Stage(b), how) for a, b, how in re.findall(r"(\w+) --> (\w+) : (\w+)", drawn)}
    forward = {(s, to, "forward") for s in stages_of(writes) for to in next_stages(writes, s)}
    back = {(s, to, "back") for s in stages_of(writes) for to in previous_stages(writes, s)}
    assert steps == forward | back


def test_the_glossary_explains_every_stage_and_names_no_other_word_for_a_side() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").lower()
    assert all(f"- `{stage}`" in page for stage in Stage)
    assert not re.search(r"\b(primary|secondary|canary|v2)\b", page)
