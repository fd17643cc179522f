#!/bin/bash
# onefile.sh: gpt.c against ./train. For settings that hold every value that gpt.c knows, and every pair of two, both
# have to print the same losses at every logged step, the same digest and the same sample; with gpt.c built by every
# compiler at hand, optimised and not, with threads and without. Then gpt.c is spoiled in one place after the other,
# and each time the digests have to differ.
#     tests/onefile.sh           needs ./train and a C compiler
cd "$(dirname "$0")/.." || exit 1
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2
scratch=$(mktemp -d) passed=0 failed=0
trap 'rm -rf "$scratch"' EXIT
[ -x ./train ] || { echo "tests/onefile.sh: there is no ./train; run make"; exit 1; }

pass() { echo "ok      $1"; passed=$((passed + 1)); }
flunk() { echo "FAILED  $1"; [ -s "$scratch/log" ] && sed 's/^/        /' "$scratch/log"; failed=$((failed + 1)); }

# ---- the settings --------------------------------------------------------------------------------
# A word per axis: attention, positions, norms, their kind, QK-norm, feed-forward, bias, head, experts, optimizer, data,
# micro-batches. All pairs of words of different axes occur, but for MLA's with QK-norm, which there is not.
cat > "$scratch/pairs" <<'END'
gqa part pre layer full gelu plain tied topk undecayed text whole
mla+q rope post rms - gelu bias untied shared scaled recall pieces
mha learned pre layer head swiglu bias tied dense adamw recall pieces
mla part post rms - swiglu plain untied raw unclipped text pieces
gqa rope post layer head swiglu bias untied unbalanced unclipped text whole
mha learned pre rms full gelu bias untied raw scaled text whole
mla rope pre layer - gelu plain tied unbalanced scaled recall whole
mla+q learned post rms - swiglu plain tied dense adamw text whole
gqa learned post rms head swiglu plain untied shared undecayed recall pieces
mha part post layer head swiglu bias tied topk scaled recall pieces
mha rope pre layer full swiglu bias tied shared unclipped recall pieces
mla+q rope post layer - gelu bias tied raw undecayed recall whole
mla part pre rms - gelu bias untied topk adamw text whole
gqa rope post rms full gelu bias tied dense adamw recall whole
mla+q part pre rms - gelu bias untied unbalanced adamw recall pieces
mha part post rms head gelu plain untied dense unclipped recall whole
mla learned pre rms - gelu bias untied shared undecayed text whole
mha learned pre rms full swiglu plain untied unbalanced undecayed recall pieces
mla+q learned post rms - swiglu plain untied topk unclipped text pieces
gqa part pre rms - gelu plain tied dense scaled text pieces
gqa part post layer head swiglu plain untied raw adamw text whole
mha part pre layer - gelu plain untied shared adamw text pieces
mla part post rms - swiglu plain untied dense undecayed text whole
gqa rope post layer - swiglu plain untied topk scaled text pieces
END
text=$scratch/text
{ sed -n '1,150p' Makefile | tr '\t' ' '; for i in {1..60}; do echo "What? ~{}"; done; } > "$text"

flags_of() {
    case $1 in
        gqa) echo --attn gqa --kv-heads 2 ;;
        mla) echo --attn mla --kv-rank 10 --nope-dim 6 --v-dim 5 ;;
        mla+q) echo --attn=mla --q-rank 9 ;;
        learned) echo --pos learned ;;
        part) echo --rope-dim 4 --rope-theta 100 ;;
        post) echo --norm post ;;
        layer) echo --norm_kind layer ;;
        head|full) echo --qk-norm "$1" ;;
        gelu) echo --ffn gelu ;;
        bias) echo --bias ;;
        untied) echo --tie 0 ;;
        topk) echo --experts 5 --aux-loss 0.1 ;;
        raw) echo --experts 4 --top-k 1 --norm-topk 0 --expert-width 20 ;;
        shared) echo --experts 3 --expert-width 20 --shared-experts 2 ;;
        unbalanced) echo --experts 6 --top-k 3 --expert-width 17 --aux-loss 0 ;;
        unclipped) echo --clip 0 --min-lr 0 ;;
        undecayed) echo --weight-decay 0 --beta1 0.8 --beta2 0.95 --seed 7 ;;
        scaled) echo --init-scale 3 --norm-eps 1e-3 --eps 1e-6 --warmup 0 ;;
        text) echo --data "$text" ;;
        recall) echo --data recall --pairs 4 --keys 9 ;;
        pieces) echo --micro-batch 2 ;;
    esac
}
small="--layers 2 --width 24 --heads 4 --context 20 --batch 3 --steps 6 --warmup 2 --lr 1e-2 --eval-every 4
       --eval-tokens 90 --log-every 2 --sample-tokens 6"
