/* Text that grows into one document of markup: our own pieces as they are, everything from outside escaped. */
#ifndef NIBBLE_RUNTIME_CHECK_MARKUP_H
#define NIBBLE_RUNTIME_CHECK_MARKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Zero-initialise. Once memory has run out, `failed` stays set and nothing more is added; markup_save then says so. */
struct markup {
    char *bytes;
    uint64_t count, capacity;
    bool failed;
};
void markup_free(struct markup *markup);

/* Add our own text, which must be valid markup. */
void markup_put(struct markup *markup, const char *text);
/* The same of `count` bytes. */
void markup_add(struct markup *markup, const char *bytes, uint64_t count);
/* The same by a format; any length. Numbers are written as the thread's locale says: the caller holds it to "C". */
void markup_format(struct markup *markup, const char *format, ...) NIBBLE_PRINTF(2, 3);
/* Add a foreign text as character data, safe inside an element and inside a quoted attribute: & < > " ' become references; bytes that
 * are no UTF-8, controls, noncharacters and marks that turn the direction of writing become U+FFFD. */
void markup_escape(struct markup *markup, const char *text);

/* Write everything to `path`, all or nothing (base/file.h). ERR_USAGE: it exists and !force; ERR_MEMORY: memory ran out before;
 * ERR_IO. */
enum status markup_save(const struct markup *markup, const char *path, bool force, struct error *err);

#endif
