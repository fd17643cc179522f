// test_roofline.c: the measures of the machine that need no clock to be checked, and the picture that shows them.
#include "plot/figure.h"
#include "lib/machine.h"
#include "plot/roofline.h"
#include "lib/simd.h"
#include "tests/test.h"
#include <omp.h>
#include <stb/stb_image.h>             // its code is in test_plot.c
#include <stdlib.h>

// ---- the machine ---------------------------------------------------------------------------------
static void caches(void) {
    size_t bytes = machine_cache_bytes();   // 0: the system does not say
    CHECK(bytes == 0 || (bytes >= 64 << 10 && bytes >> 30 <= 1024), "%zu bytes of caches", bytes);
}

static void probe(void) {
    ReadProbe small = read_probe_new((size_t)64 << 20), p = read_probe_new(0);
    double least = fmin(2 * (double)machine_cache_bytes(), machine_memory() / 4 > 0 ? machine_memory() / 4 : INFINITY);
    CHECK((double)(p.count * sizeof(real)) >= least, "%zu numbers are not much larger than the caches", p.count);
    CHECK(small.count * sizeof(real) == (size_t)64 << 20, "%zu numbers of 64 MiB", small.count);
    read_probe_free(&small);
    size_t other = 0;
    for (size_t i = 0; i < p.count; i += 1009) other += p.data[i] != (real)0.5;
    CHECK(other == 0 && p.data[p.count - 1] == (real)0.5, "%zu numbers were never written: their pages may not exist",
          other);
    double rate = read_probe_bandwidth(&p, 1, 1);
    CHECK(rate > 0 && isfinite(rate), "%g GB/s", rate);
    read_probe_free(&p);
    CHECK(p.data == NULL, "the memory is not given back");
}

// Threads take turns on a core: eight of them must not be counted as if each had one.
static void peak(void) {
    double cores = simd_fma_peak(omp_get_num_procs()), more = simd_fma_peak(8 * omp_get_num_procs());
    CHECK(cores > 0 && isfinite(cores) && more < 4 * cores, "%g GFLOP/s, with eight threads to a core %g", cores, more);
}

// ---- the picture ---------------------------------------------------------------------------------
typedef struct { uint8_t *pixel; int width, height; } Picture;

static Picture draw(const Roofline *r) {
    Picture p = {0};
    int channels;
    roofline_draw(test_path("roofline.png"), r);
    p.pixel = stbi_load(test_path("roofline.png"), &p.width, &p.height, &channels, 3);
    CHECK(p.pixel && p.width == PAGE_WIDTH && p.height == PAGE_HEIGHT, "not a page: %d x %d", p.width, p.height);
    return p;
}

static bool is(const Picture *p, int x, int y, Colour c) {
    const uint8_t *v = p->pixel + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    return v[0] == c.r && v[1] == c.g && v[2] == c.b;
}

// The mean position of a colour, and how many pixels have it.
typedef struct { int count; double x, y; } Found;
static Found find(const Picture *p, Colour c) {
    Found f = {0};
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++)
            if (is(p, x, y, c)) f.count++, f.x += x, f.y += y;
    if (f.count) f.x /= f.count, f.y /= f.count;
    return f;
}

// The row of the flat roof, near the right side of the frame: a run that no letter is wide enough for.
static double flat_row(const Picture *p) {
    static const Colour roof = {70, 70, 70};
    int x = PAGE_WIDTH - MARGIN - 20, first = 0, last = 0;
    for (int y = 0; y < p->height; y++) {
        int run = 0;
        while (run < 60 && is(p, x - run, y, roof)) run++;
        if (run == 60) first = first ? first : y, last = y;
    }
    return (first + last) / 2.0;
}

// Markers of four groups, with no legend, so that a colour is one point.
static void points_stand_where_their_values_are(void) {
    const RooflinePoint point[] = {{"a", 0.1, 1, 0}, {"b", 1, 10, 1}, {"c", 10, 100, 2}, {"d", 30, 100, 3}};
    Picture p = draw(&(Roofline){.peak = 100, .bandwidth = 10, .point = point, .points = 4});
    Found at[4];
    for (int i = 0; i < 4; i++) at[i] = find(&p, series_colour[i]), CHECK(at[i].count > 50, "point %d is not there", i);
    // The three markers differ in shape: their centres are known to two pixels.
    CHECK(fabs(at[1].x - (at[0].x + at[2].x) / 2) < 2, "1 is not midway between 0.1 and 10: %g %g %g", at[0].x, at[1].x,
          at[2].x);
    CHECK(fabs(at[1].y - (at[0].y + at[2].y) / 2) < 2, "10 is not midway between 1 and 100: %g %g %g", at[0].y, at[1].y,
          at[2].y);
    CHECK(fabs(at[3].y - flat_row(&p)) < 2, "a point at the peak is at row %g, the roof at %g", at[3].y, flat_row(&p));
    free(p.pixel);
}

static void crowds_and_strangers(void) {
    RooflinePoint point[40];
    for (int i = 0; i < 36; i++)
        point[i] = (RooflinePoint){"a rather long label", 20 * pow(1.04, i), 50 + 0.2 * i, i % 3};
    point[36] = (RooflinePoint){"no number", NAN, 50, 3}, point[37] = (RooflinePoint){"nothing", 1, 0, 3};
    point[38] = (RooflinePoint){"negative", -1, 10, 3}, point[39] = (RooflinePoint){"endless", INFINITY, 10, 3};
    Picture p = draw(&(Roofline){.title = "crowd", .peak = 100, .bandwidth = 10, .point = point, .points = 40});
    for (int i = 0; i < 3; i++) CHECK(find(&p, series_colour[i]).count > 20, "group %d is not there", i);
    CHECK(find(&p, series_colour[3]).count == 0, "a point without a place was drawn");
    free(p.pixel);
    p = draw(&(Roofline){.peak = 100, .bandwidth = 10});
    CHECK(flat_row(&p) > 0, "no roof without points");
    free(p.pixel);
}

static void roofs(void) {
    Roofline r = {.peak = 100, .bandwidth = 10};
    CHECK(roofline_at(&r, 1) == 10 && roofline_at(&r, 10) == 100 && roofline_at(&r, 1000) == 100,
          "the roof has another shape");
}

static const Test tests[] = {
    {"machine/caches", "the size of the caches is one that exists", caches},
    {"machine/probe", "what bandwidth is measured on is really memory, and large", probe},
    {"machine/peak", "threads that share a core add nothing to the peak", peak},
    {"roofline/roof", "the lower of both roofs counts", roofs},
    {"roofline/points", "points and roofs stand where their logarithms are", points_stand_where_their_values_are},
    {"roofline/crowd", "crowded points are all drawn, what is no point is not", crowds_and_strangers},
};
REGISTER_TESTS(tests)
