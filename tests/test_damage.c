/* Where a model is damaged: models that differ from the base in one known weight, so that every number has one right place; refusals,
 * the order of the tables, threads and failing memory. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/damage.h"
#include "runtime-check/judge/damage_print.h"
#include "runtime-check/judge/same_tokens.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

static const char text[] =
    "One two three four five. A text of which only the length matters, because nobody has taught these "
    "models "
    "anything: six seven eight nine ten, and so on until there are windows enough to be a batch and a rest.";

enum { LAYERS = 3 };

struct two {
    struct pool *pool;
    struct model *base, *model;
};

static struct model *open_tiny(struct pool *pool, const char *name, struct tiny_model options)
{
    struct error err = {0};
    struct model *model = NULL;
    options.layers = options.layers ? options.layers : LAYERS;
    REQUIRE(!model_open(&model, tiny_model_folder(name, options), pool, &err), &err);
    return model;
}

/* Which element of a tensor changes: in an embedding or a head one of the token "e", which the text has. */
static uint64_t element_of(const struct model *base, const char *name)
{
    const int64_t e = tokenizer_find(base->tokenizer, "<0x65>", 6);
    const bool by_token = name && (strstr(name, "embed") || strstr(name, "lm_head"));
    return by_token ? (uint64_t)e * base->config.hidden + 5 : 5;
}

/* The base, and a model that is the same but for one element of one tensor. */
static void open_two(struct two *two, unsigned threads, const char *poisoned, float value, bool tied)
{
    struct error err = {0};
    testing_folder();
    REQUIRE(!pool_create(&two->pool, threads, &err), &err);
    two->base = open_tiny(two->pool, "base", (struct tiny_model){.tied = tied});
    two->model = open_tiny(two->pool, "model",
        (struct tiny_model){.poison = poisoned,
            .poison_at = element_of(two->base, poisoned),
            .poison_value = value,
            .tied = tied});
}

static void close_two(struct two *two)
{
    model_close(two->base);
    model_close(two->model);
    pool_free(two->pool);
}

static const struct damage_options plain = {.text = {.protocol = PERPLEXITY_GPTQ, .context = 24}};
static const struct damage_options swap_layers = {
    .text = {.protocol = PERPLEXITY_GPTQ, .context = 24}, .swap = DAMAGE_SWAP_LAYERS};
static const struct damage_options swap_matrices = {
    .text = {.protocol = PERPLEXITY_GPTQ, .context = 24}, .swap = DAMAGE_SWAP_MATRICES};

static enum status measure(
    struct damage *out, const struct two *two, const struct damage_options *options, struct error *err)
{
    return damage_measure(out, two->base, two->model, text, strlen(text), options, NULL, err);
}

static const struct damage_tensor *find(const struct damage *damage, const char *name)
{
    for (uint64_t i = 0; i < damage->tensor_count; i++) {
        if (strcmp(damage->tensors[i].difference.tensor->name, name) == 0) return &damage->tensors[i];
    }
    return NULL;
}

/* ---- cases ---- */

static const char up[] = "model.layers.1.mlp.up_proj.weight";

/* One weight of layer 1 has changed: nothing before it, and what comes after it only inherits. */
static void one_changed_layer(void)
{
    struct two two;
    struct error err = {0};
    struct damage damage;
    open_two(&two, 2, up, 3, false);
    CHECK(!measure(&damage, &two, &plain, &err), &err);
    CU_ASSERT_EQUAL(damage.part_count, LAYERS + 2);
    CU_ASSERT(damage.windows == 8 && damage.tokens == 192 && damage.context == 24 && !damage.rescaled);
    for (uint64_t i = 0; i < damage.part_count; i++) {
        const struct damage_part *part = &damage.parts[i];
        const bool changed = part->layer == 1;
        CU_ASSERT(part->exact == !changed && !part->swapped);
        CU_ASSERT(part->traced == (i + 1 < damage.part_count)); /* all but the head */
        CU_ASSERT((part->own > 0) == changed && (part->share > 0) == changed);
        CU_ASSERT((part->error > 0) == (changed || part->layer == 2));
        CU_ASSERT_DOUBLE_EQUAL(part->bits_per_weight, 32, 1e-12);
    }
    CU_ASSERT(
        damage.parts[2].own == damage.parts[2].error); /* the first to err starts from the base's stream */
    CU_ASSERT_STRING_EQUAL(damage.parts[0].name, "embedding");
    CU_ASSERT_STRING_EQUAL(damage.parts[LAYERS + 1].name, "head");
    for (uint64_t i = 0; i < damage.tensor_count; i++) {
        const struct damage_tensor *tensor = &damage.tensors[i];
        CU_ASSERT(tensor->exact == (strcmp(tensor->difference.tensor->name, up) != 0));
    }
    CU_ASSERT(find(&damage, up)->difference.relative_rms > 0);
    damage_free(&damage);
    close_two(&two);
}

