#!/bin/sh
# mutations.sh: breaks the pool and the scheduler on purpose, one place at a time, each as some public engine once was
# broken, and sees to it that the random schedules of tests/test_sched.c notice. Then the drafts and the two processes,
# likewise, for the tests of speculation, of random schedules with models, and of the parent that hears both; attention,
# where rows begin in the same blocks; and signals, where a run is replayed.
set -u
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/receipts-mutations.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
REST="tests/main.c tests/test_sched.c lib/util.c lib/util_files.c lib/text.c lib/rng.c lib/numeric.c lib/fma.c"
missed=0

build_and_run() {
    ${CC:-gcc} -iquote "$work" -iquote . -O1 -std=gnu11 $REST "$work/infer/pool.c" "$work/infer/sched.c" \
        "$work/infer/engine.c" -lm -o "$work/tests" || { echo "does not compile: $1"; exit 1; }
    "$work/tests" sched/ > "$work/output" 2>&1
}

# The file, of infer/ unless it has a path, the line as it is, the line instead.
path_of() { case $1 in */*) echo "$1" ;; *) echo "infer/$1" ;; esac; }
change() {
    path=$(path_of "$1")
    mkdir -p "$work/$(dirname "$path")"
    FROM=$2 TO=$3 awk '{ at = index($0, ENVIRON["FROM"])
        if (at) $0 = substr($0, 1, at - 1) ENVIRON["TO"] substr($0, at + length(ENVIRON["FROM"])); print }' \
        "$path" > "$work/$path"
    if cmp -s "$path" "$work/$path"; then echo "$path has no such line: $2"; exit 1; fi
}
told() { if [ "$1" = 0 ]; then echo "MISSED  $2"; missed=1; else echo "seen    $2"; fi; }

# What is broken, and a change.
mutate() {
    mkdir -p "$work/infer" && cp infer/pool.c infer/sched.c infer/engine.c "$work/infer"
    change "$2" "$3" "$4"
    build_and_run "$1"
    told $? "$1"
}

mutate "a hit on the hash alone" pool.c '&& !memcmp(p->token + b * p->block_size, token, bytes)) return b' \
    '&& bytes) return b'
mutate "a hit whose past is another" pool.c 'x->hash == h && x->before == before &&' 'x->hash == h &&'
mutate "texts of two domains are one" sched.c '*mark = r->root;' '*mark = pool_root(0);'
mutate "a block given away can still be found" pool.c 'if (p->block[b].mark) forget(p, b);' ''
mutate "the whole prompt is found, nothing is left to compute" sched.c 'most = (r->length - 1) / size' \
    'most = r->length / size'
mutate "drafts are published before they are accepted" sched.c 'r->computed += r->n - rejected;' 'r->computed += r->n;'
mutate "a shared block is written without a copy" sched.c \
    'return i < r->blocks && pool_is_fixed(s->pool, r->block[i]);' \
    'return i > r->blocks;'
mutate "the copy is not made" engine.c 'if (op->kind == OP_COPY) b->copy(b->self, op->from, op->to);' \
    'if (op->kind == OP_COPY) return;'
mutate "a preempted request keeps its count of computed tokens" sched.c 'if (!swaps) forget_computed(r);' ''
mutate "a swapped request comes back without its keys" sched.c 'add_op(s, OP_LOAD, r->place[i], r->block[i]);' ''
mutate "swapped blocks come back in another order" sched.c 'add_op(s, OP_LOAD, r->place[i], r->block[i]);' \
    'add_op(s, OP_LOAD, r->place[r->places - 1 - i], r->block[i]);'
mutate "a cancelled request keeps its blocks" sched.c 'if (r->cancelled) end_request(s, r, END_CANCELLED);' \
    'if (r->cancelled) r->state = STATE_ENDED;'
mutate "recomputed tokens count as useful" sched.c 's->count.recomputed += again;' ''
mutate "the oldest is a victim too" sched.c 'for (size_t i = 1; i < s->runs; i++) {' \
    'for (size_t i = 0; i < s->runs; i++) {'
mutate "what cannot fit is not refused" sched.c \
    '|| blocks_of(s, r, 0, last_position(r)) > pool_blocks(s->pool)) {' ') {'
mutate "one token too few has room" sched.c 'return need <= pool_available(s->pool);' \
    'return need <= pool_available(s->pool) + 1;'
mutate "padding counts as nothing" sched.c 's->count.executed++, s->count.padded++' 's->count.executed++'
mutate "padding writes where its last token would" sched.c 'r->token + r->computed - 1, 1, r->computed - 1,' \
    'r->token + r->computed - 1, 1, r->computed,'
mutate "padding outlasts its batch" sched.c 'for (; padding && padding == s->runs; padding--)' 'for (; padding > 99;)'
mutate "a draft is accepted unseen" engine.c 'r->token[position] != token' 'r->token[position] == -1'
mutate "the random number depends on the step" engine.c 'r, position);' 'r, position + index);'

# The others need models: the rest is what make has built.
make -s build/tests || exit 1
export OMP_NUM_THREADS=1 SCHEDULES=4000
REST=$(ls build/objects/*.o build/objects/[a-z]*/*.o | grep -v -e tests/ -e infer/http.o \
    -e objects/train.o -e objects/generate.o -e objects/serve.o -e objects/quantize.o -e objects/gpt.o -e bench/)
HERE="build/objects/tests/main.o build/objects/tests/program.o"
for test in speculation schedules served serve pipe; do HERE="$HERE build/objects/tests/test_$test.o"; done

