// files.c: finding the files of --data and --val, telling training from validation, and knowing what we do not read.
#include "data/files.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const char *base_name(const char *path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcasecmp(name + n - m, end) == 0;
}

// ---- collecting --------------------------------------------------------------------------------
static void add(Files *f, char *path) {
    f->path = xrealloc(f->path, size_mul(f->count + 1, sizeof *f->path));
    f->path[f->count++] = path;
}

static void forget(Files *f, size_t i) {
    memmove(f->path + i, f->path + i + 1, (--f->count - i) * sizeof *f->path);
}

void files_free(Files *f) {
    for (size_t i = 0; i < f->count; i++) free(f->path[i]);
    free(f->path);
    *f = (Files){0};
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static void sort(Files *f) {
    if (f->count) qsort(f->path, f->count, sizeof *f->path, by_bytes);
}

static FileKind kind_of(const char *path) {
    if (ends_with(path, ".bin")) return FILES_SHARDS;
    return ends_with(path, ".jsonl") || ends_with(path, ".ndjson") ? FILES_JSONL : FILES_TEXT;
}

// llm.c and our own runs put it beside the tokens.
static bool is_tokenizer(const char *path) { return strcmp(base_name(path), "tokenizer.bin") == 0; }

static bool is_wanted(const char *name) {
    return *name != '.' && !is_tokenizer(name) && (ends_with(name, ".txt") || kind_of(name) != FILES_TEXT);
}

// "dir/name"; a directory may have been typed with its slash.
static char *inside(const char *dir, const char *name) {
    return xprintf("%s%s%s", dir, ends_with(dir, "/") || strcmp(dir, "/") == 0 ? "" : "/", name);
}

// Other files of data, by their names: who names a directory may believe that they are read.
static bool is_other_data(const char *name) {
    static const char *const ends[] = {".gz",  ".zst", ".xz",  ".bz2",  ".lz4", ".zip",     ".json", ".csv",
                                       ".tsv", ".md",  ".npy", ".text", ".pq",  ".parquet", ".arrow"};
    bool tokenizer = strstr(name, "token") || strcmp(name, "config.json") == 0 || strcmp(name, "vocab.json") == 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (*name != '.' && !tokenizer && ends_with(name, ends[i])) return true;
    return false;
}

static Files in_directory(const char *flag, const char *dir) {
    Files f = {.several = true};
    DIR *all = opendir(dir);
    if (!all) fail("--%s %s: the directory cannot be read: %s", flag, dir, strerror(errno));
    Files others = {0};
    for (struct dirent *e; (e = readdir(all));)
        if (is_wanted(e->d_name)) add(&f, inside(dir, e->d_name));
        else if (is_other_data(e->d_name)) add(&others, inside(dir, e->d_name));
    closedir(all);
    sort(&others);
    if (f.count && others.count)
        fprintf(stderr, "note     --%s %s takes files that end in .txt, .jsonl or .bin, and passes over %s%s\n", flag,
                dir, others.path[0], others.count == 1 ? "" : xprintf(" and %zu like it", others.count - 1));
    files_free(&others);
    if (!f.count)
        fail("--%s %s is a directory without .txt, .jsonl or .bin files (its subdirectories are not looked into); a "
             "quoted glob such as '%s' names others", flag, dir, inside(dir, "*.md"));
    return f;
}

bool files_is_glob(const char *what) {
    struct stat s;
    return strpbrk(what, "*?[") && stat(what, &s) != 0;
}

static Files matching(const char *flag, const char *pattern) {
    Files f = {.several = true};
    glob_t found;
    int status = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (status == GLOB_NOSPACE) fail("--%s %s: out of memory while looking for files", flag, pattern);
    for (size_t i = 0; status == 0 && i < found.gl_pathc; i++)
        if (!is_tokenizer(found.gl_pathv[i])) add(&f, xprintf("%s", found.gl_pathv[i]));
    if (status == 0) globfree(&found);
    if (!f.count) fail("--%s %s: neither a file nor a pattern that files match", flag, pattern);
    return f;
}

// ---- checking ----------------------------------------------------------------------------------
static struct stat about(const char *flag, const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) fail("--%s: cannot read %s: %s", flag, path, strerror(errno));
    return s;
}

