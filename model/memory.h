// memory.h: what a model takes: one arena each for parameters, gradients, packed weights and activations, and their
// sizes before anything is allocated.
#ifndef MEMORY_H
#define MEMORY_H
#include "model/params.h"

// Sizes without allocating anything: for --dry-run and the banner.
typedef struct {
    size_t parameters, active_parameters;       // active: per token (experts not chosen left out)
    double flops_per_token;                     // forward and backward: 6 per weight used, causal attention at half
    size_t parameter_bytes, gradient_bytes, moment_bytes, packed_bytes, activation_bytes;
    size_t rounded, rounded_bytes, format_bytes;   // --quant: numbers that are rounded, their arena, and packed
    size_t integer_bytes;                       // --quant-act: what they are held in
    size_t workspace_bytes;                     // scratch memory of products and attention, with all threads
    size_t cache_bytes_per_token, state_bytes;  // of a sequence: what grows with it, and what does not (swa, linear)
} ModelSize;

ModelSize memory_sizes(Model *m);               // of a model that has its table and layers
void memory_take_parameters(Model *m);          // parameters and packed weights; gradients if m->training
// Activations for B rows of T tokens; nothing happens when there are enough. Evaluation uses what training has;
// decoding needs its own.
void memory_take_activations(Model *m, size_t B, size_t T, bool keep, bool decoding);
void memory_take_rotations(Model *m, size_t positions);    // the sines and cosines of RoPE; fails where there are none
void memory_free(Model *m);
#endif
