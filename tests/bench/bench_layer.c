/* How long quantizing one linear layer takes, step by step, beside what BLAS and LAPACK take for the arithmetic that no
 * implementation of the published algorithm can avoid. scripts/bench-gptq.sh runs it.
 *
 * Ours and the floor take turns on the same inputs, each step of one right before the same step of the other, and every figure
 * is a median, so that a drifting machine meets both. What the default method does beyond the published algorithm has no
 * floor; it is timed once, after that. */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/memory.h"
#include "base/report.h"
#include "tensor/block_parts.h"
#include "tensor/hessian.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"
#include "tensor/obs.h"

/* The floor is OpenBLAS with threads of its own, which tensor/linalg.h exists to prevent, so it is called past it. Only
 * tensor/linalg.c may include its headers; these are the declarations we need (enums of C have the type int here). */
extern void openblas_set_num_threads(int threads);
extern void cblas_sgemm(int layout, int a_form, int b_form, int m, int n, int k, float alpha, const float *a,
    int a_stride, const float *b, int b_stride, float beta, float *c, int c_stride);
extern void cblas_ssyrk(int layout, int triangle, int form, int n, int k, float alpha, const float *a,
    int a_stride, float beta, float *c, int c_stride);
extern void dpotrf_(const char *triangle, const int *n, double *a, const int *stride, int *info);
extern void dtrtri_(
    const char *triangle, const char *diagonal, const int *n, double *a, const int *stride, int *info);
enum { ROW_MAJOR = 101, AS_IT_IS = 111, TURNED = 112, UPPER = 121 };

enum {
    REPEATS_MOST = 15,
    CALL = 2048, /* tokens of one hessian_add, as the walk shows them */
    BLOCK = 128, /* columns between two products, as the solver and the paper have it */
    SOURCES = 8
};

struct bench {
    uint64_t rows, cols, tokens, repeats;
    uint32_t bits, group;
    enum block_type block; /* instead of bits and group */
    unsigned threads;
    struct pool *pool;
    float *x, *original, *residual; /* [tokens][cols], the same, [tokens][rows] */
    float *weights;                 /* [rows][cols] */
    struct hessian hessian;
    struct obs_result result;
};

/* Seconds of every repeat. */
struct times {
    double seconds[REPEATS_MOST];
    uint64_t count;
};

struct step {
    struct times ours, floor;
};

static void require(enum status status, const struct error *err)
{
    if (status == OK) return;
    exit(report_failure("bench-layer", err));
}

static void *room(uint64_t count, uint64_t size)
{
    struct error err = {0};
    void *memory = memory_new(count, size, &err);
    require(memory ? OK : ERR_MEMORY, &err);
    return memory;
}

/* ---- times ---- */

static int compare_seconds(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(struct times times)
{
    qsort(times.seconds, times.count, sizeof *times.seconds, compare_seconds);
    return times.count ? times.seconds[times.count / 2] : 0;
}

/* OpenBLAS's own workers spin for a moment after a product before they sleep. */
static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
}

static double begin_ours(void)
{
    openblas_set_num_threads(1);
    rest();
    return report_seconds();
}

static double begin_floor(const struct bench *bench)
{
    openblas_set_num_threads((int)bench->threads);
    rest();
    return report_seconds();
}

static void note(struct times *times, double start)
{
    times->seconds[times->count++] = report_seconds() - start;
}

/* ---- inputs ---- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* Four uniform numbers of 16 bits: near enough to normal, deviation about 1. */
static float random_normal(uint64_t *state)
{
    uint64_t z = next_random(state);
    float sum = 0;
    for (int i = 0; i < 4; i++, z >>= 16)
        sum += (float)(z & 0xffff);
    return (sum - 2 * 65535) * (1.7320508f / 65536);
}

/* Rows of noise to which a few sources common to all columns are added. */
struct filling {
    float *out;
    const float *mixing; /* [SOURCES][cols], or NULL */
    const float *base;   /* [rows][cols] that the noise is added to, or NULL */
    uint64_t cols, seed;
    float deviation;
};