static void check_regular(const char *flag, const Files *f) {
    for (size_t i = 0; i < f->count; i++) {
        mode_t mode = about(flag, f->path[i]).st_mode;
        if (S_ISDIR(mode)) fail("--%s: %s is a directory; files were expected", flag, f->path[i]);
        if (!S_ISREG(mode))
            fail("--%s: %s is not a regular file, which has an end and can be read again", flag, f->path[i]);
    }
}

static void check_kinds(const char *flag, const char *what, Files *f) {
    f->kind = kind_of(f->path[0]);
    for (size_t i = 1; i < f->count; i++)
        if (kind_of(f->path[i]) != f->kind)
            fail("--%s %s: %s and %s are of different kinds; name one kind with a quoted glob such as '*.txt'", flag,
                 what, f->path[0], f->path[i]);
}

// A file as the system knows it, whatever path leads to it.
typedef struct { dev_t device; ino_t number; const char *path; } Identity;

static int by_identity(const void *a, const void *b) {
    const Identity *x = a, *y = b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static Identity identity(const char *flag, const char *path) {
    struct stat s = about(flag, path);
    return (Identity){s.st_dev, s.st_ino, path};
}

static Identity *identities(const char *flag, const Files *f) {
    Identity *all = xmalloc(size_mul(f->count, sizeof *all));
    for (size_t i = 0; i < f->count; i++) all[i] = identity(flag, f->path[i]);
    if (f->count) qsort(all, f->count, sizeof *all, by_identity);
    return all;
}

static void check_distinct(const char *flag, const Files *f) {
    Identity *all = identities(flag, f);
    for (size_t i = 1; i < f->count; i++)
        if (by_identity(&all[i - 1], &all[i]) == 0)
            fail("--%s: %s and %s are one file, which would be read twice", flag, all[i - 1].path, all[i].path);
    free(all);
}

Files files_find(const char *flag, const char *what) {
    struct stat s;
    Files f = {0};
    bool there = stat(what, &s) == 0;
    if (!there && files_is_glob(what)) f = matching(flag, what);
    else if (!there) fail("--%s: cannot read %s: %s", flag, what, strerror(errno));
    else if (S_ISDIR(s.st_mode)) f = in_directory(flag, what);
    else add(&f, xprintf("%s", what));
    sort(&f);
    check_regular(flag, &f);
    check_kinds(flag, what, &f);
    check_distinct(flag, &f);
    return f;
}

// ---- training and validation ---------------------------------------------------------------------
// Whether a word of the name, a run of letters, is one of these.
static bool has_word(const char *path, const char *const *words, size_t count) {
    for (const char *at = base_name(path); *at;) {
        size_t n = 0;
        while (isalpha((unsigned char)at[n])) n++;
        for (size_t i = 0; i < count; i++)
            if (strlen(words[i]) == n && strncasecmp(at, words[i], n) == 0) return true;
        at += n ? n : 1;
    }
    return false;
}

static bool says_train(const char *path) { return has_word(path, (const char *const[]){"train", "training"}, 2); }
static bool says_validation(const char *path) {
    return has_word(path, (const char *const[]){"val", "valid", "validation", "dev"}, 4);
}

static bool says_test(const char *path) {
    return has_word(path, (const char *const[]){"test", "testing", "eval", "heldout"}, 4);
}

static void move(Files *to, Files *from, size_t i) {
    to->kind = from->kind;
    add(to, from->path[i]);
    forget(from, i);
}

// Moves those whose names say so, if others say train.
static Files by_their_names(Files *training) {
    Files validation = {.several = true};
    size_t trains = 0, validations = 0;
    for (size_t i = 0; i < training->count; i++) {
        trains += says_train(training->path[i]);
        validations += says_validation(training->path[i]);
    }
    if (!trains || !validations) return validation;
    for (size_t i = 0; i < training->count;) {
        const char *path = training->path[i];
        bool train = says_train(path), other = says_validation(path);
        if (train == other)
            fail("%s: is it for training or for validation? other names beside it say train or val; choose with quoted "
                 "globs for --data and --val", path);
        if (other) move(&validation, training, i);
        else i++;
    }
    return validation;
}

// Equal but for the numbers in them.
static bool same_but_numbers(const char *a, const char *b) {
    for (; *a && *b; ) {
        bool numbers = isdigit((unsigned char)*a) && isdigit((unsigned char)*b);
        if (!numbers && *a++ != *b++) return false;
        for (; numbers && isdigit((unsigned char)*a); a++) {}
        for (; numbers && isdigit((unsigned char)*b); b++) {}
    }
    return *a == *b;
}

// Those in `dir` that are called `start`, then as `end` says, whatever its numbers.
static Files called(const char *dir, const char *start, const char *end, FileKind kind) {
    Files f = {.kind = kind, .several = true};
    size_t n = strlen(start);
    DIR *all = opendir(dir);
    for (struct dirent *e; all && (e = readdir(all));)
        if (strncmp(e->d_name, start, n) == 0 && same_but_numbers(e->d_name + n, end))
            add(&f, *dir == '.' && !dir[1] ? xprintf("%s", e->d_name) : inside(dir, e->d_name));
    if (all) closedir(all);
    sort(&f);
    return f;
}

// "x_train_000001.bin": "x_val_000001.bin" if there is such a file, else all x_val_NUMBER.bin.
static Files beside(const char *path, FileKind kind, const char *word) {
    const char *base = base_name(path), *found = NULL;
    for (const char *p = base; (p = strstr(p, "train")); p++) found = p;
    if (!found) return (Files){0};
    const char *end = found + strlen("train");
    char *exact = xprintf("%.*s%s%s", (int)(found - path), path, word, end);
    Files f = {.kind = kind};
    if (file_exists(exact)) {
        add(&f, exact);
        return f;
    }
    char *dir = base == path ? xprintf(".") : xprintf("%.*s", (int)(base - path), path);
    char *start = xprintf("%.*s%s", (int)(found - base), base, word);
    f = called(dir, start, end, kind);
    free(exact), free(dir), free(start);
    return f;
}

static bool holds(const Files *f, const char *path) {
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->path[i], path) == 0) return true;
    return false;
}

