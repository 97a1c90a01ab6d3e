/* The tokenizer of a folder that has no tokenizer.json but other files of one. */
#ifndef NIBBLE_MODEL_TOKENIZER_TOKENIZER_FILES_H
#define NIBBLE_MODEL_TOKENIZER_TOKENIZER_FILES_H

#include "formats/container.h"

/* Where a container has no tokenizer.json, make one of tokenizer.model or spiece.model (SentencePiece), else of vocab.json and merges.txt, and
 * attach it, so that container_document finds it.
 *   made_of  out: the name of the file, static; NULL: nothing was made, because tokenizer.json is there or nothing is
 * ERR_FORMAT, ERR_UNSUPPORTED: see sentencepiece.h and vocab_merges.h; names the file. */
enum status tokenizer_files_attach(const char **made_of, struct container *container, struct error *err);

#endif
