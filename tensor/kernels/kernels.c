/* The kernel sets and the choice between them. */
#include "tensor/kernels/kernels.h"

#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static bool cpu_has_scalar(void)
{
    return true;
}

static bool cpu_has_avx2(void)
{
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx; /* clang 14 does not know the name "f16c" */
    bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && has_f16c;
#else
    return false;
#endif
}

static bool cpu_has_avx512(void)
{
#if defined(__x86_64__)
    return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

static void override_nothing(struct kernels *table)
{
    (void)table;
}

static void override_avx2(struct kernels *table)
{
    kernels_override_avx2(table);
    kernels_override_tiles_avx2(table);
    kernels_override_exp_avx2(table);
    kernels_override_cache_avx2(table);
    kernels_override_fit_avx2(table);
    kernels_override_blocks_avx2(table);
    kernels_override_sparse_avx2(table);
}

/* Later processors of the set have it; the results are the same. */
static bool cpu_has_vbmi2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
#else
    return false;
#endif
}

static void override_avx512(struct kernels *table)
{
    override_avx2(table);
    kernels_override_avx512(table);
    kernels_override_sparse_avx512(table);
    if (cpu_has_vbmi2()) kernels_override_sparse_vbmi2(table);
    kernels_override_fit_avx512(table);
}

/* Every set this program knows, the best last. */
static const struct kernel_set {
    const char *name;
    bool (*cpu_has)(void);
    void (*override)(struct kernels *table);
} sets[] = {
    {"scalar", cpu_has_scalar, override_nothing},
    {"avx2", cpu_has_avx2, override_avx2},
    {"avx512", cpu_has_avx512, override_avx512},
};
#define SET_COUNT (sizeof sets / sizeof *sets)

static struct kernels chosen;
static const struct kernels *in_use = &kernels_scalar;

const struct kernels *kernels(void)
{
    return in_use;
}

static void use(const struct kernel_set *set)
{
    chosen = kernels_scalar;
    chosen.name = set->name;
    set->override(&chosen);
    in_use = &chosen;
}

enum status kernels_select(const char *name, struct error *err)
{
    bool best = name == NULL || *name == '\0';
    for (size_t i = SET_COUNT; i-- > 0;) {
        if (!best && strcmp(sets[i].name, name) != 0) continue;
        if (sets[i].cpu_has()) {
            use(&sets[i]);
            return OK;
        }
        if (!best) return fail(err, ERR_UNSUPPORTED, "kernel set %s: this processor lacks it", name);
    }
    return fail(err, ERR_USAGE, "kernel set \"%s\" is unknown; there are scalar, avx2 and avx512", name);
}
