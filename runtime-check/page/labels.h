/* Labels of points and lines that do not lie on one another. Lengths are in the figure's units, y grows downwards. */
#ifndef NIBBLE_RUNTIME_CHECK_LABELS_H
#define NIBBLE_RUNTIME_CHECK_LABELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* About how wide a text is in a proportional sans-serif font of this size: rather too wide than too narrow. */
double labels_width(const char *text, double font);

/* Shorten a text to `most` characters (at least 3), its middle replaced by an ellipsis. Characters are those of UTF-8; a byte that is
 * none counts as one. Owner of the result: the caller, memory_free; NULL with ERR_MEMORY in err. */
char *labels_shorten(const char *text, uint64_t most, struct error *err);

/* Move positions on a line apart, each as little as possible (in the least-squares sense), so that neighbours keep `gap` and all lie in
 * low .. high; if they do not fit, they keep a smaller distance.
 *   at     [count]  in, any order, finite; out
 * ERR_MEMORY. */
enum status labels_spread(double *at, uint64_t count, double gap, double low, double high, struct error *err);

struct labels_box {
    double left, top, right, bottom;
};

/* A line that labels should rather not cover. */
struct labels_segment {
    double x1, y1, x2, y2;
};

/* One label of a point. `place` is where its text goes. */
struct label {
    double x, y, width;
    struct labels_box place;
    bool shown;                   /* there was room */
    bool led;                     /* it lies apart from its point: draw `leader` */
    struct labels_segment leader; /* from the point's edge to the label */
};

/* Place labels one after the other, then move each once more with all others in place.
 *   labels     [count]  in order of importance; those that find no room are not shown
 *   obstacles  [obstacle_count]  never covered: markers, texts that are there already
 *   segments   [segment_count]  covered only if that saves a long leader
 *   area       all labels lie in it
 * Each point's own marker is kept free by the distance `radius`. */
struct labels_ground {
    const struct labels_box *obstacles;
    const struct labels_segment *segments;
    uint64_t obstacle_count, segment_count;
    struct labels_box area;
    double font, radius;
};
void labels_place(struct label *labels, uint64_t count, const struct labels_ground *ground);

#endif
