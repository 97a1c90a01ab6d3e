/* The lexical half of the JSON reader: strings and numbers, checked byte by byte. For json.c only. */
#ifndef NIBBLE_BASE_JSON_SCAN_H
#define NIBBLE_BASE_JSON_SCAN_H

#include "base/json.h"

/* ERR_FORMAT with "<document>: <text> at byte <at>". */
enum status json_fault(const struct json_reader *reader, const char *at, struct error *err,
    const char *format, ...) NIBBLE_PRINTF(4, 5);

/* Check the string whose opening quote is at the reader and step over it. raw: what stands between the
 * quotes. */
enum status json_scan_string(
    struct json_reader *reader, struct json_text *raw, bool *has_escapes, struct error *err);

/* Decode what json_scan_string accepted into the reader's scratch memory. */
enum status json_decode_string(
    struct json_reader *reader, struct json_text raw, struct json_text *text, struct error *err);

/* Check the number at the reader against the grammar of RFC 8259 section 6 and step over it. is_natural:
 * digits only, so that it is a whole number without a sign. */
enum status json_scan_number(
    struct json_reader *reader, struct json_text *raw, bool *is_natural, struct error *err);

#endif
