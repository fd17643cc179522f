// safetensors.h: safetensors files of named flat tensors, read and written. Knows no layers.
// Format: https://huggingface.co/docs/safetensors ; u64 header length (at most 100,000,000),
// JSON header, data; no holes, no overlaps, the last end is the end of file.
#ifndef SAFETENSORS_H
#define SAFETENSORS_H
#include "lib/util.h"

enum { TENSOR_RANK = 4, TENSOR_NAME = 192 };
typedef struct {
    char name[TENSOR_NAME];
    size_t rank, shape[TENSOR_RANK];
    const real *data;          // written as F32 (F64 in the double build)
    const double *wide;        // or, where it is not NULL, these, as F64; such tensors come first, for alignment's sake
    bool brain;                // instead as BF16, rounded to the nearest, ties to even
} TensorOut;
typedef struct { const char *key, *value; } Metadata;

uint16_t safetensors_brain(double x);      // its bfloat16, rounded once: to the nearest, ties to even

// Writes atomically (util.h). Tensors appear in the given order.
void safetensors_write(const char *path, const TensorOut *tensor, size_t count, const Metadata *meta, size_t metas);

typedef struct {
    char name[TENSOR_NAME];
    char dtype[16];            // any of safetensors 0.8: "F32", "BF16", "I64", "C64", "F8_E4M3", ...
    size_t rank, shape[TENSOR_RANK], elements;   // of a higher rank, shape has the first sizes
    const unsigned char *data; // little-endian, into the file's memory
    size_t bytes;
} TensorIn;
typedef struct {
    char *path, *bytes; size_t size;
    TensorIn *tensor; size_t count;
    char **meta_key, **meta_value; size_t metas;
} SafeTensors;

// Reads and checks everything (header length, JSON, dtypes, shapes against offsets, holes, overlaps,
// size of the file); fails with one line naming path and fault. No allocation is larger than the file
// warrants. A tensor may be of any dtype and rank: whether it can be a weight is asked when it is copied.
SafeTensors *safetensors_open(const char *path);
SafeTensors *safetensors_open_advised(const char *path, const char *advice);    // what to do where it is not sound
void safetensors_close(SafeTensors *s);
const TensorIn *safetensors_find(const SafeTensors *s, const char *name);   // NULL if absent
const char *safetensors_meta(const SafeTensors *s, const char *key);        // NULL if absent
// Converts F64, F32, F16 or BF16 to real; fails if the dtype is none of these.
void safetensors_copy(const SafeTensors *s, const TensorIn *t, real *out);
void safetensors_copy_wide(const SafeTensors *s, const TensorIn *t, double *out);
size_t safetensors_bytes(const TensorIn *t);      // that its data has
#endif
