/* The option table of nibble-quantize and the checks that need no model. */
#include "quantize/settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/destination.h"

/* ---- the table ---- */

#define BITS_CHOICES "2|3|4|5|6|8"
#define TYPES_TEXT                                                                                           \
    "q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, f32, f16 or bf16"
#define MIX_CHOICE(name, base, rules, file_type) "|" name
#define METHOD_CHOICE(name, help, ...) "|" name
#define METHOD_HELP(name, help, ...) name ": " help ". "
#define METHOD_ROW(name, help, ...) {name, help, __VA_ARGS__},
#define AT(field) offsetof(struct quantize_options, field)

static const struct operand operands[] = {
    {"INPUT", AT(input),
        "A Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file (of a split GGUF file "
        "the first part)."},
    {"OUTPUT", AT(output),
        "The file to write: NAME.gguf is a GGUF file, which needs --type, any other name a .nbl file; or the "
        "folder, where --format says so. It "
        "appears complete or not at all."},
};

static const struct option options_table[] = {
    {"method", OPTION_CHOICE, AT(method), 0, 0, &METHOD_LIST(METHOD_CHOICE)[1], "NAME",
        "gptq with --calibration, rtn without",
        "How codes are chosen. " METHOD_LIST(METHOD_HELP) "All but rtn need --calibration.", "Quantization"},
    {"range", OPTION_CHOICE, AT(range), 0, 0, "minmax|mse|hessian", "HOW", "the method's",
        "How the range of a group is found: its extremes, a search for the least squared error, or for the "
        "least error on the calibration text (each column weighted by the Hessian's diagonal). Matrices "
        "outside the decoder layers take mse where hessian is asked for. Blocks are always searched: mse or "
        "hessian.",
        NULL},
    {"imatrix", OPTION_TEXT, AT(imatrix), 0, 0, NULL, "FILE", NULL,
        "An importance matrix of llama-imatrix (.gguf or .dat): what --range hessian weighs columns by in "
        "place of calibration. For method rtn.",
        NULL},
    {"type", OPTION_CHOICE, AT(type), 0, 0, &MIX_LIST(MIX_CHOICE)[1], "TYPE", NULL,
        "Quantize into the block types of GGUF, which .nbl files hold as well. Names mean what they mean to "
        "llama-quantize: the matrices of decoder layers get this type, and some of them one of more bits, by "
        "role and layer; the head, and the embedding of a tied model, get q6_k. q3_k, q4_k and q5_k are "
        "short for their _m.",
        "Block types"},
    {"pure", OPTION_FLAG, AT(pure), 0, 0, NULL, NULL, NULL,
        "The block type of --type for every matrix, embedding and head included.", NULL},
    {"fallback", OPTION_TEXT, AT(fallback), 0, 0, NULL, "TYPE,...|auto", "stop, with a list",
        "What to store a matrix as when blocks do not divide its rows: q4_0 and its like take 32 columns, "
        "q4_k "
        "and its like 256. The first that fits of a list of block types and f16, bf16, f32 (which always "
        "fit); "
        "auto: the next type of 32 columns (q4_0 for q2_k and q3_k, q5_0 for q4_k, q5_1 for q5_k, q8_0 for "
        "q6_k, iq4_nl for iq4_xs), else f16.",
        NULL},
    {"bits", OPTION_CHOICE, AT(bits), 0, 0, BITS_CHOICES, "N", "4",
        "Bits per code of the linear layers (q, k, v, o, gate, up, down).",
        "nibble's own codes, in .nbl files (without --type)"},
    {"group", OPTION_TEXT, AT(group), 0, 0, NULL, "N|row", "32",
        "Columns that share a scale: a multiple of 16, or row for one scale per row. A scale costs 16/N "
        "bits per weight.",
        NULL},
    {"asymmetric", OPTION_FLAG, AT(asymmetric), 0, 0, NULL, NULL, NULL,
        "Store a zero-point beside every scale, which costs 8/N bits per weight more.", NULL},
    {"indivisible", OPTION_CHOICE, AT(indivisible), 0, 0, "stop|row|divisor|keep", "HOW", "stop",
        "When a group does not divide a row: stop with a list, use one scale per row, use the largest "
        "multiple of 16 that divides it, or keep the matrix.",
        NULL},
    {"embedding", OPTION_TEXT, AT(embedding), 0, 0, NULL, "HOW", "keep; with --type, what that says",
        "The embedding, which a model with tied weights also uses as its head: keep its type, quantize it "
        "the "
        "same as the linear layers, to so many bits (as --bits), or store it as a TYPE: " TYPES_TEXT ".",
        "Which tensors"},
    {"head", OPTION_TEXT, AT(head), 0, 0, NULL, "HOW", "keep; with --type, what that says",
        "The output head of a model whose weights are not tied, likewise.", NULL},
    {"keep", OPTION_LIST, AT(keep), 0, 0, NULL, "REGEX", NULL,
        "Do not quantize matrices whose name matches: a POSIX extended expression, found anywhere in the "
        "name. Wins over --override.",
        NULL},
    {"override", OPTION_LIST, AT(override), 0, 0, NULL, "REGEX=HOW", NULL,
        "Treat matching matrices differently. HOW is keep, or a list of type:TYPE, bits:N, group:N|row, "
        "symmetric, asymmetric, range:minmax|mse|hessian; what it does not name stays as it was. The last "
        "match wins.",
        NULL},
    {"kept-type", OPTION_CHOICE, AT(kept_type), 0, 0, "keep|f32|f16|bf16", "TYPE", "keep",
        "Element type of matrices that are not quantized. Norms and biases keep theirs; with --type they "
        "become F32.",
        NULL},
    {"allow-requantize", OPTION_FLAG, AT(allow_requantize), 0, 0, NULL, NULL, NULL,
        "Quantize matrices that are quantized already, from the values they stand for. The errors of both "
        "add "
        "up: the original model gives a better file.",
        NULL},
    CALIBRATION_OPTIONS(struct quantize_options),
    {"correction", OPTION_CHOICE, AT(correction), 0, 0, "none|inputs|residual", "WHAT", "the method's",
        "Aim at the original network's outputs although the inputs already carry the error of the layers "
        "before: not at all; correcting for the inputs; also for the residual stream. Costs a second pass of "
        "the calibration text through the original layers.",
        "Solver (gptq, gptq-plain, awq+gptq)"},
    {"polish", OPTION_COUNT, AT(polish), 0, 100, NULL, "N", "the method's",
        "Rounds of refitting scales and codes after a matrix is solved; each can only lower its error.",
        NULL},
    {"act-order", OPTION_CHOICE, AT(act_order), 0, 0, "none|static|group-aware", "HOW", "the method's",
        "The order in which columns are rounded: as they stand; largest activations first, with ranges "
        "fixed beforehand; or groups, and columns within them, by largest activations.",
        NULL},
    {"damping", OPTION_NUMBER, AT(damping), 1e-9, 1, NULL, "P", "the method's",
        "What is added to the Hessian's diagonal, as a share of its mean. Raised tenfold, and said so, where "
        "a "
        "matrix cannot be factored.",
        NULL},
    {"target-bits", OPTION_NUMBER, AT(target_bits), 2, 16, NULL, "X", NULL,
        "Choose the bits of every matrix of the decoder layers, instead of --bits, so that they take X bits "
        "on average, scales included, and predictions on the calibration text change least. What --override "
        "gives bits or a type keeps them. With --type, from q2_k, q3_k, q4_k, q5_k, q6_k and q8_0, or where "
        "these do not divide a row iq4_nl, q4_1, q5_0, q5_1 and q8_0; embedding and head are as that says.",
        "Mixed precision"},
    {"target-size", OPTION_COUNT, AT(target_size), 1, 1e18, NULL, "BYTES", NULL,
        "Likewise, so that the whole file takes at most BYTES (600M is 600 million).", NULL},
    {"save-allocation", OPTION_TEXT, AT(save_allocation), 0, 0, NULL, "FILE", NULL,
        "Write the choice as a text file, one line a matrix, to look at and edit.", NULL},
    {"allocation", OPTION_TEXT, AT(allocation), 0, 0, NULL, "FILE", NULL,
        "Take the bits of every matrix from such a file instead of measuring.", NULL},
    DESTINATION_OPTIONS(struct quantize_options),
    {"dry-run", OPTION_FLAG, AT(dry_run), 0, 0, NULL, NULL, NULL,
        "Print what would become of every tensor and the size of the file; write nothing.", NULL},
    {"report-error", OPTION_FLAG, AT(report_error), 0, 0, NULL, NULL, NULL,
        "Also report the relative root mean square error of the quantized weights.", NULL},
    {"report", OPTION_TEXT, AT(report), 0, 0, NULL, "FILE", NULL,
        "Write a JSON report: every tensor with its errors, damping, time and more.", NULL},
    {"memory-limit", OPTION_COUNT, AT(memory_limit), 1, 1e18, NULL, "BYTES", NULL,
        "Take no more memory than this (1.5G is not a count: write 1500M): states go to a file, and what "
        "still does not fit is refused before the work starts.",
        NULL},
    {"restart", OPTION_FLAG, AT(restart), 0, 0, NULL, NULL, NULL,
        "Begin anew although OUTPUT.journal holds finished layers of an interrupted run, which the same "
        "command "
        "would continue.",
        NULL},
    COMMON_OPTIONS(struct quantize_options),
};

