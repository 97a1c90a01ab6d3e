/* The option table of nibble-quantize and the checks that need no model. */
#include "quantize/settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- the table ---- */

#define BITS_CHOICES "2|3|4|5|6|8"
#define METHOD_CHOICE(name, help) "|" #name
#define METHOD_HELP(name, help) #name " = " help ". "
#define AT(field) offsetof(struct quantize_options, field)

static const struct operand operands[] = {
    {"INPUT", AT(input), "A Hugging Face folder, a .safetensors file or a .nbl file."},
    {"OUTPUT", AT(output), "The .nbl file to write. It appears complete or not at all."},
};

static const struct option options_table[] = {
    {"method", OPTION_CHOICE, AT(method), 0, 0, &METHOD_LIST(METHOD_CHOICE)[1], "NAME", "rtn",
        "How codes are chosen: " METHOD_LIST(METHOD_HELP), "Quantization"},
    {"bits", OPTION_CHOICE, AT(bits), 0, 0, BITS_CHOICES, "N", "4",
        "Bits per code of the linear layers (q, k, v, o, gate, up, down).", NULL},
    {"group", OPTION_TEXT, AT(group), 0, 0, NULL, "N|row", "32",
        "Columns that share a scale: a multiple of 16, or row for one scale per row. A scale costs 16/N "
        "bits per weight.",
        NULL},
    {"asymmetric", OPTION_FLAG, AT(asymmetric), 0, 0, NULL, NULL, NULL,
        "Store a zero-point beside every scale, which costs 8/N bits per weight more.", NULL},
    {"range", OPTION_CHOICE, AT(range), 0, 0, "minmax|mse", "HOW", "minmax",
        "How the range of a group is found: its extremes, or a search for the least squared error (slower).",
        NULL},
    {"embedding", OPTION_CHOICE, AT(embedding), 0, 0, "keep|same|" BITS_CHOICES, "HOW", "keep",
        "The embedding, which a model with tied weights also uses as its head: keep its type, quantize it "
        "the same as the linear layers, or to so many bits. 8 makes an F16 embedding about half as large.",
        "Which tensors"},
    {"head", OPTION_CHOICE, AT(head), 0, 0, "keep|same|" BITS_CHOICES, "HOW", "keep",
        "The output head of a model whose weights are not tied, likewise.", NULL},
    {"keep", OPTION_LIST, AT(keep), 0, 0, NULL, "REGEX", NULL,
        "Do not quantize matrices whose name matches: a POSIX extended expression, found anywhere in the "
        "name. Wins over --override.",
        NULL},
    {"override", OPTION_LIST, AT(override), 0, 0, NULL, "REGEX=HOW", NULL,
        "Treat matching matrices differently. HOW is keep, or a list of bits:N, group:N|row, symmetric, "
        "asymmetric, range:minmax|mse; what it does not name stays as it was. The last match wins.",
        NULL},
    {"type", OPTION_CHOICE, AT(type), 0, 0, "keep|f32|f16|bf16", "TYPE", "keep",
        "Element type of matrices that are not quantized. Norms and biases always keep theirs.", NULL},
    {"indivisible", OPTION_CHOICE, AT(indivisible), 0, 0, "stop|row|divisor|keep", "HOW", "stop",
        "When a group does not divide a row: stop with a list, use one scale per row, use the largest "
        "multiple of 16 that divides it, or keep the matrix.",
        NULL},
    {"dry-run", OPTION_FLAG, AT(dry_run), 0, 0, NULL, NULL, NULL,
        "Print what would become of every tensor and the size of the file; write nothing.", "Output"},
    {"report-error", OPTION_FLAG, AT(report_error), 0, 0, NULL, NULL, NULL,
        "Also report the relative root mean square error of the quantized weights.", NULL},
    {"force", OPTION_FLAG, AT(force), 0, 0, NULL, NULL, NULL, "Replace OUTPUT if it exists.", NULL},
    COMMON_OPTIONS(struct quantize_options),
};

