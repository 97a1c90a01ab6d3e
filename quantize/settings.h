/* What a quantization is asked to do: the option table of nibble-quantize, and the same options checked and
 * turned into recipes and rules. Nothing here has seen a model yet. */
#ifndef NIBBLE_QUANTIZE_SETTINGS_H
#define NIBBLE_QUANTIZE_SETTINGS_H

#include <regex.h>

#include "base/options.h"
#include "tensor/dtype.h"
#include "tensor/grid.h"

/* THE table of methods: METHOD(name, help). A method is one row here and one function `<name>_run` of the
 * type quantize_method (quantize/quantize.h) in quantize/<name>.c. */
#define METHOD_LIST(METHOD) METHOD(rtn, "round to nearest, every weight to its closest code, no calibration")

/* The command line as it was parsed. */
struct quantize_options {
    struct common_options common;
    const char *input, *output;
    const char *method, *bits, *group, *range, *embedding, *head, *type, *indivisible;
    struct option_list keep, override;
    bool asymmetric, dry_run, force, report_error;
};

/* The defaults; options_parse overwrites what is given. */
struct quantize_options settings_defaults(void);
void settings_options_free(struct quantize_options *options);
extern const struct command settings_command;

/* How one weight matrix is to be stored. */
struct recipe {
    bool keep;      /* not quantized; the other fields then say how it would be */
    uint32_t bits;  /* 2, 3, 4, 5, 6 or 8 */
    uint32_t group; /* columns per scale, a multiple of 16; 0: the whole row */
    bool asymmetric;
    enum grid_range range;
};

/* What to do with a matrix whose row the group does not divide. */
enum indivisible {
    INDIVISIBLE_STOP,    /* say so and end */
    INDIVISIBLE_ROW,     /* one scale per row */
    INDIVISIBLE_DIVISOR, /* the largest group that divides it */
    INDIVISIBLE_KEEP     /* do not quantize it */
};

/* Which fields of a recipe a rule changes. */
enum { CHANGE_KEEP = 1, CHANGE_BITS = 2, CHANGE_GROUP = 4, CHANGE_SYMMETRY = 8, CHANGE_RANGE = 16 };

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
    struct recipe linear, embedding, head;
    bool head_given;
    struct rule *rules; /* [rule_count]; a later rule wins over an earlier one, and all --keep come last */
    uint64_t rule_count;
    bool cast; /* kept matrices become cast_type */
    enum dtype cast_type;
    enum indivisible indivisible;
};

/* Check the options and compile the expressions. The texts point into the options, which must outlive *out.
 * ERR_USAGE names the option and what would be allowed. Release with settings_free, also after an error. */
enum status settings_resolve(struct settings *out, const struct quantize_options *options, struct error *err);
void settings_free(struct settings *settings);

/* True if the rule's expression is found anywhere in the name. */
bool settings_rule_matches(const struct rule *rule, const char *name);

/* Change *recipe as the rule says. Only `bits` makes a kept matrix a quantized one: a rule that sets no more
 * than the group or the range of "everything" must not quantize an embedding that nobody named. */
void settings_apply_rule(struct recipe *recipe, const struct rule *rule);

/* "4 bits, group 32, symmetric, mse", or "kept". Returns out. */
char *settings_recipe_text(char out[64], const struct recipe *recipe);

#endif
