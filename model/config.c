/* config.json to struct model_config. What transformers' configuration classes and RotaryEmbeddingConfigMixin
 * accept is accepted. A key may be absent where its default is the same in all of them or shows in a tensor's
 * shape. What would change the result and is not known here is refused by name, never ignored. */
#include "model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "model/layers.h"

#define THETA_DEFAULT 10000.0
#define THETA_MINIMUM 1.001 /* the logarithm is a divisor (YaRN) */
#define THETA_MAXIMUM 1e18
#define FACTOR_MINIMUM 1e-3
#define FACTOR_MAXIMUM 1e6
#define CONTEXT_MAXIMUM INT32_MAX
#define WINDOW_LAYERS_DEFAULT 28
#define HEADS_WIDTH_LIMIT (1u << 22) /* heads * head_size */
#define FFN_LIMIT (1u << 22)

/* The document being parsed: its root, its name in messages, and the architecture once that is known. */
struct source {
    const struct json_value *root;
    const char *what;
    const struct architecture *architecture;
};

static const struct json_value *present(const struct json_value *object, const char *key)
{
    const struct json_value *value = json_member(object, key);

    return value && value->kind != JSON_NULL ? value : NULL;
}

/* ---- architecture ---- */

/* model_type decides which class transformers builds and architectures which one we do: they must say the
 * same. */
static enum status check_model_type(
    const struct source *in, const struct architecture *architecture, struct error *err)
{
    const char *type = architecture->model_type;
    enum status status = json_get_text(in->root, in->what, "model_type", &type, err);

    if (status) return status;
    if (strcmp(type, architecture->model_type) != 0)
        return fail(err, ERR_UNSUPPORTED, "%s: model_type %s with architectures %s", in->what, type,
            architecture->name);
    return OK;
}

static enum status parse_architecture(struct model_config *out, const struct source *in, struct error *err)
{
    const struct json_value *list = present(in->root, "architectures");
    const struct json_value *name = list && list->kind == JSON_ARRAY ? list->children : NULL;
    char quoted[96], known[512];

    if (!name || list->count != 1 || name->kind != JSON_STRING)
        return fail(err, ERR_FORMAT, "%s: architectures is not a list of one name", in->what);
    out->architecture = layers_architecture(name->text.bytes, name->text.count);
    if (!out->architecture)
        return fail(err, ERR_UNSUPPORTED, "%s: architecture %s is not known (known: %s)", in->what,
            error_quote(quoted, sizeof quoted, name->text.bytes, name->text.count),
            layers_architectures(known, sizeof known));
    return check_model_type(in, out->architecture, err);
}

/* Features under which the same tensors would mean something else. */
static enum status refuse_unknown(const struct source *in, struct error *err)
{
    const struct json_value *quantization = present(in->root, "quantization_config");
    const char *method = "not named";
    bool bidirectional = false;
    enum status status;

    if (quantization) {
        status = json_get_text(quantization, in->what, "quant_method", &method, err);
        if (status) return status;
        return fail(err, ERR_UNSUPPORTED,
            "%s: quantization_config: already quantized by another tool (quant_method %s)", in->what, method);
    }
    status = json_get_bool(in->root, in->what, "use_bidirectional_attention", &bidirectional, err);
    if (!status && bidirectional)
        status = fail(err, ERR_UNSUPPORTED,
            "%s: use_bidirectional_attention: only attention to what came before is known", in->what);
    return status;
}

const char *config_activation_name(enum activation activation)
{
    static const char *const names[ACTIVATION_COUNT] = {
        [ACTIVATION_SILU] = "silu",
        [ACTIVATION_GELU_TANH] = "gelu_pytorch_tanh",
        [ACTIVATION_GELU] = "gelu",
    };

    return names[activation];
}

const char *config_activation_key(const struct architecture *architecture)
{
    return architecture->activation_apart ? "hidden_activation"
           : architecture->short_keys     ? "activation_function"
                                          : "hidden_act";
}

static enum status parse_activation(struct model_config *out, const struct source *in, struct error *err)
{
    const char *key = config_activation_key(in->architecture);
    const char *name = config_activation_name(in->architecture->default_activation);
    enum status status = json_get_text(in->root, in->what, key, &name, err);

    if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_fast") == 0) /* the same function */
        name = config_activation_name(ACTIVATION_GELU_TANH);
    for (int i = 0; i < ACTIVATION_COUNT && !status; i++) {
        out->activation = (enum activation)i;
        if (strcmp(name, config_activation_name(out->activation)) == 0) return OK;
    }
    return status ? status
                  : fail(err, ERR_UNSUPPORTED,
                        "%s: %s %s is not known (known: silu, gelu_pytorch_tanh, gelu_new, gelu)", in->what,
                        key, name);
}

/* ---- sizes ---- */

