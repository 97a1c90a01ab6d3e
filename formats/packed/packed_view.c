/* Finding the packed matrices of a container, and deciding how each is seen. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/container_json.h"
#include "formats/measure.h"
#include "formats/packed/packed_config.h"
#include "formats/packed/packed_read.h"

#define SCAN_GROUPS (UINT64_C(1) << 20) /* scales looked at at a time, unless eight rows have more */

enum { PART_NAME_BYTES = CONTAINER_NAME_LIMIT + 32 };

/* One look over a container. */
struct view {
    struct container *container;
    struct packed_config config;
    const struct packed_layout *layout;
    bool *used; /* [entry_count] parts of a matrix, which are no longer seen */
    uint64_t found;
};

/* ---- parts ---- */

/* The bytes of `name` before ".<suffix>"; 0 if that is not its end. */
static uint64_t stem_bytes(const char *name, const char *suffix)
{
    const uint64_t bytes = strlen(name), end = strlen(suffix) + 1;

    if (bytes <= end || name[bytes - end] != '.' || strcmp(name + bytes - end + 1, suffix) != 0) return 0;
    return bytes - end;
}

/* The entry <stem>.<suffix>; NULL if there is none, or suffix is NULL. */
static struct reader_entry *find_part(
    const struct container *container, const char *name, uint64_t stem, const char *suffix)
{
    char part[PART_NAME_BYTES];
    uint64_t number;

    if (!suffix) return NULL;
    snprintf(part, sizeof part, "%.*s.%s", (int)stem, name, suffix);
    return names_find(&container->index, part, &number) ? &container->entries[number] : NULL;
}

/* Does anything look packed? Then the configuration is worth a look. */
static bool looks_packed(const struct container *container)
{
    for (uint64_t i = 0; i < container->entry_count; i++) {
        for (int kind = 0; kind < PACKED_KINDS; kind++) {
            if (stem_bytes(container->entries[i].tensor.name, packed_layout((enum packed_kind)kind)->scales))
                return true;
        }
    }
    return false;
}

static enum status check_part(
    const struct reader_entry *part, uint32_t rank, enum dtype dtype, bool any_float, struct error *err)
{
    const struct tensor *tensor = &part->tensor;
    const bool right = any_float ? dtype_info(tensor->dtype)->is_float : tensor->dtype == dtype;

    if (right && tensor->rank == rank) return OK;
    return fail(err, ERR_FORMAT, "tensor %s: is %s of rank %" PRIu32 ", must be %s of rank %" PRIu32,
        tensor->name, dtype_info(tensor->dtype)->name, tensor->rank,
        any_float ? "of a floating type" : dtype_info(dtype)->name, rank);
}

static bool has_shape(const struct tensor *tensor, uint64_t first, uint64_t second)
{
    return tensor->shape[0] == first && tensor->shape[1] == second;
}

/* Has an array of lines of codes this shape? */
static bool plane_fits(
    const struct tensor *tensor, struct packed_plane plane, uint64_t rows, uint64_t width, uint32_t bits)
{
    const uint64_t words = packed_words(plane.along_rows ? rows : width, bits);
    const uint64_t lines = plane.along_rows ? width : rows;

    return plane.words_first ? has_shape(tensor, words, lines) : has_shape(tensor, lines, words);
}

/* ---- shapes ---- */

/* The columns that the codes' array has with so many bits; 0: none. */
static uint64_t columns_of(const struct packed *packed, uint32_t bits)
{
    const struct packed_plane plane = packed->layout->code_plane;
    const uint64_t *shape = packed->codes.tensor.shape;
    const uint64_t words = shape[plane.words_first ? 0 : 1];

    if (plane.along_rows) return shape[plane.words_first ? 1 : 0];
    return words > UINT64_MAX / 32 || words * 32 % bits ? 0 : words * 32 / bits;
}

