/* Real checkpoints against the reference values of an independent implementation (../shared/data/README.md): ten
 * perplexities to within 0.05 percent, the number of tokens scored exactly, and the first tokens. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/judge/perplexity.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/testing.h"

struct reference {
    const char *model, *text;
    uint64_t tokens, context;
    double gptq, llama_cpp;
    uint64_t gptq_scored, llama_cpp_scored;
};

static const struct reference references[] = {
    {"stories260K", "stories-eval.txt", 60387, 256, 4.83499, 4.49186, 59925, 29845},
    {"stories260K", "stories-eval.txt", 60387, 512, 4.68313, 4.57115, 59787, 29835},
    {"TinyStories-656K", "stories-eval.txt", 29380, 256, 39.6181, 32.7615, 29070, 14478},
    {"TinyStories-656K", "stories-eval.txt", 29380, 512, 40.3792, 40.3104, 29127, 14535},
    {"wiki-6M", "wiki-eval.txt", 97007, 256, 191.024, 187.740, 96390, 48006},
};

struct first_tokens {
    const char *model, *text;
    uint32_t ids[12];
    uint64_t count;
};

static const struct first_tokens firsts[] = {
    {"wiki-6M", "wiki-eval.txt", {1, 3957, 3957, 13, 477, 3661, 3959, 328, 1497, 352, 477, 3957}, 12},
    {"stories260K", "stories-eval.txt", {1, 385, 328, 432, 261, 376, 298, 315, 421, 395}, 10},
    {"TinyStories-656K", "stories-eval.txt", {1, 80, 429, 598, 303, 489, 1148, 177, 1051, 652}, 10},
};

static const char *shared(const char *kind, const char *name)
{
    char relative[512];
    snprintf(relative, sizeof relative, "%s/%s", kind, name);
    return testing_shared(relative);
}

static void measure(const struct reference *reference, enum perplexity_protocol protocol)
{
    const bool gptq = protocol == PERPLEXITY_GPTQ;
    const double expected = gptq ? reference->gptq : reference->llama_cpp;
    struct error err = {0};
    struct pool *pool = NULL;
    struct model *model = NULL;
    struct perplexity_result result = {0};
    uint64_t bytes;
    char *text = testing_read(shared("text", reference->text), &bytes);
    REQUIRE(!pool_create(&pool, 0, &err), &err);
    REQUIRE(!model_open(&model, shared("models", reference->model), pool, &err), &err);
    const struct perplexity_options options = {.protocol = protocol, .context = reference->context};
    CHECK(!perplexity_measure(&result, model, text, bytes, &options, NULL, &err), &err);
    const double off = fabs(result.perplexity.value / expected - 1);
    printf("  %-16s context %3d %-9s %9.4f, reference %9.4f, off by %.4f %%, %.0f tokens/s\n",
        reference->model, (int)reference->context, perplexity_protocol_name(protocol),
        result.perplexity.value, expected, 100 * off, result.tokens_per_second);
    CU_ASSERT(off <= 0.0005);
    CU_ASSERT_EQUAL(result.tokens, reference->tokens);
    CU_ASSERT_EQUAL(result.tokens_scored, gptq ? reference->gptq_scored : reference->llama_cpp_scored);
    memory_free(result.window_nll);
    model_close(model);
    pool_free(pool);
    memory_free(text);
}

static void perplexities(void)
{
    for (size_t i = 0; i < sizeof references / sizeof *references; i++) {
        measure(&references[i], PERPLEXITY_GPTQ);
        measure(&references[i], PERPLEXITY_LLAMA_CPP);
    }
}

static void first_tokens(void)
{
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        struct error err = {0};
        struct tokenizer *tokenizer = NULL;
        uint32_t *ids = NULL;
        uint64_t json_bytes, text_bytes, count;
        char name[256];
        snprintf(name, sizeof name, "%s/tokenizer.json", firsts[i].model);
        char *json = testing_read(shared("models", name), &json_bytes);
        char *text = testing_read(shared("text", firsts[i].text), &text_bytes);
        REQUIRE(!tokenizer_create(&tokenizer, name, json, json_bytes, &err), &err);
        REQUIRE(!tokenizer_encode(tokenizer, &ids, &count, text, text_bytes, true, &err), &err);
        CU_ASSERT(count >= firsts[i].count);
        CU_ASSERT(memcmp(ids, firsts[i].ids, firsts[i].count * sizeof *ids) == 0);
        memory_free(ids);
        tokenizer_free(tokenizer);
        memory_free(text);
        memory_free(json);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"first tokens", first_tokens},
        {"ten perplexities", perplexities},
    };
    if (!testing_shared("models/wiki-6M"))
        testing_skip("../shared/data is absent: no real checkpoints to measure");
    struct error err = {0};
    REQUIRE(!kernels_select(NULL, &err), &err);
    return TESTING_RUN("shared_perplexity", cases);
}
