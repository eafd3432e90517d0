"""How a workspace stands: branch, head, and a digest over its index and its files."""

from __future__ import annotations

import hashlib
from typing import Final

from backends.common.errors import Code, ServiceError
from backends.common.git_command import How, script
from backends.common.git_status import parse_head
from backends.common.inventory import State
from backends.common.sandbox import Sandbox

_LISTING_BYTES: Final = 64 << 20
_MARK: Final = b"\0\0"
"""Separates the parts; no listing holds two NULs in a row."""

# A second index takes in what changed and what is untracked (not what is ignored): so git itself says mode and blob of
# each, links and odd names included. The blobs stay behind in the repository, where they do no harm.
SURVEY: Final = """
export GIT_DIR=.git GIT_WORK_TREE=.
g status --porcelain=v2 --branch -z --untracked-files=no
printf '\\0\\0'
g ls-files -s -z
printf '\\0\\0'
second=.git/crossfade-index.$$
trap 'rm -f "$second" "$second.lock"' EXIT
if [ -f .git/index ]; then cp .git/index "$second"; fi
GIT_INDEX_FILE="$second" g add --all
GIT_INDEX_FILE="$second" g ls-files -s -z
"""


async def survey(sandbox: Sandbox) -> State:
    """Looks at a workspace. It takes no lock: whoever keeps the state must know that nobody wrote meanwhile.

    Raises:
        ServiceError: It cannot be looked at.
    """
    await sandbox.prepare()
    command = script(SURVEY, global_config=sandbox.global_config, how=How(is_read=True))
    done = await sandbox.run(command, keep_bytes=_LISTING_BYTES)
    if done.code or done.truncated:
        raise ServiceError(Code.GIT_FAILED, "the workspace cannot be surveyed")
    return parse_survey(done.stdout)


def parse_survey(output: bytes) -> State:
    """Reads what the script said.

    Raises:
        ServiceError: It said something else.
    """
    head, mark, listings = output.partition(_MARK)
    if not mark:
        raise ServiceError(Code.GIT_FAILED, "the workspace cannot be surveyed")
    found = parse_head(head)
    return State(found["branch"], found["head"], hashlib.sha256(listings).hexdigest())
