/* tokenizer.json of a SentencePiece model (tokenizer.model), as far as it decides ids and texts.
 *
 * The file is a ModelProto of protocol buffers: pieces with scores and types, how the model was trained, and how it normalizes.
 * Models of kind BPE (Llama 1 and 2, Mistral 7B, Gemma, Phi-3) become merges as a GGUF file's do (piece_merges.h); of kind
 * unigram (T5, ALBERT, many Japanese models), a Unigram model. Pieces defined by the user, control and unknown ones become added
 * tokens. What rewrites characters (precompiled_charsmap) becomes a Precompiled step with "longest_match", which is ours: the
 * `tokenizers` library, which does not know it, follows the table in another way than sentencepiece (charsmap.h). Source: sentencepiece_model.proto,
 * https://github.com/google/sentencepiece. */
#ifndef NIBBLE_MODEL_TOKENIZER_SENTENCEPIECE_H
#define NIBBLE_MODEL_TOKENIZER_SENTENCEPIECE_H

#include "base/json.h"
#include "model/tokenizer/token_extras.h"

/* model [model_bytes]: the file. extras: what the documents beside it add: tokens, whether BOS and EOS go around a text
 * (BOS alone where they do not say, EOS alone for T5Tokenizer), whether a space goes before it (what the model says where they do not). Owner of *text: the
 * caller, memory_free. ERR_FORMAT, naming the offset: no ModelProto, a piece twice, a type or score that is none, an id without a
 * piece, a damaged charsmap. ERR_UNSUPPORTED: a kind of model other than unigram and BPE; a denormalizer, spaces behind words,
 * unused pieces, a tokenizer_class with ids of its own: by name. */
enum status sentencepiece_write(char **text, uint64_t *bytes, const char *model, uint64_t model_bytes,
    const struct token_extras *extras, struct error *err);

#endif
