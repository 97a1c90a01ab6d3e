/* The machine that follows a pickle: values by number, a stack and a memo of numbers. Only formats/pickle*.c include this. */
#ifndef NIBBLE_FORMATS_PICKLE_MACHINE_H
#define NIBBLE_FORMATS_PICKLE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/pytorch/pickle.h"

enum pickle_kind {
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

/* "a list", for messages; by kind. */
extern const char *const pickle_machine_kinds[];

/* Values that exist once. */
enum { VALUE_MARK, VALUE_PLAIN, VALUE_LIST, VALUE_EMPTY_TUPLE, VALUES_FIXED, NO_PAIR = UINT32_MAX };

struct pickle_value {
    enum pickle_kind kind;
    uint32_t
        first; /* dict: its first pair, or NO_PAIR; tuple: the first of its items; storage, tensor: its number */
    uint32_t last; /* dict: its last pair */
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

/* An item of a dict: two values, and the next pair of the same dict or NO_PAIR. */
struct pickle_pair {
    uint32_t key, value, next;
};

/* type NULL: an untyped one. */
struct pickle_storage {
    uint32_t key; /* a text */
    const struct pickle_type *type;
    uint64_t bytes;
};

/* Zero-initialise, then set bytes and count; pickle_read releases it. */
struct pickle_machine {
    const char *bytes;
    uint64_t count, at;
    uint64_t opcode; /* where the current one begins */
    bool stopped;
    struct pickle_value *values;
    struct pickle_pair *pairs;
    struct pickle_storage *storages;
    struct pickle_tensor *tensors; /* without names */
    uint32_t *items, *stack, *memo;
    uint64_t value_count, value_capacity, pair_count, pair_capacity, storage_count, storage_capacity;
    uint64_t tensor_count, tensor_capacity, item_count, item_capacity, depth, stack_capacity, memo_count,
        memo_capacity;
};

/* An error at the current opcode. */
#define PICKLE_BROKEN(m, err, ...)                                                                           \
    (fail((err), ERR_FORMAT, __VA_ARGS__), pickle_machine_fail((m), ERR_FORMAT, (err)), ERR_FORMAT)

/* Put the place of the current opcode before an error; returns status. */
enum status pickle_machine_fail(const struct pickle_machine *m, enum status status, struct error *err);

/* The next bytes of the pickle, or NULL with ERR_FORMAT. */
const uint8_t *pickle_machine_take(struct pickle_machine *m, uint64_t count, struct error *err);

/* Make a value; its number is value_count - 1. ERR_MEMORY: too many. */
enum status pickle_machine_make(struct pickle_machine *m, struct pickle_value value, struct error *err);

/* Push a value by its number, a new one, an empty dict. ERR_MEMORY: too many. */
enum status pickle_machine_push(struct pickle_machine *m, uint32_t value, struct error *err);
enum status pickle_machine_push_new(struct pickle_machine *m, struct pickle_value value, struct error *err);
enum status pickle_machine_push_dict(struct pickle_machine *m, struct error *err);

/* Take the value at the top off the stack; a mark is none. */
enum status pickle_machine_pop(struct pickle_machine *m, uint32_t *out, struct error *err);

/* Take everything above the last mark off the stack, and the mark: values *first .. *first + *count, which stand there until
 * the next push. */
enum status pickle_machine_pop_mark(
    struct pickle_machine *m, uint64_t *first, uint64_t *count, struct error *err);

/* The value at the top, which may be a mark; NULL if there is none. */
const struct pickle_value *pickle_machine_top(const struct pickle_machine *m);

bool pickle_machine_is_text(const struct pickle_value *value, const char *text);

#endif
