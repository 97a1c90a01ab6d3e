/* A checkpoint as GGUF and back: the same configuration and the same tensors for every model of tests/golden/logits, what cannot be said
 * refused by name, keys carried over, the provenance shown, the same file from the second time on and for any number of threads. */
#include "model/gguf/gguf_export.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "convert/convert.h"
#include "formats/gguf/gguf_writer.h"
#include "formats/provenance.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

/* ---- helpers ---- */

static enum status convert_with(
    const char *input, const char *output, struct convert_options options, struct error *err)
{
    struct convert_result result;
    enum status status;

    options.input = input;
    options.output = output;
    options.force = true;
    options.common.quiet = true;
    if (!options.type) options.type = "keep";
    if (!options.common.threads) options.common.threads = 2;
    status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

static void convert(const char *input, const char *output)
{
    struct error err = {0};

    CHECK(convert_with(input, output, (struct convert_options){0}, &err) == OK, &err);
}

static const char *golden(const char *name)
{
    char relative[256];

    snprintf(relative, sizeof relative, "golden/logits/%s", name);
    return testing_source(relative);
}

static void open_both(struct checkpoint *a, struct checkpoint *b, const char *path_a, const char *path_b)
{
    struct error err = {0};

    REQUIRE(checkpoint_open(a, path_a, &err) == OK, &err);
    REQUIRE(checkpoint_open(b, path_b, &err) == OK, &err);
    REQUIRE(container_map(a->container, &err) == OK, &err);
    REQUIRE(container_map(b->container, &err) == OK, &err);
}

static void close_both(struct checkpoint *a, struct checkpoint *b)
{
    checkpoint_close(a);
    checkpoint_close(b);
}

/* ---- the same model ---- */

static bool same_rope(const struct rope_config *a, const struct rope_config *b)
{
    if (a->kind != b->kind || (float)a->theta != (float)b->theta || (float)a->factor != (float)b->factor)
        return false;
    if (a->kind == ROPE_LLAMA3 &&
        (a->low_freq_factor != b->low_freq_factor || a->high_freq_factor != b->high_freq_factor))
        return false;
    if (a->kind == ROPE_YARN && (a->beta_fast != b->beta_fast || a->beta_slow != b->beta_slow ||
                                    a->attention_factor != b->attention_factor || a->truncate != b->truncate))
        return false;
    if (a->kind == ROPE_LONGROPE &&
        (memcmp(a->long_divisors, b->long_divisors, sizeof a->long_divisors) != 0 ||
            memcmp(a->short_divisors, b->short_divisors, sizeof a->short_divisors) != 0))
        return false;
    return a->kind == ROPE_DEFAULT || a->kind == ROPE_LINEAR || a->original_context == b->original_context;
}

/* Numbers as GGUF has them, in single precision. */
static bool same_config(const struct model_config *a, const struct model_config *b)
{
    return a->architecture == b->architecture && a->layers == b->layers && a->hidden == b->hidden &&
           a->ffn == b->ffn && a->experts == b->experts && a->experts_per_token == b->experts_per_token &&
           a->expert_ffn == b->expert_ffn && a->dense_ffn == b->dense_ffn &&
           a->normed_routing == b->normed_routing && a->parallel_residual == b->parallel_residual &&
           a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_size == b->head_size &&
           a->vocabulary == b->vocabulary && a->context == b->context &&
           (float)a->norm_epsilon == (float)b->norm_epsilon && a->tied == b->tied &&
           a->attention_bias == b->attention_bias && a->output_bias == b->output_bias &&
           a->mlp_bias == b->mlp_bias && a->window == b->window && a->rotary == b->rotary &&
           a->activation == b->activation && a->embedding_scale == b->embedding_scale &&
           a->score_scale == b->score_scale && a->score_softcap == b->score_softcap &&
           a->logit_softcap == b->logit_softcap && same_rope(&a->sliding_rope, &b->sliding_rope) &&
           memcmp(a->window_layers, b->window_layers, sizeof a->window_layers) == 0 &&
           same_rope(&a->rope, &b->rope) && a->bos == b->bos && a->stop_count == b->stop_count &&
           memcmp(a->stops, b->stops, a->stop_count * sizeof *a->stops) == 0;
}

/* Matrices byte for byte, but for those that GGUF wants in F32; vectors by value, those that count from 1 by what they stand for. */
static bool same_tensor(const struct tensor *a, const struct tensor *b, float offset)
{
    static float one[1 << 16], other[1 << 16];

    if (a->rank != b->rank || memcmp(a->shape, b->shape, sizeof a->shape) != 0) return false;
    if (a->storage != b->storage) return false;
    if (a->rank > 1 && (a->storage != STORAGE_DENSE || a->dtype == b->dtype))
        return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
    REQUIRE(a->elements <= sizeof one / sizeof *one, NULL);
    dtype_info(a->dtype)->decode(one, a->data, a->elements);
    dtype_info(b->dtype)->decode(other, b->data, b->elements);
    for (uint64_t i = 0; i < a->elements; i++)
        one[i] += offset, other[i] += offset;
    return memcmp(one, other, a->elements * sizeof *one) == 0;
}

static void check_same_model(const char *path_a, const char *path_b)
{
    struct checkpoint a, b;
    uint64_t compared = 0;

    open_both(&a, &b, path_a, path_b);
    if (!same_config(&a.config, &b.config)) {
        printf("\n  %s and %s: other configurations\n", path_a, path_b);
        CU_FAIL("configurations differ");
    }
    for (uint64_t i = 0; i < container_count(b.container); i++) {
        const struct tensor *tensor = container_tensor(b.container, i);
        const struct tensor *other = container_find(a.container, tensor->name);
        if (checkpoint_is_dropped(&b, tensor)) continue;
        const float offset = strstr(tensor->name, "norm") ? b.config.architecture->gain_offset : 0;
        CU_ASSERT_TRUE(other && same_tensor(other, tensor, offset));
        compared++;
    }
    CU_ASSERT_EQUAL(compared, container_count(a.container) - a.dropped_count);
    close_both(&a, &b);
}

static void same_models(void)
{
    static const char *const models[] = {"llama", "llama-f16", "llama-bf16", "llama-bias", "llama-headdim",
        "llama-tied", "llama-sharded", "llama-rope-linear", "llama-rope-llama3", "llama-rope-parameters",
        "llama-rope-yarn", "mistral", "qwen2", "qwen3", "gemma2-plain", "gemma3-short", "olmo2", "phi3",
        "phi3-long", "phi3-short", "stablelm", "mixtral", "qwen2-moe", "qwen3-moe", "neox", "gpt2",
        "gpt2-bare", "stablelm-parallel"};

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *path = testing_path("%s.gguf", models[i]);
        convert(golden(models[i]), path);
        check_same_model(golden(models[i]), path);
    }
}

