/* Every tensor is one task; a checksum does not depend on who computes it. */
#include "model/layerwise/source_stamp.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/layerwise/layer.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"

#define CHUNK (UINT64_C(1) << 20)

struct checksums {
    struct container *container;
    uint32_t *crcs;
    uint8_t *buffers; /* [workers][CHUNK] */
    struct progress *progress;
};

static enum status checksum_tensor(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct checksums *sums = context;
    const struct tensor *tensor = container_tensor(sums->container, index);
    uint8_t *buffer = sums->buffers + worker * CHUNK;
    for (uint64_t at = 0; at < tensor->bytes; at += CHUNK) {
        uint64_t count = tensor->bytes - at < CHUNK ? tensor->bytes - at : CHUNK;
        enum status status = container_read(sums->container, tensor, at, buffer, count, err);
        if (status != OK) return status;
        sums->crcs[index] = file_crc32(sums->crcs[index], buffer, count);
        uint64_t size = tensor->storage == STORAGE_DENSE ? dtype_info(tensor->dtype)->bytes : 1;
        status = layer_check_finite(tensor, buffer, at / size, count / size, err);
        if (status != OK) return status;
        progress_add(sums->progress, count);
    }
    return OK;
}

static enum status write_sources(struct json_writer *json, struct container *container, struct pool *pool,
    const struct report *report, struct error *err)
{
    uint64_t count = container_count(container);
    struct checksums sums = {.container = container,
        .crcs = memory_new(count, sizeof *sums.crcs, err),
        .buffers = memory_new(pool_workers(pool), CHUNK, err)};
    enum status status = sums.crcs && sums.buffers ? OK : ERR_MEMORY;
    sums.progress = progress_start(report, "reading", container_bytes(container), PROGRESS_BYTES);
    if (status == OK) status = pool_run(pool, count, checksum_tensor, &sums, err);
    progress_end(sums.progress);
    if (status == OK) status = container_write_sources(container, sums.crcs, json, err);
    memory_free(sums.crcs);
    memory_free(sums.buffers);
    return status;
}

enum status source_stamp_put(struct json_writer *json, struct container *container, struct pool *pool,
    const struct report *report, struct error *err)
{
    struct json_writer sources = {0};
    char *text = NULL;
    uint64_t bytes;
    enum status status = write_sources(&sources, container, pool, report, err);
    if (status == OK) status = json_writer_take(&sources, &text, &bytes, err);
    json_writer_free(&sources);
    if (status != OK) return status;
    text[strcspn(text, "\n")] = '\0';
    json_put_text(json, "input", text);
    json_put_text(json, "kernels", kernels()->name);
    json_put_text(json, "blas", linalg_core());
    memory_free(text);
    return OK;
}