/* Put alone into the base, the only part that differs is the whole difference. */
static void one_changed_part_alone(void)
{
    static const char *const names[] = {up, "model.embed_tokens.weight", "lm_head.weight"};
    static const uint64_t parts[] = {2, 0, LAYERS + 1};
    for (size_t n = 0; n < 3; n++) {
        struct two two;
        struct error err = {0};
        struct damage layers, matrices;
        struct comparison whole;
        open_two(&two, 2, names[n], 3, false);
        const struct compare_base base = {.model = two.base};
        const struct compare_options options = {.text = plain.text};
        CHECK(!compare_models(&whole, &base, &two.model, 1, text, strlen(text), &options, NULL, &err), &err);
        CHECK(!measure(&layers, &two, &swap_layers, &err), &err);
        CHECK(!measure(&matrices, &two, &swap_matrices, &err), &err);
        CU_ASSERT(whole.kld.value > 0 && layers.kld.value == whole.kld.value);
        for (uint64_t i = 0; i < layers.part_count; i++) {
            CU_ASSERT(layers.parts[i].swapped && !matrices.parts[i].swapped);
            CU_ASSERT(layers.parts[i].kld.value == (i == parts[n] ? whole.kld.value : 0));
        }
        for (uint64_t i = 0; i < matrices.tensor_count; i++) {
            const struct damage_tensor *tensor = &matrices.tensors[i];
            const bool changed = strcmp(tensor->difference.tensor->name, names[n]) == 0;
            CU_ASSERT(tensor->swapped && !layers.tensors[i].swapped);
            CU_ASSERT(tensor->kld.value == (changed ? whole.kld.value : 0));
        }
        damage_free(&layers);
        damage_free(&matrices);
        close_two(&two);
    }
}

/* Embedding and head of a tied model are one part and are swapped together. */
static void tied(void)
{
    struct two two;
    struct error err = {0};
    struct damage damage;
    open_two(&two, 1, "model.embed_tokens.weight", 3, true);
    CHECK(!measure(&damage, &two, &swap_layers, &err), &err);
    CU_ASSERT_EQUAL(damage.part_count, LAYERS + 1);
    CU_ASSERT(damage.parts[0].kld.value > 0 && damage.parts[0].kld.value == damage.kld.value);
    damage_free(&damage);
    close_two(&two);
}

/* Every part differs a little, and there are more of them than go at once. */
static void many_small_changes(void)
{
    struct two two;
    struct error err = {0};
    struct damage damage;
    testing_folder();
    REQUIRE(!pool_create(&two.pool, 2, &err), &err);
    two.base = open_tiny(two.pool, "base", (struct tiny_model){.layers = 9});
    two.model = open_tiny(two.pool, "model", (struct tiny_model){.layers = 9, .dtype = "BF16"});
    CHECK(!measure(&damage, &two, &swap_layers, &err), &err);
    for (uint64_t i = 0; i < damage.part_count; i++) {
        CU_ASSERT(damage.parts[i].swapped && !damage.parts[i].exact && damage.parts[i].kld.value > 0);
        CU_ASSERT_DOUBLE_EQUAL(damage.parts[i].bits_per_weight, 16, 1e-12);
    }
    damage_sort(&damage);
    for (uint64_t i = 1; i < damage.part_count; i++)
        CU_ASSERT(damage.parts[i - 1].kld.value >= damage.parts[i].kld.value);
    for (uint64_t i = 1; i < damage.tensor_count; i++)
        CU_ASSERT(damage.tensors[i - 1].difference.relative_rms >= damage.tensors[i].difference.relative_rms);
    damage_free(&damage);
    close_two(&two);
}

static void tensors_only(void)
{
    struct two two;
    struct error err = {0};
    struct damage damage;
    open_two(&two, 1, up, 3, false);
    CHECK(!damage_measure(&damage, two.base, two.model, NULL, 0, &plain, NULL, &err), &err);
    CU_ASSERT(
        damage.tokens == 0 && !damage.parts[2].traced && find(&damage, up)->difference.relative_rms > 0);
    damage_sort(&damage);
    CU_ASSERT_STRING_EQUAL(damage.tensors[0].difference.tensor->name, up);
    damage_free(&damage);
    CU_ASSERT_EQUAL(
        damage_measure(&damage, two.base, two.model, NULL, 0, &swap_layers, NULL, &err), ERR_USAGE);
    damage_free(&damage);
    close_two(&two);
}

static void expect(const struct two *two, struct model *model, const struct damage_options *options,
    enum status expected, const char *named)
{
    struct error err = {0};
    struct damage damage;
    const enum status status =
        damage_measure(&damage, two->base, model, text, strlen(text), options, NULL, &err);
    CHECK(status == expected && strstr(err.text, named), &err);
    damage_free(&damage);
}

