/* The inner loops that have a fast form, as one table of function pointers, generated from one list. Each instruction set
 * starts from a copy of the scalar table and overrides entries, so nothing can be missing. The scalar file is the
 * meaning. Kernels cannot fail; they state preconditions. */
#ifndef NIBBLE_TENSOR_KERNELS_H
#define NIBBLE_TENSOR_KERNELS_H

#include "base/error.h"
#include "tensor/tensor.h"

struct tiles_layout;
struct sparse_layout;

/* Candidates of a search for one group's grid. */
#define GRID_CANDIDATES 704
/* Columns summed in float before the sum goes to double: part of the search's meaning. */
#define GRID_SEARCH_CHUNK 8
struct grid_candidates {
    uint64_t count; /* a multiple of 8; what is left over repeats candidate 0 */
    float top;      /* the largest code, 2^bits - 1 */
    float scale[GRID_CANDIDATES];
    float inverse[GRID_CANDIDATES]; /* 1 / scale, or 0 where scale is 0 */
    float zero[GRID_CANDIDATES];    /* a whole number */
};

/* Sub-blocks that are fitted at a time (tensor/block_fit.h), and the weights of the largest. */
enum { BLOCK_LANES = 16, BLOCK_LANE_WEIGHTS = 32 };
#define BLOCK_LEAST 0x1p-20f /* importance that is taken for none */
#define BLOCK_MOST 0x1p40f   /* weights that no block can hold are larger, or much larger */
struct block_lanes {
    float x[BLOCK_LANE_WEIGHTS][BLOCK_LANES]; /* [n][lane] weights, finite */
    float w[BLOCK_LANE_WEIGHTS][BLOCK_LANES]; /* their importance, above 0 */
};
/* What sub-blocks may hold, value = step * level + offset, and which lines a search begins with. */
struct block_grid {
    uint32_t n;              /* weights of a sub-block */
    float lowest, highest;   /* level; all whole numbers between */
    const int8_t *levels;    /* [16] rising: these levels instead; or NULL */
    bool offset, below_zero; /* lines have an offset, and not above zero; then levels begin with 0 */
    float scale_least, scale_most, min_most; /* of the whole numbers that steps and offsets are made of */
    uint32_t tries, refits;
    const float *try_inverse; /* [tries] 1 / step, times the extreme weight, or with an offset the range */
    const float *try_begin; /* [tries] with an offset: where it lies, in parts of the range above the least */
};
/* What sub-blocks are chosen for: d and dmin of each, and the line it would have without them. */
struct block_halves {
    float d[BLOCK_LANES], m[BLOCK_LANES], steps[BLOCK_LANES], offsets[BLOCK_LANES];
    uint32_t reach,
        reach_min; /* how far a choice goes on each side of the nearest scale, and of the min that fits it */
};
struct block_integers {
    float scale[BLOCK_LANES], min[BLOCK_LANES]; /* step = d scale, offset = -(dmin min) */
    float error[BLOCK_LANES];
};
/* Sums over the weights x of a sub-block, l the level of x: what least squares over sub-blocks need. */
struct block_sums {
    float w[BLOCK_LANES], wx[BLOCK_LANES], wl[BLOCK_LANES], wll[BLOCK_LANES], wlx[BLOCK_LANES];
};

/* KERNEL(name, (arguments)): the list is the table. See kernels_scalar.c for what each one means.
 * "Same bits": every kernel set must give identical results; "close": within a bound relative to sum |a_i b_i|. */
