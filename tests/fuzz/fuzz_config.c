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
    float *frequencies;

    if (config_parse(&config, "config.json", (const char *)bytes, count, NULL)) return 0;
    frequencies = malloc(config.head_size / 2 * sizeof *frequencies);
    if (frequencies) rope_frequencies(frequencies, &config, 2 * (uint64_t)config.context);
    free(frequencies);
    return 0;
}