static void refusals(void)
{
    struct two two;
    struct damage_options wide = plain;
    open_two(&two, 1, "model.layers.0.input_layernorm.weight", 3, false);
    expect(&two, two.model, &swap_matrices, ERR_UNSUPPORTED, "--swap layer");
    struct model *others[] = {
        open_tiny(two.pool, "deep", (struct tiny_model){.layers = 4}),
        open_tiny(two.pool, "heads", (struct tiny_model){.kv_heads = 4}),
        open_tiny(two.pool, "larger", (struct tiny_model){.vocabulary = 300}),
        open_tiny(two.pool, "nan",
            (struct tiny_model){.poison = "model.norm.weight", .poison_at = 3, .poison_value = NAN}),
    };
    expect(&two, others[0], &plain, ERR_USAGE, "base has num_hidden_layers 3, ");
    expect(&two, others[1], &plain, ERR_USAGE, "num_key_value_heads 2");
    expect(&two, others[2], &plain, ERR_USAGE, "vocab_size 269");
    expect(&two, others[3], &plain, ERR_NUMERIC, "model.norm.weight");
    wide.text.context = 1024;
    expect(&two, two.model, &wide, ERR_USAGE, "less than one window of 1024");
    for (int i = 0; i < 4; i++)
        model_close(others[i]);
    close_two(&two);
}

/* Whole layers can be swapped in a rescaled model, and it is seen to be one. */
static void rescaled(void)
{
    struct two two;
    struct error err = {0};
    struct damage damage;
    open_two(&two, 1, "model.layers.2.post_attention_layernorm.weight", 3, false);
    CHECK(!measure(&damage, &two, &swap_layers, &err), &err);
    CU_ASSERT(
        damage.rescaled ==
        (find(&damage, "model.layers.2.post_attention_layernorm.weight")->difference.relative_rms > 1e-2));
    damage_free(&damage);
    close_two(&two);
}

static void same_for_any_threads(void)
{
    struct damage first = {0};
    struct two kept = {0};
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct two two;
        struct error err = {0};
        struct damage damage;
        open_two(&two, threads, up, 3, false);
        CHECK(!measure(&damage, &two, &swap_layers, &err), &err);
        if (threads == 1) {
            first = damage;
            kept = two;
            continue;
        }
        CU_ASSERT(memcmp(first.parts, damage.parts, first.part_count * sizeof *first.parts) == 0);
        CU_ASSERT(memcmp(&first.kld, &damage.kld, sizeof first.kld) == 0);
        damage_free(&damage);
        close_two(&two);
    }
    damage_free(&first);
    close_two(&kept);
}

/* Every allocation may fail, and nothing leaks. */
static void without_memory(void)
{
    struct two two;
    enum status status = ERR_MEMORY;
    open_two(&two, 1, up, 3, false);
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 2000; nth++) {
        struct error err = {0};
        struct damage damage;
        memory_fail_at(nth, 0);
        status = measure(&damage, &two, &swap_layers, &err);
        CU_ASSERT(status == OK || status == ERR_MEMORY);
        damage_free(&damage);
    }
    memory_fail_at(0, 0);
    CU_ASSERT_EQUAL(status, OK);
    close_two(&two);
}

/* ---- tokens ---- */

static enum status same_tokens(const struct two *two, const char *on, struct error *err)
{
    return same_tokens_check(two->base, two->model, on, on ? strlen(on) : 0, err);
}

/* The shipped model's tokenizer merges where the tiny ones take bytes. */
static void tokens(void)
{
    struct two two;
    struct error err = {0};
    struct tokenizer *foreign = NULL;
    uint64_t bytes;
    open_two(&two, 1, NULL, 0, false);
    CHECK(!same_tokens(&two, text, &err) && !same_tokens(&two, NULL, &err), &err);
    char *json = testing_read(testing_path("model/tokenizer.json"), &bytes);
    json[bytes - 1] = '\n'; /* other bytes, the same tokens, once the brace that was there is back */
    char *longer = memory_new(bytes + 2, 1, &err);
    REQUIRE(longer != NULL, &err);
    memcpy(longer, json, bytes - 1);
    memcpy(longer + bytes - 1, "}\n", 2);
    testing_write(testing_path("model/tokenizer.json"), longer, bytes + 1);
    memory_free(json);
    memory_free(longer);
    CHECK(!same_tokens(&two, text, &err) && !same_tokens(&two, NULL, &err), &err);
    json = testing_read(testing_source("../models/folio-4M/tokenizer.json"), &bytes);
    REQUIRE(!tokenizer_create(&foreign, "tokenizer.json", json, bytes, &err), &err);
    struct tokenizer *own = two.model->tokenizer;
    two.model->tokenizer = foreign;
    CU_ASSERT_EQUAL(same_tokens(&two, text, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "cut this text differently"));
    CU_ASSERT_EQUAL(same_tokens(&two, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "is not the same text in both"));
    two.model->tokenizer = NULL;
    CHECK(!same_tokens(&two, text, &err), &err);
    two.model->tokenizer = own;
    tokenizer_free(foreign);
    memory_free(json);
    close_two(&two);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"one changed layer", one_changed_layer},
        {"one changed part alone in the base", one_changed_part_alone},
        {"a tied model", tied},
        {"many small changes", many_small_changes},
        {"tensors only", tensors_only},
        {"refusals", refusals},
        {"a rescaled model", rescaled},
        {"the same for any number of threads", same_for_any_threads},
        {"without memory", without_memory},
        {"the same tokens", tokens},
    };
    return TESTING_RUN("damage", cases);
}
