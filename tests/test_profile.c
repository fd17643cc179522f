// test_profile.c: the FLOPs and bytes that --profile shows, against formulas written down here from the shapes
// alone. Counts are whole numbers below 2^53, so every comparison is exact.
#include "tests/config.h"
#include "tests/test.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include "model.h"
#include "model/optimizer.h"
#include <omp.h>
#include <stdlib.h>

enum { B = 3, T = 16, C = 32, H = 4, KV = 2, D = 8, F = 48, L = 2, V = 37, M = B * T };
static const char sizes[] = "--layers 2 --width 32 --heads 4 --context 16 --batch 3 --ffn-width 48";
#define GQA "--attn gqa --kv-heads 2 --head-dim 8 "

// One training step of that model: forward, backward, norm of the gradient, AdamW.
static Profile step_of(const char *flags, Config *c) {
    *c = config_of(sizes, flags, V);
    Model *m = model_new(c, true);
    int token[M], target[M];
    double row_loss[B];
    for (size_t i = 0; i < M; i++) token[i] = (int)(i % V), target[i] = (int)(i * 7 % V);
    Optimizer o = optimizer_new(m);
    model_changed(m);
    profile_start();
    model_zero_gradients(m);
    model_forward_backward(m, token, target, B, T, 1. / M, 1. / B, row_loss);
    model_finish_gradients(m);
    optimizer_step(&o, m, optimizer_norm(&o, m), 0);
    Profile p = profile_stop();
    optimizer_free(&o), model_free(m);
    return p;
}

static void expect(const Profile *p, ProfileKind kind, size_t calls, double flops, double numbers) {
    const ProfileRow *r = &p->row[kind];
    CHECK(r->calls == calls, "%s: %zu calls, expected %zu", r->label, r->calls, calls);
    CHECK(r->flops == flops, "%s: %.0f FLOPs, expected %.0f", r->label, r->flops, flops);
    double bytes = numbers * sizeof(real);
    CHECK(r->bytes == bytes, "%s: %.0f bytes, expected %.0f", r->label, r->bytes, bytes);
}

// Inputs, weights and outputs of linear layers of widths [in, out]; a weight's gradient is read and written.
static double numbers_of(const size_t (*width)[2], size_t count, size_t times, bool gradient) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)(M * (width[i][0] + width[i][1]) + (gradient ? 2 : 1) * width[i][0] * width[i][1]);
    return sum * (double)times;
}
static double products_of(const size_t (*width)[2], size_t count, size_t times) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += 2. * M * (double)(width[i][0] * width[i][1]);
    return sum * (double)times;
}

static const size_t layer[4][2] = {{C, (H + 2 * KV) * D}, {H * D, C}, {C, 2 * F}, {F, C}}, head[1][2] = {{C, V}};

static void linear_layers(void) {
    Config c;
    Profile p = step_of(GQA "--tie 0", &c);
    double flops = products_of(layer, 4, L) + products_of(head, 1, 1);
    double numbers = numbers_of(layer, 4, L, false) + numbers_of(head, 1, 1, false);
    expect(&p, PROFILE_linear_forward, 4 * L + 1, flops, numbers);
    expect(&p, PROFILE_linear_input, 4 * L + 1, flops, numbers);
    expect(&p, PROFILE_linear_weight, 4 * L + 1, flops, numbers_of(layer, 4, L, true) + numbers_of(head, 1, 1, true));
    expect(&p, PROFILE_pack, 4 * L + 1, 0, flops / M);            // 2 numbers moved and 2 M FLOPs per weight
    double attention = 3. * L * H * 2 * D * T;                     // what MFU counts: half of the T x T matrix
    double counted = (model_size(&c).flops_per_token - attention) * M;
    CHECK(3 * flops == counted, "6 FLOPs per weight and token: %.0f against %.0f", 3 * flops, counted);
}

