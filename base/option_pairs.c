#include "base/option_pairs.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/number.h"

enum status option_pairs_create(struct option_pairs *out, uint64_t capacity, struct error *err)
{
    *out = (struct option_pairs){.list = memory_new(capacity, sizeof *out->list, err),
        .texts = memory_new(capacity, sizeof *out->texts, err),
        .capacity = capacity};
    return out->list && out->texts ? OK : ERR_MEMORY;
}

void option_pairs_free(struct option_pairs *pairs)
{
    memory_free(pairs->list);
    memory_free(pairs->texts);
    *pairs = (struct option_pairs){0};
}

void option_pairs_add(struct option_pairs *pairs, const char *name, const char *value)
{
    if (!value) return;
    pairs->list[pairs->count][0] = name;
    pairs->list[pairs->count++][1] = value;
}

void option_pairs_add_text(struct option_pairs *pairs, const char *name, const char *format, ...)
{
    char *text = pairs->texts[pairs->count];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof pairs->texts[0], format, arguments);
    va_end(arguments);
    option_pairs_add(pairs, name, text);
}

void option_pairs_add_number(struct option_pairs *pairs, const char *name, double value)
{
    option_pairs_add(pairs, name, number_write(pairs->texts[pairs->count], value));
}

void option_pairs_add_list(struct option_pairs *pairs, const char *name, const struct option_list *list)
{
    for (uint64_t i = 0; i < list->count; i++) {
        char *numbered = pairs->texts[pairs->count];
        snprintf(numbered, sizeof pairs->texts[0], "%s %" PRIu64, name, i + 1);
        option_pairs_add(pairs, numbered, list->values[i]);
    }
}
