/* --help: a command's table laid out for people, 100 columns wide. */
#include "base/options.h"

#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 100,
    HELP_COLUMN_LIMIT = 32, /* a left side that reaches beyond puts its help on the next line */
    ENTRY_BYTES = 512
};

static size_t code_points(const char *text, size_t bytes)
{
    size_t count = 0;

    for (size_t i = 0; i < bytes; i++)
        count += (text[i] & 0xC0) != 0x80;
    return count;
}

/* Print text from column `column` on, breaking at spaces; lines after the first begin at `indent`. */
static void print_wrapped(const char *text, size_t column, size_t indent)
{
    bool first = true;

    while (*(text += strspn(text, " "))) {
        size_t bytes = strcspn(text, " "), width = code_points(text, bytes);
        if (!first && column + 1 + width > WIDTH) {
            printf("\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        printf("%s%.*s", first ? "" : " ", (int)bytes, text);
        column += width + !first;
        first = false;
        text += bytes;
    }
    putchar('\n');
}

/* One entry: its left side at column 2, its help at help_column. */
static void print_entry(const char *left, const char *help, size_t help_column)
{
    size_t column = 2 + code_points(left, strlen(left));

    printf("  %s", left);
    if (column + 2 > help_column) {
        putchar('\n');
        column = 0;
    }
    printf("%*s", (int)(help_column - column), "");
    print_wrapped(help, help_column, help_column);
}

/* ---- entries ---- */

static void option_left(char left[ENTRY_BYTES], const struct option *option)
{
    const char *value = option->metavar ? option->metavar : option->choices ? option->choices : "VALUE";

    if (option->kind == OPTION_FLAG)
        snprintf(left, ENTRY_BYTES, "--%s", option->name);
    else
        snprintf(left, ENTRY_BYTES, "--%s %s", option->name, value);
}

/* "1 to 1024", "at least 1", or nothing where every value is allowed. */
static void option_range(char range[ENTRY_BYTES], const struct option *option)
{
    bool has_range = option->kind == OPTION_COUNT || option->kind == OPTION_NUMBER;
    bool bounded = option->maximum < 9e15;

    range[0] = 0;
    if (option->kind == OPTION_CHOICE && option->metavar)
        snprintf(range, ENTRY_BYTES, "%s", option->choices);
    else if (has_range && bounded)
        snprintf(range, ENTRY_BYTES, "%.15g to %.15g", option->minimum, option->maximum);
    else if (has_range && option->minimum > 0)
        snprintf(range, ENTRY_BYTES, "at least %.15g", option->minimum);
}

/* The help sentence, then in brackets what is allowed and what holds without the option. */
static void option_help(char help[2 * ENTRY_BYTES], const struct option *option)
{
    char range[ENTRY_BYTES], notes[2 * ENTRY_BYTES] = "";
    const char *repeat = option->kind == OPTION_LIST ? "may be repeated" : "";
    const char *texts[] = {range, repeat, option->shown_default ? option->shown_default : ""};
    const char *prefixes[] = {"", "", "default: "};
    size_t used = 0;

    option_range(range, option);
    for (size_t i = 0; i < 3; i++) {
        if (!texts[i][0] || used >= sizeof notes) continue;
        used += (size_t)snprintf(
            notes + used, sizeof notes - used, "%s%s%s", used ? "; " : " (", prefixes[i], texts[i]);
    }
    snprintf(help, 2 * ENTRY_BYTES, "%s%.*s%s", option->help, (int)ENTRY_BYTES, notes, used ? ")" : "");
}

static size_t help_column(const struct command *command)
{
    size_t widest = strlen("--version");
    char left[ENTRY_BYTES];

    for (size_t i = 0; i < command->operand_count; i++) {
        size_t width = strlen(command->operands[i].name);
        if (width > widest) widest = width;
    }
    for (size_t i = 0; i < command->option_count; i++) {
        option_left(left, &command->options[i]);
        size_t width = code_points(left, strlen(left));
        if (width > widest && width + 4 <= HELP_COLUMN_LIMIT) widest = width;
    }
    return widest + 4;
}

/* ---- the page ---- */

static void print_usage(const struct command *command)
{
    printf("usage: %s [options]", command->name);
    for (size_t i = 0; i < command->operand_count; i++)
        printf(" %s", command->operands[i].name);
    printf("\n\n");
    print_wrapped(command->summary, 0, 0);
}

static void print_options(const struct command *command, size_t column)
{
    char left[ENTRY_BYTES], help[2 * ENTRY_BYTES];

    for (size_t i = 0; i < command->option_count; i++) {
        const struct option *option = &command->options[i];
        if (option->section || i == 0) printf("\n%s:\n", option->section ? option->section : "Options");
        option_left(left, option);
        option_help(help, option);
        print_entry(left, help, column);
    }
    if (command->option_count == 0) printf("\nOptions:\n");
    print_entry("--help", "Print this text.", column);
    print_entry("--version", "Print the version.", column);
}

/* Lines of details are paragraphs to wrap; one that begins with a space (an example) is printed as it is. */
static void print_details(const char *details)
{
    putchar('\n');
    while (*details) {
        size_t count = strcspn(details, "\n");
        char line[4 * ENTRY_BYTES];
        if (details[0] == ' ' || count >= sizeof line) {
            printf("%.*s\n", (int)count, details);
        } else {
            memcpy(line, details, count);
            line[count] = 0;
            print_wrapped(line, 0, 0);
        }
        details += count;
        if (*details) details++;
    }
}

void options_help(const struct command *command)
{
    size_t column = help_column(command);

    print_usage(command);
    if (command->operand_count > 0) printf("\nArguments:\n");
    for (size_t i = 0; i < command->operand_count; i++)
        print_entry(command->operands[i].name, command->operands[i].help, column);
    print_options(command, column);
    if (command->details) print_details(command->details);
}
