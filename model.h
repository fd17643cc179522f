// model.h: the GPT whose whole architecture is flags. This header is the manual of model.c; the table of its parameters
// is in model/params.h, its sizes are in model/memory.h, its cache is in model/cache.h.
#ifndef MODEL_H
#define MODEL_H
#include "kernels/ops.h"
#include "model/cache.h"
#include "model/memory.h"
#include "model/params.h"

Model *model_new(const Config *config, bool training);  // resolved config; parameters initialised from config->seed
void model_free(Model *m);
ModelSize model_size(const Config *config);
const Config *model_config(const Model *m);

// ---- training ----------------------------------------------------------------------------------
void model_zero_gradients(Model *m);
// Forward and backward of B rows of T tokens; gradients are added to. targets of -1 are not scored.
// token_scale = 1 / scored tokens of the whole step, row_scale = 1 / rows of the whole step (for the
// routers' losses), so that micro-batches add up to the batch bit for bit.
// row_loss[b] = sum over the row of -log p(target), in nats (not scaled).
void model_forward_backward(Model *m, const int *tokens, const int *targets, size_t B, size_t T,
                            double token_scale, double row_scale, double *row_loss);
// After the last micro-batch: folds in what is kept apart until then (the tied embedding).
void model_finish_gradients(Model *m);
// Sum of squares of the residual stream after a layer, over the `rows` rows of the last model_forward_backward.
double model_residual_squares(const Model *m, size_t layer, size_t rows);
// From now on forwards pass this layer by, as if it were not there, to see what it is good for; layers: none.
void model_drop_layer(Model *m, size_t layer);
// Whether model_evaluate routes from now on as in writing a text: every token alone, without a capacity or a pool.
void model_route_alone(Model *m, bool alone);
// From now on the loss is that of a draft, by DRAFT_LOSS_...: against the distribution that the teacher has after the
// same tokens, as it writes them (kernels/distill.h). The teacher, of the same vocabulary, stays the caller's; NULL:
// there is none.
void model_learn_from(Model *m, Model *teacher, int draft_loss);
// Of the last model_evaluate, summed over the scored tokens of a row: the share of the draft's guesses that the
// teacher would keep by ratio, 1 - TV. 0 without a teacher.
double model_agreement(const Model *m, size_t row);
// Forward only, and the cross-entropy, whatever is learned from. row_loss as above; if hit is not NULL, hit[b*T+t]
// tells whether the most probable token is the target.
void model_evaluate(Model *m, const int *tokens, const int *targets, size_t B, size_t T, double *row_loss, bool *hit);

// ---- inference ---------------------------------------------------------------------------------
// One step over rows of any lengths: prefill, a chunk of it, decoding, verifying drafts, in any mixture. logits
// [wanted, V], row by row. What a row gets is a function of its own tokens: not of the other rows, of how its past came
// in, or of where it stands. Products see all rows at once; only rotations, states and attention over the past see each
// row. Of mla all of it is read through the latent, from the first token on. Of a model with recurrent states a row's
// past must be one that blocks_resume() allows.
void model_step(Model *m, Blocks *s, const Row *rows, size_t count, real *logits);
// A step in which every row of a cache goes on by n tokens, [rows, n]. logits, for each row's last token only:
// [rows, V]; or, with all_logits, for every new token: [rows, n, V]. cache == NULL: one row, no past, nothing kept, by
// the forward of the training, which expands mla.
void model_infer(Model *m, Cache *cache, const int *tokens, size_t n, bool all_logits, real *logits);
// Stretches the rotations of --pos rope (ops.h). A cache that was filled before is of no use any more.
void model_scale_rope(Model *m, RopeScaling s);
// Attention weights of the last model_infer when asked for: probability[layer][head][query][key] of an
// n x n map, filled during a model_infer with cache == NULL. NULL switches it off. Of a linear mixer: the shares that
// the values have in the output.
void model_record_attention(Model *m, real *probability);
// Likewise state[layer][i][head][K][V]: the recurrent states after the tokens token[0] < token[1] < ... < n
// (K = state_dim, V = head_dim); of layers without any it is left alone.
void model_record_states(Model *m, real *state, const size_t *token, size_t count);
// Likewise expert[layer][token]: the expert with the largest weight in the token's output, -1 where there is none.
void model_record_experts(Model *m, int *expert);
#endif