static void attention(void) {
    Config c;
    Profile p = step_of(GQA "--attn-kernel flash", &c), band = step_of(GQA "--attn-kernel band", &c);
    Profile naive = step_of(GQA "--attn-kernel naive", &c);
    double pairs = 0;
    for (size_t query = 0; query < T; query++)
        for (size_t key = 0; key <= query; key++) pairs += L * B * H;
    double rows = L * M * (2. * H * D + 2. * KV * D);              // q and out, k and v
    double square = L * B * H * T * T;                             // what naive computes, before it masks half
    // Forward: q.k and p v, a multiplication and addition each; the scaled score, its exponential and the sum.
    expect(&p, PROFILE_attention_forward, L, pairs * (4 * D + PROFILE_EXP + 4), rows);
    expect(&band, PROFILE_attention_forward, L, pairs * (4 * D + PROFILE_EXP + 4), rows + pairs);
    expect(&naive, PROFILE_attention_forward, L, square * 4 * D + pairs * (PROFILE_EXP + 4), rows + square);
    // Backward: dP, dV, dK, dQ and dS = scale P (dP - delta); flash computes the scores and P again.
    expect(&band, PROFILE_attention_backward, L, pairs * (8 * D + 3), 2 * rows + pairs);
    expect(&naive, PROFILE_attention_backward, L, square * (8 * D + 3), 2 * rows + square);
    expect(&p, PROFILE_attention_backward, L, pairs * (10 * D + 3 + PROFILE_EXP + 3), 2 * rows);
    // A window of 5: query q sees min(q + 1, 5) keys.
    p = step_of("--attn swa --window 5 --kv-heads 2 --head-dim 8", &c);
    double seen = L * B * H * (5 * 6 / 2 + (T - 5) * 5.);
    expect(&p, PROFILE_attention_forward, L, seen * (4 * D + PROFILE_EXP + 4), rows);
    expect(&p, PROFILE_attention_backward, L, seen * (10 * D + 3 + PROFILE_EXP + 3), 2 * rows);
    // MFU counts T w - w^2/2 of them, as it counts T^2/2 without a window.
    double all = model_size(&c).flops_per_token, pairs_of_row = T * 5 - 5 * 5 / 2.;
    c = config_of(sizes, GQA, V);
    CHECK(model_size(&c).flops_per_token - all == 6. * L * H * 2 * D * (T * T / 2. - pairs_of_row) / T, "%.1f", all);
    // ALiBi: the distance, the score scaled, and a multiplication and addition of the two.
    p = step_of(GQA "--attn-kernel flash --pos alibi", &c);
    expect(&p, PROFILE_attention_forward, L, pairs * (4 * D + PROFILE_EXP + 8), rows);
    expect(&p, PROFILE_attention_backward, L, pairs * (10 * D + 3 + PROFILE_EXP + 7), 2 * rows);
}

static void everything_else(void) {
    Config c;
    Profile p = step_of(GQA "--tie 0", &c);
    size_t n = M * C, norms = 2 * L + 1, weights = model_size(&c).parameters, vectors = norms * C;
    expect(&p, PROFILE_norm_forward, norms, 6. * norms * n, 2. * norms * n);
    size_t added = 2 * L * n;                                      // all norms but the last add to dx
    expect(&p, PROFILE_norm_backward, norms, 17. * norms * n + (double)added, 3. * norms * n + (double)added);
    expect(&p, PROFILE_activation_forward, L, L * (PROFILE_SIGMOID + 2.) * M * F, 3. * L * M * F);
    expect(&p, PROFILE_activation_backward, L, L * (PROFILE_SIGMOID + 7.) * M * F, 5. * L * M * F);
    // A rotation of two numbers: four multiplications and two additions.
    expect(&p, PROFILE_rope, 2 * L, 2 * L * 6. * M * (H + KV) * D / 2, 2 * L * (2. * M * (H + KV) * D + M * D));
    expect(&p, PROFILE_residual, 2 * L, 2. * 2 * L * n, 3. * 2 * L * n);
    expect(&p, PROFILE_embed_forward, 1, 0, 2. * n);
    expect(&p, PROFILE_embed_backward, 1, (double)n, 3. * n);
    expect(&p, PROFILE_loss_forward, 1, (PROFILE_EXP + 2.) * M * V, (double)M * V);
    expect(&p, PROFILE_loss_backward, 1, (PROFILE_EXP + 3.) * M * V, 2. * M * V);
    expect(&p, PROFILE_zero, 1, 0, p.row[PROFILE_zero].bytes / sizeof(real));
    CHECK(p.row[PROFILE_zero].bytes >= (double)(weights * sizeof(real)), "all gradients are zeroed");
    expect(&p, PROFILE_squares, p.row[PROFILE_squares].calls, 2. * (double)weights, (double)weights);
    expect(&p, PROFILE_adamw, 1, 14. * (double)weights + 2. * (double)(weights - vectors), 7. * (double)weights);
}