const struct command settings_command = {
    .name = "nibble-quantize",
    .summary = "Quantize the weights of a model and write them as one .nbl or GGUF file.",
    .details =
        "Examples:\n"
        "  nibble-quantize model/ model-int4.nbl\n"
        "  nibble-quantize model/ model-int4.nbl --embedding 8 --head 8\n"
        "  nibble-quantize model/ mixed.nbl --override 'down_proj=bits:6' --override 'layers\\.0\\.=bits:8'\n"
        "  nibble-quantize model/ model-q4_k_m.gguf --type q4_k_m\n"
        "  nibble-quantize model/ model-q4_k_m.gguf --type q4_k_m --calibration text.txt\n"
        "  nibble-quantize model/ model-q4_0.gguf --type q4_0 --imatrix imatrix.gguf --fallback auto\n"
        "  nibble-quantize model/ any.nbl --bits 3 --group 64 --range mse --dry-run\n"
        "  nibble-quantize model/ best.nbl --calibration text.txt\n"
        "  nibble-quantize model/ mixed.nbl --calibration chats.jsonl.gz --target-bits 3.5\n"
        "\n"
        "Calibrated work on large models takes hours. Finished layers are kept in OUTPUT.journal until the "
        "output is "
        "complete: after a crash or Ctrl-C the same command goes on from there.\n",
    .operands = operands,
    .operand_count = sizeof operands / sizeof *operands,
    .options = options_table,
    .option_count = sizeof options_table / sizeof *options_table,
};

