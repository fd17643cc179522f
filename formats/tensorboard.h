// tensorboard.h: TensorBoard's event files: scalars over steps. A file is a row of records, so one may be added to it
// at any time. Format: TensorFlow's record_writer.h for the frames, event.proto and summary.proto for what is in them.
#ifndef TENSORBOARD_H
#define TENSORBOARD_H
#include "lib/util.h"

typedef struct { const char *tag; double value; } Scalar;   // TensorBoard keeps 32 bits of the value

// Both write one record. Whether it could be written is for the caller to ask `out`. wall: seconds since 1970.
void tensorboard_begin(FILE *out, double wall);             // the first of every file
void tensorboard_scalars(FILE *out, double wall, size_t step, const Scalar *scalar, size_t count);
// The time in the first record of a file with these contents; NAN where there is none.
double tensorboard_begun(const char *file, size_t bytes);
#endif
