/* See verify.h. Tensors are walked in panels of elements that depend on the shape alone. */
#include "runtime-check/inspect/verify.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "formats/nbl.h"
#include "formats/pytorch/pytorch.h"
#include "model/checkpoint.h"
#include "model/slice.h"
#include "tensor/sparse.h"

enum {
    PANEL_ELEMENTS = 1 << 18, /* decoded at a time */
    ROW_LIMIT = 1 << 23       /* columns of a quantized matrix: eight rows of floats are then 256 MiB */
};

static bool is_tiled(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_TILES || tensor->storage == STORAGE_SPARSE;
}

/* How many elements of a tensor are decoded at a time: any number of dense ones, whole tiles of rows of quantized ones.
 * Never more than the tensor has, but for its last tile. */
static enum status panel_size(uint64_t *out, const struct tensor *tensor, bool tiled, struct error *err)
{
    *out = tensor->elements < PANEL_ELEMENTS ? tensor->elements : PANEL_ELEMENTS;
    if (!tiled || tensor->elements == 0) return OK;
    const uint64_t cols = tensor->shape[1];
    if (cols > ROW_LIMIT) {
        return fail(err, ERR_MEMORY, "tensor %s: rows of %" PRIu64 " columns are too long, at most %d",
            tensor->name, cols, ROW_LIMIT);
    }
    const uint64_t rows = PANEL_ELEMENTS / cols / TILE_ROWS * TILE_ROWS;
    *out = (rows ? rows : TILE_ROWS) * cols;
    return OK;
}

/* Decode elements [begin, begin + count) in row-major order: whole tiles of rows, or whole blocks (a panel is a multiple of every block's
 * weights, and so is what is left of a tensor). */
static enum status decode(
    const struct tensor *tensor, float *out, uint64_t begin, uint64_t count, struct error *err)
{
    if (tensor->storage == STORAGE_BLOCKS) {
        blocks_decode(out, tensor->block, tensor->data, begin, count);
        return OK;
    }
    if (tensor->storage == STORAGE_SPARSE)
        return sparse_rows(tensor, out, begin / tensor->shape[1], count / tensor->shape[1], err);
    if (is_tiled(tensor)) {
        struct tiles_layout layout;
        const uint64_t cols = tensor->shape[1];
        enum status status = tiles_layout(&layout, tensor->shape[0], cols, tensor->scheme, err);
        if (!status) tiles_decode(&layout, out, cols, tensor->data, begin / cols, count / cols);
        return status;
    }
    const struct dtype_info *info = dtype_info(tensor->dtype);
    info->decode(out, (const uint8_t *)tensor->data + begin * info->bytes, count);
    return OK;
}

/* One walk over all tensors: task i is tensor i. */
struct walk {
    struct container *container, *original;
    struct verify_difference *differences; /* when comparing */
    uint64_t *bad_element;                 /* when looking for NaN: index of the first, or UINT64_MAX */
    struct progress *progress;
};

