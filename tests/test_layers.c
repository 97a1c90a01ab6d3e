/* Tensor names, roles and shapes; and binding: that every tensor of a container is bound, dropped for a
 * reason, or refused by name. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/layers.h"
#include "tests/support/testing.h"

/* ---- containers with the tensors of a configuration, and deviations ---- */

/* One deviation: the tensor gets this type and shape (also if the configuration has no such tensor); dtype
 * NULL leaves it out. cols 0: rank 1. */
struct edit {
    const char *name, *dtype;
    uint64_t rows, cols;
};

struct builder {
    char header[65536];
    size_t used;
    uint64_t bytes; /* of tensor data */
};

static void add(
    struct builder *builder, const char *name, const char *dtype_name, uint64_t rows, uint64_t cols)
{
    enum dtype dtype;
    uint64_t bytes;
    char shape[64];

    REQUIRE(dtype_by_name(&dtype, dtype_name, strlen(dtype_name)), NULL);
    bytes = rows * (cols ? cols : 1) * dtype_info(dtype)->bytes;
    snprintf(shape, sizeof shape, cols ? "[%" PRIu64 ",%" PRIu64 "]" : "[%" PRIu64 "]", rows, cols);
    builder->used += (size_t)snprintf(builder->header + builder->used, sizeof builder->header - builder->used,
        ",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", name,
        dtype_name, shape, builder->bytes, builder->bytes + bytes);
    builder->bytes += bytes;
}

static bool is_edited(const char *name, const struct edit *edits, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(edits[i].name, name) == 0) return true;
    }
    return false;
}

/* All tensors of the configuration that no edit names. */
static void add_expected(
    struct builder *builder, const struct model_config *config, const struct edit *edits, size_t count)
{
    uint64_t shape[2];
    uint32_t rank;
    char name[128];

    for (int role = 0; role < ROLE_COUNT; role++) {
        if (!layers_role_shape(config, (enum role)role, 0, &rank, shape)) continue;
        if (role == ROLE_HEAD && config->tied) continue;
        if (layers_role_is_expert((enum role)role)) continue;
        for (uint32_t layer = 0; layer < (role < ROLE_PER_LAYER ? 1 : config->layers); layer++) {
            layers_name(name, sizeof name, config->architecture, (enum role)role, layer);
            if (!is_edited(name, edits, count)) add(builder, name, "F32", shape[0], rank == 2 ? shape[1] : 0);
        }
    }
}

static void add_experts(
    struct builder *builder, const struct model_config *config, const struct edit *edits, size_t count)
{
    uint64_t shape[2];
    uint32_t rank;
    char name[128];

    for (uint32_t i = 0; i < config->layers * config->experts * EXPERT_ROLES; i++) {
        enum role role = ROLE_EXPERT_GATE + i % EXPERT_ROLES;
        uint32_t expert = i / EXPERT_ROLES % config->experts;

        layers_role_shape(config, role, 0, &rank, shape);
        layers_expert_name(
            name, sizeof name, config->architecture, role, i / EXPERT_ROLES / config->experts, expert);
        if (!is_edited(name, edits, count)) add(builder, name, "F32", shape[0], shape[1]);
    }
}

/* Write model.safetensors with zeros for weights and open it. metadata: the inside of __metadata__. */
static struct container *open_edited(
    const struct model_config *config, const char *metadata, const struct edit *edits, size_t count)
{
    static struct builder builder;
    const char *path = testing_path("model.safetensors");
    struct container *container;
    struct error err = {0};
    uint64_t header;
    char *file;

    memset(&builder, 0, sizeof builder);
    builder.used = (size_t)sprintf(builder.header, "{\"__metadata__\":{%s}", metadata);
    add_expected(&builder, config, edits, count);
    add_experts(&builder, config, edits, count);
    for (size_t i = 0; i < count; i++) {
        if (edits[i].dtype) add(&builder, edits[i].name, edits[i].dtype, edits[i].rows, edits[i].cols);
    }
    builder.used += (size_t)sprintf(builder.header + builder.used, "}");
    header = builder.used;
    file = memory_new(8 + header + builder.bytes, 1, &err);
    REQUIRE(file, &err);
    for (int i = 0; i < 8; i++)
        file[i] = (char)(header >> 8 * i);
    memcpy(file + 8, builder.header, header);
    testing_write(path, file, 8 + header + builder.bytes);
    memory_free(file);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    return container;
}

