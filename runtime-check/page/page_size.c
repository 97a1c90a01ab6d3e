/* Size against quality: one point per model, the Pareto front as a stepped line. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/report.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/labels.h"
#include "runtime-check/page/page_view.h"
#include "runtime-check/page/plot.h"

/* The least the vertical axis spans. */
enum { DECADE = 10 };

/* One drawing of the figure. Points are those models whose size is known, in the view's order; the base is none of them. */
struct scene {
    struct plot plot;
    const struct page_view *view;
    uint64_t *points; /* [count] indices in the view */
    uint64_t count;
    struct label *labels;            /* [count] of the points */
    struct labels_box *obstacles;    /* [2 * count + 2] markers and error bars, the base's marker and name */
    struct labels_segment *segments; /* [2 * view->count + 2 + count] the front, the families */
    uint64_t obstacle_count, segment_count;
};

static const struct comparison_model *model_of(const struct scene *scene, uint64_t point)
{
    return &scene->view->models[scene->points[point]];
}

static double x_of(const struct scene *scene, const struct comparison_model *model)
{
    return axis_at(&scene->plot.x, (double)model->bytes);
}

static double y_of(const struct scene *scene, double kld)
{
    return axis_at(&scene->plot.y, kld);
}

/* ---- axes ---- */

static void fit_axes(struct scene *scene)
{
    const struct comparison_model *base = &scene->view->models[0];
    double smallest = INFINITY, largest = 0, least = INFINITY, most = 0;
    if (base->bytes > 0) smallest = largest = (double)base->bytes;
    for (uint64_t i = 0; i < scene->count; i++) {
        const struct comparison_model *model = model_of(scene, i);
        const double kld = model->result->kld.value;
        smallest = fmin(smallest, (double)model->bytes);
        largest = fmax(largest, (double)model->bytes);
        if (kld > 0) least = fmin(least, kld);
        if (kld > 0) most = fmax(most, kld);
    }
    scene->plot.x = (struct axis){.logarithmic = true, .low = smallest / 1.2, .high = largest * 1.15};
    scene->plot.y = (struct axis){.logarithmic = true, .zero = true};
    if (most > 0)
        axis_fit(&scene->plot.y, fmin(least, most / DECADE), most);
    else
        axis_fit(&scene->plot.y, 1e-6, 1e-3);
}

/* "2 MB", "1.5 GB": powers of 1000, as report_bytes. */
static void bytes_tick(char *out, double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    char number[DIGITS_BYTES];
    int unit = 0;
    for (; bytes >= 1000 * (1 - 1e-9) && unit < 6; unit++)
        bytes /= 1000;
    snprintf(out, DIGITS_BYTES, "%.40s\xC2\xA0%s", digits_tick(number, bytes), units[unit]);
}

static void draw_axes(const struct scene *scene)
{
    const struct plot *plot = &scene->plot;
    double ticks[AXIS_TICKS];
    char text[DIGITS_BYTES];
    const uint64_t count = axis_ticks(&plot->x, ticks);
    for (uint64_t i = 0; i < count; i++) {
        bytes_tick(text, ticks[i]);
        plot_x_tick(plot, axis_at(&plot->x, ticks[i]), text);
    }
    plot_y_axis(plot, "mean KL divergence, nats per token");
    plot_x_title(plot, "size of the model's files");
}

/* ---- the base, the front, the families ---- */

static void add_obstacle(struct scene *scene, double x, double y, double half_width, double half_height)
{
    scene->obstacles[scene->obstacle_count++] =
        (struct labels_box){x - half_width, y - half_height, x + half_width, y + half_height};
}

static void add_segment(struct scene *scene, double x1, double y1, double x2, double y2)
{
    scene->segments[scene->segment_count++] = (struct labels_segment){x1, y1, x2, y2};
}

