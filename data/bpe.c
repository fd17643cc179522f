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
#include "data/bpe.h"
#include <stdlib.h>
#include <string.h>

// ---- cutting -----------------------------------------------------------------------------------
typedef enum { SPACE, LETTER, DIGIT, SIGN } ByteClass;

static ByteClass class_of(unsigned char c) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) return SPACE;
    if (c >= 128 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return LETTER;
    return c >= '0' && c <= '9' ? DIGIT : SIGN;
}

size_t bpe_chunk_length(const char *text, size_t bytes) {
    if (bytes > CHUNK_BYTES) bytes = CHUNK_BYTES;
    size_t n = text[0] == ' ' && bytes > 1 && class_of((unsigned char)text[1]) != SPACE;  // 1: a leading space
    ByteClass class = class_of((unsigned char)text[n]);
    do n++; while (n < bytes && class_of((unsigned char)text[n]) == class);
    bool space_goes_on = class == SPACE && n > 1 && n < bytes && text[n - 1] == ' ';
    return n - space_goes_on;
}

// ---- a hash table from pairs to numbers --------------------------------------------------------
static uint64_t pair_key(int left, int right) { return ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1; }

// The slot of a key in a table whose size is a power of two, or the empty one (0) where it belongs.
static size_t pair_slot(const uint64_t *table, size_t size, uint64_t key) {
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
        size_t slot = pair_slot(r->key, r->size, old.key[i]);
        r->key[slot] = old.key[i], r->count[slot] = old.count[i];
    }
    free(old.key);
    free(old.count);
}

static void count_pairs(Training *r, const Chunk *c, int64_t times) {
    for (size_t i = 0; i + 1 < c->length; i++) {
        uint64_t key = pair_key(c->symbol[i], c->symbol[i + 1]);
        size_t slot = pair_slot(r->key, r->size, key);
        if (!r->key[slot]) r->key[slot] = key, r->used++;
        r->count[slot] += times;
        if (2 * r->used > r->size) grow_pairs(r);
    }
}

static void collect_chunks(Training *r, const char *text, size_t bytes) {
    Strings distinct = {0};
    size_t capacity = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bpe_chunk_length(text + at, bytes - at);
        size_t i = strings_find(&distinct, text + at, n);
        if (i == SIZE_MAX) i = strings_add(&distinct, text + at, n);
        if (i >= capacity) {
            capacity = capacity ? 2 * capacity : 4096;
            r->chunk = xrealloc(r->chunk, size_mul(capacity, sizeof *r->chunk));
        }
        if (i == r->chunks) r->chunk[r->chunks++] = (Chunk){NULL, n, 0};
        r->chunk[i].count++;
    }
    r->symbols = xmalloc(size_mul(distinct.used, sizeof *r->symbols));
    for (size_t i = 0; i < distinct.used; i++) r->symbols[i] = (unsigned char)distinct.bytes[i];
    for (size_t i = 0; i < r->chunks; i++) r->chunk[i].symbol = r->symbols + distinct.offset[i];
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

static size_t merge_in(int *symbol, size_t length, Merge m) {
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        bool pair = symbol[i] == m.left && i + 1 < length && symbol[i + 1] == m.right;
        symbol[n++] = pair ? m.made : symbol[i];
        i += pair;
    }
    return n;
}

static bool contains(const Chunk *c, Merge m) {
    for (size_t i = 0; i + 1 < c->length; i++)
        if (c->symbol[i] == m.left && c->symbol[i + 1] == m.right) return true;
    return false;
}

