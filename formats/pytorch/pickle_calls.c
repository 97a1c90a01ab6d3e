/* See pickle_calls.h. */
#include "formats/pytorch/pickle_calls.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"

/* ---- names ---- */

static enum status push_name(struct pickle_machine *m, const char *module, uint64_t module_bytes,
    const char *name, uint64_t name_bytes, struct error *err)
{
    struct pickle_name found;
    char module_shown[128], name_shown[128];

    if (pickle_names_find(&found, module, module_bytes, name, name_bytes))
        return pickle_machine_push_new(m,
            (struct pickle_value){.kind = KIND_NAME, .is.meaning = found.meaning, .of.type = found.type},
            err);
    return PICKLE_BROKEN(m, err,
        "unpickling would import %s.%s, which plain tensors do not need: refused, nothing was run; save the "
        "state dict "
        "alone, or as safetensors",
        error_quote(module_shown, sizeof module_shown, module, module_bytes),
        error_quote(name_shown, sizeof name_shown, name, name_bytes));
}

/* A line, without its end. */
static enum status take_line(struct pickle_machine *m, const char **out, uint64_t *bytes, struct error *err)
{
    const char *line = m->bytes + m->at, *end = memchr(line, '\n', m->count - m->at);

    if (!end) return PICKLE_BROKEN(m, err, "a name without end");
    *out = line;
    *bytes = (uint64_t)(end - line);
    m->at += *bytes + 1;
    return OK;
}

enum status pickle_calls_global(struct pickle_machine *m, struct error *err)
{
    const char *module, *name;
    uint64_t module_bytes, name_bytes;
    enum status status = take_line(m, &module, &module_bytes, err);

    if (!status) status = take_line(m, &name, &name_bytes, err);
    return status ? status : push_name(m, module, module_bytes, name, name_bytes, err);
}

enum status pickle_calls_stack_global(struct pickle_machine *m, struct error *err)
{
    uint32_t name, module;
    enum status status = pickle_machine_pop(m, &name, err);

    if (!status) status = pickle_machine_pop(m, &module, err);
    if (status) return status;
    const struct pickle_value *n = &m->values[name], *of = &m->values[module];
    if (n->kind != KIND_TEXT || of->kind != KIND_TEXT) return PICKLE_BROKEN(m, err, "a name that is no text");
    return push_name(m, of->of.text, of->is.bytes, n->of.text, n->is.bytes, err);
}

/* ---- storages and tensors ---- */

static const struct pickle_value *item_of(
    const struct pickle_machine *m, const struct pickle_value *tuple, uint64_t index)
{
    return tuple->kind == KIND_TUPLE && index < tuple->is.count ? &m->values[m->items[tuple->first + index]]
                                                                : &m->values[VALUE_PLAIN];
}

enum status pickle_calls_storage(struct pickle_machine *m, struct error *err)
{
    uint32_t id;
    enum status status = pickle_machine_pop(m, &id, err);

    if (status) return status;
    const struct pickle_value *tuple = &m->values[id];
    const struct pickle_value *class = item_of(m, tuple, 1), *elements = item_of(m, tuple, 4);
    if (tuple->kind != KIND_TUPLE || tuple->is.count != 5 ||
        !pickle_machine_is_text(item_of(m, tuple, 0), "storage") || class->kind != KIND_NAME ||
        class->is.meaning != PICKLE_TYPE || item_of(m, tuple, 2)->kind != KIND_TEXT ||
        elements->kind != KIND_INTEGER || elements->is.integer < 0)
        return PICKLE_BROKEN(m, err, "a persistent id that is no storage");
    struct pickle_storage storage = {.key = m->items[tuple->first + 2], .type = class->of.type};
    if (checked_multiply(
            &storage.bytes, (uint64_t)elements->is.integer, storage.type ? storage.type->bytes : 1))
        return PICKLE_BROKEN(m, err, "a storage of %" PRId64 " elements", elements->is.integer);
    status = memory_grow(&m->storages, &m->storage_capacity, m->storage_count + 1, sizeof storage, err);
    if (status) return status;
    m->storages[m->storage_count++] = storage;
    return pickle_machine_push_new(
        m, (struct pickle_value){.kind = KIND_STORAGE, .first = (uint32_t)(m->storage_count - 1)}, err);
}

static enum status read_sizes(struct pickle_machine *m, uint64_t out[TENSOR_RANK_LIMIT], uint32_t *rank,
    const struct pickle_value *tuple, const char *what, struct error *err)
{
    if (tuple->kind != KIND_TUPLE)
        return PICKLE_BROKEN(m, err, "a tensor whose %s is %s", what, pickle_machine_kinds[tuple->kind]);
    if (tuple->is.count > TENSOR_RANK_LIMIT)
        return PICKLE_BROKEN(m, err, "a tensor whose %s has %" PRIu64 " dimensions, at most %d", what,
            tuple->is.count, TENSOR_RANK_LIMIT);
    *rank = (uint32_t)tuple->is.count;
    for (uint32_t i = 0; i < *rank; i++) {
        const struct pickle_value *size = item_of(m, tuple, i);
        if (size->kind != KIND_INTEGER || size->is.integer < 0)
            return PICKLE_BROKEN(m, err, "a tensor whose %s is negative, or no number", what);
        out[i] = (uint64_t)size->is.integer;
    }
    return OK;
}

