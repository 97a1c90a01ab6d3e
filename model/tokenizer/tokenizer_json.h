/* tokenizer.json as a whole: finds its sections, which are then read where they belong. */
#ifndef NIBBLE_MODEL_TOKENIZER_JSON_H
#define NIBBLE_MODEL_TOKENIZER_JSON_H

#include "base/json.h"

enum tokenizer_section {
    SECTION_MODEL,
    SECTION_NORMALIZER,
    SECTION_ADDED_TOKENS,
    SECTION_PRE_TOKENIZER,
    SECTION_POST_PROCESSOR,
    SECTION_DECODER,
    SECTION_COUNT
};

/* The name of a section in the file. */
extern const char *const tokenizer_section_names[SECTION_COUNT];

/* Check the whole document and point to the bytes of each section; a count of 0 means it is absent. The padding and
 * truncation that some files carry are left alone: they are not part of the text's meaning. */
enum status tokenizer_sections(struct json_text sections[SECTION_COUNT], const char *what, const char *json,
    uint64_t bytes, struct error *err);

/* True if the "model" section is of this type. One that does not say is BPE, as old files are. ERR_FORMAT: no object, a type
 * that is no text. */
enum status tokenizer_model_is(
    bool *is, const struct json_text *section, const char *type, struct error *err);

/* Parse a small section; NULL in *out if it is absent. */
enum status tokenizer_section_parse(
    struct json_document **out, const struct json_text *section, struct error *err);

#endif
