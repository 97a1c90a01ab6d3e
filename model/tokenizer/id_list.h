/* A list of token ids that grows. */
#ifndef NIBBLE_MODEL_ID_LIST_H
#define NIBBLE_MODEL_ID_LIST_H

#include <stdint.h>

#include "base/memory.h"

/* Zero-initialise; release `ids` with memory_free. */
struct id_list {
    uint32_t *ids;
    uint64_t count, capacity;
};

static inline enum status id_list_add(struct id_list *list, uint32_t id, struct error *err)
{
    if (list->count == list->capacity && memory_grow(&list->ids, &list->capacity,
                                             list->count < 64 ? 64 : list->count + 1, sizeof id, err) != OK)
        return ERR_MEMORY;
    list->ids[list->count++] = id;
    return OK;
}

#endif
