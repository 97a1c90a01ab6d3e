/* See pickle.h. Values that nobody looks into (None, numbers with a fraction, lists, sets) are all the same value. Nothing
 * recurses, so nesting costs no more than any other bytes. */
#include "formats/pytorch/pickle.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/pytorch/pickle_calls.h"
#include "formats/pytorch/pickle_state.h"

/* ---- plain values ---- */

static enum status push_integer(struct pickle_machine *m, int64_t integer, struct error *err)
{
    return pickle_machine_push_new(
        m, (struct pickle_value){.kind = KIND_INTEGER, .is.integer = integer}, err);
}

static enum status run_plain(struct pickle_machine *m, struct error *err)
{
    return pickle_machine_push(m, VALUE_PLAIN, err);
}

static enum status run_float(struct pickle_machine *m, struct error *err)
{
    return pickle_machine_take(m, 8, err) ? pickle_machine_push(m, VALUE_PLAIN, err) : ERR_FORMAT;
}

static enum status run_list(struct pickle_machine *m, struct error *err)
{
    return pickle_machine_push(m, VALUE_LIST, err);
}

static enum status run_integer(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 4, err);

    return bytes ? push_integer(m, (int32_t)bytes_get_u32(bytes), err) : ERR_FORMAT;
}

static enum status run_integer1(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 1, err);

    return bytes ? push_integer(m, *bytes, err) : ERR_FORMAT;
}

static enum status run_integer2(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 2, err);

    return bytes ? push_integer(m, bytes_get_u16(bytes), err) : ERR_FORMAT;
}

/* Two's complement of any length; what has more than 64 bits is no size of anything here. */
static enum status run_long(struct pickle_machine *m, unsigned length_bytes, struct error *err)
{
    const uint8_t *length = pickle_machine_take(m, length_bytes, err);
    const uint64_t count = length ? bytes_get(length, length_bytes) : 0;
    const uint8_t *bytes = length ? pickle_machine_take(m, count, err) : NULL;

    if (!bytes) return ERR_FORMAT;
    if (count > 8) return pickle_machine_push(m, VALUE_PLAIN, err);
    uint64_t value = bytes_get(bytes, (unsigned)count);
    if (count && count < 8 && bytes[count - 1] & 0x80) value |= UINT64_MAX << (8 * count);
    return push_integer(m, (int64_t)value, err);
}

static enum status run_long1(struct pickle_machine *m, struct error *err)
{
    return run_long(m, 1, err);
}

static enum status run_long4(struct pickle_machine *m, struct error *err)
{
    return run_long(m, 4, err);
}

static enum status run_text(struct pickle_machine *m, unsigned length_bytes, struct error *err)
{
    const uint8_t *length = pickle_machine_take(m, length_bytes, err);
    const uint64_t count = length ? bytes_get(length, length_bytes) : 0;
    const uint8_t *bytes = length ? pickle_machine_take(m, count, err) : NULL;

    if (!bytes) return ERR_FORMAT;
    return pickle_machine_push_new(
        m, (struct pickle_value){.kind = KIND_TEXT, .is.bytes = count, .of.text = (const char *)bytes}, err);
}

static enum status run_text1(struct pickle_machine *m, struct error *err)
{
    return run_text(m, 1, err);
}

static enum status run_text4(struct pickle_machine *m, struct error *err)
{
    return run_text(m, 4, err);
}

static enum status run_text8(struct pickle_machine *m, struct error *err)
{
    return run_text(m, 8, err);
}

/* ---- stack, memo, structure ---- */

static enum status run_protocol(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 1, err);

    if (!bytes) return ERR_FORMAT;
    if (m->opcode || *bytes < 2 || *bytes > 5)
        return pickle_machine_fail(m,
            fail(err, ERR_UNSUPPORTED, "pickle protocol %u; 2 to 5 are read, at the beginning",
                (unsigned)*bytes),
            err);
    return OK;
}

static enum status run_frame(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 8, err);

    if (!bytes) return ERR_FORMAT;
    if (bytes_get_u64(bytes) > m->count - m->at)
        return PICKLE_BROKEN(m, err, "a frame of %" PRIu64 " bytes, %" PRIu64 " are left",
            bytes_get_u64(bytes), m->count - m->at);
    return OK;
}

static enum status run_stop(struct pickle_machine *m, struct error *err)
{
    m->stopped = true;
    if (m->at != m->count) return PICKLE_BROKEN(m, err, "%" PRIu64 " bytes follow the end", m->count - m->at);
    if (m->depth != 1) return PICKLE_BROKEN(m, err, "ends with %" PRIu64 " values, must be one", m->depth);
    return OK;
}

