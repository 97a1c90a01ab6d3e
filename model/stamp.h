/* The stamp of work that can be gone on with: what decides the bytes, as one flat JSON object of strings. */
#ifndef NIBBLE_MODEL_STAMP_H
#define NIBBLE_MODEL_STAMP_H

#include "base/json.h"

/* Parse a stamp, which is untrusted when it comes from a file. ERR_FORMAT naming `what`: damaged JSON, or anything but an
 * object whose members are all strings. Owner of *out: the caller, json_free. */
enum status stamp_parse(
    struct json_document **out, const char *what, const char *bytes, uint64_t count, struct error *err);

/* ERR_FORMAT naming `what` unless the value is an object whose members are all strings. */
enum status stamp_check(const char *what, const struct json_value *stamp, struct error *err);

/* The CRC-32 of all names and values in order, whatever the white space between them. */
uint32_t stamp_crc(const struct json_value *stamp);

/* ERR_USAGE unless both objects hold the same entries: the text names the first that differs, in the order of `now`, both values,
 * and what can be done about it (--restart). */
enum status stamp_compare(
    const char *folder, const struct json_value *before, const struct json_value *now, struct error *err);

#endif
