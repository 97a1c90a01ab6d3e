/* Which block type a matrix gets: the rules of every mix against what llama-quantize chooses, and what a plan makes of rows that blocks do
 * not divide. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "quantize/mix.h"
#include "quantize/quantize.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define Q_PROJ "model.layers.0.self_attn.q_proj.weight"
#define DOWN_PROJ "model.layers.0.mlp.down_proj.weight"
#define EMBEDDING "model.embed_tokens.weight"
#define NORM "model.layers.0.input_layernorm.weight"

/* ---- rules ---- */

static struct model_config config_of(uint32_t layers, uint32_t kv_heads)
{
    return (struct model_config){.architecture = layers_architecture("LlamaForCausalLM", 16),
        .layers = layers,
        .heads = 32,
        .kv_heads = kv_heads};
}

/* A letter per layer: the type of its v or down. */
static const char *letters(const char *name, enum role role, struct model_config config, bool informed)
{
    static const char of_type[BLOCK_COUNT] = {[BLOCK_Q4_0] = '0',
        [BLOCK_Q4_1] = '1',
        [BLOCK_Q5_0] = '5',
        [BLOCK_Q5_1] = '6',
        [BLOCK_Q8_0] = '8',
        [BLOCK_Q2_K] = 'B',
        [BLOCK_Q3_K] = 'C',
        [BLOCK_Q4_K] = 'D',
        [BLOCK_Q5_K] = 'E',
        [BLOCK_Q6_K] = 'F',
        [BLOCK_IQ4_NL] = 'n',
        [BLOCK_IQ4_XS] = 'x'};
    static char out[128];
    for (uint32_t layer = 0; layer < config.layers; layer++)
        out[layer] = of_type[mix_type(mix_find(name), role, layer, &config, informed)];
    out[config.layers] = '\0';
    return out;
}