/* A small configuration: 2 layers, hidden 8, 2 heads of 4 sharing one key head, ffn 12, vocabulary 10. */
static struct model_config small(const char *architecture, const char *model_type, bool tied)
{
    struct model_config config;
    struct error err = {0};
    char text[1024];
    int bytes = snprintf(text, sizeof text,
        "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": 8, \"intermediate_size\": 12,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 4,"
        "\"vocab_size\": 10, \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, "
        "\"tie_word_embeddings\": %s}",
        architecture, model_type, tied ? "true" : "false");

    REQUIRE(config_parse(&config, "config.json", text, (uint64_t)bytes, &err) == OK, &err);
    return config;
}

/* Two layers of 11 experts and a shared one. */
static struct model_config small_mixture(void)
{
    static const char text[] =
        "{\"architectures\": [\"Qwen2MoeForCausalLM\"], \"model_type\": \"qwen2_moe\", \"hidden_size\": 8,"
        "\"intermediate_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
        "\"vocab_size\": 10, \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, \"num_experts\": 11,"
        "\"num_experts_per_tok\": 2, \"moe_intermediate_size\": 3, \"shared_expert_intermediate_size\": 5}";
    struct model_config config;
    struct error err = {0};

    REQUIRE(config_parse(&config, "config.json", text, sizeof text - 1, &err) == OK, &err);
    return config;
}

static struct model_config small_llama(bool tied)
{
    return small("LlamaForCausalLM", "llama", tied);
}

/* ---- names and shapes ---- */

/* Every role of a configuration is found again by its tensor's name. */
static void check_names(const struct model_config *config, int expected_roles)
{
    int roles = 0;

    for (int i = 0; i < ROLE_COUNT; i++) {
        enum role role = (enum role)i, found;
        uint32_t layer = i < ROLE_PER_LAYER ? 0 : 1, found_layer, rank;
        uint64_t shape[2];
        char name[128];
        bool has = layers_role_shape(config, role, 0, &rank, shape);

        layers_name(name, sizeof name, config->architecture, role, layer);
        if (layers_role_of(config, name, &found, &found_layer)) { /* another role's name may be the same */
            CU_ASSERT_TRUE(has == (found == role) && found_layer == layer);
        } else {
            CU_ASSERT_FALSE(has);
        }
        CU_ASSERT_TRUE(strlen(layers_role_name(role)) > 0);
        roles += has;
    }
    CU_ASSERT_EQUAL(roles, expected_roles);
}

static void test_names(void)
{
    struct model_config config = small_llama(true);
    enum role role;
    uint32_t layer;

    check_names(&config, 12);
    config = small("MistralForCausalLM", "mistral", false);
    check_names(&config, 12);
    config = small("Qwen2ForCausalLM", "qwen2", false);
    check_names(&config, 15);
    config = small("Qwen3ForCausalLM", "qwen3", false);
    check_names(&config, 14);
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.2.mlp.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.01.mlp.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.4294967296.mlp.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers..mlp.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.1", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "mlp.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "", &role, &layer));
}

static void test_shapes(void)
{
    struct model_config config = small_llama(false);
    uint64_t shape[2];
    uint32_t rank;

    CU_ASSERT_TRUE(layers_role_shape(&config, ROLE_K, 0, &rank, shape));
    CU_ASSERT_TRUE(rank == 2 && shape[0] == 4 && shape[1] == 8);
    CU_ASSERT_TRUE(layers_role_shape(&config, ROLE_DOWN, 0, &rank, shape));
    CU_ASSERT_TRUE(rank == 2 && shape[0] == 8 && shape[1] == 12);
    CU_ASSERT_TRUE(layers_role_shape(&config, ROLE_FINAL_NORM, 0, &rank, shape));
    CU_ASSERT_TRUE(rank == 1 && shape[0] == 8);
    CU_ASSERT_FALSE(layers_role_shape(&config, ROLE_Q_NORM, 0, &rank, shape));
}

