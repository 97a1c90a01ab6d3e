/* The plan of a transfer: one move per tensor, cut into chunks by its shape alone, and what follows from that
 * by arithmetic. No data is touched here. Only transfer.c includes this. */
#ifndef NIBBLE_FORMATS_MOVES_H
#define NIBBLE_FORMATS_MOVES_H

#include "formats/transfer.h"
#include "tensor/sparse.h"

enum move_kind {
    MOVE_READ,   /* no target: for the checksum alone */
    MOVE_COPY,   /* bytes untouched */
    MOVE_CAST,   /* DENSE to DENSE of another floating type */
    MOVE_DECODE, /* BLOCKS to DENSE */
    MOVE_ROWS /* TILES and SPARSE to DENSE, to the BLOCKS or TILES that they are; anything to TILES or BLOCKS through the item's encoder */
};

/* Which end of a move. */
enum move_side { MOVE_SOURCE, MOVE_TARGET };

/* One tensor on its way. Units are bytes for READ and COPY, elements for CAST, blocks for DECODE, rows for ROWS. */
struct move {
    enum move_kind kind;
    const struct transfer_item *item; /* NULL: READ */
    struct container *container;      /* where source lies */
    const struct tensor *source;
    struct tensor target;  /* measured */
    uint64_t target_index; /* in the writer */
    uint64_t head; /* the writer wants rows interleaved (writer_head), else 0; chunks are whole heads */
    float shift;   /* the writer wants it added to every element (writer_shift) */
    struct tiles_layout layout[2]; /* [side] of ROWS, where that side is tiled */
    struct sparse_layout
        sparse;    /* of ROWS, where the source is sparse: read for its checksum by a READ of its own */
    uint64_t cols; /* of ROWS: elements of a row */
    uint64_t units, chunk_units;
    uint64_t first_chunk; /* its first, counted over all moves */
};

struct moves {
    struct move *list;
    uint64_t count, chunks;
};

/* Plan all items, in order, and declare their targets in the writer; then a READ for every tensor of
 * `container` that no item names (one from elsewhere names none of it, whatever it is called). ERR_UNSUPPORTED: a type or shape that cannot become the one wanted.
 * ERR_MEMORY: 8 rows of floats exceed 256 MB. Errors name the tensor. Release with moves_free in any case. */
enum status moves_plan(struct moves *out, struct container *container, struct writer *writer,
    const struct transfer_item *items, uint64_t count, struct error *err);
void moves_free(struct moves *moves);

/* The move that chunk number `chunk` of all belongs to. */
const struct move *moves_of_chunk(const struct moves *moves, uint64_t chunk);

/* How many chunks a move has, and how many units its chunk number `chunk` has: the last may be shorter. */
uint64_t moves_chunks(const struct move *move);
uint64_t moves_units(const struct move *move, uint64_t chunk);

/* ---- bytes ---- */

#define MOVE_PARTS 3 /* codes, scales, zero-points */

/* One of the three parts of tile storage, for a run of tiles. Without zero-points the third has no bytes. */
struct move_part {
    uint64_t tile_bytes; /* of one tile */
    uint64_t in_tensor;  /* where the part begins in the tensor */
    uint64_t in_buffer;  /* where it begins in a buffer that holds `tiles` tiles; a multiple of 64 */
};

/* Lay out the parts of `tiles` tiles; returns the bytes they take in a buffer. */
uint64_t moves_parts(struct move_part parts[MOVE_PARTS], const struct tiles_layout *layout, uint64_t tiles);

/* Tiles that hold so many rows. */
uint64_t moves_tiles(uint64_t rows);

/* Are its rows read from a sparse source? */
bool moves_is_sparse(const struct move *move);

/* Does this side lie in parts, with a checksum for each? (A copy of tiles goes by bytes.) */
bool moves_in_parts(const struct move *move, enum move_side side);

/* Bytes of one unit on a side that does not lie in parts. */
uint64_t moves_unit_bytes(const struct move *move, enum move_side side);

/* Bytes of one row of a dense tensor or one of blocks; a vector's row is an element. */
uint64_t moves_row_bytes(const struct tensor *tensor);

/* How many bytes of the source are behind `units` units, gaps between parts left out. */
uint64_t moves_source_bytes(const struct move *move, uint64_t units);

#endif
