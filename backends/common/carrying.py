"""A workspace as one file, to be carried to the other side: a bundle with its refs, its index and its files.

The head of the bundle names every branch, tag and remote-tracking branch, also those whose commits the other end has
already; git itself leaves such refs out, so we write the head. What is not committed goes as two commits that nobody
else sees: one of the index, and one of the files on top of it. So git itself writes the files at the other end, with
its own checks of paths and links; no configuration, no hook and nothing else of `.git` is carried.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.git_command import How, Identity, script
from backends.common.inventory import State
from backends.common.remotes import RemoteRules, judge_remote
from backends.common.sandbox import Finished, Sandbox
from backends.common.survey import ASIDE, SURVEY, parse_survey

BUNDLE_LIMIT_BYTES: Final = 256 << 20
_SHALLOW_COMMITS: Final = 200
"""They travel in a header."""
_PREFACE_BYTES: Final = 64 * 1024
_LISTING_BYTES: Final = 64 << 20
_AT: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Of the two commits: they shall be the same whenever they are made."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_TRACKING: Final = re.compile(r"refs/remotes/origin/[^\x00-\x20\x7f]{1,255}")
_BRANCH: Final = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\-][^\x00-\x20\x7f~^:?*\[\\]{0,254}")

# Symbolic refs point to others; the one that a clone makes is carried by name.
_REFS: Final = """
refs() {
  g for-each-ref --format='%(if)%(symref)%(then)%(else)%(objectname) %(refname)%(end)' \\
    refs/heads refs/remotes refs/tags | sed '/^$/d'
}
"""

# Every pipe ends in what may fail.
_EXPORT: Final = f"""
{_REFS}
{ASIDE}
have=${{1:-}}
if [ -n "$have" ]; then g cat-file -e "$have^{{commit}}" 2>/dev/null || {{ echo unknown >&2; exit 65; }}; fi
if [ -f "$second" ]; then cp "$second" "$aside/first"; fi
index=$(GIT_INDEX_FILE="$aside/first" g write-tree 2>/dev/null) || {{ echo unmerged >&2; exit 65; }}
GIT_INDEX_FILE="$second" g add --all
files=$(GIT_INDEX_FILE="$second" g write-tree)
head=
if g rev-parse --verify --quiet HEAD >/dev/null; then head=HEAD; fi
below=$(g commit-tree ${{head:+-p "$head"}} -m index "$index")
state=$(g commit-tree -p "$below" -m files "$files")
refs >"$aside/refs"
if [ -f .git/shallow ]; then cat .git/shallow; fi
printf '\\0'
g symbolic-ref --quiet refs/remotes/origin/HEAD || :
printf '\\0'
echo '# v2 git bundle'
if [ -n "$have" ]; then echo "-$have"; fi
cat "$aside/refs"
echo "$state refs/crossfade/state"
echo
{{ cut -d ' ' -f 1 "$aside/refs"; echo "$state"; if [ -n "$have" ]; then echo "^$have"; fi; }} |
  g pack-objects --quiet --stdout --revs --thin --delta-base-offset
"""

_IMPORT: Final = f"""
{_REFS}
place=$1 repository=$2 branch=$3 head=$4 objects=$5 shallow=$6 default=$7
export GIT_TEMPLATE_DIR=
g init --quiet --initial-branch="${{branch:-main}}" "$place"
if [ -n "$objects" ]; then cp -R "$objects/." "$place/.git/objects/"; fi
cd "$place"
export GIT_DIR=.git GIT_WORK_TREE=.
if [ -n "$shallow" ]; then printf '%s\\n' $shallow >.git/shallow; fi
cat >.git/crossfade-bundle
GIT_ALLOW_PROTOCOL=file g fetch --quiet --no-tags --update-head-ok .git/crossfade-bundle \\
  '+refs/heads/*:refs/heads/*' '+refs/remotes/*:refs/remotes/*' '+refs/tags/*:refs/tags/*' \\
  '+refs/crossfade/state:refs/crossfade/state'
rm .git/crossfade-bundle
if [ -z "$branch" ]; then g update-ref --no-deref HEAD "$head"; fi
g read-tree --reset -u refs/crossfade/state
g read-tree 'refs/crossfade/state^'
g update-ref -d refs/crossfade/state
if [ -n "$default" ] && g show-ref --verify --quiet "$default"; then
  g symbolic-ref refs/remotes/origin/HEAD "$default"
