/* GGUF files as checkpoints: each model of tests/golden/logits, written as GGUF, must give the very logits of its folder, and every
 * way in which a file may not fit is refused by name. */
#include "model/gguf/gguf_checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/file.h"
#include "convert/convert.h"
#include "model/checkpoint.h"
#include "model/forward.h"
#include "model/rope.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/gguf_file.h"
#include "tests/support/testing.h"

enum { TOKENS_MOST = 40, VALUES_MOST = 1 << 16 };

static struct pool *pool;

/* ---- a folder as a GGUF file ---- */

/* How a file differs from the sound one. */
struct variant {
    const char *architecture;            /* instead of the right one */
    const char *skip;                    /* key left out, after "<architecture>." */
    const char *skip_tensor;             /* tensor left out */
    const char *blocks;                  /* tensor stored as Q8_0 */
    bool decoded;                        /* that tensor stored as F32, with the values of those blocks */
    void (*add)(struct gguf_file *file); /* more pairs or tensors */
    bool period;                         /* which layers slide is said by `add`, not by a list */
};

static const char *const names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "token_embd.weight",
    [ROLE_POSITIONS] = "position_embd.weight",
    [ROLE_HEAD] = "output.weight",
    [ROLE_FINAL_NORM] = "output_norm.weight",
    [ROLE_FINAL_NORM_BIAS] = "output_norm.bias",
    [ROLE_ATTENTION_NORM] = "attn_norm.weight",
    [ROLE_ATTENTION_NORM_BIAS] = "attn_norm.bias",
    [ROLE_Q] = "attn_q.weight",
    [ROLE_K] = "attn_k.weight",
    [ROLE_V] = "attn_v.weight",
    [ROLE_O] = "attn_output.weight",
    [ROLE_Q_BIAS] = "attn_q.bias",
    [ROLE_K_BIAS] = "attn_k.bias",
    [ROLE_V_BIAS] = "attn_v.bias",
    [ROLE_O_BIAS] = "attn_output.bias",
    [ROLE_Q_NORM] = "attn_q_norm.weight",
    [ROLE_K_NORM] = "attn_k_norm.weight",
    [ROLE_ATTENTION_POST_NORM] = "post_attention_norm.weight",
    [ROLE_MLP_NORM] = "ffn_norm.weight",
    [ROLE_MLP_NORM_BIAS] = "ffn_norm.bias",
    [ROLE_GATE] = "ffn_gate.weight",
    [ROLE_UP] = "ffn_up.weight",
    [ROLE_DOWN] = "ffn_down.weight",
    [ROLE_GATE_BIAS] = "ffn_gate.bias",
    [ROLE_UP_BIAS] = "ffn_up.bias",
    [ROLE_DOWN_BIAS] = "ffn_down.bias",
    [ROLE_MLP_POST_NORM] = "post_ffw_norm.weight",
    [ROLE_ROUTER] = "ffn_gate_inp.weight",
    [ROLE_SHARED_ROUTER] = "ffn_gate_inp_shexp.weight",
    [ROLE_EXPERT_GATE] = "ffn_gate_exps.weight",
    [ROLE_EXPERT_UP] = "ffn_up_exps.weight",
    [ROLE_EXPERT_DOWN] = "ffn_down_exps.weight",
};

/* Gate, up and down of a shared expert. */
static const char *const shared_names[] = {
    "ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"};

/* What a file calls the architecture. */
static const char *gguf_name(const struct model_config *config)
{
    const char *type = config->architecture->model_type;

    if (strcmp(type, "mistral") == 0) return "llama";
    if (strcmp(type, "mixtral") == 0) return "llama";
    if (strcmp(type, "qwen2_moe") == 0) return "qwen2moe";
    if (strcmp(type, "qwen3_moe") == 0) return "qwen3moe";
    if (strcmp(type, "gpt_neox") == 0) return "gptneox";
    return strcmp(type, "gemma3_text") == 0 ? "gemma3" : type;
}

static uint32_t type_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 0 : dtype == DTYPE_F16 ? 1 : 30;
}

/* What llama.cpp's converter does: reshape [heads, 2, head / 2, ...], swap the middle two. */
static void interleave(uint8_t *out, const uint8_t *rows, uint64_t count, uint64_t row_bytes, uint64_t head)
{
    for (uint64_t h = 0; h < count / head; h++) {
        for (uint64_t s = 0; s < 2; s++) {
            for (uint64_t i = 0; i < head / 2; i++)
                memcpy(out + (h * head + i * 2 + s) * row_bytes,
                    rows + (h * head + s * head / 2 + i) * row_bytes, row_bytes);
        }
    }
}

/* Blocks of Q8_0 with the scale 1/64, and their values. */
static uint64_t to_blocks(uint8_t *out, float *decoded, const float *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i += 32, out += 34) {
        out[0] = 0x00, out[1] = 0x24; /* half of 2^-6 */
        for (uint64_t j = 0; j < 32; j++) {
            const float code = roundf(fmaxf(-127, fminf(127, values[i + j] * 64)));
            out[2 + j] = (uint8_t)(int8_t)code;
            decoded[i + j] = code / 64;
        }
    }
    return count / 32 * 34;
}