/* Worked out by hand from llama_tensor_get_type_impl for 16 layers; that whole files agree with llama-quantize is in docs/results.md. */
static void test_rules(void)
{
    static const struct {
        const char *name;
        uint32_t kv_heads;
        bool informed;
        const char *v, *o, *down;
    } expected[] = {
        {"q4_0", 32, false, "0000000000000000", "0000000000000000", "0000000000000000"},
        {"q4_0", 32, true, "0000000000000000", "0000000000000000", "1100000000000000"},
        {"q5_0", 32, true, "5555555555555555", "5555555555555555", "6655555555555555"},
        {"q4_1", 32, true, "1111111111111111", "1111111111111111", "1111111111111111"},
        {"q8_0", 4, true, "8888888888888888", "8888888888888888", "8888888888888888"},
        {"q2_k", 4, false, "DDDDDDDDDDDDDDDD", "CCCCCCCCCCCCCCCC", "CCCCCCCCCCCCCCCC"},
        {"q2_k", 16, false, "CCCCCCCCCCCCCCCC", "CCCCCCCCCCCCCCCC", "CCCCCCCCCCCCCCCC"},
        {"q2_k_s", 8, false, "DDDDDDDDDDDDDDDD", "BBBBBBBBBBBBBBBB", "DDBBBBBBBBBBBBBB"},
        {"q2_k_s", 16, false, "BBBBBBBBBBBBBBBB", "BBBBBBBBBBBBBBBB", "DDBBBBBBBBBBBBBB"},
        {"q3_k_s", 4, false, "CCCCCCCCCCCCCCCC", "CCCCCCCCCCCCCCCC", "CCCCCCCCCCCCCCCC"},
        {"q3_k_m", 4, false, "EEDDDDDDDDDDDDDD", "DDDDDDDDDDDDDDDD", "EDDDDDDDDDDDDDDD"},
        {"q3_k_l", 4, false, "EEEEEEEEEEEEEEEE", "EEEEEEEEEEEEEEEE", "EEEEEEEEEEEEEEEE"},
        {"q4_k_s", 4, false, "EEEEDDDDDDDDDDDD", "DDDDDDDDDDDDDDDD", "EEDDDDDDDDDDDDDD"},
        {"q4_k_m", 4, false, "FFDDFDDFDDFDDFFF", "DDDDDDDDDDDDDDDD", "FFDDFDDFDDFDDFFF"},
        {"q4_k", 4, false, "FFDDFDDFDDFDDFFF", "DDDDDDDDDDDDDDDD", "FFDDFDDFDDFDDFFF"},
        {"q5_k_s", 4, false, "EEEEEEEEEEEEEEEE", "EEEEEEEEEEEEEEEE", "EEEEEEEEEEEEEEEE"},
        {"q5_k_m", 4, false, "FFEEFEEFEEFEEFFF", "EEEEEEEEEEEEEEEE", "FFEEFEEFEEFEEFFF"},
        {"q6_k", 4, false, "FFFFFFFFFFFFFFFF", "FFFFFFFFFFFFFFFF", "FFFFFFFFFFFFFFFF"},
        {"iq4_nl", 16, false, "nnnnnnnnnnnnnnnn", "nnnnnnnnnnnnnnnn", "EEnnnnnnnnnnnnnn"},
        {"iq4_xs", 8, false, "EEEEEEEEEEEEEEEE", "xxxxxxxxxxxxxxxx", "EExxxxxxxxxxxxxx"},
        {"iq4_xs", 8, true, "EEEEEEEEEEEEEEEE", "xxxxxxxxxxxxxxxx", "xxxxxxxxxxxxxxxx"},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct model_config config = config_of(16, expected[i].kv_heads);
        const char *name = expected[i].name;
        CU_ASSERT_STRING_EQUAL(letters(name, ROLE_V, config, expected[i].informed), expected[i].v);
        CU_ASSERT_STRING_EQUAL(letters(name, ROLE_O, config, expected[i].informed), expected[i].o);
        CU_ASSERT_STRING_EQUAL(letters(name, ROLE_DOWN, config, expected[i].informed), expected[i].down);
        CU_ASSERT_EQUAL(
            mix_type(mix_find(name), ROLE_GATE, 0, &config, expected[i].informed), mix_find(name)->base);
    }
}

/* Eight experts: k and v of 8 bits whatever the name says, o of 5 for most; an expert's down as a dense layer's. */
static void test_experts(void)
{
    struct model_config eight = config_of(8, 8), six = eight;
    eight.experts = 8;
    six.experts = 6;
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_V, eight, false), "88888888");
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_K, eight, false), "88888888");
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_Q, eight, false), "DDDDDDDD");
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_O, eight, false), "EEEEEEEE");
    CU_ASSERT_STRING_EQUAL(letters("q4_0", ROLE_V, eight, false), "88888888");
    CU_ASSERT_STRING_EQUAL(letters("q4_0", ROLE_O, eight, false), "00000000");
    CU_ASSERT_STRING_EQUAL(letters("q3_k_s", ROLE_O, eight, false), "EEEEEEEE");
    CU_ASSERT_STRING_EQUAL(letters("q3_k_l", ROLE_O, eight, false), "CCCCCCCC");
    CU_ASSERT_STRING_EQUAL(letters("q5_k_m", ROLE_O, eight, false), "EEEEEEEE");
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_EXPERT_DOWN, eight, false), "FDDFDDFF");
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_EXPERT_UP, eight, false), "DDDDDDDD");
    CU_ASSERT_STRING_EQUAL(letters("q4_k_m", ROLE_V, six, false), "FDDFDDFF");
    CU_ASSERT_STRING_EQUAL(letters("q3_k_m", ROLE_O, six, false), "DDDDDDDD");
    CU_ASSERT_STRING_EQUAL(letters("q2_k", ROLE_EXPERT_DOWN, six, false), "CCCCCCCC");
}

