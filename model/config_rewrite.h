/* config.json of a model that has become another: fewer layers, heads, channels or tokens, more biases. */
#ifndef NIBBLE_MODEL_CONFIG_REWRITE_H
#define NIBBLE_MODEL_CONFIG_REWRITE_H

#include "formats/container.h"
#include "model/config.h"

/* New ids of tokens; [count] by the old ones, CONFIG_NO_ID where a token is gone. */
#define CONFIG_NO_ID UINT32_MAX
struct config_ids {
    const uint32_t *ids;
    uint64_t count;
};

/* Attach a config.json that says `wanted` where it differs from what the container's says: layers and which of them slide, heads, kv_heads,
 * ffn, vocabulary, biases, widths of single layers; every other key stays. ids (NULL: as they are) are those of all keys
 * that end in _token_id, here and in generation_config.json. The container is the one that `was` was read from.
 * ERR_FORMAT: an id beyond the vocabulary, or of a token that is gone. ERR_UNSUPPORTED: lists of tokens in generation_config.json whose ids
 * would be wrong (suppress_tokens and its kin). */
enum status config_rewrite(struct container *container, const struct model_config *was,
    const struct model_config *wanted, const struct config_ids *ids, struct error *err);

/* Ids of one document (NULL: nothing to do where it is absent): for tokenizer documents too. */
enum status config_rewrite_ids(
    struct container *container, const char *name, const struct config_ids *ids, struct error *err);

/* *id becomes the new one. Errors as above; `what` names the place. */
enum status config_new_id(uint64_t *id, const struct config_ids *ids, const char *what, struct error *err);

/* The configuration with only some layers left: layers [count] by number, ascending. */
void config_keep_layers(struct model_config *config, const uint32_t *layers, uint32_t count);

/* Give the layers widths of their own, kv_heads and ffn [config->layers], which may be those of the configuration itself: the whole's become
 * the largest of them, and it is varied where they differ. */
void config_set_widths(struct model_config *config, const uint32_t *kv_heads, const uint32_t *ffn);

#endif
