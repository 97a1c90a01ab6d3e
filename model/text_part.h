/* Models of text and images, seen as the model of text in them: "text_config" becomes config.json, its tensors lose their prefix, and what
 * belongs to images is dropped by name. */
#ifndef NIBBLE_MODEL_TEXT_PART_H
#define NIBBLE_MODEL_TEXT_PART_H

#include "formats/container.h"
#include "model/config.h"

/* Where config.json names such an architecture (Gemma3ForConditionalGeneration), attach that of the text part and rename its tensors; every
 * other container stays as it is. What text_config leaves out because the class has a default for it is written down, as transformers
 * 5 has it. Before the container is mapped. ERR_FORMAT: no text_config. */
enum status text_part_see(struct container *container, struct error *err);

/* Whether a tensor of such a model is none of its text part's. */
bool text_part_is_other(const struct model_config *config, const char *name);

#endif
