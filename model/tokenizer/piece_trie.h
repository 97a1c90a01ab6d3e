/* The pieces of a vocabulary as a tree of bytes: all pieces that begin a text are found in one walk along it. */
#ifndef NIBBLE_MODEL_TOKENIZER_PIECE_TRIE_H
#define NIBBLE_MODEL_TOKENIZER_PIECE_TRIE_H

#include "model/tokenizer/vocabulary.h"

enum { PIECE_BYTES_LIMIT = 1024 }; /* of one piece: a walk takes so many steps at most */

struct piece_node {
    uint32_t children; /* the first of child_count nodes side by side, sorted by byte */
    uint32_t entry;    /* the piece that ends here, or NO_ENTRY */
    uint16_t child_count;
    uint8_t byte; /* by which this node is reached */
};

/* Zero-initialise; release with piece_trie_free. Node 0 is the root; empty if there are no nodes. */
struct piece_trie {
    struct piece_node *nodes;
    uint64_t count, capacity;
};

/* The model's own tokens of a vocabulary; empty ones are left out. ERR_UNSUPPORTED: a piece above the limit, by its id. */
enum status piece_trie_build(struct piece_trie *trie, const struct vocabulary *vocabulary, struct error *err);
void piece_trie_free(struct piece_trie *trie);

/* The child of a node, or 0 where there is none. */
static inline uint32_t piece_trie_step(const struct piece_trie *trie, uint32_t node, uint8_t byte)
{
    uint32_t low = trie->nodes[node].children, high = low + trie->nodes[node].child_count, end = high;

    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (trie->nodes[middle].byte < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && trie->nodes[low].byte == byte ? low : 0;
}

#endif