/* ---- as llama.cpp wants it ---- */

/* What the file itself has, before it is seen as a checkpoint: norms of Gemma with the 1 that they add, one matrix for q, k and v of
 * Phi-3 and one for gate and up, a period of the layers that slide. */
static void stored(void)
{
    const char *gemma = testing_path("stored-gemma.gguf"), *phi = testing_path("stored-phi.gguf");
    struct container *file = NULL, *folder = NULL;
    struct error err = {0};
    uint64_t period = 0;

    convert(golden("gemma3-short"), gemma);
    REQUIRE(container_open(&folder, golden("gemma3-short"), &err) == OK && container_map(folder, &err) == OK,
        &err);
    REQUIRE(container_open(&file, gemma, &err) == OK && container_map(file, &err) == OK, &err);
    const struct tensor *norm = container_find(file, "blk.1.post_ffw_norm.weight");
    const struct tensor *w = container_find(folder, "model.layers.1.post_feedforward_layernorm.weight");
    CU_ASSERT_TRUE_FATAL(norm && w && w->dtype == DTYPE_F32 && norm->dtype == DTYPE_F32);
    for (uint64_t i = 0; i < w->elements; i++)
        CU_ASSERT_EQUAL(((const float *)norm->data)[i], 1 + ((const float *)w->data)[i]);
    CHECK(metadata_get_u64(container_metadata(file), "gemma3.attention.sliding_window_pattern", 1, 9, &period,
              &err) == OK &&
              period == 3,
        &err);
    container_close(folder);
    container_close(file);
    convert(golden("phi3"), phi);
    REQUIRE(container_open(&folder, golden("phi3"), &err) == OK && container_map(folder, &err) == OK, &err);
    REQUIRE(container_open(&file, phi, &err) == OK && container_map(file, &err) == OK, &err);
    CU_ASSERT_TRUE(
        !container_find(file, "blk.0.attn_q.weight") && !container_find(file, "blk.0.ffn_gate.weight"));
    CU_ASSERT_TRUE(same_tensor(container_find(file, "blk.0.attn_qkv.weight"),
        container_find(folder, "model.layers.0.self_attn.qkv_proj.weight"), 0));
    CU_ASSERT_TRUE(same_tensor(container_find(file, "blk.1.ffn_up.weight"),
        container_find(folder, "model.layers.1.mlp.gate_up_proj.weight"), 0));
    container_close(folder);
    container_close(file);
}

