/* See pickle_machine.h. */
#include "formats/pytorch/pickle_machine.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

const char *const pickle_machine_kinds[] = {"a mark", "no tensor", "a list", "a number", "a text", "a tuple",
    "a dict", "a name", "a storage", "a tensor"};

enum status pickle_machine_fail(const struct pickle_machine *m, enum status status, struct error *err)
{
    return fail_within(err, status, "byte %" PRIu64, m->opcode);
}

const uint8_t *pickle_machine_take(struct pickle_machine *m, uint64_t count, struct error *err)
{
    const uint8_t *bytes = (const uint8_t *)m->bytes + m->at;

    if (count > m->count - m->at) {
        pickle_machine_fail(m,
            fail(err, ERR_FORMAT, "needs %" PRIu64 " more bytes, %" PRIu64 " are left: cut short, or damaged",
                count, m->count - m->at),
            err);
        return NULL;
    }
    m->at += count;
    return bytes;
}

enum status pickle_machine_push(struct pickle_machine *m, uint32_t value, struct error *err)
{
    enum status status;

    if (m->depth == PICKLE_STACK_LIMIT)
        return pickle_machine_fail(
            m, fail(err, ERR_MEMORY, "more than %u values on the stack", PICKLE_STACK_LIMIT), err);
    status = memory_grow(&m->stack, &m->stack_capacity, m->depth + 1, sizeof *m->stack, err);
    if (!status) m->stack[m->depth++] = value;
    return status;
}

enum status pickle_machine_make(struct pickle_machine *m, struct pickle_value value, struct error *err)
{
    enum status status;

    if (m->value_count == PICKLE_VALUE_LIMIT)
        return pickle_machine_fail(m, fail(err, ERR_MEMORY, "more than %u values", PICKLE_VALUE_LIMIT), err);
    status = memory_grow(&m->values, &m->value_capacity, m->value_count + 1, sizeof value, err);
    if (!status) m->values[m->value_count++] = value;
    return status;
}

enum status pickle_machine_push_new(struct pickle_machine *m, struct pickle_value value, struct error *err)
{
    enum status status = pickle_machine_make(m, value, err);

    return status ? status : pickle_machine_push(m, (uint32_t)(m->value_count - 1), err);
}

enum status pickle_machine_pop(struct pickle_machine *m, uint32_t *out, struct error *err)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == VALUE_MARK)
        return PICKLE_BROKEN(m, err, "takes a value from an empty stack");
    *out = m->stack[--m->depth];
    return OK;
}

enum status pickle_machine_pop_mark(
    struct pickle_machine *m, uint64_t *first, uint64_t *count, struct error *err)
{
    uint64_t at = m->depth;

    while (at && m->stack[at - 1] != VALUE_MARK)
        at--;
    if (!at) return PICKLE_BROKEN(m, err, "takes values down to a mark that is not there");
    *first = at;
    *count = m->depth - at;
    m->depth = at - 1;
    return OK;
}

const struct pickle_value *pickle_machine_top(const struct pickle_machine *m)
{
    return m->depth ? &m->values[m->stack[m->depth - 1]] : NULL;
}

enum status pickle_machine_push_dict(struct pickle_machine *m, struct error *err)
{
    return pickle_machine_push_new(
        m, (struct pickle_value){.kind = KIND_DICT, .first = NO_PAIR, .last = NO_PAIR}, err);
}

bool pickle_machine_is_text(const struct pickle_value *value, const char *text)
{
    return value->kind == KIND_TEXT && value->is.bytes == strlen(text) &&
           memcmp(value->of.text, text, value->is.bytes) == 0;
}
