/* See gguf_file.h. */
#include "tests/support/gguf_file.h"

#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

enum {
    TYPE_U32 = 4,
    TYPE_I32 = 5,
    TYPE_F32 = 6,
    TYPE_BOOL = 7,
    TYPE_STRING = 8,
    TYPE_ARRAY = 9,
    ALIGNMENT = 32
};

static void put_bytes(struct gguf_bytes *to, const void *bytes, uint64_t count)
{
    struct error err = {0};

    REQUIRE(memory_grow(&to->bytes, &to->capacity, to->count + count, 1, &err) == OK, &err);
    if (count) memcpy(to->bytes + to->count, bytes, count);
    to->count += count;
}

/* The low bytes of a number; this is a little-endian machine's test. */
static void put(struct gguf_bytes *to, uint64_t value, unsigned bytes)
{
    uint8_t low[8];

    for (unsigned i = 0; i < 8; i++)
        low[i] = (uint8_t)(value >> 8 * i);
    put_bytes(to, low, bytes);
}

static void put_string(struct gguf_bytes *to, const char *text)
{
    put(to, strlen(text), 8);
    put_bytes(to, text, strlen(text));
}

static void put_key(struct gguf_file *file, const char *key, unsigned type)
{
    put_string(&file->pairs, key);
    put(&file->pairs, type, 4);
    file->pair_count++;
}

void gguf_file_string(struct gguf_file *file, const char *key, const char *text)
{
    put_key(file, key, TYPE_STRING);
    put_string(&file->pairs, text);
}

void gguf_file_u32(struct gguf_file *file, const char *key, uint32_t value)
{
    put_key(file, key, TYPE_U32);
    put(&file->pairs, value, 4);
}

void gguf_file_f32(struct gguf_file *file, const char *key, float value)
{
    put_key(file, key, TYPE_F32);
    put_bytes(&file->pairs, &value, 4);
}

void gguf_file_bool(struct gguf_file *file, const char *key, bool value)
{
    put_key(file, key, TYPE_BOOL);
    put(&file->pairs, value, 1);
}

static void put_array(struct gguf_file *file, const char *key, unsigned element, uint64_t count)
{
    put_key(file, key, TYPE_ARRAY);
    put(&file->pairs, element, 4);
    put(&file->pairs, count, 8);
}

void gguf_file_strings(struct gguf_file *file, const char *key, const char *const *texts, uint64_t count)
{
    put_array(file, key, TYPE_STRING, count);
    for (uint64_t i = 0; i < count; i++)
        put_string(&file->pairs, texts[i]);
}

void gguf_file_bools(struct gguf_file *file, const char *key, const bool *values, uint64_t count)
{
    put_array(file, key, TYPE_BOOL, count);
    for (uint64_t i = 0; i < count; i++)
        put_bytes(&file->pairs, (const uint8_t[]){values[i]}, 1);
}

void gguf_file_i32s(struct gguf_file *file, const char *key, const int32_t *values, uint64_t count)
{
    put_array(file, key, TYPE_I32, count);
    put_bytes(&file->pairs, values, count * sizeof *values);
}

void gguf_file_f32s(struct gguf_file *file, const char *key, const float *values, uint64_t count)
{
    put_array(file, key, TYPE_F32, count);
    put_bytes(&file->pairs, values, count * sizeof *values);
}

static void align(struct gguf_bytes *bytes)
{
    while (bytes->count % ALIGNMENT)
        put(bytes, 0, 1);
}

static void put_tensor(struct gguf_file *file, const char *name, const uint64_t *dimensions, uint32_t rank,
    uint32_t type, const void *data, uint64_t bytes)
{
    align(&file->data);
    put_string(&file->tensors, name);
    put(&file->tensors, rank, 4);
    for (uint32_t i = 0; i < rank; i++)
        put(&file->tensors, dimensions[i], 8);
    put(&file->tensors, type, 4);
    put(&file->tensors, file->data.count, 8);
    put_bytes(&file->data, data, bytes);
    file->tensor_count++;
}

void gguf_file_tensor(struct gguf_file *file, const char *name, uint64_t rows, uint64_t cols, uint32_t type,
    const void *data, uint64_t bytes)
{
    put_tensor(file, name, (const uint64_t[]){cols, rows}, rows ? 2 : 1, type, data, bytes);
}

void gguf_file_stack(struct gguf_file *file, const char *name, uint64_t count, uint64_t rows, uint64_t cols,
    uint32_t type, const void *data, uint64_t bytes)
{
    put_tensor(file, name, (const uint64_t[]){cols, rows, count}, 3, type, data, bytes);
}

void gguf_file_store(const struct gguf_file *file, const char *path)
{
    struct gguf_bytes all = {0};

    put_bytes(&all, "GGUF", 4);
    put(&all, 3, 4);
    put(&all, file->tensor_count, 8);
    put(&all, file->pair_count, 8);
    put_bytes(&all, file->pairs.bytes, file->pairs.count);
    put_bytes(&all, file->tensors.bytes, file->tensors.count);
    align(&all);
    put_bytes(&all, file->data.bytes, file->data.count);
    testing_write(path, all.bytes, all.count);
    memory_free(all.bytes);
}

void gguf_file_free(struct gguf_file *file)
{
    memory_free(file->pairs.bytes);
    memory_free(file->tensors.bytes);
    memory_free(file->data.bytes);
    *file = (struct gguf_file){0};
}
