#!/bin/bash
# venv.sh REQUIREMENTS: makes a Python environment with exactly these packages, once, in the cache folder,
# and prints the path of its python. What it does is said on stderr. An interrupted installation leaves
# nothing that looks complete: it happens under another name, which is renamed at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
requirements=$1
hash=$({ python3 --version; uname -sm; cat "$requirements" "$here/venv.sh" "$here/without_cuda.py"; } | cksum | tr ' ' -)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/receipts/venv-$hash

if [ ! -d "$venv" ]; then
    partial=$venv.partial-$$
    trap 'rm -rf "$partial"' EXIT
    trap 'exit 130' INT TERM
    say() { echo "$@" >&2; }
    say "installing the packages of $requirements into $venv (once; torch alone is 540 MB) ..."
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$partial" >&2 || { say "error: python3 cannot make environments; on Debian: apt-get install python3-venv"; exit 1; }
    "$partial/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r "$requirements" >&2 ||
        { say "error: pip could not install $requirements; the network or PyPI may be out of reach"; exit 1; }
    "$partial/bin/python" "$here/without_cuda.py" >&2
    mv "$partial" "$venv" 2> /dev/null || [ -d "$venv" ]  # somebody else may have been faster
    say "done: $(du -sh "$venv" | cut -f1), ${SECONDS} s"
fi
echo "$venv/bin/python"
