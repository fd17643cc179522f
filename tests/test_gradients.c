// test_gradients.c: every backward against central differences, in double precision (make DOUBLE=1).
// The whole model, over every value of every architectural flag and a set of combinations that covers
// every pair of values. Every parameter tensor is checked along a random direction and at single elements.
//
// Difference quotient: the fourth-order central one, (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h. With
// h = 1e-4 its truncation error is about h^4 = 1e-16, its rounding error about 1e-16 / h = 1e-12.
// Tolerance 1e-6 relative, as the project promises; a sign, a factor or a forgotten term is off by far more.
#include "tests/config.h"
#include "tests/test.h"
#ifdef REAL_DOUBLE
#include "model.h"
#include "model/layer.h"
#include "moe.h"
#include "lib/rng.h"
#include <stdlib.h>

// Elements of each tensor that are moved alone, after a direction through all of them. AddressSanitizer watches
// accesses, which are the same whatever is moved, and makes each of them slow: there the direction is enough.
#ifdef __SANITIZE_ADDRESS__
enum { ELEMENTS = 0 };
#else
enum { ELEMENTS = 3 };
#endif
enum { ROWS = 2, LONGEST = 70, SHORT = 7, VOCAB = 11 };

typedef struct {
    Model *m;
    size_t T; int tokens[ROWS * LONGEST], targets[ROWS * LONGEST];
    uint64_t routing;
    const char *flags;
} Problem;

static Config parse(const char *flags) {
    static const char base[] = "--width 12 --heads 4 --head-dim 6 --layers 2 --context 70 --ffn-width 10 "
                               "--init-scale 12";
    return config_of(base, flags, VOCAB);
}

// Weights away from the symmetric values of a fresh model: norms not 1, biases not 0. Dynamic tanh starts with small
// outputs, and scores of queries and keys would be too small to be compared: its alpha is about 2 instead of 1/2. The
// steps of Mamba-2 start so small that decays hardly matter to a few tokens: here they are 20 times as long. A router's
// thresholds move less than other numbers, lest no expert takes a token.
// Where experts choose tokens, no token comes twice in a row and no pair of neighbours in both: a window of attention
// would give such places equal outputs, and a choice between them would jump at any step.
static void open_problem(Problem *p, const char *flags, size_t T) {
    const Param *row;
    Config c = parse(flags);
    p->flags = flags, p->T = T, p->m = model_new(&c, true);
    Rng r = rng_stream(7, RNG_TEST, 0);
    for (size_t i = 0; i < model_params(p->m, &row); i++)
        for (size_t j = 0; j < row[i].size; j++)
            if (row[i].init != INIT_NORMAL)
                model_values(p->m)[row[i].offset + j] += (row[i].init == INIT_VALUE ? 0.02 : 0.2) * rng_normal(&r) +
                                                     (row[i].init == INIT_HALF ? 1.5 : 0) +
                                                     (row[i].init == INIT_DECAY_SHIFT ? 3 : 0);
    model_changed(p->m);
    for (size_t i = 0; i < ROWS * p->T; i++) {
        p->tokens[i] = (int)rng_below(&r, VOCAB);
        p->targets[i] = i % 5 == 3 ? -1 : (int)rng_below(&r, VOCAB);
        if (c.router == ROUTER_expert_choice) p->tokens[i] = (int)((i / T * 3 + 2) * (i % T + 1) % VOCAB);
    }
}

// Which experts took which tokens in the last forward. Soft routing chooses none.
static uint64_t hash_of_routing(uint64_t h, const Model *m, size_t M) {
    for (size_t l = 0; l < m->c.layers && m->c.router != ROUTER_soft; l++) {
        const Routing *r = &m->acts[l].moe.routing;
        if (!m->layers[l].has_experts) continue;
        h = hash_bytes(hash_bytes(h, r->first, (M + 1) * sizeof *r->first), r->expert, r->first[M] * sizeof *r->expert);
        h = hash_bytes(h, r->slot, r->first[M] * sizeof *r->slot);
    }
    return h;
}

