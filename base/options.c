/* Parsing a command line by its table. What --help prints from the same table is in options_help.c. */
#include "base/options.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/number.h"

enum { NAME_LIMIT = 40 }; /* longer names than this are never looked up for a suggestion */

/* ---- values ---- */

enum status options_count(uint64_t *out, const char *text, struct error *err)
{
    static const struct {
        const char *text;
        uint64_t factor;
    } suffixes[] = {{"", 1}, {"K", 1000}, {"M", 1000000}, {"G", 1000000000}, {"Ki", UINT64_C(1) << 10},
        {"Mi", UINT64_C(1) << 20}, {"Gi", UINT64_C(1) << 30}};
    const char *at = text;
    uint64_t sum = 0;
    bool too_large = false;

    for (; *at >= '0' && *at <= '9'; at++)
        too_large =
            too_large || checked_multiply(&sum, sum, 10) || checked_add(&sum, sum, (uint64_t)(*at - '0'));
    for (size_t i = 0; at > text && i < sizeof suffixes / sizeof *suffixes; i++) {
        if (strcmp(at, suffixes[i].text) != 0) continue;
        if (too_large || checked_multiply(&sum, sum, suffixes[i].factor))
            return fail(err, ERR_USAGE, "'%s': is more than 2^64 - 1", text);
        *out = sum;
        return OK;
    }
    return fail(err, ERR_USAGE, "'%s': is no count (digits, then K, M, G, Ki, Mi or Gi if wanted)", text);
}

/* A bound of the table as an integer; bounds are doubles there. */
static uint64_t bound(double value)
{
    if (value <= 0) return 0;
    return value >= 0x1p64 ? UINT64_MAX : (uint64_t)value;
}

static enum status set_count(const struct option *option, void *target, const char *text, struct error *err)
{
    uint64_t value, minimum = bound(option->minimum), maximum = bound(option->maximum);
    enum status status = options_count(&value, text, err);

    if (status) return fail_within(err, status, "--%s", option->name);
    if (value < minimum || value > maximum)
        return fail(err, ERR_USAGE, "--%s: '%s' is not between %" PRIu64 " and %" PRIu64, option->name, text,
            minimum, maximum);
    memcpy(target, &value, sizeof value);
    return OK;
}

static enum status set_number(const struct option *option, void *target, const char *text, struct error *err)
{
    double value;

    if (!number_read(&value, text, strlen(text)) || !isfinite(value))
        return fail(err, ERR_USAGE, "--%s: '%s' is no number", option->name, text);
    if (value < option->minimum || value > option->maximum)
        return fail(err, ERR_USAGE, "--%s: '%s' is not between %g and %g", option->name, text,
            option->minimum, option->maximum);
    memcpy(target, &value, sizeof value);
    return OK;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t count = strlen(text);

    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        if (strcspn(at, "|") == count && memcmp(at, text, count) == 0) return true;
    }
    return false;
}

static enum status append_value(struct option_list *list, const char *text, struct error *err)
{
    enum status status =
        memory_grow(&list->values, &list->capacity, list->count + 1, sizeof *list->values, err);

    if (!status) list->values[list->count++] = text;
    return status;
}

static enum status set_option(const struct option *option, void *values, const char *text, struct error *err)
{
    char *target = (char *)values + option->offset;

    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)target = true;
        return OK;
    case OPTION_COUNT:
        return set_count(option, target, text, err);
    case OPTION_NUMBER:
        return set_number(option, target, text, err);
    case OPTION_LIST:
        return append_value((struct option_list *)(void *)target, text, err);
    case OPTION_CHOICE:
        if (!is_choice(option->choices, text))
            return fail(err, ERR_USAGE, "--%s: '%s' is not one of %s", option->name, text, option->choices);
        break;
    case OPTION_TEXT:
        break;
    }
    memcpy(target, &text, sizeof text);
    return OK;
}

void options_list_free(struct option_list *list)
{
    memory_free(list->values);
    memset(list, 0, sizeof *list);
}

/* ---- names ---- */

static const struct option *find_option(const struct command *command, const char *name, size_t count)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const struct option *option = &command->options[i];
        if (strlen(option->name) == count && memcmp(option->name, name, count) == 0) return option;
    }
    return NULL;
}

/* Edits (insert, delete, replace, swap neighbours) that turn a into b: Damerau's distance, one row at a time.
 * Both have at most NAME_LIMIT characters. */
