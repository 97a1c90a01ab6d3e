/* Importance matrices as llama-imatrix writes them: for every matrix of a model the mean square of each of its inputs on a text, which is
 * the diagonal of the Hessian divided by the tokens. Two formats: GGUF files of general.type "imatrix", with tensors NAME.in_sum2 and
 * NAME.counts; and the older .dat (counts, names and numbers one after the other, little-endian, without a magic number).
 * Source: tools/imatrix and common/imatrix-loader of llama.cpp. */
#ifndef NIBBLE_QUANTIZE_IMATRIX_H
#define NIBBLE_QUANTIZE_IMATRIX_H

#include "model/layers.h"

/* What the file says of one matrix. */
struct imatrix_entry {
    enum role role; /* of a fused matrix with a name of its own ("blk.0.attn_qkv.weight"): ROLE_Q */
    uint32_t layer;
    uint64_t cols; /* of a role that experts have: the columns of all of them together */
    uint64_t
        matrices; /* 1; of a role that experts have their number, or 0 where the file does not say it (.dat) */
    /* [cols] mean squares of the inputs, finite and not negative, not all 0; multiplied by any constant. All of an expert that
     * no token was sent to are 1, as .dat files have it. */
    float *means;
};

struct imatrix {
    struct imatrix_entry *entries; /* [count] of matrices that are known by name; others are left out */
    uint64_t count;
    uint32_t crc32; /* of the file */
};

/* Read a file of either format. ERR_FORMAT names path, entry and offset: truncated, counts that the file cannot hold, an entry
 * twice, sums without counts, a number that is not finite or negative, a type that is not F32, bytes left over. ERR_UNSUPPORTED: a GGUF file
 * of another kind; several matrices in one entry whose role experts do not have. Release with imatrix_free, also after an error. */
enum status imatrix_read(struct imatrix *out, const char *path, struct error *err);
void imatrix_free(struct imatrix *imatrix);

/* The means of one matrix [cols], owned by `imatrix`; *out is NULL if there is no entry. ERR_FORMAT: the entry has another number of
 * columns. The text does not name the tensor; the caller does. */
enum status imatrix_find(const float **out, const struct imatrix *imatrix, enum role role, uint32_t layer,
    uint64_t cols, struct error *err);

/* The same of one of `experts` experts, of whose matrices each has so many columns. *unseen: there is an entry, but no token of its
 * text was sent to this expert; *out is then NULL too. */
struct imatrix_expert {
    enum role role;
    uint32_t layer, expert, experts;
    uint64_t cols;
};
enum status imatrix_find_expert(const float **out, bool *unseen, const struct imatrix *imatrix,
    const struct imatrix_expert *wanted, struct error *err);

#endif