static enum status run_mark(struct pickle_machine *m, struct error *err)
{
    return pickle_machine_push(m, VALUE_MARK, err);
}

/* Picklers number what they remember from 0 on, so the memo never has holes. */
static enum status remember(struct pickle_machine *m, uint64_t slot, struct error *err)
{
    enum status status;

    if (!m->depth || m->stack[m->depth - 1] == VALUE_MARK)
        return PICKLE_BROKEN(m, err, "remembers a value of an empty stack");
    if (slot > m->memo_count)
        return PICKLE_BROKEN(
            m, err, "remembers a value as number %" PRIu64 ", the next is %" PRIu64, slot, m->memo_count);
    status = memory_grow(&m->memo, &m->memo_capacity, slot + 1, sizeof *m->memo, err);
    if (status) return status;
    m->memo[slot] = m->stack[m->depth - 1];
    if (slot == m->memo_count) m->memo_count++;
    return OK;
}

static enum status recall(struct pickle_machine *m, uint64_t slot, struct error *err)
{
    if (slot >= m->memo_count)
        return PICKLE_BROKEN(
            m, err, "recalls value %" PRIu64 ", %" PRIu64 " are remembered", slot, m->memo_count);
    return pickle_machine_push(m, m->memo[slot], err);
}

static enum status run_memoize(struct pickle_machine *m, struct error *err)
{
    return remember(m, m->memo_count, err);
}

static enum status run_put1(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 1, err);

    return bytes ? remember(m, *bytes, err) : ERR_FORMAT;
}

static enum status run_put4(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 4, err);

    return bytes ? remember(m, bytes_get_u32(bytes), err) : ERR_FORMAT;
}

static enum status run_get1(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 1, err);

    return bytes ? recall(m, *bytes, err) : ERR_FORMAT;
}

static enum status run_get4(struct pickle_machine *m, struct error *err)
{
    const uint8_t *bytes = pickle_machine_take(m, 4, err);

    return bytes ? recall(m, bytes_get_u32(bytes), err) : ERR_FORMAT;
}

/* ---- tuples, dicts, lists ---- */

static enum status run_empty_tuple(struct pickle_machine *m, struct error *err)
{
    return pickle_machine_push(m, VALUE_EMPTY_TUPLE, err);
}

/* A tuple of values that were on the stack from `first` on. */
static enum status push_tuple(struct pickle_machine *m, uint64_t first, uint64_t count, struct error *err)
{
    enum status status;

    if (m->item_count + count > PICKLE_VALUE_LIMIT)
        return pickle_machine_fail(
            m, fail(err, ERR_MEMORY, "tuples of more than %u values", PICKLE_VALUE_LIMIT), err);
    status = memory_grow(&m->items, &m->item_capacity, m->item_count + count, sizeof *m->items, err);
    if (status) return status;
    if (count) memcpy(m->items + m->item_count, m->stack + first, count * sizeof *m->items);
    m->item_count += count;
    return pickle_machine_push_new(m,
        (struct pickle_value){
            .kind = KIND_TUPLE, .first = (uint32_t)(m->item_count - count), .is.count = count},
        err);
}

static enum status run_tuple(struct pickle_machine *m, struct error *err)
{
    uint64_t first, count;
    enum status status = pickle_machine_pop_mark(m, &first, &count, err);

    return status ? status : push_tuple(m, first, count, err);
}

static enum status run_short_tuple(struct pickle_machine *m, struct error *err)
{
    const uint64_t count = (uint64_t)(uint8_t)m->bytes[m->opcode] - 0x84; /* TUPLE1 is 0x85 */
    uint32_t value;

    for (uint64_t i = 0; i < count; i++) {
        enum status status = pickle_machine_pop(m, &value, err);
        if (status) return status;
    }
    return push_tuple(m, m->depth, count, err);
}

/* Append pairs that were on the stack from `first` on to the dict at the top. */
static enum status add_pairs(struct pickle_machine *m, uint64_t first, uint64_t count, struct error *err)
{
    if (count % 2) return PICKLE_BROKEN(m, err, "%" PRIu64 " values are no pairs", count);
    if (!m->depth || pickle_machine_top(m)->kind != KIND_DICT)
        return PICKLE_BROKEN(m, err, "sets items of something that is no dict");
    struct pickle_value *dict = &m->values[m->stack[m->depth - 1]];
    for (uint64_t i = 0; i < count; i += 2) {
        const uint32_t number = (uint32_t)m->pair_count;
        enum status status =
            memory_grow(&m->pairs, &m->pair_capacity, m->pair_count + 1, sizeof *m->pairs, err);
        if (m->pair_count == PICKLE_VALUE_LIMIT)
            return pickle_machine_fail(
                m, fail(err, ERR_MEMORY, "dicts of more than %u items", PICKLE_VALUE_LIMIT), err);
        if (status) return status;
        m->pairs[m->pair_count++] =
            (struct pickle_pair){m->stack[first + i], m->stack[first + i + 1], NO_PAIR};
        if (dict->first == NO_PAIR)
            dict->first = number;
        else
            m->pairs[dict->last].next = number;
        dict->last = number;
    }
    return OK;
}

