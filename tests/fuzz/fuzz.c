// fuzz.c: runs one input and watches it. The calls of our code to exit() and to the allocator come here
// (ld --wrap), so that a failure returns to the fuzzer, what it leaves behind is freed, and memory is counted.
#include "tests/fuzz/fuzz.h"
#include <fcntl.h>
#include <jansson.h>
#include <malloc.h>
#include <omp.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const Target fuzz_targets[] = {
    {"safetensors", NULL, {read_safetensors}, false},
    {"header", NULL, {read_header}, false},
    {"weights", prepare_models, {load_gpt2, load_deepseek, load_ours}, false},
    {"index", prepare_models, {load_shards}, false},
    {"gguf", prepare_ggufs, {read_gguf, load_gguf, open_gguf_tokens}, false},
    {"config", NULL, {open_config, load_config}, false},
    {"run", prepare_run, {enter_run, verify_run}, false},
    {"state", prepare_run, {resume_state}, false},
    {"log", prepare_log, {resume_log, draw_log, verify_log}, false},
    {"shard", NULL, {open_shard, open_shards, open_several}, false},
    {"jsonl", NULL, {open_lines, open_named_lines}, false},
    {"text", NULL, {open_text}, false},
    {"tokenizer", NULL, {decode_tokens, encode_text}, false},
    {"openai", NULL, {read_completion, read_chat, read_tokens}, false},
    {"http", prepare_http, {ask_server}, false},
    {"serve", NULL, {serve_command}, true},
    {"trace", NULL, {read_trace}, false},
    {"cost", NULL, {read_cost}, false},
    {"train", NULL, {train_command}, true},
    {"generate", prepare_generate, {generate_command}, true},
    {NULL, NULL, {NULL}, false},
};

static const Target *target;
static bool watching;              // inside a body
static jmp_buf back;
static char scratch[256];

_Noreturn void fuzz_fault(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "fault: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    abort();
}

// ---- memory ------------------------------------------------------------------------------------
// A byte of JSON can cost about a hundred: `{},` becomes an object with an empty hash table. The constant
// part has room for a reader's first buffer and for the pairs that BPE counts.
enum { FIXED_BYTES = 4 << 20, PER_BYTE = 160, ASKED_BYTES = 1 << 20, MOST_BLOCKS = 1 << 20 };
static size_t live, allowed;       // bytes
static void *block[MOST_BLOCKS];   // everything allocated by this input; some of it is free by now
static size_t blocks;

int __sanitizer_get_ownership(const volatile void *p);   // of AddressSanitizer; GCC installs no header for it
void __asan_describe_address(void *p);
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t each);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *p);
_Noreturn void __real_exit(int status);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t each);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __wrap_free(void *p);
_Noreturn void __wrap_exit(int status);

// Whether `bytes` more may be had.
static bool granted(size_t bytes) {
    if (!watching || (bytes <= allowed && live <= allowed - bytes)) return true;
    if (target->asks) return false;
    fuzz_fault("a reader holds %zu bytes and asks for %zu more; its input explains %zu", live, bytes, allowed);
}

static void *noted(void *p) {
    if (!watching || !p) return p;
    if (blocks == MOST_BLOCKS) fuzz_fault("more than %d allocations", MOST_BLOCKS);
    live += malloc_usable_size(p);
    return block[blocks++] = p;
}

static void forgotten(void *p) {
    size_t bytes = watching && p ? malloc_usable_size(p) : 0;
    live -= bytes < live ? bytes : live;
}

void *__wrap_malloc(size_t bytes) { return granted(bytes) ? noted(__real_malloc(bytes)) : NULL; }
void *__wrap_calloc(size_t count, size_t each) {
    size_t bytes;
    if (__builtin_mul_overflow(count, each, &bytes)) bytes = SIZE_MAX;
    return granted(bytes) ? noted(__real_calloc(count, each)) : NULL;
}
void *__wrap_realloc(void *old, size_t bytes) {
    if (!granted(bytes)) return NULL;
    forgotten(old);
    return noted(__real_realloc(old, bytes));
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return granted(bytes) ? noted(__real_aligned_alloc(alignment, bytes)) : NULL;
}
void __wrap_free(void *p) {
    forgotten(p);
    __real_free(p);
}