const struct command settings_command = {
    .name = "nibble-quantize",
    .summary = "Quantize the weights of a model and write them as one .nbl file.",
    .details =
        "Examples:\n"
        "  nibble-quantize model/ model-int4.nbl\n"
        "  nibble-quantize model/ model-int4.nbl --embedding 8 --head 8\n"
        "  nibble-quantize model/ mixed.nbl --override 'down_proj=bits:6' --override 'layers\\.0\\.=bits:8'\n"
        "  nibble-quantize model/ any.nbl --bits 3 --group 64 --range mse --dry-run\n",
    .operands = operands,
    .operand_count = sizeof operands / sizeof *operands,
    .options = options_table,
    .option_count = sizeof options_table / sizeof *options_table,
};

struct quantize_options settings_defaults(void)
{
    return (struct quantize_options){.method = "rtn",
        .bits = "4",
        .group = "32",
        .range = "minmax",
        .embedding = "keep",
        .head = NULL,
        .type = "keep",
        .indivisible = "stop"};
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

static bool parse_range(enum grid_range *range, const char *text)
{
    *range = strcmp(text, "mse") == 0 ? GRID_MSE : GRID_MINMAX;
    return *range == GRID_MSE || strcmp(text, "minmax") == 0;
}

/* The recipe that "keep", "same" or a number of bits asks for, all else as for the linear layers. */
static struct recipe recipe_like(const struct recipe *linear, const char *how)
{
    struct recipe recipe = *linear;
    if (strcmp(how, "keep") == 0) {
        recipe.keep = true;
    } else {
        parse_bits(&recipe.bits, how); /* "same" leaves the bits as they are */
    }
    return recipe;
}

/* ---- rules ---- */

/* Read one item of an override's list, the `bytes` bytes at `item`. */
static enum status parse_change(struct rule *rule, const char *item, size_t bytes, struct error *err)
{
    struct recipe *recipe = &rule->recipe;
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)(bytes < sizeof text ? bytes : sizeof text - 1), item);
    if (strcmp(text, "keep") == 0) {
        rule->changes |= CHANGE_KEEP;
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
            return fail(err, ERR_USAGE, "range %s: minmax or mse", text + 6);
    } else {
        return fail(err, ERR_USAGE,
            "'%s' is none of keep, bits:N, group:N|row, symmetric, asymmetric, range:minmax|mse", text);
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
        recipe->bits = rule->recipe.bits;
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

static void parse_type(struct settings *settings, const char *text)
{
    for (enum dtype dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        const char *option = dtype_info(dtype)->option;
        if (option && strcmp(option, text) == 0) {
            settings->cast = true;
            settings->cast_type = dtype;
        }
    }
}

enum status settings_resolve(struct settings *out, const struct quantize_options *options, struct error *err)
{
    *out = (struct settings){.linear.asymmetric = options->asymmetric};
    /* The table has checked every choice; only the group is free text. */
    parse_bits(&out->linear.bits, options->bits);
    parse_range(&out->linear.range, options->range);
    enum status status = parse_group(&out->linear.group, options->group, err);
    if (status != OK) return status;
    out->embedding = recipe_like(&out->linear, options->embedding);
    out->head_given = options->head != NULL;
    out->head = recipe_like(&out->linear, options->head ? options->head : "keep");
    out->indivisible = parse_indivisible(options->indivisible);
    parse_type(out, options->type);
    return add_rules(out, options, err);
}

void settings_free(struct settings *settings)
{
    for (uint64_t i = 0; i < settings->rule_count; i++)
        regfree(&settings->rules[i].expression);
    memory_free(settings->rules);
    *settings = (struct settings){0};
}

char *settings_recipe_text(char out[64], const struct recipe *recipe)
{
    char group[24] = "whole row";
    if (recipe->group) snprintf(group, sizeof group, "group %" PRIu32, recipe->group);
    if (recipe->keep) {
        snprintf(out, 64, "kept");
    } else {
        snprintf(out, 64, "%" PRIu32 " bits, %s, %s, %s", recipe->bits, group,
            recipe->asymmetric ? "asymmetric" : "symmetric", recipe->range == GRID_MSE ? "mse" : "minmax");
    }
    return out;
}
