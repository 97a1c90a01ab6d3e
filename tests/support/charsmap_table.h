/* A precompiled_charsmap of a few rules, laid out in the plainest way: the children of node n are the units 256 n to 256 n + 255. */
#ifndef NIBBLE_TESTS_SUPPORT_CHARSMAP_TABLE_H
#define NIBBLE_TESTS_SUPPORT_CHARSMAP_TABLE_H

#include <string.h>

#include "formats/bytes.h"
#include "tests/support/testing.h"

enum { CHARSMAP_NODES = 24, CHARSMAP_UNITS = CHARSMAP_NODES * 256 };

struct charsmap_table {
    uint8_t bytes[4 + CHARSMAP_UNITS * 4 + 256]; /* [count], once ended */
    uint64_t count;
    uint32_t units[CHARSMAP_UNITS];
    uint64_t nodes;
    char strings[256];
    uint64_t string_bytes;
};

static inline void charsmap_table_begin(struct charsmap_table *table)
{
    memset(table, 0, sizeof *table);
    table->nodes = 1;
}

static inline void charsmap_table_add(struct charsmap_table *table, const char *from, const char *to)
{
    uint32_t base = 0, at = 0;

    for (; *from; from++) {
        at = base ^ (uint8_t)*from;
        if (table->units[at] == 0) {
            REQUIRE(table->nodes < CHARSMAP_NODES, NULL);
            table->units[at] = (at ^ (uint32_t)(256 * table->nodes++)) << 10 | (uint8_t)*from;
        }
        base = at ^ table->units[at] >> 10;
    }
    table->units[at] |= 1u << 8;
    table->units[base] = 1u << 31 | (uint32_t)table->string_bytes;
    REQUIRE(table->string_bytes + strlen(to) < sizeof table->strings, NULL);
    memcpy(table->strings + table->string_bytes, to, strlen(to) + 1);
    table->string_bytes += strlen(to) + 1;
}

static inline void charsmap_table_end(struct charsmap_table *table)
{
    const uint64_t units = 256 * table->nodes;

    bytes_put(table->bytes, units * 4, 4);
    for (uint64_t i = 0; i < units; i++)
        bytes_put(table->bytes + 4 + i * 4, table->units[i], 4);
    memcpy(table->bytes + 4 + units * 4, table->strings, table->string_bytes);
    table->count = 4 + units * 4 + table->string_bytes;
}

#endif