static void test_linear_roles(void)
{
    int linear = 0;

    for (int role = 0; role < ROLE_COUNT; role++)
        linear += layers_role_is_linear((enum role)role);
    CU_ASSERT_EQUAL(linear, 10);
    CU_ASSERT_FALSE(layers_role_is_linear(ROLE_HEAD));
    CU_ASSERT_TRUE(layers_role_is_linear(ROLE_Q) && layers_role_is_linear(ROLE_DOWN));
}

static void test_architectures(void)
{
    CU_ASSERT_PTR_NOT_NULL(layers_architecture("Qwen3ForCausalLM", 16));
    CU_ASSERT_PTR_NULL(layers_architecture("Qwen3ForCausalLM", 15));
    CU_ASSERT_PTR_NULL(layers_architecture("", 0));
    char known[512];

    CU_ASSERT_PTR_NOT_NULL(strstr(layers_architectures(known, sizeof known), "LlamaForCausalLM, Mistral"));
    CU_ASSERT_TRUE(strlen(known) + 1 < sizeof known);
}

/* ---- binding ---- */

/* Bind what open_edited makes. Returns the status; on success `tensors` is the caller's to release. */
static enum status bind(struct model_tensors *tensors, struct container **container, uint64_t *dropped_count,
    char why[64], const struct model_config *config, const char *metadata, const struct edit *edits,
    size_t count, struct error *err)
{
    struct dropped_tensor *dropped;
    enum status status;

    *container = open_edited(config, metadata, edits, count);
    status = layers_bind(tensors, &dropped, dropped_count, *container, config, err);
    snprintf(why, 64, "%s", *dropped_count ? dropped[0].why : "");
    memory_free(dropped);
    return status;
}

/* A container that must bind, with one reason for what is dropped ("" for nothing), and whether head and
 * embedding are one tensor. */
static void accept(const struct model_config *config, const char *metadata, const struct edit *edits,
    size_t count, const char *expected_why, bool shared)
{
    struct container *container;
    struct model_tensors tensors;
    struct error err = {0};
    uint64_t dropped_count;
    char why[64];
    enum status status =
        bind(&tensors, &container, &dropped_count, why, config, metadata, edits, count, &err);

    CHECK(status == OK, &err);
    if (!status) {
        CU_ASSERT_STRING_EQUAL(why, expected_why);
        CU_ASSERT_PTR_NOT_NULL(tensors.once[ROLE_EMBEDDING]);
        CU_ASSERT_EQUAL(tensors.once[ROLE_HEAD] == tensors.once[ROLE_EMBEDDING], shared);
        CU_ASSERT_STRING_EQUAL(tensors.layer[1][ROLE_GATE]->name, "model.layers.1.mlp.gate_proj.weight");
        CU_ASSERT_PTR_NULL(tensors.layer[1][ROLE_O_BIAS]);
        layers_release(&tensors);
    }
    container_close(container);
}

static void refuse(const struct model_config *config, enum status expected, const char *named,
    const struct edit *edits, size_t count)
{
    struct container *container;
    struct model_tensors tensors;
    struct error err = {0};
    uint64_t dropped_count;
    char why[64];
    enum status status = bind(&tensors, &container, &dropped_count, why, config, "", edits, count, &err);

    if (status != expected || !strstr(err.text, named))
        printf("\n  expected status %d naming %s\n", expected, named);
    CHECK(status == expected && strstr(err.text, named), &err);
    container_close(container);
}

#define EDITS(...)                                                                                           \
    (const struct edit[]){__VA_ARGS__}, sizeof((const struct edit[]){__VA_ARGS__}) / sizeof(struct edit)

static void test_bind(void)
{
    struct model_config config = small_llama(false);

    accept(&config, "", NULL, 0, "", false);
    config = small("MistralForCausalLM", "mistral", false);
    accept(&config, "", NULL, 0, "", false);
    config = small("Qwen2ForCausalLM", "qwen2", false);
    accept(&config, "", NULL, 0, "", false);
    config = small("Qwen3ForCausalLM", "qwen3", true);
    accept(&config, "", NULL, 0, "", true);
}

