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
    if (a->keep || b->keep) return a->keep == b->keep && a->cast == b->cast && a->type == b->type;
    return a->block == b->block && a->by_mix == b->by_mix && (a->block || a->bits == b->bits);
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
    uint32_t place;
    planned->role = ROLE_COUNT;
    if (tensor == input->tensors.once[ROLE_EMBEDDING]) {
        planned->role = ROLE_EMBEDDING;
    } else if (tensor == input->tensors.once[ROLE_HEAD]) {
        planned->role = ROLE_HEAD;
    } else if (layers_place_of(&input->config, tensor->name, &place, &planned->layer)) {
        planned->role = layers_place_role(place);
        planned->expert = layers_place_expert(place);
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
        if (rule->changes & (CHANGE_BITS | CHANGE_TYPE)) planned->pinned = true;
        bool matters = !planned->recipe.keep || (rule->changes & (CHANGE_KEEP | CHANGE_TYPE));
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

/* The columns that a row must be a multiple of. */
static uint32_t unit_of(const struct recipe *recipe)
{
    if (recipe->keep) return 1;
    if (recipe->block) return block_info(recipe->block)->weights;
    return recipe->group ? recipe->group : 1;
}

static bool is_divisible(const struct recipe *recipe, uint64_t cols)
{
    return cols % unit_of(recipe) == 0;
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

/* Become what a fallback says; what is not about the type stays. */
static void take_type(struct recipe *recipe, const struct recipe *type)
{
    recipe->keep = type->keep;
    recipe->block = type->block;
    recipe->cast = type->cast;
    recipe->type = type->type;
}

/* Settle a block that does not divide the row. False if --fallback leaves it open. */
static bool settle_block(struct recipe *recipe, uint64_t cols, const struct settings *settings)
{
    if (settings->fallback_auto) {
        const struct recipe half = {.keep = true, .cast = true, .type = DTYPE_F16};
        recipe->block = mix_shorter(recipe->block);
        if (!recipe->block || !is_divisible(recipe, cols)) take_type(recipe, &half);
        return true;
    }
    for (uint64_t i = 0; i < settings->fallback_count; i++) {
        if (!is_divisible(&settings->fallbacks[i], cols)) continue;
        take_type(recipe, &settings->fallbacks[i]);
        return true;
    }
    return false;
}

static bool settle_row(struct plan_tensor *planned, const struct settings *settings)
{
    uint64_t cols = planned->source->shape[1];
    if (!planned->recipe.block) return settle_group(&planned->recipe, cols, settings->indivisible);
    planned->fallback = settle_block(&planned->recipe, cols, settings);
    return planned->fallback;
}

static void set_storage(struct tensor *target, const struct recipe *recipe)
{
    target->scheme = (struct scheme){0};
    target->block = BLOCK_NONE;
    target->mask = MASK_NONE;
    if (recipe->keep) {
        target->storage = STORAGE_DENSE;
        target->dtype = recipe->type;
    } else if (recipe->block) {
        target->storage = STORAGE_BLOCKS;
        target->dtype = DTYPE_F32;
        target->block = recipe->block;
    } else {
        target->storage = STORAGE_TILES;
        target->dtype = DTYPE_F16;
        target->scheme = (struct scheme){
            recipe->bits, recipe->group ? recipe->group : (uint32_t)target->shape[1], recipe->asymmetric};
    }
}

static enum status refuse_quantized(const struct tensor *source, struct error *err)
{
    return fail(err, ERR_UNSUPPORTED,
        "tensor %s is quantized already (%s); start from the original model, --keep this tensor, or "
        "--allow-requantize",
        source->name, source->storage == STORAGE_BLOCKS ? block_info(source->block)->name : "codes");
}

static enum status set_target(struct plan_tensor *planned, const struct settings *settings, struct error *err)
{
    const struct tensor *source = planned->source;
    const struct recipe *recipe = &planned->recipe;
    planned->target = *source;
    const bool values =
        source->storage == STORAGE_SPARSE && source->scheme.bits == 0; /* pruned, not quantized */
    planned->requantized =
        !recipe->keep && (planned->decoded || (source->storage != STORAGE_DENSE && !values));
    if (planned->requantized && !settings->requantize) return refuse_quantized(source, err);
    if (!recipe->keep || recipe->cast) set_storage(&planned->target, recipe);
    planned->bytes = transfer_target_bytes(&planned->target);
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
    const struct recipe *recipe = &planned->recipe;
    char hint[48] = "no multiple of 16 divides it";
    if (recipe->block) {
        report_note(report, "  %s: %" PRIu64 " columns, %s blocks take %" PRIu32, planned->source->name,
            planned->source->shape[1], block_info(recipe->block)->name, unit_of(recipe));
        return;
    }
    if (divisor) snprintf(hint, sizeof hint, "largest divisor %" PRIu32, divisor);
    report_note(report, "  %s: %" PRIu64 " columns, group %" PRIu32 "; %s", planned->source->name,
        planned->source->shape[1], recipe->group, hint);
}

static enum status refuse_indivisible(
    const struct plan_tensor *first, uint64_t open, bool all_have_divisors, struct error *err)
{
    const struct recipe *recipe = &first->recipe;
    const char *others = open > 1 ? " and others" : "";
    if (recipe->block)
        return fail(err, ERR_USAGE,
            "%s%s: %" PRIu64 " columns do not divide into %s blocks of %" PRIu32
            "; choose another type, or say what such matrices become: --fallback auto, or a list as in "
            "--fallback q5_0,f16",
            first->source->name, others, first->source->shape[1], block_info(recipe->block)->name,
            unit_of(recipe));
    return fail(err, ERR_USAGE,
        "group %" PRIu32 " does not divide the %" PRIu64 " columns of %s%s; choose another --group or one of "
        "--indivisible row (one scale per row), %skeep (not quantized)",
        recipe->group, first->source->shape[1], first->source->name, others,
        all_have_divisors ? "divisor (a smaller group that fits), " : "");
}

/* Settle every group and block, and end with a list of those that could not be. */
static enum status settle_rows(
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
        if (settle_row(planned, settings)) continue;
        uint32_t divisor = largest_divisor(planned->recipe.group, cols);
        if (open++ == 0) {
            first = planned;
            report_note(report, "%s the row of:",
                planned->recipe.block ? "blocks do not divide" : "the group does not divide");
        }
        if (!divisor) all_have_divisors = false;
        note_indivisible(report, planned, divisor);
    }
    return open ? refuse_indivisible(first, open, all_have_divisors, err) : OK;
}

static void add_up(struct plan *plan)
{
    plan->weights = plan->bytes = plan->quantized = plan->weights_quantized = plan->bytes_quantized =
        plan->requantized = 0;
    for (uint64_t i = 0; i < plan->count; i++) {
        const struct plan_tensor *planned = &plan->tensors[i];
        plan->weights += planned->source->elements;
        plan->bytes += planned->bytes;
        if (planned->recipe.keep) continue;
        plan->quantized++;
        plan->requantized += planned->requantized;
        plan->weights_quantized += planned->source->elements;
        plan->bytes_quantized += planned->bytes;
    }
}

/* By role, then rules, then the mix. */
static void choose_recipe(struct plan_tensor *planned, const struct model_config *config,
    const struct settings *settings, enum effect *effects)
{
    const struct recipe *recipe = recipe_of_role(planned->role, settings);
    /* Norms and biases: F32 is what readers of GGUF take them as. */
    planned->recipe = (struct recipe){.keep = true, .cast = settings->mix != NULL, .type = DTYPE_F32};
    if (!recipe) return;
    planned->recipe = *recipe;
    apply_rules(planned, settings, effects);
    if (planned->recipe.by_mix)
        planned->recipe.block =
            mix_type(settings->mix, planned->role, planned->layer, config, settings->informed);
    planned->recipe.by_mix = false;
}

static struct plan_tensor **slot_of(const struct plan *plan, uint32_t layer, uint32_t place)
{
    if (place < ROLE_COUNT) return &plan->layer[layer][place];
    return &plan->experts[(uint64_t)layer * (plan->places - ROLE_COUNT) + place - ROLE_COUNT];
}

struct plan_tensor *plan_at(const struct plan *plan, uint32_t layer, uint32_t place)
{
    return *slot_of(plan, layer, place);
}

static void put_in_place(const struct plan *plan, struct plan_tensor *planned)
{
    if (planned->role < ROLE_PER_LAYER || planned->role >= ROLE_COUNT) return;
    *slot_of(plan, planned->layer, layers_place(planned->role, planned->expert)) = planned;
}

/* One entry per tensor that is not dropped, with its recipe. tensors has room for all. */
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
        put_in_place(plan, planned);
        choose_recipe(planned, &input->config, settings, effects);
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
    out->places = layers_places(&input->config);
    out->layers = input->config.layers;
    out->experts =
        memory_new((uint64_t)input->config.layers * (out->places - ROLE_COUNT), sizeof *out->experts, err);
    if (!out->experts) return ERR_MEMORY;
    effects = memory_new(settings->rule_count, sizeof *effects, err);
    if (!effects) return ERR_MEMORY;

    choose_recipes(out, input, settings, effects);
    status = check_effects(settings, effects, err);
    memory_free(effects);
    if (status == OK) status = settle_rows(out, settings, report, err);
    for (uint64_t i = 0; status == OK && i < out->count; i++)
        status = set_target(&out->tensors[i], settings, err);
    if (status == OK) add_up(out);
    return status;
}

