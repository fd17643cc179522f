// test_model.c: what must hold of the whole model: architectures that are special cases of others, batches
// that may be cut, grouped and threaded in any way, causality, counts of parameters and FLOPs, initial values.
// Where a comparison has no tolerance beside it, it is bit for bit. Gradients are checked in test_gradients.c,
// cached inference in test_generate.c.
#include "tests/config.h"
#include "tests/test.h"
#include "lib/rng.h"
#include "model.h"
#include "model/layer.h"
#include "moe.h"
#include <float.h>
#include <omp.h>
#include <stdlib.h>

#define EPSILON (sizeof(real) == sizeof(double) ? DBL_EPSILON : (double)FLT_EPSILON)

enum { VOCAB = 37, CONTEXT = 50, ROWS = 5 };

// Every mixer, norm, placement, position, activation, router and balance appears, with ragged sizes.
static const char *const kinds[] = {
    "--attn mha",
    "--attn gqa --kv-heads 1 --attn-kernel naive --norm post --norm-kind layer --bias --ffn gelu --pos learned",
    "--attn gqa --kv-heads 2 --qk-norm head --norm out --ffn relu2 --tie 0 --rope-dim 4",
    "--attn mla --kv-rank 20 --rope-dim 4 --nope-dim 7 --v-dim 5 --norm peri --tile 32",
    "--attn mla --q-rank 17 --attn-kernel naive --norm deepnorm --bias --norm-kind layer",
    "--attn mha+mla --qk-norm full --pos none --ffn gelu --norm keel",
    "--attn gqa --kv-heads 2 --norm peri --norm-kind dyt --bias",
    "--attn gqa+mla --kv-heads 2 --v-dim 5 --attn-gate --bias",
    "--attn mha --norm none --tie 0",
    "--attn mha+gqa --kv-heads 2 --pos alibi",
    "--attn swa --window 11 --tile 32 --kv-heads 2",
    "--attn swa+mla --window 17 --attn-kernel naive --norm peri",
    "--attn mha --experts 5 --top-k 2 --expert-width 11 --aux-loss 0.1 --z-loss 0.01",
    ("--attn mla --experts 6 --top-k 3 --expert-width 13 --gate sigmoid --router bias --shared-experts 1 "
     "--first-dense 1 --tie 0"),
    "--attn gqa --experts 4 --top-k 1 --norm-topk 0 --ffn relu2 --moe-layers dense+moe --aux-loss 0.02 --norm peri",
    "--attn linear --short-conv 0 --norm peri --norm-kind layer --ffn gelu --pos learned",
    "--attn linear --feature-map unit --state-dim 9 --bias",
    "--attn gla --state-dim 7 --bias --experts 4 --top-k 2 --expert-width 11",
    "--attn delta+gated-delta --state-dim 12 --short-conv 3 --norm out --tie 0",
    "--attn gated-delta+mha --rope-dim 4 --qk-norm head",
    "--attn mamba2 --state-dim 7 --short-conv 0 --norm-kind layer --bias",
    "--attn mamba2+swa --window 9 --norm peri --experts 4",
    "--attn mha --experts 5 --capacity 0.7",
    "--attn mha --experts 5 --router threshold --gate sigmoid --aux-loss 0.1 --capacity 0.8",
    "--attn gqa --kv-heads 2 --experts 6 --top-k 3 --router relu",
    "--attn mla --experts 6 --top-k 3 --router hash --shared-experts 1 --capacity 1",
    "--attn mha --experts 3 --router dense --z-loss 0.01",
    "--attn mha --experts 4 --router expert-choice --pool time:7",
    "--attn mha --experts 4 --router soft --pool time:7 --shared-experts 1",
    ("--attn gqa+mla --kv-heads 2 --rope-scaling yarn --rope-factor 4 --rope-trained 20 --rope-mscale 0.7 "
     "--rope-mscale-all-dim 1.3 --attn-bias qkv"),
    ("--attn swa+gqa --kv-heads 2 --window 13 --rope-layers rope+none --rope-scaling llama3 --rope-factor 8 "
     "--rope-trained 30 --attn-bias all --ffn-bias all"),
    "--attn mla --rope-layers none+rope --rope-scaling dynamic --rope-trained 50 --bias --attn-bias none",
    ("--attn mha --experts 6 --top-k 2 --expert-width 13 --gate sigmoid --router bias --route-groups 3 "
     "--route-top-groups 2"),
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static Config configure(const char *flags) {
    return config_of("--width 36 --heads 4 --head-dim 10 --layers 2 --context 50 --ffn-width 44 --init-scale 5", flags,
                     VOCAB);
}

static size_t numbers(Model *m) {
    const Param *row;
    size_t n = model_params(m, &row);
    return row[n - 1].offset + row[n - 1].size;
}

// Weights away from the symmetric values of a fresh model: norms not 1, biases not 0.
static Model *make(const char *flags, bool training) {
    Config c = configure(flags);
    const Param *row;
    Model *m = model_new(&c, training);
    for (size_t i = 0; i < model_params(m, &row); i++) {
        Rng r = rng_stream(5, RNG_TEST, hash_text(HASH_START, row[i].name));
        for (size_t j = 0; j < row[i].size && row[i].init != INIT_NORMAL; j++)
            model_values(m)[row[i].offset + j] += (real)(0.2 * rng_normal(&r));
    }
    model_changed(m);
    return m;
}

typedef struct { int token[ROWS * CONTEXT], target[ROWS * CONTEXT]; } Text;
static Text make_text(size_t T) {
    Text x;
    Rng r = rng_stream(6, RNG_TEST, T);
    for (size_t i = 0; i < ROWS * T; i++)
        x.token[i] = (int)rng_below(&r, VOCAB), x.target[i] = i % 7 == 4 ? -1 : (int)rng_below(&r, VOCAB);
    return x;
}

// Losses and gradients of the batch in pieces of `micro` rows.
typedef struct { double loss[ROWS]; real *gradient; } Step;
static Step step_of(Model *m, const Text *x, size_t T, size_t micro) {
    size_t scored = 0, n = numbers(m);
    for (size_t i = 0; i < ROWS * T; i++) scored += x->target[i] >= 0;
    Step s;
    model_zero_gradients(m);
    for (size_t b = 0; b < ROWS; b += micro)
        model_forward_backward(m, x->token + b * T, x->target + b * T, ROWS - b < micro ? ROWS - b : micro, T,
                               1.0 / (double)scored, 1.0 / ROWS, s.loss + b);
    model_finish_gradients(m);
    s.gradient = xmalloc(n * sizeof *s.gradient);
    memcpy(s.gradient, model_gradients(m), n * sizeof *s.gradient);
    return s;
}

static void same_step(Model *m, const Step *a, const Step *b, const char *flags, const char *what) {
    const Param *row;
    for (size_t i = 0; i < ROWS; i++)
        CHECK(a->loss[i] == b->loss[i], "%s: %s: loss of row %zu is %.17g and %.17g", flags, what, i, a->loss[i],
              b->loss[i]);
    for (size_t i = 0, n = model_params(m, &row); i < n; i++)
        CHECK(!memcmp(a->gradient + row[i].offset, b->gradient + row[i].offset, row[i].size * sizeof(real)),
              "%s: %s: gradient of %s", flags, what, row[i].name);
}

// The models are small: tests that are not about threads use one, as waking more would cost more than it gains.

// What an earlier batch left in the activations must not matter: here it left NaN.
static void spoil_activations(Model *m) { memset(m->activation_arena.base, 0xff, m->activation_arena.used); }

// ---- one batch, however it is computed -----------------------------------------------------------

static void micro_batches(void) {
    omp_set_num_threads(1);
    for (int k = 0; k < KINDS; k++)
        for (size_t T = 13; T <= CONTEXT; T += CONTEXT - 13) {
            Model *m = make(kinds[k], true);
            Text x = make_text(T);
            Step all = step_of(m, &x, T, ROWS), two = step_of(m, &x, T, 2), one = step_of(m, &x, T, 1);
            spoil_activations(m);
            Step again = step_of(m, &x, T, ROWS);
            same_step(m, &all, &two, kinds[k], "micro-batches of two rows");
            same_step(m, &all, &one, kinds[k], "micro-batches of one row");
            same_step(m, &all, &again, kinds[k], "the same batch again, in spoilt memory");
            free(all.gradient), free(two.gradient), free(one.gradient), free(again.gradient), model_free(m);
        }
}

// A wider model, so that every operation is large enough to wake the threads.
static void threads(void) {
    static const int counts[] = {1, 2, 3, 8};
    char flags[512];
    for (int k = 0; k < KINDS; k++) {
        Step first = {.gradient = NULL};
        for (int t = 0; t < 4; t++) {
            omp_set_num_threads(counts[t]);
            snprintf(flags, sizeof flags, "--width 100 %s", kinds[k]);
            Model *m = make(flags, true);
            Text x = make_text(CONTEXT);
            Step s = step_of(m, &x, CONTEXT, ROWS);
            if (!t) first = s;
            else same_step(m, &first, &s, flags, "other threads");
            if (t) free(s.gradient);
            model_free(m);
        }
        free(first.gradient);
    }
}

// The loss of a row is that of training, alone or in any place of any batch, before and after training took
// the memory, and in a model that cannot train.
static void evaluation(void) {
    omp_set_num_threads(1);
    enum { T = 29 };
    for (int k = 0; k < KINDS; k++) {
        Model *m = make(kinds[k], true), *reader = make(kinds[k], false);
        Text x = make_text(T);
        double loss[ROWS], one, turned[ROWS];
        bool hit[ROWS * T], hit_one[T];
        model_evaluate(m, x.token, x.target, ROWS, T, loss, hit);
        for (size_t b = 0; b < ROWS; b++) {
            model_evaluate(reader, x.token + b * T, x.target + b * T, 1, T, &one, hit_one);
            CHECK(one == loss[b] && !memcmp(hit_one, hit + b * T, sizeof hit_one),
                  "%s: row %zu alone has loss %.17g, in the batch %.17g", kinds[k], b, one, loss[b]);
        }
        Step s = step_of(m, &x, T, ROWS);
        for (size_t b = 0; b < ROWS; b++)
            CHECK(s.loss[b] == loss[b], "%s: row %zu: training sees loss %.17g, evaluation %.17g", kinds[k], b,
                  s.loss[b], loss[b]);
        Text y = x;
        for (size_t b = 0; b < ROWS; b++)
            memcpy(y.token + b * T, x.token + (ROWS - 1 - b) * T, T * sizeof(int)),
                memcpy(y.target + b * T, x.target + (ROWS - 1 - b) * T, T * sizeof(int));
        model_evaluate(m, y.token, y.target, ROWS, T, turned, NULL);
        for (size_t b = 0; b < ROWS; b++)
            CHECK(turned[ROWS - 1 - b] == loss[b], "%s: row %zu in another place has loss %.17g, not %.17g", kinds[k],
                  b, turned[ROWS - 1 - b], loss[b]);
        free(s.gradient), model_free(m), model_free(reader);
    }
}

// A token reaches the queries of a layer that see it, and from there those of the next layer.
static size_t reach_of(const Model *m) {
    size_t reach = 0;
    for (size_t l = 0; l < m->c.layers; l++) reach += m->layers[l].mha.window ? m->layers[l].mha.window - 1 : CONTEXT;
    return reach;
}

// Only a token's own past reaches its logits, and the text may go on or stop.
static void causality(void) {
    omp_set_num_threads(1);
    enum { T = CONTEXT };
    for (int k = 0; k < KINDS; k++) {
        Model *m = make(kinds[k], false);
        Text x = make_text(T);
        real *before = xmalloc(T * VOCAB * sizeof *before), *after = xmalloc(T * VOCAB * sizeof *after);
        model_infer(m, NULL, x.token, T, true, before);
        for (size_t t = 0; t < T; t += 7) {
            int kept = x.token[t];
            x.token[t] = (kept + 1) % VOCAB;
            model_infer(m, NULL, x.token, T, true, after);
            x.token[t] = kept;
            CHECK(!memcmp(before, after, t * VOCAB * sizeof *before), "%s: token %zu changes an earlier logit",
                  kinds[k], t);
            for (size_t later = t; later < T; later++) {
                bool differs = memcmp(before + later * VOCAB, after + later * VOCAB, VOCAB * sizeof *before) != 0;
                CHECK(differs == (later - t <= reach_of(m)), "%s: token %zu %s the logits of %zu", kinds[k], t,
                      differs ? "reaches" : "does not reach", later);
            }
            model_infer(m, NULL, x.token, t + 1, true, after);
            CHECK(!memcmp(before, after, (t + 1) * VOCAB * sizeof *before),
                  "%s: a text that ends after token %zu has other logits", kinds[k], t);
        }
        free(before), free(after), model_free(m);
    }
}

// ---- special cases -------------------------------------------------------------------------------

// Two models with the same tensors. scale of a gradient: its tensor's norm over root size, as errors spread.
static void nearly_same_step(Model *m, const Step *a, const Step *b, const char *what) {
    const double loss_units = 8, gradient_units = 300;
    const Param *row;
    for (size_t i = 0; i < ROWS; i++)
        CHECK(fabs(a->loss[i] - b->loss[i]) <= loss_units * EPSILON * fabs(a->loss[i]),
              "%s: loss of row %zu is %.9g and %.9g", what, i, a->loss[i], b->loss[i]);
    for (size_t i = 0, n = model_params(m, &row); i < n; i++) {
        double square = 0, error = 0;
        for (size_t j = row[i].offset; j < row[i].offset + row[i].size; j++) {
            double d = (double)a->gradient[j] - (double)b->gradient[j];
            square += (double)a->gradient[j] * (double)a->gradient[j], error += d * d;
        }
        CHECK(sqrt(error) <= gradient_units * EPSILON * sqrt(square), "%s: gradient of %s is off by %.3g of its norm",
              what, row[i].name, sqrt(error / square));
    }
}

static void gqa_is_mha(void) {
    Model *a = make("--attn mha --bias", true), *b = make("--attn gqa --kv-heads 4 --bias", true);
    Text x = make_text(CONTEXT);
    Step sa = step_of(a, &x, CONTEXT, ROWS), sb = step_of(b, &x, CONTEXT, ROWS);
    same_step(a, &sa, &sb, "gqa with as many key heads as heads", "not mha");
}

// Tied, the matrix gets what the head and the embedding get apart: one addition, so bit for bit.
static void tied_is_the_sum(void) {
    Model *tied = make("--tie 1", true), *apart = make("--tie 0", true);
    const Param *embed = model_find(apart, "embed.weight"), *head = model_find(apart, "head.weight"),
                *both = model_find(tied, "embed.weight");
    Text x = make_text(CONTEXT);
    memcpy(model_values(apart) + head->offset, model_values(apart) + embed->offset, head->size * sizeof(real));
    model_changed(apart);
    Step a = step_of(tied, &x, CONTEXT, 2), b = step_of(apart, &x, CONTEXT, 2);
    size_t wrong = 0;
    for (size_t i = 0; i < both->size; i++)
        wrong += a.gradient[both->offset + i] != b.gradient[embed->offset + i] + b.gradient[head->offset + i];
    CHECK(!wrong, "%zu gradients of the tied matrix are not the sums", wrong);
    for (size_t i = 0; i < ROWS; i++)
        CHECK(a.loss[i] == b.loss[i], "loss %.17g tied, %.17g apart", a.loss[i], b.loss[i]);
}

// The kernels add in another order, but for naive and band: their bits are the same. Measured: losses within 2 units;
// gradients within 60 of their norms, but 140 for the queries of one model, in float and in double alike: with weights
// five times as large as usual softmax is sharp, and what is left of its gradient is a small difference of large
// numbers.
static void flash_is_naive(void) {
    static const char *const attn[] = {"--attn mha", "--attn gqa --kv-heads 1 --qk-norm head", "--attn mla --norm peri",
                                       "--attn gqa+mla --bias --norm out"};
    static const char *const kernel[] = {"naive", "band", "flash --tile 32"};
    char flags[512];
    Text x = make_text(CONTEXT);
    for (size_t i = 0; i < sizeof attn / sizeof *attn; i++) {
        Model *m[3];
        Step step[3];
        for (int k = 0; k < 3; k++) {
            snprintf(flags, sizeof flags, "%s --attn-kernel %s", attn[i], kernel[k]);
            m[k] = make(flags, true), step[k] = step_of(m[k], &x, CONTEXT, ROWS);
        }
        CHECK(memcmp(step[0].loss, step[1].loss, sizeof step[0].loss) == 0, "%s: naive and band differ", attn[i]);
        nearly_same_step(m[0], &step[0], &step[2], attn[i]);
        for (int k = 0; k < 3; k++) free(step[k].gradient), model_free(m[k]);
    }
}

static void copy_tensor(Model *to, const char *name, Model *from, const char *source, size_t first, size_t size) {
    const Param *p = model_find(to, name), *q = model_find(from, source);
    if (!p || !q) fail("a test looks for the tensors %s and %s, and one is not there", name, source);
    memcpy(model_values(to) + p->offset + first, model_values(from) + q->offset, size * sizeof(real));
}

static const char *const ffn_parts[] = {"gate", "up", "down"};

// Gives every expert of `m` the feed-forward weights of the dense model of the same size.
static void same_experts(Model *m, Model *dense) {
    const Config *c = model_config(m);
    char name[96], source[96];
    for (size_t l = 0; l < c->layers; l++)
        for (int part = 0; part < 3; part++)
            for (size_t e = 0; e < c->experts; e++) {
                snprintf(name, sizeof name, "layers.%zu.moe.%s.weight", l, ffn_parts[part]);
                snprintf(source, sizeof source, "layers.%zu.ffn.%s.weight", l, ffn_parts[part]);
                copy_tensor(m, name, dense, source, e * c->expert_width * c->width, c->expert_width * c->width);
            }
    model_changed(m);
}

static real largest(const real *x, size_t n) {
    real most = 0;
    for (size_t i = 0; i < n; i++) most = x[i] > most ? x[i] : -x[i] > most ? -x[i] : most;
    return most;
}

// Its gate is exactly 1 and its tokens stand in order: every number is the same, gradients included
// (compared as numbers: a zero may have another sign). Its router has nothing to choose and no gradient.
static void one_expert_is_dense(void) {
    omp_set_num_threads(1);
    char flags[256], name[96];
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        snprintf(flags, sizeof flags, "--experts 1 --top-k 1 --expert-width 44 --gate %s",
                 sigmoid ? "sigmoid --aux-loss 0" : "softmax");
        Model *dense = make("", true), *moe = make(flags, true);
        Text x = make_text(CONTEXT);
        same_experts(moe, dense);
        Step a = step_of(dense, &x, CONTEXT, ROWS), b = step_of(moe, &x, CONTEXT, ROWS);
        for (size_t i = 0; i < ROWS; i++)
            CHECK(a.loss[i] == b.loss[i], "%s: loss %.17g, of the dense model %.17g", flags, b.loss[i], a.loss[i]);
        const Param *row;
        for (size_t i = 0, n = model_params(dense, &row); i < n; i++) {
            const char *ffn = strstr(row[i].name, "ffn.");
            snprintf(name, sizeof name, "%.*s%s%s", (int)(ffn ? ffn - row[i].name : (long)strlen(row[i].name)),
                     row[i].name, ffn ? "moe." : "", ffn ? ffn + 4 : "");
            const Param *p = model_find(moe, name);
            size_t wrong = 0;
            for (size_t j = 0; j < row[i].size; j++)
                wrong += a.gradient[row[i].offset + j] != b.gradient[p->offset + j];
            CHECK(!wrong, "%s: %zu gradients of %s differ from the dense model's", flags, wrong, name);
        }
        const Param *router = model_find(moe, "layers.0.moe.router.weight");
        real most = largest(b.gradient + router->offset, router->size);
        CHECK((double)most <= 1e-9, "%s: a router without a choice has gradient %g", flags, (double)most);
        free(a.gradient), free(b.gradient), model_free(dense), model_free(moe);
    }
}

