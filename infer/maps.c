// maps.c: runs the model once more over the text, records what is asked for, and hands it to plot/.
#include "infer/maps.h"
#include "plot/plot.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- names ---------------------------------------------------------------------------------------
// A token's text for the margin of a map: without its blanks, what cannot be seen as an escape. The token
// that starts a document has a text only inside of one, so each is decoded as if it came again.
static char *token_label(const Tokenizer *t, int token) {
    const char *bytes;
    size_t n = tokenizer_decode(t, token, token, &bytes), used = 0, spaces = 0;
    bool valid = utf8_valid_length(bytes, n) == n;
    for (size_t i = 0; i < n; i++) spaces += bytes[i] == ' ';
    char *label = xmalloc(4 * n + 2);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '\n') used += (size_t)snprintf(label + used, 3, "\\n");
        else if (c < 32 || c == 127 || (c > 127 && !valid)) used += (size_t)snprintf(label + used, 5, "\\x%02x", c);
        else if (c != ' ' || spaces == n) label[used++] = c == ' ' ? '_' : (char)c;
    }
    return label;
}

static char **token_labels(const Tokenizer *t, const int *token, size_t n) {
    char **label = xmalloc(n * sizeof *label);
    for (size_t i = 0; i < n; i++) label[i] = token_label(t, token[i]);
    return label;
}

static void free_labels(char **label, size_t n) {
    for (size_t i = 0; i < n; i++) free(label[i]);
    free(label);
}

static const char *mixer_name(const Config *c, size_t layer, char name[64]) {
    return flags_value_name(&config_table.flag[flags_find(&config_table, "attn")], pattern_at(&c->attn, layer), name);
}

static bool has_state(const Config *c, size_t layer) { return config_is_linear(pattern_at(&c->attn, layer)); }
static bool has_states(const Config *c) {
    bool any = false;
    for (size_t l = 0; l < c->layers; l++) any |= has_state(c, l);
    return any;
}

// "maps.png" gives "maps-KIND.png".
static char *beside(const char *picture, const char *kind) {
    return xprintf("%.*s-%s.png", (int)(strlen(picture) - 4), picture, kind);
}

// A forward over the tokens, for what it records.
static void read_tokens(Model *m, const int *token, size_t n) {
    real *logits = xmalloc(size_mul(model_config(m)->vocab, sizeof *logits));
    model_infer(m, NULL, token, n, false, logits);
    free(logits);
}

// ---- attention -----------------------------------------------------------------------------------
// maps (one per layer and head) of n x n weights: row i is what token i attends to.
static double *attention_of(Model *m, const int *token, size_t n, size_t maps) {
    size_t count = size_mul(maps, n * n);
    real *probability = xmalloc(size_mul(count, sizeof *probability));
    double *value = xmalloc(size_mul(count, sizeof *value));
    model_record_attention(m, probability);
    read_tokens(m, token, n);
    model_record_attention(m, NULL);
    for (size_t i = 0; i < count; i++) value[i] = (double)probability[i];
    free(probability);
    return value;
}

static void draw_attention(Model *m, const int *token, char *const *word, size_t n, const char *from,
                           const char *path) {
    static const char softmax[] = "A row is a token: its colours show where it looks, among itself and those before.";
    static const char both[] = "A row is a token: its colours show where it looks, among itself and those before; "
                               "where a layer keeps a state, the share of each token's value in what is read from it.";
    const Config *c = model_config(m);
    size_t heads = c->heads, maps = c->layers * heads;
    double *value = attention_of(m, token, n, maps);
    const double **map = xmalloc(maps * sizeof *map);
    char **label = xmalloc(maps * sizeof *label), *title = xprintf("Attention in %s", from), name[64];
    for (size_t i = 0; i < maps; i++) {
        map[i] = value + i * n * n;
        label[i] = xprintf("layer %zu (%s), head %zu", i / heads, mixer_name(c, i / heads, name), i % heads);
    }
    plot_map_grid(path, &(MapGrid){title, has_states(c) ? both : softmax, map, (const char *const *)label, maps, heads,
                                   n, (const char *const *)word});
    fprintf(stderr, "picture  %s, %zu maps of %zu tokens\n", path, maps, n);
    free_labels(label, maps);
    free(value), free(map), free(title);
}

