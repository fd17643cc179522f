// shards.h: tokens in .bin files of llm.c or nanoGPT, several in a row. Included inside data/ only.
#ifndef SHARDS_H
#define SHARDS_H
#include "data/files.h"

// One file. It is not kept in memory or open: a row is read when it is asked for, so that a set of any size can be
// trained on, and a file that has changed since it was hashed is noticed.
typedef struct {
    const char *path;          // borrowed from Files
    size_t first, count;       // its tokens are number first .. first+count-1 of all
    size_t header, width;      // bytes
    size_t largest;            // token
    uint64_t size; int64_t changed;     // of the file, when it was hashed
} Shard;
typedef struct { Shard *shard; size_t shards, count, largest; } Shards;    // tokens in all, and the largest of them

// Reads every file once, for the hash and the largest token, and checks it: status 1 and one line for an empty,
// truncated or damaged file, for formats that we do not read, for a file without a header whose numbers are seen to be
// of another type, and for files of different widths.
Shards shards_open(const Files *files, uint64_t *hash);
// Tokens at .. at+count-1, into out. Safe to call from many threads. Fails if the file has changed.
void shards_read(const Shards *s, size_t at, size_t count, int *out);
void shards_free(Shards *s);
#endif