// All four experts alike and all chosen: their weighted mean is the dense layer. The gates sum to 1 up to
// rounding, so the losses agree up to the rounding of a few layers (measured: 2 units).
static void equal_experts_are_dense(void) {
    omp_set_num_threads(1);
    Model *dense = make("", true), *moe = make("--experts 4 --top-k 4 --expert-width 44", true);
    Text x = make_text(CONTEXT);
    same_experts(moe, dense);
    Step a = step_of(dense, &x, CONTEXT, ROWS), b = step_of(moe, &x, CONTEXT, ROWS);
    for (size_t i = 0; i < ROWS; i++)
        CHECK(fabs(a.loss[i] - b.loss[i]) <= 8 * EPSILON * a.loss[i], "loss %.9g, of the dense model %.9g", b.loss[i],
              a.loss[i]);
}

// ---- routers -------------------------------------------------------------------------------------

static void router_statistics(void) {
    enum { T = 20, E = 6, K = 2 };
    Model *m = make("--experts 6 --top-k 2 --router bias --bias-rate 0.125 --first-dense 1 --expert-width 8", true);
    const Param *bias = model_find(m, "layers.1.moe.router.bias");
    Text x = make_text(T);
    real before[E];
    for (size_t e = 0; e < E; e++)
        model_values(m)[bias->offset + e] = e == 2 ? -100 : e == 3 ? 100 : 0;    // one dead, one in every choice
    memcpy(before, model_values(m) + bias->offset, sizeof before);
    Step s = step_of(m, &x, T, 2);
    const RouterStats *r = model_router_stats(m, 1), *dense = model_router_stats(m, 0);
    double total = 0, most = 0, entropy = 0, mean = (double)ROWS * T * K / E;
    for (size_t e = 0; e < E; e++) {
        total += r->load[e], most = fmax(most, r->load[e]);
        if (r->load[e] > 0) entropy -= r->load[e] / (ROWS * T * K) * log(r->load[e] / (ROWS * T * K));
    }
    CHECK(total == ROWS * T * K, "the loads sum to %g, expected %d", total, ROWS * T * K);
    CHECK(r->load[2] == 0 && r->dead >= 1 && r->load[3] == ROWS * T, "loads %g and %g, %zu dead", r->load[2],
          r->load[3], r->dead);
    CHECK(fabs(r->entropy - entropy) < 1e-12 && r->entropy < log(E), "entropy %g, expected %g", r->entropy, entropy);
    CHECK(fabs(r->max_violation - (most / mean - 1)) < 1e-12, "MaxVio %g, expected %g", r->max_violation,
          most / mean - 1);
    CHECK(dense->max_violation == 0 && dense->aux_loss == 0, "a dense layer has statistics");
    model_update_routers(m);
    for (size_t e = 0; e < E; e++) {
        double moved = (double)(model_values(m)[bias->offset + e] - before[e]),
               expected = 0.125 * ((mean > r->load[e]) - (mean < r->load[e]));
        CHECK(moved == expected, "expert %zu with load %g of %g: its bias moved by %g, expected %g", e, r->load[e],
              mean, moved, expected);
    }
    CHECK(largest(s.gradient + bias->offset, E) == 0, "the selection bias has a gradient");
}

