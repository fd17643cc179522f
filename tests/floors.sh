#!/bin/bash
# floors.sh: no trained model may beat a source's floor by more than noise. A small model is trained on
# every synthetic source; its validation loss is compared with the loss that the source itself has on the
# very same rows, so that what is left of the noise is small: a model that is d nats above the truth
# differs from it by about sqrt(2 d / tokens) by chance, 0.002 for d = 0.1 and the 32768 tokens used here.
# That is the margin. It has teeth where a model comes close to its floor, which the last column shows.
cd "$(dirname "$0")/.." || exit 1
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
passed=0 failed=0

number() { grep -oE "\"$1\": [-0-9.e]+" "$runs/$2/run.json" | tail -n 1 | cut -d' ' -f2; }

check() {
    local name=$1 loss truth
    shift
    ./train --data "$name" --layers 2 --width 64 --context 64 --steps 400 --warmup 20 --log-every 100 --eval-every 400 \
        --eval-tokens 32768 --sample-tokens 0 --out "$runs/$name" "$@" > "$runs/log" 2>&1
    loss=$(number val_loss "$name") truth=$(number source_loss "$name")
    if awk -v loss="${loss:-nan}" -v truth="${truth:-nan}" \
        'BEGIN { exit !(loss + 0 == loss && truth + 0 == truth && loss >= truth - 0.002) }'; then
        passed=$((passed + 1))
        awk -v n="$name" -v l="$loss" -v t="$truth" \
            'BEGIN { printf "ok     %-10s loss %.4f, the source itself %.4f, above it %.4f\n", n, l, t, l - t }'
    else
        failed=$((failed + 1))
        echo "FAILED $name: loss ${loss:-missing}, the source itself ${truth:-missing}"
        tail -n 3 "$runs/log"
    fi
}

check iid
check markov --vocab 16
check stories
check induction
check copy
check recall --pairs 4 --keys 16
check facts --facts 64
check khop --pairs 8 --keys 16
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
