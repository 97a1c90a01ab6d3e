/* Writes tiny random Llama and Mixtral folders. It knows the safetensors format by itself, on purpose: tests of our
 * reader should not be fed by our own writer. */
#include "tests/support/tiny_model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/memory.h"
#include "tests/support/testing.h"

#define NAME_BYTES 96
#define PATH_BYTES 4096
#define ROUTER "block_sparse_moe.gate.weight"

/* One tensor to write. Vectors have cols 0. */
struct tiny_tensor {
    char name[NAME_BYTES];
    uint64_t rows, cols;
};

/* Everything about one folder while it is being written. */
struct tiny_writer {
    struct tiny_model options; /* defaults filled in */
    const char *folder;
    struct tiny_tensor *tensors;
    uint64_t count, capacity;
    uint64_t random;
};

static bool is_name(const char *wanted, const char *name)
{
    return wanted && strcmp(wanted, name) == 0;
}

static void fill_defaults(struct tiny_model *options)
{
    if (!options->hidden) options->hidden = 64;
    if (!options->ffn) options->ffn = 96;
    if (!options->layers) options->layers = 2;
    if (!options->heads) options->heads = 4;
    if (!options->kv_heads) options->kv_heads = 2;
    if (!options->vocabulary) options->vocabulary = 269;
    if (!options->shards) options->shards = 1;
    if (!options->dtype) options->dtype = "F32";
}

static void add_tensor(
    struct tiny_writer *writer, const char *prefix, const char *name, uint64_t rows, uint64_t cols)
{
    struct error err = {0};
    struct tiny_tensor tensor = {.rows = rows, .cols = cols};
    snprintf(tensor.name, sizeof tensor.name, "%s%s", prefix, name);
    if (is_name(writer->options.omit, tensor.name)) return;
    REQUIRE(
        memory_grow(&writer->tensors, &writer->capacity, writer->count + 1, sizeof tensor, &err) == OK, &err);
    writer->tensors[writer->count++] = tensor;
}

static void list_mixture(struct tiny_writer *writer, const char *prefix)
{
    const struct tiny_model *o = &writer->options;
    add_tensor(writer, prefix, ROUTER, o->experts, o->hidden);
    for (uint32_t expert = 0; expert < o->experts; expert++) {
        char matrix[NAME_BYTES];
        snprintf(matrix, sizeof matrix, "%sblock_sparse_moe.experts.%" PRIu32 ".", prefix, expert);
        add_tensor(writer, matrix, "w1.weight", o->ffn, o->hidden);
        add_tensor(writer, matrix, "w2.weight", o->hidden, o->ffn);
        add_tensor(writer, matrix, "w3.weight", o->ffn, o->hidden);
    }
}

static void list_tensors(struct tiny_writer *writer)
{
    const struct tiny_model *o = &writer->options;
    uint64_t kv = (uint64_t)o->hidden / o->heads * o->kv_heads;
    if (!o->under_head) add_tensor(writer, "", "model.embed_tokens.weight", o->vocabulary, o->hidden);
    for (uint32_t layer = 0; layer < o->layers; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "model.layers.%" PRIu32 ".", layer);
        add_tensor(writer, prefix, "input_layernorm.weight", o->hidden, 0);
        add_tensor(writer, prefix, "self_attn.q_proj.weight", o->hidden, o->hidden);
        add_tensor(writer, prefix, "self_attn.k_proj.weight", kv, o->hidden);
        add_tensor(writer, prefix, "self_attn.v_proj.weight", kv, o->hidden);
        add_tensor(writer, prefix, "self_attn.o_proj.weight", o->hidden, o->hidden);
        add_tensor(writer, prefix, "post_attention_layernorm.weight", o->hidden, 0);
        if (o->experts) list_mixture(writer, prefix);
        if (o->experts) continue;
        add_tensor(writer, prefix, "mlp.gate_proj.weight", o->ffn, o->hidden);
        add_tensor(writer, prefix, "mlp.up_proj.weight", o->ffn, o->hidden);
        add_tensor(writer, prefix, "mlp.down_proj.weight", o->hidden, o->ffn);
    }
    add_tensor(writer, "", "model.norm.weight", o->hidden, 0);
    if (!o->tied || o->under_head) add_tensor(writer, "", "lm_head.weight", o->vocabulary, o->hidden);
    if (o->extra) add_tensor(writer, "", o->extra, o->hidden, 0);
}