/* clang-format off */
#define KERNEL_LIST(KERNEL)                                                                                            \
    /* conversion of n elements; same bits */                                                                          \
    KERNEL(f16_to_f32, (float *out, const void *in, uint64_t n))                                                       \
    KERNEL(bf16_to_f32, (float *out, const void *in, uint64_t n))                                                      \
    KERNEL(f32_to_f16, (void *out, const float *in, uint64_t n))                                                       \
    KERNEL(f32_to_bf16, (void *out, const float *in, uint64_t n))                                                      \
    /* *sum = sum of weights[i] * x[i]; close */                                                                       \
    KERNEL(dot_f32, (float *sum, const void *weights, const float *x, uint64_t n))                                     \
    KERNEL(dot_f16, (float *sum, const void *weights, const float *x, uint64_t n))                                     \
    KERNEL(dot_bf16, (float *sum, const void *weights, const float *x, uint64_t n))                                    \
    /* sums[t * rows + r] = sum of weights[r * n + i] * x[t * n + i]; each has the very bits of dot_f32, dot_f16, dot_bf16 */\
    KERNEL(dots_f32, (float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n))   \
    KERNEL(dots_f16, (float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n))   \
    KERNEL(dots_bf16, (float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n))  \
    /* the least and the greatest of each group; both NaN if a weight is NaN or infinite; same bits but for the sign   \
     * of a zero */                                                                                                    \
    KERNEL(group_extremes, (float *low, float *high, const float *weights, uint64_t groups, uint64_t group))           \
    /* codes of consecutive groups, each with its inverse scale and its zero-point (a whole number); same bits */      \
    KERNEL(group_encode, (uint8_t *codes, const float *weights, uint64_t groups, uint64_t group,                       \
                             const float *inverses, const float *zeros, float top))                                    \
    /* the first candidate with the least squared error; importance: NULL for 1, else not negative; same bits */       \
    KERNEL(grid_search, (uint64_t *best, const struct grid_candidates *candidates, const float *weights,               \
                            const float *importance, uint64_t count))                                                  \
    /* weights [BLOCK_LANES][n], and their importance times per[lane], at least BLOCK_LEAST (NULL: what is there stays); \
     * *within: whether no magnitude is above BLOCK_MOST, or NaN; same bits */                                         \
    KERNEL(block_gather, (struct block_lanes *out, bool *within, const float *weights, const float *importance,        \
                             const float *per, uint32_t n))                                                            \
    /* importance where nothing is known of the inputs, from the weights; same bits */                                 \
    KERNEL(block_weigh, (struct block_lanes *lanes, uint32_t n))                                                       \
    /* steps, offsets [BLOCK_LANES]: of each lane the line with the least error; same bits */                          \
    KERNEL(block_search, (float *steps, float *offsets, const struct block_grid *grid, const struct block_lanes *in))  \
    /* of each lane the first of the steps [count][BLOCK_LANES] with the least error, lines through zero; same bits */   \
    KERNEL(block_pick, (uint32_t *best, const struct block_grid *grid, const struct block_lanes *in,                   \
                           const float *steps, uint32_t count))                                                        \
    /* of each lane the whole numbers near its line that have the least error; same bits */                            \
    KERNEL(block_choose, (struct block_integers *out, const struct block_grid *grid, const struct block_lanes *in,     \
                             const struct block_halves *halves))                                                       \
    /* the sums of each lane under its line; same bits */                                                              \
    KERNEL(block_sums, (struct block_sums *out, const struct block_grid *grid, const struct block_lanes *in,           \
                           const float *steps, const float *offsets))                                                  \
    /* codes (from 0) [count][n] of weights [count][n] under the line of each n; same bits */                          \
    KERNEL(block_codes, (uint8_t *codes, const struct block_grid *grid, const float *weights, const float *steps,      \
                            const float *offsets, uint64_t count))                                                     \
    /* whole blocks of a tile (tensor/tiles.h): all 8 rows and 32 columns of each; same bits */                        \
    KERNEL(blocks_pack, (uint8_t *out, const uint8_t *codes, uint64_t stride, uint64_t blocks, uint32_t bits))         \
    KERNEL(blocks_unpack, (uint8_t *out, uint64_t stride, const uint8_t *codes, uint64_t blocks, uint32_t bits))       \
    /* blocks [begin, end) of a tile to floats; out is where row 0 of block `begin` goes; same bits */                 \
    KERNEL(blocks_decode, (const struct tiles_layout *layout, float *out, uint64_t stride, const uint8_t *codes,       \
                              const uint16_t *scales, const uint8_t *zeros, uint64_t begin, uint64_t end))             \
    /* consecutive blocks of GGUF's types (tensor/blocks.h) to floats; same bits */                                     \
    KERNEL(block_decode, (float *out, enum block_type type, const void *data, uint64_t blocks))                        \
    /* the sum of their values times x; the very bits of dot_f32 with what they decode to */                            \
    KERNEL(block_dot, (float *sum, enum block_type type, const void *data, const float *x, uint64_t blocks))           \
    /* tiles_dot with one token; close */                                                                              \
    KERNEL(tile_dot, (const struct tiles_layout *layout, float *y, const uint8_t *codes, const uint16_t *scales,       \
                         const uint8_t *zeros, const float *x))                                                        \
    /* tiles_dot with 1 .. TILE_TOKENS tokens; for each the very bits of tile_dot */                                   \
    KERNEL(tile_dots, (const struct tiles_layout *layout, float *y, const uint8_t *codes, const uint16_t *scales,      \
                          const uint8_t *zeros, const float *x, uint64_t tokens))                                      \
    /* a sparse tile spread to the codes of a tile, or to rows of values (tensor/sparse.h), whatever the masks say; the same    \
     * bits where masks and codes fit */                                                                               \
    KERNEL(sparse_spread, (const struct sparse_layout *layout, void *out, const uint8_t *masks, const uint8_t *codes,  \
                              uint64_t code_bytes))                                                                    \
    /* tiles_dot of a tile of codes, two of four; for each token the same bits as alone; close */                      \
    KERNEL(sparse_dots, (const struct sparse_layout *layout, float *y, const uint8_t *masks, const uint8_t *codes,     \
                            const uint16_t *scales, const float *x, uint64_t tokens))                                  \
    /* the same of a tile of 16-bit values */                                                                          \
    KERNEL(sparse_value_dots, (const struct sparse_layout *layout, float *y, const uint8_t *masks,                     \
                                  const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens))         \
    /* the cache (tensor/cache.h): rows of `size` codes to floats; center [size] in half precision, NULL for 0; same     \
     * bits */                                                                                                         \
    KERNEL(cache_decode8, (float *out, const uint8_t *codes, const uint16_t *scales, const uint16_t *center,           \
                              uint64_t rows, uint64_t size))                                                           \
    KERNEL(cache_decode4, (float *out, const uint8_t *codes, const uint16_t *scales, const uint16_t *center,           \
                              uint64_t rows, uint64_t size))                                                           \
    /* one group of n finite numbers, n even and at most CACHE_GROUP, |extreme| their largest magnitude: the first of   \
     * 16 scales with the least squared error, and its codes; same bits */                                             \
    KERNEL(cache_encode4, (uint8_t *codes, uint16_t *scale, const float *x, uint64_t n, float extreme))                \
    /* the greatest of n; minus infinity if n is 0; NaN is passed over; same bits but for the sign of a zero */        \
    KERNEL(maximum, (float *out, const float *x, uint64_t n))                                                          \
    /* x[i] = e^(x[i] - shift) and their sum; close, with results below e^-87 anything from 0 to that */               \
    KERNEL(exp_sum, (float *sum, float *x, float shift, uint64_t n))                                                   \
    /* gate[i] = gate[i] / (1 + e^-gate[i]) * up[i]; close */                                                          \
    KERNEL(silu_multiply, (float *gate, const float *up, uint64_t n))                                                  \
    /* the same with e^-(sqrt(8/pi) (g + 0.044715 g^3)), g = gate[i]: GELU by its tanh formula; close */               \
    KERNEL(gelu_multiply, (float *gate, const float *up, uint64_t n))                                                  \
    /* x[i] = cap * tanh(x[i] / cap), to within 1e-6 of cap; close */                                                  \
    KERNEL(softcap, (float *x, float cap, uint64_t n))
