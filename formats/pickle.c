/* See pickle.h. The machine: values by number, a stack and a memo of numbers. Values that nobody looks into (None, numbers
 * with a fraction, lists, sets) are all the same value. Nothing recurses, so nesting costs no more than any other bytes. */
#include "formats/pickle.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"

enum kind {
    KIND_MARK,
    KIND_PLAIN,
    KIND_LIST,
    KIND_INTEGER,
    KIND_TEXT,
    KIND_TUPLE,
    KIND_DICT,
    KIND_NAME,
    KIND_STORAGE,
    KIND_TENSOR
};

static const char *const kind_names[] = {"a mark", "no tensor", "a list", "a number", "a text", "a tuple",
    "a dict", "a name", "a storage", "a tensor"};

/* Values that exist once. */
enum { VALUE_MARK, VALUE_PLAIN, VALUE_LIST, VALUE_EMPTY_TUPLE, VALUES_FIXED, NO_PAIR = UINT32_MAX };

struct value {
    enum kind kind;
    uint32_t first,
        last; /* dict: its pairs, or NO_PAIR; tuple: the first of its items; storage, tensor: its number */
    union {
        int64_t integer;
        uint64_t count;              /* tuple */
        enum pickle_meaning meaning; /* name */
        uint64_t bytes;              /* text */
    } is;
    union {
        const char *text;
        const struct pickle_type *type; /* name */
    } of;
};

struct pair {
    uint32_t key, value, next;
};

struct source {
    uint32_t key; /* a text */
    const struct pickle_type *type;
    uint64_t bytes;
};

struct machine {
    const char *bytes;
    uint64_t count, at;
    uint64_t opcode; /* where the current one begins */
    bool stopped;
    struct value *values;
    struct pair *pairs;
    struct source *storages;
    struct pickle_tensor *tensors; /* without names */
    uint32_t *items, *stack, *memo;
    uint64_t value_count, value_capacity, pair_count, pair_capacity, storage_count, storage_capacity;
    uint64_t tensor_count, tensor_capacity, item_count, item_capacity, depth, stack_capacity, memo_count,
        memo_capacity;
};

/* An error at the current opcode. */
#define BROKEN(m, err, ...)                                                                                  \
    (fail((err), ERR_FORMAT, __VA_ARGS__), fail_at((m), ERR_FORMAT, (err)), ERR_FORMAT)

/* Put the place of the current opcode before an error. */
static enum status fail_at(const struct machine *m, enum status status, struct error *err)
{
    return fail_within(err, status, "byte %" PRIu64, m->opcode);
}

/* ---- bytes, values, stack ---- */

static const uint8_t *take(struct machine *m, uint64_t count, struct error *err)
{
    const uint8_t *bytes = (const uint8_t *)m->bytes + m->at;

    if (count > m->count - m->at) {
        fail_at(m,
            fail(err, ERR_FORMAT, "needs %" PRIu64 " more bytes, %" PRIu64 " are left: cut short, or damaged",
                count, m->count - m->at),
            err);
        return NULL;
    }
    m->at += count;
    return bytes;
}

static enum status push(struct machine *m, uint32_t value, struct error *err)
{
    enum status status;

    if (m->depth == PICKLE_STACK_LIMIT)
        return fail_at(m, fail(err, ERR_MEMORY, "more than %u values on the stack", PICKLE_STACK_LIMIT), err);
    status = memory_grow(&m->stack, &m->stack_capacity, m->depth + 1, sizeof *m->stack, err);
    if (!status) m->stack[m->depth++] = value;
    return status;
}

/* A new value; its number is value_count - 1. */
static enum status make(struct machine *m, struct value value, struct error *err)
{
    enum status status;

    if (m->value_count == PICKLE_VALUE_LIMIT)
        return fail_at(m, fail(err, ERR_MEMORY, "more than %u values", PICKLE_VALUE_LIMIT), err);
    status = memory_grow(&m->values, &m->value_capacity, m->value_count + 1, sizeof value, err);
    if (!status) m->values[m->value_count++] = value;
    return status;
}

static enum status push_new(struct machine *m, struct value value, struct error *err)
{
    enum status status = make(m, value, err);

