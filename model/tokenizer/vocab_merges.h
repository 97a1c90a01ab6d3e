/* tokenizer.json of vocab.json and merges.txt: byte-level BPE as GPT-2 published it. How text is cut into words is not in these
 * files; the class that tokenizer_config.json names ("tokenizer_class") tells. */
#ifndef NIBBLE_MODEL_TOKENIZER_VOCAB_MERGES_H
#define NIBBLE_MODEL_TOKENIZER_VOCAB_MERGES_H

#include "model/tokenizer/token_extras.h"

/* vocab [vocab_bytes]: {"token": id, ...}; merges [merges_bytes]: a line "left right" each, the earlier the sooner; lines that are
 * empty or begin with "#version" say nothing. Owner of *text: the caller, memory_free. ERR_FORMAT, naming the file and the line
 * or offset: no JSON, an id twice, a line that is not two tokens. ERR_UNSUPPORTED: no tokenizer_class, or one that is not known,
 * by name; add_prefix_space. */
enum status vocab_merges_write(char **text, uint64_t *bytes, const char *vocab, uint64_t vocab_bytes,
    const char *merges, uint64_t merges_bytes, const struct token_extras *extras, struct error *err);

#endif
