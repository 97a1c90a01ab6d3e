/* The table of all numbers, with their uncertainties. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/report.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/page_view.h"
#include "runtime-check/page/plot.h"

#define PERCENT "\xC2\xA0%"

/* A column of a candidate's estimates; the first of a group has a heading over it that spans so many columns. */
struct column {
    const char *heading;
    size_t offset;
    double unit;
    const char *suffix, *group;
    int span;
};

#define COLUMN(heading, field, ...)                                                                          \
    {                                                                                                        \
        heading, offsetof(struct comparison, field), __VA_ARGS__                                             \
    }
static const struct column columns[] = {
    COLUMN("mean", kld, 1, "", "KL divergence, nats", 7),
    COLUMN("median", kld_median, 1, "", NULL, 0),
    COLUMN("90" PERCENT, kld_p90, 1, "", NULL, 0),
    COLUMN("95" PERCENT, kld_p95, 1, "", NULL, 0),
    COLUMN("99" PERCENT, kld_p99, 1, "", NULL, 0),
    COLUMN("99.9" PERCENT, kld_p999, 1, "", NULL, 0),
    COLUMN("largest", kld_max, 1, "", NULL, 0),
    COLUMN("same top", same_top, 100, PERCENT, "predictions", 2),
    COLUMN("RMS \xCE\x94p", probability_rms, 100, PERCENT, NULL, 0),
};
enum { COLUMNS = sizeof columns / sizeof *columns, LARGEST = 6 /* has no error */ };

/* ---- cells ---- */

static void open_cell(struct markup *markup, bool begins)
{
    markup_put(markup, begins ? "<td class=\"begins\">" : "<td>");
}

static void put_estimate(struct markup *markup, struct estimate estimate, const char *suffix, bool begins)
{
    char value[DIGITS_BYTES], error[DIGITS_BYTES];
    digits_estimate(value, error, estimate);
    open_cell(markup, begins);
    markup_format(markup, "%s%s", value, suffix);
    if (*error) markup_format(markup, "<small>\xC2\xB1\xC2\xA0%s</small>", error);
    markup_put(markup, "</td>");
}

static void put_number(struct markup *markup, double value, bool begins)
{
    char text[DIGITS_BYTES];
    open_cell(markup, begins);
    markup_format(markup, "%s</td>", digits_significant(text, value, 4));
}

/* With more digits than its error leaves: models are compared by paired differences, which are far more certain. */
static void put_perplexity(struct markup *markup, struct estimate perplexity)
{
    char value[DIGITS_BYTES], error[DIGITS_BYTES];
    digits_estimate(value, error, perplexity);
    markup_format(markup, "<td class=\"begins\">%s", digits_significant(value, perplexity.value, 6));
    if (*error) markup_format(markup, "<small>\xC2\xB1\xC2\xA0%s</small>", error);
    markup_put(markup, "</td>");
}

/* ---- rows ---- */

/* Whether any model has errors of layers, which then get a column. */
static bool has_layers(const struct page_view *view)
{
    bool any = false;
    for (uint64_t i = 1; i < view->count; i++)
        any = any || (view->models[i].result->layer_errors && view->models[i].result->layers > 0);
    return any;
}

static void put_group(struct markup *markup, const char *name, int span)
{
    markup_format(markup, "<th scope=\"colgroup\" class=\"group begins\" colspan=\"%d\">%s</th>", span, name);
}

static void put_heading(struct markup *markup, const char *name, bool begins)
{
    markup_format(markup, "<th scope=\"col\"%s>%s</th>", begins ? " class=\"begins\"" : "", name);
}

static void put_head(struct markup *markup, bool layers)
{
    markup_put(markup, "<thead><tr><th scope=\"col\" class=\"model\" rowspan=\"2\">model</th>");
    put_group(markup, "files", 2);
    for (int i = 0; i < COLUMNS; i++) {
        if (columns[i].group) put_group(markup, columns[i].group, columns[i].span);
    }
    put_group(markup, "perplexity", 3);
    if (layers) put_group(markup, "layers", 1);
    put_group(markup, "stepped line", 1);
    markup_put(markup, "</tr>\n<tr>");
    put_heading(markup, "size", true);
    put_heading(markup, "bits/weight", false);
    for (int i = 0; i < COLUMNS; i++)
        put_heading(markup, columns[i].heading, columns[i].group);
    put_heading(markup, "value", true);
    put_heading(markup, "change", false);
    put_heading(markup, "ln ratio", false);
    if (layers) put_heading(markup, "last error", true);
    put_heading(markup, "on it", true);
    markup_put(markup, "</tr></thead>\n");
}

