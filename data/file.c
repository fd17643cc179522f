// file.c: tokens from files. files.c says which files are meant; texts.c reads documents of text or JSONL, choice.c
// finds their tokenizer, and tokens.c applies it; shards.c reads tokens.
//
// Text: tokenised once, as --tokenizer says. The last --val-fraction of it is for validation, cut where a UTF-8
// character starts, in JSONL where a document does; or what --val names is. The vocabulary of `char` is taken from all
// of it, the merges of bpe:N from the training part. `auto` is the tokenizer of the model in --load, else char, or byte
// where the text is not UTF-8.
//
// Documents follow each other. Where the tokenizer has an end-of-text token, every document begins with it, as in
// llm.c, or with its token for the begin of a text and ends with it (tokens.h): so the model learns where something new
// begins, and may be asked for a text with nothing else. Without one, two newlines stand between documents.
//
// Shards, known by names that end in .bin: one after the other. A tokenizer beside the first, or that --tokenizer
// names, gives the vocabulary and the text of the tokens; else the vocabulary is the largest token and one, or --vocab,
// and tokens print as numbers (nanoGPT's meta.pkl is a Python pickle and is not read).
//
// A training row is a window at a random place. Validation rows are validation_rows windows, evenly
// spaced over the split whatever the batch size; later row numbers repeat them.
#include "data/source.h"
#include "data/choice.h"
#include "data/shards.h"
#include "data/tokens.h"
#include <unistd.h>

// The tokens of a split: in memory, or those of shards from number `first` on.
typedef struct { Tokens text; const Shards *shards; size_t first, count; } Part;
typedef struct {
    RowSeeds seeds;
    Part split[2];             // by Split
    size_t validation_rows;
    Files files[2];            // without a second: the end of the first is for validation
    Shards shards[2];
} File;

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

static void read_part(const Part *p, size_t at, size_t count, int *out) {
    if (p->shards) shards_read(p->shards, p->first + at, count, out);
    else
        for (size_t i = 0; i < count; i++) out[i] = tokens_at(&p->text, at + i);
}

static void file_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const File *f = d->state;
    const Part *p = &f->split[split];
    if (p->count <= T) fail("%s: a row of %zu tokens was asked for, but a split has %zu", d->name, T, p->count);
    int *window = xmalloc(size_mul(T + 1, sizeof *window));
    read_part(p, window_start(f, split, row, p->count - T), T + 1, window);
    Row out = {tokens, targets, is_answer, T, 0};
    for (size_t i = 0; !row_full(&out); i++) row_put(&out, window[i], SCORED);
    free(window);
}

static void file_read(const Data *d, size_t at, size_t count, int *tokens) {
    read_part(&((const File *)d->state)->split[SPLIT_VALIDATION], at, count, tokens);
}

static void file_close(Data *d) {
    File *f = d->state;
    for (int s = 0; s < 2; s++) {
        free(f->split[s].text.bytes);
        shards_free(&f->shards[s]);
        files_free(&f->files[s]);
    }
    free(f);
}

// Number of tokens, or of bytes, in the training part of n.
static size_t training_part(const Config *c, size_t n) { return (size_t)((1 - c->val_fraction) * (double)n); }

static void check_lengths(const Data *d, const Config *config) {
    static const char *const names[] = {"training", "validation"};
    const File *f = d->state;
    for (int s = 0; s < 2; s++)
        if (f->split[s].count <= config->context)
            fail("%s: its %s split has %zu tokens, but --context %zu needs %zu or more; "
                 "use a longer file, a shorter context or another --val-fraction",
                 s && *config->val ? config->val : d->name, names[s], f->split[s].count, config->context,
                 config->context + 1);
}

// "9000 tokens of 3 files, a_1.bin to a_3.bin,"
static char *describe(const Files *f, size_t tokens) {
    const char *first = f->path[0], *last = f->path[f->count - 1];
    return f->count == 1 ? xprintf("%zu tokens of %s", tokens, first)
                         : xprintf("%zu tokens of %zu files, %s to %s,", tokens, f->count, first, last);
}

static char *describe_splits(const File *f) {
    size_t training = f->split[SPLIT_TRAIN].count, validation = f->split[SPLIT_VALIDATION].count;
    bool own = f->files[SPLIT_VALIDATION].count > 0;
    char *one = describe(&f->files[SPLIT_TRAIN], training);
    char *two = own ? describe(&f->files[SPLIT_VALIDATION], validation) : xprintf("the %zu after them", validation);
    char *all = xprintf("%s for training, %s for validation", one, two);
    free(one), free(two);
    return all;
}

// ---- notes -------------------------------------------------------------------------------------
enum { LONG_TEXT = 64 << 20 };  // bytes that take long enough to be told about

static bool is_long(size_t bytes) { return bytes >= LONG_TEXT && isatty(STDERR_FILENO); }

