/* See tile_blocks.h. */
#include "tensor/tile_blocks.h"

#include <stddef.h>
#include <string.h>

#include "tensor/block_parts.h"

enum { WEIGHTS = 32 };

static const struct {
    uint32_t bits;
    enum block_type type;
} rows[] = {{4, BLOCK_Q4_0}, {5, BLOCK_Q5_0}, {8, BLOCK_Q8_0}};

enum block_type tile_blocks_type(struct scheme scheme, uint64_t cols)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !scheme.asymmetric; i++) {
        if (rows[i].bits == scheme.bits && scheme.group % WEIGHTS == 0 && cols % WEIGHTS == 0)
            return rows[i].type;
    }
    return BLOCK_NONE;
}

/* Codes of both count from the lowest level. */
void tile_blocks_put(uint8_t *out, enum block_type type, const struct tiles_layout *layout,
    const uint8_t *codes, const uint16_t *scales, uint64_t row_count, uint8_t *scratch)
{
    const uint32_t bytes = block_info(type)->bytes;
    struct block_parts parts = {.scale = {1}};

    tiles_unpack(layout, scratch, codes);
    for (uint64_t row = 0; row < row_count; row++) {
        for (uint64_t col = 0; col < layout->cols; col += WEIGHTS, out += bytes) {
            parts.d = scales[col / layout->group * TILE_ROWS + row];
            memcpy(parts.codes, scratch + row * layout->cols + col, WEIGHTS);
            block_parts_put(out, type, &parts);
        }
    }
}
