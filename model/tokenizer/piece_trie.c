/* See piece_trie.h. Sorted pieces that share a beginning lie side by side, so that a node is a range of them; nodes are made
 * breadth first, which puts the children of each side by side too. */
#include "model/tokenizer/piece_trie.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/memory.h"

struct piece {
    const char *content;
    uint32_t bytes, entry;
};

/* The pieces below a node: they share its first `depth` bytes. */
struct range {
    uint32_t begin, end, depth;
};

struct building {
    struct piece_trie *trie;
    struct piece *pieces;
    struct range *ranges; /* [trie->count] */
    uint64_t capacity;
};

static int compare_pieces(const void *left, const void *right)
{
    const struct piece *a = left, *b = right;
    const int order = memcmp(a->content, b->content, a->bytes < b->bytes ? a->bytes : b->bytes);

    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static enum status list_pieces(
    struct building *building, uint32_t *count, const struct vocabulary *vocabulary, struct error *err)
{
    building->pieces = memory_new(vocabulary->model_count, sizeof *building->pieces, err);
    if (!building->pieces) return ERR_MEMORY;
    *count = 0;
    for (uint32_t i = 0; i < vocabulary->model_count; i++) {
        const struct vocabulary_entry *entry = &vocabulary->entries[i];
        if (entry->bytes > PIECE_BYTES_LIMIT)
            return fail(err, ERR_UNSUPPORTED, "token %" PRIu32 ": %" PRIu32 " bytes are more than %d",
                entry->id, entry->bytes, PIECE_BYTES_LIMIT);
        if (entry->bytes == 0) continue;
        building->pieces[(*count)++] =
            (struct piece){vocabulary->contents.bytes + entry->offset, entry->bytes, i};
    }
    if (*count) qsort(building->pieces, *count, sizeof *building->pieces, compare_pieces);
    return OK;
}

static enum status add_node(struct building *building, uint8_t byte, struct range range, struct error *err)
{
    struct piece_trie *trie = building->trie;
    enum status status =
        memory_grow(&trie->nodes, &trie->capacity, trie->count + 1, sizeof *trie->nodes, err);

    if (!status)
        status = memory_grow(
            &building->ranges, &building->capacity, trie->count + 1, sizeof *building->ranges, err);
    if (status) return status;
    building->ranges[trie->count] = range;
    trie->nodes[trie->count++] = (struct piece_node){.entry = NO_ENTRY, .byte = byte};
    return OK;
}

/* Give a node its piece and its children. */
static enum status expand(struct building *building, uint32_t node, struct error *err)
{
    struct piece_trie *trie = building->trie;
    const struct range range = building->ranges[node];
    const struct piece *pieces = building->pieces;
    uint32_t at = range.begin;
    enum status status = OK;

    if (at < range.end && pieces[at].bytes == range.depth) trie->nodes[node].entry = pieces[at++].entry;
    trie->nodes[node].children = (uint32_t)trie->count;
    while (at < range.end && !status) {
        const char byte = pieces[at].content[range.depth];
        const uint32_t begin = at;
        while (at < range.end && pieces[at].content[range.depth] == byte)
            at++;
        status = add_node(building, (uint8_t)byte, (struct range){begin, at, range.depth + 1}, err);
        trie->nodes[node].child_count += !status;
    }
    return status;
}

enum status piece_trie_build(struct piece_trie *trie, const struct vocabulary *vocabulary, struct error *err)
{
    struct building building = {.trie = trie};
    uint32_t count = 0;
    enum status status = list_pieces(&building, &count, vocabulary, err);

    if (!status) status = add_node(&building, 0, (struct range){0, count, 0}, err);
    for (uint32_t node = 0; node < trie->count && !status; node++)
        status = expand(&building, node, err);
    memory_free(building.ranges);
    memory_free(building.pieces);
    return status;
}

void piece_trie_free(struct piece_trie *trie)
{
    memory_free(trie->nodes);
    *trie = (struct piece_trie){0};
}