/* A tied model that stores its embedding under the head's name. */
static void under_the_heads_name(void)
{
    const char *folder =
        tiny_model_folder("under", (struct tiny_model){.spaces = true, .tied = true, .under_head = true});
    const char *path = testing_path("under.gguf");
    struct container *container = NULL;
    struct error err = {0};

    convert(folder, path);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CU_ASSERT_PTR_NOT_NULL(container_find(container, "token_embd.weight"));
    CU_ASSERT_PTR_NULL(container_find(container, "output.weight"));
    container_close(container);
}

/* ---- what cannot be said ---- */

static void refusals(void)
{
    static const struct {
        const char *model, *says;
    } cases[] = {
        {"llama-rope-dynamic", "rope_type dynamic has no place in GGUF files"},
        {"gemma2", "query_pre_attn_scalar other than 16"},
        {"gemma3-parameters", "attention_bias: the bias of o_proj"},
        {"llama-rope-yarn-beta", "rope_type yarn with other beta_fast"},
        {"llama-rope-yarn-mscale", "rope_type yarn with other beta_fast"},
        {"qwen2-sliding", "sliding_window"},
        {"neox-serial", "tie_word_embeddings true has no place in GGUF files of gptneox"},
    };
    struct error err = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = testing_path("refused-%d.gguf", (int)i);
        CHECK(
            convert_with(golden(cases[i].model), path, (struct convert_options){0}, &err) == ERR_UNSUPPORTED,
            &err);
        CHECK(strstr(err.text, cases[i].says) && strstr(err.text, golden(cases[i].model)), &err);
        CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
    }
}

/* A golden folder whose config.json says another thing. */
static const char *edited(const char *name, const char *old, const char *new)
{
    char folder[256], path[512];
    uint64_t bytes;
    struct error err = {0};

    snprintf(folder, sizeof folder, "%s", testing_path("edited-%s", name));
    REQUIRE(mkdir(folder, 0777) == 0, NULL);
    snprintf(path, sizeof path, "%s/model.safetensors", golden(name));
    char *weights = testing_read(path, &bytes);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    testing_write(path, weights, bytes);
    snprintf(path, sizeof path, "%s/config.json", golden(name));
    char *config = testing_read(path, &bytes), *at = strstr(config, old);
    REQUIRE(at && strlen(old) == strlen(new), &err);
    memcpy(at, new, strlen(new));
    snprintf(path, sizeof path, "%s/config.json", folder);
    testing_write(path, config, bytes);
    memory_free(weights);
    memory_free(config);
    return testing_path("edited-%s", name);
}

