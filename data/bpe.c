// bpe.c: byte-level byte-pair encoding: Sennrich et al. 2016, "Neural machine translation of rare
// words with subword units", over bytes as in GPT-2 (Radford et al. 2019).
//
// Text is first cut into chunks that no merge crosses: a space with the letters, the digits or the
// other signs that follow it, or a run of white space (its last space goes with what follows). Bytes
// from 128 on count as letters. A chunk is at most CHUNK_BYTES long.
//
// Training merges the pair of neighbours that is most frequent over all chunks, ties going to the
// lower pair of token numbers, so a text gives the same merges everywhere. Encoding replays the
// merges in the order in which they were learnt. Concatenating the bytes of the tokens gives the
// text back, whatever its bytes.
#include "data/tokenizer_parts.h"
#include <stdlib.h>
#include <string.h>

// ---- cutting -----------------------------------------------------------------------------------
typedef enum { SPACE, LETTER, DIGIT, SIGN } ByteClass;

static ByteClass class_of(unsigned char c) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) return SPACE;
    if (c >= 128 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return LETTER;
    return c >= '0' && c <= '9' ? DIGIT : SIGN;
}

// Length of the chunk at the start of the text; bytes > 0.
static size_t chunk_length(const char *text, size_t bytes) {
    if (bytes > CHUNK_BYTES) bytes = CHUNK_BYTES;
    size_t n = text[0] == ' ' && bytes > 1 && class_of((unsigned char)text[1]) != SPACE;  // 1: a leading space
    ByteClass class = class_of((unsigned char)text[n]);
    do n++; while (n < bytes && class_of((unsigned char)text[n]) == class);
    bool space_goes_on = class == SPACE && n > 1 && n < bytes && text[n - 1] == ' ';
    return n - space_goes_on;
}

// ---- a hash table from pairs to numbers --------------------------------------------------------
static uint64_t pair_key(int left, int right) { return ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1; }

// The place of a key in a table whose size is a power of two, or the empty place (0) where it belongs.
static size_t pair_place(const uint64_t *table, size_t size, uint64_t key) {
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15ull >> 20) & (size - 1);
    while (table[i] && table[i] != key) i = (i + 1) & (size - 1);
    return i;
}

// ---- training ----------------------------------------------------------------------------------
// Every distinct chunk once, with how often it occurs; its symbols shrink in place as pairs merge.
typedef struct { int *symbol; size_t length; int64_t count; } Chunk;
typedef struct {
    Chunk *chunk; size_t chunks;
    int *symbols;                           // the memory of all chunks
    uint64_t *key; int64_t *count; size_t used, size;  // pairs and how often they occur
} Training;

static void grow_pairs(Training *r) {
    Training old = *r;
    r->size = old.size ? size_mul(old.size, 2) : 1 << 16;
    r->key = xmalloc(size_mul(r->size, sizeof *r->key));
    r->count = xmalloc(size_mul(r->size, sizeof *r->count));
    for (size_t i = 0; i < old.size; i++) {
        if (!old.key[i]) continue;
        size_t at = pair_place(r->key, r->size, old.key[i]);
        r->key[at] = old.key[i], r->count[at] = old.count[i];
    }
    free(old.key);
    free(old.count);
}

static void count_pairs(Training *r, const Chunk *c, int64_t times) {
    for (size_t i = 0; i + 1 < c->length; i++) {
        uint64_t key = pair_key(c->symbol[i], c->symbol[i + 1]);
        size_t at = pair_place(r->key, r->size, key);
        if (!r->key[at]) r->key[at] = key, r->used++;
        r->count[at] += times;
        if (2 * r->used > r->size) grow_pairs(r);
    }
}

static void collect_chunks(Training *r, const char *text, size_t bytes) {
    Strings distinct = {0};
    size_t room = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = chunk_length(text + at, bytes - at);
        size_t i = strings_find(&distinct, text + at, n);
        if (i == SIZE_MAX) i = strings_add(&distinct, text + at, n);
        if (i >= room) r->chunk = xrealloc(r->chunk, size_mul(room = room ? 2 * room : 4096, sizeof *r->chunk));
        if (i == r->chunks) r->chunk[r->chunks++] = (Chunk){NULL, n, 0};
        r->chunk[i].count++;
    }
    r->symbols = xmalloc(size_mul(distinct.used, sizeof *r->symbols));
    for (size_t i = 0; i < distinct.used; i++) r->symbols[i] = (unsigned char)distinct.bytes[i];
    for (size_t i = 0; i < r->chunks; i++) r->chunk[i].symbol = r->symbols + distinct.at[i];
    strings_free(&distinct);
}

