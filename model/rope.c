/* Every formula here follows transformers' modeling_rope_utils.py, also in what is single and what is double
 * precision: at position 100,000 a frequency that is off by one rounding turns a channel by a hundredth of a
 * radian. */
#include "model/rope.h"

#include <math.h>

#include "model/layers.h"

#define PI 3.14159265358979323846

/* theta^(-2i / size): RoFormer, equation 15. */
static void plain_frequencies(float *frequencies, uint32_t half, float theta)
{
    for (uint32_t i = 0; i < half; i++)
        frequencies[i] = 1.0f / powf(theta, (float)(2 * i) / (float)(2 * half));
}

/* "NTK-aware" scaling that depends on the length: the base grows so that the lowest frequency stretches by
 * factor * length / context - (factor - 1), and the highest not at all. Shorter sequences are left alone. */
static float dynamic_theta(const struct model_config *config, const struct rope_config *rope, uint64_t length)
{
    double size = config->rotary, context = config->context, factor = rope->factor;
    double reached = (double)length > context ? (double)length : context;

    return (float)(rope->theta * pow(factor * reached / context - (factor - 1), size / (size - 2)));
}

/* Llama 3.1: wavelengths above context / low are stretched by factor, those below context / high are kept,
 * and between them the two are blended. */
static void stretch_llama3(float *frequencies, uint32_t half, const struct rope_config *rope)
{
    float context = (float)rope->original_context, factor = (float)rope->factor;
    float low = (float)rope->low_freq_factor, high = (float)rope->high_freq_factor;

    for (uint32_t i = 0; i < half; i++) {
        float wavelength = (float)(2 * PI) / frequencies[i];
        float smooth = (context / wavelength - low) / (high - low);

        if (wavelength > context / low)
            frequencies[i] /= factor;
        else if (wavelength >= context / high)
            frequencies[i] = (1 - smooth) * frequencies[i] / factor + smooth * frequencies[i];
    }
}

/* The channel pair (not rounded) that turns `rotations` times over the original context: YaRN, section 3.2.
 */
static double yarn_channel(const struct rope_config *rope, uint32_t half, double rotations)
{
    return half * log(rope->original_context / (rotations * 2 * PI)) / log(rope->theta);
}

/* YaRN, section 3.2 ("NTK-by-parts"): channels that turn more than beta_fast times within the original
 * context are kept, those that turn less than beta_slow times are stretched, with a linear ramp over the
 * channels between. */
static void stretch_yarn(float *frequencies, uint32_t half, const struct rope_config *rope)
{
    double first = yarn_channel(rope, half, rope->beta_fast),
           last = yarn_channel(rope, half, rope->beta_slow);

    if (rope->truncate) {
        first = floor(first);
        last = ceil(last);
    }
    first = fmax(first, 0);
    last = fmin(last, 2.0 * half - 1);
    if (first == last) last += 0.001;
    for (uint32_t i = 0; i < half; i++) {
        float ramp = ((float)i - (float)first) / (float)(last - first);
        float keep = 1 - fminf(fmaxf(ramp, 0), 1);
        float stretched = 1.0f / ((float)rope->factor * (1.0f / frequencies[i]));

        frequencies[i] = stretched * (1 - keep) + frequencies[i] * keep;
    }
}

/* YaRN, section 3.4: the attention is sharpened by sqrt(1/t) = 0.1 ln(factor) + 1, applied to cosines and
 * sines. */
static double yarn_sharpness(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static float yarn_scale(const struct rope_config *rope)
{
    if (rope->attention_factor > 0) return (float)rope->attention_factor;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return (float)(yarn_sharpness(rope->factor, rope->mscale) /
                       yarn_sharpness(rope->factor, rope->mscale_all_dim));
    return (float)yarn_sharpness(rope->factor, 1);
}

float rope_frequencies(
    float *frequencies, const struct model_config *config, const struct rope_config *rope, uint64_t length)
{
    uint32_t half = config->rotary / 2;
    float theta = rope->kind == ROPE_DYNAMIC ? dynamic_theta(config, rope, length) : (float)rope->theta;

    plain_frequencies(frequencies, half, theta);
    switch (rope->kind) {
    case ROPE_DEFAULT:
    case ROPE_DYNAMIC:
        break;
    case ROPE_LINEAR:
        for (uint32_t i = 0; i < half; i++)
            frequencies[i] /= (float)rope->factor;
        break;
    case ROPE_LLAMA3:
        stretch_llama3(frequencies, half, rope);
        break;
    case ROPE_YARN:
        stretch_yarn(frequencies, half, rope);
        return yarn_scale(rope);
    }
    return 1;
}

static void fill_tables(float *cosine, float *sine, const float *frequencies, float scale, uint32_t half,
    uint64_t first, uint64_t count)
{
    for (uint64_t position = 0; position < count; position++) {
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)(first + position) * frequencies[i];

            cosine[position * half + i] = cosf(angle) * scale;
            sine[position * half + i] = sinf(angle) * scale;
        }
    }
}

uint32_t rope_count(const struct model_config *config)
{
    return config->architecture->sliding_rope ? 2 : 1;
}

uint32_t rope_of(const struct model_config *config, uint32_t layer)
{
    return config->architecture->sliding_rope && config_slides(config, layer);
}

void rope_tables(float *cosine, float *sine, float *frequencies, const struct model_config *config,
    uint64_t length, uint64_t first, uint64_t count)
{
    uint32_t half = config->rotary / 2;

    for (uint32_t i = 0; i < rope_count(config); i++, cosine += count * half, sine += count * half) {
        const struct rope_config *rope = i ? &config->sliding_rope : &config->rope;
        float scale = rope_frequencies(frequencies, config, rope, length);

        fill_tables(cosine, sine, frequencies, scale, half, first, count);
    }
}
