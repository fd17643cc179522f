#!/bin/bash
# digests.sh: trains the presets as tests/digests.txt says, and compares the digests with those recorded there.
#     tests/digests.sh                  the quick rows, seconds each
#     tests/digests.sh --full           the default run too, whole: a minute or two on two cores
#     tests/digests.sh --record         writes the found digests into the file (with --full: all of them)
#     TRAIN=build/avx2/train tests/digests.sh     with another build
cd "$(dirname "$0")/.." || exit 1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
train=${TRAIN:-./train} file=tests/digests.txt full= record= line=0 passed=0 failed=0
for argument in "$@"; do
    case $argument in
    --full) full=1 ;;
    --record) record=1 ;;
    *) echo "error: '$argument' is neither --full nor --record" >&2; exit 2 ;;
    esac
done
[ -x "$train" ] || { echo "error: $train is not built" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

pass() { echo "ok      $1"; passed=$((passed + 1)); }
flunk() { echo "FAILED  $1"; failed=$((failed + 1)); }

replace() { sed "$1" "$file" > "$scratch/new" && cat "$scratch/new" > "$file"; }    # sed -i is spelt in two ways

# The digest in the last line of a run with these flags.
digest_of() {
    rm -rf "$scratch/run"
    "$train" "$@" --sample-tokens 0 --out "$scratch/run" > "$scratch/out" 2> "$scratch/error" || return 1
    tail -n 1 "$scratch/out" | grep -oE '^receipt: digest [0-9a-f]{16}' | cut -c17-32
}

compare() {
    local recorded=$1 found
    shift
    found=$(digest_of "$@")
    if [ ! "$found" ]; then flunk "train $*: $(cat "$scratch/error")"
    elif [ "$found" = "$recorded" ]; then pass "$recorded  train $*"
    elif [ "$record" ]; then replace "${line}s/$recorded/$found/"; pass "$found  train $*  (was $recorded)"
    else flunk "$recorded is recorded, $found found  train $*"; fi
}

while read -r kind recorded flags <&3; do
    line=$((line + 1))
    case $kind in
    quick) compare "$recorded" $flags ;;
    full) [ ! "$full" ] || compare "$recorded" $flags ;;
    '#'*) ;;
    *) flunk "$file: a row begins with quick, full or #, not with '$kind'" ;;
    esac
done 3< "$file"

# A preset without a row would not be watched.
for preset in $("$train" --help | sed -n '/^Presets:/,/^$/s/^  \([a-z0-9][a-z0-9]*\) .*/\1/p'); do
    if grep -q -- "--preset $preset " "$file"; then pass "$preset has a row"
    else flunk "$file has no row for --preset $preset"; fi
done

shown=$(awk '$1 == "full" {print $2}' "$file")
if grep -q "$shown" README.md; then pass "README.md shows the digest of the default run"
else flunk "README.md does not show $shown"; fi

[ $failed = 0 ] || [ "$record" ] ||
    echo "where a change moves digests on purpose: say so in its commit, and run tests/digests.sh --record"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