static void note_speed(size_t bytes, const File *f, double seconds) {
    size_t tokens = f->split[0].count + f->split[1].count;
    if (is_long(bytes))
        fprintf(stderr, "note     %zu MiB of text became %zu tokens in %.1f s, %.2g tokens per second\n", bytes >> 20,
                tokens, seconds, (double)tokens / seconds);
}

// ---- text --------------------------------------------------------------------------------------
// Where validation begins: in JSONL with a document, else with a character.
static size_t cut_at_share(const Config *c, const Texts *x) {
    size_t cut = utf8_next(x->text, training_part(c, x->bytes), x->bytes), i = 0;
    while (i + 1 < x->documents && x->document[i + 1].start <= cut) i++;
    bool within = cut < texts_end(x, i) && !(*c->field && x->documents > 1);
    if (within || (!*c->field && i + 1 == x->documents)) return cut;
    return x->document[smaller(cut > x->document[i].start ? i + 1 : i, x->documents - 1)].start;
}

static void note_same(const File *f, const Texts *x, size_t training, size_t cut) {
    size_t end = training ? texts_end(x, training - 1) : 0;
    if (x->documents > training && end == x->bytes - cut && memcmp(x->text, x->text + cut, end) == 0)
        fprintf(stderr, "note     %s for validation is the same text that %s is for training, so its loss says nothing "
                "about other texts\n", f->files[SPLIT_VALIDATION].path[0], f->files[SPLIT_TRAIN].path[0]);
}

static Texts read_texts(const File *f, const Config *config, size_t *cut) {
    Texts x = {0};
    bool any_bytes = strcmp(config->tokenizer, "byte") == 0;
    texts_add(&x, &f->files[SPLIT_TRAIN], config->field, any_bytes);
    size_t training = x.documents;
    texts_add(&x, &f->files[SPLIT_VALIDATION], config->field, any_bytes);
    *cut = x.documents > training ? x.document[training].start : cut_at_share(config, &x);
    note_same(f, &x, training, *cut);
    return x;
}

// One plain text is its bytes. Of several documents, where they begin and where validation does counts too.
static uint64_t hash_texts(uint64_t hash, const Config *config, const File *f, const Texts *x, size_t cut) {
    bool plain = x->documents == 1 && !*config->field && !f->files[SPLIT_VALIDATION].count;
    if (plain) return hash_bytes(hash_text(hash, "text"), x->text, x->bytes);
    hash = hash_bytes(hash_bytes(hash_text(hash, "documents"), x->text, x->bytes), &(uint64_t){cut}, 8);
    for (size_t i = 0; i < x->documents; i++) hash = hash_bytes(hash, &(uint64_t){x->document[i].start}, 8);
    return hash;
}

static uint64_t hash_loaded(uint64_t hash, const Tokenizer *t) {
    uint64_t own = tokenizer_hash(t);
    return hash_bytes(hash_text(hash, "tokenizer"), &own, sizeof own);
}

static char *prompt_of(const Tokenizer *t, const Texts *x) {
    bool start = tokenizer_end(t) >= 0 || tokenizer_start(t) >= 0 || strcmp(tokenizer_kind(t), "hf") == 0;
    bool newline = strcmp(tokenizer_kind(t), "char") || memchr(x->text, '\n', x->bytes);
    return xprintf("%s", newline && !start ? "\n" : "");
}

static void encode(File *f, const Texts *x, const Choice *c, size_t cut) {
    double start = seconds_now();
    for (int s = 0; s < 2; s++) {
        Part *p = &f->split[s];
        p->text = tokens_of(x, c->t, s ? cut : 0, s ? x->bytes : cut, c->loaded);
        p->count = p->text.count;
    }
    note_speed(x->bytes, f, seconds_now() - start);
}

static void text_open(Data *d, const Config *config) {
    File *f = d->state;
    size_t cut;
    Texts x = read_texts(f, config, &cut);
    if (is_long(x.bytes)) fprintf(stderr, "note     %zu MiB of text are tokenised\n", x.bytes >> 20);
    Choice c = choice_for_text(config, &x, cut);
    d->tokenizer = c.t;
    if (c.loaded && *config->load && tokenizer_vocab(c.t) > config->vocab)
        fail("%s: its tokenizer has %zu tokens, but the model in %s knows %zu; they do not belong together",
             strcmp(config->tokenizer, "auto") ? config->tokenizer : config->load, tokenizer_vocab(c.t), config->load,
             config->vocab);
    set_vocab(d, config, tokenizer_vocab(c.t));
    encode(f, &x, &c, cut);
    d->default_prompt = prompt_of(c.t, &x);
    d->hash = hash_texts(d->hash, config, f, &x, cut);
    d->hash = c.loaded ? hash_loaded(d->hash, c.t) : hash_text(d->hash, config->tokenizer);
    texts_free(&x);
}

// ---- shards ------------------------------------------------------------------------------------
// Flags of a text, where there is none.
static void refuse_text_flags(const Config *config) {
    if (choice_is_made(config))
        usage_error("--tokenizer %s is for a text, but %s holds tokens already; leave it out, or beside a preset give "
                    "--tokenizer auto", config->tokenizer, config->data);
    if (*config->field)
        usage_error("--field %s is for JSONL, but %s holds tokens already; leave it out", config->field, config->data);
}

