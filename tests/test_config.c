/* config.json: what is read from good ones, and that every bad one is refused with the right status and the
 * key named. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/config.h"
#include "model/layers.h"
#include "tests/support/testing.h"

#define TEXT_BYTES 4096

/* The members of a good document. Cases replace, add or remove some. */
static const char *const good[][2] = {
    {"architectures", "[\"LlamaForCausalLM\"]"},
    {"model_type", "\"llama\""},
    {"hidden_size", "64"},
    {"intermediate_size", "172"},
    {"num_hidden_layers", "5"},
    {"num_attention_heads", "8"},
    {"num_key_value_heads", "4"},
    {"vocab_size", "512"},
    {"max_position_embeddings", "256"},
    {"rms_norm_eps", "1e-05"},
    {"rope_theta", "10000.0"},
    {"hidden_act", "\"silu\""},
    {"bos_token_id", "1"},
    {"eos_token_id", "2"},
    {"tie_word_embeddings", "true"},
};

struct change {
    const char *key, *value; /* value NULL: the member is left out */
};

static const char *changed(const char *key, const struct change *changes, size_t count, const char *value)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(changes[i].key, key) == 0) return changes[i].value;
    }
    return value;
}

static bool is_good_key(const char *key)
{
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (strcmp(good[i][0], key) == 0) return true;
    }
    return false;
}

static void append(char text[TEXT_BYTES], const char *key, const char *value)
{
    size_t used = strlen(text);

    if (value) snprintf(text + used, TEXT_BYTES - used, "%s\"%s\": %s", used > 1 ? ", " : "", key, value);
}

/* The good document with changes. */
static void build(char text[TEXT_BYTES], const struct change *changes, size_t count)
{
    strcpy(text, "{");
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        append(text, good[i][0], changed(good[i][0], changes, count, good[i][1]));
    for (size_t i = 0; i < count; i++) {
        if (!is_good_key(changes[i].key)) append(text, changes[i].key, changes[i].value);
    }
    strcat(text, "}");
}

/* Parse the good document with changes, which must work. */
static struct model_config parse(const struct change *changes, size_t count)
{
    struct model_config config;
    struct error err = {0};
    char text[TEXT_BYTES];
    enum status status;

    build(text, changes, count);
    status = config_parse(&config, "config.json", text, strlen(text), &err);
    REQUIRE(status == OK, &err);
    return config;
}
#define PARSE(...)                                                                                           \
    parse((const struct change[]){__VA_ARGS__},                                                              \
        sizeof((const struct change[]){__VA_ARGS__}) / sizeof(struct change))

/* A document that must be refused with a status and a text that contains `named`. */
static void refuse_text(const char *text, enum status expected, const char *named)
{
    struct model_config config;
    struct error err = {0};
    enum status status = config_parse(&config, "config.json", text, strlen(text), &err);

    if (status != expected || !strstr(err.text, named))
        printf("\n%.200s\n  expected status %d naming %s, got %d\n", text, expected, named, status);
    CHECK(status == expected && strstr(err.text, named), &err);
}

static void refuse(enum status expected, const char *named, const struct change *changes, size_t count)
{
    char text[TEXT_BYTES];

    build(text, changes, count);
    refuse_text(text, expected, named);
}
#define REFUSE(expected, named, ...)                                                                         \
    refuse(expected, named, (const struct change[]){__VA_ARGS__},                                            \
        sizeof((const struct change[]){__VA_ARGS__}) / sizeof(struct change))