struct quantize_options settings_defaults(void)
{
    return (struct quantize_options){.calibration = CALIBRATION_DEFAULTS, .polish = SETTINGS_UNSET};
}

void settings_options_free(struct quantize_options *options)
{
    options_list_free(&options->keep);
    options_list_free(&options->override);
}

/* ---- values ---- */

static bool parse_bits(uint32_t *bits, const char *text)
{
    if (strlen(text) != 1 || *text == '|' || !strchr(BITS_CHOICES, *text)) return false;
    *bits = (uint32_t)(*text - '0');
    return true;
}

static enum status parse_group(uint32_t *group, const char *text, struct error *err)
{
    uint64_t count;
    if (strcmp(text, "row") == 0) {
        *group = 0;
        return OK;
    }
    if (options_count(&count, text, NULL) != OK || count == 0 || count % 16 != 0 || count > 1u << 30)
        return fail(err, ERR_USAGE, "group %s is neither a multiple of 16 nor row", text);
    *group = (uint32_t)count;
    return OK;
}

/* The place of a text in a list of names, or the list's length. */
static unsigned find_name(const char *text, const char *const *names, unsigned count)
{
    unsigned at = 0;
    while (at < count && strcmp(names[at], text) != 0)
        at++;
    return at;
}

static const char *const range_names[] = {"minmax", "mse", "hessian"};
static const char *const correction_names[] = {"none", "inputs", "residual"};
static const char *const order_names[] = {"none", "static", "group-aware"};

const char *settings_range_name(enum range range)
{
    return range_names[range];
}

const char *settings_correction_name(enum correction correction)
{
    return correction_names[correction];
}

const char *settings_order_name(enum obs_order order)
{
    return order_names[order];
}

