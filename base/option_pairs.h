/* Options as pairs of texts, name and value: for the provenance of an output and for the stamp of a journal. */
#ifndef NIBBLE_BASE_OPTION_PAIRS_H
#define NIBBLE_BASE_OPTION_PAIRS_H

#include "base/options.h"

struct option_pairs {
    const char *(*list)[2]; /* [count] name, value */
    char (*texts)[64];      /* [capacity] numbers, and names that are numbered */
    uint64_t count, capacity;
};

/* Room for so many pairs, of which there must not be more. ERR_MEMORY. Release with option_pairs_free, also after an error. */
enum status option_pairs_create(struct option_pairs *out, uint64_t capacity, struct error *err);
void option_pairs_free(struct option_pairs *pairs);

/* Another pair: of a value that outlives the pairs (NULL: none); of one that is formatted, and cut at 63 bytes; of a number, the same in
 * every locale, and no two alike; of every value of a list, as "name 1", "name 2". */
void option_pairs_add(struct option_pairs *pairs, const char *name, const char *value);
void option_pairs_add_text(struct option_pairs *pairs, const char *name, const char *format, ...)
    NIBBLE_PRINTF(3, 4);
void option_pairs_add_number(struct option_pairs *pairs, const char *name, double value);
void option_pairs_add_list(struct option_pairs *pairs, const char *name, const struct option_list *list);

#endif