static const struct size_key {
    const char *name;
    size_t offset;
    uint64_t maximum;
    bool required;
    const char *brief; /* what GPT-2 calls it; NULL: the same */
} size_keys[] = {
    {"num_hidden_layers", offsetof(struct model_config, layers), CONFIG_LAYER_LIMIT, true, "n_layer"},
    {"hidden_size", offsetof(struct model_config, hidden), 1u << 20, true, "n_embd"},
    {"intermediate_size", offsetof(struct model_config, ffn), FFN_LIMIT, true, "n_inner"},
    {"num_attention_heads", offsetof(struct model_config, heads), 1u << 16, true, "n_head"},
    {"num_key_value_heads", offsetof(struct model_config, kv_heads), 1u << 16, false, NULL},
    {"head_dim", offsetof(struct model_config, head_size), 1u << 16, false, NULL},
    {"vocab_size", offsetof(struct model_config, vocabulary), 1u << 24, true, NULL},
    {"max_position_embeddings", offsetof(struct model_config, context), CONTEXT_MAXIMUM, true, "n_positions"},
};

static enum status parse_size(
    struct model_config *out, const struct size_key *key, const struct source *in, struct error *err)
{
    uint64_t value = 0;
    uint32_t small;
    const char *name = in->architecture->short_keys && key->brief ? key->brief : key->name;
    enum status status = json_get_u64(in->root, in->what, name, 1, key->maximum, &value, err);

    if (status) return status;
    if (!value && in->architecture->short_keys && strcmp(name, "n_inner") == 0)
        value = 4 * (uint64_t)out->hidden;
    if (!value && key->required) return fail(err, ERR_FORMAT, "%s: %s is missing", in->what, name);
    small = (uint32_t)value;
    memcpy((char *)out + key->offset, &small, sizeof small);
    return OK;
}

/* head_dim absent: what the architecture says, else hidden / heads. */
static enum status derive_head_size(struct model_config *out, const struct source *in, struct error *err)
{
    if (!out->head_size) out->head_size = in->architecture->default_head_size;
    if (out->head_size) return OK;
    if (out->hidden % out->heads)
        return fail(err, ERR_FORMAT,
            "%s: hidden_size %" PRIu32 " is not a multiple of num_attention_heads %" PRIu32, in->what,
            out->hidden, out->heads);
    out->head_size = out->hidden / out->heads;
    return OK;
}

/* num_key_value_heads absent or null: as many as there are heads. Where a class of transformers has another
 * default (a fixed number), the shape of k_proj tells. */
static enum status parse_sizes(struct model_config *out, const struct source *in, struct error *err)
{
    enum status status = OK;

    for (size_t i = 0; i < sizeof size_keys / sizeof *size_keys && !status; i++)
        status = parse_size(out, &size_keys[i], in, err);
    if (!status) status = derive_head_size(out, in, err);
    if (status) return status;
    if (!out->kv_heads) out->kv_heads = out->heads;
    if (out->heads % out->kv_heads)
        return fail(err, ERR_FORMAT,
            "%s: num_attention_heads %" PRIu32 " is not a multiple of num_key_value_heads %" PRIu32, in->what,
            out->heads, out->kv_heads);
    if (out->head_size % 2)
        return fail(err, ERR_FORMAT, "%s: head_dim is %" PRIu32 ", rotation needs an even number", in->what,
            out->head_size);
    if ((uint64_t)out->heads * out->head_size > HEADS_WIDTH_LIMIT)
        return fail(err, ERR_FORMAT,
            "%s: num_attention_heads %" PRIu32 " times head_dim %" PRIu32 " is above %u", in->what,
            out->heads, out->head_size, HEADS_WIDTH_LIMIT);
    return OK;
}

/* ---- what a layer is made of ---- */

/* A switch that only some architectures have: `known` if this one does. */
static enum status parse_switch(
    bool *out, const struct source *in, const char *key, bool known, struct error *err)
{
    enum status status;

    *out = false;
    status = json_get_bool(in->root, in->what, key, out, err);
    if (status) return status;
    if (*out && !known)
        return fail(err, ERR_UNSUPPORTED, "%s: %s is true, which %s does not have", in->what, key,
            in->architecture->name);
    return OK;
}

static enum status refuse_unscaled(const struct source *in, struct error *err)
{
    bool scaled = true;
    enum status status = json_get_bool(in->root, in->what, "scale_attn_weights", &scaled, err);

    if (status || scaled) return status;
    return fail(err, ERR_UNSUPPORTED, "%s: scale_attn_weights is false, which is not supported", in->what);
}

/* The epsilon of norms has a default in the configuration classes, but a wrong one would spoil every number silently: it is
 * required. */