/* Its size as a line over the whole height, its mark at divergence 0. */
static void draw_base(struct scene *scene)
{
    const struct comparison_model *base = &scene->view->models[0];
    const struct plot *plot = &scene->plot;
    const double x = x_of(scene, base), y = plot->top + plot->font;
    char bytes[16], *name = labels_shorten(scene->view->looks[0].name, plot_name_most(plot), NULL);
    if (!name || base->bytes == 0) {
        plot->markup->failed = plot->markup->failed || !name;
        memory_free(name);
        return;
    }
    report_bytes(bytes, base->bytes);
    const double width = labels_width(name, plot->font) + labels_width(bytes, plot->font) + plot->font;
    const double side = x - width - 8 > plot->left ? -1 : 1; /* where there is room for the name */
    markup_format(plot->markup,
        "<g class=\"base\"><path class=\"size\" d=\"M%.1f %.1fV%.1f\"/><circle cx=\"%.1f\" cy=\"%.1f\" "
        "r=\"5\"/><text class=\"name\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
        x, plot->top, plot->bottom, x, plot->bottom, x + 6 * side, y, side < 0 ? "end" : "start");
    markup_escape(plot->markup, name);
    markup_format(plot->markup, ", %s</text></g>\n", bytes);
    add_obstacle(scene, x, plot->bottom, PLOT_RADIUS, PLOT_RADIUS);
    add_obstacle(scene, x + side * width / 2, y - plot->font / 2, width / 2 + 6, 0.7 * plot->font);
    add_segment(scene, x, plot->top, x, plot->bottom);
    memory_free(name);
}

/* The point of the front that follows one of so many bytes: the smallest larger one. NULL at the end. */
static const struct comparison_model *next_on_front(const struct page_view *view, uint64_t bytes)
{
    const struct comparison_model *next = NULL;
    for (uint64_t i = 0; i < view->count; i++) {
        const struct comparison_model *model = &view->models[i];
        if (view->front[i] && model->bytes > bytes && (!next || model->bytes < next->bytes)) next = model;
    }
    return next;
}

static void draw_front(struct scene *scene)
{
    struct markup *markup = scene->plot.markup;
    const struct comparison_model *model = next_on_front(scene->view, 0);
    double y = scene->plot.top, x = model ? x_of(scene, model) : 0;
    if (!model) return;
    markup_format(markup, "<path class=\"front\" d=\"M%.1f %.1f", x, y);
    for (; model; model = next_on_front(scene->view, model->bytes)) {
        const double to_x = x_of(scene, model),
                     to_y = y_of(scene, model->result ? model->result->kld.value : 0);
        markup_format(markup, "H%.1fV%.1f", to_x, to_y);
        add_segment(scene, x, y, to_x, y);
        add_segment(scene, to_x, y, to_x, to_y);
        x = to_x, y = to_y;
    }
    markup_put(markup, "\"/>\n");
}

/* The next larger point of the same family, or NULL; of equal ones the later is the larger. */
static const struct comparison_model *next_in_family(const struct scene *scene, uint64_t point)
{
    const struct page_look *looks = scene->view->looks;
    const struct comparison_model *mine = model_of(scene, point), *next = NULL;
    for (uint64_t i = 0; i < scene->count; i++) {
        const struct comparison_model *other = model_of(scene, i);
        if (looks[scene->points[i]].family != looks[scene->points[point]].family || other == mine) continue;
        if (other->bytes < mine->bytes || (other->bytes == mine->bytes && other < mine)) continue;
        if (!next || other->bytes < next->bytes) next = other;
    }
    return next;
}

static void draw_families(struct scene *scene)
{
    for (uint64_t i = 0; i < scene->count; i++) {
        const struct comparison_model *mine = model_of(scene, i), *next = next_in_family(scene, i);
        if (!next) continue;
        const double x1 = x_of(scene, mine), y1 = y_of(scene, mine->result->kld.value);
        const double x2 = x_of(scene, next), y2 = y_of(scene, next->result->kld.value);
        markup_format(scene->plot.markup, "<path class=\"family k%u\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n",
            scene->view->looks[scene->points[i]].colour, x1, y1, x2, y2);
        add_segment(scene, x1, y1, x2, y2);
    }
}