static unsigned edit_distance(const char *a, size_t a_count, const char *b, size_t b_count)
{
    unsigned rows[3][NAME_LIMIT + 1], *before = rows[0], *above = rows[1], *row = rows[2];

    for (unsigned j = 0; j <= b_count; j++)
        above[j] = j;
    for (unsigned i = 1; i <= a_count; i++) {
        row[0] = i;
        for (unsigned j = 1; j <= b_count; j++) {
            unsigned best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
        unsigned *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[b_count];
}

static void consider(
    const char **nearest, unsigned *distance, const char *candidate, const char *name, size_t count)
{
    size_t candidate_count = strlen(candidate);
    unsigned edits;

    if (candidate_count > NAME_LIMIT || count > NAME_LIMIT) return;
    edits = edit_distance(name, count, candidate, candidate_count);
    if (edits < *distance) {
        *distance = edits;
        *nearest = candidate;
    }
}

static enum status unknown_option(const struct command *command, const char *argument, struct error *err)
{
    const char *name = argument + strspn(argument, "-");
    size_t count = strcspn(name, "=");
    unsigned distance = count < 5 ? 3 : 4; /* suggest only what is nearer than this */
    const char *nearest = NULL;
    int shown = (int)(count > 0 ? strcspn(argument, "=") : strlen(argument));

    for (size_t i = 0; i < command->option_count; i++)
        consider(&nearest, &distance, command->options[i].name, name, count);
    consider(&nearest, &distance, "help", name, count);
    consider(&nearest, &distance, "version", name, count);
    if (nearest && distance < count)
        return fail(
            err, ERR_USAGE, "%.*s: unknown option; the nearest one is --%s", shown, argument, nearest);
    return fail(err, ERR_USAGE, "%.*s: unknown option; --help lists them all", shown, argument);
}

/* ---- the command line ---- */

/* Find --help or --version anywhere before "--". */
static enum options_outcome look_ahead(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return OPTIONS_HELP;
        if (strcmp(argv[i], "--version") == 0) return OPTIONS_VERSION;
    }
    return OPTIONS_RUN;
}

/* Parse the option at argv[*at], and step over its value if that is an argument of its own. */
static enum status parse_option(
    const struct command *command, int argc, char **argv, int *at, void *values, struct error *err)
{
    const char *argument = argv[*at], *value = strchr(argument, '=');
    size_t name_count = value ? (size_t)(value - argument) : strlen(argument);
    const struct option *option = NULL;

    if (argument[1] == '-') option = find_option(command, argument + 2, name_count - 2);
    if (!option) return unknown_option(command, argument, err);
    if (option->kind == OPTION_FLAG) {
        if (value)
            return fail(err, ERR_USAGE, "--%s: takes no value, but '%s' is given", option->name, value + 1);
        return set_option(option, values, NULL, err);
    }
    if (!value && *at + 1 == argc)
        return fail(err, ERR_USAGE, "--%s: its value is missing (%s)", option->name,
            option->kind == OPTION_CHOICE ? option->choices
            : option->metavar             ? option->metavar
                                          : "VALUE");
    return set_option(option, values, value ? value + 1 : argv[++*at], err);
}

static bool is_repeated(const struct operand *operand)
{
    const size_t count = strlen(operand->name);
    return count > 3 && strcmp(operand->name + count - 3, "...") == 0;
}

/* `index` counts the operands given so far; those beyond the last go into it if it is repeated. */
static enum status set_operand(
    const struct command *command, size_t index, const char *text, void *values, struct error *err)
{
    const size_t count = command->operand_count;
    const size_t which = index < count ? index : count - 1;
    const bool repeated = count > 0 && is_repeated(&command->operands[which]);

    if (index >= count && !repeated)
        return fail(err, ERR_USAGE, "'%s': one argument too many; %zu expected", text, count);
    char *target = (char *)values + command->operands[which].offset;
    if (repeated) return append_value((struct option_list *)(void *)target, text, err);
    memcpy(target, &text, sizeof text);
    return OK;
}

enum status options_parse(const struct command *command, int argc, char **argv, void *values,
    enum options_outcome *outcome, struct error *err)
{
    size_t operands = 0;
    bool options_ended = false;
    enum status status = OK;

    *outcome = look_ahead(argc, argv);
    if (*outcome != OPTIONS_RUN) return OK;
    for (int i = 1; i < argc && !status; i++) {
        bool is_option = !options_ended && argv[i][0] == '-' && argv[i][1] != 0;
        if (is_option && strcmp(argv[i], "--") == 0)
            options_ended = true;
        else if (is_option)
            status = parse_option(command, argc, argv, &i, values, err);
        else
            status = set_operand(command, operands++, argv[i], values, err);
    }
    if (status || operands >= command->operand_count) return status;
    const struct operand *missing = &command->operands[operands];
    return fail(err, ERR_USAGE, "%.*s is missing (%s); --help explains", (int)strcspn(missing->name, "."),
        missing->name, missing->help);
}
