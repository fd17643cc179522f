// report.h: what a run says about itself: the banner at its start, the sections of run.json, what a
// mixture of experts or a deep stack adds to the log, and the receipt at its end. Words and JSON only.
#ifndef REPORT_H
#define REPORT_H
#include "data/data.h"
#include "run/run.h"
#include "model.h"

typedef struct {
    const Config *config;
    const Data *data;
    const ModelSize *size;
    double peak;               // FLOP/s of the fused multiply-adds of all threads
    double source_loss;        // what the source itself would score on the validation rows, or NAN
    const char *command;       // as typed
    size_t resident;           // bytes of program and data, before there is a model
    double acceptance;         // with --teacher: the share of guesses that it would keep, of the last validation
} Facts;

char *report_command(int argc, char **argv);             // quoted for a shell
// Measures the machine. Call it before there is a model.
Facts report_facts(const Config *c, const Data *d, const ModelSize *size, int argc, char **argv);
char *report_label(const char *data);                    // "stories", or a file's name without folders and ending
// One line where the run or checkpoint that --load names had another tokenizer.
void report_loaded_tokenizer(const Config *c, const Tokenizer *t, FILE *out);
// One line where it was trained on rows of another length.
void report_loaded_context(const Config *c, FILE *out);
// Fails unless the draft's tokens mean what those of the run mean; a note where that cannot be known.
void report_draft(const char *draft, size_t draft_vocab, const char *run, size_t vocab, const Tokenizer *words);
void report_rounding(const Config *c, ModelSize s, FILE *out);     // a line, if there is --quant
uint64_t report_weights_hash(Model *m);                  // of all its numbers, by name; NULL: 0
// Fails, with the advice, if a finished run that has no hashes of its files holds other weights than it ended with.
void report_check_weights(Model *m, const char *dir, const char *advice);
void report_banner(const Facts *f, FILE *out);
// One line where a router cannot do in generation what it did in training: what it does instead, what that loses.
void report_writing(const Config *c, FILE *out);
void report_describe(const Facts *f, json_t *run_json);  // adds "data", "model" and "machine"
void report_json(const Facts *f, FILE *out);             // all that a run.json knows beforehand: --dry-run json
json_t *report_experts(Model *m);                        // load, entropy, ... of every layer that has experts
// RMS of the residual stream, gradient norm and update-to-weight ratio of every layer. before: the
// values before the last update (overwritten); squares [layers]: of the `numbers` numbers of the stream.
json_t *report_layers(Model *m, real *before, const double *squares, size_t numbers);
// Prints what --profile recorded, draws roofline.png, adds "profile" to run.json.
void report_profile(const Facts *f, Run *run);
// Says that a run is there already, with its receipt, and what of these flags does not hold for it. The receipt is
// computed again from its state and its log; fails if it is not the recorded one.
void report_finished(const Facts *f, const Run *run, FILE *out);
// Draws the curves of a run that has its receipt, and then takes the peak of memory again. asked: the flags, in words.
void report_curves(const Facts *f, Run *run, const char *asked);
// Adds "final", "hashes", "digest" and "receipt" to run.json; the text belongs to it. With --digest the hashes go to
// `out`.
const char *report_receipt(const Facts *f, const RunTensors *t, const RunState *s, json_t *run_json, FILE *out);
#endif
