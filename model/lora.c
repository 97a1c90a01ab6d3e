/* See lora.h. The adapter stays mapped; factors are decoded as they are used, so that a large adapter costs no memory. */
#include "model/lora.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "formats/container_json.h"

#define CONFIG_DOCUMENT "adapter_config.json"
#define TENSORS_FILE "adapter_model.safetensors"

enum { PIECE = 1024 }; /* columns at a time */

/* One factor: element (i, k) of the product's side lies at i * along + k * rank_step. */
struct factor {
    const struct tensor *tensor;
    uint64_t along, rank_step;
};

struct lora_pair {
    const struct tensor *target;
    struct factor left, right; /* rows x rank, rank x cols */
    uint64_t rank;
    double scale;
};

struct whole {
    const struct tensor *target, *replacement;
};

struct lora {
    char *path;
    double scale;
    struct container *container;
    struct json_document *config;
    struct lora_pair *pairs; /* [pair_count] */
    struct whole *wholes;    /* [whole_count] */
    uint64_t pair_count, whole_count;
};

/* ---- the product ---- */

static float element(const struct factor *factor, uint64_t index)
{
    const struct dtype_info *info = dtype_info(factor->tensor->dtype);
    float value;
    info->decode(&value, (const uint8_t *)factor->tensor->data + index * info->bytes, 1);
    return value;
}

