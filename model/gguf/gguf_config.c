/* Every key is looked up once; what is absent and has no default in GGUF stays absent, and config_parse misses it by its own
 * name. Keys that would change the result and are not known here are refused. */
#include "model/gguf/gguf_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/gguf/gguf_names.h"
#include "model/gguf/gguf_rope.h"

enum { KEY_BYTES = 128 };

/* One row per architecture. */
static const struct gguf_family families[] = {
    {.name = "llama",
        .architecture = "LlamaForCausalLM",
        .sliding = "MistralForCausalLM",
        .interleaved = true,
        .output_bias = true,
        .window_ignored = true},
    {.name = "llama",
        .architecture = "MixtralForCausalLM",
        .sliding = "MixtralForCausalLM",
        .interleaved = true,
        .window_ignored = true,
        .experts = true,
        .normed_routing = true},
    {.name = "qwen2", .architecture = "Qwen2ForCausalLM"},
    {.name = "qwen3", .architecture = "Qwen3ForCausalLM"},
    {.name = "gemma2",
        .architecture = "Gemma2ForCausalLM",
        .sliding = "Gemma2ForCausalLM",
        .scalar_layers = 46,
        .window_assumed = true,
        .head = GGUF_HEAD_TIED},
    {.name = "phi3",
        .architecture = "Phi3ForCausalLM",
        .sliding = "Phi3ForCausalLM",
        .longrope = true,
        .window_ignored = true},
    {.name = "olmo2", .architecture = "Olmo2ForCausalLM", .head = GGUF_HEAD_OWN},
    {.name = "stablelm", .architecture = "StableLmForCausalLM", .head = GGUF_HEAD_OWN},
    {.name = "gemma3",
        .architecture = "Gemma3ForCausalLM",
        .sliding = "Gemma3ForCausalLM",
        .scalar_layers = 62},
    {.name = "qwen2moe", .architecture = "Qwen2MoeForCausalLM", .head = GGUF_HEAD_OWN, .experts = true},
    {.name = "qwen3moe", .architecture = "Qwen3MoeForCausalLM", .experts = true, .normed_routing = true},
    {.name = "gptneox", .architecture = "GPTNeoXForCausalLM", .output_bias = true, .head = GGUF_HEAD_OWN},
    {.name = "gpt2", .architecture = "GPT2LMHeadModel", .output_bias = true},
};

const struct gguf_family *gguf_config_family(const struct architecture *architecture)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct gguf_family *family = &families[i];
        if (strcmp(family->architecture, architecture->name) == 0 ||
            (family->sliding && strcmp(family->sliding, architecture->name) == 0))
            return family;
    }
    return NULL;
}

struct source {
    struct container *container;
    const struct metadata *metadata;
    const struct gguf_family *family;
    const struct architecture *architecture;
    struct json_writer json;
};

/* "llama.block_count" */
static const char *key_of(char key[KEY_BYTES], const struct source *in, const char *suffix)
{
    snprintf(key, KEY_BYTES, "%s.%s", in->family->name, suffix);
    return key;
}

/* ---- architecture ---- */

/* The names of all families, each once. */
static const char *known_names(char *out, size_t out_bytes)
{
    size_t used = 0;

    for (size_t i = 0; i < sizeof families / sizeof *families && used < out_bytes; i++) {
        if (i && strcmp(families[i].name, families[i - 1].name) == 0) continue;
        used += (size_t)snprintf(out + used, out_bytes - used, "%s%s", i ? ", " : "", families[i].name);
    }
    return out;
}

/* Of two families of one name the one that has experts, or has none, as the file does. */
static enum status find_family(struct source *in, struct error *err)
{
    const char *name = NULL;
    uint64_t bytes = 0, experts = 0;
    char quoted[64], known[256], key[KEY_BYTES];
    enum status status = metadata_get_string(in->metadata, "general.architecture", &name, &bytes, err);

    if (status) return status;
    if (!name) return fail(err, ERR_FORMAT, "general.architecture is missing");
    for (size_t i = 0; i < sizeof families / sizeof *families && !status; i++) {
        if (strlen(families[i].name) != bytes || memcmp(families[i].name, name, bytes) != 0) continue;
        if (in->family && families[i].experts != (experts != 0)) continue;
        in->family = &families[i];
        status = metadata_get_u64(in->metadata, key_of(key, in, "expert_count"), 0, INT64_MAX, &experts, err);
    }
    if (status || in->family) return status;
    return fail(err, ERR_UNSUPPORTED, "general.architecture: %s is not run or converted (known: %s)",
        error_quote(quoted, sizeof quoted, name, bytes < 64 ? bytes : 64), known_names(known, sizeof known));
}

