// canvas.c: pixels. Everything drawn is a coverage (how much of a pixel is painted) blended once.
// Not a graphics library: lines, boxes, four markers, text; no curves, no clipping paths.
#include "plot/canvas.h"
#include "plot/stb.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the image ---------------------------------------------------------------------------------
enum { MOST_PIXELS = 1 << 26 };

Canvas canvas_new(double width, double height) {
    if (!(width * height <= MOST_PIXELS)) fail("a picture of %.0f x %.0f pixels is too large", width, height);
    Canvas c = {.width = (int)fmax(1, ceil(width)), .height = (int)fmax(1, ceil(height))};
    size_t bytes = (size_t)c.width * (size_t)c.height * 3;
    c.pixel = memset(xmalloc(bytes), 255, bytes);
    return c;
}

void canvas_free(Canvas *c) {
    free(c->pixel);
    *c = (Canvas){0};
}

void canvas_write(const Canvas *c, const char *path) {
    int bytes = 0;
    unsigned char *png = stbi_write_png_to_mem(c->pixel, 0, c->width, c->height, 3, &bytes);
    if (!png) fail("out of memory while compressing the picture %s", path);
    write_whole_file(path, png, (size_t)bytes);
    free(png);
}

static void blend(Canvas *c, int x, int y, Colour colour, double coverage) {
    uint8_t *p = c->pixel + ((size_t)y * (size_t)c->width + (size_t)x) * 3;
    p[0] = (uint8_t)lround(p[0] + (colour.r - p[0]) * coverage);
    p[1] = (uint8_t)lround(p[1] + (colour.g - p[1]) * coverage);
    p[2] = (uint8_t)lround(p[2] + (colour.b - p[2]) * coverage);
}

// ---- boxes -------------------------------------------------------------------------------------
// The part of pixel [i, i+1] that lies in [low, high].
static double overlap(int i, double low, double high) { return fmin(i + 1, high) - fmax(i, low); }

void canvas_box(Canvas *c, double left, double top, double right, double bottom, Colour colour, double opacity) {
    left = clamp(left, 0, c->width), right = clamp(right, 0, c->width);
    top = clamp(top, 0, c->height), bottom = clamp(bottom, 0, c->height);
    for (int y = (int)top; y < bottom; y++)
        for (int x = (int)left; x < right; x++)
            blend(c, x, y, colour, opacity * overlap(x, left, right) * overlap(y, top, bottom));
}

// ---- strokes -----------------------------------------------------------------------------------
// A line is first drawn into a mask that keeps the largest coverage of each pixel, and the mask is
// blended at the end: so joints and crossings of a translucent line are not painted twice.
typedef struct { uint8_t *coverage; int left, top, right, bottom; } Mask;  // pixels left..right-1, top..bottom-1

static uint8_t *mask_at(const Mask *m, int x, int y) {
    return m->coverage + (size_t)(y - m->top) * (size_t)(m->right - m->left) + (size_t)(x - m->left);
}

static void mask_segment(Mask *m, Point a, Point b, double radius) {
    if (a.y > b.y) { Point t = a; a = b, b = t; }
    double dx = b.x - a.x, dy = b.y - a.y, length2 = dx * dx + dy * dy, reach = radius + 1;
    int bottom = (int)clamp(ceil(b.y + reach), m->top, m->bottom);
    for (int y = (int)clamp(floor(a.y - reach), m->top, m->bottom); y < bottom; y++) {
        // The stretch of the segment within reach of this row bounds the columns worth looking at.
        double from = dy > 0 ? clamp((y + 0.5 - reach - a.y) / dy, 0, 1) : 0;
        double to = dy > 0 ? clamp((y + 0.5 + reach - a.y) / dy, 0, 1) : 1;
        double left = fmin(a.x + from * dx, a.x + to * dx) - reach;
        double right = fmax(a.x + from * dx, a.x + to * dx) + reach;
        int end = (int)clamp(ceil(right), m->left, m->right);
        for (int x = (int)clamp(floor(left), m->left, m->right); x < end; x++) {
            double px = x + 0.5 - a.x, py = y + 0.5 - a.y;
            double t = length2 > 0 ? clamp((px * dx + py * dy) / length2, 0, 1) : 0;
            double distance = hypot(px - t * dx, py - t * dy);
            uint8_t coverage = (uint8_t)lround(255 * clamp(radius + 0.5 - distance, 0, 1)), *most = mask_at(m, x, y);
            if (coverage > *most) *most = coverage;
        }
    }
}

static bool drawable(Point p) { return isfinite(p.x) && isfinite(p.y); }

