/* Bit widths under a budget: every matrix gets the width that makes the sum of errors least at a given size. */
#ifndef NIBBLE_QUANTIZE_ALLOCATE_H
#define NIBBLE_QUANTIZE_ALLOCATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/blocks.h"

#define ALLOCATE_WIDTHS 6
/* 2, 3, 4, 5, 6, 8 */
extern const uint32_t allocate_widths[ALLOCATE_WIDTHS];
#define ALLOCATE_PROBED 1 /* where it says 3 */

/* One matrix: what each width costs and what it harms. */
struct allocate_matrix {
    const char *name;
    uint64_t weights;
    uint64_t bytes[ALLOCATE_WIDTHS]; /* stored at that width */
    double error[ALLOCATE_WIDTHS];   /* >= 0; any unit that adds up over matrices */
    uint32_t bits;                   /* out: the choice */
    const char *label;               /* what a file calls it; NULL: its bits */
    double importance;               /* out: error at 3 bits as a share of the sum over all matrices */
};

/* Choose bits for all so that the sum of bytes is at most `budget_bytes` and the sum of errors is least: the lower convex
 * hull of every matrix, then the multiplier by falling gain per byte (Shoham and Gersho 1988), then what is left of the
 * budget is filled greedily, then one matrix's width is lowered for another's as long as that helps. Ties go to the earlier
 * matrix. A width that is larger but no better is never taken. *bytes is what it takes. The sum of errors is least of all
 * for what the multiplier takes, and at most one step of one matrix above the least for any budget. n log n in the matrices,
 * and n^2 for each of the few passes of exchanges.
 * ERR_USAGE: even the least widths do not fit; the text says how many bytes would. ERR_NUMERIC: an error that is negative,
 * infinite or not a number, by name. */
enum status allocate_choose(struct allocate_matrix *matrices, uint64_t count, uint64_t budget_bytes,
    uint64_t *bytes, struct error *err);

/* The choice as a plain file, for people to edit: '#' comments, then one line per matrix: name, bits, and as a comment what it
 * costs and its importance; bits 0 are written as "keep", a label in place of bits. Appears complete or not at all (base/file.h); the same bytes in
 * every locale. ERR_UNSUPPORTED: a name that is empty or contains white space or '#'; ERR_USAGE: bits that are no width. */
enum status allocate_write(
    const char *path, bool force, const struct allocate_matrix *matrices, uint64_t count, struct error *err);

/* A file read back: names and bits, in the order of the file; whether the model has such matrices is the caller's to find
 * out. From '#' on a line is a comment; blank lines, CR LF and a byte order mark are fine. Owner of *out: the caller,
 * allocate_free. ERR_FORMAT names path and line: not "name bits", bits not one of the widths, "keep" (bits 0) or a block type (mix_block), a name
 * twice. ERR_MEMORY: more than 64 MiB. */
struct allocation {
    struct allocation_line {
        char *name;
        uint32_t bits;         /* 0: keep, unless there is a block type */
        enum block_type block; /* in place of bits */
    } * lines;
    uint64_t count;
};
enum status allocate_read(struct allocation *out, const char *path, struct error *err);
void allocate_free(struct allocation *allocation);

#endif