/* Keys under which the same tensors would mean something else, unless they hold the number that means nothing. */
static enum status refuse_features(const struct source *in, struct error *err)
{
    static const struct {
        const char *suffix;
        double nothing;
    } features[] = {{"expert_count", 0}, {"expert_gating_func", 1}, {"expert_weights_scale", 1},
        {"expert_group_count", 1}, {"attention.scale", 0}, {"attention.clamp_kqv", 0},
        {"attention.max_alibi_bias", 0}, {"logit_scale", 0}, {"residual_scale", 0}, {"embedding_scale", 0},
        {"rope.scaling.attn_factor", 1}, {"rope.scaling.yarn_log_multiplier", 0},
        {"rope.scaling.yarn_ext_factor", -1}, {"rope.scaling.yarn_attn_factor", 1},
        {"rope.scaling.yarn_beta_fast", 32}, {"rope.scaling.yarn_beta_slow", 1}};
    char key[KEY_BYTES];

    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        double value = features[i].nothing;
        enum status status = metadata_get_number(
            in->metadata, key_of(key, in, features[i].suffix), -INFINITY, INFINITY, &value, err);
        if (status) return status;
        if (in->family->longrope && strcmp(features[i].suffix, "rope.scaling.attn_factor") == 0) continue;
        if (in->family->experts && strcmp(features[i].suffix, "expert_count") == 0) continue;
        if (value != features[i].nothing)
            return fail(err, ERR_UNSUPPORTED, "%s: %g is not supported", key, value);
    }
    return OK;
}

/* ---- numbers ---- */

/* A whole number; *found is false where there is none. One value per layer is refused. */
static enum status get_size(
    uint64_t *value, bool *found, const struct source *in, const char *suffix, struct error *err)
{
    char key[KEY_BYTES];
    const struct metadata_item *item = metadata_find(in->metadata, key_of(key, in, suffix));

    *found = item != NULL;
    if (item && item->type == METADATA_ARRAY)
        return fail(err, ERR_UNSUPPORTED, "%s: one value for every layer is not supported", key);
    return metadata_get_u64(in->metadata, key, 0, INT64_MAX, value, err);
}

static enum status put_size(
    struct source *in, const char *suffix, const char *name, bool required, struct error *err)
{
    uint64_t value = 0;
    bool found;
    enum status status = get_size(&value, &found, in, suffix, err);

    if (status) return status;
    if (!found && required) return fail(err, ERR_FORMAT, "%s.%s is missing", in->family->name, suffix);
    if (found) json_put_u64(&in->json, name, value);
    return OK;
}

static enum status put_number(
    struct source *in, const char *suffix, const char *name, bool required, struct error *err)
{
    char key[KEY_BYTES];
    const struct metadata_item *item = metadata_find(in->metadata, key_of(key, in, suffix));
    double value = 0;
    enum status status = metadata_get_number(in->metadata, key, -INFINITY, INFINITY, &value, err);

    if (status) return status;
    if (!item && required) return fail(err, ERR_FORMAT, "%s is missing", key);
    if (item) json_put_number(&in->json, name, value);
    return OK;
}

/* key_length, else hidden / heads; value_length and rope.dimension_count must be the same. */
static enum status put_head_size(struct source *in, struct gguf_config *out, struct error *err)
{
    static const char *const same[] = {"attention.value_length", "rope.dimension_count"};
    uint64_t heads = 0, hidden = 0;
    bool found;
    enum status status = get_size(&out->head_size, &found, in, "attention.key_length", err);

    if (!status && !found) status = get_size(&heads, &found, in, "attention.head_count", err);
    if (!status && heads) status = get_size(&hidden, &found, in, "embedding_length", err);
    if (heads && hidden % heads == 0) out->head_size = hidden / heads;
    for (size_t i = 0; i < sizeof same / sizeof *same && !status && out->head_size; i++) {
        uint64_t value = out->head_size;
        status = get_size(&value, &found, in, same[i], err);
        if (!status && i == 1 && value <= out->head_size && in->architecture->partial_rotary) {
            json_put_number(&in->json,
                in->architecture->rotary_key ? in->architecture->rotary_key : "partial_rotary_factor",
                (double)value / (double)out->head_size);
            continue;
        }
        if (!status && value != out->head_size)
            status =
                fail(err, ERR_UNSUPPORTED, "%s.%s: %" PRIu64 " with heads of %" PRIu64 " is not supported",
                    in->family->name, same[i], value, out->head_size);
    }
    if (!status && out->head_size) json_put_u64(&in->json, "head_dim", out->head_size);
    return status;
}

