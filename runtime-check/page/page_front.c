/* See page_view.h. */
#include "runtime-check/page/page_view.h"

static double divergence_of(const struct comparison_model *model)
{
    return model->result ? model->result->kld.value : 0;
}

/* Sizes that differ by less are equal: methods differ by some hundred bytes of metadata. */
static const double SIZE_TOLERANCE = 0.001;

/* Whether a is at least as good as b in both, and better in one. No two surpass each other: the lower divergence decides, and where
 * that is equal, the smaller file. */
static bool surpasses(const struct comparison_model *a, const struct comparison_model *b)
{
    const double a_kld = divergence_of(a), b_kld = divergence_of(b);
    return a->bytes > 0 && (double)a->bytes <= (1 + SIZE_TOLERANCE) * (double)b->bytes && a_kld <= b_kld &&
           (a_kld < b_kld || a->bytes < b->bytes);
}

void page_front_find(bool *front, const struct comparison_model *models, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        front[i] = i == 0 || models[i].bytes > 0;
        for (uint64_t k = 0; k < count && front[i] && i > 0; k++)
            front[i] = !surpasses(&models[k], &models[i]);
    }
}
