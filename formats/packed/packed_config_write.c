/* The configurations' JSON, written: what each layout's readers look for. Nothing is said that is not known: no damping, no
 * calibration set. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/packed/packed_config.h"

static const char *const taken_out[] = {"quantization_config", "quantization", "compression_config", NULL};

static enum status take(
    char **out, uint64_t *bytes, struct json_writer *json, enum status status, struct error *err)
{
    if (!status) status = json_writer_take(json, out, bytes, err);
    json_writer_free(json);
    return status;
}

enum status packed_config_plain(
    char **out, uint64_t *bytes, const struct json_value *config, struct error *err)
{
    struct json_writer json = {.indent = 2};

    json_open_object(&json);
    json_write_members(&json, config, taken_out);
    json_close_object(&json);
    return take(out, bytes, &json, OK, err);
}

/* What there is to say. */
struct saying {
    enum packed_kind kind;
    const struct packed_module *modules;
    uint64_t count;
    struct packed_scheme main_scheme;
    bool asymmetric; /* any of them */
};

static bool same_scheme(const struct packed_scheme *a, const struct packed_scheme *b)
{
    return a->bits == b->bits && a->group == b->group && a->asymmetric == b->asymmetric;
}

static bool has_scheme(const struct packed_module *module, const struct packed_scheme *scheme)
{
    return module->packed && same_scheme(&module->scheme, scheme);
}

/* True if no module before `at` has its scheme. */
static bool is_first(const struct saying *saying, uint64_t at)
{
    for (uint64_t i = 0; i < at; i++) {
        if (has_scheme(&saying->modules[i], &saying->modules[at].scheme)) return false;
    }
    return true;
}

static void find_main(struct saying *saying)
{
    uint64_t most = 0;

    for (uint64_t i = 0; i < saying->count; i++) {
        uint64_t found = 0;
        if (!saying->modules[i].packed) continue;
        saying->asymmetric |= saying->modules[i].scheme.asymmetric;
        if (!is_first(saying, i)) continue;
        for (uint64_t j = i; j < saying->count; j++)
            found += has_scheme(&saying->modules[j], &saying->modules[i].scheme);
        if (found > most) saying->main_scheme = saying->modules[i].scheme;
        most = found > most ? found : most;
    }
}

static bool is_head(const struct packed_module *module)
{
    return module->name_bytes == strlen("lm_head") &&
           memcmp(module->name, "lm_head", module->name_bytes) == 0;
}

static void put_group(struct json_writer *json, const struct packed_scheme *scheme)
{
    json_write_key(json, "group_size");
    json_write_number(json, scheme->group ? (double)scheme->group : -1);
}

/* The names of those that are kept, or of those with a scheme. */
static void put_names(struct json_writer *json, const char *key, const struct saying *saying,
    const struct packed_scheme *scheme)
{
    json_write_key(json, key);
    json_open_array(json);
    for (uint64_t i = 0; i < saying->count; i++) {
        const struct packed_module *module = &saying->modules[i];
        if (scheme ? has_scheme(module, scheme) : !module->packed)
            json_write_string(json, module->name, module->name_bytes);
    }
    json_close_array(json);
}

/* ---- gptq ---- */

/* A name as GPTQModel's regular expressions have it: "+:^model\.layers\.0\.mlp\.up_proj$". */
static enum status put_pattern(
    struct json_writer *json, char sign, const struct packed_module *module, struct error *err)
{
    char *text = memory_new(2 * module->name_bytes + 8, 1, err);
    char *at = text;

    if (!text) return ERR_MEMORY;
    at += sprintf(at, "%c:^", sign);
    for (uint64_t i = 0; i < module->name_bytes; i++) {
        if (module->name[i] == '.') *at++ = '\\';
        *at++ = module->name[i];
    }
    *at++ = '$';
    json_write_key(json, text);
    memory_free(text);
    return OK;
}

/* "dynamic": what differs from the main scheme. The head has a member of its own. */
static enum status put_dynamic(struct json_writer *json, const struct saying *saying, struct error *err)
{
    enum status status = OK;
    bool open = false;

    for (uint64_t i = 0; i < saying->count && !status; i++) {
        const struct packed_module *module = &saying->modules[i];
        bool differs = !module->packed || module->scheme.bits != saying->main_scheme.bits ||
                       module->scheme.group != saying->main_scheme.group;
        if (!differs || (is_head(module) && !module->packed)) continue;
        if (!open) json_write_key(json, "dynamic");
        if (!open) json_open_object(json);
        open = true;
        status = put_pattern(json, module->packed ? '+' : '-', module, err);
        json_open_object(json);
        if (module->packed) json_put_u64(json, "bits", module->scheme.bits);
        if (module->packed) put_group(json, &module->scheme);
        json_close_object(json);
    }
    if (open) json_close_object(json);
    return status;
}

static enum status put_gptq(struct json_writer *json, const struct saying *saying, struct error *err)
{
    bool head = false;
    enum status status;

    for (uint64_t i = 0; i < saying->count; i++)
        head |= saying->modules[i].packed && is_head(&saying->modules[i]);
    json_open_object(json);
    json_put_text(json, "quant_method", "gptq");
    json_put_text(json, "checkpoint_format", saying->kind == PACKED_GPTQ_V2 ? "gptq_v2" : "gptq");
    json_put_u64(json, "bits", saying->main_scheme.bits);
    put_group(json, &saying->main_scheme);
    json_put_bool(json, "desc_act", false);
    json_put_bool(json, "sym", !saying->asymmetric);
    json_put_bool(json, "lm_head", head);
    status = put_dynamic(json, saying, err);
    json_close_object(json);
    return status;
}