static void add_tensor(struct gguf_file *file, const struct tensor *tensor, enum role role, uint32_t layer,
    const struct model_config *config, const struct variant *variant)
{
    const bool turned = role == ROLE_Q || role == ROLE_K || role == ROLE_Q_BIAS || role == ROLE_K_BIAS;
    const bool llama = strcmp(gguf_name(config), "llama") == 0;
    const bool gemma = config->architecture->gain_offset != 0;
    const uint8_t *data = tensor->data;
    static uint8_t turned_data[VALUES_MOST * 4], blocks[VALUES_MOST * 2];
    static float decoded[VALUES_MOST];
    uint64_t bytes = tensor->bytes;
    uint32_t type = type_of(tensor->dtype);
    const char *called = names[role];
    char name[64];

    if (config->experts && role >= ROLE_GATE && role <= ROLE_DOWN) called = shared_names[role - ROLE_GATE];
    snprintf(name, sizeof name, "%s", called);
    if (role >= ROLE_PER_LAYER) snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", layer, called);
    if (variant->skip_tensor && strcmp(variant->skip_tensor, name) == 0) return;
    REQUIRE(bytes <= sizeof turned_data, NULL);
    if (turned && llama) {
        interleave(turned_data, data, tensor->shape[0], bytes / tensor->shape[0], config->head_size);
        data = turned_data;
    }
    for (uint64_t i = 0; gemma && strstr(name, "norm") && i < tensor->elements; i++) { /* 1 + w, in F32 */
        dtype_info(tensor->dtype)->decode(&decoded[i], data + i * dtype_info(tensor->dtype)->bytes, 1);
        decoded[i] += 1;
    }
    if (gemma && strstr(name, "norm")) {
        data = (const uint8_t *)decoded;
        bytes = tensor->elements * sizeof *decoded;
        type = 0;
    }
    if (variant->blocks && strcmp(variant->blocks, name) == 0) {
        const uint64_t block_bytes =
            to_blocks(blocks, decoded, (const float *)(const void *)data, tensor->elements);
        data = variant->decoded ? (const uint8_t *)decoded : blocks;
        bytes = variant->decoded ? bytes : block_bytes;
        type = variant->decoded ? type : 8;
    }
    const bool matrix =
        tensor->rank == 2 && role != ROLE_SHARED_ROUTER; /* which older converters wrote as a vector */
    gguf_file_tensor(
        file, name, matrix ? tensor->shape[0] : 0, tensor->shape[tensor->rank - 1], type, data, bytes);
}

/* One matrix of every expert of a layer, as one tensor: F32, or Q8_0 where the variant says so. */
static void add_stack(struct gguf_file *file, const struct checkpoint *input, uint32_t layer, int which,
    const struct variant *variant)
{
    const uint32_t experts = input->config.experts;
    const struct tensor *(*matrices)[EXPERT_ROLES] = input->tensors.experts + (uint64_t)layer * experts;
    const struct tensor *first = matrices[0][which];
    static float values[VALUES_MOST], decoded[VALUES_MOST];
    static uint8_t blocks[VALUES_MOST * 2];
    char name[64];

    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", layer, names[ROLE_EXPERT_GATE + which]);
    REQUIRE(first->dtype == DTYPE_F32 && experts * first->elements <= VALUES_MOST, NULL);
    for (uint32_t i = 0; i < experts; i++)
        memcpy(values + i * first->elements, matrices[i][which]->data, first->bytes);
    const bool block = variant->blocks && strcmp(variant->blocks, name) == 0;
    const uint64_t bytes = block ? to_blocks(blocks, decoded, values, experts * first->elements) : 0;
    const uint32_t stacked = experts - (variant->skip_tensor && strcmp(variant->skip_tensor, name) == 0);
    const bool stored = block && !variant->decoded;
    gguf_file_stack(file, name, stacked, first->shape[0], first->shape[1], stored ? 8 : 0,
        stored  ? (const void *)blocks
        : block ? decoded
                : values,
        stored ? bytes : stacked * first->bytes);
}

/* Phi-3 has gate and up in one; GPT-NeoX and GPT-2 have biases of q, k and v in one. */
static bool is_fused(enum role role, const struct architecture *architecture)
{
    const bool mlp = role == ROLE_GATE || role == ROLE_UP, bias = role >= ROLE_Q_BIAS && role <= ROLE_V_BIAS;

    return (role >= ROLE_Q && role <= ROLE_V) || (mlp && !architecture->ungated) ||
           (bias && architecture->biases);
}

/* Matrices of F32 on top of one another, as Phi-3 stores them. */
static void add_fused(struct gguf_file *file, const struct checkpoint *input, uint32_t layer,
    const char *suffix, const enum role *roles, unsigned count)
{
    static uint8_t rows[VALUES_MOST * 4];
    uint64_t bytes = 0, height = 0, width = 0;
    char name[64];

    for (unsigned i = 0; i < count; i++) {
        const struct tensor *part = input->tensors.layer[layer][roles[i]];
        REQUIRE(part->dtype == DTYPE_F32 && bytes + part->bytes <= sizeof rows, NULL);
        memcpy(rows + bytes, part->data, part->bytes);
        bytes += part->bytes;
        height += part->shape[0];
        width = part->rank == 2 ? part->shape[1] : 0;
    }
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", layer, suffix);
    gguf_file_tensor(file, name, width ? height : 0, width ? width : height, 0, rows, bytes);
}

