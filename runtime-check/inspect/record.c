/* See record.h. */
#include "runtime-check/inspect/record.h"

#include <string.h>

#include "base/memory.h"
#include "formats/provenance.h"
#include "formats/transfer.h"

static enum status describe(char **out, uint64_t *bytes, const struct perplexity_result *result,
    enum perplexity_protocol protocol, const char *text_name, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    const char *slash = strrchr(text_name, '/');
    json_open_object(&writer);
    json_put_text(&writer, "protocol", perplexity_protocol_name(protocol));
    json_put_u64(&writer, "context", result->context);
    json_put_text(&writer, "text", slash ? slash + 1 : text_name);
    json_put_u64(&writer, "text_bytes", result->text_bytes);
    json_put_crc32(&writer, "text_crc32", result->text_crc32);
    json_put_u64(&writer, "kv_bits", result->kv_bits);
    json_put_u64(&writer, "windows", result->windows);
    json_put_u64(&writer, "tokens_scored", result->tokens_scored);
    json_put_number(&writer, "perplexity", result->perplexity.value);
    json_put_number(&writer, "perplexity_error", result->perplexity.error);
    json_put_text(&writer, "errors", result->by_block ? "by block" : "by token");
    json_put_number(&writer, "bits_per_byte", result->bits_per_byte);
    json_close_object(&writer);
    return json_writer_take(&writer, out, bytes, err);
}

/* Every document but an older evaluation goes along. */
static enum status copy_documents(struct writer *writer, struct container *container, struct error *err)
{
    enum status status = provenance_carry(writer, container, err);
    return status ? status : provenance_carry_document(writer, container, PROVENANCE_DOCUMENT, err);
}

static enum status copy_tensors(struct writer *writer, struct container *container, struct pool *pool,
    const struct report *report, struct error *err)
{
    const uint64_t count = container_count(container);
    struct transfer_item *items = memory_new(count, sizeof *items, err);
    uint32_t *crcs = items ? memory_new(count, sizeof *crcs, err) : NULL;
    enum status status = crcs ? OK : ERR_MEMORY;
    for (uint64_t i = 0; i < count && !status; i++) {
        items[i].source = container_tensor(container, i);
        items[i].target = *items[i].source;
    }
    if (!status) status = transfer_run(container, writer, items, count, crcs, pool, report, "recording", err);
    for (uint64_t i = 0; i < container_alias_count(container) && !status; i++) {
        const char *alias, *target;
        container_alias(container, i, &alias, &target);
        status = writer_alias(writer, alias, target, err);
    }
    memory_free(crcs);
    memory_free(items);
    return status;
}

enum status record_possible(const struct container *container, struct error *err)
{
    if (strcmp(container_format(container), "nbl") == 0) return OK;
    return fail(err, ERR_USAGE, "--record writes into .nbl files; %s is %s", container_path(container),
        container_format(container));
}

enum status record_perplexity(const char *path, const struct perplexity_result *result,
    enum perplexity_protocol protocol, const char *text_name, struct pool *pool, const struct report *report,
    struct error *err)
{
    struct container *container = NULL;
    struct writer *writer = NULL;
    char *json = NULL;
    uint64_t bytes = 0;
    enum status status = container_open(&container, path, err);
    if (status || (status = record_possible(container, err)) ||
        (status = describe(&json, &bytes, result, protocol, text_name, err)) ||
        (status = nbl_writer_create(&writer, path, true, err)) ||
        (status = copy_tensors(writer, container, pool, report, err)) ||
        (status = copy_documents(writer, container, err)) ||
        (status = writer_document(writer, RECORD_DOCUMENT, json, bytes, err))) {
        goto done;
    }
    status = writer_commit(writer, err);
    writer = NULL;
done:
    writer_abandon(writer);
    memory_free(json);
    container_close(container);
    return status;
}