static void open_parts(File *f, const Config *config, uint64_t *hash) {
    *hash = hash_text(*hash, "shard");
    Part *training = &f->split[SPLIT_TRAIN], *validation = &f->split[SPLIT_VALIDATION];
    bool own = f->files[SPLIT_VALIDATION].count > 0;
    for (int s = 0; s <= own; s++) f->shards[s] = shards_open(&f->files[s], hash);
    size_t all = f->shards[0].count, cut = own ? all : training_part(config, all);
    *training = (Part){.shards = &f->shards[0], .count = cut};
    *validation = own ? (Part){.shards = &f->shards[1], .count = f->shards[1].count}
                      : (Part){.shards = &f->shards[0], .first = cut, .count = all - cut};
    bool several = f->files[0].count > 1 || f->files[1].count > 1;     // where training ends is not in their bytes
    if (several) *hash = hash_bytes(*hash, &(uint64_t){all}, 8);
}

static void check_widths(const File *f) {
    const Shard *a = f->shards[0].shard, *b = f->shards[1].shard;
    if (b && a->width != b->width)
        fail("%s has tokens of %zu bits, %s of %zu; they do not belong together", a->path, 8 * a->width, b->path,
             8 * b->width);
}

// Nothing in the file says what its numbers are.
static void note_headerless(const File *f, size_t vocab) {
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < f->shards[i].shards; k++) {
            const Shard *s = &f->shards[i].shard[k];
            if (s->header || !s->count) continue;
            fprintf(stderr, "note     %s has no header and is read as uint16, little-endian: %zu tokens, largest id "
                    "%zu, vocabulary %zu\n", s->path, s->count, s->largest, vocab);
            return;
        }
}

// A model that --load names knows so many tokens, and a file that has more was made for another one.
static void refuse_more_than_loaded(const Config *c, const Tokenizer *t, size_t needed, const char *path) {
    if (*c->load && needed > c->vocab)
        fail("%s: its largest token is %zu, but the model in %s knows %zu tokens, 0 to %zu; give tokens made with that "
             "model's tokenizer", path, needed - 1, c->load, c->vocab, c->vocab - 1);
    if (*c->load && t && tokenizer_vocab(t) > c->vocab)
        fail("%s: its tokenizer has %zu tokens, but the model in %s knows %zu; they do not belong together", path,
             tokenizer_vocab(t), c->load, c->vocab);
}

static void shard_open(Data *d, const Config *config) {
    File *f = d->state;
    refuse_text_flags(config);
    open_parts(f, config, &d->hash);
    check_widths(f);
    Tokenizer *t = choice_for_shard(config, f->files[0].path[0]);
    size_t one = f->shards[0].largest, two = f->shards[1].largest, needed = (one > two ? one : two) + 1;
    refuse_more_than_loaded(config, t, needed, f->files[0].path[0]);
    if (t && tokenizer_vocab(t) < needed)
        fail("%s: its largest token is %zu, but the tokenizer %s has %zu tokens; they do not belong together", d->name,
             needed - 1, strcmp(config->tokenizer, "auto") ? xprintf("in %s", config->tokenizer) : "beside it",
             tokenizer_vocab(t));
    set_vocab(d, config, t ? tokenizer_vocab(t) : needed);
    note_headerless(f, d->vocab);
    d->tokenizer = t;
    if (!t) return;
    d->default_prompt = xprintf("%s", "");
    d->hash = hash_loaded(d->hash, t);
}

// ---- both ----------------------------------------------------------------------------------------
static void refuse_share(const Config *config, const File *f) {
    const Files *own = &f->files[SPLIT_VALIDATION];
    if (!own->count || flags_is_default(&config_table, config, flags_find(&config_table, "val_fraction"))) return;
    if (*config->val) usage_error("--val-fraction has no effect beside --val %s; leave it out", config->val);
    usage_error("--val-fraction has no effect with --data %s, because %s beside it is the validation split; "
                "leave it out", config->data, own->path[0]);
}

void file_open(Data *d, const Config *config) {
    File *f = d->state = xmalloc(sizeof *f);
    *f = (File){.seeds = row_seeds(config), .validation_rows = d->validation_rows};
    d->row = file_row, d->read = file_read, d->close = file_close;
    d->floor_about = xprintf("unknown: nobody knows the entropy of real text");
    f->files[SPLIT_TRAIN] = files_find("data", config->data);
    f->files[SPLIT_VALIDATION] = files_for_validation(&f->files[SPLIT_TRAIN], config->val);
    refuse_share(config, f);
    if (f->files[SPLIT_TRAIN].kind == FILES_SHARDS) shard_open(d, config);
    else text_open(d, config);
    check_lengths(d, config);
    d->splits = describe_splits(f), d->length = f->split[SPLIT_VALIDATION].count;
    d->hash = hash_bytes(d->hash, &config->val_fraction, sizeof config->val_fraction);
}
