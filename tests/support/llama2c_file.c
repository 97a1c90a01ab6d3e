/* See llama2c_file.h. */
#include "tests/support/llama2c_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/container.h"
#include "tests/support/testing.h"

struct out {
    uint8_t *bytes;
    uint64_t count, capacity;
    const struct container *checkpoint;
    const int32_t *size;
    uint32_t group; /* 0: F32 */
};

static void put(struct out *out, const void *bytes, uint64_t count)
{
    struct error err;

    REQUIRE(memory_grow(&out->bytes, &out->capacity, out->count + count, 1, &err) == OK, &err);
    memcpy(out->bytes + out->count, bytes, count);
    out->count += count;
}

/* Codes and scales as quantize_q80 makes them. */
static void put_groups(struct out *out, const float *values, uint64_t count)
{
    float *scales = memory_new(count / out->group, sizeof *scales, NULL);

    REQUIRE(scales != NULL && count % out->group == 0, NULL);
    for (uint64_t i = 0; i < count; i++) {
        float *scale = &scales[i / out->group], largest = 0;
        for (uint64_t j = 0; j < out->group && i % out->group == 0; j++)
            largest = fabsf(values[i + j]) > largest ? fabsf(values[i + j]) : largest;
        if (i % out->group == 0) *scale = largest / 127.0f;
        const int8_t code = (int8_t)rintf(values[i] / *scale);
        put(out, &code, 1);
    }
    put(out, scales, count / out->group * sizeof *scales);
    memory_free(scales);
}

/* One tensor, rows of every head interleaved where `heads` is not 0. */
static void put_tensor(struct out *out, const char *name, uint32_t heads)
{
    const struct tensor *tensor = container_find(out->checkpoint, name);

    REQUIRE(tensor && tensor->dtype == DTYPE_F32 && tensor->data, NULL);
    float *values = memory_new(tensor->elements, sizeof *values, NULL);
    REQUIRE(values != NULL, NULL);
    memcpy(values, tensor->data, tensor->bytes);
    const uint64_t cols = tensor->rank == 2 ? tensor->shape[1] : 1, rows = tensor->shape[0];
    const uint64_t head = heads ? rows / heads : 0;
    for (uint64_t row = 0; head && row < rows; row++) {
        const uint64_t in = row % head, to = row - in + (in < head / 2 ? 2 * in : 2 * (in - head / 2) + 1);
        memcpy(values + to * cols, (const float *)tensor->data + row * cols, cols * sizeof *values);
    }
    if (out->group && tensor->rank == 2)
        put_groups(out, values, tensor->elements);
    else
        put(out, values, tensor->bytes);
    memory_free(values);
}

static void put_layers(struct out *out, const char *suffix, uint32_t heads)
{
    for (int layer = 0; layer < out->size[2]; layer++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, suffix);
        put_tensor(out, name, heads);
    }
}

static void put_attention(struct out *out)
{
    put_layers(out, "self_attn.q_proj", (uint32_t)out->size[3]);
    put_layers(out, "self_attn.k_proj", (uint32_t)out->size[4]);
    put_layers(out, "self_attn.v_proj", 0);
    put_layers(out, "self_attn.o_proj", 0);
}

static void put_mlp(struct out *out)
{
    put_layers(out, "mlp.gate_proj", 0);
    put_layers(out, "mlp.down_proj", 0);
    put_layers(out, "mlp.up_proj", 0);
}

static void put_first(struct out *out, bool own_head)
{
    static const float rotary[64] = {0};
    int32_t size[7];

    memcpy(size, out->size, sizeof size);
    if (own_head) size[5] = -size[5];
    put(out, size, sizeof size);
    put_tensor(out, "model.embed_tokens.weight", 0);
    put_layers(out, "input_layernorm", 0);
    put_attention(out);
    put_layers(out, "post_attention_layernorm", 0);
    put_mlp(out);
    put_tensor(out, "model.norm.weight", 0);
    for (int i = 0; i < size[6]; i++)
        put(out, rotary, (uint64_t)(size[0] / size[3]) * sizeof *rotary);
}

static void put_later(struct out *out, int32_t version, bool own_head)
{
    uint8_t header[256] = "24ka";
    const uint8_t shared = !own_head;

    memcpy(header + 4, &version, 4);
    memcpy(header + 8, out->size, 28);
    memcpy(header + 36, &shared, 1);
    memcpy(header + 37, &out->group, 4);
    put(out, header, sizeof header);
    put_layers(out, "input_layernorm", 0);
    put_layers(out, "post_attention_layernorm", 0);
    put_tensor(out, "model.norm.weight", 0);
    put_tensor(out, "model.embed_tokens.weight", 0);
    put_attention(out);
    put_mlp(out);
}

uint8_t *llama2c_file_make(
    uint64_t *count, const struct container *checkpoint, const int32_t size[7], int version, uint32_t group)
{
    const struct tensor *head = container_find(checkpoint, "lm_head.weight");
    const bool own = head && head != container_find(checkpoint, "model.embed_tokens.weight");
    struct out out = {.checkpoint = checkpoint, .size = size, .group = version == 2 ? group : 0};

    if (version == 0)
        put_first(&out, own);
    else
        put_later(&out, version, own);
    if (own) put_tensor(&out, "lm_head.weight", 0);
    *count = out.count;
    return out.bytes;
}

uint8_t *llama2c_file_tokens(uint64_t *bytes, uint32_t count)
{
    static const char *const first[] = {"<unk>", "\n<s>\n", "\n</s>\n"};
    struct out out = {0};
    const uint32_t longest = 8;

    put(&out, &longest, 4);
    for (uint32_t i = 0; i < count; i++) {
        char text[16];
        if (i < 3)
            snprintf(text, sizeof text, "%s", first[i]);
        else if (i < 259)
            snprintf(text, sizeof text, "<0x%02X>", i - 3);
        else
            snprintf(text, sizeof text, "%s%c%c", i % 2 ? " " : "", 'a' + (int)(i - 259) / 2 % 26,
                'a' + (int)(i - 259) / 52);
        if (i >= 259 && i < 259 + 27) snprintf(text, sizeof text, "%c", i == 259 ? ' ' : 'a' + (int)i - 260);
        const float score = i < 259 ? 0 : -(float)i;
        const uint32_t length = (uint32_t)strlen(text);
        put(&out, &score, 4);
        put(&out, &length, 4);
        put(&out, text, length);
    }
    *bytes = out.count;
    return out.bytes;
}