/* Take bits and group from a scheme if all shapes agree with it. `cols`: what the checkpoint states, or 0. */
static bool take_scheme(struct packed *packed, const struct packed_scheme *scheme, uint64_t cols,
    const struct reader_entry *order)
{
    const struct packed_layout *layout = packed->layout;
    const struct tensor *zeros = packed->zeros.tensor.name ? &packed->zeros.tensor : NULL;
    const bool chosen = layout->always_zeros || scheme->asymmetric == (zeros != NULL);
    uint64_t group;

    if (!cols) cols = columns_of(packed, scheme->bits);
    if (!cols || cols > INT64_MAX / 8 || !chosen) return false;
    group = scheme->group && scheme->group < cols ? scheme->group : cols;
    if (!plane_fits(&packed->codes.tensor, layout->code_plane, packed->rows, cols, scheme->bits))
        return false;
    if (packed->groups != cols / group + (cols % group != 0)) return false;
    if (zeros && !layout->biases &&
        !plane_fits(zeros, layout->zero_plane, packed->rows, packed->groups, scheme->bits))
        return false;
    if (order && order->tensor.shape[0] != cols) return false;
    packed->bits = scheme->bits;
    packed->cols = cols;
    packed->group = group;
    return true;
}

/* The one scheme of the configuration that fits the shapes. */
static enum status find_scheme(const struct view *view, struct packed *packed, uint64_t cols,
    const struct reader_entry *order, struct error *err)
{
    struct packed found = {0};

    for (uint32_t i = 0; i < view->config.scheme_count; i++) {
        if (!take_scheme(packed, &view->config.schemes[i], cols, order)) continue;
        if (found.bits && (found.bits != packed->bits || found.group != packed->group))
            return fail(err, ERR_FORMAT,
                "its shape fits both %" PRIu32 " bits in groups of %" PRIu64 " and %" PRIu32
                " in groups of %" PRIu64,
                found.bits, found.group, packed->bits, packed->group);
        found = *packed;
    }
    if (!found.bits)
        return fail(err, ERR_FORMAT,
            "shapes of its codes, scales and zero-points do not agree with one another and with the "
            "configuration's bits and group size");
    *packed = found;
    return OK;
}

/* compressed-tensors states the shape, because the words of a row may have bits to spare. */
static enum status read_shape(struct container *container, struct packed *packed,
    const struct reader_entry *shape, uint64_t *cols, struct error *err)
{
    int64_t stated[2];
    enum status status = check_part(shape, 1, DTYPE_I64, false, err);

    if (!status && shape->tensor.shape[0] != 2)
        status = fail(err, ERR_FORMAT, "tensor %s: must hold two numbers", shape->tensor.name);
    if (!status) status = container_read(container, &shape->tensor, 0, stated, sizeof stated, err);
    if (status) return status;
    if (stated[0] != (int64_t)packed->rows || stated[1] <= 0)
        return fail(err, ERR_FORMAT,
            "tensor %s: says [%" PRId64 ", %" PRId64 "], the scales are those of %" PRIu64 " rows",
            shape->tensor.name, stated[0], stated[1], packed->rows);
    *cols = (uint64_t)stated[1];
    return OK;
}

/* ---- the order of groups ---- */

static enum status read_order(
    struct container *container, struct packed *packed, const struct reader_entry *order, struct error *err)
{
    bool in_order = true;
    enum status status = ERR_MEMORY;

    packed->order = memory_new(packed->cols, sizeof *packed->order, err);
    if (packed->order)
        status = container_read(
            container, &order->tensor, 0, packed->order, packed->cols * sizeof *packed->order, err);
    for (uint64_t i = 0; i < packed->cols && !status; i++) {
        in_order &= packed->order[i] == i / packed->group;
        if (packed->order[i] >= packed->groups)
            status = fail(err, ERR_FORMAT,
                "tensor %s: column %" PRIu64 " is in group %" PRId32 ", there are %" PRIu64,
                order->tensor.name, i, (int32_t)packed->order[i], packed->groups);
    }
    if (status || !in_order) {
        packed->decoded = "act-order";
        return status;
    }
    memory_free(packed->order);
    packed->order = NULL;
    return OK;
}

/* ---- one matrix ---- */

