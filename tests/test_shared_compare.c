/* Real checkpoints against an independent implementation (../shared/data/README.md, row "RTN, min-max"): KL divergence of
 * rounding to 4 bits in groups of 32, within 3 percent. */
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "quantize/quantize.h"
#include "runtime-check/judge/compare.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/testing.h"

struct reference {
    const char *model;
    double kld, perplexity;
};

static const struct reference references[] = {
    {"models/TinyStories-656K", 0.0643, 42.05},
    {"models/stories260K", 0.1156, 5.322},
};

static const char *quantized(const char *model)
{
    struct error err = {0};
    struct quantize_result result;
    struct quantize_options options = settings_defaults();
    testing_folder();
    options.input = testing_shared(model);
    options.output = testing_path("small.nbl");
    options.bits = "4";
    options.group = "32";
    options.indivisible = "row";
    options.common.quiet = true;
    REQUIRE(!quantize_run(&result, &options, &err), &err);
    quantize_release(&result);
    return options.output;
}

static void measure(const struct reference *reference)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct model *base = NULL, *small = NULL;
    struct comparison out = {0};
    const struct compare_options options = {.text = {.protocol = PERPLEXITY_GPTQ, .context = 256}};
    uint64_t bytes;
    char *text = testing_read(testing_shared("text/stories-eval.txt"), &bytes);
    REQUIRE(!pool_create(&pool, 0, &err), &err);
    REQUIRE(!model_open(&base, testing_shared(reference->model), pool, &err), &err);
    REQUIRE(!model_open(&small, quantized(reference->model), pool, &err), &err);
    const struct compare_base stands = {.model = base};
    CHECK(!compare_models(&out, &stands, &small, 1, text, bytes, &options, NULL, &err), &err);
    printf("  %-24s KLD %.5f +- %.5f, reference %.4f; perplexity %.4f, reference %.4f\n", reference->model,
        out.kld.value, out.kld.error, reference->kld, out.perplexity.value, reference->perplexity);
    CU_ASSERT(fabs(out.kld.value / reference->kld - 1) <= 0.03);
    CU_ASSERT(fabs(out.perplexity.value / reference->perplexity - 1) <= 0.01);
    model_close(small);
    model_close(base);
    pool_free(pool);
    memory_free(text);
}

static void rounding_to_four_bits(void)
{
    for (size_t i = 0; i < sizeof references / sizeof *references; i++)
        measure(&references[i]);
}

int main(void)
{
    static const struct test_case cases[] = {{"rounding to 4 bits", rounding_to_four_bits}};
    if (!testing_shared("models/TinyStories-656K"))
        testing_skip("../shared/data is absent: no real checkpoints to measure");
    struct error err = {0};
    REQUIRE(!kernels_select(NULL, &err), &err);
    return TESTING_RUN("shared_compare", cases);
}
