#!/bin/sh
# mutations.sh: breaks the pool and the scheduler on purpose, one place at a time, each as some public engine once was
# broken, and sees to it that the random schedules of tests/test_sched.c notice.
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

# What is broken, the file, the line as it is, the line instead.
mutate() {
    mkdir -p "$work/infer" && cp infer/pool.c infer/sched.c infer/engine.c "$work/infer"
    FROM=$3 TO=$4 awk '{ at = index($0, ENVIRON["FROM"])
        if (at) $0 = substr($0, 1, at - 1) ENVIRON["TO"] substr($0, at + length(ENVIRON["FROM"])); print }' \
        "infer/$2" > "$work/infer/$2"
    if cmp -s "infer/$2" "$work/infer/$2"; then echo "infer/$2 has no such line: $3"; exit 1; fi
    if build_and_run "$1"; then echo "MISSED  $1"; missed=1; else echo "seen    $1"; fi
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
exit $missed