// ---- states --------------------------------------------------------------------------------------
// A Jacobi rotation of rows and columns i and j of the symmetric a [n,n], after which a_ij is 0.
static void rotate(double *a, size_t n, size_t i, size_t j) {
    double tau = (a[j * n + j] - a[i * n + i]) / (2 * a[i * n + j]);
    double tangent = (tau < 0 ? -1 : 1) / (fabs(tau) + sqrt(1 + tau * tau)), c = 1 / sqrt(1 + tangent * tangent);
    for (int rows = 0; rows < 2; rows++)                     // columns, then rows
        for (size_t k = 0; k < n; k++) {
            double *x = rows ? a + i * n + k : a + k * n + i, *y = rows ? a + j * n + k : a + k * n + j, old = *x;
            *x = c * (old - tangent * *y), *y = c * (tangent * old + *y);
        }
}

// The singular values of S are the roots of the eigenvalues of S S^T, which Jacobi's method leaves on the diagonal.
double maps_effective_rank(const real *S, size_t K, size_t V) {
    double *a = xmalloc(size_mul(K, K * sizeof *a)), trace = 0, sum = 0, entropy = 0;
    for (size_t i = 0; i < K * K; i++)
        for (size_t e = 0; e < V; e++) a[i] += (double)S[i / K * V + e] * (double)S[i % K * V + e];
    for (size_t i = 0; i < K; i++) trace += a[i * K + i];
    for (int sweep = 0; sweep < 12; sweep++)
        for (size_t i = 0; i < K; i++)
            for (size_t j = i + 1; j < K; j++)
                if (fabs(a[i * K + j]) > 1e-14 * trace) rotate(a, K, i, j);
    for (size_t i = 0; i < K; i++) sum += a[i * K + i] = a[i * K + i] > 0 ? sqrt(a[i * K + i]) : 0;
    for (size_t i = 0; i < K; i++)
        if (a[i * K + i] > 0) entropy -= a[i * K + i] / sum * log(a[i * K + i] / sum);
    free(a);
    return sum > 0 ? exp(entropy) : 0;
}

// The tokens after which states are looked at: at most 64 and the last.
static size_t choose_looks(size_t n, size_t *look) {
    size_t every = (n + 63) / 64, looks = 0;
    for (size_t t = 0; t < n; t++)
        if (t % every == 0 || t + 1 == n) look[looks++] = t;
    return looks;
}

// The mean over a layer's heads, whose states [H,K,V] are given.
static double mean_rank(const real *state, const Config *c) {
    size_t K = c->state_dim, V = c->head_dim;
    double sum = 0;
    for (size_t h = 0; h < c->heads; h++) sum += maps_effective_rank(state + h * K * V, K, V) / (double)c->heads;
    return sum;
}

// A line for every layer with a state; y [layers, looks], x [looks]. Returns how many.
static size_t rank_series(Model *m, const int *token, size_t n, const size_t *look, size_t looks, Series *series,
                          double *x, double *y) {
    const Config *c = model_config(m);
    size_t each = size_mul(c->heads * c->state_dim, c->head_dim), count = 0;
    real *state = xmalloc(size_mul(size_mul(c->layers, looks), each * sizeof *state));
    char name[64];
    model_record_states(m, state, look, looks);
    read_tokens(m, token, n);
    model_record_states(m, NULL, NULL, 0);
    for (size_t i = 0; i < looks; i++) x[i] = (double)look[i] + 1;
    for (size_t l = 0; l < c->layers; l++) {
        if (!has_state(c, l)) continue;
        double *rank = y + count * looks;
        for (size_t i = 0; i < looks; i++) rank[i] = mean_rank(state + (l * looks + i) * each, c);
        series[count++] = (Series){xprintf("layer %zu, %s", l, mixer_name(c, l, name)), x, rank, looks};
    }
    free(state);
    return count;
}

