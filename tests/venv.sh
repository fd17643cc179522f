#!/bin/bash
# venv.sh [--find] REQUIREMENTS: makes a Python environment with exactly these packages, once, in the cache folder,
# and prints the path of its python; with --find, only if it is there already, else nothing. What it does is said on
# stderr. An interrupted installation leaves nothing that looks complete: it happens under another name, which is
# changed at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
find=
[ "$1" != --find ] || { find=1; shift; }
requirements=$1
ingredients() { python3 --version; uname -sm; cat "$requirements" "$here/without_cuda.py"; }
hash=$(ingredients | cksum | tr ' ' -)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/receipts/venv-$hash

if [ ! -d "$venv" ]; then
    [ -z "$find" ] || exit 0
    for left in "$venv".partial-*; do  # by a process that was killed
        kill -0 "${left##*-}" 2> /dev/null || rm -rf "$left"
    done
    partial=$venv.partial-$$
    trap 'rm -rf "$partial"' EXIT
    trap 'exit 130' INT TERM
    say() { echo "$@" >&2; }
    say "installing the packages of $requirements into $venv, once ..."
    mkdir -p "$(dirname "$venv")"
    stop() { say "error: $*"; exit 1; }
    python3 -m venv "$partial" >&2 || stop "python3 cannot make environments; on Debian: apt-get install python3-venv"
    pip=("$partial/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile)
    "${pip[@]}" -r "$requirements" >&2 || stop "pip could not install $requirements; is PyPI within reach?"
    "$partial/bin/python" "$here/without_cuda.py" >&2
    # Another process may have been faster: mv would then put ours inside, a rename fails.
    python3 -c 'import os, sys; os.rename(*sys.argv[1:])' "$partial" "$venv" 2> /dev/null || [ -d "$venv" ]
    say "done: $(du -sh "$venv" | cut -f1), ${SECONDS} s"
fi
echo "$venv/bin/python"
