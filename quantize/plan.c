/* Which tensor gets what. Recipes come from the role (linear, embedding, head), then from the rules, then
 * from what the shape allows. Whatever would have to be guessed is an error instead. */
#include "quantize/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/transfer.h"

/* ---- one tensor ---- */

static bool recipes_equal(const struct recipe *a, const struct recipe *b)
{
    return a->keep == b->keep && (a->keep || a->bits == b->bits);
}

/* The head of a tied model is the embedding: one matrix cannot be stored in two ways. */
static enum status check_tied_head(
    const struct model_config *config, const struct settings *settings, struct error *err)
{
    if (!config->tied || !settings->head_given || recipes_equal(&settings->head, &settings->embedding))
        return OK;
    return fail(err, ERR_USAGE,
        "--head: this model's head is its embedding (tied weights), stored once; --embedding says how");
}

/* By identity first: a tied embedding may be stored under the head's name. */
static void find_role(struct plan_tensor *planned, const struct checkpoint *input)
{
    const struct tensor *tensor = planned->source;
    planned->role = ROLE_COUNT;
    if (tensor == input->tensors.once[ROLE_EMBEDDING]) {
        planned->role = ROLE_EMBEDDING;
    } else if (tensor == input->tensors.once[ROLE_HEAD]) {
        planned->role = ROLE_HEAD;
    } else if (!layers_role_of(&input->config, tensor->name, &planned->role, &planned->layer)) {
        planned->role = ROLE_COUNT;
    }
}

static const struct recipe *recipe_of_role(enum role role, const struct settings *settings)
{
    if (role == ROLE_EMBEDDING) return &settings->embedding;
    if (role == ROLE_HEAD) return &settings->head;
    return role < ROLE_COUNT && layers_role_is_linear(role) ? &settings->linear : NULL;
}

/* What a rule has done so far. */
enum effect {
    EFFECT_NONE, /* matched nothing */
    EFFECT_VOID, /* matched, but what it changes does not matter for a matrix that is kept */
    EFFECT_SEEN
};

static void apply_rules(struct plan_tensor *planned, const struct settings *settings, enum effect *effects)
{
    for (uint64_t i = 0; i < settings->rule_count; i++) {
        const struct rule *rule = &settings->rules[i];
        if (!settings_rule_matches(rule, planned->source->name)) continue;
        settings_apply_rule(&planned->recipe, rule);
        if (rule->changes & CHANGE_BITS) planned->pinned = true;
        bool matters = !planned->recipe.keep || (rule->changes & CHANGE_KEEP);
        if (matters) effects[i] = EFFECT_SEEN;
        if (effects[i] == EFFECT_NONE) effects[i] = EFFECT_VOID;
    }
}

/* The largest multiple of 16 not above `group` that divides cols, or 0. */
static uint32_t largest_divisor(uint32_t group, uint64_t cols)
{
    while (group > 0 && cols % group != 0)
        group -= 16;
    return group;
}

static bool is_divisible(const struct recipe *recipe, uint64_t cols)
{
    return recipe->keep || recipe->group == 0 || cols % recipe->group == 0;
}

/* Settle a group that does not divide the row. False if --indivisible leaves it open. */
static bool settle_group(struct recipe *recipe, uint64_t cols, enum indivisible indivisible)
{
    switch (indivisible) {
    case INDIVISIBLE_ROW:
        recipe->group = 0;
        return true;
    case INDIVISIBLE_KEEP:
        recipe->keep = true;
        return true;
    case INDIVISIBLE_DIVISOR: {
        uint32_t divisor = largest_divisor(recipe->group, cols);
        if (divisor) recipe->group = divisor;
        return divisor != 0;
    }
    case INDIVISIBLE_STOP:
        break;
    }
    return false;
}

static enum status set_tiles(struct plan_tensor *planned, struct error *err)
{
    const struct tensor *source = planned->source;
    const struct recipe *recipe = &planned->recipe;
    if (source->storage == STORAGE_TILES)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s is quantized already; start from the original model, or --keep this tensor",
            source->name);
    planned->target.storage = STORAGE_TILES;
    planned->target.dtype = DTYPE_F16;
    planned->target.scheme = (struct scheme){
        recipe->bits, recipe->group ? recipe->group : (uint32_t)source->shape[1], recipe->asymmetric};
    return OK;
}

static enum status set_target(struct plan_tensor *planned, const struct settings *settings, struct error *err)
{
    const struct tensor *source = planned->source;
    struct tensor *target = &planned->target;
    *target = *source;
    if (source->storage == STORAGE_BLOCKS)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s is quantized already (%s blocks); start from the original model", source->name,
            block_info(source->block)->name);
    if (!planned->recipe.keep && planned->decoded)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s is quantized already; start from the original model, or --keep this tensor", source->name);
    if (!planned->recipe.keep) {
        enum status status = set_tiles(planned, err);
        if (status != OK) return status;
    } else if (settings->cast && source->rank == 2) {
        target->storage = STORAGE_DENSE;
        target->dtype = settings->cast_type;
        target->scheme = (struct scheme){0};
    }
    planned->bytes = transfer_target_bytes(target);
    return OK;
}

/* ---- all of them ---- */