static void add_tensors(struct gguf_file *file, const struct checkpoint *input, const struct variant *variant)
{
    const struct model_config *config = &input->config;

    for (int role = 0; role < ROLE_COUNT; role++) {
        const uint32_t layers = role < ROLE_PER_LAYER ? 1 : config->layers;
        if (role == ROLE_HEAD && config->tied) continue;
        for (uint32_t layer = 0; layer < layers; layer++) {
            if (input->config.experts && role >= ROLE_EXPERT_GATE) {
                add_stack(file, input, layer, role - ROLE_EXPERT_GATE, variant);
                continue;
            }
            const struct tensor *tensor =
                role < ROLE_PER_LAYER ? input->tensors.once[role] : input->tensors.layer[layer][role];
            if (config->architecture->fused_count && is_fused((enum role)role, config->architecture))
                continue;
            if (tensor) add_tensor(file, tensor, (enum role)role, layer, config, variant);
        }
    }
    for (uint32_t layer = 0; config->architecture->fused_count && layer < config->layers; layer++) {
        if (!variant->skip_tensor || layer == 0)
            add_fused(file, input, layer, "attn_qkv.weight", (const enum role[]){ROLE_Q, ROLE_K, ROLE_V}, 3);
        if (config->architecture->biases)
            add_fused(file, input, layer, "attn_qkv.bias",
                (const enum role[]){ROLE_Q_BIAS, ROLE_K_BIAS, ROLE_V_BIAS}, 3);
        else
            add_fused(file, input, layer, "ffn_up.weight", (const enum role[]){ROLE_GATE, ROLE_UP}, 2);
    }
}

/* The divisors as llama.cpp's converter computes them for rope_type llama3. */
static void add_factors(struct gguf_file *file, const struct model_config *config, float spoil)
{
    const struct rope_config *rope = &config->rope;
    float divisors[256];
    const uint32_t half = config->head_size / 2;

    for (uint32_t i = 0; i < half; i++) {
        const double length = 2 * 3.14159265358979323846 * pow(rope->theta, 2.0 * i / config->head_size);
        const double smooth = (rope->original_context / length - rope->low_freq_factor) /
                              (rope->high_freq_factor - rope->low_freq_factor);
        divisors[i] = (float)(1 / ((1 - smooth) / rope->factor + smooth));
        if (length < rope->original_context / rope->high_freq_factor) divisors[i] = 1;
        if (length > rope->original_context / rope->low_freq_factor) divisors[i] = (float)rope->factor;
    }
    divisors[half / 2] *= spoil;
    gguf_file_tensor(file, "rope_freqs.weight", 0, half, 0, divisors, half * 4);
}

static const char *key_of(const char *architecture, const char *suffix)
{
    static char key[128];

    snprintf(key, sizeof key, "%s.%s", architecture, suffix);
    return key;
}

static void add_rope(struct gguf_file *file, const struct model_config *config, const char *name)
{
    const struct rope_config *rope = &config->rope;

    if (config->rotary) gguf_file_f32(file, key_of(name, "rope.freq_base"), (float)rope->theta);
    if (config->architecture->sliding_rope)
        gguf_file_f32(file, key_of(name, "rope.freq_base_swa"), (float)config->sliding_rope.theta);
    if (rope->kind == ROPE_LLAMA3) add_factors(file, config, 1);
    if (rope->kind == ROPE_LONGROPE) {
        const uint32_t half = config->rotary / 2;
        gguf_file_tensor(file, "rope_factors_long.weight", 0, half, 0, rope->long_divisors, half * 4);
        gguf_file_tensor(file, "rope_factors_short.weight", 0, half, 0, rope->short_divisors, half * 4);
        /* No rope.scaling.type, as llama.cpp's converter writes Phi-3; files of ours have one. */
        gguf_file_f32(file, key_of(name, "rope.scaling.attn_factor"),
            (float)sqrt(1 + log(rope->factor) / log(rope->original_context)));
        gguf_file_u32(
            file, key_of(name, "rope.scaling.original_context_length"), (uint32_t)rope->original_context);
    }
    if (rope->kind != ROPE_LINEAR && rope->kind != ROPE_YARN) return;
    gguf_file_string(file, key_of(name, "rope.scaling.type"), rope->kind == ROPE_YARN ? "yarn" : "linear");
    gguf_file_f32(file, key_of(name, "rope.scaling.factor"), (float)rope->factor);
    if (rope->kind == ROPE_YARN)
        gguf_file_u32(
            file, key_of(name, "rope.scaling.original_context_length"), (uint32_t)rope->original_context);
}

/* Which layers slide, as a list. */
static void add_pattern(struct gguf_file *file, const struct model_config *config, const char *name)
{
    bool slides[64];

    REQUIRE(config->layers <= 64, NULL);
    for (uint32_t i = 0; i < config->layers; i++)
        slides[i] = config_slides(config, i);
    gguf_file_bools(file, key_of(name, "attention.sliding_window_pattern"), slides, config->layers);
}

