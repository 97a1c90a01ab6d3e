/* Models of llama2.c (github.com/karpathy/llama2.c, export.py): Llama's tensors under Meta's names, one after the other, and seven
 * numbers. All little-endian.
 *
 *   version 0   dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len: i32 (vocab_size negative: there is a
 *               classifier of its own) | tok_embeddings, attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3 (each for all
 *               layers), norm, seq_len x head_size rotary numbers that are not needed, output: f32
 *   version 1   "24ka" | 1: i32 | the seven | classifier is the embedding: u8 | zeros to byte 256 | attention_norm, ffn_norm, norm,
 *               tok_embeddings, wq, wk, wv, wo, w1, w2, w3, output: f32
 *   version 2   the same with 2 and, after the u8, group: i32 | norms: f32 | of each matrix its codes: i8, then a scale: f32 for
 *               every `group` of them
 *
 * Matrices of version 2 are shown as the F32 numbers they stand for, code x scale. Version 0 has no signature; it is known by its size,
 * which the seven numbers give to the byte. */
#ifndef NIBBLE_FORMATS_LLAMA2C_H
#define NIBBLE_FORMATS_LLAMA2C_H

#include <stdbool.h>
#include <stdint.h>

#define LLAMA2C_FORMAT "llama2.c"
/* What llama2c_recognize looks at. */
#define LLAMA2C_HEAD_BYTES 28

/* The header's numbers in the container's metadata: u64, the last a bool. */
#define LLAMA2C_DIM "llama2.c.dim"
#define LLAMA2C_HIDDEN_DIM "llama2.c.hidden_dim"
#define LLAMA2C_LAYERS "llama2.c.n_layers"
#define LLAMA2C_HEADS "llama2.c.n_heads"
#define LLAMA2C_KV_HEADS "llama2.c.n_kv_heads"
#define LLAMA2C_VOCABULARY "llama2.c.vocab_size"
#define LLAMA2C_CONTEXT "llama2.c.seq_len"
#define LLAMA2C_SHARED "llama2.c.shared_classifier"

/* The tokens beside the model: tok<vocab_size>.bin or tokenizer.bin, attached under this name. */
#define LLAMA2C_TOKENIZER "tokenizer.bin"

/* Whether a file that begins with head [count, at most LLAMA2C_HEAD_BYTES] and has file_bytes bytes is such a model: by
 * the signature, or by the size. */
bool llama2c_recognize(const uint8_t *head, uint64_t count, uint64_t file_bytes);

#endif