/* What llama.cpp knows by the architecture's name, and would compute otherwise than the configuration says. */
static void assumptions(void)
{
    static const struct {
        const char *model, *old, *new, *says;
    } cases[] = {
        {"neox", "\"gelu\"", "\"silu\"", "hidden_act silu has no place in GGUF files of gptneox"},
        {"qwen2-moe", "\"norm_topk_prob\": false", "\"norm_topk_prob\":  true",
            "norm_topk_prob true has no place in GGUF files of qwen2moe"},
        {"qwen3-moe", "\"norm_topk_prob\": true", "\"norm_topk_prob\": null",
            "norm_topk_prob false has no place in GGUF files of qwen3moe"},
    };
    struct error err = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = testing_path("assumed-%d.gguf", (int)i);
        const char *folder = edited(cases[i].model, cases[i].old, cases[i].new);
        CHECK(convert_with(folder, path, (struct convert_options){0}, &err) == ERR_UNSUPPORTED, &err);
        CHECK(strstr(err.text, cases[i].says) != NULL, &err);
        CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
    }
}

/* ---- provenance ---- */

static char *provenance_of(const char *path)
{
    struct checkpoint checkpoint;
    struct error err = {0};
    char *text = NULL;
    uint64_t bytes;

    REQUIRE(checkpoint_open(&checkpoint, path, &err) == OK, &err);
    CHECK(container_document(checkpoint.container, PROVENANCE_DOCUMENT, &text, &bytes, &err) == OK && text,
        &err);
    checkpoint_close(&checkpoint);
    return text;
}

static uint64_t history_of(const char *path)
{
    struct json_document *document = NULL;
    struct error err = {0};
    char *text = provenance_of(path);

    REQUIRE(json_parse(&document, "provenance", text, strlen(text), &err) == OK, &err);
    const struct json_value *history = json_member(json_root(document), "history");
    const uint64_t count = history ? history->count : 99;
    json_free(document);
    memory_free(text);
    return count;
}

/* The checksum of the source, and the history of all conversions. */
static void provenance(void)
{
    const char *first = testing_path("first.gguf"), *second = testing_path("second.gguf");
    uint64_t bytes;
    char crc[16];

    convert(golden("llama"), first);
    char folder[512];
    snprintf(folder, sizeof folder, "%s/model.safetensors", golden("llama"));
    char *source = testing_read(folder, &bytes), *text = provenance_of(first);
    snprintf(crc, sizeof crc, "%08x", file_crc32(0, source, bytes));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, crc));
    memory_free(text);
    memory_free(source);
    CU_ASSERT_EQUAL(history_of(first), 0);
    convert(first, second);
    CU_ASSERT_EQUAL(history_of(second), 1);
    text = provenance_of(second);
    source = testing_read(first, &bytes);
    snprintf(crc, sizeof crc, "%08x", file_crc32(0, source, bytes));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, crc));
    memory_free(source);
    memory_free(text);
}

/* ---- keys ---- */

static bool same_item(const struct metadata_item *a, const struct metadata_item *b)
{
    uint64_t bytes = metadata_type_bytes(a->type);

    if (!b || a->type != b->type || a->element != b->element || a->count != b->count) return false;
    if (a->type == METADATA_STRING) bytes = a->count;
    if (a->type == METADATA_ARRAY) bytes = a->count * metadata_type_bytes(a->element);
    if (a->type == METADATA_ARRAY && a->element == METADATA_STRING) {
        const uint8_t *at = a->bytes;
        for (uint64_t i = 0, ignored; i < a->count; i++)
            metadata_next_string(&at, &ignored);
        bytes = (uint64_t)(at - a->bytes);
    }
    return memcmp(a->bytes, b->bytes, bytes) == 0;
}

