/* Python's string functions, as far as lm-evaluation-harness applies them to the texts of items. All text is well-formed UTF-8. */
#ifndef NIBBLE_RUNTIME_CHECK_TASK_CLEAN_H
#define NIBBLE_RUNTIME_CHECK_TASK_CLEAN_H

#include "base/json.h"
#include "model/tokenizer/text.h"

/* str.lstrip, str.rstrip and str.strip: without white space (Unicode's, and the separators U+001C to U+001F) at the start, the
 * end, both. */
struct json_text task_clean_start(struct json_text text);
struct json_text task_clean_end(struct json_text text);
struct json_text task_clean_strip(struct json_text text);

/* Append str.capitalize: the first character in title case (simple mapping), all others in lower case, each by itself. */
enum status task_clean_capitalize(struct text *out, struct json_text text, struct error *err);

/* Append what hellaswag/utils.py makes of a text: strip; " [title]" becomes ". "; square brackets with what stands in them on
 * one line go; two spaces become one (one pass). Linear in the text. */
enum status task_clean_hellaswag(struct text *out, struct json_text text, struct error *err);

#endif