    return status ? status : push(m, (uint32_t)(m->value_count - 1), err);
}

static enum status push_integer(struct machine *m, int64_t integer, struct error *err)
{
    return push_new(m, (struct value){.kind = KIND_INTEGER, .is.integer = integer}, err);
}

/* The value at the top, off the stack; a mark is none. */
static enum status pop(struct machine *m, uint32_t *out, struct error *err)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == VALUE_MARK)
        return BROKEN(m, err, "takes a value from an empty stack");
    *out = m->stack[--m->depth];
    return OK;
}

/* Everything above the last mark: *first .. *first + *count on the stack, which keeps it until the next push; the mark is gone. */
static enum status pop_mark(struct machine *m, uint64_t *first, uint64_t *count, struct error *err)
{
    uint64_t at = m->depth;

    while (at && m->stack[at - 1] != VALUE_MARK)
        at--;
    if (!at) return BROKEN(m, err, "takes values down to a mark that is not there");
    *first = at;
    *count = m->depth - at;
    m->depth = at - 1;
    return OK;
}

static const struct value *top(const struct machine *m)
{
    return m->depth ? &m->values[m->stack[m->depth - 1]] : NULL;
}

/* ---- plain values ---- */

static enum status run_plain(struct machine *m, struct error *err)
{
    return push(m, VALUE_PLAIN, err);
}

static enum status run_float(struct machine *m, struct error *err)
{
    return take(m, 8, err) ? push(m, VALUE_PLAIN, err) : ERR_FORMAT;
}

static enum status run_list(struct machine *m, struct error *err)
{
    return push(m, VALUE_LIST, err);
}

static enum status run_integer(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 4, err);

    return bytes ? push_integer(m, (int32_t)bytes_get_u32(bytes), err) : ERR_FORMAT;
}

static enum status run_integer1(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 1, err);

    return bytes ? push_integer(m, *bytes, err) : ERR_FORMAT;
}

static enum status run_integer2(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 2, err);

    return bytes ? push_integer(m, bytes_get_u16(bytes), err) : ERR_FORMAT;
}

/* Two's complement of any length; what has more than 64 bits is no size of anything here. */
static enum status run_long(struct machine *m, unsigned length_bytes, struct error *err)
{
    const uint8_t *length = take(m, length_bytes, err);
    const uint64_t count = length ? bytes_get(length, length_bytes) : 0;
    const uint8_t *bytes = length ? take(m, count, err) : NULL;

    if (!bytes) return ERR_FORMAT;
    if (count > 8) return push(m, VALUE_PLAIN, err);
    uint64_t value = bytes_get(bytes, (unsigned)count);
    if (count && count < 8 && bytes[count - 1] & 0x80) value |= UINT64_MAX << (8 * count);
    return push_integer(m, (int64_t)value, err);
}

static enum status run_long1(struct machine *m, struct error *err)
{
    return run_long(m, 1, err);
}

static enum status run_long4(struct machine *m, struct error *err)
{
    return run_long(m, 4, err);
}

static enum status run_text(struct machine *m, unsigned length_bytes, struct error *err)
{
    const uint8_t *length = take(m, length_bytes, err);
    const uint64_t count = length ? bytes_get(length, length_bytes) : 0;
    const uint8_t *bytes = length ? take(m, count, err) : NULL;

    if (!bytes) return ERR_FORMAT;
    return push_new(
        m, (struct value){.kind = KIND_TEXT, .is.bytes = count, .of.text = (const char *)bytes}, err);
}

static enum status run_text1(struct machine *m, struct error *err)
{
    return run_text(m, 1, err);
}

static enum status run_text4(struct machine *m, struct error *err)
{
    return run_text(m, 4, err);
}

static enum status run_text8(struct machine *m, struct error *err)
{
    return run_text(m, 8, err);
}

/* ---- stack, memo, structure ---- */

static enum status run_protocol(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 1, err);

    if (!bytes) return ERR_FORMAT;
    if (m->opcode || *bytes < 2 || *bytes > 5)
        return fail_at(m,
            fail(err, ERR_UNSUPPORTED, "pickle protocol %u; 2 to 5 are read, at the beginning",
                (unsigned)*bytes),
            err);
    return OK;
}

