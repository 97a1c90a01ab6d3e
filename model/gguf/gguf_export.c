/* See gguf_export.h. Keys come in the order in which llama.cpp's converter writes them, as far as it has one. */
#include "model/gguf/gguf_export.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/container_json.h"
#include "formats/gguf/gguf_writer.h"
#include "model/gguf/gguf_config.h"
#include "model/gguf/gguf_names.h"
#include "model/gguf/gguf_rope.h"
#include "model/rope.h"
#include "model/tokenizer/gguf_tokenizer_export.h"
#include "tensor/sparse.h"
#include "tensor/tile_blocks.h"

enum { KEY_BYTES = 128 };

/* What is written, and from what. */
struct key_writer {
    const struct checkpoint *input;
    const struct model_config *config;
    const struct gguf_family *family;
    const struct report *report;
    struct metadata_builder metadata;
};

/* ---- tensors ---- */

static bool is_turned(enum role role)
{
    return role == ROLE_Q || role == ROLE_K || role == ROLE_Q_BIAS || role == ROLE_K_BIAS;
}

/* The rows that a tensor has in the fused matrix of its role, where there is one. */
static void place_in_fused(
    struct gguf_place *place, enum role role, uint32_t layer, const struct model_config *config)
{
    const struct fused_rows *fused = layers_fused(config->architecture, role, FUSED_IN_GGUF);
    uint64_t shape[2];
    uint32_t rank;

    for (unsigned i = 0; fused && i < fused->count; i++) {
        if (fused->parts[i] == role) place->first_row = place->rows;
        layers_role_shape(config, fused->parts[i], layer, &rank, shape);
        place->rows += shape[0];
    }
    if (fused) gguf_names_write_fused(place->name, sizeof place->name, fused, layer);
}

/* The matrices of all experts are one tensor. */
static void place_expert(
    struct gguf_place *place, enum role role, const struct tensor *tensor, const struct model_config *config)
{
    uint64_t shape[2];
    uint32_t rank;

    layers_role_shape(config, role, 0, &rank, shape);
    place->stacked = config->experts;
    place->rows = config->experts * shape[0];
    place->first_row = layers_expert_of(config, tensor->name) * shape[0];
}

/* A tied embedding may be stored under the head's name. */
static enum status place_tensor(
    void *context, struct gguf_place *place, const struct tensor *tensor, struct error *err)
{
    const struct model_config *config = context;
    enum role role;
    uint32_t layer;

    if (!layers_role_of(config, tensor->name, &role, &layer))
        return fail(err, ERR_UNSUPPORTED, "tensor %s: has no name in GGUF files", tensor->name);
    if (config->tied && role == ROLE_HEAD) role = ROLE_EMBEDDING;
    gguf_names_write(place->name, sizeof place->name, config->architecture, role, layer);
    if (layers_role_is_expert(role)) place_expert(place, role, tensor, config);
    place_in_fused(place, role, layer, config);
    if (is_turned(role) && gguf_config_family(config->architecture)->interleaved)
        place->head = config->head_size;
    if (layers_role_is_gain(role)) place->shift = config->architecture->gain_offset;
    return OK;
}

/* What llama.cpp's converter writes as F32 whatever the rest is. */
static bool become_floats(struct tensor *target, const struct model_config *config)
{
    enum role role;
    uint32_t layer;

    if (!layers_role_of(config, target->name, &role, &layer)) return false;
    if (role != ROLE_ROUTER && role != ROLE_SHARED_ROUTER && role != ROLE_POSITIONS) return false;
    target->storage = STORAGE_DENSE;
    target->dtype = DTYPE_F32;
    target->scheme = (struct scheme){0};
    target->block = BLOCK_NONE;
    return true;
}

enum status gguf_export_target(struct tensor *target, const struct model_config *config, struct error *err)
{
    sparse_describe_spread(target);
    if (become_floats(target, config)) return OK;
    if (target->storage == STORAGE_TILES) {
        const enum block_type block = tile_blocks_type(target->scheme, target->shape[1]);
        if (!block)
            return fail(err, ERR_UNSUPPORTED,
                "tensor %s: %s %" PRIu32 "-bit codes in groups of %" PRIu32
                " are no block type of GGUF (symmetric, 4, 5 or 8 bits, groups of a multiple of 32); decode "
                "them with "
                "--type f16, or quantize the original model to a block type",
                target->name, target->scheme.asymmetric ? "asymmetric" : "symmetric", target->scheme.bits,
                target->scheme.group);
        target->storage = STORAGE_BLOCKS;
        target->dtype = DTYPE_F32;
        target->scheme = (struct scheme){0};
        target->block = block;
    }
    if (target->rank == 1) target->dtype = DTYPE_F32;
    return OK;
}

