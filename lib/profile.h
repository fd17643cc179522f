// profile.h: which kinds of operation the time goes to (--profile). An operation says in one line at its
// top what it computes and what it must move; the clock stops when its function returns. Where it says 0 of
// both, it waits for something else and has no roof. Off, it costs a comparison.
//
// FLOPs: an addition, multiplication, division or root is 1, a fused multiply-add 2; comparisons and
// shuffles are none. Masked scores of attention are not counted, though a tile computes some. Numbers: the
// operands read once and the results written once, as if the caches were perfect: a lower bound of the
// traffic, so the intensity is an upper bound. Tokens and other integers are not counted.
#ifndef PROFILE_H
#define PROFILE_H
#include "lib/util.h"

#define PROFILE_KINDS(X) \
    X(linear_forward, "linear, forward") X(linear_input, "linear, input gradient") \
    X(linear_weight, "linear, weight gradient") X(pack, "weights packed") X(round, "weights rounded") \
    X(quantise, "numbers rounded to int8") \
    X(experts_forward, "experts, forward") X(experts_input, "experts, input gradient") \
    X(experts_weight, "experts, weight gradient") X(latent, "latent, absorbed matrices") \
    X(attention_forward, "attention, forward") X(attention_backward, "attention, backward") \
    X(recurrence_forward, "recurrence, forward") X(recurrence_backward, "recurrence, backward") \
    X(conv_forward, "short convolution, forward") X(conv_backward, "short convolution, backward") \
    X(gate_forward, "gates and features, forward") X(gate_backward, "gates and features, backward") \
    X(norm_forward, "norm, forward") X(norm_backward, "norm, backward") \
    X(activation_forward, "activation, forward") X(activation_backward, "activation, backward") \
    X(rope, "rotary positions") X(embed_forward, "embedding, forward") X(embed_backward, "embedding, backward") \
    X(residual, "residual addition") X(loss_forward, "loss, forward") X(loss_backward, "loss, backward") \
    X(route, "router") X(dispatch, "dispatch to experts and back") X(cache, "keys and values moved") \
    X(data, "rows of data") X(save, "checkpoints written") \
    X(zero, "gradients zeroed") X(squares, "sums of squares") X(adamw, "AdamW")
#define PROFILE_KIND(name, label) PROFILE_##name,
typedef enum { PROFILE_KINDS(PROFILE_KIND) PROFILE_COUNT } ProfileKind;

enum { PROFILE_EXP = 22, PROFILE_SIGMOID = 25, PROFILE_TANH = 42 };   // FLOPs of vec_exp() and so on, per number

// PROFILE(kind, flops, numbers); at the top of a function. Inside of another profiled function, or of a
// parallel region, nothing is recorded: the outer one has it already.
typedef struct { ProfileKind kind; double flops, numbers, start; } ProfileSpan;
#define PROFILE(kind, flops, numbers)                                     \
    __attribute__((cleanup(profile_end), unused)) ProfileSpan profile_span = \
        profile_on ? profile_begin(PROFILE_##kind, (double)(flops), (double)(numbers)) : (ProfileSpan){.start = -1}
extern bool profile_on;
ProfileSpan profile_begin(ProfileKind kind, double flops, double numbers);
void profile_end(const ProfileSpan *span);

typedef struct { const char *label; size_t calls; double flops, bytes, seconds; } ProfileRow;
typedef struct { double seconds; ProfileRow row[PROFILE_COUNT]; } Profile;
void profile_start(void);       // from now on, from zero
Profile profile_stop(void);     // what was recorded since then; seconds of it all
#endif