static bool parse_range(enum range *range, const char *text)
{
    unsigned at = find_name(text, range_names, 3);
    if (at < 3) *range = (enum range)at;
    return at < 3;
}

/* An element type as the command line spells it. */
static bool parse_dtype(enum dtype *out, const char *text)
{
    for (enum dtype dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        const char *option = dtype_info(dtype)->option;
        if (!option || strcmp(option, text) != 0) continue;
        *out = dtype;
        return true;
    }
    return false;
}

/* Store as a block type, or unquantized as an element type. False: neither. */
static bool parse_type(struct recipe *recipe, const char *text)
{
    recipe->block = mix_block(text);
    recipe->by_mix = false;
    recipe->keep = recipe->block == BLOCK_NONE;
    recipe->cast = recipe->keep && parse_dtype(&recipe->type, text);
    return recipe->block || recipe->cast;
}

/* The recipe that "keep", "same", a number of bits or a type asks for, all else as for the linear layers. NULL: the default, which
 * the mix says if there is one. */
static enum status recipe_like(struct recipe *out, const struct settings *settings, const char *option,
    const char *how, struct error *err)
{
    *out = settings->linear;
    if (!how) {
        out->keep = !settings->mix;
    } else if (strcmp(how, "keep") == 0) {
        out->keep = true;
    } else if (strcmp(how, "same") == 0) {
        out->by_mix = false;
    } else if (parse_bits(&out->bits, how)) {
        if (settings->mix)
            return fail(err, ERR_USAGE, "%s %s: bits are for codes of nibble's own; with --type, name a type",
                option, how);
    } else if (!parse_type(out, how)) {
        return fail(
            err, ERR_USAGE, "%s %s: keep, same, bits (%s) or %s", option, how, BITS_CHOICES, TYPES_TEXT);
    }
    return OK;
}

/* ---- rules ---- */

/* What only codes have, not blocks. */
#define CHANGE_CODES (CHANGE_BITS | CHANGE_GROUP | CHANGE_SYMMETRY)

/* Read one item of an override's list, the `bytes` bytes at `item`. */
static enum status parse_change(struct rule *rule, const char *item, size_t bytes, struct error *err)
{
    struct recipe *recipe = &rule->recipe;
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)(bytes < sizeof text ? bytes : sizeof text - 1), item);
    if (strcmp(text, "keep") == 0) {
        rule->changes |= CHANGE_KEEP;
    } else if (strncmp(text, "type:", 5) == 0) {
        rule->changes |= CHANGE_TYPE;
        if (!parse_type(recipe, text + 5))
            return fail(err, ERR_USAGE, "type %s: one of %s", text + 5, TYPES_TEXT);
    } else if (strcmp(text, "symmetric") == 0 || strcmp(text, "asymmetric") == 0) {
        rule->changes |= CHANGE_SYMMETRY;
        recipe->asymmetric = *text == 'a';
    } else if (strncmp(text, "bits:", 5) == 0) {
        rule->changes |= CHANGE_BITS;
        if (!parse_bits(&recipe->bits, text + 5))
            return fail(err, ERR_USAGE, "bits %s: one of %s", text + 5, BITS_CHOICES);
    } else if (strncmp(text, "group:", 6) == 0) {
        rule->changes |= CHANGE_GROUP;
        return parse_group(&recipe->group, text + 6, err);
    } else if (strncmp(text, "range:", 6) == 0) {
        rule->changes |= CHANGE_RANGE;
        if (!parse_range(&recipe->range, text + 6))
            return fail(err, ERR_USAGE, "range %s: minmax, mse or hessian", text + 6);
    } else {
        return fail(err, ERR_USAGE,
            "'%s' is none of keep, type:TYPE, bits:N, group:N|row, symmetric, asymmetric, "
            "range:minmax|mse|hessian",
            text);
    }
    return OK;
}

static enum status parse_changes(struct rule *rule, const char *list, struct error *err)
{
    for (const char *item = list;; item++) {
        size_t bytes = strcspn(item, ",");
        enum status status = parse_change(rule, item, bytes, err);
        if (status != OK) return status;
        item += bytes;
        if (*item == '\0') break;
    }
    if ((rule->changes & CHANGE_KEEP) && rule->changes != CHANGE_KEEP)
        return fail(err, ERR_USAGE, "keep stands alone");
    if ((rule->changes & CHANGE_TYPE) && (rule->changes & CHANGE_CODES))
        return fail(
            err, ERR_USAGE, "a type says all; bits, group and symmetry are for codes of nibble's own");
    return OK;
}