// An expert without a token has no gradient; the others do.
static void dead_experts(void) {
    enum { T = 20, E = 6 };
    Model *m = make("--experts 6 --top-k 2 --router bias --expert-width 8", true);
    const Param *bias = model_find(m, "layers.0.moe.router.bias"), *up = model_find(m, "layers.0.moe.up.weight");
    Text x = make_text(T);
    model_values(m)[bias->offset + 2] = -100, model_values(m)[bias->offset + 5] = -100;
    Step s = step_of(m, &x, T, ROWS);
    const RouterStats *r = model_router_stats(m, 0);
    for (size_t e = 0; e < E; e++) {
        real most = largest(s.gradient + up->offset + e * up->size / E, up->size / E);
        CHECK((most > 0) == (r->load[e] > 0), "expert %zu got %g tokens, and its largest gradient is %g", e, r->load[e],
              (double)most);
    }
}

// ---- counts --------------------------------------------------------------------------------------

static void table(void) {
    for (int k = 0; k < KINDS; k++) {
        Config c = configure(kinds[k]);
        Model *m = model_new(&c, true);
        const Param *row;
        size_t count = model_params(m, &row), end = 0;
        ModelSize size = model_size(&c);
        for (size_t i = 0; i < count; i++) {
            size_t product = 1;
            for (size_t d = 0; d < row[i].rank; d++) product *= row[i].shape[d];
            CHECK(product == row[i].size && row[i].offset == end, "%s: %s: %zu numbers at %zu, expected %zu at %zu",
                  kinds[k], row[i].name, row[i].size, row[i].offset, product, end);
            CHECK(row[i].decay == (row[i].rank > 1), "%s: %s: weight decay is for matrices only", kinds[k],
                  row[i].name);
            bool moved = strstr(row[i].name, "router.bias") || strstr(row[i].name, "router.threshold") ||
                         strstr(row[i].name, "router.l1");
            CHECK(row[i].trained == !moved, "%s: %s: trained or not", kinds[k], row[i].name);
            CHECK(model_find(m, row[i].name) == &row[i], "%s: the name %s stands twice", kinds[k], row[i].name);
            end += row[i].size;
        }
        CHECK(size.parameters == end, "%s: %zu parameters, the table has %zu", kinds[k], size.parameters, end);
        CHECK(size.parameter_bytes == end * sizeof(real) && size.moment_bytes == 2 * end * sizeof(real),
              "%s: bytes of parameters or moments", kinds[k]);
        model_free(m);
    }
}

