#!/bin/bash
# races.sh BUILD: data races, by ThreadSanitizer, in the rooms of the tests that use threads, in trainings and in a
# generation; `make tsan` builds BUILD for it. Ends with `N passed, N failed`.
#
# What makes its reports true, each of which would otherwise be wrong:
# - The barriers of OpenMP's runtime are invisible to ThreadSanitizer, so that every parallel loop looks like a
#   race. Archer, a tool that comes with LLVM's libomp, tells it of them; the runtime of GCC has no such thing, hence
#   clang. Without Archer this script fails instead of reporting.
# - The runtime locks and copies in ways of its own, which are not our business: called_from_lib below. (The option
#   ignore_noninstrumented_modules, which is usually recommended, must not be used: on Linux it also ignores every
#   memcpy of this program, and with it many a race.)
# - ThreadSanitizer watches accesses of at most 16 bytes. Vectors are wider and would not be seen, hence SIMD=plain
#   without the compiler's vectorizer.
# That it can see a race is tried first: a copy of the source in which all threads pack into the same space must be
# caught.
cd "$(dirname "$0")/.." || exit 1
build=${1:?races.sh BUILD} passed=0 failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export OMP_NUM_THREADS=3 OMP_WAIT_POLICY=passive
export TSAN_OPTIONS=suppressions=$scratch/suppressions:exitcode=66
echo 'called_from_lib:libomp.so' > "$scratch/suppressions"

since=$SECONDS
took() { echo "$1 ($((SECONDS - since)) s)"; since=$SECONDS; }
pass() { took "ok      $1"; passed=$((passed + 1)); }
flunk() { took "FAILED  $1"; sed 's/^/        /' "$scratch/log" | head -n "${2:-40}"; failed=$((failed + 1)); }

# clean NAME COMMAND...: it succeeds, and nothing was reported, not even by a process that it started.
clean() {
    local name=$1
    shift
    if "$@" > "$scratch/log" 2>&1 && ! grep -q "WARNING: ThreadSanitizer" "$scratch/log"; then pass "$name"
    else flunk "$name"; fi
}

# ---- can it see? -------------------------------------------------------------------------------
ARCHER_OPTIONS=verbose=1 "$build/digest" 1 > "$scratch/log" 2>&1
if grep -q "Archer detected OpenMP application with TSan" "$scratch/log"; then pass "Archer is there"
else flunk "libarcher.so, of the package libomp-14-dev, was not loaded: reports would be false"; exit 1; fi

planted() {
    mkdir "$scratch/copy"
    cp -a Makefile ./*.[ch] lib kernels config data formats model infer run plot tests "$scratch/copy"
    # With the objects: only the file that is changed is compiled.
    mkdir -p "$scratch/copy/$build" && cp -a "$build/objects" "$scratch/copy/$build" || return 1
    sed -i 's/space + thread \* each/space/' "$scratch/copy/kernels/matmul.c"
    make -s -C "$scratch/copy" CC=clang SIMD=plain RACES=1 "$build/digest" > "$scratch/log" 2>&1 || return 1
    "$scratch/copy/$build/digest" 2 6 0 mha > "$scratch/log" 2>&1
    [ $? = 66 ] && grep -q "data race" "$scratch/log" && grep -q "kernels/matmul.c" "$scratch/log"
}
if planted; then pass "a product of matrices whose threads pack into the same space is reported"
else flunk "a planted race was not reported"; fi

# ---- the rooms, the models, the programs -------------------------------------------------------
for room in attention http matmul moe linear model ops optim; do clean "tests $room" "$build/tests" "$room"; done
clean "tests pipe, without trainings" "$build/tests" pipe/b pipe/l pipe/n
clean "an engine whose threads draw" "$build/tests" served/drawers
clean "nine kinds of models, 3 threads" "$build/digest" 4
clean "nine kinds of models, 8 threads, micro-batches, resumed" env OMP_NUM_THREADS=8 "$build/digest" 4 2 2

# Large enough that no loop stays on one thread.
train() {
    "$build/train" --layers 2 --width 64 --context 64 --batch 5 --steps 3 --warmup 1 --eval-tokens 256 \
        --eval-every 2 --log-every 1 --sample-tokens 8 --threads 3 "$@"
}
clean "train, dense" train --data markov --log-layers --out "$scratch/dense"
clean "train, experts" train --data markov --attn gqa+mla --experts 4 --shared-experts 1 --router bias \
    --gate sigmoid --norm peri --micro-batch 3 --out "$scratch/experts"
clean "train, naive" train --data recall --attn gqa --attn-kernel naive --pos learned --norm post --norm-kind layer \
    --bias --ffn gelu --qk-norm --out "$scratch/naive"
clean "verify" "$build/train" --verify "$scratch/experts" --threads 3
clean "generate" "$build/generate" --run "$scratch/experts" --tokens 20 --samples 3 --threads 3

echo "$passed passed, $failed failed"
[ $failed = 0 ]
