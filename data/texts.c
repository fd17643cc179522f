// texts.c: documents from text files and from JSONL (one JSON object a line, https://jsonlines.org).
//
// A text is refused where it cannot be one: a format that we know and do not read, a NUL (no text has one; UTF-16 has
// one beside every ASCII character), JSON lines without --field. A byte that is not UTF-8 is only noted here: with
// byte-level tokenizers it is a token as any other.
#include "data/texts.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// ---- a growing text ------------------------------------------------------------------------------
static void make_room(Texts *t, size_t bytes) {
    size_t needed = size_add(t->bytes, bytes);
    if (needed <= t->room) return;
    t->room = needed > t->room * 2 ? needed : t->room * 2;
    t->text = xrealloc(t->text, t->room);
}

static void append(Texts *t, const char *bytes, size_t count) {
    make_room(t, count);
    if (count) memcpy(t->text + t->bytes, bytes, count);
    t->bytes += count;
}

static void begin_document(Texts *t) {
    if (t->documents) append(t, SEPARATOR, strlen(SEPARATOR));
    if (t->documents == t->documents_room) {
        t->documents_room = size_mul(t->documents_room + 8, 2);
        t->document = xrealloc(t->document, size_mul(t->documents_room, sizeof *t->document));
    }
    t->document[t->documents++] = (Document){t->bytes, t->files - 1};
}

size_t texts_end(const Texts *t, size_t document) {
    bool last = document + 1 == t->documents;
    return last ? t->bytes : t->document[document + 1].start - strlen(SEPARATOR);
}

void texts_free(Texts *t) {
    free(t->text), free(t->document), free(t->path);
    *t = (Texts){0};
}

// ---- what cannot be a text -----------------------------------------------------------------------
static void refuse_foreign(const char *path, const char *text, size_t bytes) {
    const char *about = files_foreign(path, (const unsigned char *)text, bytes);
    if (about) fail("%s %s; to train on its bytes as they are, give --tokenizer byte", path, about);
}

// NULs at every second or fourth place are the high bytes of ASCII characters in UTF-16 and UTF-32; at the first place
// they are of the big-endian forms.
static const char *nul_advice(const char *text, size_t bytes) {
    size_t nuls = 0, some = smaller(bytes, 4096);
    for (size_t i = 0; i < some; i++) nuls += text[i] == '\0';
    bool wide = nuls * 8 > some * 5, big = text[0] == '\0';
    if (nuls * 8 <= some * 2) return "";
    return wide ? big ? "; it looks like UTF-32: convert it (iconv -f UTF-32BE -t UTF-8)"
                      : "; it looks like UTF-32: convert it (iconv -f UTF-32LE -t UTF-8)"
           : big ? "; it looks like UTF-16: convert it (iconv -f UTF-16BE -t UTF-8)"
                 : "; it looks like UTF-16: convert it (iconv -f UTF-16LE -t UTF-8)";
}

static void refuse_nul(const char *path, const char *text, size_t bytes) {
    const char *nul = bytes ? memchr(text, '\0', bytes) : NULL;
    if (nul)
        fail("%s: byte %zu is NUL, which no text has%s; to train on any bytes, give --tokenizer byte", path,
             (size_t)(nul - text), nul_advice(text, bytes));
}

static void note_bad_byte(Texts *t, const char *text, size_t bytes) {
    size_t at = utf8_valid_length(text, bytes);
    if (at == bytes || t->has_bad) return;
    t->has_bad = true, t->bad_at = at, t->bad_file = t->files - 1, t->bad = (unsigned char)text[at];
}

// Whole numbers of any size: ids of more than 63 bits are common, and nobody reads them here.
enum { LINE_FLAGS = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL };

// The line that starts here as an object, or NULL.
static json_t *object_in_line(const char *line, const char *end) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    json_t *value = *line == '{' ? json_loadb(line, (size_t)((stop ? stop : end) - line), LINE_FLAGS, NULL) : NULL;
    if (json_is_object(value)) return value;
    json_decref(value);
    return NULL;
}

// "id, text, url": what --field may be, for messages; malloc'd.
static char *fields_of(const json_t *object) {
    char *all = xprintf("%s", "");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        char *longer = xprintf("%s%s%s", all, *all ? ", " : "", key);
        free(all);
        all = longer;
    }
    return all;
}

// Two lines that are objects, or one that is all of a file whose name says JSONL.
static void refuse_json_lines(const char *path, FileKind kind, const char *text, size_t bytes) {
    const char *end = text + bytes, *second = bytes ? memchr(text, '\n', bytes) : NULL;
    json_t *one = bytes ? object_in_line(text, end) : NULL;
    json_t *two = one && second && second + 1 < end ? object_in_line(second + 1, end) : NULL;
    if (two || kind == FILES_JSONL)
        fail("%s holds lines of JSON; give --field NAME for the field that is the text%s%s%s, or --tokenizer byte to "
             "train on the lines as they are", path, one ? " (its first line has " : "", one ? fields_of(one) : "",
             one ? ")" : "");
    json_decref(one);
}