/* ---- keys ---- */

/* "llama.block_count" */
static const char *key_of(char key[KEY_BYTES], const struct key_writer *out, const char *suffix)
{
    snprintf(key, KEY_BYTES, "%s.%s", out->family->name, suffix);
    return key;
}

static void put_size(struct key_writer *out, const char *suffix, uint64_t value)
{
    char key[KEY_BYTES];

    metadata_builder_u32(&out->metadata, key_of(key, out, suffix), (uint32_t)value);
}

static void put_number(struct key_writer *out, const char *suffix, double value)
{
    char key[KEY_BYTES];

    metadata_builder_f32(&out->metadata, key_of(key, out, suffix), (float)value);
}

static void put_truth(struct key_writer *out, const char *suffix, bool value)
{
    char key[KEY_BYTES];

    metadata_builder_bool(&out->metadata, key_of(key, out, suffix), value);
}

/* The last part of the name that config.json gives the model. */
static void put_name(struct key_writer *out, const struct json_value *config)
{
    const struct json_value *value = json_member(config, "_name_or_path");
    uint64_t end, begin;

    if (!value || value->kind != JSON_STRING) return;
    for (end = value->text.count; end && value->text.bytes[end - 1] == '/';)
        end--;
    for (begin = end; begin && value->text.bytes[begin - 1] != '/';)
        begin--;
    if (end > begin)
        metadata_builder_string(&out->metadata, "general.name", value->text.bytes + begin, end - begin);
}

static enum status put_general(struct key_writer *out, struct error *err)
{
    const struct metadata *source = container_metadata(out->input->container);
    const struct metadata_item *name = metadata_find(source, "general.name");
    struct json_document *document = NULL;

    metadata_builder_text(&out->metadata, "general.architecture", out->family->name);
    metadata_builder_text(&out->metadata, "general.type", "model");
    if (name) {
        metadata_builder_carry(&out->metadata, name);
        return OK;
    }
    enum status status = container_json(&document, out->input->container, "config.json", err);
    if (!status && document) put_name(out, json_root(document));
    json_free(document);
    return status;
}

static void put_experts(struct key_writer *out)
{
    const struct model_config *config = out->config;

    if (!config->experts) return;
    put_size(out, "expert_count", config->experts);
    put_size(out, "expert_used_count", config->experts_per_token);
    if (config->expert_ffn != config->dense_ffn)
        put_size(out, "expert_feed_forward_length", config->expert_ffn);
    if (config->ffn) put_size(out, "expert_shared_feed_forward_length", config->ffn);
}

static void put_sizes(struct key_writer *out)
{
    const struct model_config *config = out->config;

    put_size(out, "block_count", config->layers);
    put_size(out, "context_length", config->context);
    put_size(out, "embedding_length", config->hidden);
    put_size(out, "feed_forward_length", config->experts ? config->dense_ffn : config->ffn);
    put_size(out, "attention.head_count", config->heads);
    put_size(out, "attention.head_count_kv", config->kv_heads);
    put_experts(out);
    if (config->rotary) put_number(out, "rope.freq_base", config->rope.theta);
    put_number(out,
        config->architecture->centered_norm ? "attention.layer_norm_epsilon"
                                            : "attention.layer_norm_rms_epsilon",
        config->norm_epsilon);
    if (config->architecture->centered_norm && config->rotary)
        put_truth(out, "use_parallel_residual", config->parallel_residual);
    if ((uint64_t)config->head_size * config->heads != config->hidden) {
        put_size(out, "attention.key_length", config->head_size);
        put_size(out, "attention.value_length", config->head_size);
    }
    put_size(out, "vocab_size", config->vocabulary);
    if (config->rotary) put_size(out, "rope.dimension_count", config->rotary);
}