// An empty mask over the part of the canvas that the line can touch.
static Mask mask_around(const Canvas *c, const Point *point, size_t n, double reach) {
    double left = INFINITY, top = INFINITY, right = -INFINITY, bottom = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (!drawable(point[i])) continue;
        left = fmin(left, point[i].x - reach), right = fmax(right, point[i].x + reach);
        top = fmin(top, point[i].y - reach), bottom = fmax(bottom, point[i].y + reach);
    }
    Mask m = {NULL, (int)clamp(floor(left), 0, c->width), (int)clamp(floor(top), 0, c->height), 0, 0};
    m.right = (int)clamp(ceil(right), m.left, c->width), m.bottom = (int)clamp(ceil(bottom), m.top, c->height);
    m.coverage = xmalloc((size_t)(m.right - m.left) * (size_t)(m.bottom - m.top));
    return m;
}

void canvas_stroke(Canvas *c, const Point *point, size_t n, double width, Colour colour, double opacity) {
    Mask m = mask_around(c, point, n, width / 2 + 1);
    for (size_t i = 0; i < n; i++) {
        if (!drawable(point[i])) continue;
        bool joined = i > 0 && drawable(point[i - 1]);
        mask_segment(&m, joined ? point[i - 1] : point[i], point[i], width / 2);
    }
    for (int y = m.top; y < m.bottom; y++)
        for (int x = m.left; x < m.right; x++)
            if (*mask_at(&m, x, y)) blend(c, x, y, colour, opacity * *mask_at(&m, x, y) / 255);
    free(m.coverage);
}

// How far (dx, dy) lies inside (negative) or outside of a marker of radius 1; the sizes are chosen
// so that the four shapes cover about the same area.
static double marker_distance(int shape, double dx, double dy) {
    switch (shape) {
        case 0:  return hypot(dx, dy) - 1;
        case 1:  return fmax(fabs(dx), fabs(dy)) - 0.9;
        case 2:  return fmax(dy, fabs(dx) * 0.866 - dy * 0.5) - 0.67;
        default: return (fabs(dx) + fabs(dy)) * 0.7071 - 0.9;
    }
}

static void marker_shape(Canvas *c, int shape, Point at, double radius, Colour colour) {
    int bottom = (int)clamp(at.y + 2 * radius + 2, 0, c->height), end = (int)clamp(at.x + 2 * radius + 2, 0, c->width);
    for (int y = (int)clamp(at.y - 2 * radius - 1, 0, c->height); y < bottom; y++)
        for (int x = (int)clamp(at.x - 2 * radius - 1, 0, c->width); x < end; x++) {
            double outside = marker_distance(shape, (x + 0.5 - at.x) / radius, (y + 0.5 - at.y) / radius) * radius;
            blend(c, x, y, colour, clamp(0.5 - outside, 0, 1));
        }
}

// A white rim keeps a marker apart from the lines it lies on.
void canvas_marker(Canvas *c, int shape, Point at, double radius, Colour colour) {
    if (!drawable(at)) return;
    marker_shape(c, shape % MARKER_SHAPES, at, radius + 2, (Colour){255, 255, 255});
    marker_shape(c, shape % MARKER_SHAPES, at, radius, colour);
}

// ---- fonts -------------------------------------------------------------------------------------
typedef struct { bool tried; char *file; stbtt_fontinfo info; } Font;   // file == NULL: stb_easy_font
static Font fonts[2];                                                   // regular, bold

static const char *const font_paths[][2] = {
    {"/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",                             // Debian, Ubuntu
     "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"},
    {"/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",                           // Fedora
     "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans-Bold.ttf"},
    {"/usr/share/fonts/dejavu/DejaVuSans.ttf", "/usr/share/fonts/dejavu/DejaVuSans-Bold.ttf"},       // Alpine
    {"/usr/share/fonts/TTF/DejaVuSans.ttf", "/usr/share/fonts/TTF/DejaVuSans-Bold.ttf"},             // Arch
    {"/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
     "/usr/share/fonts/truetype/liberation/LiberationSans-Bold.ttf"},
    {"/System/Library/Fonts/Supplemental/Arial.ttf", "/System/Library/Fonts/Supplemental/Arial Bold.ttf"},  // macOS
    {"/Library/Fonts/Arial.ttf", "/Library/Fonts/Arial Bold.ttf"},
    {"/System/Library/Fonts/Helvetica.ttc", "/System/Library/Fonts/Helvetica.ttc"},
};

