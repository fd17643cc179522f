// stb.h: the three stb headers that the pictures use (public domain, https://github.com/nothings/stb).
// They are compiled once, in stb.c, where their warnings stay.
#ifndef STB_H
#define STB_H
#include <stb/stb_image_write.h>
#include <stb/stb_truetype.h>

// stb_easy_font, a vector font of 95 ASCII characters: one character at (0, 0) as rectangles of
// {left, top, right, bottom}. Returns how many were written to `box`, and the advance in `advance`.
enum { EASY_FONT_BOXES = 64 };
int easy_font_boxes(char character, float box[EASY_FONT_BOXES][4], float *advance);

// stbi_write_png_to_mem is exported by stb_image_write but left out of its declarations.
unsigned char *stbi_write_png_to_mem(const unsigned char *pixels, int stride, int width, int height, int channels,
                                     int *bytes);
#endif