static enum status compile(struct rule *rule, const char *expression, struct error *err)
{
    if (*expression == '\0') return fail(err, ERR_USAGE, "the expression is empty");
    int code = regcomp(&rule->expression, expression, REG_EXTENDED | REG_NOSUB);
    if (code == 0) return OK;
    char reason[128];
    regerror(code, &rule->expression, reason, sizeof reason);
    return fail(err, ERR_USAGE, "not a regular expression: %s", reason);
}

/* Add "REGEX=HOW". The list after the last '=' cannot contain one, so an expression may. */
static enum status add_override(struct settings *settings, const char *text, struct error *err)
{
    struct rule rule = {.option = "--override", .text = text};
    const char *equals = strrchr(text, '=');
    if (!equals) return fail(err, ERR_USAGE, "expected REGEX=HOW, as in 'down_proj=bits:6'");
    enum status status = parse_changes(&rule, equals + 1, err);
    if (status != OK) return status;
    if (settings->mix && (rule.changes & CHANGE_CODES))
        return fail(err, ERR_USAGE,
            "bits, group and symmetry are for codes of nibble's own; with --type, say type:TYPE");
    char *expression = memory_text(text, (uint64_t)(equals - text), err);
    if (!expression) return ERR_MEMORY;
    status = compile(&rule, expression, err);
    if (status == OK) settings->rules[settings->rule_count++] = rule;
    memory_free(expression);
    return status;
}

static enum status add_keep(struct settings *settings, const char *text, struct error *err)
{
    struct rule rule = {.option = "--keep", .text = text, .changes = CHANGE_KEEP};
    enum status status = compile(&rule, text, err);
    if (status == OK) settings->rules[settings->rule_count++] = rule;
    return status;
}

static enum status add_rules(
    struct settings *settings, const struct quantize_options *options, struct error *err)
{
    settings->rules = memory_new(options->override.count + options->keep.count, sizeof *settings->rules, err);
    if (!settings->rules) return ERR_MEMORY;
    for (uint64_t i = 0; i < options->override.count; i++) {
        const char *text = options->override.values[i];
        enum status status = add_override(settings, text, err);
        if (status != OK) return fail_within(err, status, "--override '%s'", text);
    }
    for (uint64_t i = 0; i < options->keep.count; i++) {
        const char *text = options->keep.values[i];
        enum status status = add_keep(settings, text, err);
        if (status != OK) return fail_within(err, status, "--keep '%s'", text);
    }
    return OK;
}

bool settings_rule_matches(const struct rule *rule, const char *name)
{
    return regexec(&rule->expression, name, 0, NULL, 0) == 0;
}

void settings_apply_rule(struct recipe *recipe, const struct rule *rule)
{
    if (rule->changes & CHANGE_KEEP) recipe->keep = true;
    if (rule->changes & CHANGE_BITS) {
        recipe->keep = false;
        recipe->block = BLOCK_NONE;
        recipe->bits = rule->recipe.bits;
    }
    if (rule->changes & CHANGE_TYPE) {
        recipe->keep = rule->recipe.keep;
        recipe->by_mix = false;
        recipe->block = rule->recipe.block;
        recipe->cast = rule->recipe.cast;
        recipe->type = rule->recipe.type;
    }
    if (rule->changes & CHANGE_GROUP) recipe->group = rule->recipe.group;
    if (rule->changes & CHANGE_SYMMETRY) recipe->asymmetric = rule->recipe.asymmetric;
    if (rule->changes & CHANGE_RANGE) recipe->range = rule->recipe.range;
}

/* ---- all of it ---- */

static enum indivisible parse_indivisible(const char *text)
{
    if (strcmp(text, "row") == 0) return INDIVISIBLE_ROW;
    if (strcmp(text, "divisor") == 0) return INDIVISIBLE_DIVISOR;
    if (strcmp(text, "keep") == 0) return INDIVISIBLE_KEEP;
    return INDIVISIBLE_STOP;
}