static enum status put_epsilon(struct source *in, struct error *err)
{
    const bool centered = in->architecture->centered_norm;
    const char *name = in->architecture->short_keys ? "layer_norm_epsilon"
                       : centered                   ? "layer_norm_eps"
                                                    : "rms_norm_eps";

    return put_number(
        in, centered ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", name, true, err);
}

/* A size that is a number of the metadata, or follows from the width of a dense layer where there is none, as llama.cpp has it. */
static enum status put_width(
    struct source *in, const char *suffix, const char *name, uint64_t otherwise, struct error *err)
{
    uint64_t value = 0;
    bool found;
    enum status status = get_size(&value, &found, in, suffix, err);

    if (!status) json_put_u64(&in->json, name, found ? value : otherwise);
    return status;
}

/* What mixtures of experts have; llama.cpp's architectures know by their names whether routing is normed. */
static enum status put_experts(struct source *in, struct error *err)
{
    const struct architecture *known = in->architecture;
    uint64_t used = 0, width = 0;
    bool found;
    enum status status;

    if (!in->family->experts) return OK;
    status = put_size(in, "expert_count", known->experts_key, true, err);
    if (!status) status = put_size(in, "expert_used_count", "num_experts_per_tok", true, err);
    if (!status) status = get_size(&used, &found, in, "expert_used_count", err);
    if (!status) status = get_size(&width, &found, in, "feed_forward_length", err);
    if (!status && strcmp(known->expert_ffn_key, "intermediate_size") != 0)
        status =
            put_width(in, "expert_feed_forward_length", known->expert_ffn_key, used ? width / used : 0, err);
    if (!status && known->shared_expert)
        status =
            put_width(in, "expert_shared_feed_forward_length", "shared_expert_intermediate_size", width, err);
    if (!status && !known->normed_routing)
        json_put_bool(&in->json, "norm_topk_prob", in->family->normed_routing);
    return status;
}

static enum status put_sizes(struct source *in, struct gguf_config *out, struct error *err)
{
    static const struct {
        const char *suffix, *name, *brief; /* brief: what GPT-2 calls it */
        bool required;
    } sizes[] = {{"block_count", "num_hidden_layers", "n_layer", true},
        {"embedding_length", "hidden_size", "n_embd", true},
        {"feed_forward_length", "intermediate_size", "n_inner", true},
        {"attention.head_count", "num_attention_heads", "n_head", true},
        {"attention.head_count_kv", "num_key_value_heads", "num_key_value_heads", false},
        {"context_length", "max_position_embeddings", "n_positions", true}};
    enum status status = OK;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !status; i++)
        status = put_size(in, sizes[i].suffix, in->architecture->short_keys ? sizes[i].brief : sizes[i].name,
            sizes[i].required, err);
    if (!status) status = put_head_size(in, out, err);
    if (!status) status = put_experts(in, err);
    if (!status) status = put_epsilon(in, err);
    if (status) return status;
    return put_number(in, "rope.freq_base",
        in->architecture->theta_key ? in->architecture->theta_key : "rope_theta", false, err);
}

/* As many as the embedding has rows; a list of tokens must have as many. */
static enum status put_vocabulary(struct source *in, struct gguf_config *out, struct error *err)
{
    const struct tensor *embedding = gguf_names_find(in->container, in->architecture, ROLE_EMBEDDING, 0);
    const struct metadata_item *tokens;
    enum status status =
        metadata_get_array(in->metadata, "tokenizer.ggml.tokens", METADATA_STRING, &tokens, err);

    if (status) return status;
    if (!embedding) return fail(err, ERR_FORMAT, "tensor token_embd.weight is missing");
    out->vocabulary = embedding->shape[0];
    if (tokens && tokens->count != out->vocabulary)
        return fail(err, ERR_FORMAT,
            "tokenizer.ggml.tokens: %" PRIu64 " tokens, but token_embd.weight has %" PRIu64 " rows",
            tokens->count, out->vocabulary);
    json_put_u64(&in->json, "vocab_size", out->vocabulary);
    return OK;
}

