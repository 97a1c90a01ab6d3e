/* make-tiny-model FOLDER [key=value ...]: write a tiny random model (tests/support/tiny_model.h) for a
 * command-line case. Keys are the fields of struct tiny_model; flags take 1. Wrong use ends with 99, which no
 * case expects. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny_model.h"

/* The value of "key=value" if the argument is about this key. */
static const char *value_of(const char *argument, const char *key)
{
    size_t length = strlen(key);
    return strncmp(argument, key, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

static bool set_number(struct tiny_model *model, const char *argument)
{
    const struct {
        const char *key;
        uint32_t *field;
    } numbers[] = {{"hidden", &model->hidden}, {"ffn", &model->ffn}, {"layers", &model->layers},
        {"heads", &model->heads}, {"kv_heads", &model->kv_heads}, {"vocabulary", &model->vocabulary},
        {"shards", &model->shards}, {"experts", &model->experts}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const char *value = value_of(argument, numbers[i].key);
        if (value) *numbers[i].field = (uint32_t)strtoul(value, NULL, 10);
        if (value) return true;
    }
    return false;
}

static bool set_text(struct tiny_model *model, const char *argument)
{
    const struct {
        const char *key;
        const char **field;
    } texts[] = {{"dtype", &model->dtype}, {"omit", &model->omit}, {"extra", &model->extra},
        {"rank3", &model->rank3}, {"integer", &model->integer}, {"poison", &model->poison}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *value = value_of(argument, texts[i].key);
        if (value) *texts[i].field = value;
        if (value) return true;
    }
    return false;
}

static bool set_other(struct tiny_model *model, const char *argument)
{
    const char *value;
    if ((value = value_of(argument, "seed"))) {
        model->seed = strtoull(value, NULL, 10);
    } else if ((value = value_of(argument, "poison_at"))) {
        model->poison_at = strtoull(value, NULL, 10);
    } else if ((value = value_of(argument, "poison_value"))) {
        model->poison_value = strtof(value, NULL);
    } else if ((value = value_of(argument, "tied"))) {
        model->tied = strcmp(value, "1") == 0;
    } else if ((value = value_of(argument, "spaces"))) {
        model->spaces = strcmp(value, "1") == 0;
    } else if ((value = value_of(argument, "unused_expert"))) {
        model->unused_expert = strcmp(value, "1") == 0;
    } else if ((value = value_of(argument, "under_head"))) {
        model->under_head = strcmp(value, "1") == 0;
    } else {
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct tiny_model model = {0};
    if (argc < 2) return 99;
    for (int i = 2; i < argc; i++) {
        if (set_number(&model, argv[i]) || set_text(&model, argv[i]) || set_other(&model, argv[i])) continue;
        fprintf(stderr, "make-tiny-model: unknown: %s\n", argv[i]);
        return 99;
    }
    tiny_model_write(argv[1], &model);
    return 0;
}
