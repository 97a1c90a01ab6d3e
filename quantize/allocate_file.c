/* The allocation as a file that people read and edit; see allocate.h.
 *
 *   # What the file is and how to edit it.
 *   model.layers.0.mlp.down_proj.weight  3  #   12345 bytes  12.34 %
 *   lm_head.weight                       8  #  123456 bytes   0.50 % */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "quantize/allocate.h"
#include "quantize/mix.h"

static const uint64_t FILE_LIMIT = UINT64_C(64) << 20;

/* ---- writing ---- */

/* Text that grows; the first failure is remembered. */
struct text {
    char *bytes;
    uint64_t count, capacity;
    enum status status;
    struct error *err;
};

static void put(struct text *text, const char *format, ...) NIBBLE_PRINTF(2, 3);

static void put(struct text *text, const char *format, ...)
{
    va_list arguments, again;
    int count;

    if (text->status) return;
    va_start(arguments, format);
    va_copy(again, arguments);
    count = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    const uint64_t needed = text->count + (uint64_t)(count > 0 ? count : 0) + 1;
    text->status = memory_grow(&text->bytes, &text->capacity, needed, 1, text->err);
    if (!text->status) {
        vsnprintf(text->bytes + text->count, needed - text->count, format, again);
        text->count = needed - 1;
    }
    va_end(again);
}

/* A value of two decimals, the same in every locale. Returns out. */
static const char *two_decimals(char out[32], double value)
{
    const bool sane = value >= 0 && value < 1e15; /* false for NaN */
    const uint64_t hundredths = sane ? (uint64_t)(value * 100 + 0.5) : 0;

    snprintf(out, 32, "%" PRIu64 ".%02u", hundredths / 100, (unsigned)(hundredths % 100));
    return out;
}

/* Where a width stands in allocate_widths, or -1. */
static int width_index(uint32_t bits)
{
    for (int i = 0; i < ALLOCATE_WIDTHS; i++) {
        if (allocate_widths[i] == bits) return i;
    }
    return -1;
}

/* A name is one word of a line: nothing white, nothing that ends a line, no '#'. */
static bool is_word(const char *name, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t byte = (uint8_t)name[i];
        if (byte <= ' ' || byte == 0x7F || byte == '#') return false;
    }
    return count > 0;
}

static enum status check_line(const struct allocate_matrix *matrix, struct error *err)
{
    char shown[128];
    const char *name = error_quote(shown, sizeof shown, matrix->name, strlen(matrix->name));

    if (!is_word(matrix->name, strlen(matrix->name)))
        return fail(err, ERR_UNSUPPORTED,
            "matrix '%s': a name that is empty or has white space or '#' in it cannot stand in a file of "
            "bits",
            name);
    if (matrix->bits == 0 || width_index(matrix->bits) >= 0) return OK;
    return fail(err, ERR_USAGE, "matrix '%s': %" PRIu32 " bits are none of 2, 3, 4, 5, 6, 8 and keep (0)",
        name, matrix->bits);
}

static void put_head(struct text *text, const struct allocate_matrix *matrices, uint64_t count)
{
    uint64_t bytes = 0, weights = 0, chosen = 0;
    char per_weight[32];

    for (uint64_t i = 0; i < count; i++) {
        const int width = width_index(matrices[i].bits);
        if (width < 0) continue;
        bytes += matrices[i].bytes[width];
        weights += matrices[i].weights;
        chosen++;
    }
    two_decimals(per_weight, weights ? 8.0 * (double)bytes / (double)weights : 0);
    put(text,
        "# The bits of every matrix of a model, to read and to edit.\n"
        "# A line is a name and its bits: 2, 3, 4, 5, 6, 8, or keep for stored as it is in the source. For\n"
        "# blocks a type stands in place of bits: q4_0, q4_k ...\n"
        "# What follows '#' is a comment: the bytes at that width, and the importance, which is the share "
        "of\n"
        "# the error of all matrices together if each had 3 bits.\n");
    put(text, "# %" PRIu64 " matrices, %" PRIu64 " weights, %" PRIu64 " bytes: %s bits per weight.\n", chosen,
        weights, bytes, per_weight);
}

static void put_line(struct text *text, const struct allocate_matrix *matrix, int name_columns)
{
    const int width = width_index(matrix->bits);
    char share[32], bits[8];

    snprintf(bits, sizeof bits, "%" PRIu32, matrix->bits);
    two_decimals(share, 100 * matrix->importance);
    if (width < 0) {
        put(text, "%-*s  keep\n", name_columns, matrix->name);
    } else {
        put(text, "%-*s  %-4s  # %12" PRIu64 " bytes  %6s %%\n", name_columns, matrix->name,
            matrix->label ? matrix->label : bits, matrix->bytes[width], share);
    }
}