static enum status find_nonfinite(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct walk *walk = context;
    const struct tensor *tensor = container_tensor(walk->container, index);
    uint64_t panel;
    (void)worker;
    walk->bad_element[index] = UINT64_MAX;
    if (!is_tiled(tensor) && !dtype_info(tensor->dtype)->is_float) return OK;
    enum status status = panel_size(&panel, tensor, is_tiled(tensor), err);
    float *values = status ? NULL : memory_new(panel, sizeof *values, err);
    if (!values) return ERR_MEMORY;
    for (uint64_t at = 0; at < tensor->elements && walk->bad_element[index] == UINT64_MAX && !status;
         at += panel) {
        const uint64_t count = tensor->elements - at < panel ? tensor->elements - at : panel;
        status = decode(tensor, values, at, count, err);
        for (uint64_t i = 0; i < count && !status; i++) {
            if (isfinite(values[i])) continue;
            walk->bad_element[index] = at + i;
            break;
        }
    }
    memory_free(values);
    progress_add(walk->progress, tensor->bytes);
    return status;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->rank == b->rank && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

static enum status compare_tensor(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct walk *walk = context;
    struct verify_difference *out = &walk->differences[index];
    const struct tensor *tensor = out->tensor = container_tensor(walk->container, index);
    const struct tensor *original = container_find(walk->original, tensor->name);
    uint64_t panel;
    (void)worker;
    out->missing = !original || !same_shape(tensor, original);
    if (out->missing) return OK;
    enum status status = panel_size(&panel, tensor, is_tiled(tensor) || is_tiled(original), err);
    float *values = status ? NULL : memory_new(2 * panel, sizeof *values, err);
    if (!values) return ERR_MEMORY;
    float *before = values, *after = values + panel;
    double squares = 0, errors = 0;
    for (uint64_t at = 0; at < tensor->elements && !status; at += panel) {
        const uint64_t count = tensor->elements - at < panel ? tensor->elements - at : panel;
        status = decode(original, before, at, count, err);
        if (!status) status = decode(tensor, after, at, count, err);
        for (uint64_t i = 0; i < count && !status; i++) {
            const double a = (double)before[i], d = fabs((double)after[i] - a);
            squares += a * a;
            errors += d * d;
            if (d > out->largest) out->largest = d;
        }
    }
    out->relative_rms = squares > 0 ? sqrt(errors / squares) : errors > 0 ? INFINITY : 0;
    memory_free(values);
    progress_add(walk->progress, tensor->bytes);
    return status;
}

enum status verify_against(struct verify_difference **out, struct container *container,
    struct container *original, struct pool *pool, const struct report *report, struct error *err)
{
    struct walk walk = {.container = container, .original = original};
    *out = NULL;
    enum status status = container_map(container, err);
    if (!status) status = container_map(original, err);
    if (status) return status;
    if (!(walk.differences = memory_new(container_count(container), sizeof *walk.differences, err)))
        return ERR_MEMORY;
    walk.progress = progress_start(report, "comparing", container_bytes(container), PROGRESS_BYTES);
    status = pool_run(pool, container_count(container), compare_tensor, &walk, err);
    progress_end(walk.progress);
    if (status)
        memory_free(walk.differences);
    else
        *out = walk.differences;
    return status;
}

/* Counts faults on their way to the caller, and keeps the first. */
struct fault_counter {
    verify_fault fault;
    void *context;
    uint64_t count;
    struct error *first;
};

static void count_fault(void *context, const char *text)
{
    struct fault_counter *counter = context;
    if (counter->count++ == 0) fail(counter->first, ERR_CHECK, "%s", text);
    if (counter->fault) counter->fault(counter->context, text);
}

static enum status check_finite(struct container *container, struct pool *pool, const struct report *report,
    struct fault_counter *counter, struct error *err)
{
    const uint64_t count = container_count(container);
    struct walk walk = {.container = container};
    enum status status = container_map(container, err);
    if (status) return status;
    if (!(walk.bad_element = memory_new(count, sizeof *walk.bad_element, err))) return ERR_MEMORY;
    walk.progress = progress_start(report, "reading", container_bytes(container), PROGRESS_BYTES);
    status = pool_run(pool, count, find_nonfinite, &walk, err);
    progress_end(walk.progress);
    for (uint64_t i = 0; i < count && !status; i++) {
        if (walk.bad_element[i] == UINT64_MAX) continue;
        struct error text;
        fail(&text, ERR_CHECK, "tensor %s: element %" PRIu64 " is not finite",
            container_tensor(container, i)->name, walk.bad_element[i]);
        count_fault(counter, text.text);
    }
    memory_free(walk.bad_element);
    return status;
}

/* Where a configuration is attached, the tensors must be the architecture's. A slice is held to its own bytes only. */
static enum status check_architecture(
    struct container *container, struct fault_counter *counter, struct error *err)
{
    uint64_t dropped_count = 0;
    bool found = false, is_slice = false;
    struct slice slice;
    struct model_config config;
    struct model_tensors tensors = {0};
    struct dropped_tensor *dropped = NULL;
    struct error fault;
    enum status status = slice_read(&slice, &is_slice, container, &fault);
    if (!status) status = checkpoint_read_config(&config, &found, container, &fault);
    if (!status && found && !is_slice) {
        status = layers_bind(&tensors, &dropped, &dropped_count, container, &config, &fault);
    }
    layers_release(&tensors);
    memory_free(dropped);
    if (status == ERR_MEMORY || status == ERR_IO) return fail(err, status, "%s", fault.text);
    if (status) count_fault(counter, fault.text);
    return OK;
}

enum status verify_container(struct verify_result *out, const char *path, struct pool *pool,
    const struct report *report, verify_fault fault, void *context, struct error *err)
{
    struct container *container = NULL;
    struct error first = {0};
    struct fault_counter counter = {fault, context, 0, &first};
    *out = (struct verify_result){0};
    enum status status = container_open(&container, path, err);
    if (status) return status;
    out->tensors = container_count(container);
    out->bytes = container_bytes(container);
    if (strcmp(container_format(container), "nbl") == 0) {
        struct nbl_verification checked;
        status = nbl_verify(&checked, path, count_fault, &counter, err);
        if (status == ERR_CHECK) status = OK; /* counted; go on and find everything */
    }
    if (strcmp(container_format(container), PYTORCH_FORMAT) == 0)
        status = pytorch_verify(container, count_fault, &counter, err);
    if (!status) status = check_architecture(container, &counter, err);
    if (!status && counter.count == 0) status = check_finite(container, pool, report, &counter, err);
    container_close(container);
    out->faults = counter.count;
    if (status) return status;
    return counter.count ? fail(err, ERR_CHECK, "%s", first.text) : OK;
}
