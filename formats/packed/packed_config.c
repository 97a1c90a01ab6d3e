/* The configurations' JSON, read. What would change the result and is not known here is refused by name. */
#include "formats/packed/packed_config.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

#define GROUP_MAXIMUM (1u << 30)

static const struct json_value *present(const struct json_value *object, const char *key)
{
    const struct json_value *value = json_member(object, key);

    return value && value->kind != JSON_NULL ? value : NULL;
}

/* A member that is there must be one of these words, in letters of either size. */
static enum status one_of(const struct json_value *object, const char *what, const char *key,
    const char *const *words, struct error *err)
{
    const char *text = words[0];
    char shown[64];
    enum status status = json_get_text(object, what, key, &text, err);

    if (status) return status;
    for (size_t i = 0; words[i]; i++) {
        if (strcasecmp(words[i], text) == 0) return OK;
    }
    return fail(err, ERR_UNSUPPORTED, "%s: %s '%s' is not known (known: %s)", what, key,
        error_quote(shown, sizeof shown, text, strlen(text)), words[0]);
}

static enum status must_be_absent(
    const struct json_value *object, const char *what, const char *key, struct error *err)
{
    if (!present(object, key)) return OK;
    return fail(
        err, ERR_UNSUPPORTED, "%s: %s: only weights that are quantized are read, nothing else", what, key);
}

/* ---- schemes ---- */

static enum status add_scheme(
    struct packed_config *out, const char *what, const struct packed_scheme *scheme, struct error *err)
{
    const struct packed_layout *layout = packed_layout(out->kind);

    if (scheme->bits > 8 || !(layout->bits_mask >> scheme->bits & 1))
        return fail(err, ERR_UNSUPPORTED, "%s: %" PRIu32 " bits are not what %s stores", what, scheme->bits,
            layout->name);
    for (uint32_t i = 0; i < out->scheme_count; i++) {
        const struct packed_scheme *known = &out->schemes[i];
        if (known->bits == scheme->bits && known->group == scheme->group &&
            known->asymmetric == scheme->asymmetric)
            return OK;
    }
    if (out->scheme_count == PACKED_SCHEME_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "%s: more than %d ways of quantizing in one model", what,
            PACKED_SCHEME_LIMIT);
    out->schemes[out->scheme_count++] = *scheme;
    return OK;
}

/* Bits and group of an object; what it does not say stays as it is in *scheme. */
static enum status read_scheme(struct packed_scheme *scheme, const char *what,
    const struct json_value *object, const char *bits_key, struct error *err)
{
    uint64_t bits = scheme->bits;
    double group = scheme->group ? (double)scheme->group : -1;
    enum status status = json_get_u64(object, what, bits_key, 1, 64, &bits, err);

    if (!status) status = json_get_number(object, what, "group_size", -1, GROUP_MAXIMUM, &group, err);
    if (status) return status;
    if (group != -1 && (group < 1 || group != (double)(uint64_t)group))
        return fail(err, ERR_FORMAT, "%s: group_size %g is neither -1 nor a number of columns", what, group);
    if (!bits) return fail(err, ERR_FORMAT, "%s: %s is missing", what, bits_key);
    scheme->bits = (uint32_t)bits;
    scheme->group = group < 0 ? 0 : (uint64_t)group;
    return OK;
}

/* The objects in `object`, each of which may say anew what the main scheme says. */
static enum status read_overrides(struct packed_config *out, const char *what,
    const struct json_value *object, const struct packed_scheme *main_scheme, struct error *err)
{
    enum status status = OK;

    if (!object || object->kind != JSON_OBJECT) return OK;
    for (const struct json_value *child = object->children; child && !status; child = child->next) {
        struct packed_scheme scheme = *main_scheme;
        if (child->kind != JSON_OBJECT || !child->count) continue;
        status = read_scheme(&scheme, what, child, "bits", err);
        if (!status) status = add_scheme(out, what, &scheme, err);
    }
    return status;
}

/* ---- the methods ---- */

static enum status read_gptq(
    struct packed_config *out, const char *what, const struct json_value *in, struct error *err)
{
    static const char *const formats[] = {"gptq", "gptq_v2", NULL};
    const char *key = present(in, "checkpoint_format") ? "checkpoint_format" : "format";
    struct packed_scheme scheme = {0};
    enum status status = one_of(in, what, key, formats, err);

    out->kind = json_is_text(json_member(in, key), "gptq_v2") ? PACKED_GPTQ_V2 : PACKED_GPTQ;
    out->zeros_known = present(in, key) != NULL;
    if (!status) status = json_get_bool(in, what, "sym", &out->symmetric, err);
    if (!status) status = read_scheme(&scheme, what, in, "bits", err);
    if (!status) status = add_scheme(out, what, &scheme, err);
    return status ? status : read_overrides(out, what, present(in, "dynamic"), &scheme, err);
}