static uint32_t big_endian(const char *p) {
    const uint8_t *b = (const uint8_t *)p;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

// stb_truetype trusts the offsets in the file, so a cut-off font must be found out before: all of
// its tables (a tag, a checksum, an offset, a length, each of 4 bytes) have to lie within the file.
static bool font_is_whole(const char *file, size_t bytes, size_t start) {
    if (start > bytes || bytes - start < 12) return false;
    size_t tables = big_endian(file + start + 4) >> 16;
    if ((bytes - start - 12) / 16 < tables) return false;
    for (size_t t = 0; t < tables; t++) {
        const char *row = file + start + 12 + 16 * t;
        if ((uint64_t)big_endian(row + 8) + big_endian(row + 12) > bytes) return false;
    }
    return true;
}

static bool font_load(Font *font, const char *path) {
    size_t bytes;
    char *file = read_whole_file(path, &bytes);
    int start = bytes < 64 ? -1 : stbtt_GetFontOffsetForIndex((unsigned char *)file, 0);
    if (start >= 0 && font_is_whole(file, bytes, (size_t)start) &&
        stbtt_InitFont(&font->info, (unsigned char *)file, start)) {
        font->file = file;
        return true;
    }
    free(file);
    return false;
}

static void font_find(Font *font, bool bold) {
    font->tried = true;
    const char *wanted = getenv("RECEIPTS_FONT");
    if (wanted) {
        if (*wanted && !font_load(font, wanted))
            fail("RECEIPTS_FONT: %s is not a whole TrueType or OpenType font; name another, or unset it", wanted);
        return;
    }
    for (size_t i = 0; i < sizeof font_paths / sizeof *font_paths && !font->file; i++)
        if (file_exists(font_paths[i][bold])) font_load(font, font_paths[i][bold]);
}

static Font *font_for(TextStyle style) {
    Font *font = &fonts[style.bold];
    if (!font->tried) font_find(font, style.bold);
    return font;
}

// ---- text --------------------------------------------------------------------------------------
size_t utf8_decode(const char *text, uint32_t *code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};  // longer than needed is broken, too
    const uint8_t *s = (const uint8_t *)text;
    size_t length = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    uint32_t value = length < 2 ? s[0] : s[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (s[i] >> 6 != 2) length = 0;  // ends the loop; a NUL is never stepped over
        else value = value << 6 | (s[i] & 0x3f);
    }
    bool broken = !length || value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000);
    *code = broken ? 0xfffd : value;
    return broken ? 1 : length;
}

static uint32_t printable(uint32_t code) { return code < 32 || (code >= 127 && code < 160) ? ' ' : code; }

// stb_easy_font has ASCII only, in units of which 7 make a capital letter.
static const double easy_unit = 0.1, easy_capital = 7;
static char easy_character(uint32_t code) {
    return code < 127 ? (char)code : code == 0xb7 || code == 0x2026 ? '.' : '?';
}

static double font_scale(Font *font, TextStyle style) {
    return stbtt_ScaleForMappingEmToPixels(&font->info, (float)style.size);
}

// How far the pen moves over `code` when `next` follows it.
static double pen_advance(TextStyle style, uint32_t code, uint32_t next) {
    Font *font = font_for(style);
    if (!font->file) {
        float box[EASY_FONT_BOXES][4], advance;
        easy_font_boxes(easy_character(code), box, &advance);
        return advance * easy_unit * style.size;
    }
    int advance, bearing;
    stbtt_GetCodepointHMetrics(&font->info, (int)code, &advance, &bearing);
    int kerning = next ? stbtt_GetCodepointKernAdvance(&font->info, (int)code, (int)next) : 0;
    return (advance + kerning) * font_scale(font, style);
}

size_t text_fit(TextStyle style, const char *text, double width) {
    double pen = 0;
    size_t i = 0;
    while (text[i]) {
        uint32_t code, next;
        size_t length = utf8_decode(text + i, &code);
        utf8_decode(text + i + length, &next);
        pen += pen_advance(style, printable(code), next ? printable(next) : 0);
        if (pen > width) break;
        i += length;
    }
    return i;
}

double text_width(TextStyle style, const char *text) {
    double pen = 0;
    while (*text) {
        uint32_t code, next;
        text += utf8_decode(text, &code);
        utf8_decode(text, &next);
        pen += pen_advance(style, printable(code), next ? printable(next) : 0);
    }
    return pen;
}

// Text is drawn into a mask of its own, lying down, that is then blended lying or standing.
typedef struct { uint8_t *coverage; int width, height; double baseline; } TextMask;