/* v of models as large as 70 billion weights; the head, also where it is the embedding. */
static void test_special_matrices(void)
{
    struct model_config large = config_of(80, 8), tied = config_of(16, 8), untied = tied;
    tied.tied = true;
    CU_ASSERT_EQUAL(mix_type(mix_find("q4_k_s"), ROLE_V, 40, &large, false), BLOCK_Q5_K);
    CU_ASSERT_EQUAL(mix_type(mix_find("q3_k_s"), ROLE_V, 40, &large, false), BLOCK_Q5_K);
    CU_ASSERT_EQUAL(mix_type(mix_find("q4_0"), ROLE_V, 40, &large, false), BLOCK_Q4_0);
    large.kv_heads = 32;
    CU_ASSERT_EQUAL(mix_type(mix_find("q4_k_s"), ROLE_V, 40, &large, false), BLOCK_Q4_K);
    CU_ASSERT_EQUAL(mix_type(mix_find("q4_0"), ROLE_HEAD, 0, &untied, false), BLOCK_Q6_K);
    CU_ASSERT_EQUAL(mix_type(mix_find("q4_0"), ROLE_EMBEDDING, 0, &untied, false), BLOCK_Q4_0);
    CU_ASSERT_EQUAL(mix_type(mix_find("q4_k_m"), ROLE_EMBEDDING, 0, &tied, false), BLOCK_Q6_K);
    CU_ASSERT_EQUAL(mix_type(mix_find("q8_0"), ROLE_EMBEDDING, 0, &tied, false), BLOCK_Q8_0);
}

static void test_names(void)
{
    static const char *const unknown[] = {"", "q4", "q4_k_m", "mxfp4", "tq1_0", "f16", "q4_0|q4_1"};
    CU_ASSERT_EQUAL(mix_block("q4_0"), BLOCK_Q4_0);
    CU_ASSERT_EQUAL(mix_block("iq4_xs"), BLOCK_IQ4_XS);
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        CU_ASSERT_EQUAL(mix_block(unknown[i]), BLOCK_NONE);
    CU_ASSERT_PTR_NULL(mix_find("q1_k"));
    CU_ASSERT_EQUAL(mix_shorter(BLOCK_Q4_K), BLOCK_Q5_0);
    CU_ASSERT_EQUAL(mix_shorter(BLOCK_Q5_0), BLOCK_NONE);
}

/* ---- plans ---- */

static struct quantize_options options_for(const char *folder, const char *type)
{
    struct quantize_options options = settings_defaults();
    options.input = folder;
    options.output = testing_path("out.nbl");
    options.type = type;
    options.common.quiet = true;
    options.common.threads = 1;
    options.dry_run = true;
    return options;
}

static const struct plan_tensor *planned(const struct quantize_result *result, const char *name)
{
    for (uint64_t i = 0; i < result->plan.count; i++) {
        if (strcmp(result->plan.tensors[i].target.name, name) == 0) return &result->plan.tensors[i];
    }
    REQUIRE(false, NULL);
    return NULL;
}

/* "Q4_0" or "F16", and an asterisk if that is a fallback. */
static const char *type_of(struct quantize_options options, const char *name)
{
    static char text[16];
    struct quantize_result result;
    struct error err = {0};
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    const struct plan_tensor *tensor = planned(&result, name);
    bool blocks = tensor->target.storage == STORAGE_BLOCKS;
    CU_ASSERT_EQUAL(tensor->recipe.keep, !blocks);
    snprintf(text, sizeof text, "%s%s",
        blocks ? block_info(tensor->target.block)->name : dtype_info(tensor->target.dtype)->name,
        tensor->fallback ? "*" : "");
    quantize_release(&result);
    return text;
}

