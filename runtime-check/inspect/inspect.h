/* What a model file holds, for people (tables) and for programs (JSON). */
#ifndef NIBBLE_RUNTIME_CHECK_INSPECT_H
#define NIBBLE_RUNTIME_CHECK_INSPECT_H

#include <stdbool.h>

#include "base/json.h"
#include "formats/container.h"

/* Sizes of one container. A weight is an element of a tensor; norms and biases count. */
struct inspect_totals {
    uint64_t tensors, weights, bytes;
    uint64_t quantized_tensors, quantized_weights, quantized_bytes;
};

void inspect_total(struct inspect_totals *out, struct container *container);

/* Bits per weight: 8 * bytes / weights; 0 for no weights. */
double inspect_bits_per(uint64_t bytes, uint64_t weights);

/* How many weights a tensor stores: all, or as many as its masks say, which are read. ERR_IO. */
enum status inspect_stored(
    uint64_t *out, struct container *container, const struct tensor *tensor, struct error *err);

/* "4 bits, group 32", "8 bits, whole row, zero-points", "BF16", "4 bits, group 64, 2:4", "F16, sparse". Returns out (at least 48 bytes). */
char *inspect_scheme(char *out, const struct tensor *tensor);

/* "[2048, 256]"; returns out (at least 200 bytes). */
char *inspect_shape(char *out, const struct tensor *tensor);

/* Print the summary to standard output; with all_tensors a row per tensor, else one per storage kind. */
enum status inspect_print(struct container *container, bool all_tensors, struct error *err);

/* The same as one JSON object, always with every tensor. */
enum status inspect_json(struct container *container, struct json_writer *writer, struct error *err);

#endif
