// fuzz.h: everything that reads a file or a flag is fed with inputs that a fuzzer makes up. Whatever the
// input, a reader ends by itself or in fail() with one line, and never asks for more memory than the size
// of its input explains.
//     make fuzz        libFuzzer, RUNS executions of each target (needs clang)
//     make replay      the inputs in tests/fuzz/corpus/TARGET once more, with any compiler
// fuzz.c holds the watch over memory and exits, readers.c the files, commands.c and requests.c the
// command lines, and what requests are read from, sockets.c what comes to the server.
#ifndef FUZZ_H
#define FUZZ_H
#include "lib/util.h"

enum { MOST_BODIES = 3 };
typedef struct {
    const char *name;                                   // as its folder in tests/fuzz/corpus
    void (*prepare)(void);                              // once, before all inputs; NULL: nothing to prepare
    void (*body[MOST_BODIES])(const char *input, size_t bytes);   // run one after the other, each on its own
    bool asks;              // a command line may ask for any size: too much is "out of memory" and no fault
} Target;
extern const Target fuzz_targets[];                     // the last one has no name

void fuzz_begin(const char *name);                      // chooses the target, makes the scratch directory
void fuzz_one(const char *input, size_t bytes);
const char *fuzz_path(const char *name);                // inside the scratch directory
void fuzz_check_freed(void);                            // a finding, unless the body has freed all that it allocated
_Noreturn void fuzz_fault(const char *format, ...) PRINTF_LIKE(1, 2);   // a finding: aborts

// Puts the input into the scratch directory as a file; fuzz_put_tensors as safetensors, made of a line
// of JSON and what follows it, so that the fuzzer need not guess the length of the header.
void fuzz_put(const char *path, const char *input, size_t bytes);
void fuzz_put_tensors(const char *path, const char *input, size_t bytes);

// readers.c
void prepare_models(void), prepare_ggufs(void), prepare_run(void), prepare_log(void);
void read_safetensors(const char *input, size_t bytes), read_header(const char *input, size_t bytes);
void load_gpt2(const char *input, size_t bytes), load_deepseek(const char *input, size_t bytes);
void load_ours(const char *input, size_t bytes), load_shards(const char *input, size_t bytes);
void read_gguf(const char *input, size_t bytes), load_gguf(const char *input, size_t bytes);
void open_gguf_tokens(const char *input, size_t bytes);
void open_config(const char *input, size_t bytes), load_config(const char *input, size_t bytes);
void enter_run(const char *input, size_t bytes), verify_run(const char *input, size_t bytes);
void resume_state(const char *input, size_t bytes), resume_log(const char *input, size_t bytes);
void draw_log(const char *input, size_t bytes), verify_log(const char *input, size_t bytes);
void open_shard(const char *input, size_t bytes), open_shards(const char *input, size_t bytes);
void open_several(const char *input, size_t bytes), open_text(const char *input, size_t bytes);
void open_lines(const char *input, size_t bytes), open_named_lines(const char *input, size_t bytes);
void decode_tokens(const char *input, size_t bytes), encode_text(const char *input, size_t bytes);
void read_completion(const char *input, size_t bytes);
void read_chat(const char *input, size_t bytes), read_tokens(const char *input, size_t bytes);
// requests.c
void serve_command(const char *input, size_t bytes);
void read_trace(const char *input, size_t bytes), read_cost(const char *input, size_t bytes);
// sockets.c
void prepare_http(void);
void ask_server(const char *input, size_t bytes);
// commands.c
void prepare_generate(void);
void train_command(const char *input, size_t bytes), generate_command(const char *input, size_t bytes);
#endif
