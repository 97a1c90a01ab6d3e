/* Encoding one word: characters become symbols (entries of the vocabulary), symbols are merged, lowest rank first and
 * among equals leftmost first, until no merge applies.
 *
 * A word is first cut where no merge can ever join two neighbours; what lies between two cuts is a chunk. Chunks are
 * short in practice and are remembered in a small cache. A long chunk is merged with a heap in O(n log n). */
#include "model/tokenizer/bpe.h"

#include "base/memory.h"
#include "model/tokenizer/hash.h"
#include "model/tokenizer/unicode.h"

enum { CACHED_SYMBOLS = 12, CACHE_SLOTS = 1 << 14, SMALLEST_CACHE = 1 << 6 };

/* A chunk and what it was merged into. */
struct cached {
    uint8_t symbol_count, id_count; /* 0: an empty slot */
    uint32_t symbols[CACHED_SYMBOLS], ids[CACHED_SYMBOLS];
};

struct bpe_scratch {
    uint32_t *symbols; /* the chunk being collected */
    uint64_t count, capacity;
    uint32_t *before, *after; /* merging: the neighbours of each symbol, NO_ENTRY at the ends */
    uint64_t before_capacity, after_capacity;
    uint64_t *heap; /* rank << 32 | position of the left symbol */
    uint64_t heap_count, heap_capacity;
    uint32_t last_rank; /* of the merge made last */
    struct cached *cache;
    uint64_t cache_slots;
    bool
        unknown_waits; /* an unknown character was seen; unk_token is appended once it is known what follows */
};

enum status bpe_scratch_create(struct bpe_scratch **out, uint64_t text_bytes, struct error *err)
{
    struct bpe_scratch *scratch = memory_new(1, sizeof *scratch, err);
    uint64_t slots = SMALLEST_CACHE;

    if (!scratch) return ERR_MEMORY;
    while (slots < CACHE_SLOTS && slots < text_bytes / 16)
        slots *= 2;
    scratch->cache_slots = slots;
    scratch->cache = memory_new(slots, sizeof *scratch->cache, err);
    if (!scratch->cache) {
        bpe_scratch_free(scratch);
        return ERR_MEMORY;
    }
    *out = scratch;
    return OK;
}

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    if (!scratch) return;
    memory_free(scratch->symbols);
    memory_free(scratch->before);
    memory_free(scratch->after);
    memory_free(scratch->heap);
    memory_free(scratch->cache);
    memory_free(scratch);
}

/* ---- the heap: smallest first ---- */