static void add_config(
    struct gguf_file *file, const struct model_config *config, const struct variant *variant)
{
    const char *name = gguf_name(config);
    const struct {
        const char *suffix;
        uint32_t value;
    } sizes[] = {{"block_count", config->layers}, {"embedding_length", config->hidden},
        {"feed_forward_length", config->experts ? config->dense_ffn : config->ffn},
        {"expert_count", config->experts}, {"expert_used_count", config->experts_per_token},
        {"expert_feed_forward_length", config->expert_ffn},
        {"expert_shared_feed_forward_length", config->experts ? config->ffn : 0},
        {"attention.head_count", config->heads}, {"attention.head_count_kv", config->kv_heads},
        {"attention.key_length", config->head_size}, {"attention.value_length", config->head_size},
        {"rope.dimension_count", config->rotary}, {"context_length", config->context},
        {"attention.sliding_window", config->window}};

    if (variant->architecture) name = variant->architecture;
    if (*name) gguf_file_string(file, "general.architecture", name);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].value == 0 || (variant->skip && strcmp(variant->skip, sizes[i].suffix) == 0)) continue;
        gguf_file_u32(file, key_of(name, sizes[i].suffix), sizes[i].value);
    }
    if (!variant->skip || strcmp(variant->skip, "attention.layer_norm_rms_epsilon") != 0)
        gguf_file_f32(file,
            key_of(name, config->architecture->centered_norm ? "attention.layer_norm_epsilon"
                                                             : "attention.layer_norm_rms_epsilon"),
            (float)config->norm_epsilon);
    if (config->parallel_residual) gguf_file_bool(file, key_of(name, "use_parallel_residual"), true);
    if (config->score_softcap != 0)
        gguf_file_f32(file, key_of(name, "attn_logit_softcapping"), config->score_softcap);
    if (config->logit_softcap != 0)
        gguf_file_f32(file, key_of(name, "final_logit_softcapping"), config->logit_softcap);
    add_rope(file, config, name);
    if (config->architecture->default_window_period && !variant->period) add_pattern(file, config, name);
}

static const char *golden(const char *name)
{
    char relative[256];

    snprintf(relative, sizeof relative, "golden/logits/%s", name);
    return testing_source(relative);
}

/* Write a golden folder as GGUF; returns the path. */
static const char *write_gguf(const char *name, const struct variant *variant)
{
    struct checkpoint input;
    struct gguf_file file = {0};
    struct error err = {0};
    static int number;
    const char *path = testing_path("%s-%d.gguf", name, number++);

    REQUIRE(checkpoint_open(&input, golden(name), &err) == OK, &err);
    REQUIRE(container_map(input.container, &err) == OK, &err);
    add_config(&file, &input.config, variant);
    add_tensors(&file, &input, variant);
    if (variant->add) variant->add(&file);
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    checkpoint_close(&input);
    return path;
}

/* ---- the same logits ---- */

/* Logits of so many tokens; owner: the caller. */
static float *logits_of(const char *path, uint32_t length, uint64_t *count)
{
    struct model *model = NULL;
    struct session *session = NULL;
    struct error err = {0};
    uint32_t tokens[TOKENS_MOST];

    REQUIRE(model_open(&model, path, pool, &err) == OK, &err);
    *count = length * (uint64_t)model->config.vocabulary;
    float *logits = memory_new(*count, sizeof *logits, NULL);
    float *hidden = memory_new(length * (uint64_t)model->config.hidden, sizeof *hidden, NULL);
    REQUIRE(logits && hidden, NULL);
    for (uint32_t i = 0; i < length; i++)
        tokens[i] = (i * 29 + 7) % model->config.vocabulary;
    REQUIRE(session_create(&session, model, 1, length, &err) == OK, &err);
    REQUIRE(session_step(session, hidden, tokens, length, &err) == OK, &err);
    REQUIRE(model_logits(model, logits, hidden, length, &err) == OK, &err);
    session_free(session);
    memory_free(hidden);
    model_close(model);
    return logits;
}

static void check_same(const char *path, const char *other, uint32_t length)
{
    uint64_t count, other_count;
    float *logits = logits_of(path, length, &count), *other_logits = logits_of(other, length, &other_count);

    CU_ASSERT_EQUAL(count, other_count);
    if (count != other_count || memcmp(logits, other_logits, count * sizeof(float)) != 0) {
        printf("\n  %s and %s: other logits\n", path, other);
        CU_FAIL("logits differ");
    }
    memory_free(logits);
    memory_free(other_logits);
}

static void add_period(struct gguf_file *file)
{
    gguf_file_u32(file, "gemma3.attention.sliding_window_pattern", 3);
}

static void same_logits(void)
{
    static const char *const models[] = {"llama", "llama-f16", "llama-bf16", "llama-bias", "llama-headdim",
        "llama-tied", "llama-rope-linear", "llama-rope-llama3", "llama-rope-yarn", "mistral", "qwen2",
        "qwen3", "gemma3-short", "gemma2-plain", "olmo2", "phi3", "phi3-long", "phi3-short", "stablelm",
        "mixtral", "qwen2-moe", "qwen3-moe", "neox", "gpt2", "stablelm-parallel"};
    static const struct variant sound = {0}, by_period = {.period = true, .add = add_period};

    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        check_same(golden(models[i]), write_gguf(models[i], &sound), TOKENS_MOST);
    check_same(golden("gemma3-short"), write_gguf("gemma3-short", &by_period), TOKENS_MOST);
}