/* A list of types, or auto. */
static enum status parse_fallback(struct settings *settings, const char *list, struct error *err)
{
    if (strcmp(list, "auto") == 0) {
        settings->fallback_auto = true;
        return OK;
    }
    settings->fallbacks = memory_new(strlen(list) + 1, sizeof *settings->fallbacks, err);
    if (!settings->fallbacks) return ERR_MEMORY;
    for (const char *item = list;; item++) {
        size_t bytes = strcspn(item, ",");
        char text[16];
        snprintf(text, sizeof text, "%.*s", (int)(bytes < sizeof text ? bytes : sizeof text - 1), item);
        if (!parse_type(&settings->fallbacks[settings->fallback_count++], text))
            return fail(
                err, ERR_USAGE, "--fallback: '%s' is no type; auto, or a list of %s", text, TYPES_TEXT);
        item += bytes;
        if (*item == '\0') return OK;
    }
}

const struct method *settings_method(const char *name)
{
    static const struct method methods[] = {METHOD_LIST(METHOD_ROW)};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(methods[i].name, name) == 0) return &methods[i];
    }
    return NULL;
}

/* The method's row of the table, changed by the options that were given. */
static void resolve_method(struct settings *out, const struct quantize_options *options)
{
    struct method *method = &out->method;
    *method = *settings_method(options->method             ? options->method
                               : options->calibration.path ? "gptq"
                                                           : "rtn");
    if (options->imatrix) method->range = RANGE_HESSIAN;
    if (options->type && method->range == RANGE_MINMAX) method->range = RANGE_MSE; /* blocks are searched */
    if (options->range) parse_range(&method->range, options->range);
    if (options->correction)
        method->correction = (enum correction)find_name(options->correction, correction_names, 3);
    if (options->polish != SETTINGS_UNSET) method->polish = options->polish;
    if (options->act_order) method->order = (enum obs_order)find_name(options->act_order, order_names, 3);
    if (options->damping > 0) method->damping = options->damping;
    if (method->damping == 0) method->damping = 0.01;
}

/* Options that only a solver heeds must not be given to another method: they would do nothing. */
static enum status check_solver_options(
    const struct settings *settings, const struct quantize_options *options, struct error *err)
{
    const char *given = options->correction                 ? "--correction"
                        : options->act_order                ? "--act-order"
                        : options->polish != SETTINGS_UNSET ? "--polish"
                                                            : NULL;
    if (settings->method.solve || !given) return OK;
    return fail(err, ERR_USAGE, "%s: method %s does not solve; use gptq, gptq-plain or awq+gptq", given,
        settings->method.name);
}

/* True if a rule asks for ranges that need calibration. */
static bool rules_weigh(const struct settings *settings)
{
    for (uint64_t i = 0; i < settings->rule_count; i++) {
        const struct rule *rule = &settings->rules[i];
        if ((rule->changes & CHANGE_RANGE) && rule->recipe.range == RANGE_HESSIAN) return true;
    }
    return false;
}

static enum status check_imatrix(
    const struct settings *settings, const struct quantize_options *options, struct error *err)
{
    const struct method *method = &settings->method;
    if (!options->imatrix) return OK;
    if (method->solve || method->rescale || options->calibration.path)
        return fail(err, ERR_USAGE,
            "--imatrix is for method rtn without --calibration: %s observes activations on the text itself",
            method->solve || method->rescale ? method->name : "range hessian");
    if (method->range == RANGE_HESSIAN || rules_weigh(settings)) return OK;
    return fail(err, ERR_USAGE, "--imatrix has no use for range %s; leave one of them out",
        range_names[method->range]);
}

static enum status check_calibration(
    struct settings *settings, const struct quantize_options *options, struct error *err)
{
    const struct method *method = &settings->method;
    bool budget = options->target_bits > 0 || options->target_size > 0;
    bool weighed = (method->range == RANGE_HESSIAN || rules_weigh(settings)) && !options->imatrix;
    settings->calibrated = method->solve || method->rescale || weighed || budget;
    settings->informed = settings->calibrated || options->imatrix;
    if (settings->calibrated && !options->calibration.path)
        return fail(err, ERR_USAGE, "%s needs --calibration FILE, a text to observe activations on",
            method->solve || method->rescale ? method->name
            : budget                         ? "a target"
                                             : "range hessian");
    if (!settings->calibrated && options->calibration.path)
        return fail(err, ERR_USAGE,
            "--calibration has no use for method rtn with range %s; leave it out, or use --range hessian",
            range_names[method->range]);
    if (options->target_bits > 0 && options->target_size > 0)
        return fail(err, ERR_USAGE, "--target-bits and --target-size: give one of them");
    if (budget && options->allocation)
        return fail(err, ERR_USAGE, "--allocation already says the bits; leave the target out");
    if (options->save_allocation && !budget)
        return fail(err, ERR_USAGE, "--save-allocation needs --target-bits or --target-size");
    return OK;
}

