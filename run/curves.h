// curves.h: the pictures of a run, drawn from its log.jsonl, so that they show a resumed run whole.
#ifndef CURVES_H
#define CURVES_H
#include "lib/util.h"

// loss.png: training and validation loss, with the floor where it is known (else NAN). experts.png: the
// share of the tokens that every expert got, where the log has it. depth.png: how the residual stream grows from layer
// to layer, with --log-layers.
void curves_draw(const char *dir, const char *title, const char *subtitle, double floor);
#endif