// Dynamic tanh in the place of the norms: no statistics, but the tanh again in both parts of the backward.
static void dynamic_tanh(void) {
    Config c;
    Profile p = step_of(GQA "--norm-kind dyt", &c);
    double n = (2 * L + 1.) * M * C, added = 2. * L * M * C;
    expect(&p, PROFILE_norm_forward, 2 * L + 1, (PROFILE_TANH + 3) * n, 2 * n);
    expect(&p, PROFILE_norm_backward, 2 * L + 1, (2 * PROFILE_TANH + 12) * n + added, 3 * n + added);
}

// One chunk of 16 tokens of every head: the state is read by queries (and by a delta rule's keys) and written, and each
// token meets those before it. Backward: each product has two. Decays and what is computed again are not counted.
static void recurrence(void) {
    enum { K = 6, TAPS = 3, CHANNELS = H * (2 * K + D), GATES = H * D + 2 * H };
    Config c;
    Profile p = step_of("--attn gated-delta --state-dim 6 --short-conv 3", &c);
    double tokens = 0, scores = 0, heads = L * B * H;
    for (size_t i = 0; i < T; i++) {
        tokens += 3 * 2 * K * D;
        for (size_t j = 0; j <= i; j++) scores += 2 * (K + D) * (j < i ? 2 : 1);     // queries, and later keys
    }
    double seen = 2 * K + 2 * D + 2, states = K * D;
    expect(&p, PROFILE_recurrence_forward, L, heads * (tokens + scores), heads * (T * seen + states));
    double gradients = seen + 2 * K + D + 2;                       // and those of q and k, v, beta, decay
    expect(&p, PROFILE_recurrence_backward, L, heads * 2 * (tokens + scores), heads * (T * gradients + states));
    expect(&p, PROFILE_conv_forward, L, L * (2. * TAPS + PROFILE_SIGMOID + 1) * M * CHANNELS,
           L * CHANNELS * (3. * M + TAPS));
    expect(&p, PROFILE_conv_backward, L, L * (4. * TAPS + PROFILE_SIGMOID + 5) * M * CHANNELS,
           L * CHANNELS * (4. * M + 3. * TAPS));
    // Lengths of q and k, the strength of writing, the decay (exp and log are about 100 together), the output's gate.
    expect(&p, PROFILE_gate_forward, 5 * L,
           L * M * H * (3. * 2 * K + PROFILE_SIGMOID + 100 + (PROFILE_SIGMOID + 2) * D),
           L * M * H * (2. * 2 * K + 2 + 2 + 3 * D) + L * 2 * H);
    expect(&p, PROFILE_gate_backward, 5 * L, L * M * H * (9. * 2 * K + 3 + 100 + (PROFILE_SIGMOID + 7) * D),
           L * M * H * (3. * 2 * K + 3 + 3 + 5 * D) + L * 6 * H);
    const size_t widths[4][2] = {{C, CHANNELS + GATES}, {H * D, C}, {C, 2 * F}, {F, C}};
    double flops = products_of(widths, 4, L) + products_of(head, 1, 1);
    expect(&p, PROFILE_linear_forward, 4 * L + 1, flops,
           numbers_of(widths, 4, L, false) + numbers_of(head, 1, 1, false));
    double counted = model_size(&c).flops_per_token - 6 * flops / (2 * M);
    CHECK(counted == 3 * L * H * 3 * 2. * K * D + 6. * L * TAPS * CHANNELS,
          "beyond the large matrices %.0f per token: the state, read twice and written, and the convolution", counted);
}

