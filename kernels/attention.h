// attention.h: softmax attention, one core for training, prefill and decoding. It attends n new
// queries to what a view of keys and values holds; in training the view is the batch itself, with a
// cache it is the past and the new. It knows nothing of caches, positions or models.
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H
#include "lib/util.h"

// Keys and values: head g of position j of sequence b stands at k + b*k_step + j*k_stride + g*k_head.
// The queries are the last n of `length` positions; query i sees positions 0 .. length - n + i, or the
// last of them (window).
// In blocks of block_size positions each sequence has its own length and a table (AttnRow): position j then stands at
// k + block[j / block_size]*k_step + (j % block_size)*k_stride + g*k_head. The bits are the same.
// Or they are packed, and a tile of them is unpacked when it is wanted: for all queries of a key head that are computed
// together, once. Then k and v are not read, but equal if the values are the beginning of the keys.
typedef struct {
    // x [n, width]: keys, or values, of head g of row b from position `from` on.
    void (*unpack)(const void *cache, real *x, bool values, size_t b, size_t g, size_t from, size_t n);
    const void *cache;
    double numbers;            // that are read for a key and its value: their bytes, in numbers
} KvPacked;
typedef struct {
    const real *k, *v;
    size_t k_step, k_stride, k_head, v_step, v_stride, v_head, length, block_size;
    KvPacked packed;           // unpack NULL: they are not
} KvView;

// How: the matrix of scores as a whole, of which the mask then hides half; that matrix without what is hidden; or a
// tile of it at a time.
typedef enum { ATTENTION_naive, ATTENTION_band, ATTENTION_flash } AttnKernel;

typedef struct {
    size_t H, KV;              // query heads, key/value heads: query head h reads head h / (H/KV)
    size_t D, Dv;              // width of a query and key, of a value
    double scale;              // of the scores, 1/sqrt(D)
    AttnKernel kernel;
    size_t tile;               // flash: keys per tile, a multiple of 32
    size_t window;             // a query sees itself and the window - 1 positions before it (0: all before it)
    const real *slope;         // ALiBi: a score loses slope[h] for every position between query and key (NULL: nothing)
} AttnShape;

// n queries from row `at` of q on, which are the last of `length` positions in these blocks.
typedef struct { size_t at, n, length; const uint32_t *block; } AttnRow;
// What is attended: n queries of each of B sequences, q [B*n, q_stride] (head h at h*D), against a view; or where there
// are rows, those of each of B rows.
typedef struct { const real *q; size_t q_stride; KvView view; size_t B, n; const AttnRow *row; } AttnInput;
// out [B*n, out_stride] (head h at h*Dv).
// lse [B,H,n]: log-sum-exp of each query's scores, which is all that flash keeps for its backward (may be NULL).
// probability [B,H,n,length]: what the others keep (may be NULL: kept nowhere).
typedef struct { real *out; size_t out_stride; real *lse, *probability; } AttnOutput;
void attention_forward(AttnOutput o, AttnInput in, AttnShape s);

// Gradients of a forward without past (view.length == n). All are set; dq has the stride of q, dk and dv those of the
// view, dout that of out. The forward's output gives lse for flash, probability for the others.
typedef struct { real *dq, *dk, *dv; } AttnGradient;
void attention_backward(AttnGradient d, const real *dout, AttnOutput o, AttnInput in, AttnShape s);

// The slopes of ALiBi for H heads.
void alibi_slopes(real *slope, size_t H);

// Numbers of scratch memory that both take for sequences of T tokens, with all threads.
size_t attention_workspace(size_t T, AttnShape s);

// The readable reference: loops over queries, keys, dimensions, as the formula says. out only.
void attention_forward_naive(AttnOutput o, AttnInput in, AttnShape s);
#endif
