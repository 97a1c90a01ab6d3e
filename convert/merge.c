/* See merge.h. Every tensor that an adapter has factors for gets the list of its pairs; the transfer calls for rows. */
#include "convert/merge.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"

enum { TEXT_BYTES = 320 }; /* for an adapter in provenance */

/* The pairs of one tensor. */
struct addition {
    const struct merge *merge;
    const struct tensor *target;
};

struct merge {
    struct lora **adapters;     /* [count] */
    char *text;                 /* [count * TEXT_BYTES] */
    struct addition *additions; /* [container_count] */
    uint64_t count, addition_count, changed;
};

/* The name of the folder and the checksum of the file say which adapter it was, wherever it lay. */
static void describe(char *text, const struct lora *lora)
{
    const char *between = *text ? "; " : "";
    const char *path = lora_path(lora);
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    size_t begin = bytes;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    const struct container_file file = container_file(lora_container(lora), 0);
    char scale[32];
    snprintf(text + strlen(text), TEXT_BYTES, "%s%.*s scale %s crc32 %08" PRIx32, between,
        (int)(bytes - begin > 200 ? 200 : bytes - begin), path + begin, number_write(scale, lora_scale(lora)),
        file_crc32(0, file.map, file.bytes));
}

enum status merge_open(struct merge **out, const struct option_list *specs,
    const struct checkpoint *checkpoint, struct error *err)
{
    *out = NULL;
    if (specs->count == 0) return OK;
    struct merge *merge = memory_new(1, sizeof *merge, err);
    if (!merge) return ERR_MEMORY;
    merge->adapters = memory_new(specs->count, sizeof *merge->adapters, err);
    merge->text = memory_new(specs->count, TEXT_BYTES, err);
    merge->additions = memory_new(container_count(checkpoint->container), sizeof *merge->additions, err);
    enum status status = merge->adapters && merge->text && merge->additions ? OK : ERR_MEMORY;
    for (uint64_t i = 0; i < specs->count && status == OK; i++) {
        status = lora_open(&merge->adapters[i], specs->values[i], checkpoint, err);
        if (status != OK) break;
        describe(merge->text, merge->adapters[i]);
        merge->count++;
    }
    if (status != OK) {
        merge_close(merge);
        return status;
    }
    *out = merge;
    return OK;
}

void merge_close(struct merge *merge)
{
    if (!merge) return;
    for (uint64_t i = 0; i < merge->count; i++)
        lora_close(merge->adapters[i]);
    memory_free(merge->adapters);
    memory_free(merge->text);
    memory_free(merge->additions);
    memory_free(merge);
}

static void add(void *context, float *rows, uint64_t row_begin, uint64_t row_count)
{
    const struct addition *addition = context;
    for (uint64_t i = 0; i < addition->merge->count; i++) {
        const struct lora_pair *pair = lora_find(addition->merge->adapters[i], addition->target);
        if (pair) lora_add(pair, rows, row_begin, row_count);
    }
}

void merge_item(struct merge *merge, struct transfer_item *item)
{
    if (!merge) return;
    const struct tensor *target = item->source;
    bool added = false, replaced = false;
    for (uint64_t i = 0; i < merge->count; i++) {
        const struct tensor *replacement = lora_replacement(merge->adapters[i], target);
        added |= lora_find(merge->adapters[i], target) != NULL;
        if (!replacement) continue;
        item->from = lora_container(merge->adapters[i]);
        item->source = replacement;
        replaced = true;
    }
    merge->changed += added || replaced;
    if (!added) return;
    struct addition *addition = &merge->additions[merge->addition_count++];
    *addition = (struct addition){merge, target};
    item->patch = add;
    item->patch_context = addition;
}

uint64_t merge_count(const struct merge *merge)
{
    return merge ? merge->changed : 0;
}

uint64_t merge_adapters(const struct merge *merge)
{
    return merge ? merge->count : 0;
}

const char *merge_text(const struct merge *merge)
{
    return merge->text;
}
