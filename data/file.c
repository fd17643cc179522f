// file.c: tokens from a file.
//
// Text: tokenised as --tokenizer says; the last --val-fraction of it is for validation, cut where a
// UTF-8 character starts. The vocabulary of `char` is taken from the whole text, the merges of bpe:N
// from the training part. `auto` is char, or byte where the text is not UTF-8.
//
// Shards, known by their name ending in .bin:
//   llm.c     header of 256 little-endian 32-bit numbers: 20240520, 1, number of tokens; then 16-bit tokens,
//             or 20240801, 7, number of tokens; then 32-bit tokens (the Llama 3 variant)
//   nanoGPT   16-bit tokens without a header, known by the missing magic
// Where the name holds "train" and the same name with "val" exists beside it, that file is the
// validation split; else the last --val-fraction. A tokenizer.bin (llm.c) or tokenizer.json beside the
// shard gives the vocabulary and the text of the tokens; else the vocabulary is the largest token and
// one, or --vocab, and tokens print as numbers (nanoGPT's meta.pkl is a Python pickle and is not read).
//
// A training row is a window at a random place. Validation rows are validation_rows windows, evenly
// spaced over the split whatever the batch size; later row numbers repeat them.
#include "data/source.h"

// Numbers of 1, 2 or 4 bytes each, little-endian, inside somebody's memory.
typedef struct { const unsigned char *first; size_t count, width; } Tokens;
typedef struct {
    RowSeeds seeds;
    Tokens split[2];           // by Split
    size_t validation_rows;
    char *memory[2];
} File;