static void check_refused(struct quantize_options options, const char *says)
{
    struct quantize_result result;
    struct error err = {0};
    CHECK(quantize_run(&result, &options, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CHECK(!strchr(err.text, '\n'), &err);
    quantize_release(&result);
}

static void test_plan(void)
{
    const char *folder = tiny_model_folder("whole", (struct tiny_model){.hidden = 256, .ffn = 512});
    struct quantize_options options = options_for(folder, "q4_k_m");
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q4_K");
    CU_ASSERT_STRING_EQUAL(type_of(options, EMBEDDING), "Q4_K");
    CU_ASSERT_STRING_EQUAL(type_of(options, "lm_head.weight"), "Q6_K");
    CU_ASSERT_STRING_EQUAL(type_of(options, NORM), "F32");
    options.pure = true;
    CU_ASSERT_STRING_EQUAL(type_of(options, "lm_head.weight"), "Q4_K");
    options.pure = false;
    options.head = "same";
    CU_ASSERT_STRING_EQUAL(type_of(options, "lm_head.weight"), "Q4_K");
    options.head = "f16";
    CU_ASSERT_STRING_EQUAL(type_of(options, "lm_head.weight"), "F16");
    const char *overrides[] = {"mlp=type:q8_0", "gate=type:bf16"}, *keeps[] = {"q_proj"};
    options.override = (struct option_list){.values = overrides, .count = 2};
    options.keep = (struct option_list){.values = keeps, .count = 1};
    CU_ASSERT_STRING_EQUAL(type_of(options, DOWN_PROJ), "Q8_0");
    CU_ASSERT_STRING_EQUAL(type_of(options, "model.layers.1.mlp.gate_proj.weight"), "BF16");
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "F32");
    options.kept_type = "f16";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "F16");
    overrides[1] = "gate=bits:4";
    check_refused(options, "say type:TYPE");
    overrides[1] = "gate=type:q9_0";
    check_refused(options, "type q9_0: one of q4_0");
    overrides[1] = "nothing=type:q8_0";
    check_refused(options, "matches no weight matrix");
}

/* A matrix of its own type in a file of codes. */
static void test_type_among_codes(void)
{
    const char *folder = tiny_model_folder("codes", (struct tiny_model){0});
    struct quantize_options options = options_for(folder, NULL);
    const char *overrides[] = {"q_proj=type:q8_0", "o_proj=type:q8_0,group:32"};
    options.override = (struct option_list){.values = overrides, .count = 1};
    options.embedding = "q4_0";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q8_0");
    CU_ASSERT_STRING_EQUAL(type_of(options, EMBEDDING), "Q4_0");
    options.override.count = 2;
    check_refused(options, "a type says all");
    options.override.count = 1;
    options.output = testing_path("out.gguf");
    check_refused(options, "GGUF holds block types");
}

static void test_fallback(void)
{
    const char *folder = tiny_model_folder("odd", (struct tiny_model){.hidden = 64, .ffn = 176});
    struct quantize_options options = options_for(folder, "q4_k_s");
    check_refused(options, "and others");
    check_refused(options, "--fallback auto");
    options.fallback = "q5_0";
    check_refused(options, DOWN_PROJ " and others: 176 columns do not divide into Q4_K blocks of 256");
    options.fallback = "q5_0,f16";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q5_0*");
    CU_ASSERT_STRING_EQUAL(type_of(options, DOWN_PROJ), "F16*");
    options.fallback = "q6_k,q8_0,f32";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q8_0*");
    CU_ASSERT_STRING_EQUAL(type_of(options, DOWN_PROJ), "F32*");
    options.fallback = "auto";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q5_0*");
    CU_ASSERT_STRING_EQUAL(type_of(options, EMBEDDING), "Q5_0*");
    CU_ASSERT_STRING_EQUAL(type_of(options, "lm_head.weight"), "Q8_0*");
    CU_ASSERT_STRING_EQUAL(type_of(options, DOWN_PROJ), "F16*");
    options.type = "q8_0";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q8_0");
    static const char *const wrong[] = {
        "", "q4_0,", "q4_k_m", "auto,f16", "q4_0 ,f16", "q4_0q4_0q4_0q4_0q4_0"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.fallback = wrong[i];
        check_refused(options, "is no type");
    }
}

