// gguf.h: GGUF files, llama.cpp's: metadata and tensors, read and written. Knows no layers.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md ; "GGUF", u32 version, u64 tensors, u64 keys; a key
// is a string (u64 length and bytes), a u32 type and a value; a tensor is a string, a u32 rank, its sizes as u64 with
// the fastest first, a u32 type, and a u64 offset in the data, which begins at the next multiple of the alignment (32,
// or general.alignment). Read are versions 2 and 3, which differ in nothing on little-endian machines; written is 3.
#ifndef GGUF_H
#define GGUF_H
#include "lib/util.h"

enum { GGUF_NAME = 64, GGUF_RANK = 4, GGUF_ALIGNMENT = 32 };    // names have up to 63 bytes, as in ggml
typedef enum {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
    GGUF_I64, GGUF_F64, GGUF_KINDS
} GgufKind;

// ---- types of tensors ----------------------------------------------------------------------------
// How numbers become codes of few bits: mx_scale is a QuantMxScale, search as there (kernels/quant.h).
typedef struct { int mx_scale; bool search; } GgufRounding;
// A type is a row's codec: `block` numbers in `bytes` bytes. `scale`: of a tensor in nvfp4, else 1 (kernels/quant.h).
typedef struct {
    uint32_t number;
    const char *name;              // in small letters: "f16"; two may have one number, and differ in how they encode
    uint32_t file;                 // general.file_type of a file of such matrices
    size_t block, bytes;
    void (*decode)(real *out, const unsigned char *from, float scale, size_t n);   // n: a multiple of `block`
    // NULL: not written
    void (*encode)(unsigned char *to, const real *from, GgufRounding how, float scale, size_t n);
    double most;                   // magnitude of the largest number
    bool scaled;                   // the tensor has a scale, in a tensor of its own
} GgufType;
extern const GgufType gguf_types[];                                   // the last one has no name
const GgufType *gguf_type_named(const char *name);                    // NULL: none that is written

// ---- reading -------------------------------------------------------------------------------------
typedef struct { const char *at; size_t bytes; } GgufText;            // into the file's memory
typedef struct {
    const char *name;
    GgufKind kind, item;           // item: of an array, else as kind
    size_t count;                  // of an array, else 1
    const unsigned char *data;     // little-endian, at any address, into the file's memory
    GgufText *text;                // of strings
} GgufKey;
typedef struct {
    char name[GGUF_NAME];
    const GgufType *type;
    size_t rank, shape[GGUF_RANK], elements;    // slowest first, as everywhere here
    const unsigned char *data;
} GgufTensor;
typedef struct {
    char *path, *bytes; size_t size;
    GgufKey *key; size_t keys;
    GgufTensor *tensor; size_t tensors;
} Gguf;

bool gguf_is(const char *path);    // whether it is a file, no directory, that begins with GGUF
// Reads and checks everything (counts, lengths, types, names that occur twice, offsets, size of the file); fails with
// one line naming path and fault. No allocation is larger than the file warrants. Keys and tensors are sorted by name.
Gguf *gguf_open(const char *path);
void gguf_close(Gguf *g);
const GgufKey *gguf_key(const Gguf *g, const char *name);             // NULL if absent
const GgufTensor *gguf_tensor(const Gguf *g, const char *name);       // NULL if absent
// Number i of an array, or the value itself (i is 0), of any kind but strings.
double gguf_number(const GgufKey *k, size_t i);
bool gguf_is_integer(const GgufKey *k);                               // integers, or an array of them
bool gguf_is_count(const GgufKey *k);                                 // and none of them negative
// `count` numbers from number `first` on, in order; both are multiples of a row.
void gguf_copy(const GgufTensor *t, real *out, size_t first, size_t count, float scale);

// ---- writing -------------------------------------------------------------------------------------
typedef struct {
    char name[GGUF_NAME];
    const GgufType *type;
    size_t rank, shape[GGUF_RANK];  // slowest first; the last one is a multiple of the type's block
    const real *data;
    GgufRounding how;               // {0}: OCP's and ggml's scale of mxfp4, no search
    const float *scale;             // one for each of the slices of the first dimension (of a matrix: one), or NULL
} GgufTensorOut;
typedef struct { char *bytes; size_t used, room, keys; } GgufHead;    // {0} is empty

void gguf_put_count(GgufHead *h, const char *name, size_t value);     // u32; fails where it is too large
void gguf_put_real(GgufHead *h, const char *name, double value);      // f32
void gguf_put_bool(GgufHead *h, const char *name, bool value);
void gguf_put_text(GgufHead *h, const char *name, const char *value);
// An array: begin it, then as many items, each once, of the kind.
void gguf_begin_array(GgufHead *h, const char *name, GgufKind item, size_t count);
void gguf_add_text(GgufHead *h, const char *bytes, size_t length);
void gguf_add_int(GgufHead *h, int32_t value);
// Writes atomically (util.h), tensors in the given order, and frees the head.
void gguf_write(const char *path, GgufHead *h, const GgufTensorOut *tensor, size_t count);
#endif