while read -r line; do
    echo $small $(for word in $line; do flags_of "$word"; done)
done < "$scratch/pairs" > "$scratch/settings"

# What is not an axis: presets and defaults, more than a tile of keys, positions that run out, one of everything, and
# widths that no vector fits.
quick="--steps 3 --eval-tokens 300 --log-every 1 --sample-tokens 20"
cat >> "$scratch/settings" <<END
--data $text --preset shakespeare $quick
--data recall $quick --batch 4
--data $text --context 150 --layers 1 --width 48 --heads 3 --attn gqa --kv-heads 1 $quick --batch 2 --init-scale 20 --lr 0.1
--data $text --context 135 --layers 1 --width 32 --heads 2 --attn mla $quick --batch 2 --init-scale 20 --lr 0.1
--data $text --context 5 --pos learned --layers 1 --width 7 --heads 1 $quick --batch 1 --vocab 100
--data recall --pairs 1 --keys 2 --context 3 --layers 1 --width 1 --heads 1 --pos learned $quick --data-seed 3
--data $text --layers 3 --width 33 --heads 3 --head-dim 6 --ffn-width 50 --context 40 --val-fraction 0.4 $quick --seed 123456789
--data $text --experts 1 --top-k 1 --layers 1 --heads 2 --width 20 --context 30 $quick --tokenizer char
--data $text --steps 0 --layers 1 --width 16 --heads 2 --context 16 --sample-tokens 3
END

covered() {
    awk 'BEGIN { without["head"] = without["full"] = 1 }
         { for (i = 1; i <= NF; i++) { words[i, $i] = 1; for (j = 1; j <= NF; j++) pair[i, $i, j, $j] = 1 } }
         END { for (a in words) for (b in words) {
                   split(a, x, SUBSEP); split(b, y, SUBSEP)
                   if (x[1] == y[1] || (x[2] ~ /^mla/ && y[2] in without) || (y[2] ~ /^mla/ && x[2] in without)) continue
                   if (!((x[1], x[2], y[1], y[2]) in pair)) { print "missing: " x[2] " with " y[2]; bad = 1 } }
               exit bad }' "$1"
}
if covered "$scratch/pairs" > "$scratch/log"; then pass "every pair of values is in a setting"; else flunk "pairs"; fi

# ---- what ./train says ---------------------------------------------------------------------------
# Both as lines: step, training loss and validation loss where there are; then the digest, and the sample. The sample of
# MLA is left out: ./train decodes it through the latent, in another order.
of_train() {
    sed -E 's/[{}"]//g; s/,(mfu|lr|accuracy|grad_norm|tokens_per_second|seconds|tokens|experts):[^,]*//g; s/[:,]/ /g' \
        "$1/log.jsonl" | awk '{ s = ""; for (i = 1; i < NF; i++) if ($i ~ /^(step|train_loss|val_loss)$/) s = s $i " " $(i + 1) " "
                                print s }' | sed 's/ *$//'
    sed -nE 's/^ *"digest": "([0-9a-f]+)".*/digest \1/p' "$1/run.json"
}
of_gpt() {
    sed -nE 's/^receipt: (digest [0-9a-f]+),.*/\1/p; s/ +/ /g; s/ *$//; /^step/p' "$1"
}
sample_of_gpt() { sed '1,/^step '"$2"' /d; /^receipt: /d' "$1"; }