// Forward and backward cost 6 FLOPs per weight of a product and token; attention 2 FLOPs per width of query
// and value and key seen, the mean query seeing half of T, times 3 for the backward.
static void flops(void) {
    const double C = 36, L = 2, H = 4, D = 10, F = 44, V = VOCAB, T = CONTEXT;
    static const char *const tie[] = {"--tie 0", "--tie 1"};
    for (int tied = 0; tied < 2; tied++) {
        Config c = configure(tie[tied]);
        double weights = L * (4 * C * H * D + 3 * C * F) + V * C, expected = 6 * weights + L * 3 * (2 * H * D) * T;
        CHECK(model_size(&c).flops_per_token == expected, "%g FLOPs per token, expected %g",
              model_size(&c).flops_per_token, expected);
        CHECK(model_size(&c).parameters == (size_t)(weights + (tied ? 0 : V * C) + (2 * L + 1) * C), "%zu parameters",
              model_size(&c).parameters);
    }
    Config g = configure("--attn gqa --kv-heads 2 --ffn gelu");
    double expected = 6 * (L * (2 * C * H * D + 2 * C * 2 * D + 2 * C * F) + V * C) + L * 3 * (2 * H * D) * T;
    CHECK(model_size(&g).flops_per_token == expected, "gqa: %g FLOPs per token, expected %g",
          model_size(&g).flops_per_token, expected);
}