static const char *stored_dtype(const struct tiny_writer *writer, const struct tiny_tensor *tensor)
{
    return is_name(writer->options.integer, tensor->name) ? "I8" : writer->options.dtype;
}

static uint64_t dtype_bytes(const char *dtype)
{
    return strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "I8") == 0 ? 1 : 2;
}

static uint64_t elements(const struct tiny_tensor *tensor)
{
    return tensor->rows * (tensor->cols ? tensor->cols : 1);
}

/* Half precision by cutting bits off: weights are normal numbers here, and one rounding is as good as
 * another. */
static uint16_t to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 0xff, mantissa = bits >> 13 & 0x3ff;
    if (exponent == 0xff) return (uint16_t)(sign | 0x7c00 | mantissa);
    if (exponent < 113) return (uint16_t)sign;
    if (exponent > 142) return (uint16_t)(sign | 0x7bff);
    return (uint16_t)(sign | (exponent - 112) << 10 | mantissa);
}

static void store(uint8_t *at, float value, const char *dtype)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (strcmp(dtype, "F32") == 0) {
        memcpy(at, &bits, 4);
    } else if (strcmp(dtype, "I8") == 0) {
        *at = (uint8_t)(int8_t)(value * 100);
    } else {
        uint16_t half = strcmp(dtype, "BF16") == 0 ? (uint16_t)(bits >> 16) : to_half(value);
        memcpy(at, &half, 2);
    }
}

/* Of the first two rows of a router, and of the next two, one is the other's negative: whatever a token is, two experts are liked
 * better than one whose row is 0. */
static float routed(
    const struct tiny_writer *writer, const struct tiny_tensor *tensor, uint64_t index, float value)
{
    uint64_t row = index / tensor->cols, col = index % tensor->cols;
    if (!writer->options.unused_expert || !strstr(tensor->name, ROUTER)) return value;
    if (row == tensor->rows - 1) return 0;
    if (row >= 4) return value;
    value = 0.02f * (float)((row / 2 * 7 + col * 5) % 11 + 1) * ((col + row / 2) % 3 ? 1 : -1);
    return row % 2 ? -value : value;
}

static void fill_data(struct tiny_writer *writer, const struct tiny_tensor *tensor, uint8_t *data)
{
    const char *dtype = stored_dtype(writer, tensor);
    uint64_t size = dtype_bytes(dtype);
    for (uint64_t i = 0; i < elements(tensor); i++) {
        float normal = 0.05f * testing_normal(&writer->random);
        store(data + i * size, tensor->cols ? routed(writer, tensor, i, normal) : 1.0f + normal, dtype);
    }
    if (is_name(writer->options.poison, tensor->name))
        store(data + writer->options.poison_at * size, writer->options.poison_value, dtype);
}

static void describe(struct json_writer *json, const struct tiny_writer *writer,
    const struct tiny_tensor *tensor, uint64_t begin, uint64_t end)
{
    json_write_key(json, tensor->name);
    json_open_object(json);
    json_put_text(json, "dtype", stored_dtype(writer, tensor));
    json_write_key(json, "shape");
    json_open_array(json);
    if (is_name(writer->options.rank3, tensor->name)) json_write_u64(json, 1);
    json_write_u64(json, tensor->rows);
    if (tensor->cols) json_write_u64(json, tensor->cols);
    json_close_array(json);
    json_write_key(json, "data_offsets");
    json_open_array(json);
    json_write_u64(json, begin);
    json_write_u64(json, end);
    json_close_array(json);
    json_close_object(json);
}