/* Whether of every `period` layers exactly the last does not slide. */
static bool slides_in(const struct model_config *config, uint32_t period)
{
    for (uint32_t i = 0; i < config->layers; i++) {
        if (config_slides(config, i) != (i % period < period - 1)) return false;
    }
    return true;
}

/* Which layers slide, where not all need to: llama.cpp reads a period, but no list. */
static enum status put_period(struct key_writer *out, struct error *err)
{
    const uint32_t usual = out->config->architecture->default_window_period;
    uint32_t period = usual;

    if (!usual) return OK;
    if (!slides_in(out->config, period))
        for (period = 1; period <= out->config->layers && !slides_in(out->config, period);)
            period++;
    if (!slides_in(out->config, period))
        return fail(err, ERR_UNSUPPORTED,
            "config.json: layer_types: which layers slide has no place in GGUF files unless it is all but "
            "each so many");
    put_size(out, "attention.sliding_window_pattern", period);
    return OK;
}

static enum status put_window(struct key_writer *out, struct error *err)
{
    if (!out->config->window && out->family->window_assumed)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: without sliding_window, %s has no place in GGUF files: its readers assume one",
            out->family->name);
    if (!out->config->window && out->family->longrope) put_size(out, "attention.sliding_window", 0);
    if (!out->config->window) return OK;
    if (!out->family->sliding)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: sliding_window %" PRIu32 ": GGUF's architecture %s has no place for it",
            out->config->window, out->family->name);
    if (out->family->window_ignored)
        report_note(out->report,
            "llama.cpp runs %s without the sliding window of %" PRIu32
            " tokens: on longer texts its results differ",
            out->family->name, out->config->window);
    put_size(out, "attention.sliding_window", out->config->window);
    return put_period(out, err);
}

/* What GGUF leaves to the reader must be what readers do; what bends scores and logits is said. */
static enum status put_scales(struct key_writer *out, struct error *err)
{
    const struct model_config *config = out->config;
    const struct architecture *known = config->architecture;
    const bool large = out->family->scalar_layers && config->layers == out->family->scalar_layers;
    const uint32_t scalar = large ? config->hidden / config->heads : config->head_size;

    if (config->score_scale != 1 / sqrtf((float)scalar))
        return fail(err, ERR_UNSUPPORTED,
            "config.json: query_pre_attn_scalar other than %" PRIu32 " has no place in GGUF files of %s",
            scalar, out->family->name);
    if ((known->default_score_softcap != 0 && config->score_softcap == 0) ||
        (known->default_logit_softcap != 0 && config->logit_softcap == 0))
        return fail(err, ERR_UNSUPPORTED,
            "config.json: %s without soft caps has no place in GGUF files: its readers assume them",
            out->family->name);
    if (config->score_softcap != 0) put_number(out, "attn_logit_softcapping", (double)config->score_softcap);
    if (config->logit_softcap != 0) put_number(out, "final_logit_softcapping", (double)config->logit_softcap);
    return OK;
}

/* What a file does not say, because its readers know it by the architecture's name. */
static enum status check_assumed(const struct key_writer *out, struct error *err)
{
    const struct model_config *config = out->config;
    const struct architecture *known = config->architecture;

    if (config->activation != known->default_activation)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: %s %s has no place in GGUF files of %s, whose readers assume %s",
            config_activation_key(known), config_activation_name(config->activation), out->family->name,
            config_activation_name(known->default_activation));
    if (config->experts && config->normed_routing != out->family->normed_routing)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: norm_topk_prob %s has no place in GGUF files of %s, whose readers assume the other",
            config->normed_routing ? "true" : "false", out->family->name);
    if (known->biases && !config->attention_bias)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: attention_bias false has no place in GGUF files of %s: its readers want biases",
            out->family->name);
    return OK;
}

/* Tensors that llama.cpp does not look for, or misses. */
static enum status check_tensors(const struct key_writer *out, struct error *err)
{
    const struct model_config *config = out->config;
    const enum gguf_head head = out->family->head;

    if (config->output_bias && !out->family->output_bias)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: attention_bias: the bias of o_proj has no place in GGUF files of %s",
            out->family->name);
    if (head != GGUF_HEAD_EITHER && config->tied != (head == GGUF_HEAD_TIED))
        return fail(err, ERR_UNSUPPORTED,
            "config.json: tie_word_embeddings %s has no place in GGUF files of %s, which have %s",
            config->tied ? "true" : "false", out->family->name,
            config->tied ? "a head of their own" : "the embedding for a head");
    return OK;
}

