#!/bin/sh
# get.sh NAME [DIRECTORY]: downloads a known text and checks that it is the very bytes that are expected.
#   shakespeare         1.1 MB  all of Shakespeare's plays that Karpathy's char-rnn used ("tiny Shakespeare")
#   tinystories        19.4 MB  the validation part of TinyStories (Eldan and Li 2023, arXiv:2305.07759; CDLA-Sharing)
#   tinystories-train   1.9 GB  its training part
# It needs curl or wget, and sha256sum or shasum. A file that is there already is only checked.
# The default data of ./train, `stories`, needs none of this.
set -eu

hub=https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64
karpathy=https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e
case ${1-} in
shakespeare)
    file=shakespeare.txt url=$karpathy/data/tinyshakespeare/input.txt
    expected=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed ;;
tinystories)
    file=tinystories.txt url=$hub/TinyStories-valid.txt
    expected=94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4 ;;
tinystories-train)
    file=tinystories-train.txt url=$hub/TinyStories-train.txt
    expected=c5cf5e22ff13614e830afbe61a99fbcbe8bcb7dd72252b989fa1117a368d401f ;;
*)
    echo "usage: data/get.sh shakespeare|tinystories|tinystories-train [DIRECTORY]" >&2
    exit 2 ;;
esac

directory=${2-data/downloads}
path=$directory/$file
partial=$path.part

fail() { echo "error: $1" >&2; exit 1; }

digest() {
    if command -v sha256sum >/dev/null; then sha256sum "$1" | cut -d ' ' -f 1
    elif command -v shasum >/dev/null; then shasum -a 256 "$1" | cut -d ' ' -f 1
    else fail "neither sha256sum nor shasum is there to check $1"
    fi
}

fetch() {
    if command -v curl >/dev/null; then curl --fail --location --silent --show-error --output "$2" "$1"
    elif command -v wget >/dev/null; then wget --quiet --output-document "$2" "$1"
    else fail "neither curl nor wget is there to download $1"
    fi
}

check() {
    found=$(digest "$1")
    [ "$found" = "$expected" ] ||
        fail "$1 has the SHA-256 $found, but $expected was expected; remove it and try again"
}

if [ ! -e "$path" ]; then
    mkdir -p "$directory"
    echo "downloading $url"
    fetch "$url" "$partial" || { rm -f "$partial"; fail "cannot download $url; fetch it by hand and save it as $path"; }
    check "$partial"
    mv "$partial" "$path"
fi
check "$path"
echo "$path is complete: ./train --data $path"