// A block may be in the list twice, when its place was free for a while.
static void free_blocks(void) {
    while (blocks > 0)
        if (__sanitizer_get_ownership(block[--blocks])) __real_free(block[blocks]);
}

// By address: what a library frees for us is not counted.
void fuzz_check_freed(void) {
    for (size_t i = 0; watching && i < blocks; i++)
        if (__sanitizer_get_ownership(block[i])) {
            __asan_describe_address(block[i]);
            fuzz_fault("memory is never freed");
        }
}

// ---- failures ----------------------------------------------------------------------------------
void __wrap_exit(int status) {
    if (watching) longjmp(back, 1);
    __real_exit(status);
}

static void check_message(int status, const char *message) {
    (void)status;
    if (!*message) fuzz_fault("a failure without a message");
    for (const char *c = message; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) fuzz_fault("a message with a control character: %s", message);
    longjmp(back, 1);
}

// ---- the scratch directory ---------------------------------------------------------------------
const char *fuzz_path(const char *name) { return xprintf("%s/%s", scratch, name); }

static void put(const char *path, const void *a, size_t a_bytes, const char *b, size_t b_bytes) {
    int f = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool written = f >= 0 && write(f, a, a_bytes) == (ssize_t)a_bytes && write(f, b, b_bytes) == (ssize_t)b_bytes;
    if (!written || close(f) != 0) fuzz_fault("cannot write %s", path);
}

void fuzz_put(const char *path, const char *input, size_t bytes) { put(path, input, bytes, "", 0); }

void fuzz_put_tensors(const char *path, const char *input, size_t bytes) {
    const char *end = memchr(input, '\n', bytes);
    uint64_t header = end ? (uint64_t)(end - input) : bytes;
    size_t data = bytes - header - (end != NULL);
    char *file = xmalloc(8 + bytes);
    memcpy(file, &header, 8);
    memcpy(file + 8, input, header);
    memcpy(file + 8 + header, input + bytes - data, data);
    fuzz_put(path, file, 8 + header + data);
    free(file);
}

static void remove_scratch(void) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", scratch);
}

// ---- running -----------------------------------------------------------------------------------
void fuzz_begin(const char *name) {
    for (target = fuzz_targets; target->name && strcmp(target->name, name) != 0;) target++;
    if (!target->name) fail("there is no fuzz target '%s'", name);
    const char *temporary = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/receipts-fuzz-XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(scratch) || chdir(scratch) != 0) fail("cannot make %s", scratch);
    atexit(remove_scratch);
    json_set_alloc_funcs(__wrap_malloc, __wrap_free);
    json_object_seed(1);           // the same input runs the same way every time
    omp_set_num_threads(1);
    if (!freopen("/dev/null", "w", stdout)) fail("cannot open /dev/null");
    if (target->prepare) target->prepare();
}

static void run_body(int i, const char *input, size_t bytes) {
    live = 0, allowed = target->asks ? ASKED_BYTES : FIXED_BYTES + PER_BYTE * bytes;
    fail_hook = check_message;
    watching = true;
    if (setjmp(back) == 0) target->body[i](input, bytes);
    watching = false;
    free_blocks();
    fail_hook = NULL;
}

void fuzz_one(const char *input, size_t bytes) {
    for (int i = 0; i < MOST_BODIES && target->body[i]; i++) run_body(i, input, bytes);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *name = getenv("TARGET");
    fuzz_begin(name ? name : "");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes) {
    fuzz_one((const char *)input, bytes);
    return 0;
}