static enum status run_frame(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 8, err);

    if (!bytes) return ERR_FORMAT;
    if (bytes_get_u64(bytes) > m->count - m->at)
        return BROKEN(m, err, "a frame of %" PRIu64 " bytes, %" PRIu64 " are left", bytes_get_u64(bytes),
            m->count - m->at);
    return OK;
}

static enum status run_stop(struct machine *m, struct error *err)
{
    m->stopped = true;
    if (m->at != m->count) return BROKEN(m, err, "%" PRIu64 " bytes follow the end", m->count - m->at);
    if (m->depth != 1) return BROKEN(m, err, "ends with %" PRIu64 " values, must be one", m->depth);
    return OK;
}

static enum status run_mark(struct machine *m, struct error *err)
{
    return push(m, VALUE_MARK, err);
}

/* Picklers number what they remember from 0 on, so the memo never has holes. */
static enum status remember(struct machine *m, uint64_t slot, struct error *err)
{
    enum status status;

    if (!m->depth || m->stack[m->depth - 1] == VALUE_MARK)
        return BROKEN(m, err, "remembers a value of an empty stack");
    if (slot > m->memo_count)
        return BROKEN(
            m, err, "remembers a value as number %" PRIu64 ", the next is %" PRIu64, slot, m->memo_count);
    status = memory_grow(&m->memo, &m->memo_capacity, slot + 1, sizeof *m->memo, err);
    if (status) return status;
    m->memo[slot] = m->stack[m->depth - 1];
    if (slot == m->memo_count) m->memo_count++;
    return OK;
}

static enum status recall(struct machine *m, uint64_t slot, struct error *err)
{
    if (slot >= m->memo_count)
        return BROKEN(m, err, "recalls value %" PRIu64 ", %" PRIu64 " are remembered", slot, m->memo_count);
    return push(m, m->memo[slot], err);
}

static enum status run_memoize(struct machine *m, struct error *err)
{
    return remember(m, m->memo_count, err);
}

static enum status run_put1(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 1, err);

    return bytes ? remember(m, *bytes, err) : ERR_FORMAT;
}

static enum status run_put4(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 4, err);

    return bytes ? remember(m, bytes_get_u32(bytes), err) : ERR_FORMAT;
}

static enum status run_get1(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 1, err);

    return bytes ? recall(m, *bytes, err) : ERR_FORMAT;
}

static enum status run_get4(struct machine *m, struct error *err)
{
    const uint8_t *bytes = take(m, 4, err);

    return bytes ? recall(m, bytes_get_u32(bytes), err) : ERR_FORMAT;
}

/* ---- tuples, dicts, lists ---- */

static enum status run_empty_tuple(struct machine *m, struct error *err)
{
    return push(m, VALUE_EMPTY_TUPLE, err);
}

/* A tuple of values that were on the stack from `first` on. */
static enum status push_tuple(struct machine *m, uint64_t first, uint64_t count, struct error *err)
{
    enum status status;

    if (m->item_count + count > PICKLE_VALUE_LIMIT)
        return fail_at(m, fail(err, ERR_MEMORY, "tuples of more than %u values", PICKLE_VALUE_LIMIT), err);
    status = memory_grow(&m->items, &m->item_capacity, m->item_count + count, sizeof *m->items, err);
    if (status) return status;
    if (count) memcpy(m->items + m->item_count, m->stack + first, count * sizeof *m->items);
    m->item_count += count;
    return push_new(m,
        (struct value){.kind = KIND_TUPLE, .first = (uint32_t)(m->item_count - count), .is.count = count},
        err);
}

static enum status run_tuple(struct machine *m, struct error *err)
{
    uint64_t first, count;
    enum status status = pop_mark(m, &first, &count, err);

    return status ? status : push_tuple(m, first, count, err);
}

static enum status run_short_tuple(struct machine *m, struct error *err)
{
    const uint64_t count = (uint64_t)(uint8_t)m->bytes[m->opcode] - 0x84; /* TUPLE1 is 0x85 */
    uint32_t value;