enum status allocate_write(
    const char *path, bool force, const struct allocate_matrix *matrices, uint64_t count, struct error *err)
{
    enum { WIDEST = 100 }; /* one long name does not push all the columns away */
    struct text text = {.err = err};
    int columns = 0;
    enum status status = OK;

    for (uint64_t i = 0; i < count && !status; i++) {
        const size_t bytes = strlen(matrices[i].name);
        if (bytes <= WIDEST && (int)bytes > columns) columns = (int)bytes;
        status = check_line(&matrices[i], err);
    }
    if (status) return status;
    put_head(&text, matrices, count);
    for (uint64_t i = 0; i < count; i++)
        put_line(&text, &matrices[i], columns);
    status = text.status ? text.status : output_whole(path, force, text.bytes, text.count, err);
    memory_free(text.bytes);
    return status;
}

/* ---- reading ---- */

/* A file on its way in. */
struct reading {
    struct allocation *out;
    uint64_t capacity, number; /* number: of the line */
    struct json_keys names;
};

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

/* The next word of a line; of no bytes at its end. */
static struct json_text next_word(const char **at, const char *end)
{
    struct json_text word;

    while (*at < end && is_blank(**at))
        ++*at;
    word.bytes = *at;
    while (*at < end && !is_blank(**at))
        ++*at;
    word.count = (uint64_t)(*at - word.bytes);
    return word;
}

/* Bits, keep, or a block type. */
static bool read_width(struct allocation_line *line, struct json_text word)
{
    char type[16];

    snprintf(type, sizeof type, "%.*s", (int)(word.count < sizeof type ? word.count : sizeof type - 1),
        word.bytes);
    line->block = word.count < sizeof type ? mix_block(type) : BLOCK_NONE;
    if (line->block || strcmp(type, "keep") == 0) return true;
    if (word.count != 1 || word.bytes[0] < '1' || word.bytes[0] > '9') return false;
    line->bits = (uint32_t)(word.bytes[0] - '0');
    return width_index(line->bits) >= 0;
}

static enum status add_line(
    struct reading *reading, struct json_text name, struct allocation_line line, struct error *err)
{
    struct allocation *out = reading->out;
    bool added;
    char shown[128];
    enum status status = json_keys_add(&reading->names, name.bytes, name.count, &added, err);

    if (status) return status;
    if (!added) {
        return fail(err, ERR_FORMAT, "line %" PRIu64 ": '%s' stands there a second time", reading->number,
            error_quote(shown, sizeof shown, name.bytes, name.count));
    }
    status = memory_grow(&out->lines, &reading->capacity, out->count + 1, sizeof *out->lines, err);
    if (status) return status;
    line.name = memory_text(name.bytes, name.count, err);
    if (!line.name) return ERR_MEMORY;
    out->lines[out->count++] = line;
    return OK;
}

static enum status read_line(struct reading *reading, const char *line, const char *end, struct error *err)
{
    const char *comment = memchr(line, '#', (size_t)(end - line)), *at = line;
    struct json_text name, width, rest;
    struct allocation_line found = {0};
    char shown[128];

    if (comment) end = comment;
    name = next_word(&at, end);
    if (name.count == 0) return OK;
    width = next_word(&at, end);
    rest = next_word(&at, end);
    error_quote(shown, sizeof shown, name.bytes, (size_t)(end - name.bytes));
    if (width.count == 0 || rest.count > 0 || !is_word(name.bytes, name.count))
        return fail(
            err, ERR_FORMAT, "line %" PRIu64 ": '%s' is not a name and its bits", reading->number, shown);
    if (!read_width(&found, width))
        return fail(err, ERR_FORMAT,
            "line %" PRIu64 ": '%s' does not end in bits (2, 3, 4, 5, 6, 8 or keep) or a block type",
            reading->number, shown);
    return add_line(reading, name, found, err);
}

static enum status read_lines(struct reading *reading, const char *text, uint64_t bytes, struct error *err)
{
    static const char mark[] = "\xEF\xBB\xBF"; /* some editors begin every file with it */
    const char *at = text, *end = text + bytes;
    enum status status = OK;

    if (bytes >= 3 && memcmp(text, mark, 3) == 0) at += 3;
    while (at < end && !status) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        reading->number++;
        status = read_line(reading, at, newline ? newline : end, err);
        at = newline ? newline + 1 : end;
    }
    return status;
}

enum status allocate_read(struct allocation *out, const char *path, struct error *err)
{
    struct reading reading = {.out = out};
    char *text = NULL;
    uint64_t bytes;
    enum status status;

    *out = (struct allocation){0};
    status = file_read_all(&text, &bytes, path, FILE_LIMIT, err);
    if (status) return status;
    status = read_lines(&reading, text, bytes, err);
    if (status) {
        fail_within(err, status, "%s", path);
        allocate_free(out);
    }
    json_keys_free(&reading.names);
    memory_free(text);
    return status;
}

void allocate_free(struct allocation *allocation)
{
    for (uint64_t i = 0; i < allocation->count; i++)
        memory_free(allocation->lines[i].name);
    memory_free(allocation->lines);
    *allocation = (struct allocation){0};
}