static uint64_t most_frequent_pair(const Training *r) {
    uint64_t best = 0;
    int64_t most = 1;  // a pair that occurs once saves nothing
    for (size_t i = 0; i < r->size; i++)
        if (r->count[i] > most || (r->count[i] == most && best && r->key[i] < best))
            best = r->key[i], most = r->count[i];
    return best;
}

static size_t merge_in(int *symbol, size_t length, Merge m, int made) {
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        bool pair = symbol[i] == m.left && i + 1 < length && symbol[i + 1] == m.right;
        symbol[n++] = pair ? made : symbol[i];
        i += pair;
    }
    return n;
}

static bool contains(const Chunk *c, Merge m) {
    for (size_t i = 0; i + 1 < c->length; i++)
        if (c->symbol[i] == m.left && c->symbol[i + 1] == m.right) return true;
    return false;
}

void bpe_train(Tokenizer *t, const char *text, size_t bytes) {
    Training r = {0};
    collect_chunks(&r, text, bytes);
    grow_pairs(&r);
    for (size_t i = 0; i < r.chunks; i++) count_pairs(&r, &r.chunk[i], r.chunk[i].count);
    for (size_t made = 256; made < t->vocab; made++) {
        uint64_t best = most_frequent_pair(&r);
        if (!best)
            fail("bpe:%zu: the text has repeated pairs for %zu tokens only; ask for bpe:%zu or less",
                 t->vocab, made, made);
        Merge m = {(int)((best - 1) >> 32), (int)(uint32_t)(best - 1)};
        t->merge[made - 256] = m;
        for (size_t i = 0; i < r.chunks; i++) {
            Chunk *c = &r.chunk[i];
            if (!contains(c, m)) continue;
            count_pairs(&r, c, -c->count);
            c->length = merge_in(c->symbol, c->length, m, (int)made);
            count_pairs(&r, c, c->count);
        }
    }
    free(r.chunk), free(r.symbols), free(r.key), free(r.count);
}

// ---- using it ----------------------------------------------------------------------------------
bool bpe_prepare(Tokenizer *t) {
    size_t merges = t->vocab - 256;
    for (int c = 0; c < 256; c++) strings_add(&t->token, &(char){(char)c}, 1);
    for (t->pairs = 16; t->pairs < 2 * merges;) t->pairs *= 2;
    t->pair = xmalloc(size_mul(t->pairs, sizeof *t->pair));
    t->made = xmalloc(size_mul(t->pairs, sizeof *t->made));
    for (size_t i = 0; i < merges; i++) {
        uint64_t key = pair_key(t->merge[i].left, t->merge[i].right);
        size_t at = pair_place(t->pair, t->pairs, key), left, right;
        if (!t->pair[at]) t->pair[at] = key, t->made[at] = (int)(256 + i);
        char both[2 * CHUNK_BYTES];
        const char *part = strings_get(&t->token, (size_t)t->merge[i].left, &left);
        memcpy(both, part, left);
        part = strings_get(&t->token, (size_t)t->merge[i].right, &right);
        memcpy(both + left, part, right);
        if (left + right > CHUNK_BYTES) return false;
        strings_add(&t->token, both, left + right);
    }
    return true;
}

// The token that a pair makes, or -1. An earlier merge has a lower number.
static int made_by(const Tokenizer *t, int left, int right) {
    uint64_t key = pair_key(left, right);
    size_t at = pair_place(t->pair, t->pairs, key);
    return t->pair[at] ? t->made[at] : -1;
}

static size_t encode_chunk(const Tokenizer *t, const char *text, size_t length, int *tokens) {
    for (size_t i = 0; i < length; i++) tokens[i] = (unsigned char)text[i];
    for (;;) {
        int first = -1;
        for (size_t i = 0; i + 1 < length; i++) {
            int made = made_by(t, tokens[i], tokens[i + 1]);
            if (made >= 0 && (first < 0 || made < first)) first = made;
        }
        if (first < 0) return length;
        length = merge_in(tokens, length, t->merge[first - 256], first);
    }
}

size_t bpe_encode(const Tokenizer *t, const char *text, size_t bytes, int *tokens) {
    size_t count = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = chunk_length(text + at, bytes - at);
        count += encode_chunk(t, text + at, n, tokens + count);
    }
    return count;
}
