// pattern.h: the regular expressions by which byte-level tokenizers cut a text: a choice of sequences of character
// sets, each with a count. As in Oniguruma, which the library of tokenizers uses, the first alternative that fits wins
// and counts are greedy.
//
// Known: | (?:) (?i:) of the English contractions, (?!) (?=), sets with ranges and ^, \p{L} \P{L} \s \S \d \D \r \n \t,
// escaped signs, and behind a set ? * + {n} {n,} {n,m}, with a + behind ? * + without going back. A group may only have
// a ?. Anything else is refused, so a pattern that is read means what it says.
#ifndef PATTERN_H
#define PATTERN_H
#include "lib/util.h"

typedef struct Pattern Pattern;
// NULL, and why in *problem, where it is not known.
Pattern *pattern_compile(const char *pattern, size_t bytes, const char **problem);
// The bytes that it takes from the start of a valid UTF-8 text; 0: it does not fit there; SIZE_MAX: a search that goes
// back so often that it would not end soon.
size_t pattern_match(const Pattern *p, const char *text, size_t bytes);
void pattern_free(Pattern *p);
#endif