static enum status fill_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)worker, (void)err;
    const struct filling *filling = context;
    uint64_t cols = filling->cols, state = filling->seed * 0x100000001b3 + index * 0x10001;
    float *row = filling->out + index * cols, source[SOURCES];
    for (uint64_t s = 0; s < SOURCES; s++)
        source[s] = random_normal(&state);
    for (uint64_t j = 0; j < cols; j++)
        row[j] = filling->deviation * random_normal(&state) +
                 (filling->base ? filling->base[index * cols + j] : 0);
    for (uint64_t s = 0; filling->mixing && s < SOURCES; s++)
        for (uint64_t j = 0; j < cols; j++)
            row[j] += source[s] * filling->mixing[s * cols + j];
    return OK;
}

static float *fill(struct bench *bench, uint64_t rows, struct filling filling)
{
    struct error err = {0};
    filling.out = room(rows * filling.cols, sizeof(float));
    require(pool_run(bench->pool, rows, fill_row, &filling, &err), &err);
    return filling.out;
}

static void make_inputs(struct bench *bench)
{
    uint64_t cols = bench->cols, groups = cols / bench->group;
    float *mixing = fill(bench, SOURCES, (struct filling){.cols = cols, .seed = 1, .deviation = 0.3f});
    bench->x = fill(
        bench, bench->tokens, (struct filling){.mixing = mixing, .cols = cols, .seed = 2, .deviation = 1});
    bench->weights = fill(bench, bench->rows, (struct filling){.cols = cols, .seed = 3, .deviation = 0.02f});
    bench->result.codes = room(bench->rows * cols, 1);
    bench->result.scales = room(bench->rows * groups, sizeof *bench->result.scales);
    bench->result.blocks = room(bench->rows * cols, 2); /* more than any block takes */
    memory_free(mixing);
}

/* ---- the published algorithm ---- */

static void add_all(struct bench *bench, bool cross, bool residual)
{
    struct error err = {0};
    struct hessian *hessian = &bench->hessian;
    require(
        hessian_create(hessian, bench->cols, cross, residual ? bench->rows : 0, bench->threads, &err), &err);
    for (uint64_t t = 0; t < bench->tokens; t += CALL) {
        uint64_t count = bench->tokens - t < CALL ? bench->tokens - t : CALL;
        require(hessian_add(hessian, bench->pool, bench->x + t * bench->cols,
                    cross ? bench->original + t * bench->cols : NULL,
                    residual ? bench->residual + t * bench->rows : NULL, count, &err),
            &err);
    }
    require(hessian_mean(hessian, bench->pool, &err), &err);
}

static void factor_all(struct bench *bench)
{
    struct error err = {0};
    require(hessian_factor(&bench->hessian, bench->pool, 0.01, &err), &err);
}

static void finish(struct bench *bench)
{
    struct error err = {0};
    require(hessian_finish(&bench->hessian, bench->pool, &err), &err);
}

static struct obs_problem published(const struct bench *bench)
{
    return (struct obs_problem){.rows = bench->rows,
        .cols = bench->cols,
        .scheme = {bench->bits, bench->group, false},
        .block = bench->block,
        .target = bench->weights,
        .damped = bench->hessian.damped,
        .factor = bench->hessian.factor,
        .range = GRID_MINMAX,
        .without_power = true};
}

static double solve(struct bench *bench, struct obs_problem problem)
{
    struct error err = {0};
    double start = begin_ours();
    require(obs_quantize(&problem, &bench->result, bench->pool, &err), &err);
    return report_seconds() - start;
}

/* ---- floors ---- */

/* X^T X in pieces of `most` tokens. */
static void floor_hessian(const struct bench *bench, float *sum, uint64_t most)
{
    int cols = (int)bench->cols;
    for (uint64_t t = 0; t < bench->tokens; t += most) {
        uint64_t count = bench->tokens - t < most ? bench->tokens - t : most;
        cblas_ssyrk(ROW_MAJOR, UPPER, TURNED, cols, (int)count, 1, bench->x + t * bench->cols, cols,
            t ? 1 : 0, sum, cols);
    }
}

/* The same arithmetic as from H + l to U but for the order of columns: a Cholesky factor, and its inverse. */
static void floor_factor(const struct bench *bench, double *a)
{
    int n = (int)bench->cols, info = 0;
    dpotrf_("L", &n, a, &n, &info);
    if (info == 0) dtrtri_("L", "N", &n, a, &n, &info);
    if (info == 0) return;
    fprintf(stderr, "bench-layer: LAPACK failed with %d\n", info);
    exit(1);
}