# What is broken, a change, and the tests that may notice.
mutate_model() {
    what=$1 file=$(path_of "$2")
    change "$2" "$3" "$4"
    shift 4
    ${CC:-gcc} -iquote . -O1 -std=gnu11 -march=native -ffp-contract=off -fopenmp -c "$work/$file" \
        -o "$work/changed.o" || { echo "does not compile: $what"; exit 1; }
    ${CC:-gcc} -fopenmp $HERE $(echo "$REST" | grep -v "/${file%.c}.o") "$work/changed.o" -ljansson -lm \
        -o "$work/tests" || { echo "does not link: $what"; exit 1; }
    "$work/tests" "$@" > "$work/output" 2>&1
    told $? "$what"
}
mutate_draft() {
    case $2 in
    speculate.c) mutate_model "$@" speculation/law speculation/draws speculation/ratio speculation/exact \
                     speculation/lookup speculation/best speculation/reread speculation/learn ;;
    *) mutate_model "$@" served/drawings schedules/served ;;
    esac
}
mutate_draft "every guess of a model is kept" speculate.c 'return model < draft ? model / draft : 1;' 'return 1;'
mutate_draft "the chance forgets what the draft thought" speculate.c 'return model < draft ? model / draft : 1;' \
    'return model;'
mutate_draft "what is left of a wrong guess is all of the law" speculate.c 'left += r[i] = more > 0 ? more : 0;' \
    'left += r[i] = (double)p[i] / model;'
mutate_draft "guess and residual share their numbers" speculate.c 'uniform_at(o, RNG_RESIDUAL, draw)' \
    'uniform_at(o, RNG_ACCEPT, draw)'
mutate_draft "the draft draws with the numbers that accept" speculate.c 'o->seed, RNG_DRAFT, draw' \
    'o->seed, RNG_ACCEPT, draw'
mutate_draft "the draft draws with the numbers of the residual" speculate.c 'o->seed, RNG_DRAFT, draw' \
    'o->seed, RNG_RESIDUAL, draw'
mutate_draft "the draft draws by other options than the model" speculate.c 'draw_weights(logits, spoken, o)' \
    'draw_weights(logits, spoken, &(SampleOptions){.temperature = 1, .top_p = 1})'
mutate_draft "weights of a draft are those of its first guess" speculate.c \
    'return d->model ? d->weights + i * model_config(d->model)->vocab : NULL;' \
    'return d->model ? d->weights : NULL;'
mutate_draft "a draft goes on from a text that it read before" speculate.c '&& d->held[same] == text[same]) same++' \
    ') same++'
mutate_draft "a draft has nothing to read and guesses all the same" speculate.c 'same < count - 1 && d->held' \
    'same < count && d->held'
mutate_draft "a guess costs nothing" speculate.c '(seconds[g] + (double)g * draft_seconds)' 'seconds[g]'
mutate_draft "what was learned of guesses is forgotten at once" speculate.c 's->kept = 0.98 * s->kept + accepted' \
    's->kept = accepted'
mutate_draft "weights are those of another guess" served_guess.c \
    'g->weights + at * model_config(g->model)->vocab' \
    'g->weights'
mutate_draft "a guess is drawn at its neighbour's place" served_guess.c \
    'position = r->past + known_tokens(r) + round;' \
    'position = r->past + known_tokens(r) + round + 1;'
mutate_draft "the last guess is not read" served_guess.c 'if (!r.n) continue;' \
    'if (!r.n || (round && round == row[i].request->drafted)) continue;'
mutate_draft "a guess is drawn as for the first answer of a call" served_guess.c 'd.first + position)' 'position)'
mutate_draft "a token is drawn as for the first answer of a call" served_guess.c \
    'uint64_t draw = d->first + position;' 'uint64_t draw = position;'
mutate_draft "guesses behind a prompt whose logits are wanted stand elsewhere" served_guess.c \
    's->first[index] + r->draw_from - r->logits_from + round' 's->first[index] + round'
mutate_draft "blocks of a draft are not copied" served.c 'if (g) blocks_copy' 'if (!s) blocks_copy'
mutate_draft "blocks of a draft are not swapped" served.c 'if (g) blocks_load' 'if (!s) blocks_load'
mutate_model "a writer that is heard first is not made to wait" pipe.c \
    'if (p->o->readers && from->writes && !a->begun) {' 'if (p->o->readers && from->writes && a->ended) {' pipe/order
mutate_model "a replay stops at a signal" answers.c 'while ((run->timed || !process_stopped)' \
    'while (!process_stopped' serve/replayed
mutate_model "a signal ends what a replay has not written" answers.c 'if (process_stopped && !run->timed)' \
    'if (process_stopped)' serve/replayed
mutate_model "texts that begin in one block are read as if they went on alike" kernels/attention.c \
    'a->first + most && a->block[i] == b->block[i]) i++;' 'a->first + most && a->block[0] == b->block[0]) i++;' \
    schedules/served
mutate_model "what is read together ends within a tile" kernels/attention.c \
    'return smaller(same, most) / tile * tile;' 'return smaller(same, most);' schedules/served
mutate_model "a group that a wrong guess has rounded stays so" model/keep_attention.c \
    'size_t sealed = keep_rounded(s->o, t->past + t->done);' \
    'size_t sealed = keep_rounded(s->o, t->past + t->done + 2);' schedules/served
exit $missed
