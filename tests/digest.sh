#!/bin/bash
# digest.sh: the promise that the same commit, flags and seed give the same bits, put to the test.
# Builds tests/digest.c, which trains models of every kind in one process and multiplies in every quantised format, for
# every compiler and instruction set at hand, other machines under qemu among them, and ./train for three of them; runs
# them with other numbers of threads, other schedules, other micro-batches, and interrupted at random steps; compares
# every hash with the first.
#     tests/digest.sh [SEED]     of the random steps; minutes at first, then only what changed is built
cd "$(dirname "$0")/.." || exit 1
export OMP_WAIT_POLICY=passive
scratch=$(mktemp -d) passed=0 failed=0
trap 'rm -rf "$scratch"' EXIT

RANDOM=${1:-$$}
echo "random steps from seed ${1:-$$}"
below() { echo $((RANDOM % $1)); }

pass() { echo "ok      $1"; passed=$((passed + 1)); }
flunk() { echo "FAILED  $1"; [ -s "$scratch/log" ] && sed 's/^/        /' "$scratch/log"; failed=$((failed + 1)); }
skip() { echo "absent  $1"; }

# same NAME EXPECTED COMMAND...: what the command prints is the content of the file EXPECTED.
same() {
    local name=$1 expected=$2
    shift 2
    if ! "$@" > "$scratch/found" 2> "$scratch/log"; then flunk "$name"
    elif diff "$expected" "$scratch/found" > "$scratch/log"; then pass "$name"
    else flunk "$name"; fi
}

# build TARGET MAKE-VARIABLE...: quiet, with the compiler's words only when it fails.
build() {
    local target=$1
    shift
    make -s -j2 "$@" "$target" > "$scratch/log" 2>&1 || { flunk "building $target"; return 1; }
}

# ---- the model, in one process -------------------------------------------------------------------
build build/digest || exit 1
export OMP_NUM_THREADS=1
build/digest 20 > "$scratch/long" 2> "$scratch/log" && build/digest 3 > "$scratch/short" 2> "$scratch/log" || exit 1
few="mla bias gated-delta quant"
build/digest 1 6 0 $few > "$scratch/few" 2> "$scratch/log" || exit 1
cat "$scratch/long"
build/digest 19 > "$scratch/other" 2> "$scratch/log"
if cut -c12-27 "$scratch/other" | grep -qFf - "$scratch/long"; then flunk "a step less is seen in every hash"
else pass "a step less is seen in every hash"; fi

for threads in 2 3 8; do same "$threads threads" "$scratch/long" env OMP_NUM_THREADS=$threads build/digest 20; done
for rows in 1 2 4; do same "micro-batches of $rows rows" "$scratch/long" build/digest 20 $rows; done
for schedule in static,1 dynamic,1 dynamic,7 guided auto; do
    same "3 threads, OMP_SCHEDULE=$schedule" "$scratch/long" \
        env OMP_NUM_THREADS=3 OMP_SCHEDULE=$schedule build/digest 20
done
same "8 threads if OMP_DYNAMIC agrees" "$scratch/long" env OMP_NUM_THREADS=8 OMP_DYNAMIC=true build/digest 20
same "8 threads, of which OMP_THREAD_LIMIT allows 3" "$scratch/long" \
    env OMP_NUM_THREADS=8 OMP_THREAD_LIMIT=3 build/digest 20
step=$((1 + $(below 19)))
same "died after $step steps and resumed" "$scratch/long" build/digest 20 6 $step
step=$((1 + $(below 19)))
same "died after $step steps, resumed, 3 threads, micro-batches of 2" "$scratch/long" \
    env OMP_NUM_THREADS=3 build/digest 20 2 $step

# path NAME STEPS RUNNER MAKE-VARIABLE...: another build of the driver, run by RUNNER. One step: of a few kinds.
path() {
    local name=$1 steps=$2 runner=$3 expected=$scratch/long kinds=
    shift 3
    [ "$steps" = 20 ] || expected=$scratch/short
    [ "$steps" != 1 ] || expected=$scratch/few kinds="6 0 $few"
    build "build/digest-$name/digest" "B=build/digest-$name" "$@" || return
    same "$name, $steps steps" "$expected" env OMP_NUM_THREADS=2 $runner "build/digest-$name/digest" "$steps" $kinds
}

has() { grep -qw "$1" /proc/cpuinfo 2> /dev/null; }
for compiler in gcc clang; do
    command -v $compiler > /dev/null || { skip "$compiler: not installed"; continue; }
    [ $compiler = gcc ] || path $compiler-native 20 "" CC=$compiler    # gcc's is the first of all
    path $compiler-plain 20 "" CC=$compiler SIMD=plain
    [ "$(uname -m)" = x86_64 ] || { path $compiler-neon 20 "" CC=$compiler SIMD=neon; continue; }
    if has avx512f && has avx512vl; then path $compiler-avx512 20 "" CC=$compiler SIMD=avx512
    else skip "$compiler-avx512: not in this processor"; fi
    if has avx2 && has fma; then path $compiler-avx2 20 "" CC=$compiler SIMD=avx2
    else skip "$compiler-avx2: not in this processor"; fi
    # No instruction for a fused multiply-add: the formulas of lib/fma.h.
    path $compiler-sse2 1 "" CC=$compiler SIMD=plain "MACHINE_plain=-march=x86-64 -DSIMD_PLAIN"
done
path gcc-O1 20 "" CC=gcc SIMD=plain "MACHINE_plain=-march=native -DSIMD_PLAIN -O1"