/* H + l in double precision: the floor factors a copy of its own. */
static double *copy_damped(const struct bench *bench)
{
    uint64_t n = bench->cols;
    double *copy = room(n, n * sizeof *copy), mean = 0;
    memcpy(copy, bench->hessian.second, n * n * sizeof *copy);
    for (uint64_t j = 0; j < n; j++)
        mean += copy[j * n + j] / (double)n;
    for (uint64_t j = 0; j < n; j++)
        copy[j * n + j] += 0.01 * mean;
    return copy;
}

/* After every block of columns, its errors [rows][BLOCK] times a strip of the factor go into all later columns. */
static void floor_columns(const struct bench *bench, const float *errors, float *weights)
{
    uint64_t cols = bench->cols;
    for (uint64_t end = BLOCK; end < cols; end += BLOCK) {
        cblas_sgemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, (int)bench->rows, (int)(cols - end), BLOCK, -1, errors,
            BLOCK, bench->hessian.factor + (end - BLOCK) * cols + end, (int)cols, 1, weights + end,
            (int)cols);
    }
}

/* ---- beside each other ---- */

struct comparison {
    struct step hessian, factor, columns;
    struct times at_once; /* the other floor of the Hessian */
};

static void compare_hessian(struct bench *bench, struct comparison *to)
{
    float *sum = room(bench->cols, bench->cols * sizeof *sum);
    memset(sum, 0, bench->cols * bench->cols * sizeof *sum); /* the pages are there before the clock runs */
    double start = begin_floor(bench);
    floor_hessian(bench, sum, CALL);
    note(&to->hessian.floor, start);
    start = begin_ours();
    add_all(bench, false, false);
    note(&to->hessian.ours, start);
    start = begin_floor(bench);
    floor_hessian(bench, sum, bench->tokens);
    note(&to->at_once, start);
    memory_free(sum);
}

static void compare_factor(struct bench *bench, struct comparison *to)
{
    double *copy = copy_damped(bench), start = begin_floor(bench);
    floor_factor(bench, copy);
    note(&to->factor.floor, start);
    memory_free(copy);
    start = begin_ours();
    factor_all(bench);
    finish(bench);
    note(&to->factor.ours, start);
}

static void compare_columns(struct bench *bench, struct comparison *to)
{
    float *errors = room(bench->rows, BLOCK * sizeof *errors);
    float *weights = room(bench->rows, bench->cols * sizeof *weights);
    memcpy(weights, bench->weights, bench->rows * bench->cols * sizeof *weights);
    for (uint64_t i = 0; i < bench->rows * BLOCK; i++)
        errors[i] = 1e-3f;
    double start = begin_floor(bench);
    floor_columns(bench, errors, weights);
    note(&to->columns.floor, start);
    memory_free(errors);
    memory_free(weights);
    struct times *ours = &to->columns.ours;
    ours->seconds[ours->count++] = solve(bench, published(bench));
}

/* The median of all repeats, and the fastest: what others do on the machine at the same time only ever adds. */
struct figure {
    double middle, fastest;
};

static struct figure figure_of(struct times times)
{
    struct figure figure = {median(times), INFINITY};
    for (uint64_t i = 0; i < times.count; i++)
        figure.fastest = fmin(figure.fastest, times.seconds[i]);
    return figure;
}

static void compared_row(const char *name, struct figure ours, struct figure floor)
{
    printf("%-34s %9.2f %9.2f %7.2f %12.2f %9.2f %7.2f\n", name, ours.middle, floor.middle,
        ours.middle / floor.middle, ours.fastest, floor.fastest, ours.fastest / floor.fastest);
}

static struct figure sum_of(struct figure a, struct figure b, struct figure c)
{
    return (struct figure){a.middle + b.middle + c.middle, a.fastest + b.fastest + c.fastest};
}

