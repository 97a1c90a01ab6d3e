/* See gguf_rope.h. */
#include "model/gguf/gguf_rope.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "model/rope.h"

#define PI 3.14159265358979323846
#define AGREEMENT 1e-4
#define CONTEXT_LEAST 16
#define CONTEXT_MOST (1 << 24)

/* Scratch: the divisors, and frequencies without and with them, each [half]. */
struct scratch {
    float *divisors, *plain, *stretched;
    uint64_t half;
};

static bool agrees(const struct scratch *scratch, const struct rope_config *rope)
{
    const struct model_config config = {.rotary = (uint32_t)(2 * scratch->half)};
    const struct rope_config plain = {.theta = rope->theta};

    rope_frequencies(scratch->stretched, &config, rope, 0);
    rope_frequencies(scratch->plain, &config, &plain, 0);
    for (uint64_t i = 0; i < scratch->half; i++) {
        const double expected = (double)scratch->plain[i] / scratch->stretched[i];
        if (!(fabs(scratch->divisors[i] - expected) <= AGREEMENT * expected)) return false;
    }
    return true;
}

/* True if parameters were found. */
static bool search(struct rope_config *rope, const struct scratch *scratch)
{
    rope->kind = ROPE_DEFAULT;
    if (agrees(scratch, rope)) return true;
    rope->kind = ROPE_LLAMA3;
    rope->low_freq_factor = 1;
    rope->high_freq_factor = 4;
    for (uint64_t i = 0; i < scratch->half; i++)
        rope->factor = fmax(rope->factor, scratch->divisors[i]);
    for (int context = CONTEXT_LEAST; context <= CONTEXT_MOST && isfinite(rope->factor); context *= 2) {
        rope->original_context = context;
        if (agrees(scratch, rope)) return true;
    }
    return false;
}

enum status gguf_rope_solve(struct rope_config *rope, struct container *container,
    const struct tensor *factors, uint64_t head_size, struct error *err)
{
    struct scratch scratch = {.half = factors->elements};
    float *floats;
    enum status status;

    if (factors->storage != STORAGE_DENSE || factors->dtype != DTYPE_F32 || factors->elements == 0 ||
        factors->elements != head_size / 2)
        return fail(err, ERR_UNSUPPORTED, "tensor %s: is not F32 of %" PRIu64 " elements (half a head)",
            factors->name, head_size / 2);
    floats = memory_new(factors->elements, 3 * sizeof *floats, err);
    if (!floats) return ERR_MEMORY;
    scratch.divisors = floats;
    scratch.plain = floats + scratch.half;
    scratch.stretched = floats + 2 * scratch.half;
    status = container_read(container, factors, 0, floats, factors->bytes, err);
    if (!status && !search(rope, &scratch))
        status = fail(err, ERR_UNSUPPORTED,
            "tensor %s: its rotary factors are not those of rope_type llama3 (largest: %g)", factors->name,
            rope->factor);
    memory_free(floats);
    return status;
}

void gguf_rope_factors(float *factors, const struct model_config *config)
{
    const struct rope_config *rope = &config->rope;
    const float context = (float)rope->original_context, factor = (float)rope->factor;
    const float low = (float)rope->low_freq_factor, high = (float)rope->high_freq_factor;
    const struct rope_config plain = {.theta = rope->theta};

    rope_frequencies(factors, config, &plain, 0);
    for (uint32_t i = 0; i < config->rotary / 2; i++) {
        const float wavelength = (float)(2 * PI) / factors[i];
        const float smooth = (context / wavelength - low) / (high - low);
        if (wavelength < context / high)
            factors[i] = 1;
        else if (wavelength > context / low)
            factors[i] = factor;
        else
            factors[i] = 1 / ((1 - smooth) / factor + smooth);
    }
}