/* And files that are written by ourselves. */
static void same_logits_of_ours(void)
{
    static const char *const models[] = {"gemma2-plain", "gemma3-short", "olmo2", "phi3", "phi3-long",
        "phi3-short", "stablelm", "mixtral", "qwen2-moe", "qwen3-moe", "neox", "gpt2", "gpt2-bare",
        "stablelm-parallel"};

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *path = testing_path("ours-%s.gguf", models[i]);
        const struct convert_options options = {.input = golden(models[i]),
            .output = path,
            .type = "keep",
            .force = true,
            .common = {.quiet = true, .threads = 2}};
        struct convert_result result;
        struct error err = {0};
        CHECK(convert_run(&result, &options, &err) == OK, &err);
        convert_release(&result);
        check_same(golden(models[i]), path, TOKENS_MOST);
    }
}

/* A matrix of blocks computes to the bit what its values do: as embedding, as head, with interleaved rows, with few tokens and
 * with many. */
static void blocks(void)
{
    static const char *const stored[] = {
        "token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.1.ffn_up.weight"};

    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        const struct variant variant = {.blocks = stored[i]},
                             decoded = {.blocks = stored[i], .decoded = true};
        const char *path = write_gguf("llama", &variant), *values = write_gguf("llama", &decoded);
        check_same(path, values, 3);
        check_same(path, values, TOKENS_MOST);
    }
    const struct variant experts = {.blocks = "blk.1.ffn_up_exps.weight"},
                         decoded = {.blocks = "blk.1.ffn_up_exps.weight", .decoded = true};
    check_same(write_gguf("mixtral", &experts), write_gguf("mixtral", &decoded), TOKENS_MOST);
}

/* Every range of a tensor reads as the mapped one, interleaved or not. */
static void check_ranges(const char *path)
{
    struct checkpoint input;
    struct error err = {0};
    static uint8_t part[4096];
    uint64_t random = 1;

    REQUIRE(checkpoint_open(&input, path, &err) == OK, &err);
    REQUIRE(container_map(input.container, &err) == OK, &err);
    for (uint64_t i = 0; i < container_count(input.container); i++) {
        const struct tensor *tensor = container_tensor(input.container, i);
        for (int k = 0; k < 50; k++) {
            const uint64_t at = testing_random(&random) % tensor->bytes, left = tensor->bytes - at;
            const uint64_t bytes = testing_random(&random) % (left < sizeof part ? left + 1 : sizeof part);
            REQUIRE(container_read(input.container, tensor, at, part, bytes, &err) == OK, &err);
            CU_ASSERT_TRUE(memcmp(part, (const uint8_t *)tensor->data + at, bytes) == 0);
        }
    }
    checkpoint_close(&input);
}

static void ranges(void)
{
    static const struct variant rows = {.blocks = "blk.0.attn_q.weight"},
                                experts = {.blocks = "blk.1.ffn_up_exps.weight"};

    check_ranges(write_gguf("llama", &rows));
    check_ranges(write_gguf("mixtral", &experts));
}

static void keep_in_corpus(const char *path)
{
    uint64_t count;
    char *bytes = testing_read(path, &count);

    corpus_keep("gguf_checkpoint", strrchr(path, '/') + 1, bytes, count);
    memory_free(bytes);
}

/* ---- conversion ---- */

static enum status convert(const char *input, const char *output, const char *type, struct error *err)
{
    struct convert_options options = convert_defaults();
    struct convert_result result;
    enum status status;

    options.input = input;
    options.output = output;
    options.type = type;
    options.force = true;
    options.common.quiet = true;
    options.common.threads = 2;
    status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

/* The file's checksum in the converted file's provenance. */
static void check_source(const char *path, const char *converted)
{
    struct container *container = NULL;
    struct error err = {0};
    char *text = NULL, *file, crc[16];
    uint64_t bytes, file_bytes;

    REQUIRE(container_open(&container, converted, &err) == OK, &err);
    REQUIRE(container_document(container, "provenance.json", &text, &bytes, &err) == OK && text, &err);
    file = testing_read(path, &file_bytes);
    snprintf(crc, sizeof crc, "%08" PRIx32, file_crc32(0, file, file_bytes));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, crc));
    memory_free(file);
    memory_free(text);
    container_close(container);
}

/* Whatever the file stores, converted it computes the same. */
static void conversion(void)
{
    static const struct variant sound = {0}, mixed = {.blocks = "blk.0.attn_q.weight"};
    const char *dense = write_gguf("llama", &sound), *blocked = write_gguf("llama", &mixed);
    const char *converted = testing_path("converted.nbl");
    struct error err = {0};

    CHECK(convert(dense, converted, "keep", &err) == OK, &err);
    check_same(golden("llama"), converted, TOKENS_MOST);
    check_source(dense, converted);
    CHECK(convert(blocked, converted, "f32", &err) == OK, &err);
    check_same(blocked, converted, TOKENS_MOST);
    check_source(blocked, converted);
    CHECK(convert(blocked, converted, "keep", &err) == OK, &err); /* blocks stay blocks */
    check_same(blocked, converted, TOKENS_MOST);
    check_source(blocked, converted);
}