// ---- tables and JSON that is one value ---------------------------------------------------------------
// The first and the last byte that are no blanks.
static bool is_enclosed(const char *text, size_t bytes, char open, char close) {
    size_t from = 0;
    while (from < bytes && strchr(" \t\r\n", text[from])) from++;
    while (bytes > from && strchr(" \t\r\n", text[bytes - 1])) bytes--;
    return bytes > from + 1 && text[from] == open && text[bytes - 1] == close;
}

// A list of texts or objects, or an object of several lines: somebody's data, not somebody's text.
static void refuse_json_value(const char *path, const char *text, size_t bytes) {
    bool mark = bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0;
    if (mark) text += 3, bytes -= 3;
    bool array = is_enclosed(text, bytes, '[', ']'), object = is_enclosed(text, bytes, '{', '}');
    json_t *value = array || object ? json_loadb(text, bytes, LINE_FLAGS & ~JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_t *first = json_array_get(value, 0);
    bool texts = json_is_string(first), line = object && !memchr(text, '\n', bytes - 1);
    if (json_is_array(value) && first)
        fail("%s is one array of JSON; write a line for each of its documents (jq -c '.[]%s' %s > NAME.jsonl) and give "
             "--field %s, or --tokenizer byte to train on the file as it is", path,
             texts ? " | {text: .}" : "", path, texts ? "text" : "NAME");
    if (json_is_object(value) && !line)
        fail("%s is one object of JSON over several lines; write a line for each document (jq -c . %s > NAME.jsonl, "
             "or jq -c '.KEY[]' for a list in it) and give --field NAME, or --tokenizer byte to train on the file as "
             "it is", path, path);
    json_decref(value);
}

// Separators in a line outside of double quotes, SIZE_MAX where a quote stays open.
static size_t separators_in(const char *line, size_t bytes, char separator) {
    size_t count = 0;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        quoted ^= line[i] == '"';
        count += !quoted && line[i] == separator;
    }
    return quoted ? SIZE_MAX : count;
}

// Columns of the first lines, where all of them have as many; else 0. Ten lines with the same two commas are no prose.
enum { TABLE_LINES = 10, MOST_LINES = 200 };
static size_t columns_of(const char *text, size_t bytes, char separator, size_t least) {
    size_t lines = 0, columns = 0, at = 0;
    for (; at < bytes && lines < MOST_LINES; lines++) {
        const char *end = memchr(text + at, '\n', bytes - at);
        if (!end && lines) break;
        size_t length = end ? (size_t)(end - text) - at : bytes - at, n = separators_in(text + at, length, separator);
        if (n == SIZE_MAX || n < least || (lines && n + 1 != columns)) return 0;
        columns = n + 1, at += length + 1;
    }
    return lines >= TABLE_LINES ? columns : 0;
}

static bool ends_with(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n > m && strcasecmp(path + n - m, end) == 0;
}

static void note_table(const char *path, const char *text, size_t bytes) {
    bool csv = ends_with(path, ".csv"), tsv = ends_with(path, ".tsv");
    if (!csv && !tsv) tsv = columns_of(text, bytes, '\t', 1) > 0, csv = columns_of(text, bytes, ',', 2) > 0;
    if (csv || tsv)
        fprintf(stderr, "note     %s looks like a table (%s), and every column, separator and quote of it is trained "
                "on as text; for one column write JSONL (pandas: to_json(lines=True, orient='records')) and give "
                "--field\n", path, tsv ? "TSV" : "CSV");
}

// Carriage returns are characters to be learned, as they are in the file; that is seldom meant.
static void note_returns(const char *path, const char *text, size_t bytes) {
    size_t returns = 0;
    for (const char *at = text, *end = text + bytes; (at = memchr(at, '\r', (size_t)(end - at))); at++) returns++;
    if (returns)
        fprintf(stderr, "note     %s has %zu carriage returns (line ends of Windows, \\r\\n, or of old Macs), which "
                "are characters of its text; tr -d '\\r' removes them\n", path, returns);
}

// ---- plain text ----------------------------------------------------------------------------------
static void check_text(Texts *t, const char *path, FileKind kind, const char *text, size_t bytes) {
    refuse_foreign(path, text, bytes);
    refuse_nul(path, text, bytes);
    refuse_json_lines(path, kind, text, bytes);
    refuse_json_value(path, text, bytes);
    note_table(path, text, bytes);
    note_returns(path, text, bytes);
    note_bad_byte(t, text, bytes);
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        fprintf(stderr, "note     %s begins with a byte order mark (U+FEFF), which becomes a character of its text; "
                "sed -i '1s/^\\xef\\xbb\\xbf//' removes it\n", path);
}