static void test_bind_tied(void)
{
    struct model_config config = small_llama(true);

    accept(&config, "", NULL, 0, "", true);
    accept(&config, "", EDITS({"lm_head.weight", "F32", 10, 8}), "tied to the embedding", true);
    accept(&config, "", EDITS({"model.embed_tokens.weight", NULL, 0, 0}, {"lm_head.weight", "F32", 10, 8}),
        "", true);
    accept(&config, "\"model.embed_tokens.weight\":\"lm_head.weight\"",
        EDITS({"model.embed_tokens.weight", NULL, 0, 0}, {"lm_head.weight", "F32", 10, 8}), "", true);
    config.tied = false;
    accept(&config, "\"lm_head.weight\":\"model.embed_tokens.weight\"", EDITS({"lm_head.weight", NULL, 0, 0}),
        "", true);
    refuse(&config, ERR_FORMAT, "lm_head.weight", EDITS({"lm_head.weight", NULL, 0, 0})); /* J13 */
    refuse(&config, ERR_FORMAT, "tie_word_embeddings", EDITS({"lm_head.weight", NULL, 0, 0}));
}

static void test_bind_dropped(void)
{
    struct model_config config = small_llama(false);

    accept(&config, "", EDITS({"model.layers.1.self_attn.rotary_emb.inv_freq", "F32", 2, 0}),
        "rotary table, recomputed", false);
    accept(&config, "", EDITS({"model.rotary_emb.inv_freq", "F32", 2, 0}), "rotary table, recomputed", false);
    refuse(&config, ERR_FORMAT, "rotary_emb",
        EDITS({"model.layers.2.self_attn.rotary_emb.inv_freq", "F32", 2, 0}));
}

static void test_bind_faults(void)
{
    struct model_config config = small_llama(false);
    const char *const gate = "model.layers.1.mlp.gate_proj.weight";

    refuse(&config, ERR_FORMAT, gate, EDITS({gate, NULL, 0, 0}));
    refuse(&config, ERR_FORMAT, "model.norm.weight", EDITS({"model.norm.weight", NULL, 0, 0}));
    refuse(&config, ERR_FORMAT, "[8, 12], config.json says [12, 8]", EDITS({gate, "F32", 8, 12}));
    refuse(&config, ERR_FORMAT, "[96]", EDITS({gate, "F32", 96, 0}));
    refuse(&config, ERR_FORMAT, "model.norm.weight", EDITS({"model.norm.weight", "F32", 8, 1}));
    refuse(&config, ERR_FORMAT, "[11, 8]", EDITS({"model.embed_tokens.weight", "F32", 11, 8}));
    refuse(&config, ERR_UNSUPPORTED, "I8", EDITS({gate, "I8", 12, 8}));
    refuse(&config, ERR_FORMAT, "not part of", EDITS({"model.layers.2.mlp.up_proj.weight", "F32", 12, 8}));
    refuse(&config, ERR_FORMAT, "not part of", EDITS({"model.layers.0.self_attn.q_proj.bias", "F32", 8, 0}));
    refuse(&config, ERR_FORMAT, "qweight", EDITS({"model.layers.0.mlp.up_proj.qweight", "I32", 1, 12}));
}

/* ---- mixtures of experts ---- */

static void test_expert_names(void)
{
    const struct model_config config = small_mixture();
    enum role role;
    uint32_t layer;
    char name[128];

    layers_expert_name(name, sizeof name, config.architecture, ROLE_EXPERT_UP, 1, 10);
    CU_ASSERT_STRING_EQUAL(name, "model.layers.1.mlp.experts.10.up_proj.weight");
    CU_ASSERT_TRUE(layers_role_of(&config, name, &role, &layer) && role == ROLE_EXPERT_UP && layer == 1);
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.1.mlp.experts.11.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.1.mlp.experts.01.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.1.mlp.experts..up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.1.mlp.experts.*.up_proj.weight", &role, &layer));
    CU_ASSERT_FALSE(layers_role_of(&config, "model.layers.1.mlp.experts.1.up_proj.weights", &role, &layer));
    CU_ASSERT_TRUE(
        layers_role_of(&config, "model.layers.0.mlp.gate.weight", &role, &layer) && role == ROLE_ROUTER);
    CU_ASSERT_TRUE(layers_role_is_linear(ROLE_EXPERT_DOWN) && !layers_role_is_linear(ROLE_ROUTER));
}