/* ---- a whole file, small enough for the fuzz corpus ---- */

enum { SMALL = 8 }; /* tokens, channels, columns of everything */

static const char *const small_tokens[SMALL] = {"<unk>", "<s>", "</s>", "a", "b", "ab", "abab", "\xC4\xA0"};

static void add_small_config(struct gguf_file *file, const char *name)
{
    static const char *const sizes[] = {"block_count", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "context_length"};
    static const uint32_t values[] = {1, SMALL, SMALL, 2, 1, 64};

    gguf_file_string(file, "general.architecture", name);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        gguf_file_u32(file, key_of(name, sizes[i]), values[i]);
    gguf_file_f32(file, key_of(name, "attention.layer_norm_rms_epsilon"), 1e-5f);
}

static void add_small_tokenizer(struct gguf_file *file, bool pieces)
{
    static const char *const merges[] = {"a b", "ab ab"};
    static const int32_t types[SMALL] = {2, 3, 3, 1, 1, 1, 1, 4};
    static const float scores[SMALL] = {0, 0, 0, -4, -5, -2, -1, -3};

    gguf_file_string(file, "tokenizer.ggml.model", pieces ? "llama" : "gpt2");
    gguf_file_strings(file, "tokenizer.ggml.tokens", small_tokens, SMALL);
    gguf_file_i32s(file, "tokenizer.ggml.token_type", types, SMALL);
    gguf_file_u32(file, "tokenizer.ggml.bos_token_id", 1);
    gguf_file_u32(file, "tokenizer.ggml.eos_token_id", 2);
    if (pieces) gguf_file_f32s(file, "tokenizer.ggml.scores", scores, SMALL);
    if (!pieces) gguf_file_string(file, "tokenizer.ggml.pre", "qwen2");
    if (!pieces) gguf_file_strings(file, "tokenizer.ggml.merges", merges, 2);
}

static void add_small_tensors(struct gguf_file *file, bool biases, bool dense)
{
    static const enum role roles[] = {ROLE_EMBEDDING, ROLE_FINAL_NORM, ROLE_ATTENTION_NORM, ROLE_Q, ROLE_K,
        ROLE_V, ROLE_O, ROLE_MLP_NORM, ROLE_GATE, ROLE_UP, ROLE_DOWN, ROLE_Q_BIAS, ROLE_K_BIAS, ROLE_V_BIAS};
    float values[SMALL * SMALL];
    uint64_t random = 3;
    char name[64];

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const enum role role = roles[i];
        const bool vector = strstr(names[role], "norm") || strstr(names[role], "bias");
        const uint64_t rows =
            strstr(names[role], "attn_k.") || strstr(names[role], "attn_v.") ? SMALL / 2 : SMALL;
        if (strstr(names[role], "bias") && !biases) continue;
        if (role >= ROLE_GATE && role <= ROLE_DOWN && !dense) continue;
        for (size_t k = 0; k < SMALL * SMALL; k++)
            values[k] = testing_normal(&random);
        snprintf(name, sizeof name, "%s%s", role < ROLE_PER_LAYER ? "" : "blk.0.", names[role]);
        gguf_file_tensor(file, name, vector ? 0 : rows, vector ? rows : SMALL, 0, values,
            (vector ? rows : rows * SMALL) * sizeof *values);
    }
}

enum { SMALL_EXPERTS = 2 };

/* In place of gate, up and down. */
static void add_small_experts(struct gguf_file *file)
{
    static const char *const stacks[] = {
        "blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"};
    float values[SMALL_EXPERTS * SMALL * SMALL];
    uint64_t random = 5;

    for (size_t k = 0; k < sizeof values / sizeof *values; k++)
        values[k] = testing_normal(&random);
    for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++)
        gguf_file_stack(file, stacks[i], SMALL_EXPERTS, SMALL, SMALL, 0, values, sizeof values);
    gguf_file_tensor(file, "blk.0.ffn_gate_inp.weight", SMALL_EXPERTS, SMALL, 0, values,
        SMALL_EXPERTS * SMALL * sizeof *values);
    gguf_file_tensor(file, "blk.0.attn_q_norm.weight", 0, SMALL / 2, 0, values, SMALL / 2 * sizeof *values);
    gguf_file_tensor(file, "blk.0.attn_k_norm.weight", 0, SMALL / 2, 0, values, SMALL / 2 * sizeof *values);
    gguf_file_u32(file, "qwen3moe.expert_count", SMALL_EXPERTS);
    gguf_file_u32(file, "qwen3moe.expert_used_count", 1);
    gguf_file_u32(file, "qwen3moe.expert_feed_forward_length", SMALL);
}