fi
g config remote.origin.url "$repository"
g config remote.origin.fetch '+refs/heads/*:refs/remotes/origin/*'
refs
printf '\\0\\0'
{SURVEY}
"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is a bundle of.

    Attributes:
        repository: URL, without credentials.
        state: What a survey finds at both ends.
        version: At the end where it was made.
        shallow: Commits whose parents are missing: it was cloned with a depth.
        refs: SHA-256 over the list of its refs, in hex; None where who made it does not say.
        default: The remote-tracking branch to which `refs/remotes/origin/HEAD` points, or None.
    """

    repository: str
    state: State
    version: int
    shallow: tuple[str, ...] = ()
    refs: str | None = None
    default: str | None = None

    def text(self) -> str:
        """As a header's value."""
        state = self.state
        content = {
            "repository": self.repository,
            "branch": state.branch,
            "head": state.head,
            "digest": state.digest,
            "version": self.version,
            "shallow": list(self.shallow),
            "refs": self.refs,
            "default": self.default,
        }
        return json.dumps(content, separators=(",", ":"), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Reads a header's value.

        Raises:
            ServiceError: `invalid_argument`.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            branch, head, digest = content["branch"], content["head"], content["digest"]
            repository, version, shallow = content["repository"], content["version"], content["shallow"]
            refs, default = content.get("refs"), content.get("default")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise _invalid("is not what an export says") from exc
        if branch is not None and not (isinstance(branch, str) and _BRANCH.fullmatch(branch)):
            raise _invalid("branch is no branch")
        if head is not None and not (isinstance(head, str) and _COMMIT.fullmatch(head)):
            raise _invalid("head is no commit")
        if branch is None and head is None:
            raise _invalid("names neither branch nor head")
        if not isinstance(digest, str) or not isinstance(repository, str) or not isinstance(version, int):
            raise _invalid("is not what an export says")
        if not isinstance(shallow, list) or not all(isinstance(c, str) and _COMMIT.fullmatch(c) for c in shallow):
            raise _invalid("shallow holds something else than commits")
        if refs is not None and not isinstance(refs, str):
            raise _invalid("refs is no digest")
        if default is not None and not (isinstance(default, str) and _TRACKING.fullmatch(default)):
            raise _invalid("default is no remote-tracking branch")
        return cls(repository, State(branch, head, digest), version, tuple(shallow), refs, default)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made of a workspace.

    Attributes:
        bundle: Of git.
        shallow: See `Manifest`.
        refs: Likewise.
        default: Likewise.
    """

    bundle: bytes
    shallow: tuple[str, ...]
    refs: str
    default: str | None


async def export_bundle(sandbox: Sandbox, have: str | None) -> Exported:
    """Makes the bundle of a workspace. Only under its lock.

    Args:
        sandbox: Holds the workspace.
        have: A commit that the other end has already, with all before it.

    Raises:
        ServiceError: `conflict`: files are unmerged. `not_found`: it does not know that commit. `too_large`.
    """
    if have is not None and not _COMMIT.fullmatch(have):
        raise ServiceError(Code.INVALID_ARGUMENT, "have names no commit")
    await sandbox.prepare()
    how = How(is_read=True, identity=Identity(at=_AT))
    command = script(_EXPORT, *([have] if have else []), global_config=sandbox.global_config, how=how)
    done = await sandbox.run(command, keep_bytes=BUNDLE_LIMIT_BYTES)
    if done.truncated:
        raise ServiceError(Code.TOO_LARGE, f"the workspace is larger than {BUNDLE_LIMIT_BYTES} bytes")
    if done.code:
        said = done.stderr.decode(errors="replace")
        if "unmerged" in said:
            raise ServiceError(Code.CONFLICT, "some files are unmerged")
        if "unknown" in said:
            raise ServiceError(Code.NOT_FOUND, "the workspace does not know the commit in have")
        raise ServiceError(Code.GIT_FAILED, "the workspace cannot be exported")
    return _exported(done.stdout)


def _exported(output: bytes) -> Exported:
    shallow, _, rest = output[:_PREFACE_BYTES].partition(b"\0")
    default, mark, _ = rest.partition(b"\0")
    commits = tuple(shallow.decode(errors="replace").split())
    if not mark or len(commits) > _SHALLOW_COMMITS:
        raise ServiceError(Code.TOO_LARGE, f"the clone is shallow at more than {_SHALLOW_COMMITS} commits")
    bundle = output[len(shallow) + len(default) + 2 :]
    # Its head ends with an empty line; the first line names the format, the last ref is the state.
    lines = bundle[: bundle.index(b"\n\n")].split(b"\n")[1:-1]
    refs = b"".join(b"%s\n" % line for line in lines if not line.startswith(b"-"))
    return Exported(bundle, commits, _digest(refs), default.decode(errors="replace").strip() or None)


async def import_bundle(sandbox: Sandbox, bundle: bytes, manifest: Manifest, rules: RemoteRules) -> None:
    """Puts a workspace in a sandbox, in place of what it holds. Only under its lock.

    Raises:
        ServiceError: `remote_refused`; `conflict`: commits are missing that the bundle builds on; `diverged`: what came
            out is not what the manifest says.
    """
    await judge_remote(manifest.repository, rules)
    place = f"clone-{secrets.token_hex(8)}"
    state = manifest.state
    objects = await sandbox.objects_directory()
    command = script(
        _IMPORT, place, manifest.repository, state.branch or "", state.head or "", objects, " ".join(manifest.shallow),
        manifest.default or "", global_config=sandbox.global_config, how=How(is_outside=True, stdin=bundle),
    )  # fmt: skip
    try:
        done = await sandbox.run(command, keep_bytes=_LISTING_BYTES)
        _check_unpacked(done, manifest)
    except BaseException:
        await to_the_end(sandbox.discard_clone(place))
        raise
    await sandbox.settle_clone(place, manifest.repository)


def _check_unpacked(done: Finished, manifest: Manifest) -> None:
    if done.code:
        if "prerequisite" in done.stderr.decode(errors="replace"):
            raise ServiceError(Code.CONFLICT, "commits are missing that the bundle builds on; export it whole")
        raise ServiceError(Code.INVALID_ARGUMENT, "the bundle cannot be unpacked")
    refs, _, surveyed = done.stdout.partition(b"\0\0")
    if parse_survey(surveyed) != manifest.state or manifest.refs not in (None, _digest(refs)):
        raise ServiceError(Code.DIVERGED, "the bundle does not hold what its manifest says")


def _digest(refs: bytes) -> str:
    return hashlib.sha256(refs).hexdigest()


def _invalid(why: str) -> ServiceError:
    return ServiceError(Code.INVALID_ARGUMENT, f"crossfade-workspace {why}")
