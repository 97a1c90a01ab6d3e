/* See sampling.h. Candidates are taken from a heap, likeliest first, so that a draw sorts only the head that it looks at. */
#include "model/sampling.h"

#include <math.h>
#include <string.h>

#include "tensor/kernels/kernels.h"

uint64_t sampling_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double sampling_uniform(uint64_t *state)
{
    return (double)(sampling_random(state) >> 11) * 0x1p-53;
}

uint64_t sampling_state(uint64_t seed, uint64_t number, uint64_t place)
{
    uint64_t state = seed;
    state = sampling_random(&state) ^ number;
    state = sampling_random(&state) ^ place;
    return sampling_random(&state);
}

bool sampling_is_stop(const struct model_config *config, uint32_t id)
{
    for (uint32_t i = 0; i < config->stop_count; i++) {
        if (config->stops[i] == (int64_t)id) return true;
    }
    return false;
}

void sampling_penalize(
    float *logits, uint64_t count, const uint32_t *ids, uint64_t id_count, double penalty, uint8_t *scratch)
{
    if (penalty <= 0 || penalty == 1) return;
    memset(scratch, 0, (count + 7) / 8);
    for (uint64_t i = 0; i < id_count; i++) {
        const uint32_t id = ids[i];
        if (scratch[id / 8] >> (id % 8) & 1) continue;
        scratch[id / 8] |= (uint8_t)(1u << (id % 8));
        const double logit = (double)logits[id];
        logits[id] = (float)(logit > 0 ? logit / penalty : logit * penalty);
    }
}

/* ---- the heap: the likeliest first; equal logits by id, so that the order is total ---- */

static bool is_before(const struct sampling_candidate *a, const struct sampling_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(struct sampling_candidate *heap, uint64_t count, uint64_t at)
{
    const struct sampling_candidate moved = heap[at];
    for (uint64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_before(&heap[child + 1], &heap[child])) child++;
        if (!is_before(&heap[child], &moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* Take the first from heap[*count] and put it into the place that becomes free behind the rest. */
static struct sampling_candidate pop(struct sampling_candidate *heap, uint64_t *count)
{
    const struct sampling_candidate first = heap[0];
    heap[0] = heap[--*count];
    heap[*count] = first;
    if (*count > 1) sift_down(heap, *count, 0);
    return first;
}

/* ---- the draw ---- */

static uint32_t likeliest(const float *logits, uint64_t count)
{
    uint64_t best = 0;
    for (uint64_t i = 1; i < count; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return (uint32_t)best;
}

/* e^((logit - highest) / temperature), rounded to float. */
static double weight_of(float logit, double highest, double temperature)
{
    return (double)(float)exp(((double)logit - highest) / temperature);
}

/* Sum of the weights of all, by the kernel: it is compared with sums of weights, and to a millionth part is near enough. */
static double sum_all(
    const struct sampling_candidate *heap, uint64_t count, double highest, double temperature)
{
    enum { PIECE = 512 };
    float piece[PIECE], sum;
    double total = 0;
    for (uint64_t at = 0; at < count; at += PIECE) {
        const uint64_t here = count - at < PIECE ? count - at : PIECE;
        for (uint64_t i = 0; i < here; i++) {
            const double exponent = ((double)heap[at + i].logit - highest) / temperature;
            piece[i] = exponent > -100 ? (float)exponent : -100;
        }
        kernels()->exp_sum(&sum, piece, 0, here);
        total += (double)sum;
    }
    return total;
}

/* Sum of the weights of the first `limit`; those that were taken out for that lie behind the `left` others, last first. */
static double sum_weights(struct sampling_candidate *heap, uint64_t count, uint64_t limit, uint64_t *left,
    double highest, double temperature)
{
    double total = 0;
    *left = count;
    if (limit == count) return sum_all(heap, count, highest, temperature);
    for (uint64_t i = 0; i < limit; i++)
        total += weight_of(pop(heap, left).logit, highest, temperature);
    return total;
}

uint32_t sampling_pick(const float *logits, uint64_t count, const struct sampling_options *options,
    uint64_t *random, struct sampling_candidate *scratch)
{
    if (options->temperature <= 0) return likeliest(logits, count);
    const uint64_t limit = options->top_k && options->top_k < count ? options->top_k : count;
    for (uint64_t i = 0; i < count; i++)
        scratch[i] = (struct sampling_candidate){logits[i], (uint32_t)i};
    for (uint64_t i = count / 2; i-- > 0;)
        sift_down(scratch, count, i);
    const double highest = (double)scratch[0].logit, temperature = options->temperature;
    uint64_t left, taken = 0;
    double total = sum_weights(scratch, count, limit, &left, highest, temperature), kept = 0;

    /* The head that top-p and min-p leave; where they leave all there is, nothing need be sorted for it. */
    const bool whole = options->top_p >= 1 && options->min_p <= 0;
    while (!whole && taken < limit && (taken == 0 || kept < options->top_p * total)) {
        const struct sampling_candidate next =
            taken < count - left ? scratch[count - 1 - taken] : pop(scratch, &left);
        const double weight = weight_of(next.logit, highest, temperature);
        if (taken > 0 && weight < options->min_p) break;
        kept += weight;
        taken++;
    }
    const uint64_t head = whole ? limit : taken;
    double aim = sampling_uniform(random) * (whole ? total : kept);
    for (uint64_t i = 0; i < head; i++) {
        const struct sampling_candidate next =
            i < count - left ? scratch[count - 1 - i] : pop(scratch, &left);
        if ((aim -= weight_of(next.logit, highest, temperature)) < 0) return next.id;
    }
    return scratch[count - 1]
        .id; /* the sum was rounded up: once in a million draws, and then it is the likeliest */
}