static void check_small(
    const char *architecture, const char *text, const uint32_t *expected, uint64_t expected_count)
{
    const bool llama = strcmp(architecture, "llama") == 0, moe = strcmp(architecture, "qwen3moe") == 0;
    const float factors[] = {1, 8};
    struct gguf_file file = {0};
    struct model *model = NULL;
    struct error err = {0};
    const char *path = testing_path("small-%s.gguf", architecture);
    uint32_t *ids = NULL;
    uint64_t count = 0;

    add_small_config(&file, architecture);
    add_small_tokenizer(&file, llama);
    add_small_tensors(&file, strcmp(architecture, "qwen2") == 0, !moe);
    if (moe) add_small_experts(&file);
    if (llama) gguf_file_tensor(&file, "rope_freqs.weight", 0, 2, 0, factors, sizeof factors);
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    keep_in_corpus(path);
    REQUIRE(model_open(&model, path, pool, &err) == OK, &err);
    CU_ASSERT_EQUAL(model->config.rope.kind, llama ? ROPE_LLAMA3 : ROPE_DEFAULT);
    REQUIRE(tokenizer_encode(model->tokenizer, &ids, &count, text, strlen(text), true, &err) == OK, &err);
    CU_ASSERT_EQUAL_FATAL(count, expected_count);
    CU_ASSERT_TRUE(memcmp(ids, expected, count * sizeof *ids) == 0);
    memory_free(ids);
    memory_free(logits_of(path, TOKENS_MOST, &count));
    model_close(model);
}

static void small_files(void)
{
    check_small("llama", "abab", (const uint32_t[]){1, 0, 6}, 3);
    check_small("qwen2", "abab<s>", (const uint32_t[]){6, 1}, 2);
    check_small("qwen3moe", "abab<s>", (const uint32_t[]){6, 1}, 2);
}

/* ---- refusals ---- */

static void check_refused(const char *path, enum status expected, const char *says)
{
    struct checkpoint checkpoint;
    struct error err = {0};

    CHECK(checkpoint_open(&checkpoint, path, &err) == expected, &err);
    CHECK(strstr(err.text, path) != NULL && strstr(err.text, says) != NULL, &err);
    CU_ASSERT(strchr(err.text, '\n') == NULL);
    checkpoint_close(&checkpoint);
}

static void per_layer(struct gguf_file *file)
{
    const int32_t heads[] = {4, 4};
    gguf_file_i32s(file, "llama.attention.head_count", heads, 2);
}

static void experts(struct gguf_file *file)
{
    gguf_file_u32(file, "qwen2.expert_count", 8);
}

static void gating(struct gguf_file *file)
{
    gguf_file_u32(file, "qwen3moe.expert_gating_func", 2);
}

static void shared(struct gguf_file *file)
{
    const float values[8] = {0};
    gguf_file_tensor(file, "blk.0.ffn_up_shexp.weight", 0, 8, 0, values, sizeof values);
}

static void part(struct gguf_file *file)
{
    gguf_file_u32(file, "split.count", 3);
}

static void longrope(struct gguf_file *file)
{
    gguf_file_string(file, "llama.rope.scaling.type", "longrope");
}

static void other_width(struct gguf_file *file)
{
    gguf_file_u32(file, "phi3.feed_forward_length", 48);
}

static void other_rotation(struct gguf_file *file)
{
    gguf_file_u32(file, "llama.rope.dimension_count", 4);
}

static void few_tokens(struct gguf_file *file)
{
    const char *const tokens[] = {"a", "b", "c"};
    gguf_file_strings(file, "tokenizer.ggml.tokens", tokens, 3);
}

static void high_bos(struct gguf_file *file)
{
    gguf_file_u32(file, "tokenizer.ggml.bos_token_id", 1000000);
}

static void other_tensor(struct gguf_file *file)
{
    const float values[8] = {0};
    gguf_file_tensor(file, "blk.0.attn_sinks.weight", 0, 8, 0, values, sizeof values);
}

static void other_name(struct gguf_file *file)
{
    const float values[8] = {0};
    gguf_file_tensor(file, "model.norm.weight", 0, 8, 0, values, sizeof values);
}

static void strange_factors(struct gguf_file *file)
{
    const float values[4] = {1, 3, 2, 5};
    gguf_file_tensor(file, "rope_freqs.weight", 0, 4, 0, values, sizeof values);
}

static void short_factors(struct gguf_file *file)
{
    const float values[3] = {1, 1, 1};
    gguf_file_tensor(file, "rope_freqs.weight", 0, 3, 0, values, sizeof values);
}

static void unknown_tokenizer(struct gguf_file *file)
{
    gguf_file_string(file, "tokenizer.ggml.model", "bert");
}

static void window(struct gguf_file *file)
{
    gguf_file_u32(file, "qwen2.attention.sliding_window", 16);
}

static void no_heads(struct gguf_file *file)
{
    gguf_file_u32(file, "llama.attention.head_count", 0);
}

static void no_kv_heads(struct gguf_file *file)
{
    gguf_file_u32(file, "llama.attention.head_count_kv", 0);
}

static void many_layers(struct gguf_file *file)
{
    gguf_file_u32(file, "llama.block_count", UINT32_MAX);
}

