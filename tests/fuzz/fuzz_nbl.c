/* Any bytes as a .nbl file: as they are, with the padding that inputs leave out, and with a checksum that fits. Sparse tensors, whose masks
 * nothing has checked, are used with every kernel set. */
#include "base/memory.h"
#include "formats/nbl.h"
#include "tensor/kernels/kernels.h"
#include "tensor/sparse.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/nbl_forge.h"

enum { TOKENS = 2 };

/* Decode and multiply every tile that can be found. */
static void use_tiles(const struct tensor *tensor)
{
    struct sparse_layout layout;
    struct sparse_tile tile;
    if (sparse_layout_of(&layout, tensor, NULL) || layout.dense.blocks > 1024) return;
    const uint64_t cols = layout.dense.blocks * TILE_COLS;
    float *x = memory_new(TOKENS * cols, sizeof *x, NULL),
          *rows = memory_new(TILE_ROWS * cols, sizeof *rows, NULL);
    float sums[TOKENS][TILE_ROWS];
    void *scratch = memory_new(sparse_scratch(&layout), 1, NULL);
    if (!x || !rows || !scratch) abort();
    for (uint64_t i = 0; i < layout.dense.tiles; i++) {
        if (sparse_at(&tile, &layout, tensor->data, i, NULL)) continue;
        sparse_decode_tile(&layout, rows, layout.dense.cols, &tile, TILE_ROWS, scratch);
        for (uint64_t tokens = 1; tokens <= TOKENS; tokens++)
            sparse_dot(&layout, sums[0], &tile, x, tokens, scratch);
    }
    memory_free(scratch);
    memory_free(rows);
    memory_free(x);
}

static void use_sparse(const char *path)
{
    static const char *const sets[] = {"scalar", "avx2", "avx512"};
    struct container *container = NULL;
    if (container_open(&container, path, NULL) == OK && container_map(container, NULL) == OK) {
        for (size_t set = 0; set < sizeof sets / sizeof *sets; set++) {
            if (kernels_select(sets[set], NULL)) continue;
            for (uint64_t i = 0; i < container_count(container); i++)
                if (container_tensor(container, i)->storage == STORAGE_SPARSE)
                    use_tiles(container_tensor(container, i));
        }
    }
    container_close(container);
}

/* Open the file, use it, and verify what opening leaves unread. */
static void run(const uint8_t *file, size_t count)
{
    struct nbl_verification found;
    char path[FUZZ_PATH_BYTES];
    int descriptor = fuzz_file(path, file, count);

    fuzz_open(path);
    use_sparse(path);
    nbl_verify(&found, path, NULL, NULL, NULL);
    close(descriptor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[NBL_FORGE_ROOM];
    const size_t count = nbl_forge_pad(file, data, size);

    run(data, size);
    if (count) run(file, count);
    if (count && nbl_forge_seal(file, count)) run(file, count);
    return 0;
}