/* A rule without effect is a misspelling or a misunderstanding. */
static enum status check_effects(
    const struct settings *settings, const enum effect *effects, struct error *err)
{
    for (uint64_t i = 0; i < settings->rule_count; i++) {
        const struct rule *rule = &settings->rules[i];
        if (effects[i] == EFFECT_NONE)
            return fail(err, ERR_USAGE,
                "%s '%s' matches no weight matrix (norms and biases are never quantized)", rule->option,
                rule->text);
        if (effects[i] == EFFECT_VOID)
            return fail(err, ERR_USAGE,
                "%s '%s' changes nothing: what it matches is kept; with bits:N it is quantized", rule->option,
                rule->text);
    }
    return OK;
}

static void note_indivisible(const struct report *report, const struct plan_tensor *planned, uint32_t divisor)
{
    char hint[48] = "no multiple of 16 divides it";
    if (divisor) snprintf(hint, sizeof hint, "largest divisor %" PRIu32, divisor);
    report_note(report, "  %s: %" PRIu64 " columns, group %" PRIu32 "; %s", planned->source->name,
        planned->source->shape[1], planned->recipe.group, hint);
}

/* Settle every group, and end with a list of those that could not be. */
static enum status settle_groups(
    struct plan *plan, const struct settings *settings, const struct report *report, struct error *err)
{
    const struct plan_tensor *first = NULL;
    uint64_t open = 0;
    bool all_have_divisors = true;
    for (uint64_t i = 0; i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        uint64_t cols = planned->source->shape[1];
        if (is_divisible(&planned->recipe, cols)) continue;
        plan->indivisible++;
        if (settle_group(&planned->recipe, cols, settings->indivisible)) continue;
        uint32_t divisor = largest_divisor(planned->recipe.group, cols);
        if (open++ == 0) {
            first = planned;
            report_note(report, "the group does not divide the row of:");
        }
        if (!divisor) all_have_divisors = false;
        note_indivisible(report, planned, divisor);
    }
    if (open == 0) return OK;
    return fail(err, ERR_USAGE,
        "group %" PRIu32 " does not divide the %" PRIu64 " columns of %s%s; choose another --group or one of "
        "--indivisible row (one scale per row), %skeep (not quantized)",
        first->recipe.group, first->source->shape[1], first->source->name, open > 1 ? " and others" : "",
        all_have_divisors ? "divisor (a smaller group that fits), " : "");
}

static void add_up(struct plan *plan)
{
    plan->weights = plan->bytes = plan->quantized = plan->weights_quantized = plan->bytes_quantized = 0;
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

/* One entry per tensor that is not dropped, with its recipe by role and rules. tensors has room for all. */
static void choose_recipes(
    struct plan *plan, const struct checkpoint *input, const struct settings *settings, enum effect *effects)
{
    for (uint64_t i = 0; i < container_count(input->container); i++) {
        const struct tensor *source = container_tensor(input->container, i);
        if (checkpoint_is_dropped(input, source)) continue;
        struct plan_tensor *planned = &plan->tensors[plan->count++];
        const char *why;
        planned->source = source;
        planned->decoded = container_packed(input->container, source, &why) && why;
        find_role(planned, input);
        const struct recipe *recipe = recipe_of_role(planned->role, settings);
        if (planned->role >= ROLE_PER_LAYER && planned->role < ROLE_COUNT)
            plan->layer[planned->layer][planned->role] = planned;
        planned->recipe = recipe ? *recipe : (struct recipe){.keep = true};
        if (recipe) apply_rules(planned, settings, effects);
    }
}

enum status plan_create(struct plan *out, const struct checkpoint *input, const struct settings *settings,
    const struct report *report, struct error *err)
{
    enum effect *effects = NULL;
    *out = (struct plan){0};
    enum status status = check_tied_head(&input->config, settings, err);
    if (status != OK) return status;
    out->tensors = memory_new(container_count(input->container), sizeof *out->tensors, err);
    if (!out->tensors) return ERR_MEMORY;
    out->layer = memory_new(input->config.layers, sizeof *out->layer, err);
    if (!out->layer) return ERR_MEMORY;
    effects = memory_new(settings->rule_count, sizeof *effects, err);
    if (!effects) return ERR_MEMORY;

    choose_recipes(out, input, settings, effects);
    status = check_effects(settings, effects, err);
    memory_free(effects);
    if (status == OK) status = settle_groups(out, settings, report, err);
    for (uint64_t i = 0; status == OK && i < out->count; i++)
        status = set_target(&out->tensors[i], settings, err);
    if (status == OK) add_up(out);
    return status;
}

enum status plan_set_bits(struct plan *plan, struct plan_tensor *planned, const struct settings *settings,
    uint32_t bits, struct error *err)
{
    struct recipe *recipe = &planned->recipe;
    recipe->keep = bits == 0;
    if (bits) recipe->bits = bits;
    if (!is_divisible(recipe, planned->source->shape[1]))
        return fail(err, ERR_USAGE, "group %" PRIu32 " does not divide the %" PRIu64 " columns of %s",
            recipe->group, planned->source->shape[1], planned->source->name);
    enum status status = set_target(planned, settings, err);
    add_up(plan);
    return status;
}

void plan_widen(struct plan *plan, struct plan_tensor *planned)
{
    planned->rewritten = true;
    planned->target.dtype = DTYPE_F32;
    planned->bytes = transfer_target_bytes(&planned->target);
    add_up(plan);
}

void plan_free(struct plan *plan)
{
    memory_free(plan->layer);
    memory_free(plan->tensors);
    *plan = (struct plan){0};
}