// Those beside all of them: "trainset.txt" has "valset.txt", in which val is no word.
static Files beside_all(const Files *training, const char *word) {
    Files f = {.kind = training->kind, .several = true};
    for (size_t i = 0; i < training->count; i++) {
        Files some = beside(training->path[i], training->kind, word);
        for (size_t j = 0; j < some.count; j++)
            if (!holds(&f, some.path[j])) add(&f, some.path[j]);
    }
    if (f.count) sort(&f);
    return f;
}

// What --val names is not trained on, also where --data names all files of a directory.
static void leave_out(Files *training, const Files *validation) {
    Identity *held = identities("val", validation);
    for (size_t i = 0; i < training->count;) {
        Identity key = identity("data", training->path[i]);
        bool found = bsearch(&key, held, validation->count, sizeof *held, by_identity) != NULL;
        if (found && !training->several)
            fail("--val: %s is what --data names; nothing would be left to train on", training->path[i]);
        if (found) free(training->path[i]), forget(training, i);
        else i++;
    }
    free(held);
    if (!training->count) fail("--val names all files of --data; nothing would be left to train on");
}

static Files named_for_validation(Files *training, const char *val) {
    Files validation = files_find("val", val);
    leave_out(training, &validation);
    Files rest = by_their_names(training);
    if (rest.count)
        fail("%s is for validation by its name, and --val %s does not name it; choose what --data reads with a quoted "
             "glob", rest.path[0], val);
    if (validation.kind != training->kind)
        fail("--val: %s and %s are of different kinds", validation.path[0], training->path[0]);
    return validation;
}

static Files found_for_validation(Files *training) {
    static const char *const words[] = {"val", "valid", "validation"};
    Files f = training->several ? by_their_names(training) : (Files){0};
    for (size_t i = 0; i < sizeof words / sizeof *words && !f.count; i++)
        f = training->several ? beside_all(training, words[i]) : beside(training->path[0], training->kind, words[i]);
    if (f.count) check_regular("data", &f);
    if (f.count && training->several) leave_out(training, &f);
    return f;
}

// Of files that somebody did not name one by one, those that are to be kept apart by their names are not trained on.
static void refuse_held_out(const Files *training) {
    size_t held = 0, last = 0, trains = 0;
    for (size_t i = 0; i < training->count; i++) {
        bool test = says_test(training->path[i]) || says_validation(training->path[i]);
        trains += says_train(training->path[i]) && !test;
        if (test && !says_train(training->path[i])) held++, last = i;
    }
    if (!training->several || !held || held == training->count) return;
    const char *path = training->path[last];
    if (trains)
        fail("%s would be trained on, but by its name it is kept apart from what names beside it say train; --val '%s' "
             "validates on it, or choose what --data reads with a quoted glob such as '*train*'", path, path);
    fprintf(stderr, "note     %s is trained on, as all %zu files are, though by its name it may be kept apart; "
            "--val '%s' validates on it\n", path, training->count, path);
}