/* (storage, offset, shape, stride, ...); the type is the seventh of _rebuild_tensor_v3. */
static enum status rebuild(
    struct pickle_machine *m, const struct pickle_value *arguments, bool typed, struct error *err)
{
    const struct pickle_value *storage = item_of(m, arguments, 0), *offset = item_of(m, arguments, 1),
                              *type = item_of(m, arguments, 6);
    struct pickle_tensor tensor = {0};
    uint32_t strides;
    enum status status;

    if (storage->kind != KIND_STORAGE)
        return PICKLE_BROKEN(m, err, "a tensor made of %s", pickle_machine_kinds[storage->kind]);
    const struct pickle_storage *of = &m->storages[storage->first];
    tensor.type = typed && type->kind == KIND_NAME && type->is.meaning == PICKLE_TYPE ? type->of.type
                  : typed                                                             ? NULL
                                                                                      : of->type;
    if (!tensor.type) return PICKLE_BROKEN(m, err, "a tensor without a type");
    if (offset->kind != KIND_INTEGER || offset->is.integer < 0)
        return PICKLE_BROKEN(m, err, "a tensor whose offset is negative, or no number");
    tensor.offset = (uint64_t)offset->is.integer;
    tensor.storage_bytes = of->bytes;
    tensor.key = m->values[of->key].of.text;
    tensor.key_bytes = m->values[of->key].is.bytes;
    status = read_sizes(m, tensor.shape, &tensor.rank, item_of(m, arguments, 2), "shape", err);
    if (!status) status = read_sizes(m, tensor.stride, &strides, item_of(m, arguments, 3), "stride", err);
    if (!status && strides != tensor.rank)
        status = PICKLE_BROKEN(
            m, err, "a tensor of %" PRIu32 " dimensions and %" PRIu32 " strides", tensor.rank, strides);
    if (!status)
        status = memory_grow(&m->tensors, &m->tensor_capacity, m->tensor_count + 1, sizeof tensor, err);
    if (status) return status;
    m->tensors[m->tensor_count++] = tensor;
    return pickle_machine_push_new(
        m, (struct pickle_value){.kind = KIND_TENSOR, .first = (uint32_t)(m->tensor_count - 1)}, err);
}

/* ---- calls, described ---- */

static enum status push_argument(
    struct pickle_machine *m, const struct pickle_value *arguments, enum pickle_kind kind, struct error *err)
{
    if (item_of(m, arguments, 0)->kind != kind)
        return PICKLE_BROKEN(m, err, "a call whose argument is %s, not %s",
            pickle_machine_kinds[item_of(m, arguments, 0)->kind], pickle_machine_kinds[kind]);
    return pickle_machine_push(m, m->items[arguments->first], err);
}

static enum status describe(struct pickle_machine *m, const struct pickle_value *function,
    const struct pickle_value *arguments, bool nested, struct error *err)
{
    if (function->kind != KIND_NAME || arguments->kind != KIND_TUPLE)
        return PICKLE_BROKEN(m, err, "calls %s with %s", pickle_machine_kinds[function->kind],
            pickle_machine_kinds[arguments->kind]);
    switch (function->is.meaning) {
    case PICKLE_DICT:
        if (arguments->is.count) return PICKLE_BROKEN(m, err, "an OrderedDict made of arguments is not read");
        return pickle_machine_push_dict(m, err);
    case PICKLE_SIZE:
        return push_argument(m, arguments, KIND_TUPLE, err);
    case PICKLE_REBUILD:
    case PICKLE_REBUILD_TYPED:
        return rebuild(m, arguments, function->is.meaning == PICKLE_REBUILD_TYPED, err);
    case PICKLE_PARAMETER:
        return push_argument(m, arguments, KIND_TENSOR, err);
    case PICKLE_SUBCLASS:
        if (nested || item_of(m, arguments, 1)->kind != KIND_NAME ||
            item_of(m, arguments, 1)->is.meaning != PICKLE_CLASS)
            return PICKLE_BROKEN(m, err, "a tensor of no class that is read");
        return describe(m, item_of(m, arguments, 0), item_of(m, arguments, 2), true, err);
    case PICKLE_PLAIN:
        return pickle_machine_push(m, VALUE_PLAIN, err);
    case PICKLE_TYPE:
    case PICKLE_CLASS:
        break;
    }
    return PICKLE_BROKEN(m, err, "calls a type, which no checkpoint does");
}

enum status pickle_calls_reduce(struct pickle_machine *m, struct error *err)
{
    uint32_t arguments, function;
    enum status status = pickle_machine_pop(m, &arguments, err);

    if (!status) status = pickle_machine_pop(m, &function, err);
    if (status) return status;
    const struct pickle_value called = m->values[function],
                              with = m->values[arguments]; /* making a value may move the others */
    return describe(m, &called, &with, false, err);
}

enum status pickle_calls_build(struct pickle_machine *m, struct error *err)
{
    uint32_t state;
    enum status status = pickle_machine_pop(m, &state, err);

    if (status) return status;
    if (!m->depth || pickle_machine_top(m)->kind != KIND_DICT || m->values[state].kind != KIND_DICT)
        return PICKLE_BROKEN(m, err, "unpickling would set the state of %s: refused",
            m->depth ? pickle_machine_kinds[pickle_machine_top(m)->kind] : "nothing");
    return OK;
}