static enum status parse_features(struct model_config *out, const struct source *in, struct error *err)
{
    const struct architecture *known = in->architecture;
    bool qkv_bias = false, parallel = known->parallel_residual, always = known->qkv_bias_always, unknown;
    const char *epsilon = known->short_keys      ? "layer_norm_epsilon"
                          : known->centered_norm ? "layer_norm_eps"
                                                 : "rms_norm_eps";
    enum status status = json_get_number(in->root, in->what, epsilon, 1e-30, 1, &out->norm_epsilon, err);

    out->tied = known->tied_by_default;
    if (!status) status = json_get_bool(in->root, in->what, "tie_word_embeddings", &out->tied, err);
    if (!status)
        status = parse_switch(&out->attention_bias, in, "attention_bias", known->attention_bias_option, err);
    if (!status && known->biases && !present(in->root, "attention_bias")) out->attention_bias = true;
    if (!status) status = parse_switch(&qkv_bias, in, "use_qkv_bias", known->qkv_bias_option, err);
    if (!status && known->qkv_bias_switch)
        status = json_get_bool(in->root, in->what, "qkv_bias", &always, err);
    if (!status && (known->parallel_residual || known->shared_norm))
        status = json_get_bool(in->root, in->what, "use_parallel_residual", &parallel, err);
    else if (!status)
        status = parse_switch(&unknown, in, "use_parallel_residual", false, err);
    if (!status) status = parse_switch(&unknown, in, "qk_layernorm", false, err);
    if (!status) status = parse_switch(&unknown, in, "scale_attn_by_inverse_layer_idx", false, err);
    if (!status) status = parse_switch(&unknown, in, "add_cross_attention", false, err);
    if (!status && known->short_keys) status = refuse_unscaled(in, err);
    if (!status) status = parse_switch(&out->mlp_bias, in, "mlp_bias", known->mlp_bias_option, err);
    if (status) return status;
    if (out->norm_epsilon == 0) return fail(err, ERR_FORMAT, "%s: %s is missing", in->what, epsilon);
    out->parallel_residual = parallel;
    out->shared_norm = parallel && known->shared_norm;
    out->mlp_bias |= known->biases;
    out->output_bias = out->attention_bias;
    out->attention_bias |= always || qkv_bias;
    return OK;
}

/* A soft cap: absent is the architecture's, null is none. */
static enum status parse_softcap(
    float *out, const struct source *in, const char *key, bool known, double absent, struct error *err)
{
    double cap = json_member(in->root, key) ? 0 : absent;
    enum status status = json_get_number(in->root, in->what, key, 1e-3, 1e6, &cap, err);

    *out = (float)cap;
    if (status || known || cap == 0) return status;
    return fail(err, ERR_UNSUPPORTED, "%s: %s is %g, which %s does not have", in->what, key, cap,
        in->architecture->name);
}

/* What embeddings, scores and logits are multiplied or bent by. */
static enum status parse_scales(struct model_config *out, const struct source *in, struct error *err)
{
    const struct architecture *known = in->architecture;
    double scalar = known->default_query_scalar ? known->default_query_scalar : out->head_size;
    enum status status = OK;

    if (known->default_query_scalar)
        status = json_get_number(in->root, in->what, "query_pre_attn_scalar", 1e-3, 1e9, &scalar, err);
    out->score_scale = 1 / sqrtf((float)scalar);
    out->embedding_scale = known->scaled_embedding ? sqrtf((float)out->hidden) : 1;
    if (!status)
        status = parse_softcap(&out->score_softcap, in, "attn_logit_softcapping", known->score_softcap,
            known->default_score_softcap, err);
    return status ? status
                  : parse_softcap(&out->logit_softcap, in, "final_logit_softcapping", known->logit_softcap,
                        known->default_logit_softcap, err);
}

/* ---- experts ---- */

/* Qwen's mixtures may leave layers dense: all layers are alike here. */
static enum status refuse_dense_layers(const struct source *in, struct error *err)
{
    const struct json_value *dense = present(in->root, "mlp_only_layers");
    uint64_t step = 1;
    enum status status =
        json_get_u64(in->root, in->what, "decoder_sparse_step", 0, CONFIG_LAYER_LIMIT, &step, err);

    if (status) return status;
    if (step == 1 && (!dense || (dense->kind == JSON_ARRAY && dense->count == 0))) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "%s: %s: a mixture of experts in some layers and not in others is not supported", in->what,
        step == 1 ? "mlp_only_layers" : "decoder_sparse_step");
}