static enum status take_parts(struct view *view, struct packed *packed, const struct reader_entry *codes,
    uint64_t stem, struct error *err)
{
    const struct packed_layout *layout = view->layout;
    const char *name = codes->tensor.name;
    struct reader_entry *scales = find_part(view->container, name, stem, layout->scales);
    struct reader_entry *zeros = find_part(view->container, name, stem, layout->zeros);
    struct reader_entry *order = find_part(view->container, name, stem, layout->order);
    struct reader_entry *shape = find_part(view->container, name, stem, layout->shape);
    struct reader_entry *const parts[] = {scales, zeros, order, shape};
    uint64_t cols = 0;
    enum status status = OK;

    if (!scales || (layout->always_zeros && !zeros) || (layout->shape && !shape))
        return fail(err, ERR_FORMAT, "%.*s.%s is missing", (int)stem, name,
            !scales                          ? layout->scales
            : layout->always_zeros && !zeros ? layout->zeros
                                             : layout->shape);
    if (!status) status = check_part(codes, 2, DTYPE_I32, false, err);
    if (!status) status = check_part(scales, 2, DTYPE_F16, true, err);
    if (!status && zeros) status = check_part(zeros, 2, DTYPE_I32, layout->biases, err);
    if (!status && order) status = check_part(order, 1, DTYPE_I32, false, err);
    if (status) return status;
    packed->codes = *codes;
    packed->scales = *scales;
    if (zeros) packed->zeros = *zeros;
    packed->rows = scales->tensor.shape[layout->scales_first ? 1 : 0];
    packed->groups = scales->tensor.shape[layout->scales_first ? 0 : 1];
    if (packed->rows == 0 || packed->groups == 0) return fail(err, ERR_FORMAT, "is empty");
    if (layout->biases && !has_shape(&zeros->tensor, scales->tensor.shape[0], scales->tensor.shape[1]))
        return fail(
            err, ERR_FORMAT, "tensor %s: has not the shape of %s", zeros->tensor.name, scales->tensor.name);
    if (shape) status = read_shape(view->container, packed, shape, &cols, err);
    if (!status) status = find_scheme(view, packed, cols, order, err);
    if (!status && order) status = read_order(view->container, packed, order, err);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i]) view->used[parts[i] - view->container->entries] = true;
    }
    return status;
}

/* ---- looking at scales and zero-points ---- */

/* What is found of a matrix. */
struct sight {
    uint8_t least, most; /* of the zero-points */
    bool half;           /* all scales fit half precision */
    bool whole;          /* all biases are whole zero-points */
    uint64_t fault;      /* 1 + the number of a scale or bias that is not finite; 0: none */
};

static void look_at(struct sight *sight, const struct packed *packed, const float *scales,
    const float *biases, const uint8_t *zeros, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const bool finite = isfinite(scales[i]) && (!packed->layout->biases || isfinite(biases[i]));
        int zero = packed->layout->biases ? packed_bias_zero(scales[i], biases[i], packed->bits) : zeros[i];
        if (!finite && !sight->fault) sight->fault = i + 1;
        sight->half &= dtype_f16_to_f32(dtype_f32_to_f16(scales[i])) == scales[i];
        sight->whole &= zero >= 0;
        if (zero < 0) zero = 0;
        if (zero < sight->least) sight->least = (uint8_t)zero;
        if (zero > sight->most) sight->most = (uint8_t)zero;
    }
}

static enum status look(
    struct sight *sight, struct container *container, const struct packed *packed, struct error *err)
{
    const uint64_t step = SCAN_GROUPS / packed->groups / TILE_ROWS * TILE_ROWS;
    const uint64_t most = step ? step : TILE_ROWS, rows = packed->rows < most ? packed->rows : most;
    float *scales = memory_new(rows * packed->groups, sizeof *scales, err);
    float *biases = memory_new(rows * packed->groups, sizeof *biases, err);
    uint8_t *zeros = memory_new(rows * packed->groups, 1, err);
    enum status status = scales && biases && zeros ? OK : ERR_MEMORY;

    *sight = (struct sight){.least = UINT8_MAX, .half = true, .whole = true};
    for (uint64_t row = 0; row < packed->rows && !status; row += rows) {
        const uint64_t count = packed->rows - row < rows ? packed->rows - row : rows;
        status = packed_scales(container, packed, scales, row, count, err);
        if (!status && packed->layout->biases)
            status = packed_biases(container, packed, biases, row, count, err);
        else if (!status)
            status = packed_zeros(container, packed, zeros, row, count, err);
        if (status) break;
        look_at(sight, packed, scales, biases, zeros, count * packed->groups);
        if (sight->fault)
            status = fail(err, ERR_FORMAT,
                "its scale (or bias) of row %" PRIu64 ", group %" PRIu64 " is not finite",
                row + (sight->fault - 1) / packed->groups, (sight->fault - 1) % packed->groups);
    }
    memory_free(zeros);
    memory_free(biases);
    memory_free(scales);
    return status;
}