// The objective that the gradients belong to: mean loss and the routers' losses. Two micro-batches of one row.
static double objective(Problem *p) {
    double loss = 0, row_loss[ROWS];
    const char *pool = model_config(p->m)->pool;
    size_t scored = 0, L = model_config(p->m)->layers, rows = strcmp(pool, "batch") && strcmp(pool, "all") ? 1 : ROWS;
    for (size_t i = 0; i < ROWS * p->T; i++) scored += p->targets[i] >= 0;
    p->routing = HASH_START;
    model_changed(p->m);
    model_zero_gradients(p->m);
    for (size_t b = 0; b < ROWS; b += rows) {
        model_forward_backward(p->m, p->tokens + b * p->T, p->targets + b * p->T, rows, p->T, 1.0 / (double)scored,
                               1.0 / ROWS, row_loss);
        p->routing = hash_of_routing(p->routing, p->m, rows * p->T);
        for (size_t i = 0; i < rows; i++) loss += row_loss[i] / (double)scored;
    }
    model_finish_gradients(p->m);
    for (size_t l = 0; l < L; l++) loss += model_router_stats(p->m, l)->aux_loss + model_router_stats(p->m, l)->z_loss;
    return loss;
}

// The loss jumps where a token changes its expert, and has no derivative there: a step that crosses such
// a place is shortened until the routing is the same at all its points.
static double quotient(Problem *p, const Param *row, const double *direction, double h) {
    const double step[4] = {1, -1, 2, -2}, weight[4] = {8, -8, -1, 1};
    double *x = model_values(p->m) + row->offset, *kept = xmalloc(row->size * sizeof *kept), sum = 0;
    h *= 4;
    memcpy(kept, x, row->size * sizeof *kept);
    bool smooth = false;
    while (!smooth && h > 1e-7) {
        uint64_t routes[4];
        h /= 4, sum = 0;
        for (int i = 0; i < 4; i++) {
            for (size_t j = 0; j < row->size; j++) x[j] = kept[j] + h * step[i] * direction[j];
            sum += weight[i] * objective(p);
            routes[i] = p->routing;
        }
        smooth = routes[0] == routes[1] && routes[0] == routes[2] && routes[0] == routes[3];
    }
    memcpy(x, kept, row->size * sizeof *kept);
    free(kept);
    return sum / (12 * h);
}

// Softmax does not see what is added to all scores of a query, so without a rotation or a norm after it
// the bias of the keys has no effect, and its gradient must be zero.
static bool has_no_effect(const Config *c, const Param *row) {
    bool softmax = row->layer >= 0 && !config_is_linear(pattern_at(&c->attn, (size_t)row->layer));
    return softmax && strstr(row->name, "attn.k.bias") && !config_layer_rope_dim(c, (size_t)row->layer) &&
           c->qk_norm == QK_none;
}

// Along `direction`: the analytic derivative is its dot product with the gradient. An element whose
// gradient is far below the tensor's typical one is compared on the scale of the typical one.
// Squared ReLU has a second derivative that jumps, which costs an error of order h; small gradients
// suffer from rounding, of order 1/h: so the best of five steps counts. A wrong gradient fails at all of them.
static void compare(Problem *p, const Param *row, const double *gradient, const double *direction, double typical) {
    static const double step[] = {1e-4, 1e-5, 1e-6, 1e-3, 1e-2};
    double analytic = 0, numeric = 0, error = 1;
    for (size_t j = 0; j < row->size; j++) analytic += gradient[j] * direction[j];
    for (int i = 0; i < 5 && error > 1e-6; i++) {
        numeric = quotient(p, row, direction, step[i]);
        error = fabs(analytic - numeric) / fmax(fmax(fabs(analytic), fabs(numeric)), typical);
    }
    CHECK(error <= 1e-6, "%s: %s: gradient %.12g, difference quotient %.12g, relative error %.2g", p->flags, row->name,
          analytic, numeric, error);
}

