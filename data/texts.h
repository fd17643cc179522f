// texts.h: documents from text files and from JSONL. Included inside data/ only.
#ifndef TEXTS_H
#define TEXTS_H
#include "data/files.h"

// Documents one after the other in one text, with SEPARATOR between them: what a vocabulary is made of. Each file of
// plain text is a document; so is each line of JSONL, of which one field is taken.
#define SEPARATOR "\n\n"
typedef struct { size_t start, file; } Document;           // it ends where the next one's separator begins
typedef struct {
    char *text; size_t bytes, room;
    Document *document; size_t documents, documents_room;
    const char **path; size_t files;                       // borrowed from Files
    size_t bad_at, bad_file;                               // the first byte that is not UTF-8, in its file;
    unsigned char bad; bool has_bad;                       // ... if there is one
} Texts;                                                   // {0} is empty

// Adds the documents of the files. field: JSONL's, or "" for plain text. any_bytes: take what cannot be a text too, as
// --tokenizer byte does. Otherwise fails, naming the file and the byte or line: on a format that we do not read, on
// NUL, on JSONL without a field, and on lines that do not have the field as a text. `files` has to outlive `t`.
void texts_add(Texts *t, const Files *files, const char *field, bool any_bytes);
size_t texts_end(const Texts *t, size_t document);         // where it ends in the text
void texts_free(Texts *t);
#endif