    for (uint64_t i = 0; i < count; i++) {
        enum status status = pop(m, &value, err);
        if (status) return status;
    }
    return push_tuple(m, m->depth, count, err);
}

static enum status run_dict(struct machine *m, struct error *err)
{
    return push_new(m, (struct value){.kind = KIND_DICT, .first = NO_PAIR, .last = NO_PAIR}, err);
}

/* Append pairs that were on the stack from `first` on to the dict at the top. */
static enum status add_pairs(struct machine *m, uint64_t first, uint64_t count, struct error *err)
{
    if (count % 2) return BROKEN(m, err, "%" PRIu64 " values are no pairs", count);
    if (!m->depth || top(m)->kind != KIND_DICT)
        return BROKEN(m, err, "sets items of something that is no dict");
    struct value *dict = &m->values[m->stack[m->depth - 1]];
    for (uint64_t i = 0; i < count; i += 2) {
        const uint32_t number = (uint32_t)m->pair_count;
        enum status status =
            memory_grow(&m->pairs, &m->pair_capacity, m->pair_count + 1, sizeof *m->pairs, err);
        if (m->pair_count == PICKLE_VALUE_LIMIT)
            return fail_at(m, fail(err, ERR_MEMORY, "dicts of more than %u items", PICKLE_VALUE_LIMIT), err);
        if (status) return status;
        m->pairs[m->pair_count++] = (struct pair){m->stack[first + i], m->stack[first + i + 1], NO_PAIR};
        if (dict->first == NO_PAIR)
            dict->first = number;
        else
            m->pairs[dict->last].next = number;
        dict->last = number;
    }
    return OK;
}

static enum status run_set_items(struct machine *m, struct error *err)
{
    uint64_t first, count;
    enum status status = pop_mark(m, &first, &count, err);

    return status ? status : add_pairs(m, first, count, err);
}

static enum status run_set_item(struct machine *m, struct error *err)
{
    uint32_t value;
    enum status status = pop(m, &value, err);

    if (!status) status = pop(m, &value, err);
    return status ? status : add_pairs(m, m->depth, 2, err);
}

static enum status check_list(struct machine *m, struct error *err)
{
    const struct value *list = top(m);

    if (list && (list->kind == KIND_LIST || list->kind == KIND_PLAIN)) return OK;
    return BROKEN(m, err, "appends to something that is no list");
}

static enum status run_append(struct machine *m, struct error *err)
{
    uint32_t value;
    enum status status = pop(m, &value, err);

    return status ? status : check_list(m, err);
}

static enum status run_appends(struct machine *m, struct error *err)
{
    uint64_t first, count;
    enum status status = pop_mark(m, &first, &count, err);

    return status ? status : check_list(m, err);
}

/* ---- names ---- */

static enum status push_name(struct machine *m, const char *module, uint64_t module_bytes, const char *name,
    uint64_t name_bytes, struct error *err)
{
    struct pickle_name found;
    char module_shown[128], name_shown[128];

    if (pickle_names_find(&found, module, module_bytes, name, name_bytes))
        return push_new(
            m, (struct value){.kind = KIND_NAME, .is.meaning = found.meaning, .of.type = found.type}, err);
    return BROKEN(m, err,
        "unpickling would import %s.%s, which no tensor needs: refused, nothing was run; save the state dict "
        "alone, or as safetensors",
        error_quote(module_shown, sizeof module_shown, module, module_bytes),
        error_quote(name_shown, sizeof name_shown, name, name_bytes));
}

/* A line, without its end. */
static enum status take_line(struct machine *m, const char **out, uint64_t *bytes, struct error *err)
{
    const char *line = m->bytes + m->at, *end = memchr(line, '\n', m->count - m->at);

    if (!end) return BROKEN(m, err, "a name without end");
    *out = line;
    *bytes = (uint64_t)(end - line);
    m->at += *bytes + 1;
    return OK;
}

static enum status run_global(struct machine *m, struct error *err)
{
    const char *module, *name;
    uint64_t module_bytes, name_bytes;
    enum status status = take_line(m, &module, &module_bytes, err);

