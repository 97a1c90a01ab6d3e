/* Bytes of a tensor that is seen but not stored: a panel of rows at a time, its codes, scales and zero-points are gathered from where
 * they lie and packed as tiles, or computed. */
#include "formats/packed/packed_read.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "formats/cast.h"
#include "formats/measure.h"

#define PANEL_CODES (UINT64_C(1) << 21) /* the codes of a panel, unless eight rows have more */

void packed_free(struct packed *packed)
{
    if (packed) memory_free(packed->order);
    memory_free(packed);
}

static enum status copy_order(struct packed *part, const struct packed *whole, struct error *err)
{
    if (!whole->order) return OK;
    part->order = memory_new(whole->cols, sizeof *part->order, err);
    if (!part->order) return ERR_MEMORY;
    memcpy(part->order, whole->order, whole->cols * sizeof *part->order);
    return OK;
}

enum status packed_part(struct reader_entry *entry, const struct packed *whole, uint64_t rows,
    uint64_t first_row, uint64_t run, uint64_t step, struct error *err)
{
    struct tensor *tensor = &entry->tensor;
    struct packed *part;
    enum status status = OK;

    entry->packed = NULL;
    if (first_row % TILE_ROWS || run % TILE_ROWS || step % TILE_ROWS)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: is quantized, and a part of it begins or ends within %d rows that belong together",
            tensor->name, TILE_ROWS);
    part = memory_new(1, sizeof *part, err);
    if (!part) return ERR_MEMORY;
    *part = *whole;
    part->order = NULL;
    entry->packed = part;
    part->seen = rows;
    part->first_row = first_row;
    part->run = run;
    part->step = step;
    tensor->shape[0] = rows;
    status = copy_order(part, whole, err);
    if (!status) status = measure_tensor(tensor, err);
    if (!status && !part->decoded) status = tiles_layout(&part->tiles, rows, part->cols, tensor->scheme, err);
    return status;
}

/* ---- what is stored ---- */

/* Lines [line, line + lines) of an array of `width` elements a line, from each the elements [begin, end), one after the other. */
static enum status read_rectangle(struct container *container, const struct reader_entry *entry, void *out,
    uint64_t line, uint64_t lines, uint64_t width, uint64_t begin, uint64_t end, struct error *err)
{
    const uint64_t element = dtype_info(entry->tensor.dtype)->bytes, bytes = (end - begin) * element;
    enum status status = OK;

    if (begin == 0 && end == width)
        return container_read(container, &entry->tensor, line * width * element, out, lines * bytes, err);
    for (uint64_t i = 0; i < lines && !status; i++)
        status = container_read(container, &entry->tensor, ((line + i) * width + begin) * element,
            (uint8_t *)out + i * bytes, bytes, err);
    return status;
}

/* The codes of rows [row, row + count) of a matrix of `width` columns (or groups): out [count][width]. */
static enum status read_plane(struct container *container, const struct packed *packed,
    const struct reader_entry *entry, struct packed_plane plane, uint8_t *out, uint64_t width, uint64_t row,
    uint64_t count, struct error *err)
{
    const uint32_t bits = packed->bits;
    const bool along = plane.along_rows, turned = packed->layout->interleaved;
    const uint64_t lines = along ? width : count, all_lines = along ? width : packed->rows;
    const uint64_t first = along ? row * bits / 32 : 0; /* the words of each line that are wanted */
    const uint64_t end = along ? packed_words(row + count, bits) : packed_words(width, bits);
    const uint64_t words = end - first, line = along ? 0 : row;
    uint32_t *buffer = memory_new(words * lines, sizeof *buffer, err);
    enum status status = buffer ? OK : ERR_MEMORY;

    if (!status && plane.words_first)
        status = read_rectangle(container, entry, buffer, first, words, all_lines, line, line + lines, err);
    else if (!status)
        status = read_rectangle(container, entry, buffer, line, lines,
            packed_words(along ? packed->rows : width, bits), first, end, err);
    for (uint64_t i = 0; i < lines && !status; i++)
        packed_get(along ? out + i : out + i * width, along ? width : 1,
            plane.words_first ? buffer + i : buffer + i * words, plane.words_first ? lines : 1,
            along ? (uint32_t)(row * bits % 32) : 0, along ? count : width, bits, turned);
    memory_free(buffer);
    return status;
}

