/* Seeing less, or a little more, of a container: some rows and columns of a tensor, some of its tensors, tensors that were made. As with
 * all of formats/container_adapt.c, what is seen changes and never the file. */
#ifndef NIBBLE_FORMATS_CONTAINER_SELECT_H
#define NIBBLE_FORMATS_CONTAINER_SELECT_H

#include "formats/container.h"

/* Rows and columns that stay, by their numbers, in the order in which they will be seen. NULL: all. */
struct container_choice {
    const uint64_t *rows; /* [row_count] */
    const uint64_t *cols; /* [col_count]; of matrices only */
    uint64_t row_count, col_count;
};

/* From here on tensor number `index` is these rows and columns of what it was; the lists are copied. A tensor may be chosen from again.
 * Before container_map only. A checksum that the file records of the whole tensor is checked here, once, by reading it.
 * ERR_USAGE: a number beyond the tensor, an empty list, columns of a vector. ERR_UNSUPPORTED: quantized. ERR_FORMAT: a wrong checksum. */
enum status container_select(
    struct container *container, uint64_t index, const struct container_choice *choice, struct error *err);

/* One more tensor, DENSE: name, dtype, rank and shape are taken from `tensor`, its data [bytes of that] are copied. Known to container_find
 * after container_reindex. */
enum status container_add(struct container *container, const struct tensor *tensor, struct error *err);

/* Take tensors out, and the names that stand for them; gone [container_count]. Numbers and pointers of the others change:
 * container_find knows them after container_reindex. */
void container_remove(struct container *container, const bool *gone);

/* From here on the file says nothing of itself beside its tensors and documents (container_metadata): what it said no longer holds. */
void container_forget_metadata(struct container *container);

/* What reader_entry.selection points to; for container.c. */
struct selection;
void selection_free(struct selection *selection);

#endif