// A product of width H*D more, then the gate once per number.
static void attention_gate(void) {
    Config c;
    Profile p = step_of(GQA "--attn-gate --tie 0", &c);
    const size_t gate[1][2] = {{C, H * D}};
    double n = L * (double)M * H * D;
    double flops = products_of(layer, 4, L) + products_of(head, 1, 1) + products_of(gate, 1, L);
    expect(&p, PROFILE_gate_forward, L, (PROFILE_SIGMOID + 1) * n, 3 * n);
    expect(&p, PROFILE_gate_backward, L, (PROFILE_SIGMOID + 5) * n, 5 * n);
    CHECK(p.row[PROFILE_linear_forward].flops == flops, "%.0f, not %.0f", p.row[PROFILE_linear_forward].flops, flops);
    double counted = (model_size(&c).flops_per_token - 3. * L * H * 2 * D * T) * M;
    CHECK(3 * flops == counted, "6 FLOPs per weight and token: %.0f against %.0f", 3 * flops, counted);
}

// Mamba-2: plain q and k, the step that is the decay too, what is added of v, the output's gate. No convolution: silu.
static void steps_and_skip(void) {
    enum { K = 6 };
    Config c;
    Profile p = step_of("--attn mamba2 --state-dim 6 --short-conv 0", &c);
    double tokens = 0, heads = L * B * H, seen = 2 * K + 2 * D + 2;
    for (size_t i = 0; i < T; i++) tokens += 2 * 2 * K * D + 2 * (K + D) * (double)(i + 1);
    expect(&p, PROFILE_recurrence_forward, L, heads * tokens, heads * (T * seen + K * D));
    expect(&p, PROFILE_recurrence_backward, L, heads * 2 * tokens, heads * (T * (seen + 2 * K + D + 2) + K * D));
    expect(&p, PROFILE_gate_forward, 5 * L, L * M * H * (2. * K + 100 + 2 * D + (PROFILE_SIGMOID + 2) * D),
           L * M * H * (2. * 2 * K + 3 + 3 * D + 3 * D) + L * 3 * H);
    expect(&p, PROFILE_gate_backward, 5 * L, L * M * H * (2. * K + 100 + 4 * D + (PROFILE_SIGMOID + 7) * D),
           L * M * H * (3. * 2 * K + 4 + 4 * D + 5 * D) + L * 9 * H);
}

static void experts(void) {
    enum { E = 4, K = 2, W = 24 };
    Config c;
    Profile p = step_of(GQA "--experts 4 --top-k 2 --expert-width 24 --tie 0", &c);
    double rows = M * K, weights = 3. * E * C * W;                 // gate, up and down of every expert
    double flops = L * 2 * rows * 3 * C * W, moved = L * rows * 3 * (C + W);
    expect(&p, PROFILE_experts_forward, 3 * L, flops, moved + L * weights);
    expect(&p, PROFILE_experts_input, 3 * L, flops, moved + L * weights + L * rows * C);  // up adds to gate's
    expect(&p, PROFILE_experts_weight, 3 * L, flops, moved + 2 * L * weights);
    CHECK(p.row[PROFILE_route].calls == 3 * L, "forward, backward, balance: %zu", p.row[PROFILE_route].calls);
    // Sorted and back: x to rows, rows to y; dy to rows with the weights' gradients, rows to dx.
    double moved_rows = 2 * rows + (K + 1) * M + (2 * K + 1) * M + (K + 2) * M;
    expect(&p, PROFILE_dispatch, 4 * L, L * (2 + 3 + 1) * rows * C, L * moved_rows * C);
}