/* What would do nothing is refused, whatever it is beside. */
static void test_misplaced(void)
{
    const char *folder = tiny_model_folder("any", (struct tiny_model){.hidden = 256, .ffn = 256});
    const struct quantize_options plain = options_for(folder, "q4_0");
    struct quantize_options options = plain;
    options.bits = "4";
    check_refused(options, "--bits is for codes");
    options = plain, options.group = "32";
    check_refused(options, "--group is for codes");
    options = plain, options.asymmetric = true;
    check_refused(options, "--asymmetric is for codes");
    options = plain, options.indivisible = "keep";
    check_refused(options, "--fallback says");
    options = plain, options.range = "minmax";
    check_refused(options, "--range minmax");
    options = plain, options.embedding = "8";
    check_refused(options, "--embedding 8");
    options = plain, options.embedding = "q4_k_m";
    check_refused(options, "--embedding q4_k_m: keep, same, bits");
    options = plain, options.type = NULL, options.pure = true;
    check_refused(options, "--pure needs --type");
    options = plain, options.range = "mse", options.imatrix = "none";
    check_refused(options, "--imatrix has no use for range mse");
    options = plain, options.method = "gptq", options.imatrix = "none";
    check_refused(options, "--imatrix is for method rtn");
}

/* q, k and v of Phi-3 are one matrix to llama-quantize, which has the type of v; gate and up, one matrix too, need no rule. */
static void test_fused(void)
{
    static const char *const names[] = {"q2_k", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_m", "iq4_xs"};
    struct model_config plain = config_of(16, 4), fused = plain;
    char v[128];
    fused.architecture = layers_architecture("Phi3ForCausalLM", 15);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        strcpy(v, letters(names[i], ROLE_V, plain, true));
        CU_ASSERT_STRING_EQUAL(letters(names[i], ROLE_Q, fused, true), v);
        CU_ASSERT_STRING_EQUAL(letters(names[i], ROLE_K, fused, true), v);
        CU_ASSERT_STRING_EQUAL(letters(names[i], ROLE_V, fused, true), v);
        CU_ASSERT_STRING_NOT_EQUAL(letters(names[i], ROLE_Q, plain, true), v);
        strcpy(v, letters(names[i], ROLE_GATE, fused, true));
        CU_ASSERT_STRING_EQUAL(letters(names[i], ROLE_UP, fused, true), v);
    }
}

/* Found out before the work, not when the file is written. */
static void test_fused_in_gguf(void)
{
    struct quantize_options options = options_for(testing_source("golden/logits/phi3"), "q4_0");
    const char *overrides[] = {"v_proj=type:q8_0", "(q|k)_proj=type:q8_0"};
    options.fallback = "auto";
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q4_0");
    options.override = (struct option_list){.values = overrides, .count = 1};
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q4_0");
    options.output = testing_path("fused.gguf");
    options.dry_run = true;
    check_refused(options, "would have another type than model.layers.0.self_attn.q_proj.weight");
    options.override.count = 2;
    CU_ASSERT_STRING_EQUAL(type_of(options, Q_PROJ), "Q8_0");
    options.override.count = 0;
    options.target_bits = 5;
    options.calibration.path = "text.txt";
    options.method = "gptq";
    check_refused(options, "which --target-bits and --target-size do not heed");
}

int main(void)
{
    static const struct test_case cases[] = {
        {"rules", test_rules},
        {"fused matrices", test_fused},
        {"experts", test_experts},
        {"special matrices", test_special_matrices},
        {"names", test_names},
        {"plan", test_plan},
        {"type among codes", test_type_among_codes},
        {"fallback", test_fallback},
        {"types of fused matrices", test_fused_in_gguf},
        {"misplaced options", test_misplaced},
    };
    return TESTING_RUN("mix", cases);
}