static int token_at(const Tokens *s, size_t i) {
    const unsigned char *p = s->first + i * s->width;
    if (s->width == 1) return p[0];
    uint32_t low = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    return (int)(s->width == 2 ? low : low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

// ---- rows --------------------------------------------------------------------------------------
// A number below n from 64 random bits; n is far below 2^64, so the bias is far below anything measurable. It is the
// upper half of their product, by halves of 32 bits: not every machine has a type for it.
static size_t place_below(Rng *r, size_t n) {
    uint64_t a = rng_u32(r), b = rng_u32(r), c = (uint64_t)n >> 32, d = (uint64_t)n & UINT32_MAX;
    uint64_t middle = a * d + (b * d >> 32), rest = b * c + (middle & UINT32_MAX);
    return (size_t)(a * c + (middle >> 32) + (rest >> 32));
}

static size_t window_start(const File *f, Split split, uint64_t row, size_t places) {
    Rng r = row_rng(f->seeds, split, row);
    if (split == SPLIT_TRAIN) return place_below(&r, places);
    uint64_t window = row % f->validation_rows;
    if (f->validation_rows == 1) return 0;
    uint64_t steps = f->validation_rows - 1, length = places - 1;           // window length / steps, and no overflow
    return (size_t)(window * (length / steps) + window * (length % steps) / steps);
}

static void file_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const File *f = d->state;
    const Tokens *s = &f->split[split];
    if (s->count <= T) fail("%s: a row of %zu tokens was asked for, but a split has %zu", d->name, T, s->count);
    size_t start = window_start(f, split, row, s->count - T);
    Row out = {tokens, targets, is_answer, T, 0};
    for (size_t i = 0; !row_full(&out); i++) row_put(&out, token_at(s, start + i), SCORED);
}

static void file_close(Data *d) {
    File *f = d->state;
    free(f->memory[0]), free(f->memory[1]);
    free(f);
}

// Number of tokens in the training part of n.
static size_t training_part(const Config *c, size_t n) { return (size_t)((1 - c->val_fraction) * (double)n); }

static void check_lengths(const Data *d, const Config *config) {
    static const char *const names[] = {"training", "validation"};
    const File *f = d->state;
    for (int s = 0; s < 2; s++)
        if (f->split[s].count <= config->context)
            fail("%s: its %s split has %zu tokens, but --context %zu needs %zu or more; "
                 "use a longer file, a shorter context or another --val-fraction",
                 d->name, names[s], f->split[s].count, config->context, config->context + 1);
}

// ---- text --------------------------------------------------------------------------------------
static Tokenizer *make_tokenizer(const Config *config, const char *text, size_t bytes, size_t training) {
    const char *kind = config->tokenizer;
    size_t valid = utf8_valid_length(text, bytes);
    if (strcmp(kind, "byte") == 0 || (strcmp(kind, "auto") == 0 && valid < bytes)) return tokenizer_byte();
    if (strcmp(kind, "char") == 0 && valid < bytes)
        fail("%s: byte %zu (0x%02x) is not UTF-8, so it has no characters; use --tokenizer byte or bpe:N",
             config->data, valid, (unsigned char)text[valid]);
    if (strcmp(kind, "auto") == 0 || strcmp(kind, "char") == 0) return tokenizer_char(text, bytes);
    size_t vocab = 0;
    int end = 0;
    if (sscanf(kind, "bpe:%zu%n", &vocab, &end) != 1 || kind[end] || kind[4] == '-')
        usage_error("--tokenizer %s: auto, byte, char or bpe:N was expected, for example bpe:1024", kind);
    return tokenizer_bpe(text, training, vocab);
}

// Encodes a part of the text into as many bytes a token as the vocabulary needs.
static Tokens encode_part(const Tokenizer *t, const char *text, size_t bytes, char **memory) {
    size_t vocab = tokenizer_vocab(t), width = vocab <= 1 << 8 ? 1 : vocab <= 1 << 16 ? 2 : 4;
    int *tokens;
    size_t count = tokenizer_encode(t, text, bytes, &tokens);
    unsigned char *out = xmalloc(size_mul(count, width));
    for (size_t i = 0; i < count; i++)
        for (size_t b = 0; b < width; b++) out[i * width + b] = (unsigned char)((uint32_t)tokens[i] >> 8 * b);
    free(tokens);
    *memory = (char *)out;
    return (Tokens){out, count, width};
}

static void text_open(Data *d, const Config *config) {
    File *f = d->state;
    size_t bytes;
    char *text = read_whole_file(config->data, &bytes);
    if (bytes == 0) fail("%s is empty; a text was expected", config->data);
    size_t cut = training_part(config, bytes);
    while (cut < bytes && ((unsigned char)text[cut] & 0xC0) == 0x80) cut++;
    Tokenizer *t = make_tokenizer(config, text, bytes, cut);
    d->tokenizer = t;
    set_vocab(d, config, tokenizer_vocab(t));
    f->split[SPLIT_TRAIN] = encode_part(t, text, cut, &f->memory[0]);
    f->split[SPLIT_VALIDATION] = encode_part(t, text + cut, bytes - cut, &f->memory[1]);
    bool newline = strcmp(tokenizer_kind(t), "char") || memchr(text, '\n', bytes);
    d->default_prompt = xprintf("%s", newline ? "\n" : "");
    d->hash = hash_text(hash_bytes(hash_text(d->hash, "text"), text, bytes), config->tokenizer);
    free(text);
}

// ---- shards ------------------------------------------------------------------------------------
enum { MAGIC_16 = 20240520, VERSION_16 = 1, MAGIC_32 = 20240801, VERSION_32 = 7, HEADER_BYTES = 1024 };

static Tokens read_shard(const char *path, char **memory, uint64_t *hash) {
    size_t bytes;
    unsigned char *text = (unsigned char *)(*memory = read_whole_file(path, &bytes));
    if (bytes == 0) fail("%s is empty; tokens of 16 bits or an llm.c shard were expected", path);
    *hash = hash_bytes(*hash, text, bytes);
    Tokens header = {text, bytes / 4, 4};
    int magic = bytes >= 4 ? token_at(&header, 0) : 0;
    if (magic != MAGIC_16 && magic != MAGIC_32) {
        if (bytes % 2)
            fail("%s: 16-bit tokens take an even number of bytes, but the file has %zu; it is truncated or no shard",
                 path, bytes);
        return (Tokens){text, bytes / 2, 2};
    }
    if (bytes < HEADER_BYTES)
        fail("%s: a header of %d bytes was expected, but the file has %zu", path, HEADER_BYTES, bytes);
    int version = token_at(&header, 1), expected = magic == MAGIC_16 ? VERSION_16 : VERSION_32;
    if (version != expected)
        fail("%s: version %d was expected after the magic %d, found %d", path, expected, magic, version);
    size_t width = magic == MAGIC_16 ? 2 : 4, count = (uint32_t)token_at(&header, 2);
    if ((bytes - HEADER_BYTES) / width != count || (bytes - HEADER_BYTES) % width)
        fail("%s: its header announces %zu tokens of %zu bytes, but %zu bytes follow; it is truncated or damaged",
             path, count, width, bytes - HEADER_BYTES);
    return (Tokens){text + HEADER_BYTES, count, width};
}

// "shakespeare_train.bin" gives "shakespeare_val.bin" if there is such a file; else NULL.
static char *validation_shard(const char *path) {
    const char *slash = strrchr(path, '/'), *found = NULL;
    for (const char *p = slash ? slash : path; (p = strstr(p, "train")); p++) found = p;
    if (!found) return NULL;
    char *other = xprintf("%.*sval%s", (int)(found - path), path, found + strlen("train"));
    if (file_exists(other)) return other;
    free(other);
    return NULL;
}

static Tokenizer *tokenizer_beside(const char *path) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.bin"};
    const char *slash = strrchr(path, '/');
    Tokenizer *t = NULL;
    for (size_t i = 0; i < 2 && !t; i++) {
        char *beside = xprintf("%.*s%s", slash ? (int)(slash - path + 1) : 0, path, names[i]);
        if (file_exists(beside)) t = tokenizer_load(beside);
        free(beside);
    }
    return t;
}