/* ---- points ---- */

/* Where everything lies that a label must not cover, and the labels around it: first those on the front. */
static void place_labels(struct scene *scene)
{
    struct plot *plot = &scene->plot;
    for (uint64_t i = 0; i < scene->count; i++) {
        const struct comparison_model *model = model_of(scene, i);
        const struct estimate kld = model->result->kld;
        const double x = x_of(scene, model), y = y_of(scene, kld.value);
        const double top = y_of(scene, kld.value + 2 * kld.error),
                     low = y_of(scene, kld.value - 2 * kld.error);
        char *name = labels_shorten(scene->view->looks[scene->points[i]].name, plot_name_most(plot), NULL);
        if (!name) plot->markup->failed = true;
        scene->labels[i] = (struct label){.x = x, .y = y, .width = name ? labels_width(name, plot->font) : 0};
        add_obstacle(scene, x, y, PLOT_RADIUS, PLOT_RADIUS);
        add_obstacle(scene, x, (top + low) / 2, 1, (low - top) / 2);
        memory_free(name);
    }
    const struct labels_ground ground = {
        .obstacles = scene->obstacles,
        .segments = scene->segments,
        .obstacle_count = scene->obstacle_count,
        .segment_count = scene->segment_count,
        .area = {plot->left, plot->top, plot->width - 2, plot->bottom - 2},
        .font = plot->font,
        .radius = PLOT_RADIUS,
    };
    labels_place(scene->labels, scene->count, &ground);
}

/* What a point says when it is pointed at. */
static void describe(char *out, uint64_t room, const struct comparison_model *model, bool front)
{
    char bytes[16], bits[DIGITS_BYTES], value[DIGITS_BYTES], error[DIGITS_BYTES], perplexity[DIGITS_BYTES];
    digits_estimate(value, error, model->result->kld);
    snprintf(out, room, "%s, %.40s bits per weight; KL divergence %.40s%s%.40s; perplexity %.40s%s",
        report_bytes(bytes, model->bytes), digits_significant(bits, model->bits_per_weight, 4), value,
        *error ? " \xC2\xB1 " : "", error, digits_significant(perplexity, model->perplexity.value, 5),
        front ? "; on the front" : "");
}

static void draw_point(const struct scene *scene, uint64_t point)
{
    const struct plot *plot = &scene->plot;
    const struct comparison_model *model = model_of(scene, point);
    const struct page_look *look = &scene->view->looks[scene->points[point]];
    const struct label *label = &scene->labels[point];
    const struct estimate kld = model->result->kld;
    const bool front = scene->view->front[scene->points[point]];
    char title[256];
    describe(title, sizeof title, model, front);
    plot_group(plot, look, !front, model->name, title);
    if (kld.error > 0)
        markup_format(plot->markup, "<path class=\"bar\" d=\"M%.1f %.1fV%.1f\"/>", label->x,
            y_of(scene, kld.value + 2 * kld.error), y_of(scene, kld.value - 2 * kld.error));
    if (label->shown && label->led)
        markup_format(plot->markup, "<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>", label->leader.x1,
            label->leader.y1, label->leader.x2, label->leader.y2);
    plot_marker(plot->markup, look, label->x, label->y);
    if (label->shown) plot_name(plot, label->place.left, label->place.top + 0.9 * plot->font, look->name);
    markup_put(plot->markup, "</g>\n");
}

static void draw_points(struct scene *scene)
{
    const struct plot *plot = &scene->plot;
    uint64_t left_out = 0;
    place_labels(scene);
    for (uint64_t i = 0; i < scene->count; i++) {
        draw_point(scene, i);
        left_out += !scene->labels[i].shown;
    }
    if (left_out > 0)
        markup_format(plot->markup,
            "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\">no room for %" PRIu64 " of the names</text>\n",
            plot->left, plot->height - 6, left_out);
}

