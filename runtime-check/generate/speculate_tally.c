/* See speculate_tally.h. */
#include "runtime-check/generate/speculate_tally.h"

#include <math.h>

#include "runtime-check/generate/rejection.h"

enum { NUMBERS = sizeof(struct speculate_tally) / sizeof(double) };

double speculate_tally_ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* All prompts' tallies. */
struct tallies {
    const struct speculate_tally *list; /* [count] */
    uint64_t count;
};

static double sum_of(const double *values)
{
    double sum = 0;
    for (int i = 0; i < SPECULATE_LOOKAHEAD; i++)
        sum += values[i];
    return sum;
}

static double acceptance_of(const struct speculate_tally *tally, uint64_t position)
{
    if (position < SPECULATE_LOOKAHEAD)
        return speculate_tally_ratio(tally->accepted[position], tally->judged[position]);
    return speculate_tally_ratio(sum_of(tally->accepted), sum_of(tally->judged));
}

static double speedup_of(const struct speculate_tally *tally, uint64_t unused)
{
    (void)unused;
    return speculate_tally_ratio(speculate_tally_ratio(tally->seconds_alone, tally->tokens_alone),
        speculate_tally_ratio(tally->seconds_draft + tally->seconds_verify, tally->tokens));
}

/* sum += factor * tally, number by number. */
static void add_tally(struct speculate_tally *sum, const struct speculate_tally *tally, double factor)
{
    double *to = (double *)sum;
    const double *from = (const double *)tally;
    for (int i = 0; i < NUMBERS; i++)
        to[i] += factor * from[i];
}

/* A statistic of all prompts, and its standard error from leaving out one after the other (jackknife). */
static struct estimate jackknife(const struct tallies *tallies, const struct speculate_tally *all,
    double (*statistic)(const struct speculate_tally *, uint64_t), uint64_t which)
{
    struct estimate out = {statistic(all, which), 0};
    struct moments moments = {0};
    if (tallies->count < ESTIMATE_LEAST) return out;
    for (uint64_t i = 0; i < tallies->count; i++) {
        struct speculate_tally others = *all;
        add_tally(&others, &tallies->list[i], -1);
        moments_add(&moments, statistic(&others, which));
    }
    const double n = (double)tallies->count;
    out.error = sqrt(moments.squares * (n - 1) / n);
    return out;
}

static struct estimate share(
    const struct tallies *tallies, const struct speculate_tally *all, uint64_t position)
{
    struct estimate out = jackknife(tallies, all, acceptance_of, position);
    const double judged = position < SPECULATE_LOOKAHEAD ? all->judged[position] : sum_of(all->judged);
    if (tallies->count < ESTIMATE_LEAST && judged > 1)
        out.error = sqrt(out.value * (1 - out.value) / (judged - 1));
    return out;
}

/* Bytes of the weights that one token needs: all layers and the head, of the embedding next to nothing. */
static double bytes_per_token(const struct model *model)
{
    double bytes = (double)model->tensors.once[ROLE_HEAD]->bytes;
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
            const struct tensor *tensor = model->tensors.layer[layer][role];
            bytes += tensor ? (double)tensor->bytes : 0;
        }
        bytes += (double)layers_routed_bytes(&model->tensors, &model->config, layer);
    }
    return bytes;
}

void speculate_tally_summarize(struct speculate_result *out, const struct speculate_tally *list,
    uint64_t count, const struct model *target, const struct model *draft, uint64_t lookahead)
{
    const struct tallies tallies = {list, count};
    struct speculate_tally all = {0};
    for (uint64_t i = 0; i < count; i++)
        add_tally(&all, &list[i], 1);
    out->prompts = count;
    out->tokens = (uint64_t)all.tokens;
    out->tokens_alone = (uint64_t)all.tokens_alone;
    out->cycles = (uint64_t)all.cycles;
    out->drafted = out->cycles * lookahead;
    out->accepted = (uint64_t)sum_of(all.accepted);
    out->acceptance = share(&tallies, &all, SPECULATE_LOOKAHEAD);
    for (uint64_t i = 0; i < lookahead; i++)
        out->positions[i] = share(&tallies, &all, i);
    out->accepted_per_cycle = speculate_tally_ratio(sum_of(all.accepted), all.cycles);
    out->tokens_per_cycle = all.cycles > 0 ? out->accepted_per_cycle + 1 : 0;
    const double token = speculate_tally_ratio(all.seconds_alone, all.tokens_alone);
    out->draft_cost = speculate_tally_ratio(
        speculate_tally_ratio(all.seconds_draft, all.cycles * (double)lookahead), token);
    out->verify_cost = speculate_tally_ratio(speculate_tally_ratio(all.seconds_verify, all.cycles), token);
    const double expected = rejection_expected(out->acceptance.value, lookahead);
    out->implied = expected / ((double)lookahead * out->draft_cost + 1);
    out->at_cost = speculate_tally_ratio(expected, (double)lookahead * out->draft_cost + out->verify_cost);
    out->byte_ratio = bytes_per_token(draft) / bytes_per_token(target);
    out->by_bytes = expected / ((double)lookahead * out->byte_ratio + 1);
    out->speedup = jackknife(&tallies, &all, speedup_of, 0);
    out->tokens_per_second_alone = speculate_tally_ratio(1, token);
    out->tokens_per_second = speculate_tally_ratio(all.tokens, all.seconds_draft + all.seconds_verify);
}
