// files.h: the files that --data and --val name, and what a file is that we do not read. Included inside data/ only.
#ifndef FILES_H
#define FILES_H
#include "lib/util.h"

typedef enum { FILES_TEXT, FILES_JSONL, FILES_SHARDS } FileKind;   // by the names: .jsonl, .bin, anything else
typedef struct {
    char **path; size_t count;
    FileKind kind;             // of all of them
    bool several;              // found in a directory or by a glob: who named them did not name each
} Files;

// True for what names files and not one of them: "fineweb_train_*.bin", unless there is a file of that very name.
bool files_is_glob(const char *what);

// The files that --data or --val (`flag`, for messages) names: one file; those of a directory whose names end in .txt,
// .jsonl or .bin, without its subdirectories; or those that a glob matches. Hidden files and llm.c's tokenizer.bin are
// passed over. Sorted by the bytes of their paths, whatever the file system says. Fails, status 1 and one line, where
// there are none, where one is no regular file, where one is there twice, and where they are of different kinds.
Files files_find(const char *flag, const char *what);
void files_free(Files *f);

// Which of the files are for validation; count 0: none, so a share at the end of the others is. `val` is what --val
// names, or "". Where it names files, those leave `training`. Else, in a directory or glob where some names hold the
// word train and others val, valid, validation or dev, the latter move over; a name with neither is then refused. Else,
// where the name of the first training file holds train, files beside it that are called the same with val, valid or
// validation are taken; a number behind it may differ (fineweb_train_000001.bin, fineweb_val_000000.bin).
// What then is left to train on holds no name that says val or test where others say train: that is refused, and noted
// where none does.
Files files_for_validation(Files *training, const char *val);

// What these first bytes of a file say that it is, where we know the format and do not read it, with what to do
// instead: "is compressed by gzip; decompress it (gzip -d)". NULL: nothing that we know.
const char *files_foreign(const char *path, const unsigned char *start, size_t bytes);
#endif
