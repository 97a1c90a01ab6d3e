#include "prune/prune_settings.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/number.h"
#include "model/destination.h"

#define METHOD_ROW(row_name, row_help, ...) {.name = (row_name), .help = (row_help), __VA_ARGS__},
#define METHOD_CHOICE(name, help, ...) "|" name
#define METHOD_HELP(name, help, ...) name ": " help ". "
static const struct prune_method methods[] = {PRUNE_METHOD_LIST(METHOD_ROW)};
enum { METHODS = sizeof methods / sizeof *methods };

/* ---- the table ---- */

#define AT(field) offsetof(struct prune_options, field)

static const struct operand operands[] = {
    {"INPUT", AT(input), "A model: a Hugging Face folder, .safetensors, .gguf, .nbl."},
    {"OUTPUT", AT(output), "The file or folder to write."},
};

static const struct option options_table[] = {
    {"method", OPTION_CHOICE, AT(method), 0, 0, &PRUNE_METHOD_LIST(METHOD_CHOICE)[1], "METHOD",
        "sparsegpt with --calibration, magnitude without",
        "What goes, and how it is chosen. " PRUNE_METHOD_LIST(METHOD_HELP) "All but magnitude need "
                                                                           "--calibration.",
        "Pruning"},
    {"sparsity", OPTION_TEXT, AT(sparsity), 0, 0, NULL, "P", "50%",
        "How much goes, as 50% or 0.5: of the weights of every matrix of the decoder layers; of the weights "
        "of "
        "all heads and feed-forward channels; of the layers.",
        NULL},
    {"keep", OPTION_LIST, AT(keep), 0, 0, NULL, "REGEX", NULL,
        "Leave matrices alone in whose name this extended regular expression is found.", NULL},
    {"pattern", OPTION_TEXT, AT(pattern), 0, 0, NULL, "unstructured|N:M", "unstructured",
        "Where zeros may be: anywhere, or so that of every M consecutive weights of a row N stay (2:4, 4:8).",
        "Single weights (magnitude, wanda, ria, sparsegpt, wanda+sparsegpt)"},
    {"ratios", OPTION_CHOICE, AT(ratios), 0, 0, "uniform|owl", "HOW", "uniform",
        "The same sparsity in every layer, or less in layers with more outliers (OWL), the same on the "
        "whole.",
        NULL},
    {"owl-spread", OPTION_NUMBER, AT(owl_spread), 0, 0.5, NULL, "X", "0.08",
        "How far a layer's sparsity may lie from the whole's.", NULL},
    {"owl-threshold", OPTION_NUMBER, AT(owl_threshold), 1, 1000, NULL, "X", "5",
        "A score this many times its matrix's mean is an outlier.", NULL},
    {"bits", OPTION_CHOICE, AT(bits), 0, 0, "2|4|8", "N", "not quantized",
        "Quantize the weights that stay in the same pass, so that each makes up for both errors.", NULL},
    {"group", OPTION_COUNT, AT(group), 16, 65536, NULL, "N",
        "128, or the largest of 64, 32, 16 that divides the row",
        "Columns that share a scale, with --bits; a multiple of 16.", NULL},
    {"storage", OPTION_CHOICE, AT(storage), 0, 0, "sparse|dense", "HOW", "sparse in .nbl files",
        "Store only what stays, with a bit mask or the pattern, or zeros like other weights. Formats other "
        "than .nbl hold zeros.",
        NULL},
    {"correction", OPTION_CHOICE, AT(correction), 0, 0, "none|inputs|residual", "WHAT", "residual",
        "Aim at the original network's outputs although the inputs already carry the error of the layers "
        "before.",
        "Solver (sparsegpt, wanda+sparsegpt)"},
    {"damping", OPTION_NUMBER, AT(damping), 1e-9, 1, NULL, "P", "0.01",
        "What is added to the Hessian's diagonal, as a share of its mean.", NULL},
    {"polish", OPTION_COUNT, AT(polish), 0, 100, NULL, "N", "the method's",
        "Rounds of improving what stays after a matrix is solved; each can only lower its error.", NULL},
    {"parts", OPTION_CHOICE, AT(parts), 0, 0, "both|heads|ffn", "WHAT", "both",
        "Whole groups of attention heads, feed-forward channels, or both.", "Width (flap, activation)"},
    {"widths", OPTION_CHOICE, AT(widths), 0, 0, "layer|uniform", "HOW", "uniform",
        "All layers alike, or each as wide as its scores say, which only .nbl files can hold. Compare both: "
        "on "
        "the models measured all alike was better as often as not.",
        NULL},
    {"no-bias", OPTION_FLAG, AT(no_bias), 0, 0, NULL, NULL, NULL,
        "flap: do not add biases in place of what went.", NULL},
    {"drop-layers", OPTION_TEXT, AT(drop_layers), 0, 0, NULL, "LIST", NULL,
        "Take these decoder layers away, counted from 0: 21-29, or 3,5,8-10.", "Depth and vocabulary"},
    {"trim-vocabulary", OPTION_TEXT, AT(trim_vocabulary), 0, 0, NULL, "FILE", NULL,
        "Keep only the tokens that this text uses, those of single bytes or characters, and special ones; "
        "the "
        "tokenizer is trimmed with it.",
        NULL},
    {"target-size", OPTION_COUNT, AT(target_size), 1, 1e18, NULL, "BYTES", NULL,
        "Choose the sparsity so that the output takes at most BYTES (600M is 600 million).", "Goals"},
    {"target-latency", OPTION_NUMBER, AT(target_latency), 1e-6, 1e9, NULL, "MS", NULL,
        "Choose it so that one token takes at most so many milliseconds here, measured.", NULL},
    CALIBRATION_OPTIONS(struct prune_options),
    DESTINATION_OPTIONS(struct prune_options),
    {"dry-run", OPTION_FLAG, AT(dry_run), 0, 0, NULL, NULL, NULL,
        "Check everything and print what would be done; write nothing.", NULL},
    {"report", OPTION_TEXT, AT(report), 0, 0, NULL, "FILE", NULL,
        "Write a JSON report: every tensor with its sparsity, error and time.", NULL},
    {"memory-limit", OPTION_COUNT, AT(memory_limit), 1, 1e18, NULL, "BYTES", NULL,
        "Take no more memory than this: states go to a file, and what still does not fit is refused before "
        "the "
        "work starts.",
        NULL},
    {"restart", OPTION_FLAG, AT(restart), 0, 0, NULL, NULL, NULL,
        "Begin anew although OUTPUT.journal holds finished layers of an interrupted run.", NULL},
    COMMON_OPTIONS(struct prune_options),
};