/* Columns [begin, begin + count) of row k of the right factor. */
static void right_row(float *out, const struct factor *right, uint64_t k, uint64_t begin, uint64_t count)
{
    const struct dtype_info *info = dtype_info(right->tensor->dtype);
    if (right->along == 1) {
        const uint64_t first = k * right->rank_step + begin;
        info->decode(out, (const uint8_t *)right->tensor->data + first * info->bytes, count);
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        out[i] = element(right, (begin + i) * right->along + k * right->rank_step);
}

void lora_add(const struct lora_pair *pair, float *rows, uint64_t row_begin, uint64_t row_count)
{
    const uint64_t cols = pair->target->shape[1];
    const float scale = (float)pair->scale;
    float right[PIECE];
    for (uint64_t begin = 0; begin < cols; begin += PIECE) {
        const uint64_t count = cols - begin < PIECE ? cols - begin : PIECE;
        for (uint64_t k = 0; k < pair->rank; k++) {
            right_row(right, &pair->right, k, begin, count);
            for (uint64_t r = 0; r < row_count; r++) {
                const uint64_t at = (row_begin + r) * pair->left.along + k * pair->left.rank_step;
                const float factor = scale * element(&pair->left, at);
                float *row = rows + r * cols + begin;
                for (uint64_t i = 0; i < count; i++)
                    row[i] += factor * right[i];
            }
        }
    }
}

/* ---- what the configuration says ---- */

/* Adapters that are more than a product added to a matrix. */
static enum status refuse_kinds(const struct lora *lora, struct error *err)
{
    static const char *const flags[] = {
        "use_dora", "fan_in_fan_out", "use_qalora", "use_bdlora", "lora_bias"};
    static const char *const others[] = {
        "layer_replication", "trainable_token_indices", "target_parameters", "alora_invocation_tokens"};
    const struct json_value *root = json_root(lora->config);
    const char *kind = "LORA";
    enum status status = root->kind == JSON_OBJECT
                             ? json_get_text(root, CONFIG_DOCUMENT, "peft_type", &kind, err)
                             : fail(err, ERR_FORMAT, CONFIG_DOCUMENT ": is no object");
    if (status == OK && strcmp(kind, "LORA") != 0)
        return fail(err, ERR_UNSUPPORTED, CONFIG_DOCUMENT ": peft_type %s; only LORA is merged", kind);
    for (size_t i = 0; status == OK && i < sizeof flags / sizeof *flags; i++) {
        bool set = false;
        status = json_get_bool(root, CONFIG_DOCUMENT, flags[i], &set, err);
        if (status == OK && set)
            return fail(err, ERR_UNSUPPORTED, CONFIG_DOCUMENT ": %s is not supported", flags[i]);
    }
    for (size_t i = 0; status == OK && i < sizeof others / sizeof *others; i++) {
        const struct json_value *value = json_member(root, others[i]);
        if (value && value->kind != JSON_NULL)
            return fail(err, ERR_UNSUPPORTED, CONFIG_DOCUMENT ": %s is not supported", others[i]);
    }
    return status;
}

/* A key of alpha_pattern names modules by the end of their path. */
static bool pattern_matches(const char *key, const char *module)
{
    const size_t key_bytes = strlen(key), bytes = strlen(module);
    if (key_bytes > bytes || strcmp(module + bytes - key_bytes, key) != 0) return false;
    return key_bytes == bytes || module[bytes - key_bytes - 1] == '.';
}

static enum status find_alpha(double *alpha, const struct lora *lora, const char *module, struct error *err)
{
    const struct json_value *root = json_root(lora->config), *pattern = json_member(root, "alpha_pattern");
    enum status status = json_get_number(root, CONFIG_DOCUMENT, "lora_alpha", -1e9, 1e9, alpha, err);
    if (status != OK || !pattern || pattern->kind != JSON_OBJECT) return status;
    for (const struct json_value *at = pattern->children; at; at = at->next) {
        if (strpbrk(at->key.bytes, "*+?[](){}|^$\\"))
            return fail(err, ERR_UNSUPPORTED,
                CONFIG_DOCUMENT ": alpha_pattern '%s' is a regular expression; only ends of names are read",
                at->key.bytes);
        if (!pattern_matches(at->key.bytes, module)) continue;
        if (at->kind != JSON_NUMBER)
            return fail(err, ERR_FORMAT, CONFIG_DOCUMENT ": alpha_pattern '%s' is no number", at->key.bytes);
        *alpha = at->number;
    }
    return OK;
}

static enum status find_scale(
    struct lora_pair *pair, const struct lora *lora, const char *module, struct error *err)
{
    double alpha = 8; /* PEFT's default */
    bool rank_stabilized = false;
    enum status status = find_alpha(&alpha, lora, module, err);
    if (status == OK)
        status = json_get_bool(json_root(lora->config), CONFIG_DOCUMENT, "use_rslora", &rank_stabilized, err);
    const double rank = (double)pair->rank;
    pair->scale = lora->scale * alpha / (rank_stabilized ? sqrt(rank) : rank);
    return status;
}

/* ---- what the tensors are ---- */

/* What stands for a tensor's name, and what it says of the tensor. The first that is found counts. */
static const struct marker {
    const char *text;
    bool factor, second, embedding;
} markers[] = {
    {".lora_A.default.weight", true, false, false},
    {".lora_B.default.weight", true, true, false},
    {".lora_A.weight", true, false, false},
    {".lora_B.weight", true, true, false},
    {".lora_embedding_A.default", true, false, true},
    {".lora_embedding_B.default", true, true, true},
    {".lora_embedding_A", true, false, true},
    {".lora_embedding_B", true, true, true},
};

static const struct marker *marker_of(const char *name, size_t *stem)
{
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        const size_t bytes = strlen(name), tail = strlen(markers[i].text);
        if (bytes <= tail || strcmp(name + bytes - tail, markers[i].text) != 0) continue;
        *stem = bytes - tail;
        return &markers[i];
    }
    return NULL;
}

/* Cut out the first `part` of a name, if it is there. */
static void cut(char *name, const char *part)
{
    char *at = strstr(name, part);
    if (at) memmove(at, at + strlen(part), strlen(at + strlen(part)) + 1);
}

/* The model's name for a module or tensor of the adapter: without what PEFT puts around modules. */
static void model_name(char out[CONTAINER_NAME_LIMIT + 16], const char *name, size_t bytes)
{
    static const char prefix[] = "base_model.model.";
    if (bytes >= sizeof prefix - 1 && strncmp(name, prefix, sizeof prefix - 1) == 0) {
        name += sizeof prefix - 1;
        bytes -= sizeof prefix - 1;
    }
    snprintf(out, CONTAINER_NAME_LIMIT + 1, "%.*s", (int)bytes, name);
    cut(out, ".modules_to_save.default");
    cut(out, ".modules_to_save");
    cut(out, ".base_layer");
}