static size_t largest_token(const File *f) {
    uint32_t largest = 0;
    for (int s = 0; s < 2; s++)
        for (size_t i = 0; i < f->split[s].count; i++) {
            uint32_t token = (uint32_t)token_at(&f->split[s], i);
            if (token > largest) largest = token;
        }
    return largest;
}

// Flags of a text, where there is none.
static void refuse_text_flags(const Config *config, const char *validation) {
    if (strcmp(config->tokenizer, "auto") != 0)
        usage_error("--tokenizer %s is for a text, but %s holds tokens already; leave it out, or beside a preset give "
                    "--tokenizer auto", config->tokenizer, config->data);
    if (validation && !flags_is_default(&config_table, config, flags_find(&config_table, "val_fraction")))
        usage_error("--val-fraction has no effect with --data %s, because %s beside it is the validation split; "
                    "leave it out", config->data, validation);
}

static void shard_open(Data *d, const Config *config) {
    File *f = d->state;
    d->hash = hash_text(d->hash, "shard");
    Tokens all = read_shard(config->data, &f->memory[0], &d->hash);
    char *other = validation_shard(config->data);
    refuse_text_flags(config, other);
    size_t cut = other ? all.count : training_part(config, all.count);
    f->split[SPLIT_TRAIN] = (Tokens){all.first, cut, all.width};
    f->split[SPLIT_VALIDATION] = other ? read_shard(other, &f->memory[1], &d->hash)
                                       : (Tokens){all.first + cut * all.width, all.count - cut, all.width};
    free(other);
    Tokenizer *t = tokenizer_beside(config->data);
    size_t needed = largest_token(f) + 1;
    if (needed > 10000000)
        fail("%s: its largest token is %zu; tokens below 10000000 were expected, so it is damaged or no shard",
             d->name, needed - 1);
    if (t && tokenizer_vocab(t) < needed)
        fail("%s: its largest token is %zu, but the tokenizer beside it has %zu tokens; they do not belong together",
             d->name, needed - 1, tokenizer_vocab(t));
    set_vocab(d, config, t ? tokenizer_vocab(t) : needed);
    d->tokenizer = t;
    if (t) d->default_prompt = xprintf("%s", "");
}

void file_open(Data *d, const Config *config) {
    File *f = d->state = xmalloc(sizeof *f);
    *f = (File){.seeds = row_seeds(config), .validation_rows = d->validation_rows};
    d->row = file_row, d->close = file_close;
    d->floor_about = xprintf("unknown: nobody knows the entropy of real text");
    const char *dot = strrchr(config->data, '.');
    if (dot && strcmp(dot, ".bin") == 0) shard_open(d, config);
    else text_open(d, config);
    check_lengths(d, config);
    d->hash = hash_bytes(d->hash, &config->val_fraction, sizeof config->val_fraction);
}