/* Tiles if they say the same, else values. */
static enum status decide(struct container *container, struct reader_entry *entry, struct error *err)
{
    struct packed *packed = entry->packed;
    struct scheme scheme = {packed->bits, (uint32_t)packed->group, false};
    struct sight sight;
    enum status status = look(&sight, container, packed, err);
    const uint32_t middle = 1u << (packed->bits - 1), last = (1u << packed->bits) - 1;

    if (status) return status;
    if (packed->zero_more && (sight.most > last || sight.least < packed->zero_more))
        return fail(err, ERR_FORMAT,
            "%s holds the zero-point %" PRIu32 ", which readers of v1 understand in different ways (%" PRIu32
            ", 0, or a borrow from its neighbour); write it as gptq_v2 with the tool that made it",
            packed->zeros.tensor.name, last, last + 1);
    scheme.asymmetric = sight.least != middle || sight.most != middle;
    if (!sight.whole) packed->decoded = "biases that are no whole zero-points";
    if (!sight.half) packed->decoded = "scales that half precision does not hold";
    if (packed->group > UINT32_MAX || tiles_layout(&packed->tiles, packed->rows, packed->cols, scheme, NULL))
        packed->decoded = "groups that are no multiple of 16 or do not divide the row";
    if (packed->order) packed->decoded = "act-order";
    entry->tensor.storage = packed->decoded ? STORAGE_DENSE : STORAGE_TILES;
    entry->tensor.dtype = packed->decoded ? DTYPE_F32 : DTYPE_F16;
    entry->tensor.scheme = packed->decoded ? (struct scheme){0} : scheme;
    entry->tensor.rank = 2;
    entry->tensor.shape[0] = packed->seen = packed->rows;
    entry->tensor.shape[1] = packed->cols;
    return measure_tensor(&entry->tensor, err);
}

/* ---- which GPTQ ---- */

/* Are all stored zero-points of all matrices the middle less `less`, as symmetric quantization has them? */
static enum status all_symmetric(bool out[2], const struct view *view, struct error *err)
{
    out[0] = out[1] = true;
    for (uint64_t i = 0; i < view->container->entry_count; i++) {
        const struct packed *packed = view->container->entries[i].packed;
        struct sight sight;
        enum status status;
        if (!packed) continue;
        status = look(&sight, view->container, packed, err);
        if (status) return fail_within(err, status, "tensor %s", packed->codes.tensor.name);
        for (uint32_t less = 0; less < 2; less++) {
            const uint32_t middle = (1u << (packed->bits - 1)) - less;
            out[less] &= sight.least == middle && sight.most == middle;
        }
    }
    return OK;
}

#define SAY_WHICH "nibble-convert --gptq-zeros v1 (stored less 1) or v2 (as they are) decides"

/* v1 or v2: what the user says, else the configuration, else the pattern of symmetric zero-points. */
static enum status settle_zeros(struct view *view, const char *gptq_zeros, struct error *err)
{
    const bool said_v2 = view->config.kind == PACKED_GPTQ_V2;
    bool symmetric[2];
    enum status status = gptq_zeros ? OK : all_symmetric(symmetric, view, err);

    if (status) return status;
    if (gptq_zeros) {
        view->layout = packed_layout(strcmp(gptq_zeros, "v2") == 0 ? PACKED_GPTQ_V2 : PACKED_GPTQ);
    } else if (view->config.zeros_known) {
        if (view->config.symmetric && symmetric[said_v2])
            return fail(err, ERR_FORMAT,
                "its configuration says symmetric and %s, its zero-points are those of the other "
                "version; " SAY_WHICH,
                said_v2 ? "gptq_v2" : "gptq");
    } else if (symmetric[0] || symmetric[1]) {
        view->layout = packed_layout(symmetric[0] ? PACKED_GPTQ_V2 : PACKED_GPTQ);
    } else {
        return fail(err, ERR_FORMAT,
            "its configuration has no checkpoint_format, and its zero-points are not all those of symmetric "
            "quantization, so they may be stored less 1 or as they are; " SAY_WHICH);
    }
    for (uint64_t i = 0; i < view->container->entry_count; i++) {
        struct packed *packed = view->container->entries[i].packed;
        if (!packed) continue;
        packed->layout = view->layout;
        packed->zero_more = view->layout->zero_less;
    }
    return OK;
}