static void check_tensor(Problem *p, const Param *row, const double *gradient, Rng *r) {
    double norm = 0, *direction = xmalloc(row->size * sizeof *direction);
    for (size_t j = 0; j < row->size; j++) norm += gradient[j] * gradient[j], direction[j] = rng_normal(r);
    double typical = sqrt(norm / (double)row->size);
    if (has_no_effect(model_config(p->m), row)) {
        CHECK(typical < 1e-14, "%s: %s has gradient %g, but cannot have an effect", p->flags, row->name, typical);
        free(direction);
        return;
    }
    CHECK(typical > 1e-7, "%s: %s has gradient %g: it does not reach the loss", p->flags, row->name, typical);
    compare(p, row, gradient, direction, typical);
    for (int i = 0; i < ELEMENTS; i++) {
        memset(direction, 0, row->size * sizeof *direction);
        direction[rng_below(r, (uint32_t)row->size)] = 1;
        compare(p, row, gradient, direction, typical);
    }
    free(direction);
}

static void check_model(const char *flags, size_t T) {
    Problem p;
    const Param *row;
    open_problem(&p, flags, T);
    objective(&p);
    size_t count = model_params(p.m, &row), size = row[count - 1].offset + row[count - 1].size;
    double *gradient = xmalloc(size * sizeof *gradient);
    memcpy(gradient, model_gradients(p.m), size * sizeof *gradient);
    Rng r = rng_stream(8, RNG_TEST, 0);
    for (size_t i = 0; i < count; i++)
        if (row[i].trained) check_tensor(&p, &row[i], gradient + row[i].offset, &r);
    free(gradient);
    model_free(p.m);
}

// ---- the flags -----------------------------------------------------------------------------------

// One axis a row, each value as the flags that choose it. A value that needs another says so below.
static const char *const axes[][17] = {
    {"--attn mha", "--attn gqa --kv-heads 2", "--attn gqa --kv-heads 1", "--attn mla --kv-rank 5 --v-dim 3",
     "--attn mla --q-rank 7 --nope-dim 4 --kv-rank 6", "--attn gqa+mla", "--attn swa --window 3",
     "--attn swa+mla --window 2 --kv-heads 2",
     "--attn linear", "--attn linear --feature-map unit --state-dim 5", "--attn gla --state-dim 5",
     "--attn delta --short-conv 0", "--attn gated-delta --short-conv 3",
     "--attn gated-delta+mha --state-dim 8", "--attn mamba2 --state-dim 5", "--attn mamba2+gqa --short-conv 0"},
    {"--attn-kernel flash", "--attn-kernel band", "--attn-kernel naive"},
    {"--qk-norm none", "--qk-norm head", "--qk-norm full"},
    {"--pos rope", "--pos rope --rope-dim 4 --rope-theta 100", "--pos learned", "--pos none", "--pos alibi",
     "--pos rope --rope-scaling yarn --rope-factor 3 --rope-trained 12 --rope-mscale 0.7 --rope-mscale-all-dim 1.3",
     "--pos rope --rope-scaling yarn --rope-factor 3 --rope-trained 12 --rope-attention-factor 1.7 --rope-truncate 0",
     "--pos rope --rope-layers none+rope --rope-scaling llama3 --rope-factor 4 --rope-trained 30"},
    {"--norm pre", "--norm post", "--norm out", "--norm peri", "--norm deepnorm", "--norm keel", "--norm none"},
    {"--norm-kind rms", "--norm-kind layer", "--norm-kind dyt"},
    {"--ffn swiglu", "--ffn gelu", "--ffn relu2"},
    {"--bias 0", "--bias 1", "--attn-bias qkv", "--attn-bias all", "--ffn-bias all", "--bias 1 --attn-bias none"},
    {"--tie 0", "--tie 1"},
    {"", "--experts 4 --top-k 2", "--experts 3 --top-k 1 --norm-topk 0 --shared-experts 2",
     "--experts 5 --top-k 3 --gate sigmoid --expert-width 6 --route-scale 1.5",
     "--experts 4 --top-k 2 --gate sigmoid --router bias --shared-experts 1 --first-dense 1",
     "--experts 4 --top-k 4 --norm-topk 0 --aux-loss 0 --moe-layers moe+dense",
     "--experts 4 --top-k 2 --capacity 0.75 --shared-experts 1",
     "--experts 4 --router expert-choice --pool time:3 --gate sigmoid", "--experts 4 --router expert-choice",
     "--experts 4 --router threshold", "--experts 4 --router relu", "--experts 4 --router hash --top-k 3",
     "--experts 4 --router soft --pool time:5", "--experts 3 --router dense --gate sigmoid",
     "--experts 6 --top-k 2 --gate sigmoid --router bias --route-groups 3 --route-top-groups 2",
     "--experts 6 --top-k 3 --route-groups 3 --route-top-groups 2 --route-group-score max"},
    {"", "--aux-loss 0.3", "--z-loss 0.2"},
    {"--attn-gate 0", "--attn-gate 1"},
};
enum { AXES = sizeof axes / sizeof axes[0], VALUES = 17 };

