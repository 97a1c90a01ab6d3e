/* Any bytes as a model file under verify and inspect, which look at everything that a reader lets through: whatever a file says
 * of itself, what inspect writes is JSON, and a file differs from itself in nothing. Inputs of .nbl as in nbl_forge.h. */
#include "base/json.h"
#include "base/memory.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/inspect/verify.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/nbl_forge.h"

static struct pool *pool;

static void check_json(struct container *container)
{
    struct json_writer writer = {.indent = 2};
    struct json_document *document = NULL;
    struct error err = {0};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = inspect_json(container, &writer, &err);
    if (!status) {
        if (json_writer_take(&writer, &text, &bytes, &err) != OK) abort();
        if (json_parse(&document, "inspect", text, bytes, &err) != OK) {
            fprintf(stderr, "%s\n%.*s\n", err.text, (int)bytes, text);
            abort();
        }
    } else if (err.code != status) {
        abort();
    }
    json_free(document);
    json_writer_free(&writer);
    memory_free(text);
}

/* `sound`: every number is finite. */
static void check_against_itself(struct container *container, bool sound)
{
    struct verify_difference *differences = NULL;
    const enum status status = verify_against(&differences, container, container, pool, NULL, NULL);
    for (uint64_t i = 0; i < container_count(container) && !status; i++) {
        if (differences[i].missing) abort();
        if (sound && (differences[i].relative_rms != 0 || differences[i].largest != 0)) abort();
    }
    memory_free(differences);
}

static void look(const uint8_t *file, size_t count)
{
    struct verify_result found;
    struct container *container = NULL;
    struct error err = {0};
    char path[FUZZ_PATH_BYTES];
    const int descriptor = fuzz_file(path, file, count);
    const enum status status = verify_container(&found, path, pool, NULL, NULL, NULL, &err);
    if ((status == ERR_CHECK) != (found.faults > 0) || err.code != status) abort();
    if (container_open(&container, path, NULL) == OK) {
        check_json(container);
        check_against_itself(container, status == OK);
    } else if (status == OK) {
        abort();
    }
    container_close(container);
    close(descriptor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[NBL_FORGE_ROOM];
    const size_t count = nbl_forge_pad(file, data, size);
    if (!pool && pool_create(&pool, 1, NULL) != OK) abort();
    look(data, size);
    if (count && nbl_forge_seal(file, count)) look(file, count);
    return 0;
}