/* ---- the whole container ---- */

static enum status see_matrix(struct view *view, uint64_t index, uint64_t stem, struct error *err)
{
    struct container *container = view->container;
    struct reader_entry *entry = &container->entries[index];
    struct packed *packed = memory_new(1, sizeof *packed, err);
    char name[PART_NAME_BYTES];
    enum status status;

    if (!packed) return ERR_MEMORY;
    packed->layout = view->layout;
    status = take_parts(view, packed, entry, stem, err);
    if (!status) {
        snprintf(name, sizeof name, "%.*s.weight", (int)stem, entry->tensor.name);
        status = container_rename(container, index, name, err);
    }
    if (status) {
        packed_free(packed);
        return fail_within(err, status, "tensor %s", entry->tensor.name);
    }
    entry->packed = packed;
    entry->compute = packed_read;
    entry->foreign = NULL;
    view->found++;
    return OK;
}

static enum status see_matrices(struct view *view, struct error *err)
{
    struct container *container = view->container;
    enum status status = OK;

    view->used = memory_new(container->entry_count, sizeof *view->used, err);
    if (!view->used) return ERR_MEMORY;
    for (uint64_t i = 0; i < container->entry_count && !status; i++) {
        const char *name = container->entries[i].tensor.name;
        const uint64_t stem = stem_bytes(name, view->layout->codes);
        const bool plain = view->layout->biases && !find_part(container, name, stem, view->layout->scales);
        if (stem && !plain) status = see_matrix(view, i, stem, err);
    }
    return status;
}

/* Parts leave the list. */
static enum status close_ranks(struct view *view, struct error *err)
{
    struct container *container = view->container;
    uint64_t kept = 0;

    for (uint64_t i = 0; i < container->entry_count; i++) {
        if (!view->used[i]) container->entries[kept++] = container->entries[i];
    }
    container->entry_count = kept;
    container->has_gaps = true; /* the tensors that are seen do not add up to the files */
    return container_reindex(container, err);
}

static enum status see_all(struct view *view, const char *gptq_zeros, struct error *err)
{
    const bool gptq = view->config.kind == PACKED_GPTQ || view->config.kind == PACKED_GPTQ_V2;
    struct container *container = view->container;
    enum status status = see_matrices(view, err);

    if (status || !view->found) return status;
    if (gptq) status = settle_zeros(view, gptq_zeros, err);
    for (uint64_t i = 0; i < container->entry_count && !status; i++) {
        if (!container->entries[i].packed) continue;
        status = decide(container, &container->entries[i], err);
        if (status) status = fail_within(err, status, "tensor %s", container->entries[i].tensor.name);
    }
    return status ? status : close_ranks(view, err);
}

enum status packed_see(struct container *container, const char *gptq_zeros, struct error *err)
{
    struct view view = {.container = container};
    struct json_document *config = NULL, *beside = NULL;
    char *plain = NULL;
    uint64_t bytes;
    enum status status = OK;

    if (!looks_packed(container)) return OK;
    status = container_json(&config, container, "config.json", err);
    if (!status) status = container_json(&beside, container, "quantize_config.json", err);
    if (status || !config) goto done;
    status = packed_config_read(
        &view.config, "quantization_config", json_root(config), beside ? json_root(beside) : NULL, err);
    if (status || !view.config.known) goto done;
    view.layout = packed_layout(view.config.kind);
    status = see_all(&view, gptq_zeros, err);
    if (status || !view.found) goto done;
    status = packed_config_plain(&plain, &bytes, json_root(config), err);
    if (!status) status = container_attach(container, "config.json", plain, bytes, err);
done:
    memory_free(view.used);
    json_free(beside);
    json_free(config);
    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}
