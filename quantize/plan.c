/* Which tensor gets what. Recipes come from the role (linear, embedding, head), then from the rules, then from what the
 * shape allows. Whatever would have to be guessed is an error instead. */
#include "quantize/plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/transfer.h"

/* ---- one tensor ---- */

static bool recipes_equal(const struct recipe *a, const struct recipe *b)
{
    return a->keep == b->keep && (a->keep || a->bits == b->bits);
}

/* The head of a tied model is the embedding: one matrix cannot be stored in two ways. */
static enum status check_tied_head(const struct model_config *config, const struct settings *settings, struct error *err)
{
    if (!config->tied || !settings->head_given || recipes_equal(&settings->head, &settings->embedding)) return OK;
    return fail(err, ERR_USAGE,
        "--head: this model's head is its embedding (tied weights), stored once; --embedding says how");
}

static const struct recipe *recipe_of_role(const struct tensor *tensor, const struct model_config *config,
    const struct model_tensors *tensors, const struct settings *settings)
{
    enum role role;
    uint32_t layer;
    /* By identity first: a tied embedding may be stored under the head's name. */
    if (tensor == tensors->once[ROLE_EMBEDDING]) return &settings->embedding;
    if (tensor == tensors->once[ROLE_HEAD]) return &settings->head;
    if (layers_role_of(config, tensor->name, &role, &layer) && layers_role_is_linear(role)) return &settings->linear;
    return NULL;
}

static void apply_rules(struct plan_tensor *planned, const struct settings *settings, bool *matched)
{
    for (uint64_t i = 0; i < settings->rule_count; i++) {
        if (!settings_rule_matches(&settings->rules[i], planned->source->name)) continue;
        settings_apply_rule(&planned->recipe, &settings->rules[i]);
        matched[i] = true;
    }
}

/* The largest multiple of 16 not above `group` that divides cols, or 0. */
static uint32_t largest_divisor(uint32_t group, uint64_t cols)
{
    while (group > 0 && cols % group != 0)
        group -= 16;
    return group;
}

/* Settle a group that does not divide the row. False if --indivisible leaves it open. */
static bool settle_group(struct recipe *recipe, uint64_t cols, enum indivisible indivisible)
{
    if (recipe->keep || recipe->group == 0 || cols % recipe->group == 0) return true;
    switch (indivisible) {
    case INDIVISIBLE_ROW: recipe->group = 0; return true;
    case INDIVISIBLE_KEEP: recipe->keep = true; return true;
    case INDIVISIBLE_DIVISOR: {
        uint32_t divisor = largest_divisor(recipe->group, cols);
        if (divisor) recipe->group = divisor;
        return divisor != 0;
    }
    case INDIVISIBLE_STOP: break;
    }
    return false;
}

static enum status set_target(struct plan_tensor *planned, const struct settings *settings, struct error *err)
{
    const struct tensor *source = planned->source;
    struct tensor *target = &planned->target;
    bool is_tiles = source->storage == STORAGE_TILES, is_float = is_tiles || dtype_info(source->dtype)->is_float;
    *target = *source;
    if (planned->recipe.keep) {
        if (settings->cast && is_float && source->rank >= 2) {
            target->storage = STORAGE_DENSE;
            target->dtype = settings->cast_type;
            target->scheme = (struct scheme){0};
        }
    } else {
        if (is_tiles)
            return fail(err, ERR_UNSUPPORTED,
                "tensor %s is quantized already; start from the original model, or --keep this tensor", source->name);
        if (!is_float)
            return fail(err, ERR_UNSUPPORTED, "tensor %s is %s, not floating point, and cannot be quantized; --keep it",
                source->name, dtype_info(source->dtype)->name);
        const struct recipe *recipe = &planned->recipe;
        target->storage = STORAGE_TILES;
        target->dtype = DTYPE_F16;
        target->scheme = (struct scheme){recipe->bits, recipe->group ? recipe->group : (uint32_t)source->shape[1],
            recipe->asymmetric};
    }
    planned->bytes = transfer_target_bytes(target);
    return OK;
}

/* ---- all of them ---- */

