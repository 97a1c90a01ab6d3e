/* One call through the kind's table each. */
#include "formats/writer.h"

#include <stddef.h>

enum status writer_add(struct writer *writer, const struct tensor *tensor, uint64_t *index, struct error *err)
{
    return writer->kind->add(writer, tensor, index, err);
}

enum status writer_alias(struct writer *writer, const char *alias, const char *target, struct error *err)
{
    return writer->kind->alias(writer, alias, target, err);
}

enum status writer_begin(struct writer *writer, struct error *err)
{
    return writer->kind->begin(writer, err);
}

enum status writer_bytes(struct writer *writer, uint64_t *bytes, bool *known, struct error *err)
{
    *known = writer->kind->bytes != NULL;
    return *known ? writer->kind->bytes(writer, bytes, err) : OK;
}

enum status writer_write(struct writer *writer, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err)
{
    return writer->kind->write(writer, index, offset, bytes, count, err);
}

void writer_checksum(struct writer *writer, uint64_t index, uint32_t crc)
{
    writer->kind->checksum(writer, index, crc);
}

uint64_t writer_head(const struct writer *writer, uint64_t index)
{
    return writer->kind->head ? writer->kind->head(writer, index) : 0;
}

float writer_shift(const struct writer *writer, uint64_t index)
{
    return writer->kind->shift ? writer->kind->shift(writer, index) : 0;
}

enum status writer_reserve(struct writer *writer, const char *name, uint64_t bytes, struct error *err)
{
    return writer->kind->reserve ? writer->kind->reserve(writer, name, bytes, err) : OK;
}

enum status writer_document(
    struct writer *writer, const char *name, const char *bytes, uint64_t count, struct error *err)
{
    return writer->kind->document(writer, name, bytes, count, err);
}

const char *writer_file(const struct writer *writer, uint64_t index)
{
    return writer->kind->file ? writer->kind->file(writer, index) : NULL;
}

enum status writer_commit(struct writer *writer, struct error *err)
{
    return writer->kind->commit(writer, err);
}

void writer_abandon(struct writer *writer)
{
    if (writer) writer->kind->abandon(writer);
}