/* ---- what a layer is made of ---- */

/* A list of one truth value per layer. */
static enum status put_layer_types(
    struct source *in, const struct metadata_item *item, const char *key, struct error *err)
{
    if (item->element != METADATA_BOOL || item->count > CONFIG_LAYER_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "%s: is no list of one truth value per layer", key);
    json_write_key(&in->json, "layer_types");
    json_open_array(&in->json);
    for (uint64_t i = 0; i < item->count; i++)
        json_write_text(&in->json, item->bytes[i] ? "sliding_attention" : "full_attention");
    json_close_array(&in->json);
    return OK;
}

/* Which layers slide, where not all do: a list, a period, or as the architecture always has it. */
static enum status put_pattern(struct source *in, uint64_t window, struct error *err)
{
    char key[KEY_BYTES];
    const struct metadata_item *item =
        metadata_find(in->metadata, key_of(key, in, "attention.sliding_window_pattern"));
    uint64_t period = 1; /* none */
    bool found = true;
    enum status status = OK;

    if (!window && in->family->window_assumed) return OK;
    if (window && item && item->type == METADATA_ARRAY) return put_layer_types(in, item, key, err);
    if (window) status = get_size(&period, &found, in, "attention.sliding_window_pattern", err);
    if (!status && found) json_put_u64(&in->json, "sliding_window_pattern", period);
    return status;
}

/* What scores are divided by, which GGUF leaves to the reader, and what bends scores and logits. */
static enum status put_scales(struct source *in, const struct gguf_config *config, struct error *err)
{
    uint64_t layers = 0, hidden = 0, heads = 0, scalar = config->head_size;
    bool found;
    enum status status = OK;

    if (in->family->scalar_layers) {
        status = get_size(&layers, &found, in, "block_count", err);
        if (!status) status = get_size(&hidden, &found, in, "embedding_length", err);
        if (!status) status = get_size(&heads, &found, in, "attention.head_count", err);
        if (heads && layers == in->family->scalar_layers) scalar = hidden / heads;
        if (scalar) json_put_u64(&in->json, "query_pre_attn_scalar", scalar);
    }
    if (!status) status = put_number(in, "attn_logit_softcapping", "attn_logit_softcapping", false, err);
    return status ? status : put_number(in, "final_logit_softcapping", "final_logit_softcapping", false, err);
}

static enum status put_architecture(struct source *in, struct error *err)
{
    uint64_t window = 0;
    bool found;
    enum status status = get_size(&window, &found, in, "attention.sliding_window", err);
    const char *name = window ? in->family->sliding : in->family->architecture;

    if (status) return status;
    if (!name)
        return fail(err, ERR_UNSUPPORTED, "%s.attention.sliding_window: %" PRIu64 " is not supported",
            in->family->name, window);
    in->architecture = layers_architecture(name, strlen(name));
    json_write_key(&in->json, "architectures");
    json_open_array(&in->json);
    json_write_text(&in->json, name);
    json_close_array(&in->json);
    json_put_text(&in->json, "model_type", in->architecture->model_type);
    json_put_text(&in->json, config_activation_key(in->architecture),
        config_activation_name(in->architecture->default_activation));
    if (window) json_put_u64(&in->json, "sliding_window", window);
    return in->architecture->default_window_period ? put_pattern(in, window, err) : OK;
}

static bool has(const struct source *in, enum role role)
{
    return gguf_names_find(in->container, in->architecture, role, 0) != NULL;
}

/* What the file's tensors say, and whether both halves of a layer see the same stream. */
static enum status put_features(struct source *in, struct error *err)
{
    const struct architecture *known = in->architecture;
    char key[KEY_BYTES];
    bool parallel = false;
    enum status status =
        metadata_get_bool(in->metadata, key_of(key, in, "use_parallel_residual"), &parallel, err);

    if (known->shared_norm) parallel = !has(in, ROLE_MLP_NORM);
    if (!status && (known->parallel_residual || known->shared_norm || parallel))
        json_put_bool(&in->json, "use_parallel_residual", parallel);
    json_put_bool(&in->json, "tie_word_embeddings", !has(in, ROLE_HEAD));
    if (known->attention_bias_option && !known->biases)
        json_put_bool(&in->json, "attention_bias", has(in, ROLE_Q_BIAS));
    if (known->qkv_bias_option) json_put_bool(&in->json, "use_qkv_bias", has(in, ROLE_Q_BIAS));
    if (known->qkv_bias_switch) json_put_bool(&in->json, "qkv_bias", has(in, ROLE_Q_BIAS));
    if (known->mlp_bias_option) json_put_bool(&in->json, "mlp_bias", has(in, ROLE_GATE_BIAS));
    return status;
}