/* A place for every role, then for every matrix of every expert, and back. */
static void test_places(void)
{
    const struct model_config config = small_mixture();
    const char *const up = "model.layers.1.mlp.experts.10.up_proj.weight";
    uint32_t place, layer;

    CU_ASSERT_EQUAL(layers_places(&config), ROLE_COUNT + 11 * EXPERT_ROLES);
    for (uint32_t i = 0; i < layers_places(&config); i++) {
        const enum role role = layers_place_role(i);
        CU_ASSERT_TRUE(i < ROLE_COUNT ? role == (enum role)i : layers_role_is_expert(role));
        if (!layers_role_is_expert(role) || i >= ROLE_COUNT)
            CU_ASSERT_EQUAL(layers_place(role, layers_place_expert(i)), i);
    }
    CU_ASSERT_TRUE(layers_place_of(&config, up, &place, &layer) && layer == 1);
    CU_ASSERT_EQUAL(place, layers_place(ROLE_EXPERT_UP, 10));
    CU_ASSERT_TRUE(layers_place_of(&config, "lm_head.weight", &place, &layer) && place == ROLE_HEAD);
    CU_ASSERT_FALSE(layers_place_of(&config, "model.layers.1.mlp.experts.11.up_proj.weight", &place, &layer));
}

static void test_bind_experts(void)
{
    const struct model_config config = small_mixture();
    const char *const up = "model.layers.1.mlp.experts.7.up_proj.weight";
    struct container *container;
    struct model_tensors tensors;
    struct error err = {0};
    uint64_t dropped_count;
    char why[64];

    REQUIRE(bind(&tensors, &container, &dropped_count, why, &config, "", NULL, 0, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(tensors.experts[11 + 7][1]->name, up);
    CU_ASSERT_PTR_NULL(tensors.layer[1][ROLE_EXPERT_UP]);
    CU_ASSERT_STRING_EQUAL(layers_at(&tensors, &config, 1, layers_place(ROLE_EXPERT_UP, 7))->name, up);
    CU_ASSERT_PTR_EQUAL(layers_at(&tensors, &config, 1, ROLE_GATE), tensors.layer[1][ROLE_GATE]);
    CU_ASSERT_EQUAL(tensors.layer[1][ROLE_GATE]->shape[0], 5);
    CU_ASSERT_EQUAL(layers_routed_bytes(&tensors, &config, 1), 2 * 3 * 3 * 8 * 4);
    layers_release(&tensors);
    container_close(container);
    refuse(&config, ERR_FORMAT, up, EDITS({up, NULL, 0, 0}));
    refuse(&config, ERR_FORMAT, "[3, 9]", EDITS({up, "F32", 3, 9}));
    refuse(&config, ERR_FORMAT, "not part of",
        EDITS({"model.layers.1.mlp.experts.11.up_proj.weight", "F32", 3, 8}));
    refuse(&config, ERR_FORMAT, "mlp.gate.weight", EDITS({"model.layers.0.mlp.gate.weight", NULL, 0, 0}));
}

/* Every allocation of a binding fails once. */
static void test_no_memory(void)
{
    struct model_config config = small_llama(true);
    struct container *container = open_edited(&config, "", EDITS({"lm_head.weight", "F32", 10, 8}));
    struct model_tensors tensors;
    struct dropped_tensor *dropped;
    uint64_t dropped_count, nth;
    struct error err = {0};
    enum status status = ERR_MEMORY;

    for (nth = 1; status == ERR_MEMORY && nth < 100; nth++) {
        memory_fail_at(nth, 0);
        status = layers_bind(&tensors, &dropped, &dropped_count, container, &config, &err);
    }
    memory_fail_at(0, 0);
    CHECK(status == OK && nth > 3, &err);
    layers_release(&tensors);
    memory_free(dropped);
    container_close(container);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"names", test_names},
        {"shapes", test_shapes},
        {"linear roles", test_linear_roles},
        {"architectures", test_architectures},
        {"bind", test_bind},
        {"bind tied", test_bind_tied},
        {"bind dropped", test_bind_dropped},
        {"bind faults", test_bind_faults},
        {"expert names", test_expert_names},
        {"places", test_places},
        {"bind experts", test_bind_experts},
        {"no memory", test_no_memory},
    };

    return TESTING_RUN("layers", cases);
}
