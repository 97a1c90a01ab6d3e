/* Writes a Llama checkpoint as llama2.c's export.py does. It knows the format by itself, on purpose: tests of our reader should not
 * be fed by our own writer. */
#ifndef NIBBLE_TESTS_SUPPORT_LLAMA2C_FILE_H
#define NIBBLE_TESTS_SUPPORT_LLAMA2C_FILE_H

#include <stdint.h>

struct container;

/* The file in memory (owner: the caller, memory_free). checkpoint: Hugging Face names, F32, mapped; size: dim, hidden_dim, n_layers,
 * n_heads, n_kv_heads, vocab_size, seq_len; group: of version 2. Whatever fails ends the program. */
uint8_t *llama2c_file_make(
    uint64_t *count, const struct container *checkpoint, const int32_t size[7], int version, uint32_t group);

/* A tokenizer.bin of `count` made-up tokens, the first 259 as in any Llama 2 vocabulary (memory_free). */
uint8_t *llama2c_file_tokens(uint64_t *bytes, uint32_t count);

#endif