static enum status run_set_items(struct pickle_machine *m, struct error *err)
{
    uint64_t first, count;
    enum status status = pickle_machine_pop_mark(m, &first, &count, err);

    return status ? status : add_pairs(m, first, count, err);
}

static enum status run_set_item(struct pickle_machine *m, struct error *err)
{
    uint32_t value;
    enum status status = pickle_machine_pop(m, &value, err);

    if (!status) status = pickle_machine_pop(m, &value, err);
    return status ? status : add_pairs(m, m->depth, 2, err);
}

static enum status check_list(struct pickle_machine *m, struct error *err)
{
    const struct pickle_value *list = pickle_machine_top(m);

    if (list && (list->kind == KIND_LIST || list->kind == KIND_PLAIN)) return OK;
    return PICKLE_BROKEN(m, err, "appends to something that is no list");
}

static enum status run_append(struct pickle_machine *m, struct error *err)
{
    uint32_t value;
    enum status status = pickle_machine_pop(m, &value, err);

    return status ? status : check_list(m, err);
}

static enum status run_appends(struct pickle_machine *m, struct error *err)
{
    uint64_t first, count;
    enum status status = pickle_machine_pop_mark(m, &first, &count, err);

    return status ? status : check_list(m, err);
}

/* ---- the opcodes ---- */

/* By their codes; those without a function are refused. */
static const struct opcode {
    const char *name;
    enum status (*run)(struct pickle_machine *m, struct error *err);
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
    ['}'] = {"EMPTY_DICT", pickle_machine_push_dict},
    ['s'] = {"SETITEM", run_set_item},
    ['u'] = {"SETITEMS", run_set_items},
    [']'] = {"EMPTY_LIST", run_list},
    ['a'] = {"APPEND", run_append},
    ['e'] = {"APPENDS", run_appends},
    [0x8f] = {"EMPTY_SET", run_list},
    [0x90] = {"ADDITEMS", run_appends},
    ['c'] = {"GLOBAL", pickle_calls_global},
    [0x93] = {"STACK_GLOBAL", pickle_calls_stack_global},
    ['R'] = {"REDUCE", pickle_calls_reduce},
    ['b'] = {"BUILD", pickle_calls_build},
    ['Q'] = {"BINPERSID", pickle_calls_storage},
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

static enum status run(struct pickle_machine *m, struct error *err)
{
    static const enum pickle_kind fixed[VALUES_FIXED] = {KIND_MARK, KIND_PLAIN, KIND_LIST, KIND_TUPLE};
    enum status status = OK;

    for (int i = 0; i < VALUES_FIXED && !status; i++)
        status = pickle_machine_make(m, (struct pickle_value){.kind = fixed[i]}, err);
    while (!status && !m->stopped) {
        m->opcode = m->at;
        const uint8_t *code = pickle_machine_take(m, 1, err);
        if (!code) return ERR_FORMAT;
        if (m->opcode == 0 && *code != 0x80)
            return PICKLE_BROKEN(m, err, "is no pickle of protocol 2 or later");
        const struct opcode *opcode = &opcodes[*code];
        if (opcode->run)
            status = opcode->run(m, err);
        else if (opcode->name)
            status =
                PICKLE_BROKEN(m, err, "opcode %s, which no checkpoint of tensors has: refused", opcode->name);
        else
            status = PICKLE_BROKEN(m, err, "0x%02x is no opcode", (unsigned)*code);
    }
    return status;
}

enum status pickle_read(struct pickle *out, const char *bytes, uint64_t count, struct error *err)
{
    struct pickle_machine m = {.bytes = bytes, .count = count};
    enum status status = OK;

    if (count > PICKLE_BYTES_LIMIT)
        return fail(err, ERR_MEMORY, "%" PRIu64 " bytes are more than %u", count, PICKLE_BYTES_LIMIT);
    status = run(&m, err);
    if (!status) status = pickle_state_collect(out, &m, err);
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