const struct command prune_settings_command = {
    .name = "nibble-prune",
    .summary = "Take away what a language model needs least, so that it becomes smaller and faster.",
    .details =
        "Examples:\n"
        "  nibble-prune model/ half.nbl --calibration text.txt\n"
        "  nibble-prune model/ half-int4.nbl --calibration text.txt --bits 4\n"
        "  nibble-prune model/ two-of-four.nbl --calibration text.txt --pattern 2:4\n"
        "  nibble-prune model/ narrow/ --format safetensors --method flap --sparsity 20% --calibration "
        "text.txt\n"
        "  nibble-prune model/ shallow.gguf --method shortgpt --sparsity 20% --calibration text.txt\n"
        "  nibble-prune model/ small.nbl --trim-vocabulary text-like-mine.txt\n"
        "\n"
        "Judge the result with nibble-check compare. Prune first and quantize the pruned model with its own "
        "calibration, or give --bits to do both at once (docs/pipelines.md).\n",
    .operands = operands,
    .operand_count = sizeof operands / sizeof *operands,
    .options = options_table,
    .option_count = sizeof options_table / sizeof *options_table,
};

struct prune_options prune_settings_defaults(void)
{
    return (struct prune_options){
        .calibration = CALIBRATION_DEFAULTS, .polish = PRUNE_UNSET, .owl_spread = 0.08, .owl_threshold = 5};
}

void prune_settings_options_free(struct prune_options *options)
{
    options_list_free(&options->keep);
}

/* ---- values ---- */

/* "50%" or "0.5". */
static enum status parse_sparsity(double *out, const char *text, struct error *err)
{
    size_t length = strlen(text);
    bool percent = length > 0 && text[length - 1] == '%';
    if (number_read(out, text, length - percent)) {
        if (percent) *out /= 100;
        if (*out > 0 && *out < 1) return OK;
    }
    return fail(
        err, ERR_USAGE, "--sparsity %s: say how much goes, above 0 and below 100%%, as 50%% or 0.5", text);
}

/* "2:4" */
static enum status parse_pattern(struct prune_pattern *out, const char *text, struct error *err)
{
    char *end;
    if (strcmp(text, "unstructured") == 0) return OK;
    unsigned long keep = strtoul(text, &end, 10);
    unsigned long of = *text >= '0' && *text <= '9' && *end == ':' ? strtoul(end + 1, &end, 10) : 0;
    if (*end == '\0' && keep >= 1 && keep < of && of <= 32) {
        *out = (struct prune_pattern){(uint32_t)keep, (uint32_t)of};
        return OK;
    }
    return fail(
        err, ERR_USAGE, "--pattern %s: unstructured, or N:M with 1 <= N < M <= 32, such as 2:4", text);
}

static const struct prune_method *find_method(const char *name)
{
    for (unsigned i = 0; i < METHODS; i++) {
        if (strcmp(methods[i].name, name) == 0) return &methods[i];
    }
    return NULL;
}

/* Layers by number and vocabulary need no method. */
static const struct prune_method *choose_method(const struct prune_options *options)
{
    if (options->method) return find_method(options->method);
    if (options->drop_layers || (options->trim_vocabulary && !options->sparsity && !options->pattern))
        return NULL;
    return find_method(options->calibration.path ? "sparsegpt" : "magnitude");
}