static void sift_down(uint64_t *heap, uint64_t count, uint64_t at)
{
    uint64_t value = heap[at];

    for (;;) {
        uint64_t child = at * 2 + 1;
        if (child >= count) break;
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

static enum status heap_push(struct bpe_scratch *scratch, uint64_t value, struct error *err)
{
    if (scratch->heap_count == scratch->heap_capacity &&
        memory_grow(&scratch->heap, &scratch->heap_capacity, scratch->heap_count + 64, sizeof value, err) !=
            OK)
        return ERR_MEMORY;
    uint64_t at = scratch->heap_count++, *heap = scratch->heap;
    for (; at > 0 && heap[(at - 1) / 2] > value; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = value;
    return OK;
}

static uint64_t heap_pop(struct bpe_scratch *scratch)
{
    uint64_t top = scratch->heap[0];

    scratch->heap[0] = scratch->heap[--scratch->heap_count];
    if (scratch->heap_count > 1) sift_down(scratch->heap, scratch->heap_count, 0);
    return top;
}

/* ---- merging ---- */

/* Offer the pair that begins at a position to the heap, if it has a merge. */
static enum status offer(
    const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left, uint32_t right, struct error *err)
{
    const struct bpe_merge *merge = bpe_find_merge(bpe, scratch->symbols[left], scratch->symbols[right]);

    return merge ? heap_push(scratch, (uint64_t)merge->rank << 32 | left, err) : OK;
}

/* Link the symbols up and offer all pairs. */
static enum status start_merging(const struct bpe *bpe, struct bpe_scratch *scratch, struct error *err)
{
    uint64_t count = scratch->count;
    enum status status =
        memory_grow(&scratch->before, &scratch->before_capacity, count, sizeof(uint32_t), err);

    if (status == OK)
        status = memory_grow(&scratch->after, &scratch->after_capacity, count, sizeof(uint32_t), err);
    scratch->heap_count = 0;
    for (uint32_t i = 0; i < count && status == OK; i++) {
        scratch->before[i] = i > 0 ? i - 1 : NO_ENTRY;
        scratch->after[i] = i + 1 < count ? i + 1 : NO_ENTRY;
        if (i > 0) status = offer(bpe, scratch, i - 1, i, err);
    }
    return status;
}

/* Replace the symbol at a position and its right neighbour by their product, and offer the two new pairs. */
static enum status merge_at(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left,
    const struct bpe_merge *merge, struct error *err)
{
    uint32_t right = scratch->after[left], after = scratch->after[right], before = scratch->before[left];
    enum status status = OK;

    scratch->symbols[left] = merge->product;
    scratch->symbols[right] = NO_ENTRY;
    scratch->last_rank = merge->rank;
    scratch->after[left] = after;
    if (after != NO_ENTRY) scratch->before[after] = left;
    if (before != NO_ENTRY) status = offer(bpe, scratch, before, left, err);
    if (after != NO_ENTRY && status == OK) status = offer(bpe, scratch, left, after, err);
    return status;
}

/* Merge the chunk in place. An offer may be out of date when its turn comes: one of its symbols is gone, or has grown and
 * makes another pair now. */
static enum status merge_chunk(const struct bpe *bpe, struct bpe_scratch *scratch, struct error *err)
{
    enum status status = start_merging(bpe, scratch, err);
    uint64_t kept = 0;

    while (scratch->heap_count > 0 && status == OK) {
        uint64_t top = heap_pop(scratch);
        uint32_t left = (uint32_t)top;
        if (scratch->symbols[left] == NO_ENTRY || scratch->after[left] == NO_ENTRY) continue;
        uint32_t right = scratch->symbols[scratch->after[left]];
        const struct bpe_merge *merge = bpe_find_merge(bpe, scratch->symbols[left], right);
        if (merge && merge->rank == top >> 32) status = merge_at(bpe, scratch, left, merge, err);
    }
    for (uint64_t i = 0; i < scratch->count; i++) {
        if (scratch->symbols[i] != NO_ENTRY) scratch->symbols[kept++] = scratch->symbols[i];
    }
    scratch->count = kept;
    return status;
}

/* ---- chunks ---- */

static enum status emit(struct id_list *out, const uint32_t *ids, uint64_t count, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < count && status == OK; i++)
        status = id_list_add(out, ids[i], err);
    return status;
}

/* Merge the chunk and append its ids. */
static enum status encode_chunk(
    const struct bpe *bpe, struct bpe_scratch *scratch, struct id_list *out, struct error *err)
{
    enum status status = merge_chunk(bpe, scratch, err);

    for (uint64_t i = 0; i < scratch->count && status == OK; i++)
        status = id_list_add(out, bpe->vocabulary->entries[scratch->symbols[i]].id, err);
    return status;
}

/* The same by way of the cache. */
static enum status encode_cached(
    const struct bpe *bpe, struct bpe_scratch *scratch, struct id_list *out, struct error *err)
{
    uint64_t count = scratch->count, begin = out->count, bytes = count * sizeof *scratch->symbols;
    struct cached *cached = &scratch->cache[hash_bytes(scratch->symbols, bytes) & (scratch->cache_slots - 1)];

    if (cached->symbol_count == count && memcmp(cached->symbols, scratch->symbols, bytes) == 0)
        return emit(out, cached->ids, cached->id_count, err);
    cached->symbol_count = 0;
    memcpy(cached->symbols, scratch->symbols, bytes);
    enum status status = encode_chunk(bpe, scratch, out, err);
    if (status != OK) return status;
    cached->id_count = (uint8_t)(out->count - begin);
    memcpy(cached->ids, out->ids + begin, cached->id_count * sizeof *out->ids);
    cached->symbol_count = (uint8_t)count;
    return OK;
}

static enum status end_chunk(
    const struct bpe *bpe, struct bpe_scratch *scratch, struct id_list *out, struct error *err)
{
    enum status status = OK;

    if (scratch->count == 1)
        status = id_list_add(out, bpe->vocabulary->entries[scratch->symbols[0]].id, err);
    else if (scratch->count > 0 && scratch->count <= CACHED_SYMBOLS)
        status = encode_cached(bpe, scratch, out, err);
    else if (scratch->count > 0)
        status = encode_chunk(bpe, scratch, out, err);
    scratch->count = 0;
    return status;
}

/* True if some merge may join these neighbours, directly or after others. */
static bool may_join(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t slot = hash_pair(left, right), key = ((uint64_t)left << 32 | right) + 1;

    if (!bpe->joints) return true;
    for (unsigned probe = 0; probe < HASH_PROBE_LIMIT; probe++, slot++) {
        uint64_t at = bpe->joints[slot & (bpe->joint_slots - 1)];
        if (at == 0 || at == key) return at != 0;
    }
    return false;
}

static enum status push_symbol(struct bpe_scratch *scratch, uint32_t symbol, struct error *err)
{
    if (scratch->count == scratch->capacity &&
        memory_grow(&scratch->symbols, &scratch->capacity, scratch->count + 64, sizeof symbol, err) != OK)
        return ERR_MEMORY;
    scratch->symbols[scratch->count++] = symbol;
    return OK;
}

static enum status add_symbol(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t symbol,
    struct id_list *out, struct error *err)
{
    enum status status = OK;

    if (scratch->count > 0 && !may_join(bpe, scratch->symbols[scratch->count - 1], symbol))
        status = end_chunk(bpe, scratch, out, err);
    return status == OK ? push_symbol(scratch, symbol, err) : status;
}

/* ---- characters ---- */

static enum status end_unknown(
    const struct bpe *bpe, struct bpe_scratch *scratch, struct id_list *out, struct error *err)
{
    if (!scratch->unknown_waits) return OK;
    scratch->unknown_waits = false;
    return add_symbol(bpe, scratch, bpe->unknown, out, err);
}

static bool has_byte_tokens(const struct bpe *bpe, const char *character, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (bpe->byte_tokens[(uint8_t)character[i]] == NO_ENTRY) return false;
    }
    return bpe->byte_fallback;
}

/* A character without a token. An unk_token that waits goes behind byte tokens that follow it, as in the library. */
static enum status add_unknown(const struct bpe *bpe, struct bpe_scratch *scratch, const char *character,
    uint64_t bytes, struct id_list *out, struct error *err)
{
    enum status status = OK;
    char quoted[80];

    if (has_byte_tokens(bpe, character, bytes)) {
        for (uint64_t i = 0; i < bytes && status == OK; i++)
            status = add_symbol(bpe, scratch, bpe->byte_tokens[(uint8_t)character[i]], out, err);
        return status;
    }
    if (!bpe->unknown_text) return OK;
    if (bpe->unknown == NO_ENTRY) {
        return fail(err, ERR_FORMAT, "the vocabulary has neither \"%s\" nor the unk_token",
            error_quote(quoted, sizeof quoted, character, bytes));
    }
    if (!bpe->fuse_unknown) status = end_unknown(bpe, scratch, out, err);
    scratch->unknown_waits = true;
    return status;
}

/* The token of a character, or NO_ENTRY. */
static uint32_t symbol_of(const struct bpe *bpe, const char *character, unsigned length)
{
    const uint32_t point = utf8_code_point(character, length);

    return point < BPE_DIRECT ? bpe->direct[point]
                              : vocabulary_find_model(bpe->vocabulary, character, length);
}

static enum status add_character(const struct bpe *bpe, struct bpe_scratch *scratch, const char *character,
    unsigned length, struct id_list *out, struct error *err)
{
    const uint32_t symbol = symbol_of(bpe, character, length);
    enum status status;

    if (symbol == NO_ENTRY) return add_unknown(bpe, scratch, character, length, out, err);
    status = end_unknown(bpe, scratch, out, err);
    return status == OK ? add_symbol(bpe, scratch, symbol, out, err) : status;
}

enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, uint64_t bytes,
    struct id_list *out, struct error *err)
{
    enum status status = OK;

