/* All lists go through one loop over layers and experts. */
#include "quantize/uncalibrated.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"

/* One expert of a plan that has any; expert 0 of layer 0 comes first. */
struct place {
    uint32_t layer, expert;
    uint64_t tokens;
};

static uint32_t experts_of(const struct plan *plan)
{
    return (plan->places - ROLE_COUNT) / EXPERT_ROLES;
}

static bool is_uncalibrated(const struct plan *plan, struct place *at)
{
    for (enum role role = ROLE_EXPERT_GATE; role <= ROLE_EXPERT_DOWN; role++) {
        const struct plan_tensor *planned = plan_at(plan, at->layer, layers_place(role, at->expert));
        if (!planned || planned->recipe.keep || !planned->outcome.uncalibrated) continue;
        at->tokens = planned->outcome.tokens;
        return true;
    }
    return false;
}

/* The first such expert from *at on; false: there is none. */
static bool find(const struct plan *plan, struct place *at)
{
    for (; experts_of(plan) && at->layer < plan->layers; at->layer++, at->expert = 0) {
        for (; at->expert < experts_of(plan); at->expert++)
            if (is_uncalibrated(plan, at)) return true;
    }
    return false;
}

uint64_t uncalibrated_count(const struct plan *plan)
{
    uint64_t count = 0;
    for (struct place at = {0}; find(plan, &at); at.expert++)
        count++;
    return count;
}

void uncalibrated_print(const struct plan *plan)
{
    const uint64_t count = uncalibrated_count(plan);
    uint32_t layer = UINT32_MAX;
    if (count == 0) return;
    printf("uncalibrated     %" PRIu64 " of %" PRIu64
           " experts: too few tokens were sent there; rounded to nearest",
        count, (uint64_t)plan->layers * experts_of(plan));
    for (struct place at = {0}; find(plan, &at); at.expert++) {
        if (at.layer != layer) {
            printf("\n                 layer %" PRIu32 ": expert %" PRIu32 " (%" PRIu64 " tokens)", at.layer,
                at.expert, at.tokens);
        } else {
            printf(", %" PRIu32 " (%" PRIu64 ")", at.expert, at.tokens);
        }
        layer = at.layer;
    }
    putchar('\n');
}

void uncalibrated_put(struct json_writer *json, const struct plan *plan)
{
    json_write_key(json, "uncalibrated_experts");
    json_open_array(json);
    for (struct place at = {0}; find(plan, &at); at.expert++) {
        json_open_object(json);
        json_put_u64(json, "layer", at.layer);
        json_put_u64(json, "expert", at.expert);
        json_put_u64(json, "tokens", at.tokens);
        json_close_object(json);
    }
    json_close_array(json);
}

enum status uncalibrated_text(char **out, const struct plan *plan, struct error *err)
{
    enum { LONGEST = 16 }; /* "1023:1023, " and the end */
    const uint64_t count = uncalibrated_count(plan);
    size_t used = 0;
    *out = NULL;
    if (count == 0) return OK;
    *out = memory_new(count, LONGEST, err);
    if (!*out) return ERR_MEMORY;
    for (struct place at = {0}; find(plan, &at); at.expert++)
        used += (size_t)snprintf(
            *out + used, LONGEST, "%s%" PRIu32 ":%" PRIu32, used ? ", " : "", at.layer, at.expert);
    return OK;
}
