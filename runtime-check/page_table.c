/* The table of all numbers, with their uncertainties. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/report.h"
#include "runtime-check/digits.h"
#include "runtime-check/page_view.h"
#include "runtime-check/plot.h"

/* A column of a candidate's estimates. */
struct column {
    const char *heading;
    size_t offset;
    double unit;
    const char *suffix;
};

#define COLUMN(heading, field, unit, suffix)                                                                 \
    {                                                                                                        \
        heading, offsetof(struct comparison, field), unit, suffix                                            \
    }
#define PERCENT "\xC2\xA0%"
static const struct column columns[] = {
    COLUMN("ln ratio", log_ratio, 1, ""),
    COLUMN("mean KLD", kld, 1, ""),
    COLUMN("median", kld_median, 1, ""),
    COLUMN("90" PERCENT, kld_p90, 1, ""),
    COLUMN("95" PERCENT, kld_p95, 1, ""),
    COLUMN("99" PERCENT, kld_p99, 1, ""),
    COLUMN("99.9" PERCENT, kld_p999, 1, ""),
    COLUMN("RMS \xCE\x94p", probability_rms, 100, PERCENT),
    COLUMN("same top", same_top, 100, PERCENT),
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void put_estimate(struct markup *markup, struct estimate estimate, const char *suffix)
{
    char value[DIGITS_BYTES], error[DIGITS_BYTES];
    digits_estimate(value, error, estimate);
    markup_format(markup, "<td>%s%s", value, suffix);
    if (*error) markup_format(markup, "<small>\xC2\xB1\xC2\xA0%s</small>", error);
    markup_put(markup, "</td>");
}

static void put_number(struct markup *markup, double value)
{
    char text[DIGITS_BYTES];
    markup_format(markup, "<td>%s</td>", digits_significant(text, value, 4));
}

/* With more digits than its error leaves: models are compared by paired differences, which are far more certain. */
static void put_perplexity(struct markup *markup, struct estimate perplexity)
{
    char value[DIGITS_BYTES], error[DIGITS_BYTES];
    digits_estimate(value, error, perplexity);
    markup_format(markup, "<td>%s", digits_significant(value, perplexity.value, 6));
    if (*error) markup_format(markup, "<small>\xC2\xB1\xC2\xA0%s</small>", error);
    markup_put(markup, "</td>");
}

static struct estimate column_value(const struct column *column, const struct comparison *result)
{
    struct estimate estimate;
    memcpy(&estimate, (const char *)result + column->offset, sizeof estimate);
    return (struct estimate){column->unit * estimate.value, column->unit * estimate.error};
}

/* Whether any model has errors of layers, which then get a column. */
static bool has_layers(const struct page_view *view)
{
    bool any = false;
    for (uint64_t i = 1; i < view->count; i++)
        any = any || (view->models[i].result->layer_errors && view->models[i].result->layers > 0);
    return any;
}

static void put_head(struct markup *markup, const struct page_view *view)
{
    markup_put(markup,
        "<thead><tr><th scope=\"col\">model</th><th scope=\"col\">on the line</th><th scope=\"col\">size</th>"
        "<th scope=\"col\">bits/weight</th><th scope=\"col\">perplexity</th><th scope=\"col\">change</th>");
    for (int i = 0; i < COLUMNS; i++)
        markup_format(markup, "<th scope=\"col\">%s</th>", columns[i].heading);
    markup_format(markup, "<th scope=\"col\">largest</th>%s</tr></thead>\n",
        has_layers(view) ? "<th scope=\"col\">last layer</th>" : "");
}

/* The model's mark and name, and what every model has. */
static void put_model(struct markup *markup, const struct page_view *view, uint64_t index)
{
    const struct comparison_model *model = &view->models[index];
    const struct page_look *look = &view->looks[index];
    char bytes[16];
    markup_put(markup, "<tr><th scope=\"row\" title=\"");
    markup_escape(markup, model->name);
    markup_format(markup, "\" class=\"k%u%s\">", look->colour, look->hollow ? " hollow" : "");
    markup_put(markup, "<svg class=\"key\" viewBox=\"-7 -7 14 14\" aria-hidden=\"true\">");
    if (index > 0)
        plot_marker(markup, look, 0, 0);
    else
        markup_put(markup, "<circle class=\"base\" r=\"5\"/>");
    markup_put(markup, "</svg><span>");
    markup_escape(markup, look->name);
    markup_format(markup, "</span>%s</th><td>%s</td><td>%s</td>",
        index == 0 ? "<small>the original</small>" : "", index > 0 && view->front[index] ? "yes" : "",
        model->bytes > 0 ? report_bytes(bytes, model->bytes) : "\xE2\x80\x93");
    put_number(markup, model->bits_per_weight > 0 ? model->bits_per_weight : NAN);
    put_perplexity(markup, model->perplexity);
}

static void put_result(struct markup *markup, const struct comparison *result, bool layers)
{
    const double ratio = exp(result->log_ratio.value);
    const bool traced = result->layer_errors && result->layers > 0;
    put_estimate(markup,
        (struct estimate){100 * expm1(result->log_ratio.value), 100 * ratio * result->log_ratio.error},
        PERCENT);
    for (int i = 0; i < COLUMNS; i++)
        put_estimate(markup, column_value(&columns[i], result), columns[i].suffix);
    put_number(markup, result->kld_max);
    if (layers) put_number(markup, traced ? result->layer_errors[result->layers - 1] : NAN);
}

void page_table_write(struct markup *markup, const struct page_view *view)
{
    const bool layers = has_layers(view);
    markup_put(markup, "<section id=\"table\"><h2>All numbers</h2>\n<p>How to read it: a small number under "
                       "another is its standard error; median to 99.9\xC2\xA0% "
                       "are percentiles of the KL divergence.</p>\n<div class=\"scroll\" tabindex=\"0\" "
                       "role=\"region\" aria-label=\"All "
                       "numbers\"><table>\n");
    put_head(markup, view);
    markup_put(markup, "<tbody>\n");
    for (uint64_t i = 0; i < view->count; i++) {
        put_model(markup, view, i);
        if (i > 0)
            put_result(markup, view->models[i].result, layers);
        else
            markup_format(markup, "<td colspan=\"%d\"></td>", COLUMNS + 2 + layers);
        markup_put(markup, "</tr>\n");
    }
    markup_put(markup, "</tbody></table></div></section>\n");
}