enum status plan_choose(struct plan *plan, struct plan_tensor *planned, const struct settings *settings,
    uint32_t bits, enum block_type block, struct error *err)
{
    struct recipe *recipe = &planned->recipe;
    uint64_t cols = planned->source->shape[1];
    recipe->keep = bits == 0 && !block;
    recipe->block = block;
    if (bits) recipe->bits = bits;
    if (!is_divisible(recipe, cols))
        return fail(err, ERR_USAGE, "%s %" PRIu32 " does not divide the %" PRIu64 " columns of %s",
            block ? "a block of" : "group", unit_of(recipe), cols, planned->source->name);
    enum status status = set_target(planned, settings, err);
    add_up(plan);
    return status;
}

void plan_set_target(struct plan *plan, struct plan_tensor *planned, const struct tensor *target)
{
    planned->target = *target;
    planned->bytes = transfer_target_bytes(target);
    add_up(plan);
}

void plan_widen(struct plan *plan, struct plan_tensor *planned)
{
    struct tensor target = planned->target;
    target.dtype = DTYPE_F32;
    planned->rewritten = true;
    plan_set_target(plan, planned, &target);
}

void plan_free(struct plan *plan)
{
    memory_free(plan->layer);
    memory_free(plan->experts);
    memory_free(plan->tensors);
    *plan = (struct plan){0};
}