# emulated NAME PREFIX QEMU: a build by another machine's compiler, without vectors.
emulated() {
    local prefix=$2 qemu=qemu-$3
    if command -v "$prefix-gcc" > /dev/null && command -v "$qemu" > /dev/null; then
        path "$1" 1 "$qemu -L /usr/$prefix" "CC=$prefix-gcc" SIMD=plain "MACHINE_plain=-DSIMD_PLAIN"
    else skip "$1: $prefix-gcc or $qemu is not installed"; fi
}
emulated riscv64 riscv64-linux-gnu riscv64
emulated ppc64el powerpc64le-linux-gnu ppc64le
emulated armhf arm-linux-gnueabihf arm             # 32 bits, and no instruction for a fused multiply-add

# 32-bit x86 needs no emulator where the system runs its programs: the loader of its libraries is one.
intel=i686-linux-gnu loader="/usr/i686-linux-gnu/lib/ld-linux.so.2 --library-path /usr/i686-linux-gnu/lib"
if [ "$(uname -m)" = x86_64 ] && command -v $intel-gcc > /dev/null && ${loader%% *} --version > /dev/null 2>&1; then
    path i686 1 "$loader" CC=$intel-gcc SIMD=plain "MACHINE_plain=-DSIMD_PLAIN -msse2 -mfpmath=sse"
else skip "i686: $intel-gcc is not installed, or 32-bit programs do not run here"; fi

arm=aarch64-linux-gnu
if [ "$(uname -m)" != aarch64 ] && command -v $arm-gcc > /dev/null && command -v qemu-aarch64 > /dev/null; then
    path arm64-neon 3 "qemu-aarch64 -L /usr/$arm" CC=$arm-gcc SIMD=neon
    path arm64-dotprod 3 "qemu-aarch64 -L /usr/$arm" CC=$arm-gcc SIMD=neon MACHINE_neon=-march=armv8.2-a+dotprod
    path arm64-plain 3 "qemu-aarch64 -L /usr/$arm" CC=$arm-gcc SIMD=plain "MACHINE_plain=-march=armv8-a -DSIMD_PLAIN"
elif [ "$(uname -m)" != aarch64 ]; then
    skip "arm64: $arm-gcc or qemu-aarch64 is not installed"
fi

# ---- the program, end to end ---------------------------------------------------------------------
flags="--layers 2 --width 32 --context 32 --batch 4 --steps 100 --warmup 3"
flags="$flags --eval-tokens 256 --log-every 1 --sample-tokens 5"
experts="--attn gqa+mla --experts 4 --router bias --gate sigmoid --norm peri --ffn gelu"
experts="$experts --data recall --pairs 4 --keys 8"

# receipt BINARY FLAGS...: the digest in the last line of a run, which begins anew.
receipt() {
    rm -rf "$scratch/run"
    finish "$@"
}

# finish BINARY FLAGS...: the same, going on with a run that is there.
finish() {
    "$@" $flags --out "$scratch/run" > "$scratch/out" || return 1
    case $(tail -1 "$scratch/out") in "receipt: digest "*) tail -1 "$scratch/out" | cut -c17-32 ;; *) return 1 ;; esac
}

lines() { cat "$1" 2> /dev/null | wc -l; }

# killed STEPS BINARY FLAGS...: the same, with kill -9 in the middle of it, three times, STEPS logged steps apart.
killed() {
    local apart=$1 attempt child before
    shift
    rm -rf "$scratch/run"
    for attempt in 1 2 3; do
        before=$(lines "$scratch/run/log.jsonl")
        "$@" $flags --save-every 2 --out "$scratch/run" > /dev/null 2>&1 & child=$!
        while kill -0 $child 2> /dev/null && [ "$(lines "$scratch/run/log.jsonl")" -lt $((before + apart)) ]; do
            sleep 0.01
        done
        kill -9 $child 2> /dev/null || { echo "it ended before it was killed" >&2; return 1; }
        wait $child 2> /dev/null
    done
    finish "$@" --save-every 2 || return 1
    grep -q "resumed at step [1-9]" "$scratch/out" || { echo "it did not resume" >&2; return 1; }
}

unset OMP_NUM_THREADS
if build train; then
    receipt ./train > "$scratch/dense" 2> "$scratch/log" || flunk "train"
    receipt ./train $experts > "$scratch/experts" 2> "$scratch/log" || flunk "train with experts"
    for kind in dense experts; do
        more=; [ $kind = dense ] || more=$experts
        for threads in 1 3 8; do
            same "train, $kind, $threads threads" "$scratch/$kind" receipt ./train $more --threads $threads
        done
        for rows in 1 2 3; do
            same "train, $kind, micro-batches of $rows rows" "$scratch/$kind" receipt ./train $more --micro-batch $rows
        done
        same "train, $kind, OMP_SCHEDULE=dynamic,1" "$scratch/$kind" receipt env OMP_SCHEDULE=dynamic,1 ./train $more
        steps=$((3 + $(below 20)))
        same "train, $kind, killed three times, $steps steps apart, and resumed" "$scratch/$kind" \
            killed $steps ./train $more
    done
    other() {
        local name=$1
        shift
        build "build/$name/train" "$@" || return
        same "train, dense, $name" "$scratch/dense" receipt "build/$name/train"
        same "train, experts, $name" "$scratch/experts" receipt "build/$name/train" $experts
    }
    ! command -v clang > /dev/null || other clang-plain CC=clang SIMD=plain
    if has avx2; then
        other avx2 SIMD=avx2
        same "train, experts, --simd avx2" "$scratch/experts" receipt ./train $experts --simd avx2
        if grep -q '"simd": "avx2",' "$scratch/run/run.json"; then pass "run.json says avx2"
        else flunk "run.json does not say avx2"; fi
        if TRAIN=build/avx2/train tests/digests.sh > "$scratch/log"; then pass "the recorded digests, avx2"
        else flunk "the recorded digests, avx2"; fi
    fi
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