/* ---- rope ---- */

static enum status check_yarn(const struct rope_config *rope, struct error *err)
{
    if (rope->beta_fast == 32 && rope->beta_slow == 1 && rope->attention_factor == 0 && rope->mscale == 0 &&
        rope->mscale_all_dim == 0 && rope->truncate)
        return OK;
    return fail(err, ERR_UNSUPPORTED,
        "config.json: rope_type yarn with other beta_fast, beta_slow, mscale, attention_factor or truncate "
        "than the "
        "defaults has no place in GGUF files");
}

/* The divisors are tensors of their own. */
static void put_longrope(struct key_writer *out)
{
    float frequencies[CONFIG_ROTARY_LIMIT];
    char key[KEY_BYTES];

    metadata_builder_text(&out->metadata, key_of(key, out, "rope.scaling.type"), "longrope");
    put_number(out, "rope.scaling.attn_factor",
        (double)rope_frequencies(frequencies, out->config, &out->config->rope, 0));
    put_size(out, "rope.scaling.original_context_length", (uint64_t)out->config->rope.original_context);
}

static enum status put_rope(struct key_writer *out, struct error *err)
{
    const struct rope_config *rope = &out->config->rope;
    char key[KEY_BYTES];
    enum status status = OK;

    if (out->config->architecture->sliding_rope && out->config->sliding_rope.kind != ROPE_DEFAULT)
        return fail(err, ERR_UNSUPPORTED,
            "config.json: sliding_attention with a rope_type has no place in GGUF files");
    if (out->config->architecture->sliding_rope)
        put_number(out, "rope.freq_base_swa", out->config->sliding_rope.theta);
    switch (rope->kind) {
    case ROPE_DEFAULT:
    case ROPE_LLAMA3: /* a tensor of its own */
        return OK;
    case ROPE_DYNAMIC:
        return fail(err, ERR_UNSUPPORTED, "config.json: rope_type dynamic has no place in GGUF files");
    case ROPE_LONGROPE:
        put_longrope(out);
        return OK;
    case ROPE_LINEAR:
    case ROPE_YARN:
        break;
    }
    if (rope->kind == ROPE_YARN) status = check_yarn(rope, err);
    metadata_builder_text(
        &out->metadata, key_of(key, out, "rope.scaling.type"), rope->kind == ROPE_YARN ? "yarn" : "linear");
    put_number(out, "rope.scaling.factor", rope->factor);
    if (rope->kind == ROPE_YARN)
        put_size(out, "rope.scaling.original_context_length", (uint64_t)rope->original_context);
    return status;
}

/* The divisors of the frequencies, as a tensor. */
static enum status add_factors(struct writer *writer, const struct model_config *config, struct error *err)
{
    const uint32_t half = config->rotary / 2;
    float *factors;
    enum status status;

    if (config->rope.kind == ROPE_LONGROPE) {
        status = gguf_writer_floats(writer, LAYERS_ROTARY_LONG, config->rope.long_divisors, half, err);
        return status
                   ? status
                   : gguf_writer_floats(writer, LAYERS_ROTARY_SHORT, config->rope.short_divisors, half, err);
    }
    if (config->rope.kind != ROPE_LLAMA3) return OK;
    factors = memory_new(half, sizeof *factors, err);
    if (!factors) return ERR_MEMORY;
    gguf_rope_factors(factors, config);
    status = gguf_writer_floats(writer, LAYERS_ROTARY_FACTORS, factors, half, err);
    memory_free(factors);
    return status;
}

/* ---- tokens ---- */

