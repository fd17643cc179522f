// tensorboard.c: the records of an event file. A record is a protocol buffer in a frame of lengths and checksums.
#include "formats/tensorboard.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are little-endian and written as they are");

typedef struct { unsigned char *byte; size_t count; } Bytes;

static void put(Bytes *b, const void *data, size_t bytes) {
    b->byte = xrealloc(b->byte, b->count + bytes);
    memcpy(b->byte + b->count, data, bytes);
    b->count += bytes;
}

// ---- protocol buffers --------------------------------------------------------------------------
// https://protobuf.dev/programming-guides/encoding/: a field is its number and how long it is, then the value.
enum { VARINT = 0, BYTES_8 = 1, COUNTED = 2, BYTES_4 = 5 };
// The fields of Event and Summary, and of a Value of a Summary.
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_VERSION = 3, EVENT_SUMMARY = 5 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_NUMBER = 2 };

// Seven bits to a byte, the lowest first; the top bit says that more follow.
static void put_varint(Bytes *b, uint64_t n) {
    for (; n >= 128; n >>= 7) put(b, &(unsigned char){(unsigned char)(n | 128)}, 1);
    put(b, &(unsigned char){(unsigned char)n}, 1);
}

static void put_field(Bytes *b, unsigned field, unsigned kind) { put_varint(b, field << 3 | kind); }

static void put_counted(Bytes *b, unsigned field, const void *data, size_t bytes) {
    put_field(b, field, COUNTED);
    put_varint(b, bytes);
    put(b, data, bytes);
}

static void put_scalar(Bytes *summary, const Scalar *s) {
    Bytes value = {0};
    put_counted(&value, VALUE_TAG, s->tag, strlen(s->tag));
    put_field(&value, VALUE_NUMBER, BYTES_4);
    put(&value, &(float){(float)s->value}, sizeof(float));
    put_counted(summary, SUMMARY_VALUE, value.byte, value.count);
    free(value.byte);
}

static Bytes event_at(double wall) {
    Bytes event = {0};
    put_field(&event, EVENT_WALL_TIME, BYTES_8);
    put(&event, &wall, sizeof wall);
    return event;
}

// ---- frames ------------------------------------------------------------------------------------
// CRC-32C (Castagnoli; RFC 3720, appendix B.4), then turned and moved, so that the checksum of a file that holds
// checksums is another one.
static uint32_t masked_crc(const void *data, size_t bytes) {
    uint32_t crc = 0xffffffffu;
    for (const unsigned char *p = data, *end = p + bytes; p < end; p++) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void write_record(FILE *out, Bytes *event) {
    uint64_t length = event->count;
    uint32_t of_length = masked_crc(&length, sizeof length), of_event = masked_crc(event->byte, event->count);
    fwrite(&length, sizeof length, 1, out);
    fwrite(&of_length, sizeof of_length, 1, out);
    fwrite(event->byte, 1, event->count, out);
    fwrite(&of_event, sizeof of_event, 1, out);
    free(event->byte);
}

void tensorboard_begin(FILE *out, double wall) {
    static const char version[] = "brain.Event:2";
    Bytes event = event_at(wall);
    put_counted(&event, EVENT_VERSION, version, strlen(version));
    write_record(out, &event);
}

void tensorboard_scalars(FILE *out, double wall, size_t step, const Scalar *scalar, size_t count) {
    Bytes event = event_at(wall), summary = {0};
    for (size_t i = 0; i < count; i++) put_scalar(&summary, &scalar[i]);
    put_field(&event, EVENT_STEP, VARINT);
    put_varint(&event, step);
    put_counted(&event, EVENT_SUMMARY, summary.byte, summary.count);
    free(summary.byte);
    write_record(out, &event);
}

// As tensorboard_begin wrote it: the frame's 12 bytes, the number of the field, the time.
double tensorboard_begun(const char *file, size_t bytes) {
    double wall = NAN;
    if (bytes > 13 + sizeof wall && file[12] == (EVENT_WALL_TIME << 3 | BYTES_8))
        memcpy(&wall, file + 13, sizeof wall);
    return wall;
}