/* The experts of a mixture. What gate, up and down of the layer itself are then is the shared expert. */
static enum status parse_experts(struct model_config *out, const struct source *in, struct error *err)
{
    const struct architecture *known = in->architecture;
    const char *newer = "num_local_experts"; /* transformers 5, also where the class says num_experts */
    const char *count =
        known->experts_key && !present(in->root, known->experts_key) && present(in->root, newer)
            ? newer
            : known->experts_key;
    const struct size_key keys[] = {
        {count, offsetof(struct model_config, experts), CONFIG_EXPERT_LIMIT, true, NULL},
        {"num_experts_per_tok", offsetof(struct model_config, experts_per_token), CONFIG_EXPERT_LIMIT, true,
            NULL},
        {known->expert_ffn_key, offsetof(struct model_config, expert_ffn), FFN_LIMIT, true, NULL},
        {"shared_expert_intermediate_size", offsetof(struct model_config, ffn), FFN_LIMIT, true, NULL},
    };
    enum status status = OK;

    if (!known->experts_key) return OK;
    out->dense_ffn = out->ffn;
    out->ffn = 0;
    for (int i = 0; i < 3 + known->shared_expert && !status; i++)
        status = parse_size(out, &keys[i], in, err);
    out->normed_routing = known->normed_routing;
    if (!status && !known->normed_routing)
        status = json_get_bool(in->root, in->what, "norm_topk_prob", &out->normed_routing, err);
    if (status) return status;
    if (out->experts_per_token > out->experts)
        return fail(err, ERR_FORMAT, "%s: num_experts_per_tok %" PRIu32 " is above the %" PRIu32 " experts",
            in->what, out->experts_per_token, out->experts);
    return refuse_dense_layers(in, err);
}

/* ---- sliding window ---- */

static void set_slides(struct model_config *out, uint32_t layer, bool slides)
{
    if (slides) out->window_layers[layer / 32] |= UINT32_C(1) << layer % 32;
}

bool config_slides(const struct model_config *config, uint32_t layer)
{
    return config->window && config->window_layers[layer / 32] >> layer % 32 & 1;
}

/* layer_types says for every layer whether it slides; it replaces max_window_layers, and must agree with an
 * architecture that leaves no choice. */
static enum status parse_layer_types(
    struct model_config *out, const struct source *in, const struct json_value *types, struct error *err)
{
    const struct json_value *type = types->kind == JSON_ARRAY ? types->children : NULL;
    char quoted[64];

    if (!type || types->count != out->layers)
        return fail(
            err, ERR_FORMAT, "%s: layer_types is not a list of %" PRIu32 " names", in->what, out->layers);
    memset(out->window_layers, 0, sizeof out->window_layers);
    for (uint32_t layer = 0; layer < out->layers; layer++, type = type->next) {
        bool slides = json_is_text(type, "sliding_attention");

        if (type->kind != JSON_STRING)
            return fail(err, ERR_FORMAT, "%s: layer_types[%" PRIu32 "] is not a name", in->what, layer);
        if (!slides && !json_is_text(type, "full_attention"))
            return fail(err, ERR_UNSUPPORTED, "%s: layer_types[%" PRIu32 "] %s is not known", in->what, layer,
                error_quote(quoted, sizeof quoted, type->text.bytes, type->text.count));
        if (slides && !out->window)
            return fail(err, ERR_FORMAT,
                "%s: layer_types[%" PRIu32 "] slides, but there is no sliding_window", in->what, layer);
        if (!slides && out->window && in->architecture->window_by_default &&
            !in->architecture->default_window_period)
            return fail(err, ERR_UNSUPPORTED,
                "%s: layer_types[%" PRIu32 "] does not slide, as every layer of %s does", in->what, layer,
                in->architecture->name);
        set_slides(out, layer, slides);
    }
    return OK;
}

/* Of how many layers the last does not slide: a number under either name. */
static enum status parse_period(uint64_t *out, const struct source *in, struct error *err)
{
    enum status status =
        json_get_u64(in->root, in->what, "_sliding_window_pattern", 1, CONFIG_LAYER_LIMIT, out, err);

    return status
               ? status
               : json_get_u64(in->root, in->what, "sliding_window_pattern", 1, CONFIG_LAYER_LIMIT, out, err);
}

/* sliding_window: null means none, absent means the class's default. LlamaForCausalLM has no such thing and
 * ignores it. */
static enum status parse_window(struct model_config *out, const struct source *in, struct error *err)
{
    const struct json_value *types = present(in->root, "layer_types");
    uint64_t window = json_member(in->root, "sliding_window") ? 0 : in->architecture->default_window;
    uint64_t first = WINDOW_LAYERS_DEFAULT; /* layers before it do not slide */
    uint64_t period = in->architecture->default_window_period;
    bool use;
    enum status status;

