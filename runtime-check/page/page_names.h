/* What the models of a page are called and how they look: short names that tell them apart, and a colour and marker for each
 * family of names. */
#ifndef NIBBLE_RUNTIME_CHECK_PAGE_NAMES_H
#define NIBBLE_RUNTIME_CHECK_PAGE_NAMES_H

#include <stdbool.h>

#include "runtime-check/page/page.h"

/* Colours and marker shapes; used in turn, then again with hollow markers and dashed lines, then all the rest in grey. */
enum { PAGE_COLOURS = 6, PAGE_SHAPES = 6, PAGE_STYLES = 12 };

struct page_look {
    char *name; /* short and unique; not escaped */
    uint64_t family;
    unsigned colour, shape; /* colour PAGE_COLOURS: grey */
    bool hollow;
};

/* Names and looks of models[count], the base first.
 *
 * A name is the shortest that is unique among all: the last part of the path without .nbl or .safetensors, then with it, then with one
 * folder more each time; a path given twice gets a number. Models whose names differ in their digits only ("gptq4", "gptq3") are
 * a family and look alike, unless all candidates are one family. The base has no look.
 *   out  [count]  owner: the caller, page_names_free (also after an error; zero-initialised by the call)
 * ERR_MEMORY. */
enum status page_names_make(
    struct page_look **out, const struct comparison_model *models, uint64_t count, struct error *err);
void page_names_free(struct page_look *looks, uint64_t count);

#endif
