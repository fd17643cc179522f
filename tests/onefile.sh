#!/bin/bash
# onefile.sh: gpt.c against ./train. For settings that hold every value that gpt.c knows, and every pair of two, both
# have to print the same losses at every logged step, the same digest and the same sample; with gpt.c built by every
# compiler at hand, optimised and not, with threads and without. Then gpt.c is spoiled in one place after the other,
# and each time the digests have to differ.
#     tests/onefile.sh           needs ./train and a C compiler
cd "$(dirname "$0")/.." || exit 1
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1       # settings are small: many at once instead
cores=$(nproc 2> /dev/null || sysctl -n hw.ncpu)
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
{ sed -n '1,150p' Makefile | tr -cd '\n -~'; for i in {1..60}; do echo "What? ~{}"; done; } > "$text"

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
hard="$quick --batch 2 --layers 1 --init-scale 20 --lr 0.1"
cat >> "$scratch/settings" <<END
--data $text --preset shakespeare --batch 2 --layers 1 --steps 2 --warmup 1 --eval-tokens 100 --sample-tokens 70
--data recall --batch 1 --layers 1 --steps 2 --eval-tokens 100 --sample-tokens 5
--data $text --context 150 --width 48 --heads 3 --attn gqa --kv-heads 1 $hard
--data $text --context 135 --width 32 --heads 2 --attn mla $hard
--data $text --context 5 --pos learned --layers 1 --width 7 --heads 1 $quick --batch 1 --vocab 100
--data recall --pairs 1 --keys 2 --context 3 --layers 1 --width 1 --heads 1 --pos learned $quick --data-seed 3
--data $text --width 33 --heads 3 --head-dim 6 --ffn-width 50 --context 40 --val-fraction 0.4 $quick --seed 123456789
--data $text --experts 1 --top-k 1 --layers 1 --heads 2 --width 20 --context 30 $quick --tokenizer char
--data $text --steps 0 --layers 1 --width 16 --heads 2 --context 16 --sample-tokens 3
END

covered() {
    awk 'function none(a, b) { return a ~ /^mla/ && (b == "head" || b == "full") }
         { for (i = 1; i <= NF; i++) { word[i, $i] = 1; for (j = 1; j <= NF; j++) pair[i, $i, j, $j] = 1 } }
         END { for (a in word) for (b in word) {
                   split(a, x, SUBSEP); split(b, y, SUBSEP)
                   if (x[1] == y[1] || none(x[2], y[2]) || none(y[2], x[2])) continue
                   if (!((x[1], x[2], y[1], y[2]) in pair)) { print "missing: " x[2] " with " y[2]; bad = 1 } }
               exit bad }' "$1"
}
if covered "$scratch/pairs" > "$scratch/log"; then pass "every pair of values is in a setting"; else flunk "pairs"; fi

# ---- what ./train says ---------------------------------------------------------------------------
# Of both programs the same lines: the step, its losses as they were logged; at last the digest.
settings=$(wc -l < "$scratch/settings")
line_of() { sed -n "$1p" "$scratch/settings"; }
export scratch settings
export -f line_of

train_one() {
    ./train $(line_of "$1") --out "$scratch/run-$1" > "$scratch/train-$1" 2>&1 || exit 1
    awk -F '[],:{}"[]+' '{ for (i = 2; i < NF; i++) {
                             if ($i == "step") line = "step " $(i + 1)
                             if ($i ~ /^(train|val)_loss$/) line = line " " $i " " $(i + 1) }
                         print line }' "$scratch/run-$1/log.jsonl" > "$scratch/expected-$1"
    sed -nE 's/^ *"digest": "([0-9a-f]+)".*/digest \1/p' "$scratch/run-$1/run.json" >> "$scratch/expected-$1"
}
# gpt_one PROGRAM NUMBER: what it says goes to PROGRAM-NUMBER, what differs to PROGRAM-NUMBER.diff.
gpt_one() {
    "$1" $(line_of "$2") > "$1-$2" 2> "$1-$2.diff" &&
        sed -nE 's/^receipt: (digest [0-9a-f]+),.*/\1/p; s/ +/ /g; s/ *$//; /^step/p' "$1-$2" |
        diff "$scratch/expected-$2" - > "$1-$2.diff"
}
# The sample, which the digest leaves out. That of MLA is not compared: ./train decodes it through the latent.
sample_one() {
    gpt_one "$1" "$2" || return
    local last=$(grep -c '^step' "$1-$2")
    [[ $(line_of "$2") == *mla* ]] ||
        diff <(cat "$scratch/run-$2/sample.txt"; echo; echo) \
            <(awk -v last="$last" 'n == last && !/^receipt: digest/ { print } /^step/ { n++ }' "$1-$2") > "$1-$2.diff"
}
export -f train_one gpt_one sample_one
seq "$settings" | xargs -P "$cores" -I {} bash -c 'train_one {}'
for i in $(seq "$settings"); do grep -q '^digest' "$scratch/expected-$i" || flunk "./train $(line_of "$i")"; done