static enum status check_target(const struct tensor *target, const struct tensor *tensor, struct error *err)
{
    if (!target) return fail(err, ERR_FORMAT, "tensor %s: the model has no such module", tensor->name);
    if (target->storage != STORAGE_DENSE)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: %s is quantized; merge the adapter into the original model", tensor->name,
            target->name);
    if (tensor->storage != STORAGE_DENSE || !dtype_info(tensor->dtype)->is_float)
        return fail(err, ERR_UNSUPPORTED, "tensor %s: is not of floating point", tensor->name);
    return OK;
}

static enum status add_whole(
    struct lora *lora, const struct checkpoint *checkpoint, const struct tensor *tensor, struct error *err)
{
    char name[CONTAINER_NAME_LIMIT + 16];
    if (strstr(tensor->name, ".lora_"))
        return fail(err, ERR_UNSUPPORTED, "tensor %s: is no factor of a plain LoRA adapter", tensor->name);
    model_name(name, tensor->name, strlen(tensor->name));
    const struct tensor *target = container_find(checkpoint->container, name);
    enum status status = check_target(target, tensor, err);
    if (status != OK) return status;
    if (target->rank != tensor->rank || memcmp(target->shape, tensor->shape, sizeof target->shape) != 0)
        return fail(err, ERR_FORMAT, "tensor %s: its shape is not that of %s", tensor->name, target->name);
    lora->wholes[lora->whole_count++] = (struct whole){target, tensor};
    return OK;
}

/* Factors of shapes A [rank][cols] and B [rows][rank]; of an embedding, whose delta is the transpose, A [rank][rows], B [cols][rank]. */
static enum status set_factors(
    struct lora_pair *pair, const struct tensor *a, const struct tensor *b, bool embedding, struct error *err)
{
    const uint64_t rows = pair->target->shape[0], cols = pair->target->shape[1];
    const uint64_t in = embedding ? rows : cols, out = embedding ? cols : rows;
    if (a->rank != 2 || b->rank != 2 || a->shape[0] == 0 || a->shape[0] != b->shape[1] || a->shape[1] != in ||
        b->shape[0] != out)
        return fail(err, ERR_FORMAT,
            "tensors %s and %s: their shapes make no product of %" PRIu64 " x %" PRIu64, a->name, b->name,
            rows, cols);
    const uint64_t rank = pair->rank = a->shape[0];
    const struct factor first = {a, 1, in}, second = {b, rank, 1};
    pair->left = embedding ? first : second;
    pair->right = embedding ? second : first;
    return OK;
}

/* A pair is added where its first factor stands; the second is looked up. */
static enum status add_factor(struct lora *lora, const struct checkpoint *checkpoint,
    const struct tensor *tensor, const struct marker *marker, size_t stem, struct error *err)
{
    char module[CONTAINER_NAME_LIMIT + 16], name[CONTAINER_NAME_LIMIT + 64];
    /* The other factor's marker is the neighbour in the table. */
    snprintf(name, sizeof name, "%.*s%s", (int)stem, tensor->name,
        marker->second ? (marker - 1)->text : (marker + 1)->text);
    const struct tensor *other = container_find(lora->container, name);
    if (!other) return fail(err, ERR_FORMAT, "tensor %s: there is no %s", tensor->name, name);
    if (marker->second) return OK;
    model_name(module, tensor->name, stem);
    snprintf(name, sizeof name, "%s.weight", module);
    struct lora_pair *pair = &lora->pairs[lora->pair_count];
    pair->target = container_find(checkpoint->container, name);
    enum status status = check_target(pair->target, tensor, err);
    if (status == OK) status = check_target(pair->target, other, err);
    if (status == OK && pair->target->rank != 2)
        status = fail(err, ERR_FORMAT, "tensor %s: %s is no matrix", tensor->name, pair->target->name);
    if (status == OK) status = set_factors(pair, tensor, other, marker->embedding, err);
    if (status == OK) status = find_scale(pair, lora, module, err);
    lora->pair_count += status == OK;
    return status;
}