static enum status compile_keeps(
    struct prune_settings *out, const struct prune_options *options, struct error *err)
{
    uint64_t count = options->keep.count;
    if (!count) return OK;
    out->keeps = memory_new(count, sizeof *out->keeps, err);
    if (!out->keeps) return ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++) {
        char text[128];
        int code = regcomp(&out->keeps[i], options->keep.values[i], REG_EXTENDED | REG_NOSUB);
        if (code) {
            regerror(code, &out->keeps[i], text, sizeof text);
            return fail(err, ERR_USAGE, "--keep %s: %s", options->keep.values[i], text);
        }
        out->keep_count++;
    }
    return OK;
}

/* ---- what goes together ---- */

static enum status check_method(
    const struct prune_settings *settings, const struct prune_options *options, struct error *err)
{
    const struct prune_method *method = settings->method;
    if (method && method->calibrated && !options->calibration.path)
        return fail(err, ERR_USAGE, "--method %s needs --calibration FILE, a text to observe activations on",
            method->name);
    if ((!method || !method->calibrated) && options->calibration.path)
        return fail(err, ERR_USAGE, "--calibration has no use %s%s; leave it out, or choose another method",
            method ? "for method " : "without a method", method ? method->name : "");
    if (options->drop_layers && method && method->kind == PRUNE_DEPTH)
        return fail(err, ERR_USAGE, "--drop-layers says which layers go; --method %s would choose them",
            method->name);
    if ((options->drop_layers || options->trim_vocabulary) && method && method->kind == PRUNE_WEIGHTS)
        return fail(err, ERR_USAGE,
            "%s and method %s are two runs: the former first, then prune the weights of what is left",
            options->drop_layers ? "--drop-layers" : "--trim-vocabulary", method->name);
    return OK;
}

/* Options that only one kind of method has. */
static enum status check_kinds(
    const struct prune_settings *settings, const struct prune_options *options, struct error *err)
{
    const struct prune_method *method = settings->method;
    const struct {
        const char *name;
        bool given;
        enum prune_kind kind;
    } particular[] = {
        {"--keep", options->keep.count > 0, PRUNE_WEIGHTS},
        {"--pattern", options->pattern != NULL, PRUNE_WEIGHTS},
        {"--ratios", options->ratios != NULL, PRUNE_WEIGHTS},
        {"--bits", options->bits != NULL, PRUNE_WEIGHTS},
        {"--storage", options->storage != NULL, PRUNE_WEIGHTS},
        {"--correction", options->correction != NULL, PRUNE_WEIGHTS},
        {"--damping", options->damping > 0, PRUNE_WEIGHTS},
        {"--polish", options->polish != PRUNE_UNSET, PRUNE_WEIGHTS},
        {"--parts", options->parts != NULL, PRUNE_WIDTH},
        {"--widths", options->widths != NULL, PRUNE_WIDTH},
        {"--no-bias", options->no_bias, PRUNE_WIDTH},
    };
    for (unsigned i = 0; i < sizeof particular / sizeof *particular; i++) {
        if (!particular[i].given || (method && method->kind == particular[i].kind)) continue;
        return fail(err, ERR_USAGE, "%s has no meaning for %s%s", particular[i].name,
            method ? "method " : "this run", method ? method->name : "");
    }
    if (settings->pattern.of && (options->sparsity || settings->owl))
        return fail(err, ERR_USAGE, "--pattern %s says how much goes: leave %s out", options->pattern,
            options->sparsity ? "--sparsity" : "--ratios");
    return OK;
}

enum status prune_settings_resolve(
    struct prune_settings *out, const struct prune_options *options, struct error *err)
{
    *out = (struct prune_settings){.method = choose_method(options), .group = (uint32_t)options->group};
    enum status status = parse_sparsity(&out->sparsity, options->sparsity ? options->sparsity : "50%", err);
    if (status == OK && options->pattern) status = parse_pattern(&out->pattern, options->pattern, err);
    if (status != OK) return status;
    if (out->pattern.of) out->sparsity = 1 - (double)out->pattern.keep / out->pattern.of;
    if (options->bits) out->bits = (uint32_t)(*options->bits - '0');
    out->owl = options->ratios && strcmp(options->ratios, "owl") == 0;
    if (options->group % 16)
        return fail(err, ERR_USAGE, "--group %" PRIu64 ": a multiple of 16 is needed", options->group);
    status = check_method(out, options, err);
    if (status == OK) status = check_kinds(out, options, err);
    return status == OK ? compile_keeps(out, options, err) : status;
}

void prune_settings_free(struct prune_settings *settings)
{
    for (uint64_t i = 0; i < settings->keep_count; i++)
        regfree(&settings->keeps[i]);
    memory_free(settings->keeps);
    *settings = (struct prune_settings){0};
}

bool prune_settings_keeps(const struct prune_settings *settings, const char *name)
{
    for (uint64_t i = 0; i < settings->keep_count; i++) {
        if (regexec(&settings->keeps[i], name, 0, NULL, 0) == 0) return true;
    }
    return false;
}
