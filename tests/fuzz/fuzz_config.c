/* Any bytes as config.json. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "model/config.h"
#include "model/rope.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct model_config config;
    float *tables;

    if (config_parse(&config, "config.json", (const char *)bytes, count, NULL)) return 0;
    tables = malloc(5 * config.rotary / 2 * sizeof *tables); /* cosines and sines of two ways, frequencies */
    if (tables)
        rope_tables(tables, tables + config.rotary, tables + 2 * config.rotary, &config,
            2 * (uint64_t)config.context, config.context, 1);
    free(tables);
    return 0;
}
