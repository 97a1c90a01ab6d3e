/* What a quantization is asked to do: the option table of nibble-quantize, and the same options checked and
 * turned into recipes and rules. Nothing here has seen a model yet. */
#ifndef NIBBLE_QUANTIZE_SETTINGS_H
#define NIBBLE_QUANTIZE_SETTINGS_H

#include <regex.h>

#include "model/calibration_request.h"
#include "quantize/mix.h"
#include "tensor/dtype.h"
#include "tensor/obs.h"

/* How the range of a group is searched: its extremes, or least squared error, each column weighted alike or by the
 * Hessian's diagonal (which needs calibration). */
enum range { RANGE_MINMAX, RANGE_MSE, RANGE_HESSIAN };

/* What GPTQ's target is corrected for (tensor/hessian.h): nothing, the error that its inputs already carry, or that and the
 * error of the residual stream its output is added to. */
enum correction { CORRECTION_NONE, CORRECTION_INPUTS, CORRECTION_RESIDUAL };

/* One method: what it does to a decoder layer, unless an option says otherwise. */
struct method {
    const char *name, *help;
    enum range range;
    bool rescale;   /* search channel scales first (AWQ) */
    bool solve;     /* column by column, errors carried over (GPTQ); else round to nearest */
    bool safeguard; /* rows that rounding to nearest does better keep that */
    enum correction correction;
    uint64_t polish; /* rounds of refitting scales and codes afterwards */
    enum obs_order order;
    double damping; /* relative to the mean of the Hessian's diagonal; 0: 0.01 */
};

/* THE table of methods: METHOD(name, help, fields). A method is one row here; what its fields cannot say is a new field, and a
 * step in quantize/gptq.c. */
#define METHOD_LIST(METHOD)                                                                                  \
    METHOD("rtn", "round to nearest, every weight to its closest code", .range = RANGE_MINMAX)               \
    METHOD("gptq",                                                                                           \
        "column by column, errors carried over to the columns that follow; ranges weighted by the Hessian, " \
        "aimed at the original network's outputs, and polished",                                             \
        .range = RANGE_HESSIAN, METHOD_BEST_SOLVER)                                                          \
    METHOD("gptq-plain", "GPTQ as published", .range = RANGE_MINMAX, .solve = true)                          \
    METHOD("awq", "channels with large activations are scaled up before rounding to nearest",                \
        .range = RANGE_HESSIAN, .rescale = true)                                                             \
    METHOD("awq+gptq", "both, AWQ first", .range = RANGE_HESSIAN, .rescale = true, METHOD_BEST_SOLVER)
#define METHOD_BEST_SOLVER                                                                                   \
    .solve = true, .safeguard = true, .correction = CORRECTION_RESIDUAL, .polish = 3,                        \
    .order = OBS_ORDER_GROUP_AWARE, .damping = 0.03

/* The row of a name in the table, which options_parse has checked. */
const struct method *settings_method(const char *name);

/* The command line as it was parsed. */
struct quantize_options {
    struct common_options common;
    const char *input, *output, *format;
    uint64_t split_size;                                       /* 0: one file */
    const char *method, *range, *embedding, *head, *kept_type; /* NULL: the default */
    struct option_list keep, override;
    bool dry_run, force, report_error, allow_requantize;
    /* nibble's own scheme */
    const char *bits, *group, *indivisible;
    bool asymmetric;
    /* block types */
    const char *type, *fallback, *imatrix;
    bool pure;
    /* calibration */
    struct calibration_request calibration;
    /* how codes are found; NULL or UNSET: as the method says */
    const char *act_order, *correction;
    uint64_t polish;
    double damping; /* 0: the method's */
    /* a budget */
    double target_bits; /* 0: none */
    uint64_t target_size;
    const char *allocation, *save_allocation;
    /* the work */
    uint64_t memory_limit; /* bytes; 0: none */
    const char *report;
    bool restart;
};

#define SETTINGS_UNSET UINT64_MAX

/* The defaults; options_parse overwrites what is given. */
struct quantize_options settings_defaults(void);
void settings_options_free(struct quantize_options *options);
extern const struct command settings_command;

/* How one weight matrix is to be stored. */
struct recipe {
    bool keep;             /* not quantized; the other fields then say how it would be */
    bool by_mix;           /* `block` is still to be taken from the mix */
    enum block_type block; /* in such blocks; BLOCK_NONE: codes of `bits`, as the next three say */
    uint32_t bits;         /* 2, 3, 4, 5, 6 or 8 */
    uint32_t group;        /* columns per scale, a multiple of 16; 0: the whole row */
    bool asymmetric;
    enum range range;
    bool cast; /* if kept, it becomes `type` */
    enum dtype type;
};

/* What to do with a matrix whose row the group does not divide. */
enum indivisible {
    INDIVISIBLE_STOP,    /* say so and end */
    INDIVISIBLE_ROW,     /* one scale per row */
    INDIVISIBLE_DIVISOR, /* the largest group that divides it */
    INDIVISIBLE_KEEP     /* do not quantize it */
};

/* Which fields of a recipe a rule changes. */
enum {
    CHANGE_KEEP = 1,
    CHANGE_BITS = 2,
    CHANGE_GROUP = 4,
    CHANGE_SYMMETRY = 8,
    CHANGE_RANGE = 16,
    CHANGE_TYPE = 32
};

/* One --override or --keep: the matrices whose names the expression is found in are changed as `recipe` and
 * `changes` say. */
struct rule {
    const char *option; /* "--override" or "--keep", for messages */
    const char *text;   /* as given */
    regex_t expression;
    unsigned changes;
    struct recipe recipe;
};

/* The options, checked. */
struct settings {
    const struct mix *mix; /* what --type says; NULL: bits and groups */
    struct recipe linear, embedding, head;
    bool head_given;
    struct recipe
        *fallbacks; /* [fallback_count] for rows that a block does not divide: what to try, in turn */
    uint64_t fallback_count;
    bool requantize;    /* what is quantized already may be quantized */
    bool fallback_auto; /* the shorter block type, then F16 */
    struct rule *rules; /* [rule_count]; a later rule wins over an earlier one, and all --keep come last */
    uint64_t rule_count;
    enum indivisible indivisible;
    struct method method; /* of the table, changed by what options say */
    enum obs_order order;
    double damping;  /* relative to the mean of the Hessian's diagonal */
    bool calibrated; /* calibration text is needed */
    bool informed;   /* that, or an importance matrix */
};

/* Check the options and compile the expressions. The texts point into the options, which must outlive *out.
 * ERR_USAGE names the option and what would be allowed. Release with settings_free, also after an error. */
enum status settings_resolve(struct settings *out, const struct quantize_options *options, struct error *err);
void settings_free(struct settings *settings);

/* True if the rule's expression is found anywhere in the name. */
bool settings_rule_matches(const struct rule *rule, const char *name);

/* Change *recipe as the rule says. Only `bits` and `type` make a kept matrix a quantized one: a rule that sets no more
 * than the group or the range of "everything" must not quantize an embedding that nobody named. */
void settings_apply_rule(struct recipe *recipe, const struct rule *rule);

/* "minmax", "mse", "hessian"; "none", "inputs", "residual"; "none", "static", "group-aware". */
const char *settings_range_name(enum range range);
const char *settings_correction_name(enum correction correction);
const char *settings_order_name(enum obs_order order);

/* "4 bits, group 32, symmetric, mse", "Q4_K, hessian" or "kept". Returns out. */
char *settings_recipe_text(char out[64], const struct recipe *recipe);

#endif