    if (!status) status = take_line(m, &name, &name_bytes, err);
    return status ? status : push_name(m, module, module_bytes, name, name_bytes, err);
}

static enum status run_stack_global(struct machine *m, struct error *err)
{
    uint32_t name, module;
    enum status status = pop(m, &name, err);

    if (!status) status = pop(m, &module, err);
    if (status) return status;
    const struct value *n = &m->values[name], *of = &m->values[module];
    if (n->kind != KIND_TEXT || of->kind != KIND_TEXT) return BROKEN(m, err, "a name that is no text");
    return push_name(m, of->of.text, of->is.bytes, n->of.text, n->is.bytes, err);
}

/* ---- storages and tensors ---- */

static const struct value *item_of(const struct machine *m, const struct value *tuple, uint64_t index)
{
    return tuple->kind == KIND_TUPLE && index < tuple->is.count ? &m->values[m->items[tuple->first + index]]
                                                                : &m->values[VALUE_PLAIN];
}

static bool is_text(const struct value *value, const char *text)
{
    return value->kind == KIND_TEXT && value->is.bytes == strlen(text) &&
           memcmp(value->of.text, text, value->is.bytes) == 0;
}

/* A persistent id stands for a storage: ("storage", its class, key, device, elements). */
static enum status run_storage(struct machine *m, struct error *err)
{
    uint32_t id;
    enum status status = pop(m, &id, err);

    if (status) return status;
    const struct value *tuple = &m->values[id];
    const struct value *class = item_of(m, tuple, 1), *elements = item_of(m, tuple, 4);
    if (tuple->kind != KIND_TUPLE || tuple->is.count != 5 || !is_text(item_of(m, tuple, 0), "storage") ||
        class->kind != KIND_NAME || class->is.meaning != PICKLE_TYPE ||
        item_of(m, tuple, 2)->kind != KIND_TEXT || elements->kind != KIND_INTEGER || elements->is.integer < 0)
        return BROKEN(m, err, "a persistent id that is no storage");
    struct source storage = {.key = m->items[tuple->first + 2], .type = class->of.type};
    if (checked_multiply(
            &storage.bytes, (uint64_t)elements->is.integer, storage.type ? storage.type->bytes : 1))
        return BROKEN(m, err, "a storage of %" PRId64 " elements", elements->is.integer);
    status = memory_grow(&m->storages, &m->storage_capacity, m->storage_count + 1, sizeof storage, err);
    if (status) return status;
    m->storages[m->storage_count++] = storage;
    return push_new(m, (struct value){.kind = KIND_STORAGE, .first = (uint32_t)(m->storage_count - 1)}, err);
}

static enum status read_sizes(struct machine *m, uint64_t out[TENSOR_RANK_LIMIT], uint32_t *rank,
    const struct value *tuple, const char *what, struct error *err)
{
    if (tuple->kind != KIND_TUPLE)
        return BROKEN(m, err, "a tensor whose %s is %s", what, kind_names[tuple->kind]);
    if (tuple->is.count > TENSOR_RANK_LIMIT)
        return BROKEN(m, err, "a tensor whose %s has %" PRIu64 " dimensions, at most %d", what,
            tuple->is.count, TENSOR_RANK_LIMIT);
    *rank = (uint32_t)tuple->is.count;
    for (uint32_t i = 0; i < *rank; i++) {
        const struct value *size = item_of(m, tuple, i);
        if (size->kind != KIND_INTEGER || size->is.integer < 0)
            return BROKEN(m, err, "a tensor whose %s is negative, or no number", what);
        out[i] = (uint64_t)size->is.integer;
    }
    return OK;
}

/* (storage, offset, shape, stride, ...); the type is the seventh of _rebuild_tensor_v3. */
static enum status rebuild(struct machine *m, const struct value *arguments, bool typed, struct error *err)
{
    const struct value *storage = item_of(m, arguments, 0), *offset = item_of(m, arguments, 1),
                       *type = item_of(m, arguments, 6);
    struct pickle_tensor tensor = {0};
    uint32_t strides;
    enum status status;