static void refusals(void)
{
    static const struct {
        const char *model;
        struct variant variant;
        enum status status;
        const char *says;
    } cases[] = {
        {"llama", {.architecture = "bert"}, ERR_UNSUPPORTED, "bert is not run or converted (known: llama"},
        {"llama", {.architecture = ""}, ERR_FORMAT, "general.architecture is missing"},
        {"llama", {.skip = "block_count"}, ERR_FORMAT, "llama.block_count is missing"},
        {"llama", {.skip = "context_length"}, ERR_FORMAT, "llama.context_length is missing"},
        {"llama", {.skip = "attention.layer_norm_rms_epsilon"}, ERR_FORMAT, "rms_epsilon is missing"},
        {"llama", {.skip = "attention.head_count", .add = per_layer}, ERR_UNSUPPORTED,
            "llama.attention.head_count: one value for every layer"},
        {"llama", {.skip = "attention.head_count", .add = no_heads}, ERR_FORMAT, "num_attention_heads"},
        {"llama", {.skip = "attention.head_count_kv", .add = no_kv_heads}, ERR_FORMAT, "num_key_value_heads"},
        {"llama", {.skip = "block_count", .add = many_layers}, ERR_FORMAT, "num_hidden_layers"},
        {"qwen2", {.add = experts}, ERR_UNSUPPORTED, "qwen2.expert_count: 8"},
        {"qwen3-moe", {.add = gating}, ERR_UNSUPPORTED, "qwen3moe.expert_gating_func: 2"},
        {"qwen3-moe", {.skip = "expert_used_count"}, ERR_FORMAT, "qwen3moe.expert_used_count is missing"},
        {"qwen3-moe", {.skip_tensor = "blk.1.ffn_up_exps.weight"}, ERR_FORMAT,
            "tensor model.layers.1.mlp.experts.*.up_proj.weight has the shape [11, 16, 32], config.json says "
            "[12, 16, 32]"},
        {"qwen3-moe", {.add = shared}, ERR_FORMAT, "blk.0.ffn_up_shexp.weight is not part of this"},
        {"llama", {.add = part}, ERR_FORMAT, "split.no is missing"},
        {"llama", {.add = longrope}, ERR_FORMAT, "rope_factors_long.weight is missing"},
        {"phi3", {.skip = "feed_forward_length", .add = other_width}, ERR_FORMAT,
            "gate_up_proj.weight: its rows are not the 96 of its parts"},
        {"phi3", {.skip_tensor = "blk.1.attn_qkv.weight"}, ERR_FORMAT, "q_proj.weight is missing"},
        {"llama", {.skip = "rope.dimension_count", .add = other_rotation}, ERR_UNSUPPORTED,
            "llama.rope.dimension_count: 4 with heads of"},
        {"llama", {.add = few_tokens}, ERR_FORMAT,
            "tokenizer.ggml.tokens: 3 tokens, but token_embd.weight has"},
        {"llama", {.add = high_bos}, ERR_FORMAT, "tokenizer.ggml.bos_token_id"},
        {"llama", {.add = other_tensor}, ERR_FORMAT, "blk.0.attn_sinks.weight is not part of this Llama"},
        {"llama", {.add = other_name}, ERR_FORMAT, "duplicate tensor model.norm.weight"},
        {"llama", {.add = strange_factors}, ERR_UNSUPPORTED, "rope_freqs.weight: its rotary factors"},
        {"llama", {.add = short_factors}, ERR_UNSUPPORTED, "rope_freqs.weight: is not F32 of"},
        {"llama", {.add = unknown_tokenizer}, ERR_UNSUPPORTED, "tokenizer.ggml.model: bert is not known"},
        {"llama", {.skip_tensor = "token_embd.weight"}, ERR_FORMAT, "token_embd.weight is missing"},
        {"llama", {.skip_tensor = "blk.1.ffn_up.weight"}, ERR_FORMAT,
            "model.layers.1.mlp.up_proj.weight is missing"},
        {"llama", {.blocks = "output_norm.weight"}, ERR_UNSUPPORTED, "model.norm.weight has Q8_0 blocks"},
        {"llama-bias", {.blocks = "blk.0.attn_q.bias"}, ERR_UNSUPPORTED, "no interleaved rows"},
        {"qwen2", {.add = window}, ERR_UNSUPPORTED, "qwen2.attention.sliding_window: 16"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(write_gguf(cases[i].model, &cases[i].variant), cases[i].status, cases[i].says);
}

/* The factor's tensor is dropped for a reason, and the parameters are those of the original. */
static void factors(void)
{
    static const struct variant sound = {0};
    struct checkpoint input, original;
    struct error err = {0};

    REQUIRE(checkpoint_open(&original, golden("llama-rope-llama3"), &err) == OK, &err);
    REQUIRE(checkpoint_open(&input, write_gguf("llama-rope-llama3", &sound), &err) == OK, &err);
    CU_ASSERT_EQUAL(input.config.rope.kind, ROPE_LLAMA3);
    CU_ASSERT_EQUAL(input.config.rope.factor, original.config.rope.factor);
    CU_ASSERT_EQUAL_FATAL(input.dropped_count, 1);
    CU_ASSERT_STRING_EQUAL(input.dropped[0].tensor->name, "rope_freqs.weight");
    CU_ASSERT_STRING_EQUAL(input.dropped[0].why, "rotary factors, recomputed");
    checkpoint_close(&input);
    checkpoint_close(&original);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the same logits as the folder", same_logits},
        {"the same logits from files of ours", same_logits_of_ours},
        {"matrices of blocks", blocks},
        {"any range of rows", ranges},
        {"conversion", conversion},
        {"small files", small_files},
        {"refusals", refusals},
        {"rotary factors", factors},
    };
    struct error err = {0};
    int result;

    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    result = TESTING_RUN("gguf_checkpoint", cases);
    pool_free(pool);
    return result;
}