    status = parse_switch(&use, in, "use_sliding_window", in->architecture->window_option, err);
    if (!status) /* transformers 5 writes 0 where none is used */
        status = json_get_u64(in->root, in->what, "sliding_window",
            use || !present(in->root, "use_sliding_window"), CONTEXT_MAXIMUM, &window, err);
    if (!status) status = json_get_u64(in->root, in->what, "max_window_layers", 0, UINT32_MAX, &first, err);
    if (status) return status;
    if (period) status = parse_period(&period, in, err);
    if (status) return status;
    if (in->architecture->window_by_default) first = 0;
    if (use || in->architecture->window_by_default) out->window = (uint32_t)window;
    for (uint32_t layer = 0; out->window && layer < out->layers; layer++)
        set_slides(out, layer, layer >= first && (!period || (layer + 1) % period != 0));
    if (types) return parse_layer_types(out, in, types, err);
    if (!out->window && period > 1)
        return fail(err, ERR_FORMAT, "%s: sliding_window is null, but layers of %s slide", in->what,
            in->architecture->name);
    return OK;
}

/* ---- rope ---- */

static const struct rope_name {
    const char *name;
    enum rope_kind kind;
} rope_names[] = {
    {"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR}, {"dynamic", ROPE_DYNAMIC}, {"llama3", ROPE_LLAMA3},
    {"yarn", ROPE_YARN}, {"longrope", ROPE_LONGROPE}, {"su", ROPE_LONGROPE}, /* what Phi-3 called it first */
};

/* The object with the parameters: rope_scaling (classic) if it says anything, else rope_parameters; NULL if
 * neither. Where layers that slide rotate otherwise, it may hold one object for either kind. */
static enum status find_rope(const struct json_value **out, const struct json_value **sliding,
    const struct source *in, struct error *err)
{
    const struct json_value *rope = present(in->root, "rope_scaling");
    const char *key = "rope_scaling";

    if (!rope || (rope->kind == JSON_OBJECT && !rope->count)) {
        key = "rope_parameters";
        rope = present(in->root, key);
    }
    *out = *sliding = NULL;
    if (rope && rope->kind != JSON_OBJECT)
        return fail(err, ERR_FORMAT, "%s: %s is not an object", in->what, key);
    if (rope && in->architecture->sliding_rope && json_member(rope, "full_attention")) {
        *sliding = present(rope, "sliding_attention");
        rope = present(rope, "full_attention");
    } else if (rope && in->architecture->sliding_rope && strcmp(key, "rope_parameters") == 0) {
        return fail(err, ERR_UNSUPPORTED, "%s: %s has no full_attention", in->what, key);
    }
    *out = rope;
    for (const struct json_value *member = rope ? rope->children : NULL; member; member = member->next) {
        if (member->kind == JSON_OBJECT)
            return fail(err, ERR_UNSUPPORTED, "%s: %s differs from layer to layer (%s)", in->what, key,
                member->key.bytes);
    }
    return OK;
}

static enum status parse_rope_kind(
    struct rope_config *rope, const struct source *in, const struct json_value *object, struct error *err)
{
    const char *name = "default";
    enum status status = json_get_text(object, in->what, "type", &name, err);

    if (!status) status = json_get_text(object, in->what, "rope_type", &name, err);
    if (status) return status;
    for (size_t i = 0; i < sizeof rope_names / sizeof *rope_names; i++) {
        rope->kind = rope_names[i].kind;
        if (strcmp(name, rope_names[i].name) == 0) return OK;
    }
    return fail(err, ERR_UNSUPPORTED,
        "%s: rope_type %s is not known (known: default, linear, dynamic, llama3, yarn, longrope)", in->what,
        name);
}

/* One number of a rope kind. Absent: `absent`, or an error naming the key where absent is 0. */
static enum status parse_rope_number(double *out, const struct source *in, const struct json_value *object,
    const char *key, double minimum, double maximum, double absent, struct error *err)
{
    enum status status;

    *out = absent;
    status = json_get_number(object, in->what, key, minimum, maximum, out, err);
    if (status) return status;
    if (*out == 0) return fail(err, ERR_FORMAT, "%s: %s is missing for this rope_type", in->what, key);
    return OK;
}

/* The context before stretching. A value beside rope_scaling goes before one inside it; absent: the context
 * itself. */
static enum status parse_original_context(struct rope_config *rope, const struct source *in,
    const struct json_value *object, uint32_t context, struct error *err)
{
    const char *key = "original_max_position_embeddings";
    const struct json_value *where = present(in->root, key) ? in->root : object;

    return parse_rope_number(&rope->original_context, in, where, key, 1, CONTEXT_MAXIMUM, context, err);
}

static enum status parse_llama3(struct rope_config *rope, const struct source *in,
    const struct json_value *object, uint32_t context, struct error *err)
{
    enum status status = parse_original_context(rope, in, object, context, err);

    if (!status)
        status = parse_rope_number(
            &rope->low_freq_factor, in, object, "low_freq_factor", FACTOR_MINIMUM, FACTOR_MAXIMUM, 0, err);
    if (!status)
        status = parse_rope_number(
            &rope->high_freq_factor, in, object, "high_freq_factor", FACTOR_MINIMUM, FACTOR_MAXIMUM, 0, err);
    if (status) return status;
    if (rope->high_freq_factor <= rope->low_freq_factor)
        return fail(err, ERR_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g", in->what,
            rope->high_freq_factor, rope->low_freq_factor);
    return OK;
}

/* beta_fast, beta_slow, mscale and mscale_all_dim written as 0 count as absent, as they do in transformers.
 */
static enum status parse_yarn(struct rope_config *rope, const struct source *in,
    const struct json_value *object, uint32_t context, struct error *err)
{
    enum status status = parse_original_context(rope, in, object, context, err);

    rope->truncate = true;
    if (!status)
        status = parse_rope_number(&rope->factor, in, object, "factor", FACTOR_MINIMUM, FACTOR_MAXIMUM,
            context / rope->original_context, err);
    if (!status)
        status =
            json_get_number(object, in->what, "attention_factor", 1e-6, 1e6, &rope->attention_factor, err);
    if (!status) status = json_get_number(object, in->what, "beta_fast", 0, 1e6, &rope->beta_fast, err);
    if (!status) status = json_get_number(object, in->what, "beta_slow", 0, 1e6, &rope->beta_slow, err);
    if (!status) status = json_get_number(object, in->what, "mscale", 0, 1e6, &rope->mscale, err);
    if (!status)
        status = json_get_number(object, in->what, "mscale_all_dim", 0, 1e6, &rope->mscale_all_dim, err);
    if (!status) status = json_get_bool(object, in->what, "truncate", &rope->truncate, err);
    if (rope->beta_fast == 0) rope->beta_fast = 32;
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    return status;
}

static enum status parse_divisors(float *out, const struct source *in, const struct json_value *object,
    const char *key, uint32_t count, struct error *err)
{
    const struct json_value *list = present(object, key), *item;

    if (!list || list->kind != JSON_ARRAY || list->count != count || count > CONFIG_ROTARY_LIMIT)
        return fail(err, ERR_FORMAT, "%s: %s is not a list of %" PRIu32 " numbers (at most %d)", in->what,
            key, count, CONFIG_ROTARY_LIMIT);
    item = list->children;
    for (uint32_t i = 0; i < count; i++, item = item->next) {
        if (item->kind != JSON_NUMBER || !(item->number >= 1e-6 && item->number <= 1e6))
            return fail(
                err, ERR_FORMAT, "%s: %s[%" PRIu32 "] is no number from 1e-6 to 1e6", in->what, key, i);
        out[i] = (float)item->number;
    }
    return OK;
}

/* Absent factor: the ratio of the contexts. */
static enum status parse_longrope(struct rope_config *rope, const struct source *in,
    const struct json_value *object, const struct model_config *config, struct error *err)
{
    enum status status = parse_original_context(rope, in, object, config->context, err);

    if (!status)
        status = parse_rope_number(&rope->factor, in, object, "factor", FACTOR_MINIMUM, FACTOR_MAXIMUM,
            config->context / rope->original_context, err);
    if (!status)
        status =
            json_get_number(object, in->what, "attention_factor", 1e-6, 1e6, &rope->attention_factor, err);
    if (!status)
        status = parse_divisors(rope->short_divisors, in, object, "short_factor", config->rotary / 2, err);
    return status ? status
                  : parse_divisors(rope->long_divisors, in, object, "long_factor", config->rotary / 2, err);
}

/* A number that may stand beside the parameters or, with precedence, inside them. */
static enum status parse_rope_outer(double *out, const struct source *in, const struct json_value *object,
    const char *key, double minimum, double maximum, struct error *err)
{
    enum status status = json_get_number(in->root, in->what, key, minimum, maximum, out, err);

    return status ? status : json_get_number(object, in->what, key, minimum, maximum, out, err);
}

/* The parameters of one rotation but for theta. */
static enum status parse_rope_parameters(struct rope_config *rope, const struct model_config *out,
    const struct source *in, const struct json_value *object, struct error *err)
{
    enum status status = parse_rope_kind(rope, in, object, err);

    rope->factor = 1;
    if (status || rope->kind == ROPE_DEFAULT) return status;
    if (rope->kind == ROPE_YARN && present(object, "long_factor"))
        rope->kind = ROPE_LONGROPE; /* as first published */
    if (rope->kind == ROPE_LONGROPE) return parse_longrope(rope, in, object, out, err);
    if (rope->kind == ROPE_YARN) return parse_yarn(rope, in, object, out->context, err);
    status = parse_rope_number(&rope->factor, in, object, "factor", FACTOR_MINIMUM, FACTOR_MAXIMUM, 0, err);
    if (!status && rope->kind == ROPE_LLAMA3) status = parse_llama3(rope, in, object, out->context, err);
    if (!status && rope->kind == ROPE_DYNAMIC && out->rotary < 4)
        status = fail(err, ERR_FORMAT, "%s: rope_type dynamic needs a head_dim of at least 4", in->what);
    return status;
}

/* How layers that slide rotate. Their theta stands alone in older configurations, inside the parameters in newer ones. */
static enum status parse_sliding_rope(
    struct model_config *out, const struct source *in, const struct json_value *object, struct error *err)
{
    struct rope_config *rope = &out->sliding_rope;
    enum status status = parse_rope_parameters(rope, out, in, object, err);

    rope->theta = THETA_DEFAULT;
    if (!status)
        status = json_get_number(
            in->root, in->what, "rope_local_base_freq", THETA_MINIMUM, THETA_MAXIMUM, &rope->theta, err);
    if (!status)
        status =
            json_get_number(object, in->what, "rope_theta", THETA_MINIMUM, THETA_MAXIMUM, &rope->theta, err);
    if (!status && (rope->kind == ROPE_DYNAMIC || rope->kind == ROPE_LONGROPE))
        status = fail(err, ERR_UNSUPPORTED,
            "%s: rope_type dynamic or longrope of layers that slide is not supported", in->what);
    return status;
}

static enum status parse_rope(struct model_config *out, const struct source *in, struct error *err)
{
    struct rope_config *rope = &out->rope;
    const struct json_value *object, *sliding;
    if (in->architecture->learned_positions) return OK; /* nothing rotates */
    double rotary = in->architecture->default_rotary ? in->architecture->default_rotary : 1;
    enum status status = find_rope(&object, &sliding, in, err);

    rope->theta = in->architecture->default_theta ? in->architecture->default_theta : THETA_DEFAULT;
    if (!status && in->architecture->theta_key)
        status = json_get_number(
            in->root, in->what, in->architecture->theta_key, THETA_MINIMUM, THETA_MAXIMUM, &rope->theta, err);
    if (!status && in->architecture->rotary_key)
        status = json_get_number(in->root, in->what, in->architecture->rotary_key, 0, 1, &rotary, err);
    if (!status)
        status = parse_rope_outer(&rope->theta, in, object, "rope_theta", THETA_MINIMUM, THETA_MAXIMUM, err);
    if (!status) status = parse_rope_outer(&rotary, in, object, "partial_rotary_factor", 0, 1, err);
    if (!status && rotary != 1 && !in->architecture->partial_rotary)
        status = fail(err, ERR_UNSUPPORTED, "%s: partial_rotary_factor %g: only whole heads are rotated",
            in->what, rotary);
    out->rotary = (uint32_t)(out->head_size * rotary);
    if (!status && (out->rotary == 0 || out->rotary % 2))
        status = fail(err, ERR_FORMAT,
            "%s: partial_rotary_factor %g rotates %" PRIu32 " of %" PRIu32 " channels, not an even number",
            in->what, rotary, out->rotary, out->head_size);
    if (!status) status = parse_rope_parameters(rope, out, in, object, err);
    if (status || !in->architecture->sliding_rope) return status;
    return parse_sliding_rope(out, in, sliding, err);
}

/* ---- what pruning made, under "nibble" ---- */

struct config_widths config_widths(const struct model_config *config, uint32_t layer)
{
    const uint32_t group = config->heads / config->kv_heads, kv_heads = config->layer_kv_heads[layer];

    if (!config->varied) return (struct config_widths){config->heads, config->kv_heads, config->ffn};
    return (struct config_widths){kv_heads * group, kv_heads, config->layer_ffn[layer]};
}

/* One number per layer, from 1 to the largest, which one of them is. Absent: all are the largest. */
static enum status parse_widths(uint32_t *out, bool *varied, uint32_t layers, uint32_t largest,
    const struct source *in, const struct json_value *own, const char *key, struct error *err)
{
    const struct json_value *list = present(own, key);
    const struct json_value *item = list && list->kind == JSON_ARRAY ? list->children : NULL;
    bool reached = false;

    for (uint32_t layer = 0; !list && layer < layers; layer++)
        out[layer] = largest;
    if (!list) return OK;
    if (!item || list->count != layers)
        return fail(
            err, ERR_FORMAT, "%s: nibble.%s is not a list of %" PRIu32 " numbers", in->what, key, layers);
    for (uint32_t layer = 0; layer < layers; layer++, item = item->next) {
        if (item->kind != JSON_NUMBER || !item->is_u64 || item->u64 < 1 || item->u64 > largest)
            return fail(err, ERR_FORMAT, "%s: nibble.%s[%" PRIu32 "] is not a number from 1 to %" PRIu32,
                in->what, key, layer, largest);
        out[layer] = (uint32_t)item->u64;
        *varied |= out[layer] != largest;
        reached |= out[layer] == largest;
    }
    if (reached) return OK;
    return fail(
        err, ERR_FORMAT, "%s: nibble.%s: no layer has the %" PRIu32 " of the whole", in->what, key, largest);
}

static enum status parse_own(struct model_config *out, const struct source *in, struct error *err)
{
    static const char *const known[] = {
        "layer_key_value_heads", "layer_intermediate_sizes", "output_bias", "down_bias"};
    const struct json_value *own = present(in->root, "nibble");
    char quoted[64];
    enum status status = OK;

    if (!own) return OK;
    if (own->kind != JSON_OBJECT || out->experts)
        return fail(err, ERR_FORMAT, "%s: nibble is not an object, or stands beside experts", in->what);
    for (const struct json_value *member = own->children; member; member = member->next) {
        unsigned i = 0;
        while (i < sizeof known / sizeof *known && strcmp(member->key.bytes, known[i]) != 0)
            i++;
        if (i == sizeof known / sizeof *known)
            return fail(err, ERR_UNSUPPORTED, "%s: nibble.%s is not known; a newer version may know it",
                in->what, error_quote(quoted, sizeof quoted, member->key.bytes, member->key.count));
    }
    status =
        parse_widths(out->layer_kv_heads, &out->varied, out->layers, out->kv_heads, in, own, known[0], err);
    if (!status)
        status = parse_widths(out->layer_ffn, &out->varied, out->layers, out->ffn, in, own, known[1], err);
    if (!status) status = json_get_bool(own, in->what, "output_bias", &out->output_bias, err);
    return status ? status : json_get_bool(own, in->what, "down_bias", &out->down_bias, err);
}

/* Llama and its kin have o's bias when q, k and v have theirs by attention_bias; Qwen2 has those of q, k and v alone. */
static bool has_own_output_bias(const struct model_config *config)
{
    return config->output_bias && !(config->attention_bias && config->architecture->attention_bias_option) &&
           !config->architecture->biases;
}

enum status config_refuse_own(const struct model_config *config, const char *format, struct error *err)
{
    if (config->varied)
        return fail(err, ERR_UNSUPPORTED,
            "layers of different widths: only .nbl files can say so, not %s; prune with --widths uniform",
            format);
    if (has_own_output_bias(config) || (config->down_bias && !config->mlp_bias))
        return fail(err, ERR_UNSUPPORTED,
            "%s has no bias of %s, which pruning added: only .nbl files can say so, not %s; prune with "
            "--no-bias",
            config->architecture->name, has_own_output_bias(config) ? "o_proj" : "down_proj", format);
    return OK;
}

/* ---- tokens ---- */

static enum status add_stop(
    struct model_config *out, const struct source *in, const struct json_value *id, struct error *err)
{
    if (id->kind != JSON_NUMBER || !id->is_u64 || id->u64 > INT32_MAX)
        return fail(err, ERR_FORMAT, "%s: eos_token_id is not a token id or a list of them", in->what);
    if (out->stop_count == CONFIG_STOP_LIMIT)
        return fail(
            err, ERR_UNSUPPORTED, "%s: eos_token_id has more than %d ids", in->what, CONFIG_STOP_LIMIT);
    out->stops[out->stop_count++] = (int64_t)id->u64;
    return OK;
}

static enum status parse_tokens(struct model_config *out, const struct source *in, struct error *err)
{
    const struct json_value *eos = present(in->root, "eos_token_id");
    uint64_t bos = UINT64_MAX;
    enum status status = json_get_u64(in->root, in->what, "bos_token_id", 0, INT32_MAX, &bos, err);

    out->bos = (int64_t)bos; /* -1 if absent */
    if (status || !eos) return status;
    if (eos->kind != JSON_ARRAY) return add_stop(out, in, eos, err);
    for (const struct json_value *id = eos->children; id && !status; id = id->next)
        status = add_stop(out, in, id, err);
    return status;
}

enum status config_parse(
    struct model_config *out, const char *what, const char *json, uint64_t bytes, struct error *err)
{
    struct json_document *document = NULL;
    struct source in = {.what = what};
    enum status status = json_parse(&document, what, json, bytes, err);

    if (status) return status;
    memset(out, 0, sizeof *out);
    in.root = json_root(document);
    if (in.root->kind != JSON_OBJECT) status = fail(err, ERR_FORMAT, "%s: not a JSON object", what);
    if (!status) status = parse_architecture(out, &in, err);
    in.architecture = out->architecture;
    if (!status) status = refuse_unknown(&in, err);
    if (!status) status = parse_sizes(out, &in, err);
    if (!status) status = parse_activation(out, &in, err);
    if (!status) status = parse_features(out, &in, err);
    if (!status) status = parse_experts(out, &in, err);
    if (!status) status = parse_scales(out, &in, err);
    if (!status) status = parse_window(out, &in, err);
    if (!status) status = parse_rope(out, &in, err);
    if (!status) status = parse_own(out, &in, err);
    if (!status) status = parse_tokens(out, &in, err);
    json_free(document);
    return status;
}