/* All keys in the same order with the same values, but for the provenance; all tensors in the same order. */
static void check_same_file(const char *path_a, const char *path_b)
{
    struct container *a = NULL, *b = NULL;
    struct error err = {0};

    REQUIRE(container_open(&a, path_a, &err) == OK && container_map(a, &err) == OK, &err);
    REQUIRE(container_open(&b, path_b, &err) == OK && container_map(b, &err) == OK, &err);
    const struct metadata *pairs = container_metadata(a), *others = container_metadata(b);
    CU_ASSERT_EQUAL_FATAL(pairs->count, others->count);
    for (uint64_t i = 0; i < pairs->count; i++) {
        const bool ours = strcmp(pairs->items[i].key, GGUF_WRITER_PROVENANCE) == 0;
        CU_ASSERT_STRING_EQUAL(pairs->items[i].key, others->items[i].key);
        CU_ASSERT_TRUE(ours || same_item(&pairs->items[i], &others->items[i]));
    }
    CU_ASSERT_EQUAL_FATAL(container_count(a), container_count(b));
    for (uint64_t i = 0; i < container_count(a); i++) {
        const struct tensor *one = container_tensor(a, i), *other = container_tensor(b, i);
        CU_ASSERT_STRING_EQUAL(one->name, other->name);
        CU_ASSERT_TRUE(one->dtype == other->dtype && one->bytes == other->bytes &&
                       memcmp(one->data, other->data, one->bytes) == 0);
    }
    container_close(a);
    container_close(b);
}

/* A GGUF file through .nbl; returns the new one's path. */
static const char *through_nbl(const char *path, const char *name)
{
    const char *between = testing_path("%s.nbl", name), *out = testing_path("%s.gguf", name);

    convert(path, between);
    convert(between, out);
    return out;
}

/* folder -> GGUF -> .nbl -> GGUF: nothing changes but the history. Rows of the embedding that the tokenizer has no tokens for are named
 * once, so such a model is the same from the second GGUF file on. */
static void second_time(void)
{
    static const char *const models[] = {"llama", "llama-rope-llama3", "qwen3", "llama-f16", "llama-tied",
        "gemma2-plain", "gemma3-short", "olmo2", "phi3", "phi3-long", "stablelm", "stablelm-parallel"};
    const char *tiny = testing_path("tiny.gguf"), *second;

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *first = testing_path("%s-1.gguf", models[i]);
        convert(golden(models[i]), first);
        check_same_file(first, through_nbl(first, models[i]));
    }
    convert(tiny_model_folder("tiny", (struct tiny_model){.spaces = true}), tiny);
    second = through_nbl(tiny, "tiny-2");
    check_same_file(second, through_nbl(second, "tiny-3"));
}

/* The tensors of a GGUF file with more keys: some that nobody here writes, some that are written anew. */
static void write_with_more(const char *path, const char *from)
{
    static const struct json_text tags[] = {{"one", 3}, {"two", 3}};
    static const char template[] = "{{ \"<|im_start|>\" }}\n";
    struct gguf_writer_options options = {.file_type = 14};
    struct metadata_builder metadata = {0};
    struct container *container = NULL;
    struct writer *writer = NULL;
    struct error err = {0};
    uint64_t index;

    REQUIRE(container_open(&container, from, &err) == OK && container_map(container, &err) == OK, &err);
    metadata_builder_text(&metadata, "general.author", "somebody");
    metadata_builder_text(&metadata, "general.name", "Some Name");
    metadata_builder_strings(&metadata, "general.tags", tags, 2);
    metadata_builder_text(&metadata, "tokenizer.chat_template", template);
    metadata_builder_u32(&metadata, "general.alignment", 32);
    metadata_builder_u16(&metadata, "split.count", 1);
    metadata_builder_f32(&metadata, "llama.new.key", 7);
    for (uint64_t i = 0; i < container_metadata(container)->count; i++) {
        const struct metadata_item *item = &container_metadata(container)->items[i];
        if (strncmp(item->key, "llama.", 6) == 0 || strcmp(item->key, "general.architecture") == 0)
            metadata_builder_carry(&metadata, item);
    }
    REQUIRE(gguf_writer_create(&writer, path, &options, &metadata, &err) == OK, &err);
    for (uint64_t i = 0; i < container_count(container); i++)
        REQUIRE(writer_add(writer, container_tensor(container, i), &index, &err) == OK, &err);
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        REQUIRE(writer_write(writer, i, 0, tensor->data, tensor->bytes, &err) == OK, &err);
    }
    REQUIRE(writer_commit(writer, &err) == OK, &err);
    container_close(container);
}