/* ---- rope ---- */

static enum status put_stretch(struct source *in, const char *type, struct error *err)
{
    enum status status;

    json_write_key(&in->json, "rope_scaling");
    json_open_object(&in->json);
    json_put_text(&in->json, "rope_type", type);
    status = put_number(in, "rope.scaling.factor", "factor", true, err);
    if (!status && strcmp(type, "yarn") == 0)
        status = put_number(
            in, "rope.scaling.original_context_length", "original_max_position_embeddings", true, err);
    json_close_object(&in->json);
    return status;
}

static void put_llama3(struct source *in, const struct rope_config *rope)
{
    json_write_key(&in->json, "rope_scaling");
    json_open_object(&in->json);
    json_put_text(&in->json, "rope_type", "llama3");
    json_put_number(&in->json, "factor", rope->factor);
    json_put_number(&in->json, "low_freq_factor", rope->low_freq_factor);
    json_put_number(&in->json, "high_freq_factor", rope->high_freq_factor);
    json_put_number(&in->json, "original_max_position_embeddings", rope->original_context);
    json_close_object(&in->json);
}

/* The divisors of the frequencies, where the file has them. */
static enum status put_factors(
    struct source *in, const struct tensor *factors, const struct gguf_config *config, struct error *err)
{
    struct rope_config rope = {.theta = 10000};
    char key[KEY_BYTES];
    enum status status =
        metadata_get_number(in->metadata, key_of(key, in, "rope.freq_base"), 1.001, 1e18, &rope.theta, err);

    if (!status) status = gguf_rope_solve(&rope, in->container, factors, config->head_size, err);
    if (!status && rope.kind == ROPE_LLAMA3) put_llama3(in, &rope);
    return status;
}

/* A tensor of divisors as a list. */
static enum status put_divisors(struct source *in, const char *tensor, const char *name, struct error *err)
{
    const struct tensor *divisors = container_find(in->container, tensor);
    float values[CONFIG_ROTARY_LIMIT];
    enum status status;

    if (!divisors || divisors->storage != STORAGE_DENSE || divisors->dtype != DTYPE_F32 ||
        divisors->elements > CONFIG_ROTARY_LIMIT)
        return fail(err, ERR_FORMAT, "tensor %s is missing, or not F32 of at most %d elements", tensor,
            CONFIG_ROTARY_LIMIT);
    status = container_read(in->container, divisors, 0, values, divisors->bytes, err);
    if (status) return status;
    json_write_key(&in->json, name);
    json_open_array(&in->json);
    for (uint64_t i = 0; i < divisors->elements; i++)
        json_write_number(&in->json, (double)values[i]);
    json_close_array(&in->json);
    return OK;
}

static enum status put_longrope(struct source *in, struct error *err)
{
    enum status status;

    json_write_key(&in->json, "rope_scaling");
    json_open_object(&in->json);
    json_put_text(&in->json, "rope_type", "longrope");
    status = put_divisors(in, LAYERS_ROTARY_LONG, "long_factor", err);
    if (!status) status = put_divisors(in, LAYERS_ROTARY_SHORT, "short_factor", err);
    if (!status) status = put_number(in, "rope.scaling.attn_factor", "attention_factor", false, err);
    if (!status)
        status = put_number(
            in, "rope.scaling.original_context_length", "original_max_position_embeddings", true, err);
    json_close_object(&in->json);
    return status;
}

/* The base of the frequencies of layers that slide. */
static enum status put_sliding_rope(struct source *in, struct error *err)
{
    char key[KEY_BYTES];

    if (in->architecture->sliding_rope)
        return put_number(in, "rope.freq_base_swa", "rope_local_base_freq", false, err);
    if (!metadata_find(in->metadata, key_of(key, in, "rope.freq_base_swa"))) return OK;
    return fail(err, ERR_UNSUPPORTED, "%s is not supported with this architecture", key);
}

static enum status put_rope(struct source *in, const struct gguf_config *config, struct error *err)
{
    const struct tensor *factors = container_find(in->container, LAYERS_ROTARY_FACTORS);
    const char *type = "none";
    uint64_t bytes = 4;
    char key[KEY_BYTES], quoted[64];
    enum status status =
        metadata_get_string(in->metadata, key_of(key, in, "rope.scaling.type"), &type, &bytes, err);
    const bool none = !status && bytes == 4 && memcmp(type, "none", 4) == 0;

