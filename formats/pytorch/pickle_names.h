/* The names a pickle may mention: the allow-list of formats/pytorch/pickle.h. */
#ifndef NIBBLE_FORMATS_PICKLE_NAMES_H
#define NIBBLE_FORMATS_PICKLE_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* What a call of the name means. */
enum pickle_meaning {
    PICKLE_DICT,          /* collections.OrderedDict(): an empty dict */
    PICKLE_SIZE,          /* torch.Size(tuple): the tuple */
    PICKLE_REBUILD,       /* a tensor of storage, offset, shape, stride, ... */
    PICKLE_REBUILD_TYPED, /* the same with its type as seventh argument, on an untyped storage */
    PICKLE_PARAMETER,     /* its first argument, a tensor */
    PICKLE_SUBCLASS,      /* (function, class, arguments, attributes): function called with the arguments */
    PICKLE_PLAIN,         /* something that is no tensor: torch.device(), set() */
    PICKLE_TYPE,          /* an element type or a storage class: never called */
    PICKLE_CLASS          /* a tensor's class: never called */
};

/* An element type, as torch knows it. */
struct pickle_type {
    const char *storage; /* "FloatStorage" */
    const char *name;    /* "float32" */
    bool known;          /* tensor/dtype.h has it */
    enum dtype dtype;    /* if known */
    uint32_t bytes;      /* of an element */
};

struct pickle_name {
    const char *module, *name;
    enum pickle_meaning meaning;
    const struct pickle_type *type; /* PICKLE_TYPE; NULL: an untyped storage (bytes) */
};

/* Find module.name, neither terminated; false if the list has it not. */
bool pickle_names_find(struct pickle_name *out, const char *module, uint64_t module_bytes, const char *name,
    uint64_t name_bytes);

#endif