static size_t values(size_t axis) {
    size_t n = 0;
    while (n < VALUES && axes[axis][n]) n++;
    return n;
}

// Combinations that the trainer refuses, with its own reasons (tests/test_flags.c sees them refused).
static bool allowed(const int *pick) {
    const char *attn = axes[0][pick[0]], *moe = axes[9][pick[9]], *loss = axes[10][pick[10]];
    bool only_mla = strstr(attn, "mla") && !strstr(attn, "gqa") && !strstr(attn, "swa");
    bool only_linear = strstr(attn, "linear") || strstr(attn, "gla") || strstr(attn, "delta") || strstr(attn, "mamba2");
    only_linear &= !strstr(attn, "mha") && !strstr(attn, "gqa");
    if (only_mla && pick[2]) return false;
    if (strstr(axes[4][pick[4]], "none") && pick[5]) return false;
    bool softmax_pos = strstr(axes[3][pick[3]], "--rope-") || strstr(axes[3][pick[3]], "alibi");
    if (only_linear && (pick[1] || pick[2] || pick[11] || softmax_pos)) return false;
    if (*loss && !*moe) return false;
    bool balanced = !strstr(moe, "--router") || strstr(moe, "--router bias") || strstr(moe, "--router threshold");
    if (strstr(loss, "aux-loss") && !balanced) return false;
    bool softmax = !strstr(moe, "sigmoid") && !strstr(moe, "relu") && !strstr(moe, "hash") && !strstr(moe, "soft");
    if (strstr(loss, "z-loss") && !softmax) return false;
    return !(strstr(loss, "aux-loss") && strstr(moe, "aux-loss"));
}

static void check_pick(const int *pick) {
    char text[1024] = "";
    for (size_t a = 0; a < AXES; a++) strcat(strcat(text, axes[a][pick[a]]), " ");
    check_model(text, SHORT);
}

// Each of the two long tests is cut into PARTS, so that they can run side by side.
enum { PARTS = 4 };

static void every_value(size_t part) {
    size_t n = 0;
    for (size_t a = 0; a < AXES; a++)
        for (size_t v = a > 0; v < values(a); v++) {
            if (n++ % PARTS != part) continue;
            int pick[AXES] = {0};
            pick[a] = (int)v;
            if (a == 10 && v) pick[9] = 1;
            check_pick(pick);
        }
}

// Greedy: each new combination is the one of 200 random ones that covers most pairs not yet covered.
static void every_pair(size_t part) {
    static bool covered[AXES][VALUES][AXES][VALUES];
    Rng r = rng_stream(9, RNG_TEST, 0);
    for (int barren = 0, checked = 0; barren < 3 && checked < 200;) {
        int best[AXES] = {0}, most = 0;
        for (int attempt = 0; attempt < 400; attempt++) {
            int pick[AXES], fresh = 0;
            for (size_t a = 0; a < AXES; a++) pick[a] = (int)rng_below(&r, (uint32_t)values(a));
            if (!allowed(pick)) continue;
            for (size_t a = 0; a < AXES; a++)
                for (size_t b = a + 1; b < AXES; b++) fresh += !covered[a][pick[a]][b][pick[b]];
            if (fresh > most) most = fresh, memcpy(best, pick, sizeof best);
        }
        if (!most) { barren++; continue; }
        barren = 0, checked++;
        for (size_t a = 0; a < AXES; a++)
            for (size_t b = a + 1; b < AXES; b++) covered[a][best[a]][b][best[b]] = true;
        if ((size_t)checked % PARTS == part) check_pick(best);
    }
}

