/* See protobuf.h. */
#include "base/protobuf.h"

#include <inttypes.h>

enum { FIELD_LIMIT = 1 << 29 };

void protobuf_reader_init(struct protobuf_reader *reader, const void *bytes, uint64_t count)
{
    reader->start = reader->at = bytes;
    reader->end = reader->start + count;
}

void protobuf_reader_enter(
    struct protobuf_reader *reader, const struct protobuf_reader *outer, const struct protobuf_field *field)
{
    reader->start = outer->start;
    reader->at = field->bytes;
    reader->end = field->bytes + field->value;
}

static uint64_t offset_of(const struct protobuf_reader *reader)
{
    return (uint64_t)(reader->at - reader->start);
}

static enum status cut_short(const struct protobuf_reader *reader, struct error *err)
{
    return fail(err, ERR_FORMAT, "at byte %" PRIu64 ": the message ends in the middle of a field",
        (uint64_t)(reader->end - reader->start));
}

/* Seven bits a byte, the lowest first. */
static enum status read_varint(struct protobuf_reader *reader, uint64_t *value, struct error *err)
{
    const uint64_t offset = offset_of(reader);

    *value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (reader->at == reader->end) return cut_short(reader, err);
        const uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1) break;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return OK;
    }
    return fail(err, ERR_FORMAT, "at byte %" PRIu64 ": a number of more than 64 bits", offset);
}

static enum status read_fixed(
    struct protobuf_reader *reader, uint64_t *value, unsigned bytes, struct error *err)
{
    if ((uint64_t)(reader->end - reader->at) < bytes) return cut_short(reader, err);
    *value = 0;
    for (unsigned i = 0; i < bytes; i++)
        *value |= (uint64_t)*reader->at++ << 8 * i;
    return OK;
}

static enum status read_bytes(struct protobuf_reader *reader, struct protobuf_field *field, struct error *err)
{
    enum status status = read_varint(reader, &field->value, err);

    if (status) return status;
    if (field->value > (uint64_t)(reader->end - reader->at))
        return fail(err, ERR_FORMAT,
            "at byte %" PRIu64 ": field %" PRIu32 " has %" PRIu64 " bytes, %" PRIu64 " are left",
            field->offset, field->number, field->value, (uint64_t)(reader->end - reader->at));
    field->bytes = reader->at;
    reader->at += field->value;
    return OK;
}

enum status protobuf_next(
    struct protobuf_reader *reader, struct protobuf_field *field, bool *more, struct error *err)
{
    uint64_t tag;

    *more = reader->at != reader->end;
    if (!*more) return OK;
    *field = (struct protobuf_field){.offset = offset_of(reader)};
    enum status status = read_varint(reader, &tag, err);
    if (status) return status;
    if (tag >> 3 == 0 || tag >> 3 >= FIELD_LIMIT)
        return fail(err, ERR_FORMAT, "at byte %" PRIu64 ": %" PRIu64 " is no number of a field",
            field->offset, tag >> 3);
    field->number = (uint32_t)(tag >> 3);
    field->wire = (enum protobuf_wire)(tag & 7);
    switch (field->wire) {
    case PROTOBUF_VARINT:
        return read_varint(reader, &field->value, err);
    case PROTOBUF_FIXED64:
        return read_fixed(reader, &field->value, 8, err);
    case PROTOBUF_BYTES:
        return read_bytes(reader, field, err);
    case PROTOBUF_FIXED32:
        return read_fixed(reader, &field->value, 4, err);
    default:
        return fail(err, ERR_FORMAT,
            "at byte %" PRIu64 ": field %" PRIu32 " is of kind %u, which is not known", field->offset,
            field->number, (unsigned)field->wire);
    }
}
