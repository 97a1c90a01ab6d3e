/* Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) as PEFT writes them: a folder with adapter_config.json and
 * adapter_model.safetensors. Merging adds scale * B A to a weight matrix, rows at a time. */
#ifndef NIBBLE_MODEL_LORA_H
#define NIBBLE_MODEL_LORA_H

#include "model/checkpoint.h"

struct lora;
struct lora_pair;

/* Open an adapter and hold every tensor of it against a model: a pair of factors belongs to a matrix of that model (linear or
 * embedding), a whole tensor (modules_to_save, biases) replaces one of the same shape. A GGUF or .nbl model goes by its Hugging Face names.
 *   spec  "DIR" or "DIR:SCALE": the adapter's own scale (lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora) is multiplied by SCALE
 * ERR_USAGE: SCALE is no finite number. ERR_UNSUPPORTED: another kind of adapter (DoRA, fan_in_fan_out ...), a matrix that is quantized.
 * ERR_FORMAT: a tensor that the model lacks, or of another shape. Names the file and the tensor. Owner of *out: lora_close. */
enum status lora_open(
    struct lora **out, const char *spec, const struct checkpoint *checkpoint, struct error *err);
void lora_close(struct lora *lora);

/* "DIR", and the scale that was given (1 if none). */
const char *lora_path(const struct lora *lora);
double lora_scale(const struct lora *lora);

/* The adapter's own file. */
struct container *lora_container(const struct lora *lora);

/* What the adapter has for a tensor of the model; NULL: nothing. */
const struct lora_pair *lora_find(const struct lora *lora, const struct tensor *target);
const struct tensor *lora_replacement(const struct lora *lora, const struct tensor *target);

/* rows [row_count][cols] += scale * rows row_begin .. of B A; the same bits however the rows are cut. */
void lora_add(const struct lora_pair *pair, float *rows, uint64_t row_begin, uint64_t row_count);

#endif