static bool is_dropped(const struct tensor *tensor, const struct dropped_tensor *dropped, uint64_t dropped_count)
{
    for (uint64_t i = 0; i < dropped_count; i++) {
        if (dropped[i].tensor == tensor) return true;
    }
    return false;
}

static enum status check_rules_matched(const struct settings *settings, const bool *matched, struct error *err)
{
    for (uint64_t i = 0; i < settings->rule_count; i++) {
        const struct rule *rule = &settings->rules[i];
        if (!matched[i])
            return fail(err, ERR_USAGE, "%s '%s' matches no weight matrix (norms and biases are never quantized)",
                rule->option, rule->text);
    }
    return OK;
}

/* Settle every group, and end with a list of those that could not be. */
static enum status settle_groups(struct plan *plan, const struct settings *settings, const struct report *report,
    struct error *err)
{
    uint64_t open = 0;
    const struct plan_tensor *first = NULL;
    for (uint64_t i = 0; i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        uint64_t cols = planned->source->shape[1];
        uint32_t group = planned->recipe.group;
        if (settle_group(&planned->recipe, cols, settings->indivisible)) continue;
        uint32_t divisor = largest_divisor(group, cols);
        if (open++ == 0) {
            first = planned;
            report_note(report, "the group does not divide the row of:");
        }
        if (divisor) {
            report_note(report, "  %s: %" PRIu64 " columns, group %" PRIu32 "; largest divisor %" PRIu32,
                planned->source->name, cols, group, divisor);
        } else {
            report_note(report, "  %s: %" PRIu64 " columns, group %" PRIu32 "; no multiple of 16 divides it",
                planned->source->name, cols, group);
        }
    }
    if (open == 0) return OK;
    return fail(err, ERR_USAGE,
        "group %" PRIu32 " does not divide the %" PRIu64 " columns of %s%s; choose another --group, or --indivisible row "
        "(one scale per row), %skeep (do not quantize)",
        first->recipe.group, first->source->shape[1], first->source->name, open > 1 ? " and others" : "",
        settings->indivisible == INDIVISIBLE_DIVISOR ? "" : "divisor (a smaller group that fits), ");
}

static void add_up(struct plan *plan)
{
    for (uint64_t i = 0; i < plan->count; i++) {
        const struct plan_tensor *planned = &plan->tensors[i];
        plan->weights += planned->source->elements;
        plan->bytes += planned->bytes;
        if (planned->recipe.keep) continue;
        plan->quantized++;
        plan->weights_quantized += planned->source->elements;
        plan->bytes_quantized += planned->bytes;
    }
}

enum status plan_create(struct plan *out, const struct container *container, const struct model_config *config,
    const struct model_tensors *tensors, const struct dropped_tensor *dropped, uint64_t dropped_count,
    const struct settings *settings, const struct report *report, struct error *err)
{
    bool *matched = NULL;
    *out = (struct plan){0};
    enum status status = check_tied_head(config, settings, err);
    if (status != OK) goto done;
    status = ERR_MEMORY;
    out->tensors = memory_new(container_count(container), sizeof *out->tensors, err);
    matched = memory_new(settings->rule_count, sizeof *matched, err);
    if (!out->tensors || !matched) goto done;

    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *source = container_tensor(container, i);
        if (is_dropped(source, dropped, dropped_count)) continue;
        struct plan_tensor *planned = &out->tensors[out->count++];
        const struct recipe *recipe = recipe_of_role(source, config, tensors, settings);
        planned->source = source;
        planned->recipe = recipe ? *recipe : (struct recipe){.keep = true};
        if (recipe) apply_rules(planned, settings, matched);
    }
    status = check_rules_matched(settings, matched, err);
    if (status == OK) status = settle_groups(out, settings, report, err);
    for (uint64_t i = 0; status == OK && i < out->count; i++)
        status = set_target(&out->tensors[i], settings, err);
    if (status == OK) add_up(out);
done:
    memory_free(matched);
    return status;
}

bool plan_has(const struct plan *plan, const char *name)
{
    for (uint64_t i = 0; i < plan->count; i++) {
        if (strcmp(plan->tensors[i].target.name, name) == 0) return true;
    }
    return false;
}

void plan_free(struct plan *plan)
{
    memory_free(plan->tensors);
    *plan = (struct plan){0};
}
