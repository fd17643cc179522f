#!/bin/bash
# disk.sh: disks that are full and directories that may not be written while a run saves. Each time: status 1 and
# one line that gives the reason, no temporary file left, the last state whole; and once there is room again, the
# same command goes on from that state to the digest of a run that had no such trouble. The disks are small tmpfs in
# a mount namespace of their own, which vanish with this script; where none can be had, that is said and skipped.
cd "$(dirname "$0")/.." || exit 1
if [ "$1" != inside ]; then
    for root in "" --map-root-user; do
        unshare $root --mount mount -t tmpfs none /tmp 2> /dev/null && exec unshare $root --mount "$0" inside
    done
    echo "skip   no tmpfs can be mounted here: neither as root nor in a user namespace"
    echo "0 passed, 0 failed"
    exit 0
fi

passed=0 failed=0
scratch=$(mktemp -d) child=
disk=$scratch/disk run=$scratch/disk/run
trap '[ -z "$child" ] || kill -9 "$child" 2> /dev/null; umount "$disk" 2> /dev/null; rm -rf "$scratch"' EXIT
save_every=1
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
mkdir "$disk"
make -s train > "$scratch/out" 2>&1 || { tail -n 5 "$scratch/out"; exit 1; }

pass() { passed=$((passed + 1)); echo "ok     $*"; }
flunk() { failed=$((failed + 1)); echo "FAILED $*"; }

# Without capabilities, so that the modes of a directory hold for root too.
train() {
    exec setpriv --bounding-set -all ./train --data stories --layers 2 --width 32 --heads 2 --context 32 --batch 4 \
        --steps 300 --warmup 3 --eval-every 100 --eval-tokens 64 --log-every 1 --sample-tokens 5 \
        --save-every $save_every --out "$run" > "$scratch/out" 2> "$scratch/error"
}

digest() { sed -nE 's/^receipt: digest ([0-9a-f]{16}),.*/\1/p' "$scratch/out"; }
saved_step() {
    [ -e "$run/state.safetensors" ] || return
    head -c 4096 "$run/state.safetensors" | grep -aoE '"step":"[0-9]+"' | tr -dc 0-9
}
started_at() { sed -nE 's/^run .* (from|resumed at) step ([0-9]+) of .*/\2/p' "$scratch/out"; }
lines() { cat "$run/log.jsonl" 2> /dev/null | wc -l; }
new_disk() { umount "$disk" 2> /dev/null; mount -t tmpfs -o "size=$1" none "$disk"; }

# wrong STATUS REASON: what is not as it should be after a run that could not save; nothing when all is well.
wrong() {
    [ "$1" = 1 ] || echo "status $1, not 1"
    [ "$(wc -l < "$scratch/error")" = 1 ] && grep -q "^error: .*$2" "$scratch/error" ||
        echo "'$2' in one line was expected"
    case $2 in *"No space"*) compgen -G "$run/*.tmp" ;; esac    # from a read-only directory it cannot be removed
}

# goes_on NAME STATUS REASON COMMAND...: the run failed as it should; after COMMAND, which removes the reason, it
# comes to its end from the state that was saved last.
goes_on() {
    local name=$1 before problem message
    before=$(saved_step) problem=$(wrong "$2" "$3") message=$(tail -n 1 "$scratch/error")
    [ -z "$problem" ] || { flunk "$name: $problem; it said: $message"; return; }
    shift 3
    "$@"
    (train)
    if [ "$(started_at)" != "${before:-0}" ]; then flunk "$name: went on from step $(started_at), not ${before:-0}"
    elif [ "$(digest)" != "$expected" ]; then flunk "$name: digest '$(digest)', not $expected: $(cat "$scratch/error")"
    elif compgen -G "$run/*.tmp"; then flunk "$name: a temporary file is left at the end"
    else pass "$name, at step ${before:-none}: ${message//"$scratch/"/}"; fi
}

# interrupted_by WHAT...: starts the run, halts it once it has logged 25 more steps, does WHAT, and lets it go on
# until it ends.
interrupted_by() {
    local before
    before=$(lines)
    train & child=$!
    while kill -0 $child 2> /dev/null && [ "$(lines)" -lt $((before + 25)) ]; do sleep 0.01; done
    kill -STOP $child
    "$@"
    kill -CONT $child
    wait $child
    status=$? child=
}

new_disk 100m
(train)
expected=$(digest)
[ -n "$expected" ] || { cat "$scratch/error"; echo "0 passed, 1 failed"; exit 1; }
# What the run needs while it replaces its state: everything, and the state once more.
needed=$(($(du -sk "$run" | cut -f1) + $(du -sk "$run/state.safetensors" | cut -f1)))

# ---- too small from the start: the disk is full at the first, the second, ... file that is written ------
full="No space left on device"
for tenths in 1 2 3 4 5 6 7 8; do
    size=$((needed * tenths / 10))
    new_disk ${size}k
    (train)
    goes_on "a disk of $size KiB where $needed are needed" $? "$full" mount -o remount,size=100m "$disk"
done

# ---- filled by somebody else in the middle of a run ------------------------------------------------------
fill() { head -c 200m /dev/zero > "$disk/filler-$(date +%N)" 2> /dev/null; }
make_room() { rm "$disk"/filler-*; }
new_disk 4m
interrupted_by fill
fill
(train)
goes_on "full while it saves, and again when the run is to go on" $? "run.json: $full" make_room
new_disk 4m
save_every=300
interrupted_by fill
goes_on "full while it logs" $status "log.jsonl: $full" make_room
save_every=1

# ---- a directory that may no longer be written, a file system that is read-only -------------------------
new_disk 100m
interrupted_by chmod a-w "$run"
goes_on "a read-only directory" $status "Permission denied" chmod u+w "$run"
new_disk 100m
interrupted_by chmod a-w "$run"
chmod u+w "$run"
mount -o remount,ro "$disk"
(train)
goes_on "a read-only file system" $? "Read-only file system" mount -o remount,rw "$disk"
new_disk 100m
mount -o remount,ro "$disk"
(train)
goes_on "a read-only file system at the start" $? "Read-only file system" mount -o remount,rw "$disk"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
