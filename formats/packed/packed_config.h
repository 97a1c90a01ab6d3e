/* What config.json says of a checkpoint's quantization: quantization_config (GPTQ, AWQ, compressed-tensors), quantization (MLX), or
 * a quantize_config.json beside it (GPTQ of before 2024). Read, taken out, and put in. */
#ifndef NIBBLE_FORMATS_PACKED_CONFIG_H
#define NIBBLE_FORMATS_PACKED_CONFIG_H

#include "base/json.h"
#include "formats/packed/packed.h"

#define PACKED_SCHEME_LIMIT 64

/* Bits and group of some of the matrices. */
struct packed_scheme {
    uint32_t bits;
    uint64_t group;  /* columns; 0: the whole row */
    bool asymmetric; /* compressed-tensors: zero-points are stored */
};

struct packed_config {
    bool known; /* it is quantized, and in a way that is read here */
    enum packed_kind kind;
    bool zeros_known; /* gptq: the configuration says whether it is v1 (PACKED_GPTQ) or v2 */
    bool symmetric;   /* gptq: sym is true */
    struct packed_scheme
        schemes[PACKED_SCHEME_LIMIT]; /* all that differ: the main one, those of single layers */
    uint32_t scheme_count;
};

/* Read the quantization from config.json (and `beside`, quantize_config.json, where that exists; NULL: it does not). Not known: there
 * is none, or one of a method that is not read here, which is left where it is for config_parse to refuse by name. ERR_FORMAT: it is
 * of a known method and damaged; ERR_UNSUPPORTED: of a known method, in a variant that is not read (quantized activations,
 * AWQ for GEMV, MLX's mxfp4 ...). */
enum status packed_config_read(struct packed_config *out, const char *what, const struct json_value *config,
    const struct json_value *beside, struct error *err);

/* config.json without what says that it is quantized. Owner of *out: the caller, memory_free. */
enum status packed_config_plain(
    char **out, uint64_t *bytes, const struct json_value *config, struct error *err);

/* One matrix, for packed_config_write. */
struct packed_module {
    const char *name; /* without ".weight"; its length in name_bytes */
    uint64_t name_bytes;
    bool packed; /* else it is kept */
    struct packed_scheme scheme;
};

/* config.json with what the layout's readers look for put in: modules [count] are all matrices, in the order of the file. Where
 * several schemes occur, the most frequent is the main one (the first of equals). For gptq also quantize_config.json in *beside, else
 * NULL. Owner of *out and *beside: the caller, memory_free. */
enum status packed_config_write(char **out, uint64_t *bytes, char **beside, uint64_t *beside_bytes,
    const struct json_value *config, enum packed_kind kind, const struct packed_module *modules,
    uint64_t count, struct error *err);

#endif