// Per token, the experts not chosen cost nothing.
static void active_parameters(void) {
    const size_t C = 36, E = 8, K = 2, F = 11;
    Config c = configure("--experts 8 --top-k 2 --expert-width 11 --shared-experts 1 --first-dense 1"),
           d = configure("--ffn-width 33");
    ModelSize moe = model_size(&c), dense = model_size(&d);
    CHECK(moe.parameters - moe.active_parameters == (E - K) * 3 * C * F, "%zu of %zu active", moe.active_parameters,
          moe.parameters);
    CHECK(dense.parameters == dense.active_parameters, "%zu of %zu active in a dense model", dense.active_parameters,
          dense.parameters);
    Config all = configure("--experts 2 --top-k 2 --expert-width 11 --shared-experts 1 --first-dense 1");
    CHECK(moe.flops_per_token - model_size(&all).flops_per_token == 6.0 * (double)(C * (E - 2)),
          "two of eight experts cost as much as two of two, but for the router");
}

static void add_up(void *flags) {
    Config c = configure(flags);
    model_size(&c);
}

// Each flag is within its range; multiplied, they are beyond what a size_t can hold.
static void impossible_sizes(void) {
    static const char *const flags[] = {
        "--width 1000000 --heads 100 --layers 2 --context 100000000 --batch 1000000",
        "--width 1000000 --heads 65536 --head-dim 65536 --layers 1000",
        "--width 1000000 --heads 64 --experts 65536 --expert-width 10000000 --context 8",
        "--context 100000000 --batch 1000000 --attn-kernel naive --heads 65536 --head-dim 2",
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        CHECK(test_fails(1, "larger than any memory", add_up, (void *)flags[i]), "%s: %s", flags[i], test_message);
}

// ---- initial values ------------------------------------------------------------------------------

// Tensors of one name and shape start alike, whatever else differs: arms of a sweep are paired.
static void init_shared(void) {
    omp_set_num_threads(1);
    size_t shared = 0;
    for (int k = 0; k < KINDS; k++) {
        Config a = configure("--layers 3"), b = configure(kinds[k]), other = configure("--layers 3 --seed 2");
        if (b.norm == NORM_deepnorm) continue;                   // it scales some of them: see below
        b.layers = 3;                                            // the residual projections depend on the depth
        Model *m = model_new(&a, true), *n = model_new(&b, false), *o = model_new(&other, false);
        const Param *row;
        for (size_t i = 0, count = model_params(m, &row); i < count; i++) {
            const Param *p = model_find(n, row[i].name);
            if (p && p->rank == row[i].rank && !memcmp(p->shape, row[i].shape, sizeof p->shape)) {
                CHECK(!memcmp(model_values(m) + row[i].offset, model_values(n) + p->offset, p->size * sizeof(real)),
                      "%s: %s starts differently", kinds[k], p->name);
                shared++;
            }
            if (row[i].init == INIT_NORMAL)
                CHECK(memcmp(model_values(m) + row[i].offset, model_values(o) + model_find(o, row[i].name)->offset,
                             row[i].size * sizeof(real)),
                      "%s does not depend on the seed", row[i].name);
        }
        model_free(m), model_free(n), model_free(o);
    }
    CHECK(shared > 100, "only %zu tensors were shared", shared);
}

static const Param *find_kind(Model *m, const char *suffix, size_t from) {
    const Param *row;
    for (size_t count = model_params(m, &row); from < count; from++) {
        size_t n = strlen(row[from].name), s = strlen(suffix);
        if (n >= s && !strcmp(row[from].name + n - s, suffix)) return &row[from];
    }
    return NULL;
}

// Mean and deviation of a sample of n normals are normal too, with deviations std/sqrt(n) and std/sqrt(2n):
// five of them are allowed, which chance exceeds once in a million.
static void check_normal(Model *m, const char *suffix, double std) {
    const Param *row, *p = find_kind(m, suffix, 0);
    CHECK(p != NULL, "no tensor ends in %s", suffix);
    for (model_params(m, &row); p; p = find_kind(m, suffix, (size_t)(p - row) + 1)) {
        double sum = 0, square = 0, beyond = 0, n = (double)p->size;
        for (size_t i = 0; i < p->size; i++) {
            double x = (double)model_values(m)[p->offset + i];
            sum += x / n, square += x * x / n, beyond += fabs(x) > 2 * std;
        }
        CHECK(fabs(sum) <= 5 * std / sqrt(n), "%s: mean %g", p->name, sum);
        CHECK(fabs(sqrt(square) - std) <= 5 * std / sqrt(2 * n), "%s: standard deviation %.6g, expected %.6g", p->name,
              sqrt(square), std);
        CHECK(fabs(beyond / n - 0.0455) <= 5 * sqrt(0.0455 * 0.9545 / n),
              "%s: %.4f of the numbers are beyond two deviations, expected 0.0455", p->name, beyond / n);
    }
}

static void init_statistics(void) {
    const double std = 0.02 * 1.5, root = 1 / sqrt(2 * 3.0), beta = pow(8 * 3.0, -0.25);
    Config pre = configure("--layers 3 --width 64 --init-scale 1.5 --tie 0 --bias --pos learned"),
           deep = configure("--layers 3 --width 64 --init-scale 1.5 --norm deepnorm"),
           flat = configure("--layers 3 --width 64 --init-scale 1.5 --scaled-init 0");
    Config moe =
        configure("--layers 3 --width 64 --init-scale 1.5 --attn mla --experts 4 --shared-experts 1 --expert-width 20");
    Model *p = model_new(&pre, false), *d = model_new(&deep, false), *e = model_new(&moe, false),
          *f = model_new(&flat, false);
    static const char *const plain[] = {"embed.weight",  "pos.weight",    "head.weight",     "attn.q.weight",
                                        "attn.k.weight", "attn.v.weight", "ffn.gate.weight", "ffn.up.weight"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) check_normal(p, plain[i], std);
    check_normal(p, "attn.o.weight", std * root), check_normal(p, "ffn.down.weight", std * root);
    check_normal(f, "attn.o.weight", std), check_normal(f, "ffn.down.weight", std);
    static const char *const scaled[] = {"attn.v.weight", "attn.o.weight", "ffn.gate.weight", "ffn.up.weight",
                                         "ffn.down.weight"};
    for (size_t i = 0; i < sizeof scaled / sizeof *scaled; i++) check_normal(d, scaled[i], std * beta);
    check_normal(d, "attn.q.weight", std), check_normal(d, "attn.k.weight", std), check_normal(d, "embed.weight", std);
    static const char *const expert[] = {"moe.router.weight",  "moe.gate.weight",  "moe.up.weight",
                                         "shared.gate.weight", "attn.kv_a.weight", "attn.kv_b.weight"};
    for (size_t i = 0; i < sizeof expert / sizeof *expert; i++) check_normal(e, expert[i], std);
    check_normal(e, "moe.down.weight", std * root), check_normal(e, "shared.down.weight", std * root),
        check_normal(e, "attn.o.weight", std * root);
    const Param *row;
    for (size_t i = 0, count = model_params(p, &row); i < count; i++)
        for (size_t j = 0; j < row[i].size && row[i].init != INIT_NORMAL; j++)
            CHECK(model_values(p)[row[i].offset + j] == (strstr(row[i].name, "norm.weight") ? 1 : 0), "%s starts at %g",
                  row[i].name, (double)model_values(p)[row[i].offset + j]);
}

// ---- looking inside ------------------------------------------------------------------------------

static void recorded_attention(void) {
    omp_set_num_threads(1);
    enum { T = 21, L = 2, H = 4 };
    for (int k = 0; k < KINDS; k++) {
        Model *m = make(kinds[k], false);
        Text x = make_text(T);
        real *map = xmalloc(L * H * T * T * sizeof *map), *logits = xmalloc(T * VOCAB * sizeof *logits),
             *plain = xmalloc(T * VOCAB * sizeof *plain);
        model_infer(m, NULL, x.token, T, true, plain);
        model_record_attention(m, map);
        model_infer(m, NULL, x.token, T, true, logits);
        model_record_attention(m, NULL);
        for (size_t i = 0; i < L * H * T; i++) {
            double sum = 0;
            size_t window = m->layers[i / (H * T)].mha.window ? m->layers[i / (H * T)].mha.window : T;
            for (size_t j = 0; j < T; j++) {
                sum += (double)map[i * T + j];
                CHECK(j <= i % T && i % T < j + window ? map[i * T + j] > 0 : map[i * T + j] == 0,
                      "%s: query %zu looks at key %zu with weight %g", kinds[k], i % T, j, (double)map[i * T + j]);
            }
            CHECK(fabs(sum - 1) <= 16 * EPSILON, "%s: the weights of a query sum to %.9g", kinds[k], sum);
        }
        double most = 0;
        for (size_t i = 0; i < T * VOCAB; i++) most = fmax(most, fabs((double)logits[i] - (double)plain[i]));
        // While it is recorded, flash becomes naive. Measured: 9 units.
        CHECK(most <= 50 * EPSILON, "%s: looking changes a logit by %g", kinds[k], most);
        free(map), free(logits), free(plain), model_free(m);
    }
}

// --feature-map unit: queries and keys of any length do the same, and so do values, which a norm follows; elu + 1 and a
// sum of weights do not care for the length of the values alone.
static void unit_keys(void) {
    enum { T = 12 };
    static const char *const names[] = {"layers.0.attn.q.weight", "layers.0.attn.k.weight", "layers.0.attn.v.weight"};
    for (int unit = 0; unit < 2; unit++)
        for (size_t n = 0; n < 3; n++) {
            Model *m = make(unit ? "--attn linear --feature-map unit --short-conv 0"
                                 : "--attn linear --feature-map elu --short-conv 0", false);
            Text x = make_text(T);
            real logits[T * VOCAB], scaled[T * VOCAB];
            const Param *w = model_find(m, names[n]);
            model_infer(m, NULL, x.token, T, true, logits);
            for (size_t i = 0; i < w->size; i++) model_values(m)[w->offset + i] *= 8;
            model_changed(m);
            model_infer(m, NULL, x.token, T, true, scaled);
            double most = 0;
            for (size_t i = 0; i < T * VOCAB; i++) most = fmax(most, fabs((double)logits[i] - (double)scaled[i]));
            // Norms add 1e-5 to the mean square of what may be as small as 1e-2.
            CHECK((most < 1e-2) == unit, "%s times 8, --feature-map %s: a logit moves by %g", names[n],
                  unit ? "unit" : "elu", most);
            model_free(m);
        }
}

// With a large input the stream's root mean square is what a loop over the last layer's output says; here
// through a model whose branches are silent, so that the stream is the embedding.
static void residual_rms(void) {
    enum { T = 10 };
    Model *m = make("--init-scale 0 --pos none", true);
    const Param *embed = model_find(m, "embed.weight");
    Text x = make_text(T);
    double square = 0;
    for (size_t i = 0; i < embed->size; i++) model_values(m)[embed->offset + i] = (real)(i % 11) - 4;
    model_changed(m);
    Step s = step_of(m, &x, T, ROWS);
    for (size_t i = 0; i < ROWS * T; i++)
        for (size_t c = 0; c < 36; c++)
            square += pow((double)model_values(m)[embed->offset + (size_t)x.token[i] * 36 + c], 2);
    for (size_t l = 0; l < 2; l++) {
        double n = ROWS * T * 36, found = sqrt(model_residual_squares(m, l, ROWS) / n), expected = sqrt(square / n);
        CHECK(fabs(found - expected) < 16 * EPSILON * 10, "layer %zu: %g, expected %g", l, found, expected);
    }
    free(s.gradient);
}

// A layer without rotations is that of --pos none; the layer behind it rotates.
static void rope_layers(void) {
    enum { T = 20 };
    const char *const flags[] = {"--rope-layers none+rope", "--pos none", "--pos rope"};
    Text x = make_text(T);
    double squares[3][2];
    for (int i = 0; i < 3; i++) {
        Model *m = make(flags[i], true);
        free(step_of(m, &x, T, ROWS).gradient);
        for (size_t l = 0; l < 2; l++) squares[i][l] = model_residual_squares(m, l, ROWS);
        model_free(m);
    }
    CHECK(squares[0][0] == squares[1][0] && squares[0][0] != squares[2][0], "layer 0: %.17g, none %.17g, rope %.17g",
          squares[0][0], squares[1][0], squares[2][0]);
    CHECK(squares[0][1] != squares[1][1], "layer 1 does not rotate");
}

// The parameters of a model with one layer more, without those of that layer.
static void copy_without(Model *to, Model *from, int layer) {
    const Param *row;
    for (size_t i = 0, n = model_params(to, &row); i < n; i++) {
        char *name = xprintf("%s", row[i].name);
        if (row[i].layer >= 0) {
            free(name);
            const char *rest = strchr(row[i].name + strlen("layers."), '.');
            name = xprintf("layers.%d%s", row[i].layer + (row[i].layer >= layer), rest);
        }
        const real *value = model_values(from) + model_find(from, name)->offset;
        memcpy(model_values(to) + row[i].offset, value, row[i].size * sizeof(real));
        free(name);
    }
    model_changed(to);
}

// A model that passes a layer by is the model that never had it, for a reader and for one that was training.
static void dropped_layer(void) {
    static const char *const flags[] = {"--norm pre", "--norm post", "--attn mha --experts 3 --expert-width 8"};
    double loss[ROWS], expected[ROWS];
    Text x = make_text(CONTEXT);
    for (int k = 0; k < 6; k++)
        for (int layer = 0; layer < 3; layer++) {
            char *three = xprintf("%s --layers 3", flags[k / 2]);
            Model *whole = make(three, k % 2), *rest = make(flags[k / 2], false);
            if (k % 2) model_forward_backward(whole, x.token, x.target, ROWS, CONTEXT, 1, 1, loss);
            copy_without(rest, whole, layer);
            model_drop_layer(whole, (size_t)layer);
            model_evaluate(whole, x.token, x.target, ROWS, CONTEXT, loss, NULL);
            model_evaluate(rest, x.token, x.target, ROWS, CONTEXT, expected, NULL);
            CHECK(!memcmp(loss, expected, sizeof loss), "%s: without layer %d the loss is %.9g, expected %.9g", three,
                  layer, loss[0], expected[0]);
            model_drop_layer(whole, 3);
            model_evaluate(whole, x.token, x.target, ROWS, CONTEXT, loss, NULL);
            CHECK(memcmp(loss, expected, sizeof loss), "%s: with layer %d again, nothing changes", three, layer);
            free(three), model_free(whole), model_free(rest);
        }
}

// ---- placements of the norms ---------------------------------------------------------------------

enum { C = 36 };
static void rms_norm(const Model *m, double *y, const double *x, const Norm *n) {
    double square = 0;
    for (size_t i = 0; i < C; i++) square += x[i] * x[i] / C;
    for (size_t i = 0; i < C; i++) y[i] = x[i] / sqrt(square + n->eps) * (double)m->values[n->weight + i];
}

// One branch of row t as its placement says, from the stream before it; F is asked for its output.
static void placed(Model *m, size_t branch, size_t t, size_t T, double expected[C]) {
    const Layer *layer = &m->layers[branch / 2];
    const BranchNorms *n = branch % 2 ? &layer->ffn_norm : &layer->mixer_norm;
    int norm = m->c.norm;
    bool inside = norm == NORM_pre || norm == NORM_peri || norm == NORM_keel;
    double x[C], h[C], f[C], sum[C];
    double weight = norm == NORM_deepnorm ? pow(4, 0.25) : norm == NORM_keel && branch > 1 ? 4 : 1;
    real *in = xmalloc(T * C * sizeof *in), *out = xmalloc(T * C * sizeof *out);
    for (size_t r = 0; r < T; r++) {
        for (size_t i = 0; i < C; i++) x[i] = h[i] = (double)m->x[branch][r * C + i];
        if (inside) rms_norm(m, h, x, &n->in);
        for (size_t i = 0; i < C; i++) in[r * C + i] = (real)h[i];
    }
    const Batch b = {.B = 1, .T = T, .M = T};
    (branch % 2 ? layer->ffn : layer->mixer)->forward(m, branch / 2, out, in, &b);
    for (size_t i = 0; i < C; i++) x[i] = (double)m->x[branch][t * C + i], f[i] = (double)out[t * C + i];
    if (norm == NORM_out || norm == NORM_peri) rms_norm(m, f, f, &n->out);
    for (size_t i = 0; i < C; i++) expected[i] = sum[i] = weight * x[i] + f[i];
    bool whole = norm == NORM_post || norm == NORM_deepnorm || (norm == NORM_keel && branch);
    if (whole) rms_norm(m, expected, sum, &n->out);
    free(in), free(out);
}

// Against the formulas written down here. Tolerance: sums of C numbers of order 1, 32 units.
static void placements(void) {
    enum { T = 9 };
    static const char *const names[] = {"pre", "post", "out", "peri", "deepnorm", "keel", "none"};
    Text text = make_text(T);
    double loss, expected[C];
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char flags[64];
        snprintf(flags, sizeof flags, "--norm %s --init-scale 2", names[k]);
        Model *m = make(flags, true);
        model_forward_backward(m, text.token, text.target, 1, T, 1, 1, &loss);
        for (size_t branch = 0; branch < 4; branch++) {
            placed(m, branch, T - 2, T, expected);
            for (size_t i = 0; i < C; i++) {
                double found = (double)m->x[branch + 1][(T - 2) * C + i];
                CHECK(fabs(found - expected[i]) < 32 * EPSILON * fmax(1, fabs(expected[i])),
                      "--norm %s: number %zu after branch %zu is %g, expected %g", names[k], i, branch, found,
                      expected[i]);
            }
        }
        model_free(m);
    }
}

