/* Moving tensors from a container into a file: chunks of rows are read, converted and written by all
 * workers at once, each chunk straight to its final place. Peak memory is a few chunks, whatever the model's
 * size. Chunks depend on the shape alone, so the file is the same for any number of workers. */
#ifndef NIBBLE_FORMATS_TRANSFER_H
#define NIBBLE_FORMATS_TRANSFER_H

#include "base/report.h"
#include "base/threads.h"
#include "formats/container.h"
#include "formats/nbl.h"

/* Turns rows of floats into a quantized tensor's bytes.
 *   codes, scales, zeros  out: TILES: the packed tiles of these rows (tensor/tiles.h), zeros NULL if symmetric
 *                         BLOCKS: codes alone, the blocks of these rows; scales, zeros and scratch are NULL
 *   rows                  in: [row_count][cols]; for TILES row_begin is a multiple of 8
 *   scratch               the encoder's own: at least row_count * (cols + 4 * groups) bytes, aligned to 64
 *
 * Called from any worker; must depend on its arguments only. Errors name row and column, the caller adds the
 * tensor. */
typedef enum status (*transfer_encoder)(const struct tensor *target, void *context, uint8_t *codes,
    uint16_t *scales, uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count,
    uint8_t *scratch, struct error *err);

/* Changes rows of a tensor on their way, as floats, before they are encoded or rounded: rows [row_count][cols], of a vector [row_count].
 * Called from any worker; must depend on its arguments only. */
typedef void (*transfer_patch)(void *context, float *rows, uint64_t row_begin, uint64_t row_count);

/* One tensor to move. */
struct transfer_item {
    struct container *from; /* where source lies; NULL: the container transfer_run is called with */
    const struct tensor *source;
    struct tensor target;    /* name, storage, dtype, scheme, shape wanted */
    transfer_encoder encode; /* quantizes: of TILES and BLOCKS targets that are not copied; else NULL */
    void *context;           /* handed to encode */
    transfer_patch patch;    /* DENSE sources, and what is encoded; else NULL */
    void *patch_context;     /* handed to patch */
};

/* Move all items: declares them in writer (in order), begins it, fills every byte and checksum. Same storage,
 * type and scheme: bytes are copied untouched. DENSE to DENSE of another floating type: decoded and rounded
 * to nearest; a finite value that becomes infinite is ERR_NUMERIC naming tensor and index. TILES, SPARSE
 * and BLOCKS to DENSE decode; TILES and SPARSE codes without an encoder become BLOCKS where they are exactly that (tensor/tile_blocks.h), SPARSE
 * codes TILES of the same scheme; SPARSE comes from SPARSE only, as a copy; what is
 * quantized another way is decoded and handed to the encoder. Integer types only copy.
 *
 *   source_crcs  [container_count]  out: CRC-32 of each source tensor's bytes, also of those no item names
 *                                   (they are read for it), as container_write_sources wants them; not of
 *                                   those of other containers
 *
 * A source that records checksums (.nbl) must agree with them: ERR_FORMAT. The caller adds documents and
 * commits. */
enum status transfer_run(struct container *container, struct writer *writer,
    const struct transfer_item *items, uint64_t count, uint32_t *source_crcs, struct pool *pool,
    const struct report *report, const char *label, struct error *err);

/* The bytes `target` will take, 0 if its scheme or shape is impossible. */
uint64_t transfer_target_bytes(const struct tensor *target);

#endif
