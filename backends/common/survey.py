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

KEPT_KIB: Final = 64 * 1024

# Everything is written beside the repository, in one place for all surveys of a sandbox: whoever works in the
# repository meets nothing of it. Objects are kept for the next survey, which then need not write them again (ten times
# faster with many untracked files), until they are too many. The lock falls with its processes.
ASIDE: Final = f"""
export GIT_DIR=.git GIT_WORK_TREE=.
aside=$HOME/.crossfade-survey
exec 8>>"$aside.lock"
flock -w 30 8
mkdir -p "$aside/objects"
size=$(du -sk "$aside/objects")
if [ "${{size%%[!0-9]*}}" -gt {KEPT_KIB} ]; then rm -rf "$aside/objects"; mkdir "$aside/objects"; fi
second=$aside/index
rm -f "$second" "$second.lock" "$aside/first" "$aside/first.lock"
if [ -f .git/index ]; then cp .git/index "$second"; fi
export GIT_ALTERNATE_OBJECT_DIRECTORIES="$(pwd -P)/.git/objects" GIT_OBJECT_DIRECTORY="$aside/objects"
"""
"""Makes a place for objects and indexes that nobody else shall see, and a copy of the index in `$second`."""

# The second index takes in what changed and what is untracked (not what is ignored): so git itself says mode and blob
# of each, links and odd names included.
SURVEY: Final = f"""
{ASIDE}
g status --porcelain=v2 --branch -z --untracked-files=no
printf '\\0\\0'
g ls-files -s -z
printf '\\0\\0'
GIT_INDEX_FILE="$second" g -c core.looseCompression=0 add --all
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
