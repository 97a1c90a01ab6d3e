/* A llama2.c model as the checkpoint it could have been made of: Hugging Face's names, the order of q's and k's rows, config.json and
 * tokenizer.json.
 *
 * The header says everything but what run.c has built in: rotation by neighbours (here: rows with the halves of every head
 * interleaved), base 10000, RMS norm with 1e-5, BOS 1 and EOS 2. Source: github.com/karpathy/llama2.c, run.c and export.py. */
#ifndef NIBBLE_MODEL_LLAMA2C_CHECKPOINT_H
#define NIBBLE_MODEL_LLAMA2C_CHECKPOINT_H

#include "formats/container.h"

/* Change an opened llama2.c container, before it is mapped: tensors get the names of model/layers.h, config.json is attached, and
 * tokenizer.json where a tokenizer.bin lies beside the model. ERR_FORMAT: an impossible tokenizer.bin. Errors name the file. */
enum status llama2c_checkpoint(struct container *container, struct error *err);

#endif