/* Floats of rows [row, row + count), one for each group. */
static enum status read_floats(struct container *container, const struct packed *packed,
    const struct reader_entry *entry, float *out, uint64_t row, uint64_t count, struct error *err)
{
    const struct dtype_info *info = dtype_info(entry->tensor.dtype);
    const uint64_t groups = packed->groups, total = count * groups;
    const bool first = packed->layout->scales_first;
    uint8_t *raw = memory_new(total, info->bytes, err);
    float *floats = memory_new(total, sizeof *floats, err);
    enum status status = raw && floats ? OK : ERR_MEMORY;

    if (!status && first)
        status = read_rectangle(container, entry, raw, 0, groups, packed->rows, row, row + count, err);
    else if (!status)
        status = read_rectangle(container, entry, raw, row, count, groups, 0, groups, err);
    if (!status) {
        const float *values = cast_to_floats(entry->tensor.dtype, raw, floats, total);
        for (uint64_t i = 0; i < total; i++)
            out[i] = first ? values[i % groups * count + i / groups] : values[i];
    }
    memory_free(floats);
    memory_free(raw);
    return status;
}

enum status packed_scales(struct container *container, const struct packed *packed, float *scales,
    uint64_t row, uint64_t count, struct error *err)
{
    return read_floats(container, packed, &packed->scales, scales, row, count, err);
}

enum status packed_biases(struct container *container, const struct packed *packed, float *biases,
    uint64_t row, uint64_t count, struct error *err)
{
    return read_floats(container, packed, &packed->zeros, biases, row, count, err);
}

enum status packed_zeros(struct container *container, const struct packed *packed, uint8_t *zeros,
    uint64_t row, uint64_t count, struct error *err)
{
    const uint64_t total = count * packed->groups;
    enum status status;

    if (!packed->zeros.tensor.name) {
        memset(zeros, 1 << (packed->bits - 1), total);
        return OK;
    }
    status = read_plane(container, packed, &packed->zeros, packed->layout->zero_plane, zeros, packed->groups,
        row, count, err);
    for (uint64_t i = 0; i < total && !status; i++)
        zeros[i] = (uint8_t)(zeros[i] + packed->zero_more);
    return status;
}

int packed_bias_zero(float scale, float bias, uint32_t bits)
{
    const double zero = scale == 0 ? 1 << (bits - 1) : nearbyint(-(double)bias / (double)scale);

    /* The product has at most 32 bits: it is exact. */
    return zero >= 0 && zero < 1 << bits && zero * (double)scale == -(double)bias ? (int)zero : -1;
}

/* ---- panels ---- */

/* Rows of a matrix taken apart. */
struct panel {
    uint8_t *codes;         /* [rows][cols] */
    float *scales, *biases; /* [rows][groups]; biases: mlx */
    uint8_t *zeros;         /* [rows][groups]; not of mlx that is DENSE */
    uint16_t *halves;       /* [rows][groups] scales, TILES only */
};

static void free_panel(struct panel *panel)
{
    memory_free(panel->codes);
    memory_free(panel->scales);
    memory_free(panel->biases);
    memory_free(panel->zeros);
    memory_free(panel->halves);
}

static enum status allocate_panel(
    struct panel *panel, const struct packed *packed, uint64_t rows, struct error *err)
{
    panel->codes = memory_new(rows * packed->cols, 1, err);
    panel->scales = memory_new(rows * packed->groups, sizeof *panel->scales, err);
    panel->biases =
        memory_new(packed->layout->biases ? rows * packed->groups : 0, sizeof *panel->biases, err);
    panel->zeros = memory_new(rows * packed->groups, 1, err);
    panel->halves = memory_new(rows * packed->groups, sizeof *panel->halves, err);
    return panel->codes && panel->scales && panel->biases && panel->zeros && panel->halves ? OK : ERR_MEMORY;
}