/* The ids of config.json that the tokenizer's keys do not have yet. */
static void put_tokens(struct key_writer *out)
{
    static const char *const stops[] = {
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    const struct model_config *config = out->config;
    uint32_t id = 0;
    size_t next = 0;

    if (config->bos >= 0 && !metadata_builder_find_u32(&out->metadata, "tokenizer.ggml.bos_token_id", &id))
        metadata_builder_u32(&out->metadata, "tokenizer.ggml.bos_token_id", (uint32_t)config->bos);
    const bool ended = metadata_builder_find_u32(&out->metadata, stops[0], &id);
    if (ended) next = 1;
    for (uint32_t i = 0; i < config->stop_count; i++) {
        if (ended && config->stops[i] == (int64_t)id) continue;
        if (next < sizeof stops / sizeof *stops)
            metadata_builder_u32(&out->metadata, stops[next++], (uint32_t)config->stops[i]);
        else
            report_note(out->report,
                "end-of-sequence id %" PRId64 " of config.json is left out: GGUF has room for 3",
                config->stops[i]);
    }
}

/* "chat_template" of tokenizer_config.json where it is one text: carried as inert bytes. */
static enum status put_template(struct key_writer *out, struct error *err)
{
    struct json_document *document = NULL;
    const struct json_value *template = NULL;
    enum status status = container_json(&document, out->input->container, "tokenizer_config.json", err);

    if (!status && document) template = json_member(json_root(document), "chat_template");
    if (template && template->kind == JSON_STRING)
        metadata_builder_string(
            &out->metadata, "tokenizer.chat_template", template->text.bytes, template->text.count);
    json_free(document);
    return status;
}

static enum status put_tokenizer(struct key_writer *out, struct error *err)
{
    char note[GGUF_TOKENIZER_NOTE];
    enum status status =
        gguf_tokenizer_export(&out->metadata, out->input->container, out->config->vocabulary, note, err);

    if (status) return status;
    if (*note) report_note(out->report, "%s", note);
    put_tokens(out);
    return put_template(out, err);
}

/* ---- carried over ---- */

static void carry(struct key_writer *out)
{
    const struct metadata *source = container_metadata(out->input->container);
    static const char *const ours[] = {
        "general.alignment", "general.file_type", "general.quantization_version", GGUF_WRITER_PROVENANCE};

    for (uint64_t i = 0; i < source->count; i++) {
        const char *key = source->items[i].key;
        bool skip = strncmp(key, "split.", strlen("split.")) == 0;
        for (size_t j = 0; j < sizeof ours / sizeof *ours; j++)
            skip = skip || strcmp(key, ours[j]) == 0;
        if (!skip) metadata_builder_carry(&out->metadata, &source->items[i]);
    }
}

/* ---- all of it ---- */

static enum status put_model(struct key_writer *out, struct error *err)
{
    enum status status;

    if (!out->family)
        return fail(err, ERR_UNSUPPORTED, "config.json: %s has no name in GGUF files here",
            out->config->architecture->name);
    status = check_tensors(out, err);
    if (!status) status = check_assumed(out, err);
    if (!status) status = put_general(out, err);
    if (status) return status;
    put_sizes(out);
    status = put_window(out, err);
    if (!status) status = put_scales(out, err);
    return status ? status : put_rope(out, err);
}

static enum status put_metadata(struct key_writer *out, struct error *err)
{
    enum status status = put_model(out, err);

    if (status) return fail_within(err, status, "%s", container_path(out->input->container));
    if (!container_metadata(out->input->container)->count) status = put_tokenizer(out, err);
    if (!status) carry(out);
    return status ? status : metadata_builder_status(&out->metadata, err);
}

enum status gguf_export_create(struct writer **out, const struct checkpoint *input, const char *path,
    bool force, uint64_t split_bytes, uint32_t file_type, const struct report *report, struct error *err)
{
    struct key_writer keys = {.input = input, .config = &input->config, .report = report};
    struct gguf_writer_options options = {.force = force, .split_bytes = split_bytes, .file_type = file_type};
    uint64_t source_type = file_type;
    enum status status;

    *out = NULL;
    keys.family = gguf_config_family(input->config.architecture);
    status = put_metadata(&keys, err);
    if (!status && file_type == GGUF_TYPES_FILE_ANY)
        status = metadata_get_u64(
            container_metadata(input->container), "general.file_type", 0, UINT32_MAX, &source_type, err);
    if (status) {
        metadata_builder_free(&keys.metadata);
        return status;
    }
    options.file_type = (uint32_t)source_type;
    options.naming = (struct gguf_naming){.name = place_tensor, .context = (void *)(uintptr_t)&input->config};
    status = gguf_writer_create(out, path, &options, &keys.metadata, err);
    if (!status) status = add_factors(*out, &input->config, err);
    if (status) {
        writer_abandon(*out);
        *out = NULL;
    }
    return status;
}