static void print_comparison(const struct comparison *of)
{
    struct figure chunked = figure_of(of->hessian.floor), at_once = figure_of(of->at_once);
    struct figure syrk = {fmin(chunked.middle, at_once.middle), fmin(chunked.fastest, at_once.fastest)};
    struct figure factor = figure_of(of->factor.floor), columns = figure_of(of->columns.floor);
    struct figure ours[] = {
        figure_of(of->hessian.ours), figure_of(of->factor.ours), figure_of(of->columns.ours)};
    printf("%-34s %27s %30s\n", "", "median", "fastest");
    printf("%-34s %9s %9s %7s %12s %9s %7s\n", "the published algorithm", "ours s", "floor s", "ratio",
        "ours s", "floor s", "ratio");
    compared_row("Hessian", ours[0], syrk);
    compared_row("factor", ours[1], factor);
    compared_row("columns (min-max ranges)", ours[2], columns);
    compared_row("total", sum_of(ours[0], ours[1], ours[2]), sum_of(syrk, factor, columns));
    printf(
        "floor: ssyrk of all tokens (the faster of %d at a time, %.2f s, and at once, %.2f s); dpotrf and\n"
        "dtrtri; the products of every block of %d columns with the later ones and nothing else\n\n",
        CALL, chunked.middle, at_once.middle, BLOCK);
}

/* ---- beyond the published algorithm ---- */

static void extra_row(const char *name, double seconds)
{
    printf("%-34s %9.2f\n", name, seconds);
}

static double timed_sums(struct bench *bench, bool cross, bool residual)
{
    double start = begin_ours();
    add_all(bench, cross, residual);
    return report_seconds() - start;
}

static void time_sums(struct bench *bench, double plain)
{
    struct filling near = {.base = bench->x, .cols = bench->cols, .seed = 4, .deviation = 0.1f};
    bench->original = fill(bench, bench->tokens, near);
    bench->residual =
        fill(bench, bench->tokens, (struct filling){.cols = bench->rows, .seed = 5, .deviation = 0.1f});
    double cross = timed_sums(bench, true, false);
    hessian_free(&bench->hessian);
    double both = timed_sums(bench, true, true);
    extra_row("sum of (x_o - x) x^T", cross - plain);
    extra_row("sum of (r_o - r) x^T", both - cross);
    memory_free(bench->original);
    memory_free(bench->residual);
}

/* By rising index of channel modulo 64, which moves everything. */
static double timed_permutation(struct bench *bench)
{
    struct error err = {0};
    uint32_t *order = room(bench->cols, sizeof *order);
    double *key = room(bench->cols, sizeof *key);
    for (uint64_t j = 0; j < bench->cols; j++)
        key[j] = (double)(j % 64);
    require(obs_order(order, OBS_ORDER_STATIC, key, bench->cols, NULL, 0, &err), &err);
    double start = begin_ours();
    require(hessian_permute(&bench->hessian, order, &err), &err);
    double seconds = report_seconds() - start;
    memory_free(order);
    memory_free(key);
    return seconds;
}

static double timed_correction(struct bench *bench)
{
    struct error err = {0};
    float *target = room(bench->rows, bench->cols * sizeof *target);
    memcpy(target, bench->weights, bench->rows * bench->cols * sizeof *target);
    double start = begin_ours();
    require(hessian_correct(&bench->hessian, bench->pool, target, bench->rows, true, &err), &err);
    double seconds = report_seconds() - start;
    memory_free(target);
    return seconds;
}

/* The column loop with one thing more at a time. */
static void time_columns(struct bench *bench)
{
    struct obs_problem problem = published(bench);
    double last = solve(bench, problem), now;
    problem.without_power = false;
    extra_row("report: power of the outputs", (now = solve(bench, problem)) - last);
    last = now;
    problem.range = GRID_MSE;
    problem.importance = bench->hessian.diagonal;
    extra_row("range search", (now = solve(bench, problem)) - last);
    last = now;
    problem.safeguard = true;
    extra_row("safeguard (range search, 2 errors)", (now = solve(bench, problem)) - last);
    last = now;
    problem.sweeps = 1;
    double once = solve(bench, problem);
    problem.sweeps = 3;
    double round = (solve(bench, problem) - once) / 2;
    extra_row("polish, per round", round);
    extra_row("polish, error afterwards", once - last - round);
}

static void time_extras(struct bench *bench, const struct comparison *published_times)
{
    printf("%-34s %9s\n", "beyond it, once and without a floor", "ours s");
    time_sums(bench, median(published_times->hessian.ours));
    extra_row("act-order: permuting all sums", timed_permutation(bench));
    factor_all(bench);
    extra_row("target weights W*", timed_correction(bench));
    finish(bench);
    time_columns(bench);
}