    if (storage->kind != KIND_STORAGE)
        return BROKEN(m, err, "a tensor made of %s", kind_names[storage->kind]);
    const struct source *of = &m->storages[storage->first];
    tensor.type = typed && type->kind == KIND_NAME && type->is.meaning == PICKLE_TYPE ? type->of.type
                  : typed                                                             ? NULL
                                                                                      : of->type;
    if (!tensor.type) return BROKEN(m, err, "a tensor without a type");
    if (offset->kind != KIND_INTEGER || offset->is.integer < 0)
        return BROKEN(m, err, "a tensor whose offset is negative, or no number");
    tensor.offset = (uint64_t)offset->is.integer;
    tensor.storage_bytes = of->bytes;
    tensor.key = m->values[of->key].of.text;
    tensor.key_bytes = m->values[of->key].is.bytes;
    status = read_sizes(m, tensor.shape, &tensor.rank, item_of(m, arguments, 2), "shape", err);
    if (!status) status = read_sizes(m, tensor.stride, &strides, item_of(m, arguments, 3), "stride", err);
    if (!status && strides != tensor.rank)
        status = BROKEN(
            m, err, "a tensor of %" PRIu32 " dimensions and %" PRIu32 " strides", tensor.rank, strides);
    if (!status)
        status = memory_grow(&m->tensors, &m->tensor_capacity, m->tensor_count + 1, sizeof tensor, err);
    if (status) return status;
    m->tensors[m->tensor_count++] = tensor;
    return push_new(m, (struct value){.kind = KIND_TENSOR, .first = (uint32_t)(m->tensor_count - 1)}, err);
}

/* ---- calls, described ---- */

static enum status push_argument(
    struct machine *m, const struct value *arguments, enum kind kind, struct error *err)
{
    if (item_of(m, arguments, 0)->kind != kind)
        return BROKEN(m, err, "a call whose argument is %s, not %s",
            kind_names[item_of(m, arguments, 0)->kind], kind_names[kind]);
    return push(m, m->items[arguments->first], err);
}

static enum status describe(struct machine *m, const struct value *function, const struct value *arguments,
    bool nested, struct error *err)
{
    if (function->kind != KIND_NAME || arguments->kind != KIND_TUPLE)
        return BROKEN(m, err, "calls %s with %s", kind_names[function->kind], kind_names[arguments->kind]);
    switch (function->is.meaning) {
    case PICKLE_DICT:
        if (arguments->is.count) return BROKEN(m, err, "an OrderedDict made of arguments is not read");
        return run_dict(m, err);
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
            return BROKEN(m, err, "a tensor of no class that is read");
        return describe(m, item_of(m, arguments, 0), item_of(m, arguments, 2), true, err);
    case PICKLE_PLAIN:
        return push(m, VALUE_PLAIN, err);
    case PICKLE_TYPE:
    case PICKLE_CLASS:
        break;
    }
    return BROKEN(m, err, "calls a type, which no checkpoint does");
}

static enum status run_reduce(struct machine *m, struct error *err)
{
    uint32_t arguments, function;
    enum status status = pop(m, &arguments, err);

    if (!status) status = pop(m, &function, err);
    if (status) return status;
    const struct value called = m->values[function],
                       with = m->values[arguments]; /* making a value may move the others */
    return describe(m, &called, &with, false, err);
}

/* torch gives a state dict an attribute, _metadata; nothing else gets a state. */
static enum status run_build(struct machine *m, struct error *err)
{
    uint32_t state;
    enum status status = pop(m, &state, err);

    if (status) return status;
    if (!m->depth || top(m)->kind != KIND_DICT || m->values[state].kind != KIND_DICT)
        return BROKEN(m, err, "unpickling would set the state of %s: refused",
            m->depth ? kind_names[top(m)->kind] : "nothing");
    return OK;
}

/* ---- the opcodes ---- */

