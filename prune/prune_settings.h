/* What a pruning is asked to do: the option table of nibble-prune, and the same options checked. Nothing here has seen a model yet. */
#ifndef NIBBLE_PRUNE_SETTINGS_H
#define NIBBLE_PRUNE_SETTINGS_H

#include <regex.h>

#include "base/options.h"
#include "model/calibration_request.h"

/* What a method takes away. */
enum prune_kind {
    PRUNE_WEIGHTS, /* single weights: matrices keep their shapes and get zeros */
    PRUNE_WIDTH,   /* heads and feed-forward channels: matrices get smaller */
    PRUNE_DEPTH    /* whole decoder layers */
};

/* How a weight, a channel or a layer is judged; docs/methods/pruning.md has the formulas and their sources. */
enum prune_score {
    SCORE_MAGNITUDE,  /* |w| */
    SCORE_WANDA,      /* |w| times the norm of its input */
    SCORE_RIA,        /* relative importance times the root of that norm */
    SCORE_OBS,        /* what taking it away costs when the others make up for it: w^2 / U_jj^2 */
    SCORE_FLAP,       /* variance of the input times the squared norm of the weights it meets */
    SCORE_ACTIVATION, /* mean norm of activations (Minitron) */
    SCORE_INFLUENCE,  /* 1 - cosine of a layer's input and output (ShortGPT) */
    SCORE_ANGULAR,    /* angle between the input of a span of layers and its output */
    SCORE_PERPLEXITY  /* perplexity of the calibration text without the layer, greedily (SLEB) */
};

struct prune_method {
    const char *name, *help;
    enum prune_kind kind;
    enum prune_score score;
    bool calibrated; /* needs --calibration */
    bool solve;      /* weights that stay make up for those that go */
};

/* THE table of methods: METHOD(name, help, fields). */
#define PRUNE_METHOD_LIST(METHOD)                                                                            \
    METHOD("magnitude", "the smallest weights of each matrix; needs no text", .kind = PRUNE_WEIGHTS,         \
        .score = SCORE_MAGNITUDE)                                                                            \
    METHOD("wanda", "weight times the norm of its input, compared within each row", .kind = PRUNE_WEIGHTS,   \
        .score = SCORE_WANDA, .calibrated = true)                                                            \
    METHOD("ria", "weight relative to its row and column, times the root of its input's norm",               \
        .kind = PRUNE_WEIGHTS, .score = SCORE_RIA, .calibrated = true)                                       \
    METHOD("sparsegpt", "column by column, the weights that stay make up for those that go",                 \
        .kind = PRUNE_WEIGHTS, .score = SCORE_OBS, .calibrated = true, .solve = true)                        \
    METHOD("wanda+sparsegpt", "Wanda's choice, then SparseGPT's update", .kind = PRUNE_WEIGHTS,              \
        .score = SCORE_WANDA, .calibrated = true, .solve = true)                                             \
    METHOD("flap", "heads and feed-forward channels whose inputs vary least; biases make up for them",       \
        .kind = PRUNE_WIDTH, .score = SCORE_FLAP, .calibrated = true)                                        \
    METHOD("activation", "heads and feed-forward channels with the smallest activations (Minitron)",         \
        .kind = PRUNE_WIDTH, .score = SCORE_ACTIVATION, .calibrated = true)                                  \
    METHOD("shortgpt", "the decoder layers that change the stream least", .kind = PRUNE_DEPTH,               \
        .score = SCORE_INFLUENCE, .calibrated = true)                                                        \
    METHOD("angular", "the span of decoder layers across which the stream turns least", .kind = PRUNE_DEPTH, \
        .score = SCORE_ANGULAR, .calibrated = true)                                                          \
    METHOD("sleb", "decoder layers one by one, each time the one whose loss costs least perplexity",         \
        .kind = PRUNE_DEPTH, .score = SCORE_PERPLEXITY, .calibrated = true)

/* The command line as it was parsed. */
struct prune_options {
    struct common_options common;
    const char *input, *output, *format;
    uint64_t split_size;
    const char *method, *sparsity; /* NULL: the default */
    bool force, dry_run, restart;
    /* single weights */
    const char *pattern, *ratios, *storage, *bits;
    double owl_spread, owl_threshold;
    uint64_t group;
    struct option_list keep;
    /* the solver; NULL, 0 or UNSET: as the method says */
    const char *correction;
    double damping;
    uint64_t polish;
    /* heads and channels */
    const char *parts, *widths;
    bool no_bias;
    /* layers and vocabulary */
    const char *drop_layers, *trim_vocabulary;
    /* goals */
    uint64_t target_size;
    double target_latency;
    struct calibration_request calibration;
    uint64_t memory_limit;
    const char *report;
};

#define PRUNE_UNSET UINT64_MAX

/* The defaults; options_parse overwrites what is given. */
struct prune_options prune_settings_defaults(void);
void prune_settings_options_free(struct prune_options *options);
extern const struct command prune_settings_command;

/* Of every `of` consecutive weights of a row `keep` stay; of 0: anywhere, as many as the sparsity says. */
struct prune_pattern {
    uint32_t keep, of; /* 1 <= keep < of <= 32 */
};

/* The options, checked. */
struct prune_settings {
    const struct prune_method *method; /* NULL: only layers by number, or vocabulary */
    double sparsity; /* share of the weights, heads and channels, or layers that go: above 0, below 1 */
    struct prune_pattern pattern;
    uint32_t bits; /* of the weights that stay: 2, 4, 8; 0: not quantized */
    uint32_t group; /* columns that share a scale; 0: by the row */
    bool owl;
    regex_t *keeps; /* [keep_count] matrices whose names one of these is found in are left alone */
    uint64_t keep_count;
};

/* Check the options and compile the expressions. ERR_USAGE names the option and what would be allowed. Release with
 * prune_settings_free, also after an error. */
enum status prune_settings_resolve(
    struct prune_settings *out, const struct prune_options *options, struct error *err);
void prune_settings_free(struct prune_settings *settings);

/* True if --keep names this tensor. */
bool prune_settings_keeps(const struct prune_settings *settings, const char *name);

#endif