/* Options of codes beside --type, and those of blocks without it: they would do nothing. */
static enum status check_kind(
    const struct settings *settings, const struct quantize_options *options, struct error *err)
{
    const char *codes = options->bits          ? "--bits"
                        : options->group       ? "--group"
                        : options->asymmetric  ? "--asymmetric"
                        : options->indivisible ? "--indivisible"
                                               : NULL;
    if (settings->mix && codes)
        return fail(err, ERR_USAGE, "%s is for codes of nibble's own, not for the blocks of --type %s%s",
            codes, options->type,
            options->indivisible == NULL ? ""
                                         : "; --fallback says what becomes of rows that they do not divide");
    if (settings->mix && options->range && strcmp(options->range, "minmax") == 0)
        return fail(err, ERR_USAGE, "--range minmax: blocks are searched for; mse or hessian");
    if (!settings->mix && options->pure) return fail(err, ERR_USAGE, "--pure needs --type");
    return OK;
}

/* What the linear layers get, and from it the embedding and the head. */
static enum status resolve_recipes(
    struct settings *out, const struct quantize_options *options, struct error *err)
{
    struct recipe *linear = &out->linear;
    *linear = (struct recipe){.asymmetric = options->asymmetric, .range = out->method.range};
    if (out->mix) linear->block = out->mix->base;
    linear->by_mix = out->mix && !options->pure;
    linear->cast = options->kept_type && parse_dtype(&linear->type, options->kept_type);
    parse_bits(&linear->bits, options->bits ? options->bits : "4");
    enum status status = parse_group(&linear->group, options->group ? options->group : "32", err);
    if (status == OK) status = recipe_like(&out->embedding, out, "--embedding", options->embedding, err);
    if (status == OK) status = recipe_like(&out->head, out, "--head", options->head, err);
    return status;
}

enum status settings_resolve(struct settings *out, const struct quantize_options *options, struct error *err)
{
    /* The table has checked every choice; only the group and the fallback are free text. */
    *out = (struct settings){.head_given = options->head != NULL, .requantize = options->allow_requantize};
    if (options->type) out->mix = mix_find(options->type);
    resolve_method(out, options);
    enum status status = check_kind(out, options, err);
    if (status == OK) status = resolve_recipes(out, options, err);
    if (status == OK && options->fallback) status = parse_fallback(out, options->fallback, err);
    if (options->indivisible) out->indivisible = parse_indivisible(options->indivisible);
    if (status == OK) status = check_solver_options(out, options, err);
    if (status == OK) status = add_rules(out, options, err);
    if (status == OK) status = check_imatrix(out, options, err);
    return status == OK ? check_calibration(out, options, err) : status;
}

void settings_free(struct settings *settings)
{
    for (uint64_t i = 0; i < settings->rule_count; i++)
        regfree(&settings->rules[i].expression);
    memory_free(settings->rules);
    memory_free(settings->fallbacks);
    *settings = (struct settings){0};
}

char *settings_recipe_text(char out[64], const struct recipe *recipe)
{
    char group[24] = "whole row";
    if (recipe->group) snprintf(group, sizeof group, "group %" PRIu32, recipe->group);
    if (recipe->keep) {
        snprintf(out, 64, "kept");
    } else if (recipe->block) {
        snprintf(out, 64, "%s%s", block_info(recipe->block)->name,
            recipe->range == RANGE_HESSIAN ? ", hessian" : "");
    } else {
        snprintf(out, 64, "%" PRIu32 " bits, %s, %s, %s", recipe->bits, group,
            recipe->asymmetric ? "asymmetric" : "symmetric", range_names[recipe->range]);
    }
    return out;
}
