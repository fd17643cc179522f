// choice.h: which tokenizer a text or a shard gets. Included inside data/ only.
#ifndef CHOICE_H
#define CHOICE_H
#include "config/config.h"
#include "data/texts.h"
#include "data/tokenizer.h"

// loaded: it comes from a file, so that the data's identity depends on that.
typedef struct { Tokenizer *t; bool loaded; } Choice;

// As --tokenizer says; auto is the one of the model in --load, else char, or with a note byte where the text is not
// UTF-8. training: the bytes of the text that are not for validation. Refuses, with status 2, a model to go on from
// without a tokenizer, unless --tokenizer says what to take.
Choice choice_for_text(const Config *config, const Texts *texts, size_t training);
bool choice_is_made(const Config *config);   // --tokenizer byte, char or bpe:N: made from a text

// --tokenizer FILE or DIR, or what lies beside the shard, or in the directory of --load; NULL, with a note if there is
// one that cannot be read: tokens print as numbers.
Tokenizer *choice_for_shard(const Config *config, const char *path);
#endif