static void check_text(const struct metadata *metadata, const char *key, const char *expected)
{
    const struct metadata_item *item = metadata_find(metadata, key);

    CU_ASSERT_PTR_NOT_NULL_FATAL(item);
    CU_ASSERT_TRUE(item->type == METADATA_STRING && item->count == strlen(expected) &&
                   memcmp(item->bytes, expected, item->count) == 0);
}

/* What nobody here writes comes over; what is about the file itself does not. */
static void carried(void)
{
    const char *plain = testing_path("plain.gguf"), *more = testing_path("more.gguf"),
               *again = testing_path("again.gguf");
    const char *nbl = testing_path("more.nbl"), *from_nbl = testing_path("more-nbl.gguf");
    struct container *container = NULL;
    struct error err = {0};
    uint64_t type = 99;

    convert(golden("llama"), plain);
    write_with_more(more, plain);
    convert(more, again);
    REQUIRE(container_open(&container, again, &err) == OK, &err);
    const struct metadata *metadata = container_metadata(container);
    check_text(metadata, "general.author", "somebody");
    check_text(metadata, "general.name", "Some Name");
    CU_ASSERT_PTR_NOT_NULL(metadata_find(metadata, "general.tags"));
    CU_ASSERT_PTR_NOT_NULL(metadata_find(metadata, "llama.new.key"));
    CU_ASSERT_PTR_NULL(metadata_find(metadata, "general.alignment"));
    CU_ASSERT_PTR_NULL(metadata_find(metadata, "split.count"));
    CHECK(metadata_get_u64(metadata, "general.file_type", 0, 99, &type, &err) == OK, &err);
    CU_ASSERT_EQUAL(type, 0); /* all F32, whatever the source says */
    container_close(container);

    convert(more, nbl); /* the chat template goes through .nbl as a document; other keys do not */
    convert(nbl, from_nbl);
    REQUIRE(container_open(&container, from_nbl, &err) == OK, &err);
    check_text(container_metadata(container), "tokenizer.chat_template", "{{ \"<|im_start|>\" }}\n");
    CU_ASSERT_PTR_NULL(metadata_find(container_metadata(container), "general.author"));
    container_close(container);
}

/* More end-of-sequence ids than there are keys: the first three, and a note. */
static void write_config_of(const char *folder, const char *model, const char *extra)
{
    static const char *const files[] = {"model.safetensors", "config.json"};
    char path[512];
    uint64_t bytes;

    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", golden(model), files[i]);
        char *text = testing_read(path, &bytes);
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        if (i == 0) {
            testing_write(path, text, bytes);
        } else {
            char *whole = memory_new(bytes + strlen(extra) + 8, 1, NULL), *brace = strchr(text, '{');
            REQUIRE(whole && brace, NULL);
            for (char *old = text; (old = strstr(old, "os_token_id")) != NULL; old++)
                *old = 'x'; /* another key, in place of which `extra` comes */
            const int count = snprintf(whole, bytes + strlen(extra) + 8, "{%s,%s", extra, brace + 1);
            testing_write(path, whole, (uint64_t)count);
            memory_free(whole);
        }
        memory_free(text);
    }
}

static void tokens(void)
{
    const char *folder = testing_folder();
    const char *path = testing_path("tokens.gguf");
    struct checkpoint checkpoint;
    struct error err = {0};

    write_config_of(folder, "llama",
        "\"eos_token_id\": [4, 5, 6, 7], \"bos_token_id\": 3, \"_name_or_path\": \"org/The-Name/\"");
    testing_capture(2);
    struct convert_options options = convert_defaults();
    struct convert_result result;
    options.input = folder;
    options.output = path;
    CHECK(convert_run(&result, &options, &err) == OK, &err);
    convert_release(&result);
    uint64_t bytes;
    char *printed = testing_captured(&bytes);
    CU_ASSERT_PTR_NOT_NULL(strstr(printed, "end-of-sequence id 7 of config.json is left out"));
    memory_free(printed);
    REQUIRE(checkpoint_open(&checkpoint, path, &err) == OK, &err);
    CU_ASSERT_TRUE(checkpoint.config.bos == 3 && checkpoint.config.stop_count == 3 &&
                   checkpoint.config.stops[0] == 4 && checkpoint.config.stops[1] == 5 &&
                   checkpoint.config.stops[2] == 6);
    check_text(container_metadata(checkpoint.container), "general.name", "The-Name");
    checkpoint_close(&checkpoint);
}