static enum status add_tensors(struct lora *lora, const struct checkpoint *checkpoint, struct error *err)
{
    const uint64_t count = container_count(lora->container);
    enum status status = OK;
    lora->pairs = memory_new(count, sizeof *lora->pairs, err);
    lora->wholes = memory_new(count, sizeof *lora->wholes, err);
    if (!lora->pairs || !lora->wholes) return ERR_MEMORY;
    for (uint64_t i = 0; i < count && status == OK; i++) {
        const struct tensor *tensor = container_tensor(lora->container, i);
        size_t stem;
        const struct marker *marker = marker_of(tensor->name, &stem);
        status = marker ? add_factor(lora, checkpoint, tensor, marker, stem, err)
                        : add_whole(lora, checkpoint, tensor, err);
    }
    if (status == OK && count == 0) status = fail(err, ERR_FORMAT, "holds no tensors");
    return status == OK ? OK : fail_within(err, status, "%s", container_path(lora->container));
}

/* ---- opening ---- */

/* "DIR:SCALE", unless all of it is a folder. */
static enum status parse_spec(struct lora *lora, const char *spec, struct error *err)
{
    const char *colon = strrchr(spec, ':');
    lora->scale = 1;
    if (!colon || file_kind(spec) == FILE_FOLDER) {
        lora->path = memory_text(spec, strlen(spec), err);
        return lora->path ? OK : ERR_MEMORY;
    }
    if (!number_read(&lora->scale, colon + 1, strlen(colon + 1)) || !isfinite(lora->scale))
        return fail(err, ERR_USAGE, "--lora %s: '%s' is no number; DIR or DIR:SCALE", spec, colon + 1);
    lora->path = memory_text(spec, (uint64_t)(colon - spec), err);
    return lora->path ? OK : ERR_MEMORY;
}

static enum status read_config(struct lora *lora, struct error *err)
{
    enum status status = container_json(&lora->config, lora->container, CONFIG_DOCUMENT, err);
    if (status == OK && !lora->config) status = fail(err, ERR_FORMAT, "has no " CONFIG_DOCUMENT);
    if (status == OK) status = refuse_kinds(lora, err);
    return status == OK ? OK : fail_within(err, status, "%s", lora->path);
}

static enum status open_all(
    struct lora *lora, const char *spec, const struct checkpoint *checkpoint, struct error *err)
{
    char *path;
    enum status status = parse_spec(lora, spec, err);
    if (status != OK) return status;
    if (file_kind(lora->path) != FILE_FOLDER)
        return fail(
            err, ERR_FORMAT, "%s: is no folder with " CONFIG_DOCUMENT " and " TENSORS_FILE, lora->path);
    status = file_join(&path, lora->path, TENSORS_FILE, strlen(TENSORS_FILE), err);
    if (status == OK) status = container_open(&lora->container, path, err);
    memory_free(path);
    if (status == OK) status = read_config(lora, err);
    if (status == OK) status = container_map(lora->container, err);
    return status == OK ? add_tensors(lora, checkpoint, err) : status;
}

enum status lora_open(
    struct lora **out, const char *spec, const struct checkpoint *checkpoint, struct error *err)
{
    struct lora *lora = memory_new(1, sizeof *lora, err);
    *out = NULL;
    if (!lora) return ERR_MEMORY;
    enum status status = open_all(lora, spec, checkpoint, err);
    if (status == OK) {
        *out = lora;
    } else {
        lora_close(lora);
    }
    return status;
}

void lora_close(struct lora *lora)
{
    if (!lora) return;
    container_close(lora->container);
    json_free(lora->config);
    memory_free(lora->pairs);
    memory_free(lora->wholes);
    memory_free(lora->path);
    memory_free(lora);
}

const char *lora_path(const struct lora *lora)
{
    return lora->path;
}

double lora_scale(const struct lora *lora)
{
    return lora->scale;
}

struct container *lora_container(const struct lora *lora)
{
    return lora->container;
}

const struct lora_pair *lora_find(const struct lora *lora, const struct tensor *target)
{
    for (uint64_t i = 0; i < lora->pair_count; i++) {
        if (lora->pairs[i].target == target) return &lora->pairs[i];
    }
    return NULL;
}

const struct tensor *lora_replacement(const struct lora *lora, const struct tensor *target)
{
    for (uint64_t i = 0; i < lora->whole_count; i++) {
        if (lora->wholes[i].target == target) return lora->wholes[i].replacement;
    }
    return NULL;
}