settings=$(wc -l < "$scratch/settings")
line_of() { sed -n "$1p" "$scratch/settings"; }
for i in $(seq "$settings"); do
    if ./train $(line_of "$i") --out "$scratch/run" --fresh > "$scratch/log" 2>&1; then
        of_train "$scratch/run" > "$scratch/expected-$i"
        cp "$scratch/run/sample.txt" "$scratch/sample-$i"
    else flunk "./train $(line_of "$i")"; fi
done

# ---- builds --------------------------------------------------------------------------------------
strict="-std=c11 -pedantic -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Werror -ffp-contract=off"
same_losses() { "$1" $(line_of "$2") > "$scratch/out" 2> "$scratch/log" && of_gpt "$scratch/out" > "$scratch/found" &&
                    diff "$scratch/expected-$2" "$scratch/found" > "$scratch/log"; }
same_sample() {
    local steps=$(sed -nE 's/.*--steps ([0-9]+).*/\1/p' <<< "$(line_of "$1")")
    [[ $(line_of "$1") == *mla* ]] ||
        diff <(cat "$scratch/sample-$1"; echo; echo) <(sample_of_gpt "$scratch/out" "$steps") > "$scratch/log"
}

# build NAME COMMAND...: builds gpt.c and runs all settings.
build() {
    local name=$1 wrong=0
    shift
    "$@" -o "$scratch/gpt" > "$scratch/log" 2>&1 || { flunk "$name: $* -o gpt"; return; }
    for i in $(seq "$settings"); do
        same_losses "$scratch/gpt" "$i" && same_sample "$i" || { flunk "$name: $(line_of "$i")"; wrong=$((wrong + 1)); }
    done
    [ $wrong -gt 0 ] || { pass "$name: the losses and the digests of $settings settings"; passed=$((passed + settings - 1)); }
}
readme=$(sed -nE 's|^// *(cc .* gpt\.c .*) -o gpt$|\1|p' gpt.c)
build "the one line" $readme
cp "$scratch/gpt" "$scratch/gpt-fast"
for compiler in gcc clang; do
    command -v $compiler > /dev/null || { echo "absent  $compiler: not installed"; continue; }
    build "$compiler -O0, without OpenMP" $compiler -O0 $strict gpt.c -lm
    build "$compiler -O3" $compiler -O3 -march=native -fopenmp $strict gpt.c -lm
done
[ "$(uname -m)" != x86_64 ] || build "without an instruction for fused multiply-adds" cc -O3 -march=x86-64 $strict gpt.c -lm
for threads in 1 3; do
    if OMP_NUM_THREADS=$threads same_losses "$scratch/gpt-fast" 25; then pass "$threads threads"; else flunk "$threads threads"; fi
done

# ---- the command line ----------------------------------------------------------------------------
# The flags of gpt.c have the defaults that they have in ./train, but for words that it does not know.
./train --help | awk '/^  --/ { if (flag) print text; flag = 1; text = "" } /^[^ ]/ { if (flag) print text; flag = 0 }
                      flag { text = text " " $0 } END { if (flag) print text }' |
    sed -nE 's/^ *(--[a-z0-9-]+) .*\[([^];]*)[];].*/\1 \2/p' | sort > "$scratch/of-train"
"$scratch/gpt-fast" --help | grep -oE -- '--[a-z0-9-]+ [^ ]+ \[[^]]*\]' | sed -E 's/ [^ ]+ \[(.*)\]/ \1/' | sort > "$scratch/of-gpt"
if [ "$(wc -l < "$scratch/of-gpt")" -gt 50 ] && comm -13 "$scratch/of-train" "$scratch/of-gpt" > "$scratch/log" &&
    ! [ -s "$scratch/log" ]; then pass "names and defaults are those of ./train"; else flunk "names and defaults"; fi

