/* Base64 (RFC 4648, section 4): bytes as text of 64 characters, padded with '='. */
#ifndef NIBBLE_BASE_BASE64_H
#define NIBBLE_BASE_BASE64_H

#include <stdint.h>

#include "base/error.h"

/* Text [count] to bytes. Owner of *out: the caller, memory_free. ERR_FORMAT, naming the offset: a character that is none of
 * the 64, a length that is no multiple of four, padding elsewhere than at the end. */
enum status base64_decode(
    uint8_t **out, uint64_t *bytes, const char *text, uint64_t count, struct error *err);

/* Bytes to terminated text. Owner: the caller, memory_free; NULL with ERR_MEMORY in err. */
char *base64_encode(const void *bytes, uint64_t count, struct error *err);

#endif
