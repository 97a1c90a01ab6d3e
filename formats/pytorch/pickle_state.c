/* See pickle_state.h. */
#include "formats/pytorch/pickle_state.h"

#include <string.h>

#include "base/memory.h"

static bool has_tensors(const struct pickle_machine *m, const struct pickle_value *dict)
{
    for (uint32_t i = dict->first; i != NO_PAIR; i = m->pairs[i].next) {
        if (m->values[m->pairs[i].value].kind == KIND_TENSOR) return true;
    }
    return false;
}

/* The dict at the top, or the one that a training script wrapped. */
static enum status find_state(
    const struct pickle_value **out, const struct pickle_machine *m, struct error *err)
{
    static const char *const wrappers[] = {"model", "state_dict", "module", "model_state_dict"};
    const struct pickle_value *whole = pickle_machine_top(m);
    const char *found = NULL;

    if (whole->kind != KIND_DICT)
        return fail(err, ERR_UNSUPPORTED, "is %s, not a dict of tensors", pickle_machine_kinds[whole->kind]);
    *out = whole;
    for (uint32_t i = whole->first; i != NO_PAIR; i = m->pairs[i].next) {
        const struct pickle_value *inner = &m->values[m->pairs[i].value];
        for (size_t w = 0; w < sizeof wrappers / sizeof *wrappers; w++) {
            if (!pickle_machine_is_text(&m->values[m->pairs[i].key], wrappers[w]) ||
                inner->kind != KIND_DICT || !has_tensors(m, inner))
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

enum status pickle_state_collect(struct pickle *out, const struct pickle_machine *m, struct error *err)
{
    const struct pickle_value *state = NULL;
    enum status status = find_state(&state, m, err);
    char shown[96];

    for (uint32_t i = status ? NO_PAIR : state->first; i != NO_PAIR; i = m->pairs[i].next) {
        const struct pickle_value *key = &m->values[m->pairs[i].key], *value = &m->values[m->pairs[i].value];
        if (key->kind != KIND_TEXT)
            return fail(err, ERR_UNSUPPORTED, "a key of the state dict is %s, not a text",
                pickle_machine_kinds[key->kind]);
        if (value->kind != KIND_TENSOR)
            return fail(err, ERR_UNSUPPORTED, "entry %s of the state dict is %s; save the tensors alone",
                error_quote(shown, sizeof shown, key->of.text, key->is.bytes),
                value->kind == KIND_PLAIN ? "no tensor" : pickle_machine_kinds[value->kind]);
        status = memory_grow(&out->tensors, &out->capacity, out->count + 1, sizeof *out->tensors, err);
        if (status) return status;
        out->tensors[out->count] = m->tensors[value->first];
        out->tensors[out->count].name = key->of.text;
        out->tensors[out->count++].name_bytes = key->is.bytes;
    }
    return status;
}