Files files_for_validation(Files *training, const char *val) {
    Files f = *val ? named_for_validation(training, val) : found_for_validation(training);
    refuse_held_out(training);
    return f;
}

// ---- what we do not read -------------------------------------------------------------------------
// What files hold at a certain place, from the formats' own descriptions.
typedef struct { size_t at, bytes; const char *magic, *about; } Magic;
#define TOKENS "tokenise it and write llm.c's .bin (docs/FORMATS.md)"
static const Magic magics[] = {
    {0, 4, "\xFF\xFE\0\0", "is UTF-32; convert it (iconv -f UTF-32 -t UTF-8)"},
    {0, 4, "\0\0\xFE\xFF", "is UTF-32; convert it (iconv -f UTF-32 -t UTF-8)"},
    {0, 2, "\xFF\xFE", "is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"},
    {0, 2, "\xFE\xFF", "is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"},
    {0, 3, "\x1F\x8B\x08", "is compressed by gzip; decompress it (gzip -d)"},
    {0, 4, "\x28\xB5\x2F\xFD", "is compressed by zstd; decompress it (zstd -d)"},
    {0, 6, "\xFD" "7zXZ\0", "is compressed by xz; decompress it (xz -d)"},
    {0, 4, "\x04\x22\x4D\x18", "is compressed by lz4; decompress it (lz4 -d)"},
    {0, 6, "7z\xBC\xAF\x27\x1C", "is a 7z archive; unpack it"},
    {4, 6, "\x31\x41\x59\x26\x53\x59", "is compressed by bzip2; decompress it (bzip2 -d)"},
    {0, 4, "PK\3\4", "is a zip archive (.zip, .npz, .docx, a checkpoint of PyTorch); unpack it, and give the text"},
    {257, 5, "ustar", "is a tar archive; unpack it (tar -xf)"},
    {0, 6, "\x93NUMPY", "is an array of NumPy; write its numbers without its header, as uint16 (array.astype('uint16')"
                        ".tofile('NAME.bin')), or as llm.c's .bin (docs/FORMATS.md)"},
    {0, 4, "PAR1", "is Parquet; write its text as JSONL (pandas: to_json(lines=True, orient='records'))"
                   " and give --field"},
    {0, 6, "ARROW1", "is Arrow; write its text as JSONL (datasets: to_json) and give --field"},
    {0, 4, "\xFF\xFF\xFF\xFF", "is a stream of Arrow; write its text as JSONL (datasets: to_json) and give --field"},
    {4, 6, "\0\0\0\0{\"", "is safetensors, which holds weights and no text; --load takes a checkpoint's directory"},
    {0, 4, "GGUF", "is GGUF, which holds weights and no text"},
    {0, 8, "\x89HDF\r\n\x1A\n", "is HDF5; " TOKENS},
    {0, 15, "SQLite format 3", "is a database of SQLite; write its text as JSONL and give --field"},
    {0, 5, "%PDF-", "is a PDF; extract its text (pdftotext)"},
    {0, 42, "version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS; fetch the file (git lfs pull)"},
};

// Protocols 4 and 5 of pickle: opcode, protocol, and a frame with its length in 64 bits, far below 2^32.
static bool is_pickle(const unsigned char *p, size_t n) {
    return n > 10 && p[0] == 0x80 && (p[1] == 4 || p[1] == 5) && p[2] == 0x95 && memcmp(p + 7, "\0\0\0\0", 4) == 0;
}

const char *files_foreign(const char *path, const unsigned char *start, size_t bytes) {
    bool text = kind_of(path) != FILES_SHARDS;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++) {
        const Magic *m = &magics[i];
        bool mark = m->bytes == 2;          // of a text; in a shard it may be any token
        if (bytes >= m->at + m->bytes && memcmp(start + m->at, m->magic, m->bytes) == 0 && (text || !mark))
            return m->about;
    }
    return is_pickle(start, bytes) ? "is a pickle of Python; " TOKENS : NULL;
}