/* ---- main ---- */

static void print_load(const char *when)
{
    double load = -1;
    if (getloadavg(&load, 1) == 1) printf("load average %s: %.2f\n", when, load);
}

static void run(struct bench *bench, bool extras)
{
    struct comparison comparison = {0};
    printf("%" PRIu64 " x %" PRIu64 " weights, %" PRIu64
           " tokens, %u bits by %u, %u threads, median of %" PRIu64 ", OpenBLAS for %s\n",
        bench->rows, bench->cols, bench->tokens, bench->bits, bench->group, bench->threads, bench->repeats,
        linalg_core());
    if (bench->block) printf("into %s blocks instead\n", block_info(bench->block)->name);
    print_load("before");
    fflush(stdout);
    make_inputs(bench);
    for (uint64_t i = 0; i < bench->repeats; i++) {
        compare_hessian(bench, &comparison);
        compare_factor(bench, &comparison);
        compare_columns(bench, &comparison);
        hessian_free(&bench->hessian);
    }
    print_comparison(&comparison);
    fflush(stdout);
    if (extras) time_extras(bench, &comparison);
    print_load("after");
    printf("peak memory: %.2f GB\n", (double)memory_peak_bytes() / 1e9);
}

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && value >= least && value <= most) return value;
    fprintf(stderr, "bench-layer: '%s' is not a number from %" PRIu64 " to %" PRIu64 "\n", text, least, most);
    exit(2);
}

static enum block_type block_named(const char *name)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (block_form(type) && strcasecmp(block_info(type)->name, name) == 0) return type;
    }
    fprintf(stderr, "bench-layer: '%s' is not a block type that is written\n", name);
    exit(2);
}

static bool parse(struct bench *bench, int argc, char **argv)
{
    static const struct option options[] = {{"rows", required_argument, NULL, 'r'},
        {"cols", required_argument, NULL, 'c'}, {"tokens", required_argument, NULL, 't'},
        {"repeats", required_argument, NULL, 'n'}, {"bits", required_argument, NULL, 'b'},
        {"group", required_argument, NULL, 'g'}, {"type", required_argument, NULL, 'k'},
        {"threads", required_argument, NULL, 'j'}, {"no-extras", no_argument, NULL, 'x'}, {0}};
    bool extras = true;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'r':
            bench->rows = number(optarg, 1, 1 << 17);
            break;
        case 'c':
            bench->cols = number(optarg, 1, 1 << 15);
            break;
        case 't':
            bench->tokens = number(optarg, 1, 1 << 22);
            break;
        case 'n':
            bench->repeats = number(optarg, 1, REPEATS_MOST);
            break;
        case 'b':
            bench->bits = (uint32_t)number(optarg, 2, 8);
            break;
        case 'g':
            bench->group = (uint32_t)number(optarg, 8, 1 << 15);
            break;
        case 'k':
            bench->block = block_named(optarg);
            break;
        case 'j':
            bench->threads = (unsigned)number(optarg, 1, 1024);
            break;
        case 'x':
            extras = false;
            break;
        default:
            exit(2);
        }
    }
    const struct block_form *form = block_form(bench->block);
    if (bench->cols % (form ? form->weights : bench->group) == 0 && optind == argc) return extras;
    fprintf(stderr, "bench-layer: --cols must be a multiple of --group or of a block, and there are no other "
                    "arguments\n");
    exit(2);
}

int main(int argc, char **argv)
{
    struct bench bench = {
        .rows = 4096, .cols = 4096, .tokens = 32 * 512, .repeats = 3, .bits = 4, .group = 128};
    struct error err = {0};
    bool extras = parse(&bench, argc, argv);
    require(linalg_init(&err), &err);
    require(kernels_select(getenv("NIBBLE_KERNELS"), &err), &err);
    require(pool_create(&bench.pool, bench.threads, &err), &err);
    bench.threads = pool_workers(bench.pool);
    run(&bench, extras);
    hessian_free(&bench.hessian);
    memory_free(bench.x);
    memory_free(bench.weights);
    memory_free(bench.result.codes);
    memory_free(bench.result.scales);
    memory_free(bench.result.blocks);
    pool_free(bench.pool);
    return 0;
}