/* A panel's rows: whole tiles. */
static uint64_t panel_rows(const struct packed *packed)
{
    const uint64_t rows = PANEL_CODES / packed->cols / TILE_ROWS * TILE_ROWS;

    return rows ? rows : TILE_ROWS;
}

/* Rows [row, row + count) as they are stored, to the panel's rows from `at` on. */
static enum status fetch(struct container *container, const struct packed *packed, const struct panel *panel,
    uint64_t at, uint64_t row, uint64_t count, bool codes, struct error *err)
{
    const uint64_t group = at * packed->groups;
    enum status status = OK;

    if (codes)
        status = read_plane(container, packed, &packed->codes, packed->layout->code_plane,
            panel->codes + at * packed->cols, packed->cols, row, count, err);
    if (!status) status = packed_scales(container, packed, panel->scales + group, row, count, err);
    if (!status && packed->layout->biases)
        return packed_biases(container, packed, panel->biases + group, row, count, err);
    return status ? status : packed_zeros(container, packed, panel->zeros + group, row, count, err);
}

/* Rows [row, row + count) of those that are seen. */
static enum status fill_panel(struct container *container, const struct packed *packed, struct panel *panel,
    uint64_t row, uint64_t count, bool codes, struct error *err)
{
    const uint64_t total = count * packed->groups, run = packed->run ? packed->run : packed->rows;
    enum status status = OK;

    for (uint64_t at = 0, some; at < count && !status; at += some) {
        const uint64_t within = (row + at) % run, left = run - within;
        some = left < count - at ? left : count - at;
        status = fetch(container, packed, panel, at,
            packed->first_row + (row + at) / run * packed->step + within, some, codes, err);
    }
    for (uint64_t i = 0; i < total && !status && !packed->decoded; i++) {
        if (packed->layout->biases)
            panel->zeros[i] = (uint8_t)packed_bias_zero(panel->scales[i], panel->biases[i], packed->bits);
        panel->halves[i] = dtype_f32_to_f16(panel->scales[i]);
    }
    return status;
}

/* ---- tiles ---- */

/* The buffer's part of bytes that lie at `at` of the tensor. */
static void copy_overlap(
    uint8_t *buffer, uint64_t offset, uint64_t count, const void *bytes, uint64_t at, uint64_t byte_count)
{
    const uint64_t begin = at > offset ? at : offset;
    const uint64_t end = at + byte_count < offset + count ? at + byte_count : offset + count;

    if (begin < end) memcpy(buffer + (begin - offset), (const uint8_t *)bytes + (begin - at), end - begin);
}

/* Tiles from number `tile` on, packed from the rows of a panel; what of them lies in the range is copied. */
static enum status copy_tiles(const struct packed *packed, const struct panel *panel, bool with_codes,
    uint64_t tile, uint64_t rows, uint8_t *buffer, uint64_t offset, uint64_t count, struct error *err)
{
    const struct tiles_layout *tiles = &packed->tiles;
    uint8_t *codes = memory_new(tiles->tile_code_bytes, 1, err);
    uint16_t *scales = memory_new(tiles->tile_scale_bytes, 1, err);
    uint8_t *zeros = memory_new(tiles->tile_zero_bytes, 1, err);
    enum status status = codes && scales && zeros ? OK : ERR_MEMORY;

    for (uint64_t row = 0; row < rows && !status; row += TILE_ROWS, tile++) {
        const uint64_t some = rows - row < TILE_ROWS ? rows - row : TILE_ROWS, group = row * packed->groups;
        tiles_pack(tiles, codes, scales, tiles->asymmetric ? zeros : NULL, panel->codes + row * packed->cols,
            panel->halves + group, tiles->asymmetric ? panel->zeros + group : NULL, some);
        if (with_codes)
            copy_overlap(buffer, offset, count, codes, tile * tiles->tile_code_bytes, tiles->tile_code_bytes);
        copy_overlap(buffer, offset, count, scales, tiles->scales_offset + tile * tiles->tile_scale_bytes,
            tiles->tile_scale_bytes);
        copy_overlap(buffer, offset, count, zeros, tiles->zeros_offset + tile * tiles->tile_zero_bytes,
            tiles->tile_zero_bytes);
    }
    memory_free(zeros);
    memory_free(scales);
    memory_free(codes);
    return status;
}

