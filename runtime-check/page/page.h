/* A comparison as one self-contained HTML page: size against quality, the divergences of all tokens, the error of every layer, and
 * the table. Inline SVG and CSS, nothing loaded, readable in light and dark, and without scripts. */
#ifndef NIBBLE_RUNTIME_CHECK_PAGE_H
#define NIBBLE_RUNTIME_CHECK_PAGE_H

#include "runtime-check/judge/comparison_print.h"

struct page {
    const char *text;                      /* the text's name; NULL: unknown */
    const char *protocol;                  /* "gptq" */
    const struct comparison_model *models; /* [count], the base first */
    uint64_t count;
};

/* Write the page to `path`, all or nothing. Names of models are escaped. ERR_USAGE: the file exists and !force; ERR_IO. */
enum status page_write(const char *path, bool force, const struct page *page, struct error *err);

#endif
