/* The base with some tensors of the model: what each of them costs alone. See damage_parts.h. */
#include <string.h>

#include "base/memory.h"
#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/damage_parts.h"

enum { SWAPS_AT_ONCE = 8 }; /* share one pass of the base */

/* The base with some tensors of the model; everything but the table of tensors is the base's own. */
struct swap {
    struct model mixed;
    struct estimate *result;
    bool *done; /* or NULL */
};

/* Let every role that the model fills with `tensor` be filled with it. */
static void put_tensor(struct model *mixed, const struct model *model, const struct tensor *tensor)
{
    for (int role = 0; role < ROLE_PER_LAYER; role++) {
        if (model->tensors.once[role] == tensor) mixed->tensors.once[role] = tensor;
    }
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
            if (model->tensors.layer[layer][role] == tensor) mixed->tensors.layer[layer][role] = tensor;
        }
    }
}

static enum status open_swap(struct swap *swap, const struct model *base, struct error *err)
{
    const uint64_t layers = base->config.layers, bytes = sizeof *base->tensors.layer;
    swap->mixed = *base;
    if (!(swap->mixed.tensors.layer = memory_new(layers, bytes, err))) return ERR_MEMORY;
    memcpy(swap->mixed.tensors.layer, base->tensors.layer, layers * bytes);
    return OK;
}

struct swaps {
    struct swap list[SWAPS_AT_ONCE];
    uint64_t count;
};

/* Compare the models that have been put together so far, and take them apart. */
static enum status run_swaps(struct damage_parts *work, struct swaps *swaps, struct error *err)
{
    const struct compare_base base = {.model = work->base};
    const struct compare_options options = {.text = work->options->text};
    struct model *models[SWAPS_AT_ONCE];
    struct comparison results[SWAPS_AT_ONCE];
    enum status status = OK;
    for (uint64_t i = 0; i < swaps->count; i++)
        models[i] = &swaps->list[i].mixed;
    if (swaps->count)
        status = compare_models(
            results, &base, models, swaps->count, work->text, work->text_bytes, &options, work->report, err);
    for (uint64_t i = 0; i < swaps->count; i++) {
        if (!status) *swaps->list[i].result = results[i].kld;
        if (!status && swaps->list[i].done) *swaps->list[i].done = true;
        memory_free(swaps->list[i].mixed.tensors.layer);
    }
    swaps->count = 0;
    return status;
}

/* Put together one more; run them when there are enough. */
static enum status add_swap(struct damage_parts *work, struct swaps *swaps,
    const struct damage_members *members, struct estimate *result, bool *done, struct error *err)
{
    struct swap *swap = &swaps->list[swaps->count];
    const enum status status = open_swap(swap, work->base, err);
    if (status) return status;
    for (uint64_t i = 0; i < members->count; i++)
        put_tensor(&swap->mixed, work->model, members->tensors[i]);
    swap->result = result;
    swap->done = done;
    return ++swaps->count == SWAPS_AT_ONCE ? run_swaps(work, swaps, err) : OK;
}

static enum status swap_parts(struct damage_parts *work, struct swaps *swaps, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < work->out->part_count && !status; i++) {
        struct damage_part *part = &work->out->parts[i];
        struct damage_members members;
        damage_parts_list(&members, work->model, part);
        if (part->exact)
            part->swapped = true;
        else
            status = add_swap(work, swaps, &members, &part->kld, &part->swapped, err);
    }
    return status;
}

static enum status swap_matrices(struct damage_parts *work, struct swaps *swaps, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < work->out->tensor_count && !status; i++) {
        struct damage_tensor *tensor = &work->out->tensors[i];
        const struct damage_members members = {{tensor->difference.tensor}, 1};
        if (tensor->exact)
            tensor->swapped = true;
        else
            status = add_swap(work, swaps, &members, &tensor->kld, &tensor->swapped, err);
    }
    return status;
}

enum status damage_swap_check(const struct damage_parts *work, struct error *err)
{
    if (work->options->swap && !work->text)
        return fail(err, ERR_USAGE, "a swap is measured on a text, and there is none");
    if (work->options->swap != DAMAGE_SWAP_MATRICES || !work->out->rescaled) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "%s: norms differ from the base's, so scales were moved between tensors (as AWQ does) and a matrix "
        "alone does not fit into the base; whole layers do (--swap layer)",
        container_path(work->model->container));
}

enum status damage_swap_measure(struct damage_parts *work, struct error *err)
{
    struct swaps swaps = {0};
    struct damage_members all = {.count = 0};
    if (work->options->swap == DAMAGE_SWAP_NONE) return OK;
    enum status status = add_swap(work, &swaps, &all, &work->out->kld, NULL, err);
    if (status) return status;
    for (uint64_t i = 0; i < work->out->tensor_count; i++)
        put_tensor(&swaps.list[0].mixed, work->model, work->out->tensors[i].difference.tensor);
    status = work->options->swap == DAMAGE_SWAP_LAYERS ? swap_parts(work, &swaps, err)
                                                       : swap_matrices(work, &swaps, err);
    if (!status) return run_swaps(work, &swaps, err);
    for (uint64_t i = 0; i < swaps.count; i++)
        memory_free(swaps.list[i].mixed.tensors.layer);
    return status;
}
