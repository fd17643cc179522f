#!/bin/bash
# run.sh BUILD RUNS [TARGET...]: libFuzzer, RUNS executions of each target, starting from the corpus. What it learns
# stays in BUILD/corpus, what crashes, hangs or eats memory in BUILD/findings: a finding becomes a file of
# tests/fuzz/corpus with the fix. Ends with `N passed, N failed`, a target being one test.
cd "$(dirname "$0")/../.." || exit 1
build=$PWD/$1 runs=$2 here=$PWD/tests/fuzz passed=0 failed=0
shift 2
TMPDIR=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d)
trap 'rm -rf "$TMPDIR"' EXIT
export TMPDIR OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=64:max_malloc_fill_size=0
[ $# -gt 0 ] || set -- $(ls "$here/corpus")
mkdir -p "$build/findings"

# The words of the dictionary are those of the sources: keys and names in quotes, flags, and their values.
{
    cat "$here/json.dict"
    grep -ohE '"[A-Za-z][A-Za-z0-9_.]{2,30}"' formats/*.c run/run*.c run/curves.c \
        data/tokenizer.c data/gguf_tokens.c data/data.c infer/openai_read.c infer/speaker.c infer/trace.c infer/clock.c
    sed -nE 's/^[A-Z]+\(([a-z_0-9]+),.*/"--\1\\x0a"/p' config/*.def
    grep -ohE 'X\([A-Z_]+, [a-z0-9_]+' config/values.h | sed 's/.* \(.*\)/"\1"/'
} | awk '!seen[$0]++' > "$TMPDIR/dictionary"
for target in "$@"; do
    export TARGET=$target
    start=$SECONDS
    found=$build/corpus/$target log=$TMPDIR/log
    mkdir -p "$found"
    "$build/fuzz" -runs="$runs" -max_len=8192 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -seed=1 \
        -dict="$TMPDIR/dictionary" -artifact_prefix="$build/findings/$target-" -print_final_stats=1 \
        "$found" "$here/corpus/$target" > "$log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        passed=$((passed + 1)) verdict=ok
    else
        failed=$((failed + 1)) verdict=FAILED
        grep -aE '^fault|^error|ERROR|runtime error|SUMMARY|written to|interrupted' "$log" ||
            echo "it ended with status $status"
    fi
    executions=$(sed -nE 's/^stat::number_of_executed_units: //p' "$log")
    edges=$(grep -aoE 'cov: [0-9]+' "$log" | tail -n 1 | cut -c6-)
    printf '%-7s %-12s %s executions, %s edges, %s s\n' $verdict "$target" "$executions" "$edges" $((SECONDS - start))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
