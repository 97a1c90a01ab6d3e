/* The stamp of a journal: what decides the bytes, as one flat JSON object of strings. Only journal.c includes this. */
#ifndef NIBBLE_MODEL_JOURNAL_STAMP_H
#define NIBBLE_MODEL_JOURNAL_STAMP_H

#include "base/json.h"

/* Parse a stamp, which is untrusted when it comes from a file. ERR_FORMAT naming `what`: damaged JSON, or anything but an
 * object whose members are all strings. Owner of *out: the caller, json_free. */
enum status stamp_parse(
    struct json_document **out, const char *what, const char *bytes, uint64_t count, struct error *err);

/* The CRC-32 of all names and values in order, whatever the white space between them. */
uint32_t stamp_crc(const struct json_document *stamp);

/* ERR_USAGE unless both hold the same entries: the text names the first that differs, in the order of `now`, both values,
 * and what can be done about it. */
enum status stamp_compare(const char *folder, const struct json_document *before,
    const struct json_document *now, struct error *err);

#endif