static enum status read_awq(
    struct packed_config *out, const char *what, const struct json_value *in, struct error *err)
{
    static const char *const versions[] = {"gemm", NULL};
    struct packed_scheme scheme = {0};
    enum status status = one_of(in, what, "version", versions, err);

    if (!status) status = read_scheme(&scheme, what, in, "bits", err);
    return status ? status : add_scheme(out, what, &scheme, err);
}

static enum status read_compressed_group(
    struct packed_config *out, const char *what, const struct json_value *group, struct error *err)
{
    static const char *const formats[] = {"pack-quantized", NULL}, *const types[] = {"int", NULL};
    static const char *const strategies[] = {"group", "channel", NULL};
    const struct json_value *weights = present(group, "weights");
    struct packed_scheme scheme = {0};
    bool symmetric = true, dynamic = false;
    enum status status = one_of(group, what, "format", formats, err);

    if (!status) status = must_be_absent(group, what, "input_activations", err);
    if (!status) status = must_be_absent(group, what, "output_activations", err);
    if (!status && (!weights || weights->kind != JSON_OBJECT))
        status = fail(err, ERR_FORMAT, "%s: a group of config_groups has no weights", what);
    if (!status) status = one_of(weights, what, "type", types, err);
    if (!status) status = one_of(weights, what, "strategy", strategies, err);
    if (!status) status = json_get_bool(weights, what, "symmetric", &symmetric, err);
    if (!status) status = json_get_bool(weights, what, "dynamic", &dynamic, err);
    if (!status) status = read_scheme(&scheme, what, weights, "num_bits", err);
    if (!status && dynamic) status = fail(err, ERR_FORMAT, "%s: weights are said to be dynamic", what);
    scheme.asymmetric = !symmetric;
    return status ? status : add_scheme(out, what, &scheme, err);
}

static enum status read_compressed(
    struct packed_config *out, const char *what, const struct json_value *in, struct error *err)
{
    static const char *const formats[] = {"pack-quantized", NULL};
    const struct json_value *groups = present(in, "config_groups");
    enum status status = one_of(in, what, "format", formats, err);

    if (!status) status = must_be_absent(in, what, "kv_cache_scheme", err);
    if (!status && (!groups || groups->kind != JSON_OBJECT || !groups->count))
        status = fail(err, ERR_FORMAT, "%s: config_groups is missing", what);
    for (const struct json_value *group = status ? NULL : groups->children; group && !status;
         group = group->next)
        status = read_compressed_group(out, what, group, err);
    return status;
}

static enum status read_mlx(
    struct packed_config *out, const char *what, const struct json_value *in, struct error *err)
{
    static const char *const modes[] = {"affine", NULL};
    struct packed_scheme scheme = {.bits = 4, .group = 64}; /* mlx.nn.quantize's own */
    enum status status = one_of(in, what, "mode", modes, err);

    if (!status) status = read_scheme(&scheme, what, in, "bits", err);
    if (!status) status = add_scheme(out, what, &scheme, err);
    for (const struct json_value *child = in->children; child && !status; child = child->next) {
        if (child->kind == JSON_OBJECT) status = one_of(child, what, "mode", modes, err);
    }
    return status ? status : read_overrides(out, what, in, &scheme, err);
}

static const struct method {
    const char *name;
    enum packed_kind kind;
    enum status (*read)(
        struct packed_config *out, const char *what, const struct json_value *in, struct error *err);
} methods[] = {
    {"gptq", PACKED_GPTQ, read_gptq},
    {"awq", PACKED_AWQ, read_awq},
    {"compressed-tensors", PACKED_COMPRESSED, read_compressed},
};

enum status packed_config_read(struct packed_config *out, const char *what, const struct json_value *config,
    const struct json_value *beside, struct error *err)
{
    const struct json_value *in = present(config, "quantization_config");
    const struct json_value *mlx = present(config, "quantization");
    const struct json_value *method = json_member(in, "quant_method");

    *out = (struct packed_config){0};
    if (mlx && mlx->kind == JSON_OBJECT && !method) {
        out->kind = PACKED_MLX;
        out->known = true;
        return read_mlx(out, what, mlx, err);
    }
    if (!in) in = beside;
    method = json_member(in, "quant_method");
    for (size_t i = 0; in && i < sizeof methods / sizeof *methods; i++) {
        bool old = in == beside && !method && i == 0; /* quantize_config.json was AutoGPTQ's */
        if (!old && !json_is_text(method, methods[i].name)) continue;
        out->kind = methods[i].kind;
        out->known = true;
        return methods[i].read(out, what, in, err);
    }
    return OK;
}
