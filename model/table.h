// table.h: how model.c and the branches put their tensors into the table of parameters (params.h), and by which offsets
// they find them again. Layer -1: not of a layer.
#ifndef TABLE_H
#define TABLE_H
#include "model/params.h"

#define NOWHERE ((size_t)-1)

// Offsets into the arenas of parameters (and gradients) and of packed weights.
// count matrices [N,K] (experts: E), of which the first `integer` rows are multiplied as integers: pieces of each, from
// `piece` on (packed.h). Only the other rows are among the packed weights.
typedef struct { size_t weight, bias, packed, N, K, count, integer, piece, pieces; } Linear;
// A norm over vectors of C numbers, `groups` of them side by side in each row; rows of its input and output begin
// x_stride and y_stride apart. center: LayerNorm; dyt: dynamic tanh, whose one number stands at alpha; else RMSNorm.
typedef struct {
    size_t weight, bias, alpha, C, groups, x_stride, y_stride;
    double eps;
    bool on, center, dyt;
} Norm;

// Standard deviations at init, of matrices in different places.
typedef struct { double plain, value, residual, ffn; } InitStds;
InitStds init_stds(const Config *c);

typedef struct { const char *name; size_t rows; double std; } Weight;
// One product of several weights that stand side by side.
Linear add_linear(Model *m, int layer, const Weight *weight, size_t weights, size_t K, bool bias);
Linear add_experts(Model *m, int layer, const char *name, size_t N, size_t K, double std);
Linear add_tied(Model *m, size_t weight, size_t N, size_t K);     // with a matrix that is in the table already
size_t add_matrix(Model *m, int layer, const char *name, size_t N, size_t K, double std);
size_t add_vector(Model *m, int layer, const char *name, size_t N, InitKind init);
size_t add_buffer(Model *m, int layer, const char *name, size_t N, double value);   // without a gradient
size_t add_packed(Model *m, size_t numbers);      // space among the packed weights: where it begins
Norm add_norm(Model *m, int layer, const char *name, size_t C);                   // as --norm-kind says
Norm add_rms_norm(Model *m, int layer, const char *name, size_t C, double eps);   // whatever --norm-kind says
#endif
