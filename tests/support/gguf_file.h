/* Writes GGUF files piece by piece, so that a test can make exactly the file it needs. It knows the format by itself, on
 * purpose: tests of our reader should not be fed by our own writer. */
#ifndef NIBBLE_TESTS_SUPPORT_GGUF_FILE_H
#define NIBBLE_TESTS_SUPPORT_GGUF_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct gguf_bytes {
    uint8_t *bytes;
    uint64_t count, capacity;
};

/* Zero-initialise; release with gguf_file_free. Whatever fails ends the program. */
struct gguf_file {
    struct gguf_bytes pairs, tensors, data;
    uint64_t pair_count, tensor_count;
};

void gguf_file_string(struct gguf_file *file, const char *key, const char *text);
void gguf_file_u32(struct gguf_file *file, const char *key, uint32_t value);
void gguf_file_f32(struct gguf_file *file, const char *key, float value);
void gguf_file_bool(struct gguf_file *file, const char *key, bool value);
void gguf_file_strings(struct gguf_file *file, const char *key, const char *const *texts, uint64_t count);
void gguf_file_bools(struct gguf_file *file, const char *key, const bool *values, uint64_t count);
void gguf_file_i32s(struct gguf_file *file, const char *key, const int32_t *values, uint64_t count);
void gguf_file_f32s(struct gguf_file *file, const char *key, const float *values, uint64_t count);

/* rows 0: a vector of cols. type: GGUF's number. data [bytes] */
void gguf_file_tensor(struct gguf_file *file, const char *name, uint64_t rows, uint64_t cols, uint32_t type,
    const void *data, uint64_t bytes);

/* `count` matrices [rows][cols] as one tensor of rank 3. */
void gguf_file_stack(struct gguf_file *file, const char *name, uint64_t count, uint64_t rows, uint64_t cols,
    uint32_t type, const void *data, uint64_t bytes);

/* Write the whole file. */
void gguf_file_store(const struct gguf_file *file, const char *path);
void gguf_file_free(struct gguf_file *file);

#endif
