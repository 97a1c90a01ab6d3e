/* Protocol buffers: a pull parser over the fields of one message, in the wire format
 * (https://protobuf.dev/programming-guides/encoding/). No schema, no allocation, no recursion: who reads knows the numbers of its
 * fields, passes over others, and opens a message inside as a reader of its own. */
#ifndef NIBBLE_BASE_PROTOBUF_H
#define NIBBLE_BASE_PROTOBUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* The numbers are those of the wire. Groups (3, 4) are obsolete and refused. */
enum protobuf_wire { PROTOBUF_VARINT = 0, PROTOBUF_FIXED64 = 1, PROTOBUF_BYTES = 2, PROTOBUF_FIXED32 = 5 };

struct protobuf_field {
    uint32_t number; /* 1 to 2^29 - 1 */
    enum protobuf_wire wire;
    uint64_t value;       /* of a number, as its bits; of bytes, how many */
    const uint8_t *bytes; /* PROTOBUF_BYTES: in the reader's memory */
    uint64_t offset;      /* of the field in the document, for messages */
};

/* Fields are private. */
struct protobuf_reader {
    const uint8_t *start, *at, *end;
};

/* Begin with the bytes [count] of a whole document, which must stay. */
void protobuf_reader_init(struct protobuf_reader *reader, const void *bytes, uint64_t count);

/* Begin with a message inside: a field of PROTOBUF_BYTES of `outer`. */
void protobuf_reader_enter(
    struct protobuf_reader *reader, const struct protobuf_reader *outer, const struct protobuf_field *field);

/* The next field; *more = false at the end. ERR_FORMAT, naming the offset: a field that does not end, a length beyond the
 * message, a number of more than 64 bits, a group, a field of number 0. */
enum status protobuf_next(
    struct protobuf_reader *reader, struct protobuf_field *field, bool *more, struct error *err);

#endif
