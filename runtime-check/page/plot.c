/* See plot.h. */
#include "runtime-check/page/plot.h"

#include "base/memory.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/labels.h"

/* Between the lowest round value and the line of 0 below it. */
enum { ZERO_ROOM = 30 };

uint64_t plot_name_most(const struct plot *plot)
{
    return plot->narrow ? 13 : 24;
}

void plot_layout(struct plot *plot, double height, double room_right)
{
    plot->font = plot->narrow ? 12 : 13;
    plot->width = plot->narrow ? 380 : 880;
    plot->left = plot->narrow ? 52 : 58;
    plot->top = 34;
    plot->right = plot->width - room_right;
    plot->bottom = plot->top + height;
    plot->height = plot->bottom + 46;
    plot->x.at_low = plot->left;
    plot->x.at_high = plot->right;
    plot->y.at_high = plot->top;
    plot->y.at_zero = plot->bottom;
    plot->y.at_low = plot->bottom - (plot->y.zero ? ZERO_ROOM : 0);
}

void plot_open(const struct plot *plot, const char *id, const char *title, const char *description)
{
    const char *kind = plot->narrow ? "narrow" : "wide";
    markup_format(plot->markup,
        "<svg class=\"%s\" viewBox=\"0 0 %.0f %.0f\" font-size=\"%.0f\" role=\"img\" "
        "aria-labelledby=\"%s-%s-t %s-%s-d\" xmlns=\"http://www.w3.org/2000/svg\">\n"
        "<title id=\"%s-%s-t\">%s</title>\n<desc id=\"%s-%s-d\">%s</desc>\n",
        kind, plot->width, plot->height, plot->font, id, kind, id, kind, id, kind, title, id, kind,
        description);
}

void plot_close(const struct plot *plot)
{
    markup_put(plot->markup, "</svg>\n");
}

static void grid_line(const struct plot *plot, double y, const char *kind, const char *text)
{
    markup_format(plot->markup,
        "<path class=\"%s\" d=\"M%.1f %.1fH%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\" "
        "text-anchor=\"end\">%s</text>\n",
        kind, plot->left, y, plot->right, plot->left - 8, y + 0.35 * plot->font, text);
}

void plot_y_axis(const struct plot *plot, const char *title)
{
    double ticks[AXIS_TICKS];
    char text[DIGITS_BYTES];
    const uint64_t count = axis_ticks(&plot->y, ticks);
    if (plot->y.zero)
        markup_format(plot->markup, "<path class=\"band\" d=\"M%.1f %.1fH%.1fV%.1fH%.1fz\"/>\n", plot->left,
            plot->y.at_low, plot->right, plot->y.at_zero, plot->left);
    for (uint64_t i = 0; i < count; i++)
        grid_line(
            plot, axis_at(&plot->y, ticks[i]), ticks[i] == 0 ? "zero" : "grid", digits_tick(text, ticks[i]));
    if (plot->y.zero) grid_line(plot, plot->y.at_zero, "zero", "0");
    markup_format(plot->markup, "<text class=\"head\" x=\"2\" y=\"%.1f\">%s</text>\n", plot->font + 1, title);
}

void plot_x_tick(const struct plot *plot, double x, const char *text)
{
    markup_format(plot->markup,
        "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\" "
        "text-anchor=\"middle\">%s</text>\n",
        x, plot->top, plot->bottom, x, plot->bottom + 6 + plot->font, text);
}

void plot_x_title(const struct plot *plot, const char *title)
{
    markup_format(plot->markup, "<text class=\"head\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
        plot->right, plot->height - 6, title);
}

void plot_group(
    const struct plot *plot, const struct page_look *look, bool dimmed, const char *name, const char *title)
{
    markup_format(plot->markup, "<g class=\"model k%u%s%s\"><title>", look->colour,
        look->hollow ? " hollow" : "", dimmed ? " dim" : "");
    markup_escape(plot->markup, name);
    markup_put(plot->markup, "\n");
    markup_escape(plot->markup, title);
    markup_put(plot->markup, "</title>");
}

void plot_marker(struct markup *markup, const struct page_look *look, double x, double y)
{
    /* circle, square, triangle, diamond, triangle upside down, cross: of about the same area */
    static const char *const shapes[PAGE_SHAPES] = {
        "m-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",
        "m-4.1-4.1h8.2v8.2h-8.2z",
        "m0-5.6 5.3 9.2h-10.6z",
        "m0-5.9 5.9 5.9-5.9 5.9-5.9-5.9z",
        "m0 5.6 5.3-9.2h-10.6z",
        "m-1.8-5.2h3.6v3.4h3.4v3.6h-3.4v3.4h-3.6v-3.4h-3.4v-3.6h3.4z",
    };
    markup_format(markup, "<path class=\"mark\" d=\"M%.1f %.1f%s\"/>", x, y, shapes[look->shape]);
}

void plot_name(const struct plot *plot, double x, double y, const char *name)
{
    char *text = labels_shorten(name, plot_name_most(plot), NULL);
    if (!text) {
        plot->markup->failed = true;
        return;
    }
    markup_format(plot->markup, "<text class=\"name\" x=\"%.1f\" y=\"%.1f\">", x, y);
    markup_escape(plot->markup, text);
    markup_put(plot->markup, "</text>");
    memory_free(text);
}