static void values_1(void) { every_value(0); }
static void values_2(void) { every_value(1); }
static void values_3(void) { every_value(2); }
static void values_4(void) { every_value(3); }
static void pairs_1(void) { every_pair(0); }
static void pairs_2(void) { every_pair(1); }
static void pairs_3(void) { every_pair(2); }
static void pairs_4(void) { every_pair(3); }

// Rows longer than a tile of queries and two tiles of keys: the online softmax has to rescale.
static void tiles(void) {
    check_model("--layers 1 --attn gqa --kv-heads 2 --tile 32", LONGEST);
    check_model("--layers 1 --attn gqa --kv-heads 2 --attn-kernel naive", LONGEST);
    check_model("--layers 1 --attn mla --tile 32", LONGEST);
    check_model("--layers 1 --attn gqa --kv-heads 2 --tile 32 --pos alibi", LONGEST);
    check_model("--layers 1 --attn swa --window 40 --tile 32", LONGEST);
    check_model("--layers 1 --attn swa --window 9 --attn-kernel naive --pos alibi", LONGEST);
}

// Several chunks of a linear mixer and a part of one: gradients go back through the states at their borders.
static void chunks(void) {
    static const char *const mixers[] = {"linear", "gla", "delta", "gated-delta", "mamba2"};
    char flags[128];
    for (int i = 0; i < 5; i++)
        for (int conv = 0; conv <= 4; conv += 4) {
            snprintf(flags, sizeof flags, "--layers 1 --attn %s --short-conv %d --state-dim 5", mixers[i], conv);
            check_model(flags, LONGEST);
        }
}

// Pools over the batch, with two rows in it; and a row that no pool divides.
static void pools(void) {
    check_model("--batch 2 --layers 1 --experts 4 --router expert-choice --pool batch --eval-tokens 140", SHORT);
    check_model("--batch 2 --layers 1 --experts 4 --router expert-choice --pool all --eval-tokens 140", SHORT);
    check_model("--batch 2 --layers 1 --experts 2 --router soft --pool batch --eval-tokens 140", SHORT);
    check_model("--batch 2 --layers 1 --experts 2 --router soft --pool all --eval-tokens 140", SHORT);
    check_model("--layers 1 --experts 3 --router expert-choice --pool time:4", SHORT);
    check_model("--layers 1 --experts 3 --router soft --pool time:4", SHORT);
}

static const Test tests[] = {
    {"gradients/chunks", "linear mixers over several chunks", chunks},
    {"gradients/values-1", "every value of every architectural flag: difference quotients, to 1e-6", values_1},
    {"gradients/values-2", "every value of every architectural flag: difference quotients, to 1e-6", values_2},
    {"gradients/values-3", "every value of every architectural flag: difference quotients, to 1e-6", values_3},
    {"gradients/values-4", "every value of every architectural flag: difference quotients, to 1e-6", values_4},
    {"gradients/pools", "routers that pool over the batch, or over pieces that do not divide the row", pools},
    {"gradients/tiles", "attention over several tiles", tiles},
    {"gradients/pairs-1", "a set of combinations that covers every allowed pair of values", pairs_1},
    {"gradients/pairs-2", "a set of combinations that covers every allowed pair of values", pairs_2},
    {"gradients/pairs-3", "a set of combinations that covers every allowed pair of values", pairs_3},
    {"gradients/pairs-4", "a set of combinations that covers every allowed pair of values", pairs_4},
};
REGISTER_TESTS(tests)
#endif