/* clang-format on */

struct kernels {
    const char *name; /* "scalar", "avx2", "avx512" */
#define KERNEL_MEMBER(name, arguments) void(*name) arguments;
    KERNEL_LIST(KERNEL_MEMBER)
#undef KERNEL_MEMBER
};

/* The set in use: the best this CPU has, or the one NIBBLE_KERNELS names. Valid after kernels_select; before it, scalar. */
const struct kernels *kernels(void);

/* Choose the set. name NULL or "": the best this CPU has. An unknown name is ERR_USAGE (the known ones are listed); a set
 * this CPU lacks is ERR_UNSUPPORTED; never a silent fallback. Called once by each tool's main with
 * getenv("NIBBLE_KERNELS"), before any thread starts. */
enum status kernels_select(const char *name, struct error *err);

/* For kernels.c: the scalar table, and what each instruction set replaces in a copy of it. */
extern const struct kernels kernels_scalar;
void kernels_sparse_spread(const struct sparse_layout *layout, void *out, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes);
void kernels_sparse_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, const uint16_t *scales, const float *x, uint64_t tokens);
void kernels_sparse_value_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens);
/* What a number of two patterns of 2:4 says of eight columns: places, of the four that are stored, 2 bits each, of which four; and a bit per
 * column. Numbers above 35, which no file should hold, say something too. */
struct sparse_pairs {
    uint8_t places[64], bits[64];
};
void kernels_sparse_pairs(struct sparse_pairs *out);
void kernels_override_avx2(struct kernels *table);
void kernels_override_tiles_avx2(struct kernels *table);
void kernels_override_exp_avx2(struct kernels *table);
void kernels_override_cache_avx2(struct kernels *table);
void kernels_override_fit_avx2(struct kernels *table);
void kernels_override_blocks_avx2(struct kernels *table);
void kernels_override_sparse_avx2(struct kernels *table);
void kernels_override_sparse_avx512(struct kernels *table);
void kernels_override_sparse_vbmi2(struct kernels *table);
void kernels_override_fit_avx512(struct kernels *table);
void kernels_override_avx512(struct kernels *table);

#endif