/* By their codes; those without a function are refused. */
static const struct opcode {
    const char *name;
    enum status (*run)(struct machine *m, struct error *err);
} opcodes[256] = {
    [0x80] = {"PROTO", run_protocol},
    [0x95] = {"FRAME", run_frame},
    ['.'] = {"STOP", run_stop},
    ['('] = {"MARK", run_mark},
    ['N'] = {"NONE", run_plain},
    [0x88] = {"NEWTRUE", run_plain},
    [0x89] = {"NEWFALSE", run_plain},
    ['G'] = {"BINFLOAT", run_float},
    ['J'] = {"BININT", run_integer},
    ['K'] = {"BININT1", run_integer1},
    ['M'] = {"BININT2", run_integer2},
    [0x8a] = {"LONG1", run_long1},
    [0x8b] = {"LONG4", run_long4},
    ['X'] = {"BINUNICODE", run_text4},
    [0x8c] = {"SHORT_BINUNICODE", run_text1},
    [0x8d] = {"BINUNICODE8", run_text8},
    ['U'] = {"SHORT_BINSTRING", run_text1},
    ['T'] = {"BINSTRING", run_text4},
    ['C'] = {"SHORT_BINBYTES", run_text1},
    ['B'] = {"BINBYTES", run_text4},
    [0x8e] = {"BINBYTES8", run_text8},
    ['q'] = {"BINPUT", run_put1},
    ['r'] = {"LONG_BINPUT", run_put4},
    [0x94] = {"MEMOIZE", run_memoize},
    ['h'] = {"BINGET", run_get1},
    ['j'] = {"LONG_BINGET", run_get4},
    [')'] = {"EMPTY_TUPLE", run_empty_tuple},
    ['t'] = {"TUPLE", run_tuple},
    [0x85] = {"TUPLE1", run_short_tuple},
    [0x86] = {"TUPLE2", run_short_tuple},
    [0x87] = {"TUPLE3", run_short_tuple},
    ['}'] = {"EMPTY_DICT", run_dict},
    ['s'] = {"SETITEM", run_set_item},
    ['u'] = {"SETITEMS", run_set_items},
    [']'] = {"EMPTY_LIST", run_list},
    ['a'] = {"APPEND", run_append},
    ['e'] = {"APPENDS", run_appends},
    [0x8f] = {"EMPTY_SET", run_list},
    [0x90] = {"ADDITEMS", run_appends},
    ['c'] = {"GLOBAL", run_global},
    [0x93] = {"STACK_GLOBAL", run_stack_global},
    ['R'] = {"REDUCE", run_reduce},
    ['b'] = {"BUILD", run_build},
    ['Q'] = {"BINPERSID", run_storage},
    ['i'] = {"INST", NULL},
    ['o'] = {"OBJ", NULL},
    [0x81] = {"NEWOBJ", NULL},
    [0x92] = {"NEWOBJ_EX", NULL},
    [0x82] = {"EXT1", NULL},
    [0x83] = {"EXT2", NULL},
    [0x84] = {"EXT4", NULL},
    ['P'] = {"PERSID", NULL},
    ['0'] = {"POP", NULL},
    ['1'] = {"POP_MARK", NULL},
    ['2'] = {"DUP", NULL},
    [0x91] = {"FROZENSET", NULL},
    ['I'] = {"INT", NULL},
    ['L'] = {"LONG", NULL},
    ['F'] = {"FLOAT", NULL},
    ['S'] = {"STRING", NULL},
    ['V'] = {"UNICODE", NULL},
    ['d'] = {"DICT", NULL},
    ['l'] = {"LIST", NULL},
    ['g'] = {"GET", NULL},
    ['p'] = {"PUT", NULL},
    [0x96] = {"BYTEARRAY8", NULL},
    [0x97] = {"NEXT_BUFFER", NULL},
    [0x98] = {"READONLY_BUFFER", NULL},
};

static enum status run(struct machine *m, struct error *err)
{
    static const enum kind fixed[VALUES_FIXED] = {KIND_MARK, KIND_PLAIN, KIND_LIST, KIND_TUPLE};
    enum status status = OK;

