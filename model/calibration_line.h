/* One line of JSON lines to the text in it. For calibration.c and prompts.c. */
#ifndef NIBBLE_MODEL_CALIBRATION_LINE_H
#define NIBBLE_MODEL_CALIBRATION_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* A text that grows. */
struct calibration_text {
    char *bytes;
    uint64_t count, capacity;
    bool found; /* also if it is empty */
};

/* Memory that lines take turns to use. Zero-initialise. */
struct calibration_line {
    struct calibration_text text, messages;
    /* What is being read, for messages: "line 3: messages[2].content". The JSON reader holds a pointer to it and so
     * always names the present place. */
    char place[160];
    int place_head; /* the bytes of "line 3" */
};

/* The text of one line, which is not empty: the object's `text` or, without one, its `messages` joined by newlines. null
 * counts as absent, as does the content of a message (calls of tools have none).
 *   out, out_bytes  in `line`, until the next call
 * ERR_FORMAT: "line <number>[: <field>]: <what is wrong>". */
enum status calibration_line_read(struct calibration_line *line, const char **out, uint64_t *out_bytes,
    uint64_t number, const char *json, uint64_t json_bytes, struct error *err);
void calibration_line_free(struct calibration_line *line);

#endif