static void mask_add(TextMask *m, int x, int y, double coverage) {
    if (x < 0 || y < 0 || x >= m->width || y >= m->height) return;
    uint8_t *p = m->coverage + (size_t)y * (size_t)m->width + (size_t)x;
    *p = (uint8_t)fmin(255, *p + lround(coverage));
}

static void mask_outline_glyph(TextMask *m, TextStyle style, double pen, uint32_t code) {
    Font *font = font_for(style);
    float scale = (float)font_scale(font, style), shift = (float)(pen - floor(pen));
    int width, height, left, top;
    unsigned char *glyph = stbtt_GetCodepointBitmapSubpixel(&font->info, scale, scale, shift, 0, (int)code, &width,
                                                            &height, &left, &top);
    for (int y = 0; glyph && y < height; y++)
        for (int x = 0; x < width; x++)
            mask_add(m, (int)pen + left + x, (int)m->baseline + top + y, glyph[y * width + x]);
    stbtt_FreeBitmap(glyph, NULL);
}

static void mask_easy_glyph(TextMask *m, TextStyle style, double pen, uint32_t code) {
    float box[EASY_FONT_BOXES][4], advance;
    int boxes = easy_font_boxes(easy_character(code), box, &advance);
    double unit = easy_unit * style.size, up = m->baseline - easy_capital * unit;
    for (int b = 0; b < boxes; b++) {
        double left = pen + box[b][0] * unit, right = pen + box[b][2] * unit + (style.bold ? 0.4 * unit : 0);
        double top = up + box[b][1] * unit, bottom = up + box[b][3] * unit;
        for (int y = (int)top; y < bottom; y++)
            for (int x = (int)left; x < right; x++)
                mask_add(m, x, y, 255 * overlap(x, left, right) * overlap(y, top, bottom));
    }
}

static TextMask text_mask(TextStyle style, const char *text, double width) {
    double margin = ceil(style.size / 2);  // for what leans out of its advance
    TextMask m = {.width = (int)(width + 2 * margin) + 2, .height = (int)(2 * style.size) + 2};
    m.baseline = ceil(1.3 * style.size);
    m.coverage = xmalloc((size_t)m.width * (size_t)m.height);
    double pen = margin;
    while (*text) {
        uint32_t code, next;
        text += utf8_decode(text, &code);
        utf8_decode(text, &next);
        code = printable(code), next = next ? printable(next) : 0;
        if (font_for(style)->file) mask_outline_glyph(&m, style, pen, code);
        else mask_easy_glyph(&m, style, pen, code);
        pen += pen_advance(style, code, next);
    }
    return m;
}

void canvas_text(Canvas *c, TextStyle style, double x, double y, const char *text) {
    double width = text_width(style, text), capital = 0.73 * style.size;
    if (!(width <= 2.0 * (c->width + c->height))) return;  // callers cut their text to what fits
    TextMask m = text_mask(style, text, width);
    // (along, across) of the mask's corner: along the direction of reading, and down from its top.
    double along = -style.align * width - ceil(style.size / 2), across = capital / 2 - m.baseline;
    for (int j = 0; j < m.height; j++)
        for (int i = 0; i < m.width; i++) {
            uint8_t coverage = m.coverage[(size_t)j * (size_t)m.width + (size_t)i];
            int px = (int)floor(style.upward ? x + across + j + 0.5 : x + along + i + 0.5);
            int py = (int)floor(style.upward ? y - along - i - 0.5 : y + across + j + 0.5);
            if (coverage && px >= 0 && py >= 0 && px < c->width && py < c->height)
                blend(c, px, py, style.colour, coverage / 255.0);
        }
    free(m.coverage);
}

// ---- colour map --------------------------------------------------------------------------------
// Oklab (B. Ottosson, 2020, https://bottosson.github.io/posts/oklab) to 8-bit sRGB.
static uint8_t srgb(double linear) {
    double v = clamp(linear, 0, 1);
    return (uint8_t)lround(255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * pow(v, 1 / 2.4) - 0.055));
}

static Colour from_oklab(double lightness, double a, double b) {
    double l = pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
    double m = pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
    double s = pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
    return (Colour){srgb(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
                    srgb(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
                    srgb(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

// Equal steps of Oklab lightness look like equal steps; the hue turns from yellow over green and
// blue to violet to tell the steps apart, never to order them.
Colour colour_ramp(double t) {
    t = clamp(t, 0, 1);
    double lightness = 0.97 - 0.70 * t, hue = (105 + 195 * t) * 3.14159265358979 / 180;
    double chroma = 0.03 + 0.05 * t + 0.17 * t * (1 - t);  // just within what sRGB can show on this path
    return from_oklab(lightness, chroma * cos(hue), chroma * sin(hue));
}