/* The tiles of one part of the tensor, [begin, begin + tile_bytes * tiles), that the range touches: first and end. */
static bool touched(const struct packed *packed, uint64_t part, uint64_t tile_bytes, uint64_t offset,
    uint64_t count, uint64_t *first, uint64_t *end)
{
    const uint64_t begin = offset > part ? offset - part : 0;
    const uint64_t stop = offset + count > part ? offset + count - part : 0;

    if (!tile_bytes || begin >= stop) return false;
    *first = begin / tile_bytes;
    *end = (stop + tile_bytes - 1) / tile_bytes;
    if (*end > packed->tiles.tiles) *end = packed->tiles.tiles;
    return *first < *end;
}

static enum status read_tiles(struct container *container, const struct packed *packed, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    const struct tiles_layout *tiles = &packed->tiles;
    const uint64_t parts[3] = {0, tiles->scales_offset, tiles->zeros_offset};
    const uint64_t bytes[3] = {tiles->tile_code_bytes, tiles->tile_scale_bytes, tiles->tile_zero_bytes};
    const uint64_t step = panel_rows(packed) / TILE_ROWS;
    struct panel panel = {0};
    enum status status = allocate_panel(&panel, packed, step * TILE_ROWS, err);

    memset(buffer, 0, count); /* the gaps */
    for (unsigned part = 0; part < 3 && !status; part++) {
        uint64_t first, end;
        if (!touched(packed, parts[part], bytes[part], offset, count, &first, &end)) continue;
        for (uint64_t tile = first; tile < end && !status; tile += step) {
            const uint64_t some = end - tile < step ? end - tile : step, row = tile * TILE_ROWS;
            const uint64_t left = packed->seen - row;
            const uint64_t rows = left < some * TILE_ROWS ? left : some * TILE_ROWS;
            status = fill_panel(container, packed, &panel, row, rows, part == 0, err);
            if (!status)
                status = copy_tiles(packed, &panel, part == 0, tile, rows, buffer, offset, count, err);
        }
    }
    free_panel(&panel);
    return status;
}

/* ---- values ---- */

/* One row, in the order of its columns. The product of an integer of at most 9 bits and a half or a brain float is exact. */
static void compute_row(const struct packed *packed, const struct panel *panel, uint64_t row, float *out)
{
    const uint8_t *codes = panel->codes + row * packed->cols;
    const uint64_t group_row = row * packed->groups;

    for (uint64_t col = 0; col < packed->cols; col++) {
        const uint64_t at = group_row + (packed->order ? packed->order[col] : col / packed->group);
        const float scale = panel->scales[at];
        out[col] = packed->layout->biases ? scale * (float)codes[col] + panel->biases[at]
                                          : scale * (float)((int)codes[col] - (int)panel->zeros[at]);
    }
}

static enum status read_values(struct container *container, const struct packed *packed, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    const uint64_t row_bytes = packed->cols * sizeof(float), step = panel_rows(packed);
    const uint64_t end = (offset + count + row_bytes - 1) / row_bytes;
    float *values = memory_new(packed->cols, sizeof *values, err);
    struct panel panel = {0};
    enum status status = values ? allocate_panel(&panel, packed, step, err) : ERR_MEMORY;

    for (uint64_t row = offset / row_bytes / TILE_ROWS * TILE_ROWS; row < end && !status; row += step) {
        const uint64_t rows = end - row < step ? end - row : step;
        status = fill_panel(container, packed, &panel, row, rows, true, err);
        for (uint64_t i = 0; i < rows && !status; i++) {
            compute_row(packed, &panel, i, values);
            copy_overlap(buffer, offset, count, values, (row + i) * row_bytes, row_bytes);
        }
    }
    free_panel(&panel);
    memory_free(values);
    return status;
}

enum status packed_read(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    if (!count) return OK;
    return entry->packed->decoded ? read_values(container, entry->packed, offset, buffer, count, err)
                                  : read_tiles(container, entry->packed, offset, buffer, count, err);
}
