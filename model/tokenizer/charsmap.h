/* SentencePiece's table of character rewrites (precompiled_charsmap): what NFKC and its kin became when the model was trained.
 * A double array (Aoe 1989; as darts-clone lays it out) finds a text's first few bytes, and its value is where in a table of
 * strings, each ended by a NUL, the replacement begins:
 *
 *     u32 bytes of the double array | units of 32 bits | strings
 *
 * A table is a stranger's: every step stays within the units, every replacement within the strings. */
#ifndef NIBBLE_MODEL_TOKENIZER_CHARSMAP_H
#define NIBBLE_MODEL_TOKENIZER_CHARSMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "model/tokenizer/text.h"

struct charsmap;

/* Take over a table [bytes], which is copied. Owner of *out: the caller, charsmap_free. ERR_FORMAT: a length that is none, no
 * units, strings that are no UTF-8 or do not end. */
enum status charsmap_create(struct charsmap **out, const uint8_t *table, uint64_t bytes, struct error *err);
void charsmap_free(struct charsmap *map);

/* Append well-formed text, rewritten.
 *   longest  in: at each place the longest rule is taken, as sentencepiece does. Else as the `tokenizers` library does: a
 *                grapheme of less than six bytes as a whole becomes what the shortest rule at its begin says, other
 *                graphemes are rewritten character by character
 *   first    in and out: so many bytes are made of the first character of a whole input
 * ERR_FORMAT: a step or a replacement outside the table, or one that would cut a character. */
enum status charsmap_rewrite(const struct charsmap *map, struct text *out, const char *text, uint64_t bytes,
    bool longest, uint64_t *first, struct error *err);

#endif