// A prompt of 5, then one token: what it computes grows with the past, what it moves is the weights.
static Profile decode_of(const char *flags) {
    Config c = config_of(sizes, flags, V);
    Model *m = model_new(&c, false);
    Cache *cache = cache_new(m, 1, 8);
    const int token[6] = {1, 2, 3, 4, 5, 6};
    real *logits = xmalloc(V * sizeof *logits);
    model_infer(m, cache, token, 5, false, logits);
    profile_start();
    model_infer(m, cache, token + 5, 1, false, logits);
    Profile p = profile_stop();
    free(logits), cache_free(cache), model_free(m);
    return p;
}

static void decoding(void) {
    Profile p = decode_of(GQA);
    double weights = L * ((H + 2 * KV) * D * C + H * D * C + 3 * C * F) + C * V;
    double ends = L * (C + (H + 2 * KV) * D + H * D + C + C + 2 * F + F + C) + C + V;   // inputs and outputs
    expect(&p, PROFILE_linear_forward, 4 * L + 1, 2 * weights, weights + ends);
    expect(&p, PROFILE_attention_forward, L, L * H * 6. * (4 * D + PROFILE_EXP + 4), L * (2. * H * D + 6 * 2 * KV * D));
    expect(&p, PROFILE_cache, L, 0, L * 2 * 2. * KV * D);
    p = decode_of("--attn swa --window 3 --kv-heads 2 --head-dim 8");
    expect(&p, PROFILE_attention_forward, L, L * H * 3. * (4 * D + PROFILE_EXP + 4), L * (2. * H * D + 3 * 2 * KV * D));
    enum { R = 10, P = 4, N = 6, DV = 5 };
    Profile latent = decode_of("--attn mla --kv-rank 10 --rope-dim 4 --nope-dim 6 --v-dim 5");
    expect(&latent, PROFILE_latent, 2 * L, L * 2. * H * (N * R + R * DV),
           L * H * (N + R + N * R + R + DV + R * DV + 0.));
    expect(&latent, PROFILE_attention_forward, L, L * H * 6. * (2 * (R + P + R) + PROFILE_EXP + 4),
           L * (H * (R + P + R) + 6. * (R + P)));       // the value is a part of the key
}

static void recording(void) {
    enum { N = 4096 };
    static real x[N];
    Config c;
    Profile p = step_of(GQA "", &c);
    double sum = 0;
    for (size_t k = 0; k < PROFILE_COUNT; k++) sum += p.row[k].seconds;
    CHECK(sum > 0 && sum <= p.seconds, "operations took %g of %g seconds", sum, p.seconds);
    relu2_forward(x, x, N);
    CHECK(profile_stop().row[PROFILE_activation_forward].calls == L, "what happens after the end is not counted");
    profile_start();
#pragma omp parallel num_threads(3)
    relu2_forward(x, x, 1);
    relu2_forward(x, x, N);
    p = profile_stop();
    expect(&p, PROFILE_activation_forward, 1, N, 2. * N);          // none of those inside of a parallel region
}

static const Test tests[] = {
    {"profile/linear", "FLOPs and bytes of linear layers, and 6 FLOPs per weight and token", linear_layers},
    {"profile/attention", "FLOPs and bytes of naive and flash attention, pair by pair", attention},
    {"profile/attention-gate", "FLOPs and bytes of the gate on the output of attention", attention_gate},
    {"profile/rest", "FLOPs and bytes of norms, activations, positions, loss and optimizer", everything_else},
    {"profile/dyt", "FLOPs and bytes of dynamic tanh", dynamic_tanh},
    {"profile/recurrence", "FLOPs and bytes of a gated delta rule, its convolution and gates", recurrence},
    {"profile/mamba2", "FLOPs and bytes of a state that fades and is written in steps", steps_and_skip},
    {"profile/experts", "FLOPs and bytes of a mixture of experts", experts},
    {"profile/decoding", "FLOPs and bytes of a token from the cache, also through the latent", decoding},
    {"profile/recording", "nothing is recorded twice, in parallel regions, or when off; times fit", recording},
};
REGISTER_TESTS(tests)