# ---- builds --------------------------------------------------------------------------------------
strict="-std=c11 -pedantic -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Werror -ffp-contract=off"
build() {                                              # NAME COMMAND...: builds gpt.c and runs all settings
    local name=$1 gpt=$scratch/gpt-$((++builds)) good=0
    shift
    "$@" -o "$gpt" > "$scratch/log" 2>&1 || { flunk "$name: $* -o gpt"; return; }
    seq "$settings" | xargs -P "$cores" -I {} bash -c 'sample_one "$0" {} && touch "$0-{}.good"' "$gpt"
    for i in $(seq "$settings"); do
        cp "$gpt-$i.diff" "$scratch/log"
        if [ -e "$gpt-$i.good" ]; then good=$((good + 1)); else flunk "$name: $(line_of "$i")"; fi
    done
    echo "ok      $name: losses and digest of $good settings"
    passed=$((passed + good))
}
line=$(sed -nE 's|^// *(cc .* gpt\.c .*) -o gpt$|\1|p' gpt.c)
build "the one line" $line
if grep '^cc .*gpt\.c' README.md > "$scratch/log" && [ "$(cat "$scratch/log")" != "$line -o gpt" ]; then
    flunk "the one line of README.md is another"
fi
for compiler in gcc clang; do
    command -v $compiler > /dev/null || { echo "absent  $compiler: not installed"; continue; }
    build "$compiler -O0, without OpenMP" $compiler -O0 $strict gpt.c -lm
    build "$compiler -O3" $compiler -O3 -march=native -fopenmp $strict gpt.c -lm
done
if [ "$(uname -m)" = x86_64 ]; then
    build "without an instruction for fused multiply-adds" cc -O3 -march=x86-64 $strict gpt.c -lm
fi
gpt=$scratch/gpt-1
for threads in 2 3; do
    export OMP_NUM_THREADS=$threads
    if gpt_one "$gpt" 25 && gpt_one "$gpt" 26; then pass "$threads threads"; else flunk "$threads threads"; fi
done
export OMP_NUM_THREADS=1

# ---- the command line ----------------------------------------------------------------------------
# The flags of gpt.c have the defaults that they have in ./train, but for words that it does not know.
./train --help | awk '/^  --/ { if (flag) print text; flag = 1; text = "" } /^[^ ]/ { if (flag) print text; flag = 0 }
                      flag { text = text " " $0 } END { if (flag) print text }' |
    sed -nE 's/^ *(--[a-z0-9-]+) .*\[([^];]*)[];].*/\1 \2/p' | sort > "$scratch/of-train"
"$gpt" --help | grep -oE -- '--[a-z0-9-]+ [^ ]+ \[[^]]*\]' | sed -E 's/ [^ ]+ \[(.*)\]/ \1/' |
    sort > "$scratch/of-gpt"
if [ "$(wc -l < "$scratch/of-gpt")" -gt 50 ] && comm -13 "$scratch/of-train" "$scratch/of-gpt" > "$scratch/log" &&
    ! [ -s "$scratch/log" ]; then pass "names and defaults are those of ./train"; else flunk "names and defaults"; fi

# refused STATUS WORDS ARGUMENT...: one line on stderr that holds the words.
refused() {
    local status=$1 words=$2
    shift 2
    "$gpt" "$@" > "$scratch/out" 2> "$scratch/log"
    if [ $? = "$status" ] && [ "$(wc -l < "$scratch/log")" = 1 ] && grep -q -- "$words" "$scratch/log"
    then pass "refused: $*"; else flunk "refused: $*"; fi
}
refused 2 ./train
for flag in "--norm peri" "--attn gqa+mla" "--window 4" "--router bias" "--tokenizer byte" "--preset llama" \
    "--out here"; do
    refused 2 ./train --data recall $flag
done
refused 2 ./train --data shards.bin
refused 1 nothere --data nothere
refused 2 "--batch" --data recall --batch 0
refused 2 "--lr" --data recall --lr nan
refused 2 "kv-rank\|ranks" --data recall --kv-rank 4
refused 1 "choose smaller" --data recall --width 1000000

# ---- a mistake is seen ---------------------------------------------------------------------------
# Each spoils gpt.c in one place, most of them in a backward: another program, whose digest has to be another one for
# some setting.
spoil_one() {                                          # NAME EXPRESSION: what became of it is the last line
    local it=$scratch/spoiled-$BASHPID
    sed -E "$2" gpt.c > "$it.c"
    if cmp -s gpt.c "$it.c"; then echo "FAILED  $1: gpt.c has no such place any more"; return; fi
    cc -O1 -march=native -ffp-contract=off "$it.c" -lm -o "$it" || { echo "FAILED  $1: does not compile"; return; }
    for i in $(seq "$settings"); do gpt_one "$it" "$i" || { echo "ok      seen: $1, by setting $i"; return; }; done
    echo "FAILED  not seen: $1"
}
export -f spoil_one
spoil() { printf '%s\0' "$1" "$2" >> "$scratch/spoils"; }
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
spoil "a sum in another order" 's/lane\[i\] \+= lane\[i \+ half\]/lane[i] = lane[2 * i] + lane[2 * i + 1]/'
spoil "what was summed does not fade" 's/fade = exponential\(before - most\)/fade = 1/'
spoil "tiles of 32 keys" 's/enum \{ TILE = 64 \}/enum { TILE = 32 }/'
spoil "one rounding more" 's/to\[n\] = fmaf\(a, w\[n\], to\[n\]\)/to[n] += a * w[n]/'

xargs -0 -n 2 -P "$cores" bash -c 'spoil_one "$0" "$1"' < "$scratch/spoils" | tee "$scratch/seen"
passed=$((passed + $(grep -c '^ok' "$scratch/seen"))) failed=$((failed + $(grep -c '^FAILED' "$scratch/seen")))

echo "$passed passed, $failed failed"
[ $failed = 0 ]
