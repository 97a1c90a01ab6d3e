/* Two open-addressing tables over one array of entries. Ids may have gaps of millions, so they are hashed as well. */
#include "model/tokenizer/vocabulary.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "model/tokenizer/hash.h"

/* Where a key is, or the empty slot where it belongs; NULL after HASH_PROBE_LIMIT slots. */
static uint32_t *content_slot(const struct vocabulary *vocabulary, const char *content, uint64_t bytes)
{
    uint64_t slot = hash_bytes(content, bytes);

    for (unsigned probe = 0; probe < HASH_PROBE_LIMIT; probe++, slot++) {
        uint32_t *at = &vocabulary->by_content[slot & (vocabulary->slots - 1)];
        if (*at == 0) return at;
        const struct vocabulary_entry *entry = &vocabulary->entries[*at - 1];
        if (entry->bytes == bytes && memcmp(vocabulary->contents.bytes + entry->offset, content, bytes) == 0)
            return at;
    }
    return NULL;
}

static uint32_t *id_slot(const struct vocabulary *vocabulary, uint32_t id)
{
    uint64_t slot = hash_mix(id);

    for (unsigned probe = 0; probe < HASH_PROBE_LIMIT; probe++, slot++) {
        uint32_t *at = &vocabulary->by_id[slot & (vocabulary->slots - 1)];
        if (*at == 0 || vocabulary->entries[*at - 1].id == id) return at;
    }
    return NULL;
}

static enum status crafted(struct error *err)
{
    return fail(err, ERR_FORMAT, "the tokens were chosen to collide in a hash table");
}

/* Make the tables large enough for one more entry. */
static enum status grow_tables(struct vocabulary *vocabulary, struct error *err)
{
    uint64_t slots = hash_slots(vocabulary->count + 1);

    if (slots <= vocabulary->slots) return OK;
    uint32_t *by_content = memory_new(slots, sizeof *by_content, err);
    uint32_t *by_id = by_content ? memory_new(slots, sizeof *by_id, err) : NULL;
    if (!by_id) {
        memory_free(by_content);
        return ERR_MEMORY;
    }
    memory_free(vocabulary->by_content);
    memory_free(vocabulary->by_id);
    vocabulary->by_content = by_content;
    vocabulary->by_id = by_id;
    vocabulary->slots = slots;
    for (uint32_t i = 0; i < vocabulary->count; i++) {
        const struct vocabulary_entry *entry = &vocabulary->entries[i];
        uint32_t *content =
            content_slot(vocabulary, vocabulary->contents.bytes + entry->offset, entry->bytes);
        uint32_t *id = id_slot(vocabulary, entry->id);
        if (!content || !id) return crafted(err);
        *content = *id = i + 1;
    }
    return OK;
}

/* Say which token is there twice. */
static enum status duplicate(
    const char *content, uint64_t bytes, uint32_t id, bool same_content, struct error *err)
{
    char quoted[80];

    error_quote(quoted, sizeof quoted, content, bytes);
    if (same_content) return fail(err, ERR_FORMAT, "the token \"%s\" is there twice", quoted);
    return fail(err, ERR_FORMAT, "the id %" PRIu32 " of \"%s\" is another token's already", id, quoted);
}

enum status vocabulary_add(
    struct vocabulary *vocabulary, const char *content, uint64_t bytes, uint64_t id, struct error *err)
{
    struct vocabulary_entry entry = {vocabulary->contents.count, (uint32_t)bytes, (uint32_t)id};
    enum status status;

    if (id >= VOCABULARY_ID_LIMIT)
        return fail(err, ERR_FORMAT, "the id %" PRIu64 " is not below %" PRIu32, id, VOCABULARY_ID_LIMIT);
    status = grow_tables(vocabulary, err);
    if (status != OK) return status;
    uint32_t *by_content = content_slot(vocabulary, content, bytes), *by_id = id_slot(vocabulary, entry.id);
    if (!by_content || !by_id) return crafted(err);
    if (*by_content > 0 || *by_id > 0) return duplicate(content, bytes, entry.id, *by_content > 0, err);
    status =
        memory_grow(&vocabulary->entries, &vocabulary->capacity, vocabulary->count + 1, sizeof entry, err);
    if (status == OK) status = text_append(&vocabulary->contents, content, bytes, err);
    if (status == OK) status = text_append(&vocabulary->contents, "", 1, err);
    if (status != OK) return status;
    vocabulary->entries[vocabulary->count++] = entry;
    *by_content = *by_id = (uint32_t)vocabulary->count;
    if (entry.id >= vocabulary->size) vocabulary->size = entry.id + 1;
    return OK;
}

uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *content, uint64_t bytes)
{
    const uint32_t *slot = vocabulary->slots > 0 ? content_slot(vocabulary, content, bytes) : NULL;

    return slot ? *slot - 1 : NO_ENTRY; /* an empty slot holds 0, and 0 - 1 is NO_ENTRY */
}

uint32_t vocabulary_find_model(const struct vocabulary *vocabulary, const char *content, uint64_t bytes)
{
    uint32_t entry = vocabulary_find(vocabulary, content, bytes);

    return entry < vocabulary->model_count ? entry : NO_ENTRY;
}

void vocabulary_find_bytes(const struct vocabulary *vocabulary, uint32_t tokens[256])
{
    char name[8];

    for (unsigned i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "<0x%02X>", i);
        tokens[i] = vocabulary_find_model(vocabulary, name, 6);
    }
}

uint32_t vocabulary_find_id(const struct vocabulary *vocabulary, uint64_t id)
{
    const uint32_t *slot =
        vocabulary->slots > 0 && id < VOCABULARY_ID_LIMIT ? id_slot(vocabulary, (uint32_t)id) : NULL;

    return slot ? *slot - 1 : NO_ENTRY;
}

const char *vocabulary_content(const struct vocabulary *vocabulary, uint32_t entry, uint64_t *bytes)
{
    *bytes = vocabulary->entries[entry].bytes;
    return vocabulary->contents.bytes + vocabulary->entries[entry].offset;
}

void vocabulary_free(struct vocabulary *vocabulary)
{
    text_free(&vocabulary->contents);
    memory_free(vocabulary->entries);
    memory_free(vocabulary->by_content);
    memory_free(vocabulary->by_id);
    *vocabulary = (struct vocabulary){0};
}
