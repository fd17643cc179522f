#!/bin/bash
# all.sh COMMAND...: runs commands that each end with `N passed, N failed`, and ends with their sum.
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for command in "$@"; do
    echo "== $command"
    $command 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r p f < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$log" | tail -n 1)
    [ "$status" = 0 ] || [ "${f:-0}" -gt 0 ] || f=1     # it died before it could count
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