static void describe_metadata(struct json_writer *json, const struct tiny_writer *writer)
{
    json_write_key(json, "__metadata__");
    json_open_object(json);
    json_put_text(json, "format", "pt");
    if (writer->options.under_head) json_put_text(json, "model.embed_tokens.weight", "lm_head.weight");
    json_close_object(json);
}

/* Tensors [first, last) as one safetensors file: header length, header, data. */
static void write_weights(struct tiny_writer *writer, const char *name, uint64_t first, uint64_t last)
{
    struct error err = {0};
    struct json_writer json = {0};
    char path[PATH_BYTES], *header = NULL;
    uint64_t header_bytes = 0, data_bytes = 0;

    json_open_object(&json);
    describe_metadata(&json, writer);
    for (uint64_t i = first; i < last; i++) {
        const struct tiny_tensor *tensor = &writer->tensors[i];
        uint64_t bytes = elements(tensor) * dtype_bytes(stored_dtype(writer, tensor));
        describe(&json, writer, tensor, data_bytes, data_bytes + bytes);
        data_bytes += bytes;
    }
    json_close_object(&json);
    REQUIRE(json_writer_take(&json, &header, &header_bytes, &err) == OK, &err);

    uint64_t padded = (header_bytes + 7) / 8 * 8;
    uint8_t *file = memory_new(8 + padded + data_bytes, 1, &err), *at = file + 8 + padded;
    REQUIRE(file != NULL, &err);
    memcpy(file, &padded, 8);
    memset(file + 8, ' ', padded);
    memcpy(file + 8, header, header_bytes);
    for (uint64_t i = first; i < last; i++) {
        fill_data(writer, &writer->tensors[i], at);
        at += elements(&writer->tensors[i]) * dtype_bytes(stored_dtype(writer, &writer->tensors[i]));
    }
    snprintf(path, sizeof path, "%s/%s", writer->folder, name);
    testing_write(path, file, 8 + padded + data_bytes);
    memory_free(file);
    memory_free(header);
}

static void write_json(const struct tiny_writer *writer, const char *name, struct json_writer *json)
{
    struct error err = {0};
    char path[PATH_BYTES], *text = NULL;
    uint64_t bytes = 0;
    REQUIRE(json_writer_take(json, &text, &bytes, &err) == OK, &err);
    snprintf(path, sizeof path, "%s/%s", writer->folder, name);
    testing_write(path, text, bytes);
    memory_free(text);
}

static void write_shards(struct tiny_writer *writer)
{
    struct json_writer index = {.indent = 2};
    uint64_t shards = writer->options.shards;
    json_open_object(&index);
    json_write_key(&index, "weight_map");
    json_open_object(&index);
    for (uint64_t shard = 0; shard < shards; shard++) {
        char name[64];
        uint64_t first = writer->count * shard / shards, last = writer->count * (shard + 1) / shards;
        snprintf(name, sizeof name, "model-%05" PRIu64 "-of-%05" PRIu64 ".safetensors", shard + 1, shards);
        write_weights(writer, name, first, last);
        for (uint64_t i = first; i < last; i++)
            json_put_text(&index, writer->tensors[i].name, name);
    }
    json_close_object(&index);
    json_close_object(&index);
    write_json(writer, "model.safetensors.index.json", &index);
}

