/* A GGUF model in parts, NAME-00001-of-00003.gguf: the first has the metadata, each has some of the tensors. */
#ifndef NIBBLE_FORMATS_GGUF_PARTS_H
#define NIBBLE_FORMATS_GGUF_PARTS_H

#include "formats/reader.h"

/* Read one file: its tensors are appended to the container, its pairs to `metadata`. Errors name the path. */
enum status gguf_parts_file(
    struct container *container, const char *path, struct metadata *metadata, struct error *err);

/* After the first file was read: the other parts that its metadata speak of, if any, found beside it by its name. ERR_FORMAT: a path that is
 * not that of a first part, a missing part, parts that do not agree on their number and count, more or fewer tensors than
 * split.tensors.count. */
enum status gguf_parts_read(struct container *container, const char *path, struct error *err);

#endif