static void add_plain(Texts *t, const char *path, FileKind kind, bool any_bytes) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    if (bytes == 0) fail("%s is empty; a text was expected", path);
    if (!any_bytes) check_text(t, path, kind, text, bytes);
    begin_document(t);
    if (t->bytes == 0) {                // the first, often the only one, is not copied
        free(t->text);
        t->text = text, t->bytes = t->room = bytes;
        return;
    }
    append(t, text, bytes);
    free(text);
}

// ---- JSONL ---------------------------------------------------------------------------------------
typedef struct { const char *path, *field; size_t number; const char *line; size_t bytes; } Line;

static const char *type_name(const json_t *value) {
    return json_is_object(value) ? "an object" : json_is_array(value) ? "an array" : json_is_string(value) ? "a text"
           : json_is_number(value) ? "a number" : json_is_null(value) ? "null" : "true or false";
}

static json_t *parse_line(const Line *l) {
    json_error_t error;
    json_t *object = json_loadb(l->line, l->bytes, LINE_FLAGS, &error);
    size_t end = l->bytes;
    while (end && memchr(" \t\r\n", l->line[end - 1], 4)) end--;
    bool opens = end && memchr("[{,", l->line[end - 1], 3);     // as a line of JSON that was printed for people does
    if (!object)
        fail("%s, line %zu, byte %d: no JSON: %s%s", l->path, l->number, error.position, error.text,
             opens ? "; what stands over several lines becomes lines with jq -c '.[]' (an array), jq -c . (objects)"
             : l->number == 1 && end && *l->line != '{' ? "; a plain text needs no --field" : "");
    if (!json_is_object(object))
        fail("%s, line %zu is %s; an object was expected, one on each line%s", l->path, l->number, type_name(object),
             json_is_array(object) ? " (jq -c '.[]' takes an array apart)" : "");
    return object;
}

static void add_field(Texts *t, const Line *l, const json_t *object) {
    const json_t *text = json_object_get(object, l->field);
    if (!text)
        fail("%s, line %zu has no field \"%s\"; it has %s%s", l->path, l->number, l->field, fields_of(object),
             strchr(l->field, '.') ? " (a field within another is taken out by jq -c '{text: .ONE.TWO}')" : "");
    if (!json_is_string(text))
        fail("%s, line %zu: the field \"%s\" is %s; a text was expected", l->path, l->number, l->field,
             type_name(text));
    const char *bytes = json_string_value(text);
    size_t count = json_string_length(text);
    if (memchr(bytes, '\0', count))
        fail("%s, line %zu: the field \"%s\" holds NUL (\\u0000), which no text has", l->path, l->number, l->field);
    begin_document(t);
    append(t, bytes, count);
}

static bool is_blank(const Line *l) {
    for (size_t i = 0; i < l->bytes; i++)
        if (!memchr(" \t\r\n", l->line[i], 4)) return false;
    return true;
}

static void add_line(Texts *t, Line *l) {
    if (l->number == 1) refuse_foreign(l->path, l->line, l->bytes);
    if (l->number == 1) refuse_nul(l->path, l->line, l->bytes);
    bool mark = l->number == 1 && l->bytes >= 3 && memcmp(l->line, "\xEF\xBB\xBF", 3) == 0;   // RFC 8259, section 8.1
    if (mark) l->line += 3, l->bytes -= 3;
    if (is_blank(l)) return;
    json_t *object = parse_line(l);
    add_field(t, l, object);
    json_decref(object);
}

// The bytes of the next line, its end included; 0: there is none. Not getline(), whose memory is not ours to count.
static size_t read_line(FILE *f, char **text, size_t *room) {
    size_t n = 0;
    for (int c = 0; c != '\n' && (c = getc(f)) != EOF;) {
        if (n == *room) *text = xrealloc(*text, *room = size_mul(n + 128, 2));
        (*text)[n++] = (char)c;
    }
    return n;
}

static void add_json_lines(Texts *t, const char *path, const char *field) {
    FILE *f = fopen(path, "rb");
    if (!f) fail("cannot read %s: %s", path, strerror(errno));
    size_t before = t->documents, room = 0, number = 0;
    char *text = NULL;
    for (size_t n; (n = read_line(f, &text, &room)) > 0;) add_line(t, &(Line){path, field, ++number, text, n});
    if (ferror(f)) fail("cannot read %s: %s", path, strerror(errno));
    if (t->documents == before) fail("%s is empty; lines of JSON were expected", path);
    fclose(f);
    free(text);
}

void texts_add(Texts *t, const Files *files, const char *field, bool any_bytes) {
    for (size_t i = 0; i < files->count; i++) {
        t->path = xrealloc(t->path, size_mul(t->files + 1, sizeof *t->path));
        t->path[t->files++] = files->path[i];
        if (*field) add_json_lines(t, files->path[i], field);
        else add_plain(t, files->path[i], files->kind, any_bytes);
    }
}