/* ---- the figure ---- */

static void draw_scene(struct scene *scene)
{
    fit_axes(scene);
    plot_layout(&scene->plot, scene->plot.narrow ? 380 : 460, scene->plot.narrow ? 12 : 20);
    plot_open(&scene->plot, "size", "Size against quality",
        "One point per model over its size; lower is closer to the original. The table below has the "
        "numbers.");
    draw_axes(scene);
    draw_base(scene);
    draw_front(scene);
    draw_families(scene);
    draw_points(scene);
    plot_close(&scene->plot);
}

/* The front in words. */
static void write_front(struct markup *markup, const struct page_view *view)
{
    const char *before = "<p>On the stepped line, the smallest first: ";
    char bytes[16], kld[DIGITS_BYTES];
    for (const struct comparison_model *model = next_on_front(view, 0); model;
         model = next_on_front(view, model->bytes)) {
        if (!model->result) continue;
        markup_format(markup, "%s<strong>", before);
        markup_escape(markup, view->looks[model - view->models].name);
        markup_format(markup, "</strong> (%s, %s)", report_bytes(bytes, model->bytes),
            digits_significant(kld, model->result->kld.value, 3));
        before = ", ";
    }
    if (*before == ',') markup_put(markup, ".</p>\n");
}

static bool make_scene(struct scene *scene, const struct page_view *view)
{
    const uint64_t count = view->count;
    scene->view = view;
    scene->points = memory_new(count, sizeof *scene->points, NULL);
    scene->labels = memory_new(count, sizeof *scene->labels, NULL);
    scene->obstacles = memory_new(2 * count + 2, sizeof *scene->obstacles, NULL);
    scene->segments = memory_new(3 * count + 4, sizeof *scene->segments, NULL);
    if (!scene->points || !scene->labels || !scene->obstacles || !scene->segments) return false;
    for (uint64_t i = 1; i < count; i++) {
        const struct comparison_model *model = &view->models[i];
        if (model->bytes > 0 && isfinite(model->result->kld.value)) scene->points[scene->count++] = i;
    }
    return true;
}

static void free_scene(struct scene *scene)
{
    memory_free(scene->points);
    memory_free(scene->labels);
    memory_free(scene->obstacles);
    memory_free(scene->segments);
}

static void write_notes(struct markup *markup, const struct scene *scene)
{
    bool joined = false;
    for (uint64_t i = 0; i < scene->count && !joined; i++)
        joined = next_in_family(scene, i) != NULL;
    markup_format(markup,
        "<p class=\"note\">Bars span two standard errors to each side. Sizes within 0.1\xC2\xA0%% of each "
        "other "
        "count as equal. In the shaded band the vertical scale is linear down to 0.%s</p>\n",
        joined ? " Thin lines join models whose names differ only in their numbers." : "");
}

static void draw_figure(struct scene *scene, struct markup *markup)
{
    markup_put(markup,
        "<figure id=\"size\">\n<figcaption><h2>Size against quality</h2>\n<p>How to read it: left is "
        "smaller, "
        "down is closer to the original; no model is both smaller and closer than one on the stepped line, "
        "and the others are dimmed.</p>\n");
    write_front(markup, scene->view);
    markup_put(markup, "</figcaption>\n");
    for (int narrow = 0; narrow < 2; narrow++) {
        scene->plot = (struct plot){.markup = markup, .narrow = narrow};
        scene->obstacle_count = scene->segment_count = 0;
        draw_scene(scene);
    }
    write_notes(markup, scene);
    markup_put(markup, "</figure>\n");
}

void page_size_figure(struct markup *markup, const struct page_view *view)
{
    struct scene scene = {0};
    if (!make_scene(&scene, view))
        markup->failed = true;
    else if (scene.count > 0)
        draw_figure(&scene, markup);
    free_scene(&scene);
}
