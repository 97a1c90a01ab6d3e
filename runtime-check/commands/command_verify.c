/* nibble-check verify: its options, and what it prints. The work is in verify.c. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "model/checkpoint.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/inspect/verify.h"

struct verify_values {
    struct common_options common;
    const char *file, *source;
};

static const struct operand operands[] = {
    {"FILE", offsetof(struct verify_values, file),
        "A .nbl file, a .safetensors file or a Hugging Face folder."},
};

static const struct option option_table[] = {
    {"source", OPTION_TEXT, offsetof(struct verify_values, source), 0, 0, NULL, "MODEL", NULL,
        "Also compare every tensor with the one of the same name in MODEL, and list what it lost.",
        "Options"},
    COMMON_OPTIONS(struct verify_values),
};

static const struct command usage = {
    .name = "nibble-check verify",
    .summary =
        "Read every byte of a model file and check it: structure, checksums, finite weights, architecture.",
    .details =
        "Exit code 0: everything holds. 7: something does not; every fault is named. 3: the file's header or "
        "table cannot be trusted at all.\n\n"
        "Example:\n"
        "  nibble-check verify small.nbl --source models/folio-4M\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* Faults as they are found: printed for people, collected for --json. */
struct fault_list {
    bool json;
    struct json_writer writer;
};

static void add_fault(void *context, const char *text)
{
    struct fault_list *list = context;
    if (list->json)
        json_write_text(&list->writer, text);
    else
        printf("fault: %s\n", text);
}

static void put_differences(
    struct json_writer *writer, const struct verify_difference *differences, uint64_t count)
{
    json_write_key(writer, "differences");
    json_open_array(writer);
    for (uint64_t i = 0; i < count; i++) {
        json_open_object(writer);
        json_put_text(writer, "name", differences[i].tensor->name);
        json_put_bool(writer, "missing", differences[i].missing);
        json_put_number(writer, "relative_rms", differences[i].relative_rms);
        json_put_number(writer, "largest", differences[i].largest);
        json_close_object(writer);
    }
    json_close_array(writer);
}

static void print_differences(const struct verify_difference *differences, uint64_t count)
{
    struct table table = {0};
    char scheme[48];
    table_head(&table, 5,
        (const char *const[]){
            "tensor", "stored as", ">relative error", ">signal to noise", ">largest change"});
    for (uint64_t i = 0; i < count; i++) {
        const struct verify_difference *d = &differences[i];
        table_cell(&table, "%s", d->tensor->name);
        table_cell(&table, "%s", inspect_scheme(scheme, d->tensor));
        if (d->missing) {
            table_cell(&table, "not in source");
            table_cell(&table, "-");
            table_cell(&table, "-");
            continue;
        }
        table_cell(&table, "%.6f", d->relative_rms);
        if (d->relative_rms > 0)
            table_cell(&table, "%.1f dB", -20 * log10(d->relative_rms));
        else
            table_cell(&table, "exact");
        table_cell(&table, "%.3g", d->largest);
    }
    table_print(&table);
    table_free(&table);
}

/* Compare with --source and report, into the open JSON object or as a table. */
static enum status report_differences(const struct verify_values *values, struct commands_setting *setting,
    struct json_writer *writer, struct error *err)
{
    struct container *container = NULL, *original = NULL;
    struct verify_difference *differences = NULL;
    enum status status = container_open(&container, values->file, err);
    if (!status) status = container_open(&original, values->source, err);
    if (!status) status = checkpoint_split(container, err);
    if (!status) status = checkpoint_split(original, err);
    if (!status)
        status = verify_against(&differences, container, original, setting->pool, &setting->report, err);
    if (!status && values->common.json)
        put_differences(writer, differences, container_count(container));
    else if (!status)
        print_differences(differences, container_count(container));
    memory_free(differences);
    container_close(original);
    container_close(container);
    return status;
}

static enum status run_verify(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct verify_values values = {0};
    struct commands_setting setting = {0};
    struct verify_result result = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = commands_open(&setting, &values.common, err))) return status;
    struct fault_list faults = {.json = values.common.json, .writer = {.indent = 2}};
    commands_open_json(&faults.writer, "verify");
    json_put_text(&faults.writer, "file", values.file);
    json_write_key(&faults.writer, "faults");
    json_open_array(&faults.writer);
    status = verify_container(&result, values.file, setting.pool, &setting.report, add_fault, &faults, err);
    json_close_array(&faults.writer);
    if (status && status != ERR_CHECK) goto done;
    json_put_bool(&faults.writer, "ok", status == OK);
    json_put_u64(&faults.writer, "tensors", result.tensors);
    json_put_u64(&faults.writer, "bytes", result.bytes);
    if (!status && values.source) status = report_differences(&values, &setting, &faults.writer, err);
    json_close_object(&faults.writer);
    if (values.common.json) {
        struct error print_error;
        enum status printed = commands_print_json(&faults.writer, &print_error);
        if (!status && printed) status = fail(err, printed, "%s", print_error.text);
    } else if (!status) {
        char bytes[16];
        printf("%s: everything holds: %" PRIu64 " tensors, %s\n", values.file, result.tensors,
            report_bytes(bytes, result.bytes));
    }
    if (status == ERR_CHECK) {
        fail(err, ERR_CHECK, "%s: %" PRIu64 " fault%s", values.file, result.faults,
            result.faults == 1 ? "" : "s");
    }
done:
    json_writer_free(&faults.writer);
    pool_free(setting.pool);
    return status;
}

const struct check_command command_verify = {"verify", &usage, run_verify};
