// stb.c: the bodies of the stb headers, in a translation unit of their own so that warnings in code
// that is not ours can be ignored here and nowhere else.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-braces"
// A strange font is the user's business, not a reason to abort: it draws strange glyphs.
#define STBTT_assert(condition) ((void)sizeof(condition))
#define STB_TRUETYPE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#include "plot/stb.h"
#include <math.h>
#include <stb/stb_easy_font.h>

int easy_font_boxes(char character, float box[EASY_FONT_BOXES][4], float *advance) {
    struct { float x, y, z; unsigned char colour[4]; } corner[EASY_FONT_BOXES][4];
    char text[2] = {character, 0};
    int boxes = stb_easy_font_print(0, 0, text, NULL, corner, sizeof corner);
    for (int b = 0; b < boxes; b++) {  // corners go round: top left, top right, bottom right, bottom left
        box[b][0] = corner[b][0].x, box[b][1] = corner[b][0].y;
        box[b][2] = corner[b][2].x, box[b][3] = corner[b][2].y;
    }
    *advance = (float)(stb_easy_font_charinfo[text[0] - 32].advance & 15);
    return boxes;
}