/* The model's mark and name, and the size of its files. */
static void put_model(struct markup *markup, const struct page_view *view, uint64_t index)
{
    const struct comparison_model *model = &view->models[index];
    const struct page_look *look = &view->looks[index];
    char bytes[16];
    markup_put(markup, "<tr><th scope=\"row\" title=\"");
    markup_escape(markup, model->name);
    markup_format(markup, "\" class=\"model k%u%s\">", look->colour, look->hollow ? " hollow" : "");
    markup_put(markup, "<svg class=\"key\" viewBox=\"-7 -7 14 14\" aria-hidden=\"true\">");
    if (index > 0)
        plot_marker(markup, look, 0, 0);
    else
        markup_put(markup, "<circle class=\"base\" r=\"5\"/>");
    markup_put(markup, "</svg><span>");
    markup_escape(markup, look->name);
    markup_format(markup, "</span>%s</th><td class=\"begins\">%s</td>",
        index == 0 ? "<small>the original</small>" : "",
        model->bytes > 0 ? report_bytes(bytes, model->bytes) : "\xE2\x80\x93");
    put_number(markup, model->bits_per_weight > 0 ? model->bits_per_weight : NAN, false);
}

static struct estimate column_value(int index, const struct comparison *result)
{
    const char *at = (const char *)result + columns[index].offset;
    struct estimate estimate = {0};
    if (index == LARGEST)
        memcpy(&estimate.value, at, sizeof estimate.value);
    else
        memcpy(&estimate, at, sizeof estimate);
    return (struct estimate){columns[index].unit * estimate.value, columns[index].unit * estimate.error};
}

static void put_result(struct markup *markup, const struct comparison_model *model, bool layers, bool front)
{
    const struct comparison *result = model->result;
    const double percent = 100 * exp(result->log_ratio.value);
    const bool traced = result->layer_errors && result->layers > 0;
    for (int i = 0; i < COLUMNS; i++)
        put_estimate(markup, column_value(i, result), columns[i].suffix, columns[i].group);
    put_perplexity(markup, model->perplexity);
    put_estimate(markup,
        (struct estimate){100 * expm1(result->log_ratio.value), percent * result->log_ratio.error}, PERCENT,
        false);
    put_estimate(markup, result->log_ratio, "", false);
    if (layers) put_number(markup, traced ? result->layer_errors[result->layers - 1] : NAN, true);
    markup_format(markup, "<td class=\"begins\">%s</td>", front ? "yes" : "no");
}

/* What the base has. */
static void put_base(struct markup *markup, const struct comparison_model *base, bool layers)
{
    markup_format(markup, "<td class=\"begins\" colspan=\"%d\"></td>", COLUMNS);
    put_perplexity(markup, base->perplexity);
    markup_format(markup, "<td colspan=\"%d\"></td>", 3 + layers);
}

void page_table_write(struct markup *markup, const struct page_view *view)
{
    const bool layers = has_layers(view);
    markup_put(markup,
        "<section id=\"table\"><h2>All numbers</h2>\n<p>How to read it: a small number under another is "
        "its standard error; median to 99.9\xC2\xA0% are percentiles of all tokens' divergences.</p>\n"
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"All numbers\"><table>\n");
    put_head(markup, layers);
    markup_put(markup, "<tbody>\n");
    for (uint64_t i = 0; i < view->count; i++) {
        put_model(markup, view, i);
        if (i > 0)
            put_result(markup, &view->models[i], layers, view->front[i]);
        else
            put_base(markup, &view->models[0], layers);
        markup_put(markup, "</tr>\n");
    }
    markup_put(markup, "</tbody></table></div></section>\n");
}
