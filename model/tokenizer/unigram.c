/* See unigram.h. The best way to a place in the word is its last piece and the best way to where that begins. Where no piece
 * reaches across a place, all ways lead through it: the ids up to there are appended, and only its score is kept. */
#include "model/tokenizer/unigram.h"

#include "base/memory.h"
#include "model/tokenizer/unicode.h"

/* The best way to a place. */
struct unigram_node {
    double score;
    uint32_t length; /* of its last piece, in bytes; 0: no way is known yet */
    uint32_t entry;
};

/* One word on its way. */
struct walk {
    const struct unigram *unigram;
    struct unigram_scratch *scratch;
    const char *word;
    uint64_t bytes;
    uint64_t base, reach;                /* nodes[0] is the place `base`; places up to `reach` have a node */
    uint64_t unknown_begin, unknown_end; /* characters without a piece, not yet appended */
    struct id_list *out;
};

void unigram_scratch_free(struct unigram_scratch *scratch)
{
    memory_free(scratch->nodes);
    memory_free(scratch->path);
    *scratch = (struct unigram_scratch){0};
}

/* ---- ids ---- */

static bool has_byte_tokens(const struct unigram *unigram, const char *text, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (unigram->byte_tokens[(uint8_t)text[i]] == NO_ENTRY) return false;
    }
    return unigram->byte_fallback;
}

static enum status append_entry(struct walk *walk, uint32_t entry, struct error *err)
{
    return id_list_add(walk->out, walk->unigram->vocabulary->entries[entry].id, err);
}

/* Append the unknown characters that wait. Together they may be a token after all, or bytes. */
static enum status end_unknown(struct walk *walk, struct error *err)
{
    const struct unigram *unigram = walk->unigram;
    const char *text = walk->word + walk->unknown_begin;
    const uint64_t bytes = walk->unknown_end - walk->unknown_begin;
    enum status status = OK;

    if (bytes == 0) return OK;
    walk->unknown_begin = walk->unknown_end;
    const uint32_t entry = vocabulary_find_model(unigram->vocabulary, text, bytes);
    if (entry != NO_ENTRY) return append_entry(walk, entry, err);
    if (!has_byte_tokens(unigram, text, bytes)) return append_entry(walk, unigram->unknown, err);
    for (uint64_t i = 0; i < bytes && !status; i++)
        status = append_entry(walk, unigram->byte_tokens[(uint8_t)text[i]], err);
    return status;
}

static enum status append_piece(
    struct walk *walk, uint32_t entry, uint64_t begin, uint64_t end, struct error *err)
{
    if (entry == walk->unigram->unknown) {
        if (walk->unknown_begin == walk->unknown_end) walk->unknown_begin = begin;
        walk->unknown_end = end;
        return OK;
    }
    const enum status status = end_unknown(walk, err);
    return status ? status : append_entry(walk, entry, err);
}

/* ---- ways ---- */

/* The node of a place that is `length` bytes on. */
static enum status node_at(struct walk *walk, struct unigram_node **out, uint64_t place, struct error *err)
{
    struct unigram_scratch *scratch = walk->scratch;

    if (memory_grow(
            &scratch->nodes, &scratch->capacity, place - walk->base + 1, sizeof *scratch->nodes, err) != OK)
        return ERR_MEMORY;
    for (; walk->reach < place; walk->reach++)
        scratch->nodes[walk->reach + 1 - walk->base].length = 0;
    *out = &scratch->nodes[place - walk->base];
    return OK;
}

/* A way to `place` whose last piece begins at `from`. */
static enum status offer(
    struct walk *walk, uint64_t from, uint64_t place, uint32_t entry, double score, struct error *err)
{
    struct unigram_node *node;
    enum status status = node_at(walk, &node, place, err);

    if (status) return status;
    const double sum = score + walk->scratch->nodes[from - walk->base].score;
    if (node->length && !(sum > node->score)) return OK;
    if (entry == NO_ENTRY)
        return fail(err, ERR_FORMAT, "a character has no token, and the model has no unk_id");
    *node = (struct unigram_node){sum, (uint32_t)(place - from), entry};
    return OK;
}

/* Offer every piece that begins at a place, and the character that stands there if it is none. */
static enum status offer_all(struct walk *walk, uint64_t from, unsigned character, struct error *err)
{
    const struct unigram *unigram = walk->unigram;
    bool single = false;
    uint32_t node = 0;
    enum status status = OK;

    for (uint64_t at = from; at < walk->bytes && !status;) {
        node = piece_trie_step(&unigram->trie, node, (uint8_t)walk->word[at++]);
        if (!node) break;
        const uint32_t entry = unigram->trie.nodes[node].entry;
        if (entry == NO_ENTRY) continue;
        single |= at - from == character;
        status = offer(walk, from, at, entry, unigram->scores[entry], err);
    }
    if (single || status) return status;
    return offer(walk, from, from + character, unigram->unknown, unigram->unknown_score, err);
}

/* All ways lead through `place`: append what lies before it, and go on from there. */
static enum status settle(struct walk *walk, uint64_t place, struct error *err)
{
    struct unigram_scratch *scratch = walk->scratch;
    uint64_t count = 0, begin = walk->base;
    enum status status = OK;

    for (uint64_t at = place; at > walk->base && !status; at -= scratch->nodes[at - walk->base].length) {
        status = memory_grow(&scratch->path, &scratch->path_capacity, count + 1, sizeof *scratch->path, err);
        if (!status) scratch->path[count++] = (uint32_t)(at - walk->base);
    }
    while (count > 0 && !status) {
        const uint64_t end = walk->base + scratch->path[--count];
        status = append_piece(walk, scratch->nodes[end - walk->base].entry, begin, end, err);
        begin = end;
    }
    scratch->nodes[0] = scratch->nodes[place - walk->base];
    walk->base = place;
    return status;
}

enum status unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch, const char *word,
    uint64_t bytes, struct id_list *out, struct error *err)
{
    struct walk walk = {.unigram = unigram, .scratch = scratch, .word = word, .bytes = bytes, .out = out};
    enum status status = memory_grow(&scratch->nodes, &scratch->capacity, 64, sizeof *scratch->nodes, err);

    if (!status) scratch->nodes[0] = (struct unigram_node){.entry = NO_ENTRY};
    for (uint64_t at = 0; at < bytes && !status;) {
        const unsigned character = unicode_length(word[at]);
        status = offer_all(&walk, at, character, err);
        at += character;
        if (!status && at == walk.reach) status = settle(&walk, at, err);
    }
    return status ? status : end_unknown(&walk, err);
}