# refused STATUS WORDS ARGUMENT...: one line on stderr that holds the words.
refused() {
    local status=$1 words=$2
    shift 2
    "$scratch/gpt-fast" "$@" > "$scratch/out" 2> "$scratch/log"
    if [ $? = "$status" ] && [ "$(wc -l < "$scratch/log")" = 1 ] && grep -q -- "$words" "$scratch/log"
    then pass "refused: $*"; else flunk "refused: $*"; fi
}
refused 2 ./train
for flag in "--norm peri" "--attn gqa+mla" "--window 4" "--router bias" "--tokenizer byte" "--preset llama" "--out here"; do
    refused 2 ./train --data recall $flag
done
refused 2 ./train --data shards.bin
refused 1 nothere --data nothere
refused 2 "--batch" --data recall --batch 0
refused 2 "--lr" --data recall --lr nan
refused 2 "kv-rank\|ranks" --data recall --kv-rank 4
refused 1 "choose smaller" --data recall --width 1000000

# ---- a mistake is seen ---------------------------------------------------------------------------
# Each spoils one place, in a backward for the most part. Some setting has to show another digest, or else the one that
# is named after it, because that is where the place is used.
spoil() {
    sed -E "$2" gpt.c > "$scratch/spoiled.c"
    if cmp -s gpt.c "$scratch/spoiled.c"; then flunk "spoiled: $1: there is no such place any more"; return; fi
    cc -O1 -march=native -ffp-contract=off "$scratch/spoiled.c" -lm -o "$scratch/spoiled" > "$scratch/log" 2>&1 ||
        { flunk "spoiled: $1: building"; return; }
    for i in $(seq "$settings"); do
        same_losses "$scratch/spoiled" "$i" || { pass "seen: $1, by setting $i"; return; }
    done
    flunk "not seen: $1"
}
spoil "dQ with another sign" 's/fmaf\(ds\[j\], a->k/fmaf(-ds[j], a->k/'
spoil "dK from the values" 's/(d\.k\[at \* D \+ e\] = fmaf\()ds\[j\]/\1p[j]/'
spoil "delta left out of the softmax" 's/\(ds\[j\] - delta\)/ds[j]/'
spoil "a norm's mean of du u" 's/ - \(from\[i\] - mean\) \* root \* mean_duu//'
spoil "the bias of a linear layer" 's/l->db\[n\] \+= dy/l->db[n] -= dy/'
spoil "the slope of SwiGLU" 's/fmaf\(g \* s, 1 - s, s\)/s/'
spoil "the slope of GELU" 's/fmaf\(3 \* GELU_B/fmaf(2 * GELU_B/'
spoil "rotations not turned back" 's/(rotate\(d\.k, KV, D, M, T, )-1/\11/'
spoil "the shared part of MLA's keys" 's/d\.position\[i \/ H \* P \+ e\] \+=/d.position[i \/ H * P + e] =/'
spoil "the balancing loss" 's/ds\[e\] \+= aux \* slope/ds[e] -= aux * slope/'
spoil "the weights of experts" 's/\(d\.weight\[k\] - mean\) \/ chosen/d.weight[k] \/ chosen/'
spoil "the head's gradient of a tied matrix" 's/embedding\.dw\[i\] \+= d_embedding/embedding.dw[i] = d_embedding/'
spoil "positions of a row" 's/positions\.dw\[i % \(T \* C\)\]/positions.dw[i % C]/'
spoil "weight decay before the step" 's/fmaf\(decay, t\.value\[k\], t\.value\[k\]\)/t.value[k]/'
spoil "a sum in another order" 's/for \(int half = 8; half; half \/= 2\)/for (int half = 8; half; half -= half > 4 ? 4 : half > 2 ? 2 : 1)/'
spoil "tiles of 32 keys" 's/enum \{ TILE = 64 \}/enum { TILE = 32 }/'
spoil "one rounding more" 's/to\[n\] = fmaf\(a, w\[n\], to\[n\]\)/to[n] += a * w[n]/'

echo "$passed passed, $failed failed"
[ $failed = 0 ]