    if (status) return status;
    if (none && metadata_find(in->metadata, key_of(key, in, "rope.scale_linear")))
        return fail(
            err, ERR_UNSUPPORTED, "%s is not supported; write rope.scaling.type and factor instead", key);
    if (none && in->family->longrope && container_find(in->container, LAYERS_ROTARY_LONG))
        return put_longrope(in, err); /* llama.cpp's converter does not name it */
    if (none) return factors ? put_factors(in, factors, config, err) : OK;
    if (factors) return fail(err, ERR_UNSUPPORTED, "%s and tensor %s at once", key, factors->name);
    if (bytes == 8 && memcmp(type, "longrope", 8) == 0) return put_longrope(in, err);
    if (bytes == 6 && memcmp(type, "linear", 6) == 0) return put_stretch(in, "linear", err);
    if (bytes == 4 && memcmp(type, "yarn", 4) == 0) return put_stretch(in, "yarn", err);
    return fail(err, ERR_UNSUPPORTED, "%s: %s is not known (known: none, linear, yarn, longrope)", key,
        error_quote(quoted, sizeof quoted, type, bytes < 64 ? bytes : 64));
}

/* ---- tokens ---- */

/* A token's id; *found is false where there is none. */
static enum status get_id(uint64_t *id, bool *found, const struct source *in, const char *key,
    const struct gguf_config *config, struct error *err)
{
    *found = metadata_find(in->metadata, key) != NULL;
    return metadata_get_u64(in->metadata, key, 0, config->vocabulary ? config->vocabulary - 1 : 0, id, err);
}

static enum status put_stops(struct source *in, const struct gguf_config *config, struct error *err)
{
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    uint64_t ids[sizeof keys / sizeof *keys];
    size_t count = 0;
    enum status status = OK;

    json_write_key(&in->json, "eos_token_id");
    json_open_array(&in->json);
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !status; i++) {
        bool fresh;
        status = get_id(&ids[count], &fresh, in, keys[i], config, err);
        for (size_t j = 0; j < count; j++)
            fresh = fresh && ids[j] != ids[count];
        if (!status && fresh) json_write_u64(&in->json, ids[count++]);
    }
    json_close_array(&in->json);
    return status;
}

static enum status put_tokens(struct source *in, const struct gguf_config *config, struct error *err)
{
    uint64_t bos = 0, padding = 0;
    bool found;
    enum status status = get_id(&bos, &found, in, "tokenizer.ggml.bos_token_id", config, err);

    if (status) return status;
    if (found) json_put_u64(&in->json, "bos_token_id", bos);
    status = get_id(&padding, &found, in, "tokenizer.ggml.padding_token_id", config, err);
    if (!status && found) json_put_u64(&in->json, "pad_token_id", padding);
    if (!status && !found)
        json_put_text(&in->json, "pad_token_id", NULL); /* transformers has defaults for it */
    return status ? status : put_stops(in, config, err);
}

/* ---- all of it ---- */

static enum status put_all(struct source *in, struct gguf_config *out, struct error *err)
{
    enum status status;

    json_open_object(&in->json);
    status = put_architecture(in, err);
    if (!status) status = put_sizes(in, out, err);
    if (!status) status = put_vocabulary(in, out, err);
    if (!status) status = put_features(in, err);
    if (!status) status = put_scales(in, out, err);
    if (!status) status = put_sliding_rope(in, err);
    if (!status) status = put_rope(in, out, err);
    if (!status) status = put_tokens(in, out, err);
    json_close_object(&in->json);
    return status;
}

enum status gguf_config_write(
    char **text, uint64_t *bytes, struct gguf_config *out, struct container *container, struct error *err)
{
    struct source in = {
        .container = container, .metadata = container_metadata(container), .json = {.indent = 2}};
    enum status status = find_family(&in, err);

    *out = (struct gguf_config){0};
    *text = NULL;
    if (!status) status = refuse_features(&in, err);
    if (!status) status = put_all(&in, out, err);
    if (!status) out->interleaved = in.family->interleaved;
    if (!status) out->architecture = in.architecture;
    if (!status) status = json_writer_take(&in.json, text, bytes, err);
    json_writer_free(&in.json);
    return status;
}