/* ---- threads, memory, parts ---- */

static void threads(void)
{
    static const uint64_t counts[] = {1, 3, 7};
    const char *folder = tiny_model_folder("threads", (struct tiny_model){.spaces = true, .dtype = "BF16"});
    struct error err = {0};

    REQUIRE(
        convert_with(folder, testing_path("t2.gguf"), (struct convert_options){.type = "f16"}, &err) == OK,
        &err);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct convert_options options = {.type = "f16", .common.threads = counts[i]};
        CHECK(convert_with(folder, testing_path("t.gguf"), options, &err) == OK, &err);
        CU_ASSERT_TRUE(testing_same_files(testing_path("t2.gguf"), testing_path("t.gguf")));
    }
}

/* Every allocation that fails is reported and leaves no file. */
static void out_of_memory(void)
{
    const char *folder = tiny_model_folder("memory", (struct tiny_model){.spaces = true, .layers = 1});
    const char *path = testing_path("memory.gguf");
    const uint64_t step = TESTING_SANITIZED ? 17 : 5;
    struct convert_options options = {.common.threads = 1};
    uint64_t failed = 0;
    struct error err = {0};

    for (uint64_t nth = 1; nth < 100000; nth += step) {
        memory_fail_at(nth, 1);
        const enum status status = convert_with(folder, path, options, &err);
        const bool reached = memory_failures() > 0;
        memory_fail_at(0, 0);
        if (!reached) break;
        failed++;
        CHECK(status == ERR_MEMORY, &err);
        CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
    }
    CU_ASSERT_TRUE(failed > 10);
}

static void parts(void)
{
    const char *folder = tiny_model_folder("parts", (struct tiny_model){.spaces = true});
    struct convert_options options = {.split_size = 100000};
    struct error err = {0};

    CHECK(convert_with(folder, testing_path("whole.gguf"), (struct convert_options){0}, &err) == OK, &err);
    CHECK(convert_with(folder, testing_path("p.gguf"), options, &err) == OK, &err);
    CHECK(convert_with(testing_path("p-00001-of-00005.gguf"), testing_path("joined.gguf"),
              (struct convert_options){0}, &err) == OK,
        &err);
    check_same_file(testing_path("whole.gguf"), testing_path("joined.gguf"));
    check_same_model(folder, testing_path("p-00001-of-00005.gguf"));
    /* never over a part of the input */
    CHECK(convert_with(testing_path("p-00001-of-00005.gguf"), testing_path("p.gguf"), options, &err) ==
              ERR_USAGE,
        &err);
    CHECK(strstr(err.text, "is a file of the input") != NULL, &err);
    CHECK(convert_with(testing_path("p-00001-of-00005.gguf"), testing_path("p-00003-of-00005.gguf"),
              (struct convert_options){0}, &err) == ERR_USAGE,
        &err);
    CHECK(convert_with(folder, testing_path("p.nbl"), options, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "--split-size") != NULL, &err);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the same models", same_models},
        {"as llama.cpp wants it", stored},
        {"an embedding under the head's name", under_the_heads_name},
        {"what cannot be said", refusals},
        {"what readers assume", assumptions},
        {"provenance", provenance},
        {"the second time", second_time},
        {"keys carried over", carried},
        {"tokens of the configuration", tokens},
        {"threads", threads},
        {"out of memory", out_of_memory},
        {"parts", parts},
    };

    return TESTING_RUN("gguf_export", cases);
}
