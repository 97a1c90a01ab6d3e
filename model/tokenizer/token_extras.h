/* What the documents beside a vocabulary say of a tokenizer: tokenizer_config.json, added_tokens.json, special_tokens_map.json. */
#ifndef NIBBLE_MODEL_TOKENIZER_TOKEN_EXTRAS_H
#define NIBBLE_MODEL_TOKENIZER_TOKEN_EXTRAS_H

#include "formats/container.h"
#include "model/tokenizer/token_list.h"

/* Zero-initialise; release with token_extras_free. */
struct token_extras {
    struct json_document *config, *added, *map; /* NULL: there is none */
};

/* Read the documents of a container. ERR_FORMAT: no JSON, by name. */
enum status token_extras_read(struct token_extras *out, struct container *container, struct error *err);
void token_extras_free(struct token_extras *extras);

/* Put the tokens of added_tokens_decoder (tokenizer_config.json) and of added_tokens.json into the list. One that is there already
 * becomes an added token with these flags. Tokens that a document calls special ("bos_token" and the like,
 * "additional_special_tokens") are special; of those, one that has no id anywhere is left out. ERR_FORMAT, naming the document: no
 * id, a token with another id, two of one id. */
enum status token_extras_add(const struct token_extras *extras, struct token_list *list, struct error *err);

/* A flag of tokenizer_config.json; *flag is left as it is where it says nothing. ERR_FORMAT: neither true nor false. */
enum status token_extras_flag(
    const struct token_extras *extras, const char *name, bool *flag, struct error *err);

/* "tokenizer_class", or "". */
const char *token_extras_class(const struct token_extras *extras);

/* The entry of the token that is "bos_token" or the like; NO_ENTRY: no document names one, or one that the vocabulary
 * lacks. */
uint32_t token_extras_special(
    const struct token_extras *extras, const char *name, const struct vocabulary *vocabulary);

#endif
