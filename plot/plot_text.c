// plot_text.c: a text whose tokens stand on the colour of what they belong to, once for each layer.
#include "plot/canvas.h"
#include "plot/figure.h"
#include "plot/plot.h"
#include <math.h>

enum { WIDTH = 1500, EDGE = 50, ROW = 44, PAD = 6 };

void plot_group_colour(size_t group, size_t groups, int rgb[3]) {     // hues of one lightness: dark text reads on all
    for (int i = 0; i < 3; i++) {
        double hue = 6.283185307179586 * ((double)group / (double)groups - i / 3.0);
        rgb[i] = (int)(190 + 60 * cos(hue));
    }
}

static Colour colour_of(int group, size_t groups) {
    int rgb[3] = {238, 238, 238};
    if (group >= 0) plot_group_colour((size_t)group, groups, rgb);
    return (Colour){(uint8_t)rgb[0], (uint8_t)rgb[1], (uint8_t)rgb[2]};
}

// Draws a word at x, y, or below where the line is full; returns where the next begins.
static Point draw_word(Canvas *c, Point at, const char *word, Colour colour) {
    double width = text_width(tick_style, word) + 2 * PAD;
    if (at.x + width > WIDTH - EDGE) at = (Point){EDGE, at.y + ROW};
    if (c) canvas_box(c, at.x, at.y - 18, at.x + width - 2, at.y + 18, colour, 1);
    if (c) canvas_text(c, (TextStyle){.size = 22, .colour = ink}, at.x + PAD, at.y, word);
    return (Point){at.x + width, at.y};
}

static double draw_layers(Canvas *c, const GroupedText *t) {
    Point at = {EDGE, 150};
    if (c) canvas_text(c, label_style, EDGE, at.y, "expert");
    at.x += 110;
    for (size_t g = 0; g < t->groups && g < 64; g++) {
        char name[24];
        snprintf(name, sizeof name, "%zu", g);
        at = draw_word(c, at, name, colour_of((int)g, t->groups));
    }
    for (size_t l = 0; l < t->layers; l++) {
        at = (Point){EDGE, at.y + 1.7 * ROW};
        if (c) canvas_text(c, label_style, EDGE, at.y, t->layer_label[l]);
        at.y += ROW;
        for (size_t i = 0; i < t->n; i++)
            at = draw_word(c, at, t->token[i], colour_of(t->group[l * t->n + i], t->groups));
    }
    return at.y + EDGE;
}

void plot_grouped_text(const char *path, const GroupedText *t) {
    Canvas c = canvas_new(WIDTH, draw_layers(NULL, t));
    canvas_text(&c, (TextStyle){.size = 32, .bold = true, .colour = ink}, EDGE, 50, t->title);
    canvas_text(&c, label_style, EDGE, 98, t->subtitle);
    draw_layers(&c, t);
    canvas_write(&c, path);
    canvas_free(&c);
}