/* One member given several impossible values. */
static void refuse_values(const char *key, const char *const *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        REFUSE(ERR_FORMAT, key, {key, values[i]});
}
#define REFUSE_VALUES(key, ...)                                                                              \
    refuse_values(key, (const char *const[]){__VA_ARGS__},                                                   \
        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* ---- good documents ---- */

static void test_plain(void)
{
    struct model_config config = PARSE({"torch_dtype", "\"bfloat16\""});

    CU_ASSERT_STRING_EQUAL(config.architecture->name, "LlamaForCausalLM");
    CU_ASSERT_EQUAL(config.layers, 5);
    CU_ASSERT_EQUAL(config.hidden, 64);
    CU_ASSERT_EQUAL(config.ffn, 172);
    CU_ASSERT_EQUAL(config.heads, 8);
    CU_ASSERT_EQUAL(config.kv_heads, 4);
    CU_ASSERT_EQUAL(config.head_size, 8);
    CU_ASSERT_EQUAL(config.vocabulary, 512);
    CU_ASSERT_EQUAL(config.context, 256);
    CU_ASSERT_EQUAL(config.norm_epsilon, 1e-5);
    CU_ASSERT_TRUE(config.tied);
    CU_ASSERT_FALSE(config.attention_bias || config.output_bias || config.mlp_bias);
    CU_ASSERT_EQUAL(config.window, 0);
    CU_ASSERT_EQUAL(config.rope.kind, ROPE_DEFAULT);
    CU_ASSERT_EQUAL(config.rope.theta, 10000);
    CU_ASSERT_EQUAL(config.bos, 1);
    CU_ASSERT_EQUAL(config.stop_count, 1);
    CU_ASSERT_EQUAL(config.stops[0], 2);
}

static void test_defaults(void)
{
    struct model_config config = PARSE({"num_key_value_heads", NULL}, {"rope_theta", NULL},
        {"hidden_act", NULL}, {"tie_word_embeddings", NULL}, {"bos_token_id", "null"}, {"eos_token_id", NULL},
        {"model_type", NULL}, {"head_dim", "null"}, {"rope_scaling", "null"}, {"sliding_window", "7"});

    CU_ASSERT_EQUAL(config.kv_heads, 8);
    CU_ASSERT_EQUAL(config.head_size, 8);
    CU_ASSERT_EQUAL(config.rope.theta, 10000);
    CU_ASSERT_FALSE(config.tied);
    CU_ASSERT_EQUAL(config.bos, -1);
    CU_ASSERT_EQUAL(config.stop_count, 0);
    CU_ASSERT_EQUAL(config.window, 0); /* a Llama has none */
}

static void test_sizes(void)
{
    struct model_config config = PARSE({"head_dim", "12"}, {"num_key_value_heads", "null"});

    CU_ASSERT_EQUAL(config.head_size, 12);
    CU_ASSERT_EQUAL(config.kv_heads, 8);
    config = PARSE({"architectures", "[\"Qwen3ForCausalLM\"]"}, {"model_type", "\"qwen3\""});
    CU_ASSERT_EQUAL(config.head_size, 128);
}

static void test_stops(void)
{
    struct model_config config = PARSE({"eos_token_id", "[128001, 128008, 128009]"});

    CU_ASSERT_EQUAL(config.stop_count, 3);
    CU_ASSERT_EQUAL(config.stops[2], 128009);
    REFUSE(ERR_FORMAT, "eos_token_id", {"eos_token_id", "-1"});
    REFUSE(ERR_FORMAT, "eos_token_id", {"eos_token_id", "[1, \"2\"]"});
    REFUSE(ERR_UNSUPPORTED, "eos_token_id", {"eos_token_id", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"});
}

static void test_biases(void)
{
    struct model_config config = PARSE({"attention_bias", "true"}, {"mlp_bias", "true"});

    CU_ASSERT_TRUE(config.attention_bias && config.output_bias && config.mlp_bias);
    config = PARSE({"architectures", "[\"Qwen2ForCausalLM\"]"}, {"model_type", "\"qwen2\""});
    CU_ASSERT_TRUE(config.attention_bias && !config.output_bias && !config.mlp_bias);
    config = PARSE(
        {"architectures", "[\"Qwen3ForCausalLM\"]"}, {"model_type", "\"qwen3\""}, {"attention_bias", "true"});
    CU_ASSERT_TRUE(config.attention_bias && config.output_bias);
    REFUSE(ERR_UNSUPPORTED, "attention_bias", {"architectures", "[\"MistralForCausalLM\"]"},
        {"model_type", "\"mistral\""}, {"attention_bias", "true"});
    REFUSE(ERR_FORMAT, "mlp_bias", {"mlp_bias", "1"});
}

/* What pruning made, under "nibble"; the good document has 5 layers of 4 kv heads. */
static void test_own(void)
{
    struct model_config config =
        PARSE({"nibble", "{\"layer_key_value_heads\": [4, 2, 1, 3, 4], \"down_bias\": true}"});
    struct config_widths widths = config_widths(&config, 2);

    CU_ASSERT(config.varied && config.down_bias && !config.mlp_bias && !config.output_bias);
    CU_ASSERT(widths.kv_heads == 1 && widths.heads == 2 && widths.ffn == config.ffn);
    CU_ASSERT_EQUAL(config_refuse_own(&config, "GGUF", NULL), ERR_UNSUPPORTED);
    config = PARSE({"nibble", "{\"layer_key_value_heads\": [4, 4, 4, 4, 4], \"output_bias\": true}"});
    CU_ASSERT(!config.varied && config.output_bias && !config.attention_bias);
    CU_ASSERT_EQUAL(config_refuse_own(&config, "GGUF", NULL), ERR_UNSUPPORTED);
    config = PARSE({"attention_bias", "true"}, {"mlp_bias", "true"});
    CU_ASSERT_EQUAL(config_refuse_own(&config, "GGUF", NULL), OK);
    REFUSE(
        ERR_FORMAT, "layer_key_value_heads[1]", {"nibble", "{\"layer_key_value_heads\": [4, 5, 1, 1, 1]}"});
    REFUSE(
        ERR_FORMAT, "layer_key_value_heads[4]", {"nibble", "{\"layer_key_value_heads\": [4, 1, 1, 1, 0]}"});
    REFUSE(ERR_FORMAT, "layer_key_value_heads is not", {"nibble", "{\"layer_key_value_heads\": [4, 1]}"});
    REFUSE(ERR_FORMAT, "no layer has the 4", {"nibble", "{\"layer_key_value_heads\": [3, 1, 1, 1, 1]}"});
    REFUSE(ERR_FORMAT, "layer_intermediate_sizes[0]",
        {"nibble", "{\"layer_intermediate_sizes\": [\"1\", 1, 1, 1, 1]}"});
    REFUSE(ERR_FORMAT, "nibble", {"nibble", "[]"});
    REFUSE(ERR_FORMAT, "down_bias", {"nibble", "{\"down_bias\": 1}"});
    REFUSE(ERR_UNSUPPORTED, "nibble.layers", {"nibble", "{\"layers\": 1}"});
}

#define MISTRAL                                                                                              \
    {"architectures", "[\"MistralForCausalLM\"]"},                                                           \
    {                                                                                                        \
        "model_type", "\"mistral\""                                                                          \
    }
#define QWEN2                                                                                                \
    {"architectures", "[\"Qwen2ForCausalLM\"]"},                                                             \
    {                                                                                                        \
        "model_type", "\"qwen2\""                                                                            \
    }
#define SLIDE "\"sliding_attention\""
#define FULL "\"full_attention\""

static void test_windows(void)
{
    struct model_config config = PARSE(MISTRAL, {"sliding_window", "8"});

    CU_ASSERT_EQUAL(config.window, 8);
    CU_ASSERT_TRUE(config_slides(&config, 0) && config_slides(&config, 4));
    config = PARSE(MISTRAL, {"sliding_window", "null"});
    CU_ASSERT_FALSE(config.window || config_slides(&config, 0));
    config = PARSE(MISTRAL);
    CU_ASSERT_EQUAL(config.window, 4096);
    config =
        PARSE(QWEN2, {"sliding_window", "8"}, {"use_sliding_window", "false"}, {"max_window_layers", "1"});
    CU_ASSERT_FALSE(config.window || config_slides(&config, 4));
    config =
        PARSE(QWEN2, {"sliding_window", "8"}, {"use_sliding_window", "true"}, {"max_window_layers", "3"});
    CU_ASSERT_EQUAL(config.window, 8);
    CU_ASSERT_TRUE(!config_slides(&config, 2) && config_slides(&config, 3));
    config = PARSE(QWEN2, {"sliding_window", "8"}, {"use_sliding_window", "true"},
        {"layer_types", "[" SLIDE ", " FULL ", " SLIDE ", " FULL ", " FULL "]"});
    CU_ASSERT_TRUE(config_slides(&config, 0) && !config_slides(&config, 1) && config_slides(&config, 2));
}

static void test_bad_windows(void)
{
    REFUSE_VALUES("sliding_window", "0", "-8", "\"8\"", "1.5", "1e300");
    REFUSE_VALUES("max_window_layers", "-1", "[]");
    REFUSE(ERR_UNSUPPORTED, "use_sliding_window", {"use_sliding_window", "true"}, {"sliding_window", "8"});
    REFUSE_VALUES("layer_types", "7", "[]", "[" FULL "]", "{}");
    REFUSE(ERR_UNSUPPORTED, "layer_types[1]", {"layer_types", "[" FULL ", \"chunked\", 1, 2, 3]"});
    REFUSE(ERR_FORMAT, "layer_types[1]", {"layer_types", "[" FULL ", 1, 1, 2, 3]"});
    REFUSE(
        ERR_FORMAT, "layer_types[4]", {"layer_types", "[" FULL ", " FULL ", " FULL ", " FULL ", " SLIDE "]"});
    REFUSE(ERR_UNSUPPORTED, "layer_types[1]", MISTRAL, {"sliding_window", "8"},
        {"layer_types", "[" SLIDE ", " FULL ", " SLIDE ", " FULL ", " FULL "]"});
}

/* ---- Gemma ---- */

#define GEMMA3                                                                                               \
    {"architectures", "[\"Gemma3ForCausalLM\"]"}, {"model_type", "\"gemma3_text\""}, {"hidden_act", NULL},   \
        {"rope_theta", NULL}, {"tie_word_embeddings", NULL},                                                 \
    {                                                                                                        \
        "head_dim", NULL                                                                                     \
    }

static void test_gemma(void)
{
    struct model_config config = PARSE(GEMMA3);

    CU_ASSERT_TRUE(config.tied && config.activation == ACTIVATION_GELU_TANH && config.head_size == 256);
    CU_ASSERT_TRUE(config.embedding_scale == 8 && config.score_scale == 1.0f / 16);
    CU_ASSERT_TRUE(config.score_softcap == 0 && config.logit_softcap == 0);
    CU_ASSERT_TRUE(config.window == 4096 && config_slides(&config, 4));
    CU_ASSERT_TRUE(config.rope.theta == 1e6 && config.sliding_rope.theta == 1e4);
    config = PARSE(GEMMA3, {"query_pre_attn_scalar", "64"}, {"final_logit_softcapping", "30"},
        {"sliding_window_pattern", "2"}, {"rope_local_base_freq", "5000"}, {"sliding_window", "512"},
        {"rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 8}"});
    CU_ASSERT_TRUE(config.score_scale == 1.0f / 8 && config.logit_softcap == 30 && config.window == 512);
    CU_ASSERT_TRUE(config_slides(&config, 0) && !config_slides(&config, 1) && config_slides(&config, 2));
    CU_ASSERT_TRUE(config.rope.kind == ROPE_LINEAR && config.sliding_rope.kind == ROPE_DEFAULT);
    CU_ASSERT_TRUE(config.sliding_rope.theta == 5000);
    config = PARSE(GEMMA3, {"layer_types", "[" SLIDE ", " FULL ", " FULL ", " SLIDE ", " FULL "]"},
        {"rope_parameters",
            "{\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 4, \"rope_theta\": 99},"
            " \"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 77}}"});
    CU_ASSERT_TRUE(config_slides(&config, 0) && !config_slides(&config, 1) && config_slides(&config, 3));
    CU_ASSERT_TRUE(config.rope.theta == 99 && config.rope.factor == 4 && config.sliding_rope.theta == 77);
}

static void test_bad_gemma(void)
{
    REFUSE(ERR_UNSUPPORTED, "final_logit_softcapping", {"final_logit_softcapping", "30"});
    REFUSE(ERR_UNSUPPORTED, "attn_logit_softcapping", GEMMA3, {"attn_logit_softcapping", "50"});
    REFUSE(ERR_FORMAT, "final_logit_softcapping", GEMMA3, {"final_logit_softcapping", "-30"});
    REFUSE(ERR_FORMAT, "query_pre_attn_scalar", GEMMA3, {"query_pre_attn_scalar", "0"});
    REFUSE(ERR_UNSUPPORTED, "hidden_activation relu", GEMMA3, {"hidden_activation", "\"relu\""});
    REFUSE(ERR_UNSUPPORTED, "use_bidirectional_attention", GEMMA3, {"use_bidirectional_attention", "true"});
    REFUSE(ERR_FORMAT, "sliding_window_pattern", GEMMA3, {"sliding_window_pattern", "0"});
    REFUSE(ERR_FORMAT, "sliding_window is null", GEMMA3, {"sliding_window", "null"});
    REFUSE(ERR_FORMAT, "rope_local_base_freq", GEMMA3, {"rope_local_base_freq", "0"});
    REFUSE(ERR_UNSUPPORTED, "no full_attention", GEMMA3, {"rope_parameters", "{\"rope_theta\": 10000}"});
    REFUSE(ERR_UNSUPPORTED, "dynamic", GEMMA3,
        {"rope_parameters", "{\"full_attention\": {\"rope_type\": \"default\"},"
                            " \"sliding_attention\": {\"rope_type\": \"dynamic\", \"factor\": 2}}"});
}

/* ---- Phi-3, StableLM ---- */

#define PHI3                                                                                                 \
    {"architectures", "[\"Phi3ForCausalLM\"]"},                                                              \
    {                                                                                                        \
        "model_type", "\"phi3\""                                                                             \
    }
#define STABLELM                                                                                             \
    {"architectures", "[\"StableLmForCausalLM\"]"}, {"model_type", "\"stablelm\""}, {"rms_norm_eps", NULL},  \
    {                                                                                                        \
        "layer_norm_eps", "1e-5"                                                                             \
    }
#define LONG(short_factor, long_factor)                                                                      \
    "{\"type\": \"longrope\", \"short_factor\": " short_factor ", \"long_factor\": " long_factor "}"

static void test_phi(void)
{
    struct model_config config = PARSE(PHI3, {"partial_rotary_factor", "0.5"},
        {"original_max_position_embeddings", "64"}, {"rope_scaling", LONG("[1, 1.5]", "[2, 4]")});

    CU_ASSERT_TRUE(config.window == 0 && config.rotary == 4 && config.rope.kind == ROPE_LONGROPE);
    CU_ASSERT_TRUE(config.rope.factor == 4 && config.rope.original_context == 64);
    CU_ASSERT_TRUE(config.rope.short_divisors[1] == 1.5f && config.rope.long_divisors[0] == 2);
    config = PARSE(PHI3, {"sliding_window", "16"});
    CU_ASSERT_TRUE(config.rotary == 8 && config_slides(&config, 0) && config_slides(&config, 4));
    config = PARSE(STABLELM, {"use_qkv_bias", "true"});
    CU_ASSERT_TRUE(config.rotary == 2 && config.attention_bias && !config.output_bias);
    CU_ASSERT_TRUE(!config.parallel_residual && !config.shared_norm);
    config = PARSE(STABLELM, {"use_parallel_residual", "true"});
    CU_ASSERT_TRUE(config.parallel_residual && config.shared_norm);
}

static void test_bad_phi(void)
{
    REFUSE(ERR_FORMAT, "partial_rotary_factor", PHI3, {"partial_rotary_factor", "0.4"});
    REFUSE(ERR_UNSUPPORTED, "partial_rotary_factor", {"partial_rotary_factor", "0.5"});
    REFUSE(ERR_FORMAT, "short_factor", PHI3, {"rope_scaling", "{\"type\": \"su\"}"});
    REFUSE(ERR_FORMAT, "long_factor", PHI3, {"rope_scaling", LONG("[1, 1, 1, 1]", "[1, 1, 1]")});
    REFUSE(ERR_FORMAT, "short_factor[2]", PHI3, {"rope_scaling", LONG("[1, 1, 0, 1]", "[1, 1, 1, 1]")});
    REFUSE(ERR_FORMAT, "long_factor[0]", PHI3, {"rope_scaling", LONG("[1, 1, 1, 1]", "[\"1\", 1, 1, 1]")});
    REFUSE(ERR_UNSUPPORTED, "use_parallel_residual", {"use_parallel_residual", "true"});
    REFUSE(ERR_UNSUPPORTED, "qk_layernorm", STABLELM, {"qk_layernorm", "true"});
    REFUSE(ERR_UNSUPPORTED, "use_qkv_bias", {"use_qkv_bias", "true"});
    REFUSE(ERR_FORMAT, "layer_norm_eps is missing", {"architectures", "[\"StableLmForCausalLM\"]"},
        {"model_type", "\"stablelm\""});
}

/* ---- GPT-NeoX, GPT-2 ---- */

#define NEOX                                                                                                 \
    {"architectures", "[\"GPTNeoXForCausalLM\"]"}, {"model_type", "\"gpt_neox\""}, {"rms_norm_eps", NULL},   \
        {"layer_norm_eps", "1e-5"}, {"num_key_value_heads", NULL}, {"rope_theta", NULL},                     \
    {                                                                                                        \
        "hidden_act", "\"gelu\""                                                                             \
    }
#define GPT2                                                                                                 \
    {"architectures", "[\"GPT2LMHeadModel\"]"}, {"model_type", "\"gpt2\""}, {"rms_norm_eps", NULL},          \
        {"layer_norm_epsilon", "1e-5"}, {"num_key_value_heads", NULL}, {"hidden_act", NULL},                 \
        {"tie_word_embeddings", NULL}, {"n_embd", "64"}, {"n_layer", "3"}, {"n_head", "4"},                  \
    {                                                                                                        \
        "n_positions", "48"                                                                                  \
    }

static void test_neox(void)
{
    struct model_config config = PARSE(NEOX, {"rotary_pct", "0.5"}, {"rotary_emb_base", "500"});

    CU_ASSERT_TRUE(config.parallel_residual && !config.shared_norm && config.attention_bias &&
                   config.output_bias && config.mlp_bias);
    CU_ASSERT_TRUE(config.activation == ACTIVATION_GELU && config.rope.theta == 500);
    CU_ASSERT_EQUAL(config.rotary, config.head_size / 2);
    config = PARSE(NEOX, {"use_parallel_residual", "false"}, {"attention_bias", "false"});
    CU_ASSERT_TRUE(!config.parallel_residual && !config.attention_bias && config.mlp_bias);
    CU_ASSERT_EQUAL(config.rotary, config.head_size / 4);
    REFUSE(ERR_FORMAT, "layer_norm_eps is missing", {"architectures", "[\"GPTNeoXForCausalLM\"]"},
        {"model_type", "\"gpt_neox\""});
}

static void test_gpt2(void)
{
    struct model_config config = PARSE(GPT2, {"n_inner", "null"}, {"activation_function", "\"gelu_new\""});

    CU_ASSERT_TRUE(config.hidden == 64 && config.layers == 3 && config.heads == 4 && config.context == 48);
    CU_ASSERT_TRUE(config.ffn == 256 && config.rotary == 0 && config.tied && config.attention_bias);
    CU_ASSERT_EQUAL(config.activation, ACTIVATION_GELU_TANH);
    config = PARSE(GPT2, {"n_inner", "100"});
    CU_ASSERT_EQUAL(config.ffn, 100);
    REFUSE(ERR_UNSUPPORTED, "scale_attn_weights", GPT2, {"scale_attn_weights", "false"});
    REFUSE(ERR_UNSUPPORTED, "scale_attn_by_inverse_layer_idx", GPT2,
        {"scale_attn_by_inverse_layer_idx", "true"});
    REFUSE(ERR_UNSUPPORTED, "add_cross_attention", GPT2, {"add_cross_attention", "true"});
    REFUSE(ERR_FORMAT, "n_embd is missing", {"architectures", "[\"GPT2LMHeadModel\"]"},
        {"model_type", "\"gpt2\""}, {"n_layer", "3"});
}

/* ---- mixtures of experts ---- */

#define MIXTRAL(experts, per_token)                                                                          \
    {"architectures", "[\"MixtralForCausalLM\"]"}, {"model_type", "\"mixtral\""},                            \
        {"num_local_experts", experts},                                                                      \
    {                                                                                                        \
        "num_experts_per_tok", per_token                                                                     \
    }
#define QWEN2_MOE(shared)                                                                                    \
    {"architectures", "[\"Qwen2MoeForCausalLM\"]"}, {"model_type", "\"qwen2_moe\""}, {"num_experts", "60"},  \
        {"num_experts_per_tok", "4"}, {"moe_intermediate_size", "24"},                                       \
    {                                                                                                        \
        "shared_expert_intermediate_size", shared                                                            \
    }

static void test_experts(void)
{
    struct model_config config = PARSE(MIXTRAL("8", "2"));

    CU_ASSERT_TRUE(config.experts == 8 && config.experts_per_token == 2 && config.normed_routing);
    CU_ASSERT_TRUE(config.ffn == 0 && config.expert_ffn > 0 && config.window == 0);
    config = PARSE(QWEN2_MOE("56"));
    CU_ASSERT_TRUE(config.experts == 60 && config.expert_ffn == 24 && config.ffn == 56);
    CU_ASSERT_TRUE(!config.normed_routing && config.attention_bias && !config.output_bias);
    config = PARSE(QWEN2_MOE("56"), {"norm_topk_prob", "true"}, {"qkv_bias", "false"},
        {"mlp_only_layers", "[]"}, {"decoder_sparse_step", "1"});
    CU_ASSERT_TRUE(config.normed_routing && !config.attention_bias);
    config = PARSE({"architectures", "[\"Qwen3MoeForCausalLM\"]"},
        {"model_type", "\"qwen3_moe\""}, /* transformers 5 */
        {"num_local_experts", "12"}, {"num_experts_per_tok", "4"}, {"moe_intermediate_size", "24"},
        {"use_sliding_window", "false"}, {"sliding_window", "0"});
    CU_ASSERT_TRUE(config.experts == 12 && config.expert_ffn == 24 && config.window == 0);
    config = PARSE({"rope_theta", "10000"});
    CU_ASSERT_TRUE(config.experts == 0 && config.ffn > 0);
}

static void test_bad_experts(void)
{
    REFUSE(ERR_FORMAT, "num_local_experts is missing", {"architectures", "[\"MixtralForCausalLM\"]"},
        {"model_type", "\"mixtral\""});
    REFUSE(ERR_FORMAT, "num_experts_per_tok 9 is above", MIXTRAL("8", "9"));
    REFUSE(ERR_FORMAT, "num_local_experts", MIXTRAL("1025", "2"));
    REFUSE(ERR_FORMAT, "num_local_experts", MIXTRAL("0", "2"));
    REFUSE(ERR_UNSUPPORTED, "mlp_only_layers", QWEN2_MOE("56"), {"mlp_only_layers", "[0]"});
    REFUSE(ERR_UNSUPPORTED, "decoder_sparse_step", QWEN2_MOE("56"), {"decoder_sparse_step", "2"});
    REFUSE(ERR_FORMAT, "shared_expert_intermediate_size", QWEN2_MOE(NULL));
    REFUSE(ERR_UNSUPPORTED, "use_sliding_window", QWEN2_MOE("56"), {"use_sliding_window", "true"});
}

/* ---- rope ---- */

static void test_rope(void)
{
    struct model_config config = PARSE({"rope_scaling", "{\"type\": \"linear\", \"factor\": 4}"});

    CU_ASSERT_EQUAL(config.rope.kind, ROPE_LINEAR);
    CU_ASSERT_EQUAL(config.rope.factor, 4);
    config = PARSE({"rope_scaling", "{\"rope_type\": \"dynamic\", \"type\": \"linear\", \"factor\": 2.5}"});
    CU_ASSERT_EQUAL(config.rope.kind, ROPE_DYNAMIC);
    config = PARSE({"rope_theta", NULL},
        {"rope_parameters",
            "{\"rope_type\": \"llama3\", \"rope_theta\": 500000, \"factor\": 8, \"low_freq_factor\": 1,"
            " \"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}"});
    CU_ASSERT_EQUAL(config.rope.kind, ROPE_LLAMA3);
    CU_ASSERT_EQUAL(config.rope.theta, 500000);
    CU_ASSERT_EQUAL(config.rope.high_freq_factor, 4);
    CU_ASSERT_EQUAL(config.rope.original_context, 8192);
    config = PARSE(
        {"rope_scaling", "{}"}, {"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 77}"});
    CU_ASSERT_EQUAL(config.rope.theta, 77);
}

static void test_rope_yarn(void)
{
    struct model_config config =
        PARSE({"rope_scaling", "{\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 64}"});

    CU_ASSERT_EQUAL(config.rope.factor, 4); /* from the two contexts */
    CU_ASSERT_EQUAL(config.rope.beta_fast, 32);
    CU_ASSERT_EQUAL(config.rope.beta_slow, 1);
    CU_ASSERT_EQUAL(config.rope.attention_factor, 0);
    CU_ASSERT_TRUE(config.rope.truncate);
    config = PARSE({"original_max_position_embeddings", "32"},
        {"rope_scaling",
            "{\"rope_type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 64,"
            " \"beta_fast\": 16, \"truncate\": false, \"mscale\": 1.5, \"mscale_all_dim\": 0.5}"});
    CU_ASSERT_EQUAL(config.rope.original_context, 32);
    CU_ASSERT_EQUAL(config.rope.beta_fast, 16);
    CU_ASSERT_EQUAL(config.rope.mscale, 1.5);
    CU_ASSERT_FALSE(config.rope.truncate);
}

static void test_bad_rope(void)
{
    REFUSE_VALUES("rope_theta", "0", "-1", "1", "\"NaN\"", "[1]", "true", "1e300"); /* J09 */
    REFUSE_VALUES("rope_scaling", "7", "\"linear\"", "[]", "true");
    REFUSE(ERR_UNSUPPORTED, "rope_type proportional",
        {"rope_scaling", "{\"rope_type\": \"proportional\", \"factor\": 4}"});
    REFUSE(ERR_FORMAT, "rope_type", {"rope_scaling", "{\"rope_type\": 7}"});
    REFUSE(ERR_FORMAT, "factor", {"rope_scaling", "{\"type\": \"linear\"}"});
    REFUSE(ERR_FORMAT, "factor", {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 0}"});
    REFUSE(ERR_FORMAT, "factor", {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": \"2\"}"});
    REFUSE(ERR_FORMAT, "low_freq_factor", {"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8}"});
    REFUSE(ERR_FORMAT, "high_freq_factor",
        {"rope_scaling",
            "{\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}"});
    REFUSE(ERR_FORMAT, "original_max_position_embeddings",
        {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 0}"});
    REFUSE(
        ERR_FORMAT, "beta_fast", {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 8, \"beta_fast\": -1}"});
    REFUSE(ERR_FORMAT, "truncate", {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 8, \"truncate\": 1}"});
    REFUSE(ERR_FORMAT, "head_dim", {"head_dim", "2"},
        {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 8}"});
    REFUSE(ERR_UNSUPPORTED, "full_attention",
        {"rope_parameters", "{\"full_attention\": {\"rope_theta\": 1e6}}"});
    REFUSE(ERR_UNSUPPORTED, "partial_rotary_factor", {"partial_rotary_factor", "0.5"});
    REFUSE(
        ERR_UNSUPPORTED, "partial_rotary_factor", {"rope_parameters", "{\"partial_rotary_factor\": 0.25}"});
}

/* ---- bad documents ---- */

static void test_bad_sizes(void)
{
    static const char *const required[] = {"hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "vocab_size", "max_position_embeddings"};

    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        REFUSE(ERR_FORMAT, required[i], {required[i], NULL});
        REFUSE_VALUES(required[i], "0", "-1", "1.5", "1e30", "\"4096\"", "4294967296",
            "18446744073709551616"); /* J05 */
    }
    REFUSE_VALUES("num_hidden_layers", "2147483647", "1025"); /* J07: refused before anything is allocated */
    REFUSE_VALUES("num_key_value_heads", "0", "3", "16", "\"4\"");
    REFUSE_VALUES("head_dim", "0", "7", "-2");
    REFUSE(ERR_FORMAT, "hidden_size", {"hidden_size", "65"});
    REFUSE(ERR_FORMAT, "head_dim", {"num_attention_heads", "65536"}, {"head_dim", "65536"});
}

static void test_bad_numbers(void)
{
    REFUSE_VALUES("rms_norm_eps", "0", "-1e-5", "2", "\"1e-5\"", "null"); /* J09 */
    REFUSE(ERR_FORMAT, "rms_norm_eps", {"rms_norm_eps", NULL});
    REFUSE(ERR_FORMAT, "", {"rms_norm_eps", "1e999"});
    REFUSE(ERR_FORMAT, "", {"rms_norm_eps", "NaN"});
    REFUSE_VALUES("bos_token_id", "-1", "1.5", "\"<s>\"");
    REFUSE_VALUES("tie_word_embeddings", "1", "\"yes\"");
}

static void test_unknown(void)
{
    REFUSE(ERR_UNSUPPORTED, "GPT2LMHeadModel", {"architectures", "[\"GPT2LMHeadModel\"]"});
    REFUSE(ERR_UNSUPPORTED, "MistralForCausalLM",
        {"architectures", "[\"Llama\"]"}); /* the known ones are listed */
    REFUSE_VALUES("architectures", "\"LlamaForCausalLM\"", "[]", "[7]", "null", "{}",
        "[\"LlamaForCausalLM\", \"LlamaForCausalLM\"]");
    REFUSE(ERR_UNSUPPORTED, "model_type", {"model_type", "\"mistral\""});
    REFUSE(ERR_UNSUPPORTED, "relu", {"hidden_act", "\"relu\""});
    REFUSE(ERR_FORMAT, "hidden_act", {"hidden_act", "1"});
    REFUSE(ERR_UNSUPPORTED, "gptq", {"quantization_config", "{\"quant_method\": \"gptq\", \"bits\": 4}"});
    REFUSE(ERR_UNSUPPORTED, "quantization_config", {"quantization_config", "{}"});
}

static void test_hostile(void)
{
    char *deep = memory_new(1000001, 1, NULL);

    REQUIRE(deep, NULL);
    memset(deep, '{', 1000000);
    refuse_text(deep, ERR_FORMAT, "config.json"); /* J01 */
    memory_free(deep);
    refuse_text("", ERR_FORMAT, "config.json");
    refuse_text("[]", ERR_FORMAT, "not a JSON object");
    refuse_text("null", ERR_FORMAT, "not a JSON object");
    refuse_text("{\"hidden_size\": 64, \"hidden_size\": 64}", ERR_FORMAT, "hidden_size"); /* J11 */
    refuse_text("{} trailing", ERR_FORMAT, "config.json");                                /* J03 */
    REFUSE(ERR_FORMAT, "hidden_act", {"hidden_act", "\"silu\\u0000x\""});
    REFUSE(ERR_UNSUPPORTED, "\\x1b", {"architectures", "[\"\\u001b[31m\"]"});
}

/* Every allocation of a parse fails once: ERR_MEMORY and nothing leaks (under the address sanitizer). */
static void test_no_memory(void)
{
    struct model_config config;
    struct error err = {0};
    char text[TEXT_BYTES];
    enum status status = ERR_MEMORY;

    build(text, NULL, 0);
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        memory_fail_at(nth, 0);
        status = config_parse(&config, "config.json", text, strlen(text), &err);
    }
    memory_fail_at(0, 0);
    CHECK(status == OK, &err);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"plain", test_plain},
        {"defaults", test_defaults},
        {"sizes", test_sizes},
        {"stops", test_stops},
        {"biases", test_biases},
        {"what pruning made", test_own},
        {"windows", test_windows},
        {"bad windows", test_bad_windows},
        {"Gemma", test_gemma},
        {"bad Gemma", test_bad_gemma},
        {"Phi-3 and StableLM", test_phi},
        {"bad Phi-3 and StableLM", test_bad_phi},
        {"GPT-NeoX", test_neox},
        {"GPT-2", test_gpt2},
        {"mixtures of experts", test_experts},
        {"bad mixtures", test_bad_experts},
        {"rope", test_rope},
        {"yarn", test_rope_yarn},
        {"bad rope", test_bad_rope},
        {"bad sizes", test_bad_sizes},
        {"bad numbers", test_bad_numbers},
        {"unknown", test_unknown},
        {"hostile", test_hostile},
        {"no memory", test_no_memory},
    };

    return TESTING_RUN("config", cases);
}