/* ---- the others ---- */

static enum status put_awq(struct json_writer *json, const struct saying *saying, struct error *err)
{
    (void)err;
    json_open_object(json);
    json_put_text(json, "quant_method", "awq");
    json_put_text(json, "version", "gemm");
    json_put_u64(json, "bits", saying->main_scheme.bits);
    put_group(json, &saying->main_scheme);
    json_put_bool(json, "zero_point", true);
    put_names(json, "modules_to_not_convert", saying, NULL);
    json_close_object(json);
    return OK;
}

static void put_compressed_group(
    struct json_writer *json, const struct saying *saying, const struct packed_scheme *scheme, bool alone)
{
    json_open_object(json);
    if (alone) {
        json_write_key(json, "targets");
        json_open_array(json);
        json_write_text(json, "Linear");
        json_close_array(json);
    } else {
        put_names(json, "targets", saying, scheme);
    }
    json_write_key(json, "weights");
    json_open_object(json);
    json_put_u64(json, "num_bits", scheme->bits);
    json_put_text(json, "type", "int");
    json_put_bool(json, "symmetric", !scheme->asymmetric);
    json_put_text(json, "strategy", scheme->group ? "group" : "channel");
    json_write_key(json, "group_size");
    if (scheme->group)
        json_write_u64(json, scheme->group);
    else
        json_write_text(json, NULL);
    json_put_bool(json, "dynamic", false);
    json_close_object(json);
    json_put_text(json, "input_activations", NULL);
    json_put_text(json, "output_activations", NULL);
    json_close_object(json);
}

static enum status put_compressed(struct json_writer *json, const struct saying *saying, struct error *err)
{
    char name[32];
    unsigned groups = 0;
    bool alone = true;

    (void)err;
    for (uint64_t i = 0; i < saying->count; i++)
        alone &= !saying->modules[i].packed || has_scheme(&saying->modules[i], &saying->main_scheme);
    json_open_object(json);
    json_put_text(json, "quant_method", "compressed-tensors");
    json_put_text(json, "format", "pack-quantized");
    json_put_text(json, "quantization_status", "compressed");
    json_write_key(json, "config_groups");
    json_open_object(json);
    for (uint64_t i = 0; i < saying->count; i++) {
        if (!saying->modules[i].packed || !is_first(saying, i)) continue;
        snprintf(name, sizeof name, "group_%u", groups++);
        json_write_key(json, name);
        put_compressed_group(json, saying, &saying->modules[i].scheme, alone);
    }
    json_close_object(json);
    put_names(json, "ignore", saying, NULL);
    json_put_text(json, "kv_cache_scheme", NULL);
    json_close_object(json);
    return OK;
}

static void put_mlx_scheme(struct json_writer *json, const struct packed_scheme *scheme)
{
    json_put_u64(json, "group_size", scheme->group);
    json_put_u64(json, "bits", scheme->bits);
    json_put_text(json, "mode", "affine");
}

static enum status put_mlx(struct json_writer *json, const struct saying *saying, struct error *err)
{
    enum status status = OK;

    json_open_object(json);
    put_mlx_scheme(json, &saying->main_scheme);
    for (uint64_t i = 0; i < saying->count && !status; i++) {
        const struct packed_module *module = &saying->modules[i];
        char *name;
        if (!module->packed || has_scheme(module, &saying->main_scheme)) continue;
        name = memory_text(module->name, module->name_bytes, err);
        if (!name) status = ERR_MEMORY;
        if (name) json_write_key(json, name);
        if (name) json_open_object(json);
        if (name) put_mlx_scheme(json, &module->scheme);
        if (name) json_close_object(json);
        memory_free(name);
    }
    json_close_object(json);
    return status;
}

static enum status (*const puts_kind[PACKED_KINDS])(
    struct json_writer *json, const struct saying *saying, struct error *err) = {
    [PACKED_GPTQ] = put_gptq,
    [PACKED_GPTQ_V2] = put_gptq,
    [PACKED_AWQ] = put_awq,
    [PACKED_COMPRESSED] = put_compressed,
    [PACKED_MLX] = put_mlx,
};

/* config.json's members, and one more. */
static enum status write_whole(
    struct json_writer *json, const struct json_value *config, const struct saying *saying, struct error *err)
{
    bool mlx = saying->kind == PACKED_MLX;
    enum status status;

    json_open_object(json);
    json_write_members(json, config, taken_out);
    json_write_key(json, mlx ? "quantization" : "quantization_config");
    status = puts_kind[saying->kind](json, saying, err);
    json_close_object(json);
    return status;
}

enum status packed_config_write(char **out, uint64_t *bytes, char **beside, uint64_t *beside_bytes,
    const struct json_value *config, enum packed_kind kind, const struct packed_module *modules,
    uint64_t count, struct error *err)
{
    struct saying saying = {.kind = kind, .modules = modules, .count = count};
    struct json_writer whole = {.indent = 2}, alone = {.indent = 2};
    const bool gptq = kind == PACKED_GPTQ || kind == PACKED_GPTQ_V2;
    enum status status;

    *out = *beside = NULL;
    *bytes = *beside_bytes = 0;
    find_main(&saying);
    status = take(out, bytes, &whole, write_whole(&whole, config, &saying, err), err);
    if (!status && gptq) status = take(beside, beside_bytes, &alone, put_gptq(&alone, &saying, err), err);
    if (!status) return OK;
    memory_free(*out);
    *out = NULL;
    return status;
}
