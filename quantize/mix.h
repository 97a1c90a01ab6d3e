/* What --type may be: a block type for every matrix, or a mix, which gives more bits to the matrices that suffer most. Names and rules
 * are those of llama-quantize, so that a file has the types, and the size, that people expect of its name. */
#ifndef NIBBLE_QUANTIZE_MIX_H
#define NIBBLE_QUANTIZE_MIX_H

#include "model/layers.h"
#include "tensor/blocks.h"

/* THE table of names: MIX(name, block type of a matrix that no rule names, whose rules, number of such files in
 * GGUF). Three are second names, as there. */
#define MIX_LIST(MIX)                                                                                        \
    MIX("q4_0", Q4_0, "q4_0", 2)                                                                             \
    MIX("q4_1", Q4_1, "q4_1", 3)                                                                             \
    MIX("q5_0", Q5_0, "q5_0", 8)                                                                             \
    MIX("q5_1", Q5_1, "q5_1", 9)                                                                             \
    MIX("q8_0", Q8_0, "q8_0", 7)                                                                             \
    MIX("q2_k", Q2_K, "q2_k", 10)                                                                            \
    MIX("q2_k_s", Q2_K, "q2_k_s", 21)                                                                        \
    MIX("q3_k", Q3_K, "q3_k_m", 12)                                                                          \
    MIX("q3_k_s", Q3_K, "q3_k_s", 11)                                                                        \
    MIX("q3_k_m", Q3_K, "q3_k_m", 12)                                                                        \
    MIX("q3_k_l", Q3_K, "q3_k_l", 13)                                                                        \
    MIX("q4_k", Q4_K, "q4_k_m", 15)                                                                          \
    MIX("q4_k_s", Q4_K, "q4_k_s", 14)                                                                        \
    MIX("q4_k_m", Q4_K, "q4_k_m", 15)                                                                        \
    MIX("q5_k", Q5_K, "q5_k_m", 17)                                                                          \
    MIX("q5_k_s", Q5_K, "q5_k_s", 16)                                                                        \
    MIX("q5_k_m", Q5_K, "q5_k_m", 17)                                                                        \
    MIX("q6_k", Q6_K, "q6_k", 18)                                                                            \
    MIX("iq4_nl", IQ4_NL, "iq4_nl", 25)                                                                      \
    MIX("iq4_xs", IQ4_XS, "iq4_xs", 30)

struct mix {
    const char *name;
    enum block_type base;
    const char *rules;  /* the name whose rules apply */
    uint32_t file_type; /* general.file_type (formats/gguf/gguf_types.h) */
};

/* The row of a name; NULL if there is none. */
const struct mix *mix_find(const char *name);

/* The block type of one matrix.
 *   role, layer  a linear layer's, ROLE_EMBEDDING or ROLE_HEAD; the embedding of a tied model is its head too
 *   informed     what the inputs are like is known: calibration, or an importance matrix */
enum block_type mix_type(
    const struct mix *mix, enum role role, uint32_t layer, const struct model_config *config, bool informed);

/* A block type that can be written, as command lines spell it ("q4_k"); BLOCK_NONE for every other name. */
enum block_type mix_block(const char *name);

/* The name of a type that can be written: "q4_k". */
const char *mix_block_name(enum block_type type);

/* What a budget chooses from in place of 2, 3, 4, 5, 6 and 8 bits for rows of `cols` columns: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K and Q8_0, or
 * where their blocks of 256 do not fit IQ4_NL, Q4_1, Q5_0, Q5_1, Q8_0 and Q8_0. BLOCK_NONE: no block fits. */
enum block_type mix_candidate(uint32_t bits, uint64_t cols);

/* The type of the next more bits whose blocks are shorter, for rows that the blocks of `type` do not divide; BLOCK_NONE: there is none. */
enum block_type mix_shorter(enum block_type type);

#endif