static void write_config(const struct tiny_writer *writer)
{
    const struct tiny_model *o = &writer->options;
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    json_write_key(&json, "architectures");
    json_open_array(&json);
    json_write_text(&json, o->experts ? "MixtralForCausalLM" : "LlamaForCausalLM");
    json_close_array(&json);
    json_put_text(&json, "model_type", o->experts ? "mixtral" : "llama");
    if (o->experts) json_put_u64(&json, "num_local_experts", o->experts);
    if (o->experts) json_put_u64(&json, "num_experts_per_tok", 2);
    json_put_u64(&json, "hidden_size", o->hidden);
    json_put_u64(&json, "intermediate_size", o->ffn);
    json_put_u64(&json, "num_hidden_layers", o->layers);
    json_put_u64(&json, "num_attention_heads", o->heads);
    json_put_u64(&json, "num_key_value_heads", o->kv_heads);
    json_put_u64(&json, "vocab_size", o->vocabulary);
    json_put_text(&json, "hidden_act", "silu");
    json_put_number(&json, "rms_norm_eps", 1e-5);
    json_put_number(&json, "rope_theta", 10000);
    json_put_u64(&json, "max_position_embeddings", 128);
    json_put_bool(&json, "tie_word_embeddings", o->tied);
    json_put_u64(&json, "bos_token_id", 1);
    json_put_u64(&json, "eos_token_id", 2);
    json_close_object(&json);
    write_json(writer, "config.json", &json);
}

/* " " becomes U+2581. */
static void write_normalizer(struct json_writer *json)
{
    json_write_key(json, "normalizer");
    json_open_object(json);
    json_put_text(json, "type", "Replace");
    json_write_key(json, "pattern");
    json_open_object(json);
    json_put_text(json, "String", " ");
    json_close_object(json);
    json_put_text(json, "content", "\xE2\x96\x81");
    json_close_object(json);
}

/* A byte-level tokenizer of the SentencePiece kind: <unk>, <s>, </s>, then one token per byte. Any text goes
 * through. */
static void write_tokenizer(const struct tiny_writer *writer)
{
    static const char *const specials[] = {"<unk>", "<s>", "</s>"};
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    json_put_text(&json, "version", "1.0");
    json_write_key(&json, "added_tokens");
    json_open_array(&json);
    for (uint64_t i = 0; i < 3; i++) {
        json_open_object(&json);
        json_put_u64(&json, "id", i);
        json_put_text(&json, "content", specials[i]);
        json_put_bool(&json, "single_word", false);
        json_put_bool(&json, "lstrip", false);
        json_put_bool(&json, "rstrip", false);
        json_put_bool(&json, "normalized", false);
        json_put_bool(&json, "special", true);
        json_close_object(&json);
    }
    json_close_array(&json);
    if (writer->options.spaces) write_normalizer(&json);
    json_write_key(&json, "model");
    json_open_object(&json);
    json_put_text(&json, "type", "BPE");
    json_put_text(&json, "unk_token", "<unk>");
    json_put_bool(&json, "byte_fallback", true);
    json_write_key(&json, "vocab");
    json_open_object(&json);
    for (uint64_t i = 0; i < 3; i++)
        json_put_u64(&json, specials[i], i);
    for (unsigned byte = 0; byte < 256; byte++) {
        char token[8];
        snprintf(token, sizeof token, "<0x%02X>", byte);
        json_put_u64(&json, token, 3 + byte);
    }
    json_close_object(&json);
    json_write_key(&json, "merges");
    json_open_array(&json);
    json_close_array(&json);
    json_close_object(&json);
    json_close_object(&json);
    write_json(writer, "tokenizer.json", &json);
}

void tiny_model_write(const char *folder, const struct tiny_model *options)
{
    struct tiny_writer writer = {.options = *options, .folder = folder, .random = options->seed};
    struct error err = {0};
    fill_defaults(&writer.options);
    REQUIRE(mkdir(folder, 0777) == 0 || errno == EEXIST, &err);
    list_tensors(&writer);
    write_config(&writer);
    if (writer.options.vocabulary >= 260) write_tokenizer(&writer);
    if (writer.options.shards > 1) {
        write_shards(&writer);
    } else {
        write_weights(&writer, "model.safetensors", 0, writer.count);
    }
    memory_free(writer.tensors);
}

const char *tiny_model_folder(const char *name, struct tiny_model options)
{
    const char *folder = testing_path("%s", name);

    tiny_model_write(folder, &options);
    return folder;
}
