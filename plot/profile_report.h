// profile_report.h: what profile.h recorded, as a table, a roofline picture and JSON.
#ifndef PROFILE_REPORT_H
#define PROFILE_REPORT_H
#include "lib/profile.h"
#include <jansson.h>

typedef struct { double peak, bandwidth; } Roofs;       // of the threads in use: GFLOP/s and GB/s, measured

// A row per kind of operation, the longest first, then the time that no operation accounts for.
void profile_print(FILE *out, const char *title, const Profile *p, Roofs r);
// The points of n profiles; label tells them apart where n > 1.
void profile_draw(const char *path, const char *title, const Profile *p, const char *const *label, size_t n, Roofs r);
json_t *profile_json(const Profile *p, Roofs r);
#endif
