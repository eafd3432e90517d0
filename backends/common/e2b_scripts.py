"""The shell of the E2B provider: what runs inside a sandbox. POSIX sh with the tools of Debian's base."""

from __future__ import annotations

from typing import Final

STDERR_BYTES: Final = 8192

SET_UP: Final = """set -eu
umask 077
mkdir -p "$HOME/crossfade/meta" "$HOME/crossfade/box/home" "$HOME/crossfade/run"
cat >"$HOME/crossfade/gitconfig"
pwd
"""
"""Makes the directories; standard input is our global configuration for git. Says where home is."""

# $1 directory, $2 bytes of stdout that are kept, $3 number of the run, $4 file with the input; then the program.
RUN: Final = f"""set -u
base=$HOME/crossfade keep=$2 run=$HOME/crossfade/run/$3 input=$4
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out" "$run"' EXIT
if [ "$input" != /dev/null ]; then trap 'rm -rf "$out" "$run" "$input"' EXIT; fi
echo $$ >"$run"
# Whoever ended it before it had a number left this. In this order on both sides, one of them sees the other.
if [ -e "$run.dead" ]; then rm -f "$run.dead"; exit 1; fi
cd "$base/box"
if [ "$1" = current ]; then
  cd current/ || {{ echo gone; exit 0; }}
  if [ -d .git ] && ! cmp -s "$base/meta/config" .git/config; then
    cp "$base/meta/config" .git/config.crossfade && mv .git/config.crossfade .git/config
  fi
  rm -f .git/commondir
fi
shift 4
"$@" <"$input" >"$out/out" 2>"$out/err"
code=$?
echo "$code $(wc -c <"$out/out")"
head -c "$keep" "$out/out" | base64 | tr -d '\\n'; echo
tail -c {STDERR_BYTES} "$out/err" | base64 | tr -d '\\n'; echo
cat "$base/meta/url" 2>/dev/null | base64 | tr -d '\\n'; echo
"""

KILL: Final = """
run=$HOME/crossfade/run/$1
: >"$run.dead"
if [ -s "$run" ]; then
  group=$(cat "$run")
  kill -9 "-$group" 2>/dev/null
  while kill -0 "-$group" 2>/dev/null; do sleep 0.02; done
  rm -f "$run" "$run.dead"
fi
rm -f "$run.in"
find "$HOME/crossfade/run" -type f -mmin +60 -delete
"""
"""Ends a run, which may not have begun yet, and waits for its end. $1: its number."""

SETTLE: Final = """set -eu
base=$HOME/crossfade
before=$(readlink current || true)
cp "$1/.git/config" "$base/meta/config.new"
cat >"$base/meta/url.new"
mv "$base/meta/config.new" "$base/meta/config"
mv "$base/meta/url.new" "$base/meta/url"
ln -s "$1" current.new
mv -T current.new current
if [ -n "$before" ]; then rm -rf -- "$before"; fi
"""
"""Puts a clone in place. $1: its directory; standard input is its URL."""

RETIRE: Final = """
if [ -s "$HOME/crossfade/meta/url" ]; then exit 1; fi
sleep 60 </dev/null >/dev/null 2>&1 &
"""
"""Fails where there is a repository. The sleeper inherits the lock of the fence: nobody else comes in meanwhile."""

# Exit codes of what follows: 20 refused, 21 there is none, 22 no file, 23 a directory, 24 too many.
_WALK: Final = """set -eu
path=$1 below=
IFS=/
set -f
for part in ${path%/*}; do
  [ "$path" = "${path%/*}" ] && break
  below=$below$part
  if [ -L "$below" ]; then exit 20; fi
  if [ ! -d "$below" ]; then
    if [ -e "$below" ]; then exit 20; fi
    if [ -z "$make" ]; then exit 21; fi
    mkdir -- "$below"
  fi
  below=$below/
done
set +f
unset IFS
"""
READ: Final = f"""make=
{_WALK}
if [ -L "$path" ]; then exit 20; fi
if [ ! -e "$path" ]; then exit 21; fi
if [ ! -f "$path" ]; then exit 22; fi
stat -c %s -- "./$path"
head -c "$2" -- "./$path"
"""
"""Says the size of a file and a beginning of it. $1: path. $2: bytes."""

WRITE: Final = f"""make=1
umask 022
{_WALK}
if [ -L "$path" ]; then exit 20; fi
if [ -d "$path" ]; then exit 23; fi
staged=$HOME/crossfade/meta/file.$$
cat >"$staged"
if [ -e "$path" ]; then chmod --reference="./$path" "$staged"; fi
mv -T "$staged" "./$path"
"""
"""Writes a file whole. $1: path."""

DELETE: Final = f"""make=
{_WALK}
if [ -d "$path" ] && [ ! -L "$path" ]; then exit 22; fi
if [ ! -e "$path" ] && [ ! -L "$path" ]; then exit 21; fi
rm -- "./$path"
"""
"""Removes a file or a link. $1: path."""

LIST: Final = f"""make=
if [ -n "$1" ]; then
  set -- "$1/."
  {_WALK}
else
  path=.
fi
if [ "$(find "./$path" -mindepth 1 -maxdepth 1 ! -name .git | head -c 1 | wc -c)" = 0 ]; then exit 0; fi
find "./$path" -mindepth 1 -maxdepth 1 ! -iname .git -printf '%y %s %f\\0'
"""
"""Says kind, size and name of what lies in a directory. $1: path, empty for the root."""