    for (int i = 0; i < VALUES_FIXED && !status; i++)
        status = make(m, (struct value){.kind = fixed[i]}, err);
    while (!status && !m->stopped) {
        m->opcode = m->at;
        const uint8_t *code = take(m, 1, err);
        if (!code) return ERR_FORMAT;
        if (m->opcode == 0 && *code != 0x80) return BROKEN(m, err, "is no pickle of protocol 2 or later");
        const struct opcode *opcode = &opcodes[*code];
        if (opcode->run)
            status = opcode->run(m, err);
        else if (opcode->name)
            status = BROKEN(m, err, "opcode %s, which no checkpoint of tensors has: refused", opcode->name);
        else
            status = BROKEN(m, err, "0x%02x is no opcode", (unsigned)*code);
    }
    return status;
}

/* ---- the state dict ---- */

static bool has_tensors(const struct machine *m, const struct value *dict)
{
    for (uint32_t i = dict->first; i != NO_PAIR; i = m->pairs[i].next) {
        if (m->values[m->pairs[i].value].kind == KIND_TENSOR) return true;
    }
    return false;
}

/* The dict at the top, or the one that a training script wrapped. */
static enum status find_state(const struct value **out, const struct machine *m, struct error *err)
{
    static const char *const wrappers[] = {"model", "state_dict", "module", "model_state_dict"};
    const struct value *whole = top(m);
    const char *found = NULL;

    if (whole->kind != KIND_DICT)
        return fail(err, ERR_UNSUPPORTED, "is %s, not a dict of tensors", kind_names[whole->kind]);
    *out = whole;
    for (uint32_t i = whole->first; i != NO_PAIR; i = m->pairs[i].next) {
        const struct value *inner = &m->values[m->pairs[i].value];
        for (size_t w = 0; w < sizeof wrappers / sizeof *wrappers; w++) {
            if (!is_text(&m->values[m->pairs[i].key], wrappers[w]) || inner->kind != KIND_DICT ||
                !has_tensors(m, inner))
                continue;
            if (found)
                return fail(err, ERR_UNSUPPORTED, "has tensors under %s and under %s; save one of them alone",
                    found, wrappers[w]);
            found = wrappers[w];
            *out = inner;
        }
    }
    if (has_tensors(m, *out)) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "has no tensors at the top or under model, state_dict, module or model_state_dict");
}

static enum status collect(struct pickle *out, const struct machine *m, struct error *err)
{
    const struct value *state = NULL;
    enum status status = find_state(&state, m, err);
    char shown[96];

    for (uint32_t i = status ? NO_PAIR : state->first; i != NO_PAIR; i = m->pairs[i].next) {
        const struct value *key = &m->values[m->pairs[i].key], *value = &m->values[m->pairs[i].value];
        if (key->kind != KIND_TEXT)
            return fail(
                err, ERR_UNSUPPORTED, "a key of the state dict is %s, not a text", kind_names[key->kind]);
        if (value->kind != KIND_TENSOR)
            return fail(err, ERR_UNSUPPORTED, "entry %s of the state dict is %s; save the tensors alone",
                error_quote(shown, sizeof shown, key->of.text, key->is.bytes),
                value->kind == KIND_PLAIN ? "no tensor" : kind_names[value->kind]);
        status = memory_grow(&out->tensors, &out->capacity, out->count + 1, sizeof *out->tensors, err);
        if (status) return status;
        out->tensors[out->count] = m->tensors[value->first];
        out->tensors[out->count].name = key->of.text;
        out->tensors[out->count++].name_bytes = key->is.bytes;
    }
    return status;
}

enum status pickle_read(struct pickle *out, const char *bytes, uint64_t count, struct error *err)
{
    struct machine m = {.bytes = bytes, .count = count};
    enum status status = OK;

    if (count > PICKLE_BYTES_LIMIT)
        return fail(err, ERR_MEMORY, "%" PRIu64 " bytes are more than %u", count, PICKLE_BYTES_LIMIT);
    status = run(&m, err);
    if (!status) status = collect(out, &m, err);
    memory_free(m.values);
    memory_free(m.pairs);
    memory_free(m.storages);
    memory_free(m.tensors);
    memory_free(m.items);
    memory_free(m.stack);
    memory_free(m.memo);
    return status;
}

void pickle_free(struct pickle *pickle)
{
    memory_free(pickle->tensors);
    *pickle = (struct pickle){0};
}