    if (bpe->ignore_merges) {
        uint32_t entry = vocabulary_find_model(bpe->vocabulary, word, bytes);
        if (entry != NO_ENTRY) return id_list_add(out, bpe->vocabulary->entries[entry].id, err);
    }
    scratch->count = 0;
    scratch->unknown_waits = false;
    for (uint64_t at = 0; at < bytes && status == OK;) {
        unsigned length = unicode_length(word[at]);
        status = add_character(bpe, scratch, word + at, length, out, err);
        at += length;
    }
    if (status == OK) status = end_unknown(bpe, scratch, out, err);
    return status == OK ? end_chunk(bpe, scratch, out, err) : status;
}

/* ---- how a word is made ---- */

static enum status end_run(
    const struct bpe *bpe, struct bpe_scratch *scratch, uint64_t *symbols, struct error *err)
{
    enum status status = merge_chunk(bpe, scratch, err);

    *symbols += scratch->count;
    scratch->count = 0;
    return status;
}

enum status bpe_trace(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, uint64_t bytes,
    uint64_t *symbols, uint32_t *rank, struct error *err)
{
    enum status status = OK;

    *symbols = scratch->count = 0;
    for (uint64_t at = 0; at < bytes && status == OK;) {
        const unsigned length = unicode_length(word[at]);
        const uint32_t symbol = symbol_of(bpe, word + at, length);
        at += length;
        if (symbol != NO_ENTRY) {
            status = push_symbol(scratch, symbol, err);
            continue;
        }
        status = end_run(bpe, scratch, symbols, err);
        ++*symbols;
    }
    if (status == OK) status = end_run(bpe, scratch, symbols, err);
    *rank = scratch->last_rank;
    return status;
}
