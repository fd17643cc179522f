#!/bin/bash
# kills.sh [KILLS [SEED]]: kill -9 at random instants of trainings that save at every step or every other
# one. After each kill the state on the disk must be whole and no older than before, a reader must find a whole
# model, and the next process must go on from that very state; a run that gets through ends with the digest and the
# model of one that nobody disturbed. It also counts the kills that fell within a save, because a file under its
# temporary name was left: if those are rare, the test has not tested much.
cd "$(dirname "$0")/.." || exit 1
kills=${1:-102} RANDOM=${2:-1}
passed=0 failed=0 within=0 finished=0
scratch=$(mktemp -d)
run=$scratch/run child=
trap '[ -z "$child" ] || kill -9 "$child" 2> /dev/null; rm -rf "$scratch"' EXIT
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
make -s train generate > "$scratch/out" 2>&1 || { tail -n 5 "$scratch/out"; exit 1; }

pass() { passed=$((passed + 1)); }
flunk() { failed=$((failed + 1)); echo "FAILED kill $killed, $kind: $*"; tail -n 3 "$scratch/out"; }

# train KIND STEPS: one process, that ends by itself or by a kill. Many parameters and few tokens: most of its time
# goes into saving.
train() {
    local more="--save-every 1"
    [ "$1" != experts ] || more="--save-every 2 --attn gqa+mla --experts 4 --router bias --gate sigmoid"
    # Exact weights are saved, and what is computed with is made of them again, from the 30th step on.
    [ "$1" != integers ] || more+=" --quant q4_0 --quant-embed 1 --quant-act int8 --hadamard 1 --qat-start 0.3"
    exec stdbuf -oL ./train --data stories --layers 2 --width 64 --heads 2 --context 16 --batch 1 --steps "$2" \
        --warmup 3 --eval-every 20 --eval-tokens 64 --log-every 1 --sample-tokens 5 $more --out "$run" \
        > "$scratch/out" 2>&1
}

digest() { sed -nE 's/^receipt: digest ([0-9a-f]{16}),.*/\1/p' "$scratch/out"; }
# The step in the state's header; nothing when there is no state yet.
saved_step() {
    [ -e "$run/state.safetensors" ] || return
    head -c 4096 "$run/state.safetensors" | grep -aoE '"step":"[0-9]+"' | tr -dc 0-9
}
started_at() { sed -nE 's/^run .* (from|resumed at) step ([0-9]+) of .*/\2/p' "$scratch/out"; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# What a reader of the run finds: nothing yet, or a whole model.
readable() {
    [ ! -e "$run/config.json" ] || ./generate --run "$run" --prompt "" --tokens 1 > "$scratch/said" 2>&1 && return
    flunk "the model cannot be read: $(tail -n 1 "$scratch/said")"
    return 1
}

# undisturbed KIND: leaves its digest in $expected, its model in $scratch, and in $longest the time in which kills
# may fall: what a run of one step takes, and an eighth of what the whole run takes.
undisturbed() {
    local start middle end
    start=$(milliseconds); (train "$1" 1); rm -rf "$run"
    middle=$(milliseconds); (train "$1" 100); mv "$run/model.safetensors" "$scratch"; rm -rf "$run"
    end=$(milliseconds) expected=$(digest)
    longest=$((middle - start + (end - middle) / 8))
    [ -n "$expected" ] && return
    echo "FAILED the undisturbed run, $1:"; tail -n 3 "$scratch/out"; echo "$passed passed, 1 failed"; exit 1
}

# One process of a run, killed after a random time. False when it ended before that.
killed_run() {
    local before after at wait_ms=$(((RANDOM * 32768 + RANDOM) % longest)) status
    before=$(saved_step)
    : > "$scratch/out"              # a kill may come before the child has opened it: what it says is of the last one
    train "$kind" 100 & child=$!
    sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
    kill -9 "$child" 2> /dev/null
    wait "$child" 2> /dev/null
    status=$? child=
    at=$(started_at) after=$(saved_step)
    if [ -n "$at" ] && [ "$at" != "${before:-0}" ]; then flunk "from step $at, but the state was at ${before:-0}"
    elif [ "$status" = 0 ]; then return 1
    elif [ "$status" != 137 ]; then flunk "it ended with status $status"
    elif [ "${after:-0}" -lt "${before:-0}" ]; then flunk "the state went back from step $before to ${after:-none}"
    elif readable; then pass; fi
}

echo "$kills kills, seed ${2:-1}"
for kind in dense experts integers; do
    killed=0 finished=0
    undisturbed $kind
    while [ $killed -lt $((kills / 3)) ]; do
        if killed_run; then
            killed=$((killed + 1))
            ! compgen -G "$run/*.tmp" > /dev/null || within=$((within + 1))
            [ $killed -lt $((kills / 3)) ] && continue
            (train $kind 100)
        fi
        finished=$((finished + 1))
        if [ "$(digest)" != "$expected" ]; then flunk "ended with digest '$(digest)', expected $expected"
        elif compgen -G "$run/*.tmp" > /dev/null; then flunk "it left" "$run"/*.tmp
        elif ! cmp -s "$run/model.safetensors" "$scratch/model.safetensors"; then
            flunk "its model is not that of its digest"
        else pass; fi
        rm -rf "$run"
    done
    echo "ok     $kind: $killed kills within $longest ms of the start, $finished runs went through to digest $expected"
done
echo "ok     $within of $kills kills fell within a save"
if [ $((within * 20)) -lt "$kills" ]; then failed=$((failed + 1)); echo "FAILED that is fewer than one in twenty"; fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