static const Test tests[] = {
    {"model/micro-batches", "micro-batches of 1, 2 and all rows give the same losses and gradients, bit for bit",
     micro_batches},
    {"model/threads", "1, 2, 3 and 8 threads give the same losses and gradients, bit for bit", threads},
    {"model/evaluation", "the loss of a row does not depend on its batch, its place in it, or the memory", evaluation},
    {"model/causality", "a token changes no earlier logit, and all later ones", causality},
    {"model/gqa-is-mha", "gqa with as many key heads as heads is mha, bit for bit", gqa_is_mha},
    {"model/tied", "the gradient of a tied matrix is that of head and embedding together, bit for bit",
     tied_is_the_sum},
    {"model/flash-is-naive", "both attention kernels train alike", flash_is_naive},
    {"model/one-expert", "one expert is the dense feed-forward, gradients included", one_expert_is_dense},
    {"model/equal-experts", "all experts alike and chosen are the dense feed-forward", equal_experts_are_dense},
    {"model/rope-layers", "--rope-layers rotates in the layers that it names, and in no other", rope_layers},
    {"model/routers", "loads, entropy, MaxVio, and the direction in which selection biases move", router_statistics},
    {"model/dead-experts", "an expert without a token has no gradient", dead_experts},
    {"model/table", "the table of parameters is gapless, its names unique, its sum the stated size", table},
    {"model/flops", "FLOPs per token of a dense model in closed form", flops},
    {"model/active", "active parameters and FLOPs of a mixture leave out experts not chosen", active_parameters},
    {"model/impossible", "sizes that no memory can have are refused, not wrapped around", impossible_sizes},
    {"model/init-shared", "tensors that two models share start alike; another seed, another start", init_shared},
    {"model/init", "initial values are normal with the stated deviations", init_statistics},
    {"model/attention-maps", "recorded attention is causal and sums to 1, and recording changes nothing",
     recorded_attention},
    {"model/unit-keys", "--feature-map unit: the length of queries, keys and values does not matter", unit_keys},
    {"model/placements", "the norms around a branch stand where --norm says", placements},
    {"model/dropped", "a model that passes a layer by is the one without it, bit for bit", dropped_layer},
    {"model/residual", "the root mean square of the residual stream", residual_rms},
};
REGISTER_TESTS(tests)
