/* tokenizer.json of llama2.c's tokenizer.bin: a SentencePiece BPE vocabulary, which says nothing but texts and scores.
 *
 *   longest token: i32 | per token: score: f32 | bytes: i32 | its text, with spaces for U+2581
 *
 * Token 0 is the unknown one, 1 and 2 are BOS and EOS (as "\n<s>\n" and "\n</s>\n"), <0xNN> are bytes. Source:
 * github.com/karpathy/llama2.c, tokenizer.py. */
#ifndef NIBBLE_MODEL_TOKENIZER_LLAMA2C_TOKENIZER_H
#define NIBBLE_MODEL_TOKENIZER_LLAMA2C_TOKENIZER_H

#include <stdint.h>

#include "base/error.h"

/* file [count]; it must hold exactly `vocabulary` tokens. Owner of *text: the caller, memory_free. ERR_FORMAT: another number
 * of tokens, a damaged one. ERR_UNSUPPORTED: bytes stored as characters, as the first tokenizer.py did. Errors name token and byte. */
enum status llama2c_tokenizer_write(char **text, uint64_t *bytes, const uint8_t *file, uint64_t count,
    uint64_t vocabulary, struct error *err);

#endif
