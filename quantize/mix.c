/* The rules of llama-quantize for decoders, as a table. Source: its llama_tensor_get_type_impl. */
#include "quantize/mix.h"

#include <string.h>
#include <strings.h>

#include "tensor/block_parts.h"

#define ROW(name, base, rules, file_type) {name, BLOCK_##base, rules, file_type},

static const struct mix mixes[] = {MIX_LIST(ROW)};

/* Where a rule holds. */
enum where {
    EVERYWHERE,
    GROUPED, /* four or more query heads share a key and value head */
    FIRST_TWO,
    FIRST_FOUR,
    FIRST_16TH, /* of the layers */
    FIRST_8TH,
    FIRST_8TH_INFORMED,
    FIRST_8TH_BLIND,
    OUTER_AND_THIRDS, /* the first and last eighth, and every third layer between */
    EIGHT_EXPERTS,    /* Mixtral 8x7B: beside its experts attention is small */
    OTHER_EXPERTS     /* any other number, or none */
};

/* The first row that holds decides. */
static const struct mix_rule {
    const char *mix;
    enum role role;
    enum where where;
    enum block_type type;
} rules[] = {
    {"q4_0", ROLE_DOWN, FIRST_8TH_INFORMED, BLOCK_Q4_1},
    {"q5_0", ROLE_DOWN, FIRST_8TH_INFORMED, BLOCK_Q5_1},
    {"q2_k", ROLE_V, GROUPED, BLOCK_Q4_K},
    {"q2_k", ROLE_V, EVERYWHERE, BLOCK_Q3_K},
    {"q2_k", ROLE_O, OTHER_EXPERTS, BLOCK_Q3_K},
    {"q2_k", ROLE_DOWN, EVERYWHERE, BLOCK_Q3_K},
    {"q2_k_s", ROLE_V, GROUPED, BLOCK_Q4_K},
    {"q2_k_s", ROLE_DOWN, FIRST_8TH, BLOCK_Q4_K},
    {"q3_k_m", ROLE_V, FIRST_TWO, BLOCK_Q5_K},
    {"q3_k_m", ROLE_V, EVERYWHERE, BLOCK_Q4_K},
    {"q3_k_m", ROLE_O, OTHER_EXPERTS, BLOCK_Q4_K},
    {"q3_k_m", ROLE_DOWN, FIRST_16TH, BLOCK_Q5_K},
    {"q3_k_m", ROLE_DOWN, EVERYWHERE, BLOCK_Q4_K},
    {"q3_k_l", ROLE_V, EVERYWHERE, BLOCK_Q5_K},
    {"q3_k_l", ROLE_O, OTHER_EXPERTS, BLOCK_Q5_K},
    {"q3_k_l", ROLE_DOWN, EVERYWHERE, BLOCK_Q5_K},
    {"q4_k_s", ROLE_V, FIRST_FOUR, BLOCK_Q5_K},
    {"q4_k_s", ROLE_DOWN, FIRST_8TH, BLOCK_Q5_K},
    {"q4_k_m", ROLE_V, OUTER_AND_THIRDS, BLOCK_Q6_K},
    {"q4_k_m", ROLE_DOWN, OUTER_AND_THIRDS, BLOCK_Q6_K},
    {"q5_k_m", ROLE_V, OUTER_AND_THIRDS, BLOCK_Q6_K},
    {"q5_k_m", ROLE_DOWN, OUTER_AND_THIRDS, BLOCK_Q6_K},
    {"iq4_nl", ROLE_V, GROUPED, BLOCK_Q5_K},
    {"iq4_nl", ROLE_DOWN, FIRST_8TH_BLIND, BLOCK_Q5_K},
    {"iq4_xs", ROLE_V, GROUPED, BLOCK_Q5_K},
    {"iq4_xs", ROLE_DOWN, FIRST_8TH_BLIND, BLOCK_Q5_K},
    {"q2_k", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
    {"q3_k_s", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
    {"q3_k_m", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
    {"q4_k_s", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
    {"q4_k_m", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
    {"iq4_nl", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
    {"iq4_xs", ROLE_O, EIGHT_EXPERTS, BLOCK_Q5_K},
};

/* Rows of 32 columns where those of 256 do not fit. */
static const struct {
    enum block_type type, shorter;
} shorter[] = {
    {BLOCK_Q2_K, BLOCK_Q4_0},
    {BLOCK_Q3_K, BLOCK_Q4_0},
    {BLOCK_Q4_K, BLOCK_Q5_0},
    {BLOCK_Q5_K, BLOCK_Q5_1},
    {BLOCK_Q6_K, BLOCK_Q8_0},
    {BLOCK_IQ4_XS, BLOCK_IQ4_NL},
};

/* A budget's, by bits. */
static const struct {
    uint32_t bits;
    enum block_type type, narrow; /* narrow: of 32 columns */
} candidates[] = {
    {2, BLOCK_Q2_K, BLOCK_IQ4_NL},
    {3, BLOCK_Q3_K, BLOCK_Q4_1},
    {4, BLOCK_Q4_K, BLOCK_Q5_0},
    {5, BLOCK_Q5_K, BLOCK_Q5_1},
    {6, BLOCK_Q6_K, BLOCK_Q8_0},
    {8, BLOCK_Q8_0, BLOCK_Q8_0},
};

#define LARGEST_LAYERS 80 /* of the models of 70 billion weights, whose v is 8 times smaller than q */

const struct mix *mix_find(const char *name)
{
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) {
        if (strcmp(mixes[i].name, name) == 0) return &mixes[i];
    }
    return NULL;
}

static bool is_grouped(const struct model_config *config, uint32_t least)
{
    return config->heads / config->kv_heads >= least;
}

static bool holds(enum where where, uint32_t layer, const struct model_config *config, bool informed)
{
    uint32_t layers = config->layers, eighth = layers / 8;
    switch (where) {
    case EVERYWHERE:
        return true;
    case GROUPED:
        return is_grouped(config, 4);
    case FIRST_TWO:
        return layer < 2;
    case FIRST_FOUR:
        return layer < 4;
    case FIRST_16TH:
        return layer < layers / 16;
    case FIRST_8TH:
        return layer < eighth;
    case FIRST_8TH_INFORMED:
        return layer < eighth && informed;
    case FIRST_8TH_BLIND:
        return layer < eighth && !informed;
    case OUTER_AND_THIRDS:
        return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
    case EIGHT_EXPERTS:
        return config->experts == 8;
    case OTHER_EXPERTS:
        return config->experts != 8;
    }
    return false;
}

/* The role whose rules hold: a matrix with the rows of v among others has those of v, one of an expert those of a dense layer's. */
static enum role role_of_rules(enum role role, const struct model_config *config)
{
    const struct fused_rows *fused = layers_fused(config->architecture, role, FUSED_IN_GGUF);
    for (unsigned i = 0; fused && i < fused->count; i++) {
        if (fused->parts[i] == ROLE_V) return ROLE_V;
    }
    return role == ROLE_EXPERT_DOWN ? ROLE_DOWN : role;
}

static enum block_type type_of_rules(
    const struct mix *mix, enum role role, uint32_t layer, const struct model_config *config, bool informed)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const struct mix_rule *rule = &rules[i];
        if (rule->role == role && strcmp(rule->mix, mix->rules) == 0 &&
            holds(rule->where, layer, config, informed))
            return rule->type;
    }
    return mix->base;
}

enum block_type mix_type(
    const struct mix *mix, enum role role, uint32_t layer, const struct model_config *config, bool informed)
{
    if (role == ROLE_HEAD || (role == ROLE_EMBEDDING && config->tied))
        return mix->base == BLOCK_Q8_0 ? BLOCK_Q8_0 : BLOCK_Q6_K;
    role = role_of_rules(role, config);
    if (config->experts == 8 && (role == ROLE_K || role == ROLE_V)) return BLOCK_Q8_0;
    enum block_type type = type_of_rules(mix, role, layer, config, informed);
    bool large = role == ROLE_V && config->layers == LARGEST_LAYERS && is_grouped(config, 2);
    return large && (type == BLOCK_Q3_K || type == BLOCK_Q4_K) ? BLOCK_Q5_K : type;
}

enum block_type mix_block(const char *name)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (block_form(type) && strcasecmp(block_info(type)->name, name) == 0) return type;
    }
    return BLOCK_NONE;
}

const char *mix_block_name(enum block_type type)
{
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) {
        if (strcasecmp(mixes[i].name, block_info(type)->name) == 0) return mixes[i].name;
    }
    return block_info(type)->name;
}

enum block_type mix_candidate(uint32_t bits, uint64_t cols)
{
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        if (candidates[i].bits != bits) continue;
        bool wide = cols % block_info(candidates[0].type)->weights == 0;
        enum block_type type = wide ? candidates[i].type : candidates[i].narrow;
        return cols % block_info(type)->weights == 0 ? type : BLOCK_NONE;
    }
    return BLOCK_NONE;
}

enum block_type mix_shorter(enum block_type type)
{
    for (size_t i = 0; i < sizeof shorter / sizeof *shorter; i++) {
        if (shorter[i].type == type) return shorter[i].shorter;
    }
    return BLOCK_NONE;
}