void bpe_train(Bpe *b, size_t merges, const char *text, size_t bytes) {
    size_t vocab = 256 + merges, possible = merges < bytes ? merges : bytes;  // each makes the text shorter
    b->merge = xmalloc(size_mul(possible, sizeof *b->merge));
    b->merges = merges;
    Training r = {0};
    collect_chunks(&r, text, bytes);
    grow_pairs(&r);
    for (size_t i = 0; i < r.chunks; i++) count_pairs(&r, &r.chunk[i], r.chunk[i].count);
    for (size_t made = 256; made < vocab; made++) {
        uint64_t best = most_frequent_pair(&r);
        if (!best)
            fail("bpe:%zu: the text has repeated pairs for %zu tokens only; ask for bpe:%zu or less",
                 vocab, made, made);
        Merge m = {(int)((best - 1) >> 32), (int)(uint32_t)(best - 1), (int)made};
        b->merge[made - 256] = m;
        for (size_t i = 0; i < r.chunks; i++) {
            Chunk *c = &r.chunk[i];
            if (!contains(c, m)) continue;
            count_pairs(&r, c, -c->count);
            c->length = merge_in(c->symbol, c->length, m);
            count_pairs(&r, c, c->count);
        }
    }
    free(r.chunk), free(r.symbols), free(r.key), free(r.count);
}

// ---- using it ----------------------------------------------------------------------------------
void bpe_index(Bpe *b) {
    for (b->pairs = 16; b->pairs < 2 * b->merges;) b->pairs *= 2;
    b->pair = xmalloc(size_mul(b->pairs, sizeof *b->pair));
    b->rank = xmalloc(size_mul(b->pairs, sizeof *b->rank));
    for (size_t i = 0; i < b->merges; i++) {
        uint64_t key = pair_key(b->merge[i].left, b->merge[i].right);
        size_t slot = pair_slot(b->pair, b->pairs, key);
        b->pair[slot] = key, b->rank[slot] = (int)i;
    }
}

bool bpe_prepare(Bpe *b, Strings *tokens) {
    for (int c = 0; c < 256; c++) strings_add(tokens, &(char){(char)c}, 1), b->byte[c] = c;
    bpe_index(b);
    for (size_t i = 0; i < b->merges; i++) {
        char both[2 * CHUNK_BYTES];
        size_t left, right;
        const char *part = strings_get(tokens, (size_t)b->merge[i].left, &left);
        memcpy(both, part, left);
        part = strings_get(tokens, (size_t)b->merge[i].right, &right);
        memcpy(both + left, part, right);
        if (left + right > CHUNK_BYTES) return false;
        strings_add(tokens, both, left + right);
    }
    return true;
}

// The merge of two neighbours, or -1.
static int rank_of(const Bpe *b, int left, int right) {
    uint64_t key = pair_key(left, right);
    size_t slot = pair_slot(b->pair, b->pairs, key);
    return b->pair[slot] ? b->rank[slot] : -1;
}

// A chunk while it is merged: symbols in a chain, and a heap of the merges that are possible, the earliest merge on
// top and of equal ones the leftmost. A chunk of n bytes takes O(n log n), however long it is.
enum { FEW = 128 };
typedef struct {
    int *symbol; uint32_t *before, *after;   // the chain; a symbol that was merged away is -1
    uint64_t *heap; size_t count;            // merge << 32 | position of its left symbol
    size_t end;
} Chain;

static void push(const Bpe *b, Chain *c, size_t left) {
    size_t right = c->after[left];
    int rank = right < c->end ? rank_of(b, c->symbol[left], c->symbol[right]) : -1;
    if (rank < 0) return;
    size_t i = c->count++;
    uint64_t entry = (uint64_t)(uint32_t)rank << 32 | left;
    for (; i && c->heap[(i - 1) / 2] > entry; i = (i - 1) / 2) c->heap[i] = c->heap[(i - 1) / 2];
    c->heap[i] = entry;
}

static uint64_t pop(Chain *c) {
    uint64_t top = c->heap[0], last = c->heap[--c->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < c->count; i = child) {
        child += child + 1 < c->count && c->heap[child + 1] < c->heap[child];
        if (c->heap[child] >= last) break;
        c->heap[i] = c->heap[child];
    }
    c->heap[i] = last;
    return top;
}

