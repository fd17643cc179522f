// tier.h: a swap area on disk. Blocks are read back from the disk itself: what the system still has of them in its page
// cache is dropped, so that the time is that of a tier, and not of a copy in memory.
#ifndef TIER_H
#define TIER_H
#include "lib/util.h"

typedef struct {
    int file;
    size_t bytes, step, written, read;       // of a place; from one to the next: whole pages; of all in all
    double writing, reading;                 // seconds
    char *held;                              // a place on its way
} Tier;

// A new file of `places` times `bytes`, which has no name any more once it is open: it goes when the program does.
// Fails where a file is already, where there is no room, and in memory (tmpfs), where nothing could be dropped.
Tier *tier_open(const char *path, size_t places, size_t bytes);
void tier_close(Tier *t);
void tier_write(Tier *t, size_t place);      // t->held
void tier_read(Tier *t, size_t place);
#endif
