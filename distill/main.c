/* nibble-distill: make and look at datasets of a teacher. The first word picks the command; everything else is in the command's file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/report.h"
#include "distill/commands/distill_commands.h"
#include "tensor/kernels/kernels.h"

static void print_overview(FILE *stream)
{
    fprintf(stream, "Usage: nibble-distill COMMAND [options] ...\n\nMake data for a smaller model to learn "
                    "from a larger one.\n\nCommands:\n");
    for (unsigned i = 0; distill_commands[i]; i++) {
        fprintf(stream, "  %-12s %s\n", distill_commands[i]->word, distill_commands[i]->table->summary);
    }
    fprintf(stream, "\n`nibble-distill COMMAND --help` tells more. --version prints the version.\n");
}

static int run_command(const struct distill_command *command, int argc, char **argv)
{
    struct error err = {0};
    enum options_outcome outcome = OPTIONS_RUN;
    enum status status = kernels_select(getenv("NIBBLE_KERNELS"), &err);
    if (!status) status = command->run(argc, argv, &outcome, &err);
    if (status) return report_failure("nibble-distill", &err);
    if (outcome == OPTIONS_HELP) options_help(command->table);
    if (outcome == OPTIONS_VERSION) printf("nibble-distill %s\n", NIBBLE_VERSION);
    return report_finish(&err) ? report_failure("nibble-distill", &err) : 0;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    file_catch_signals();
    const char *word = argc > 1 ? argv[1] : "";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_overview(stdout);
        return 0;
    }
    if (strcmp(word, "--version") == 0) {
        printf("nibble-distill %s\n", NIBBLE_VERSION);
        return 0;
    }
    for (unsigned i = 0; distill_commands[i]; i++) {
        if (strcmp(word, distill_commands[i]->word) == 0)
            return run_command(distill_commands[i], argc - 1, argv + 1);
    }
    if (!*word) {
        print_overview(stderr);
        return exit_code(ERR_USAGE);
    }
    fail(&err, ERR_USAGE, "unknown command \"%s\"; see nibble-distill --help", word);
    return report_failure("nibble-distill", &err);
}