static void merge_chain(const Bpe *b, Chain *c) {
    for (size_t i = 0; i < c->end; i++) c->before[i] = (uint32_t)i - 1, c->after[i] = (uint32_t)i + 1;
    for (size_t i = 0; i + 1 < c->end; i++) push(b, c, i);
    while (c->count) {
        uint64_t top = pop(c);
        size_t left = (uint32_t)top, right = c->after[left];
        const Merge *m = &b->merge[top >> 32];
        if (right >= c->end || c->symbol[left] != m->left || c->symbol[right] != m->right) continue;
        c->symbol[left] = m->made, c->symbol[right] = -1;
        c->after[left] = c->after[right];
        if (c->after[left] < c->end) c->before[c->after[left]] = (uint32_t)left;
        push(b, c, left);
        if (left) push(b, c, c->before[left]);
    }
}

// Replaces the tokens of the bytes by those of the merges; returns how many there are.
static size_t merge_symbols(const Bpe *b, int *symbol, size_t n) {
    uint32_t link[2 * FEW];
    uint64_t heap[3 * FEW];                  // n - 1 pairs at first, and two more for each merge
    bool few = n <= FEW;
    Chain c = {.symbol = symbol, .end = n, .before = few ? link : xmalloc(size_mul(2 * n, sizeof *link)),
               .heap = few ? heap : xmalloc(size_mul(3 * n, sizeof *heap))};
    c.after = c.before + n;
    merge_chain(b, &c);
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (symbol[i] >= 0) symbol[count++] = symbol[i];
    if (!few) free(c.before), free(c.heap);
    return count;
}

static size_t encode_anew(const Bpe *b, const char *chunk, size_t bytes, int *tokens) {
    size_t whole = b->whole ? strings_find(b->whole, chunk, bytes) : SIZE_MAX;
    if (whole != SIZE_MAX) {
        tokens[0] = b->whole_token[whole];
        return 1;
    }
    for (size_t i = 0; i < bytes; i++)
        if ((tokens[i] = b->byte[(unsigned char)chunk[i]]) < 0) return SIZE_MAX;
    return merge_symbols(b, tokens, bytes);
}

// Words repeat, so most chunks were encoded before; what is remembered is bounded.
static void remember(Bpe *b, const char *chunk, size_t bytes, const int *tokens, size_t count) {
    enum { MOST = 1 << 20 };
    size_t n = b->seen.count;
    if (bytes > FEW || n >= MOST) return;
    if ((n & (n - 1)) == 0) {           // 0 or a power of two: enough until the next one
        b->first = xrealloc(b->first, (2 * n + 2) * sizeof *b->first);
        b->first[n] = b->used;
    }
    if (b->used + count > b->capacity) {
        b->capacity = 2 * (b->used + count) + 1024;
        b->tokens = xrealloc(b->tokens, size_mul(b->capacity, sizeof *b->tokens));
    }
    memcpy(b->tokens + b->used, tokens, count * sizeof *tokens);
    strings_add(&b->seen, chunk, bytes);
    b->first[b->seen.count] = b->used += count;
}

size_t bpe_encode_chunk(Bpe *b, const char *chunk, size_t bytes, int *tokens) {
    size_t known = bytes <= FEW ? strings_find(&b->seen, chunk, bytes) : SIZE_MAX;
    if (known == SIZE_MAX) {
        size_t count = encode_anew(b, chunk, bytes, tokens);
        if (count != SIZE_MAX) remember(b, chunk, bytes, tokens, count);
        return count;
    }
    size_t count = b->first[known + 1] - b->first[known];
    memcpy(tokens, b->tokens + b->first[known], count * sizeof *tokens);
    return count;
}

size_t bpe_encode(Bpe *b, const char *text, size_t bytes, int *tokens) {
    size_t count = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bpe_chunk_length(text + at, bytes - at);
        count += bpe_encode_chunk(b, text + at, n, tokens + count);
    }
    return count;
}

void bpe_free(Bpe *b) {
    free(b->merge), free(b->pair), free(b->rank), free(b->first), free(b->tokens);
    strings_free(&b->seen);
    *b = (Bpe){0};
}
