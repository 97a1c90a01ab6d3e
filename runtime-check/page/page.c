/* See page.h. The page holds no date, no time and no path but those of the models: the same comparison gives the same bytes. */
#include "runtime-check/page/page.h"

#include <inttypes.h>
#include <locale.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/page_view.h"

/* The last part of a path. */
static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void write_headline(struct markup *markup, const struct page_view *view)
{
    char count[DIGITS_BYTES];
    if (view->count == 2)
        markup_escape(markup, view->looks[1].name);
    else
        markup_format(markup, "%s models", digits_count(count, view->count - 1));
    markup_put(markup, " compared with ");
    markup_escape(markup, view->looks[0].name);
}

static void write_head(struct markup *markup, const struct page_view *view)
{
    markup_put(markup, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                       "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                       "<meta name=\"generator\" content=\"nibble-check " NIBBLE_VERSION "\">\n<title>");
    write_headline(markup, view);
    markup_put(markup, "</title>\n");
    page_style_write(markup);
    markup_put(markup, "</head>\n<body>\n<main>\n<header>\n<h1>");
    write_headline(markup, view);
    markup_put(markup,
        "</h1>\n<p>How far each model's predictions are from the original's, token by token, on the same "
        "text.</p>\n");
}

static void write_fact(struct markup *markup, const char *name, const char *value)
{
    markup_format(markup, "<div><dt>%s</dt><dd>", name);
    markup_escape(markup, value);
    markup_put(markup, "</dd></div>\n");
}

static void write_facts(struct markup *markup, const struct page *page)
{
    const struct comparison *result = page->models[1].result;
    char count[DIGITS_BYTES];
    markup_put(markup, "<dl class=\"facts\">\n");
    if (page->text) write_fact(markup, "text", last_part(page->text));
    if (page->protocol) write_fact(markup, "protocol", page->protocol);
    write_fact(markup, "context", digits_count(count, result->context));
    write_fact(markup, "windows", digits_count(count, result->windows));
    write_fact(markup, "tokens scored", digits_count(count, result->tokens_scored));
    markup_put(markup, "</dl>\n</header>\n");
}

static void write_definitions(struct markup *markup)
{
    markup_put(markup,
        "<footer>\n<h2>What the numbers are</h2>\n<dl>\n"
        "<dt>KL divergence</dt><dd>KL divergence of one token's predictions, sum over the vocabulary of p "
        "ln(p/q), p "
        "the "
        "original's probabilities and q the model's; in nats. 0: the same predictions.</dd>\n"
        "<dt>mean, median, 90\xC2\xA0% \xE2\x80\xA6 largest</dt><dd>of the divergences of all scored tokens, "
        "none "
        "left out.</dd>\n"
        "<dt>perplexity</dt><dd>exp of the mean of \xE2\x88\x92ln q(t), t the token that followed.</dd>\n"
        "<dt>change, ln ratio</dt><dd>of the perplexity against the original's, in percent and as a "
        "logarithm; their errors are those of the paired differences, far smaller than the two "
        "perplexities' own.</dd>\n"
        "<dt>RMS \xCE\x94p</dt><dd>root mean square change of the probability of t.</dd>\n"
        "<dt>same top</dt><dd>share of the tokens for which both hold the same token likeliest.</dd>\n"
        "<dt>size, bits/weight</dt><dd>of the whole files, embedding, scales and everything else "
        "included.</dd>\n"
        "<dt>last error</dt><dd>relative error of the last decoder layer's output: sqrt(mean |a \xE2\x88\x92 "
        "b|\xC2\xB2 / |a|\xC2\xB2), a the original's hidden state and b the model's.</dd>\n");
}

static void write_errors(struct markup *markup, const struct page *page)
{
    const struct comparison *result = page->models[1].result;
    char count[DIGITS_BYTES];
    markup_put(markup, "<dt>\xC2\xB1</dt><dd>one standard error. ");
    if (result->by_block)
        markup_format(markup,
            "%s blocks of consecutive windows count as the independent samples, because tokens near one "
            "another "
            "are not independent; errors of percentiles are by resampling blocks.",
            digits_count(count, estimate_blocks(result->windows)));
    else
        markup_put(markup, "Too few windows to estimate it by blocks of windows: tokens are taken as "
                           "independent, which makes it too "
                           "small.");
    markup_put(markup, "</dd>\n");
    if (result->base_top_k > 0)
        markup_format(markup,
            "<dt>lower bounds</dt><dd>Of the original only the %s likeliest tokens of each position are "
            "stored: the divergences are lower bounds.</dd>\n",
            digits_count(count, result->base_top_k));
}

static void write_page(struct markup *markup, const struct page *page, const struct page_view *view)
{
    write_head(markup, view);
    write_facts(markup, page);
    page_size_figure(markup, view);
    page_tokens_figure(markup, view);
    page_layers_figure(markup, view);
    page_table_write(markup, view);
    write_definitions(markup);
    write_errors(markup, page);
    markup_put(
        markup, "</dl>\n<p>nibble-check " NIBBLE_VERSION "</p>\n</footer>\n</main>\n</body>\n</html>\n");
}

/* Numbers have points in every locale. The C locale is built into the C library: nothing that can fail. */
enum status page_write(const char *path, bool force, const struct page *page, struct error *err)
{
    struct markup markup = {0};
    struct page_look *looks = NULL;
    bool *front = NULL;
    if (page->count < 2) return fail(err, ERR_USAGE, "%s: a page needs a base and at least one model", path);
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0), previous = uselocale(plain);
    enum status status = page_names_make(&looks, page->models, page->count, err);
    if (status) goto done;
    front = memory_new(page->count, sizeof *front, err);
    if (!front) {
        status = ERR_MEMORY;
        goto done;
    }
    page_front_find(front, page->models, page->count);
    const struct page_view view = {page->models, page->count, looks, front};
    write_page(&markup, page, &view);
    status = markup_save(&markup, path, force, err);
done:
    markup_free(&markup);
    memory_free(front);
    page_names_free(looks, page->count);
    uselocale(previous);
    freelocale(plain);
    return status;
}