static void draw_ranks(Model *m, const int *token, size_t n, const char *from, const char *picture) {
    static const char about[] = "Effective rank of a head's state: how many directions it uses, mean over the heads.";
    const Config *c = model_config(m);
    size_t *look = xmalloc(size_mul(n, sizeof *look)), looks = choose_looks(n, look);
    double *x = xmalloc(size_mul(c->layers + 1, looks * sizeof *x));
    double most = (double)(c->state_dim < c->head_dim ? c->state_dim : c->head_dim);
    Series *series = xmalloc(c->layers * sizeof *series);
    size_t count = rank_series(m, token, n, look, looks, series, x, x + looks);
    char *path = beside(picture, "rank"), *title = xprintf("What the states hold in %s", from);
    char *level = xprintf("the most that a state can have: %.0f", most);
    const char *const levels[] = {level};
    plot_chart(path,
               &(Chart){title, about, "tokens read", "effective rank", false, false, series, count, &most, levels, 1});
    fprintf(stderr, "picture  %s, %zu layers with a state over %zu tokens\n", path, count, n);
    for (size_t i = 0; i < count; i++) free((char *)series[i].label);
    free(look), free(x), free(series), free(path), free(level), free(title);
}

// ---- experts -------------------------------------------------------------------------------------
// One layer's line in a terminal: the tokens on the colours of their experts.
static void print_experts(char *const *word, const int *expert, size_t n, size_t experts) {
    for (size_t i = 0; i < n; i++) {
        int rgb[3] = {238, 238, 238};
        if (expert[i] >= 0) plot_group_colour((size_t)expert[i], experts, rgb);
        fprintf(stderr, "\033[30;48;2;%d;%d;%dm%s\033[0m ", rgb[0], rgb[1], rgb[2], word[i]);
    }
    fputc('\n', stderr);
}

// Which expert weighs most in each token's output, in every layer that has experts.
static void draw_experts(Model *m, const int *token, char *const *word, size_t n, const char *picture) {
    const Config *c = model_config(m);
    int *expert = xmalloc(size_mul(c->layers, n * sizeof *expert)), *shown = xmalloc(c->layers * n * sizeof *shown);
    char **label = xmalloc(c->layers * sizeof *label), *path = beside(picture, "experts");
    bool coloured = isatty(STDERR_FILENO) && !getenv("NO_COLOR");
    size_t layers = 0;
    model_record_experts(m, expert);
    read_tokens(m, token, n);
    model_record_experts(m, NULL);
    for (size_t l = 0; l < c->layers; l++) {
        if (!config_layer_has_experts(c, l)) continue;
        memcpy(shown + layers * n, expert + l * n, n * sizeof *shown);
        label[layers] = xprintf("layer %zu", l);
        if (coloured) fprintf(stderr, "%s  ", label[layers]), print_experts(word, shown + layers * n, n, c->experts);
        layers++;
    }
    plot_grouped_text(path, &(GroupedText){
        "Which expert takes which token",
        "The colour is the expert with the largest weight in the token's output; grey: none.",
        (const char *const *)word, (const char *const *)label, shown, n, layers, c->experts});
    fprintf(stderr, "picture  %s, %zu layers of experts over %zu tokens\n", path, layers, n);
    free_labels(label, layers);
    free(expert), free(shown), free(path);
}

void maps_draw(Model *m, const Tokenizer *t, const int *token, size_t n, size_t shown, const char *from,
               const char *path) {
    const Config *c = model_config(m);
    if (shown > n) shown = n;
    char **word = token_labels(t, token, shown);
    draw_attention(m, token, word, shown, from, path);
    if (has_states(c)) draw_ranks(m, token, n, from, path);
    if (c->experts) draw_experts(m, token, word, shown, path);
    free_labels(word, shown);
}
