// fields.h: the sections in SECTIONS as fields of a struct. Included inside of one, so it has no guard:
//     typedef struct {
//     #define SECTIONS "config/generate.def"
//     #include "config/fields.h"
//     } GenerateOptions;
#define GROUP(help)
#define ALIAS(old, name)
#define SIZE(name, ...) size_t name;
#define REAL(name, ...) double name;
#define BOOL(name, ...) bool name;
#define ENUM(name, ...) int name;
#define PATTERN(name, ...) Pattern name;
#define TEXT(name, ...) char name[FLAG_TEXT_SIZE];
#include SECTIONS
#undef SECTIONS
#undef GROUP
#undef ALIAS
#undef SIZE
#undef REAL
#undef BOOL
#undef ENUM
#undef PATTERN
#undef TEXT
