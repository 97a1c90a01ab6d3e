/* Stored base logits: what is read is what was written, within the bound that base_logits.h states; the bytes do not depend on
 * threads; and whatever a file holds, reading it ends in an error or in rows that can be used. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "runtime-check/judge/base_logits.h"
#include "runtime-check/judge/divergence.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

/* ---- something to store ---- */

struct sample {
    struct pool *pool;
    struct windows windows;
    struct base_logits_info info;
    uint64_t rows;
    float *logits; /* [rows][vocabulary] */
};

/* Rows of several kinds: near one another, far apart, one token that stands out upwards or downwards, all equal. */
static void fill_row(float *row, uint64_t vocabulary, uint64_t kind, uint64_t *random)
{
    static const float scales[] = {0.1f, 3, 30, 3, 3, 0};
    const float scale = scales[kind % 6], offset = kind % 4 == 1 ? 500 : 0;
    for (uint64_t i = 0; i < vocabulary; i++) {
        const float uniform = (float)(testing_random(random) >> 40) / (1 << 24);
        row[i] = offset + scale * (2 * uniform - 1) + scale * logf(uniform + 1e-6f) / 3;
    }
    if (kind % 6 == 3) row[vocabulary / 2] = offset + 2000;
    if (kind % 6 == 4) row[vocabulary / 3] = offset - 2000;
}

static void make_sample(struct sample *sample, unsigned threads, uint32_t vocabulary, uint64_t context,
    uint64_t windows, uint64_t top_k)
{
    struct error err = {0};
    uint64_t random = vocabulary;
    *sample = (struct sample){
        .windows = {.context = context, .count = windows, .token_count = context * windows},
        .info = {.context = context,
            .windows = windows,
            .vocabulary = vocabulary,
            .top_k = top_k,
            .model_bytes = 12345,
            .model_weights = 678,
            .text_bytes = 91011,
            .text_crc32 = 0xCAFEF00D,
            .model = "base-model"},
    };
    REQUIRE(!pool_create(&sample->pool, threads, &err), &err);
    windows_place(&sample->windows, PERPLEXITY_GPTQ);
    sample->rows = windows * sample->windows.scored;
    sample->windows.tokens = memory_new(context * windows, sizeof(uint32_t), &err);
    sample->logits = memory_new(sample->rows * vocabulary, sizeof(float), &err);
    REQUIRE(sample->windows.tokens && sample->logits, &err);
    for (uint64_t i = 0; i < context * windows; i++)
        sample->windows.tokens[i] = (uint32_t)(testing_random(&random) % vocabulary);
    for (uint64_t row = 0; row < sample->rows; row++)
        fill_row(sample->logits + row * vocabulary, vocabulary, row, &random);
}

static void free_sample(struct sample *sample)
{
    windows_free(&sample->windows);
    memory_free(sample->logits);
    pool_free(sample->pool);
}

/* Store it, so many rows at a time. */
static enum status store(struct sample *sample, const char *path, uint64_t at_once, struct error *err)
{
    struct base_logits_writer *writer = NULL;
    enum status status =
        base_logits_create(&writer, path, true, &sample->info, &sample->windows, sample->pool, err);
    for (uint64_t row = 0; row < sample->rows && !status; row += at_once) {
        const uint64_t left = sample->rows - row, count = left < at_once ? left : at_once;
        status = base_logits_add(writer, sample->logits + row * sample->info.vocabulary, count, err);
    }
    if (!status) return base_logits_commit(writer, err);
    base_logits_abandon(writer);
    return status;
}

static const float *row_of(const struct sample *sample, uint64_t row)
{
    return sample->logits + row * sample->info.vocabulary;
}

static uint32_t first_of(const float *row, uint64_t vocabulary)
{
    uint32_t first = 0;
    for (uint32_t i = 1; i < vocabulary; i++)
        first = row[i] > row[first] ? i : first;
    return first;
}

static double log_sum_of(const float *row, uint64_t vocabulary)
{
    const double top = (double)row[first_of(row, vocabulary)];
    double sum = 0;
    for (uint64_t i = 0; i < vocabulary; i++)
        sum += exp((double)row[i] - top);
    return top + log(sum);
}

/* ---- round trips ---- */

static void check_common(
    const struct base_logits *stored, const struct sample *sample, uint64_t at, uint64_t row)
{
    const uint64_t vocabulary = sample->info.vocabulary, scored = sample->windows.scored;
    const uint32_t target = windows_target(&sample->windows, row / scored, row % scored);
    const double log_prob = (double)row_of(sample, row)[target] - log_sum_of(row_of(sample, row), vocabulary);
    CU_ASSERT_DOUBLE_EQUAL(base_logits_target(stored, at), log_prob, 5e-7 + 1e-7 * fabs(log_prob));
    CU_ASSERT_EQUAL(base_logits_first(stored, at), first_of(row_of(sample, row), vocabulary));
}

/* Every log-probability within half a step of the true one, and the divergence within the bound: step^2 / 8, and what single
 * precision exponentials leave. */
static double check_whole(
    const struct base_logits *stored, const struct sample *sample, uint64_t at, uint64_t row)
{
    static float decoded[16384];
    const uint64_t vocabulary = sample->info.vocabulary;
    const float *true_row = row_of(sample, row);
    const double log_sum = log_sum_of(true_row, vocabulary),
                 top = (double)true_row[first_of(true_row, vocabulary)];
    struct divergence_row divergence;
    double lowest = top, worst = 0;
    base_logits_row(stored, at, decoded);
    for (uint64_t i = 0; i < vocabulary; i++)
        lowest = fmin(lowest, (double)true_row[i]);
    const double range = fmin(top - lowest, (double)BASE_LOGITS_RANGE), step = range / 65535;
    for (uint64_t i = 0; i < vocabulary; i++) {
        const double expected = fmax((double)true_row[i], top - range) - log_sum;
        worst = fmax(worst, fabs((double)decoded[i] - expected));
    }
    CU_ASSERT(worst <= 0.51 * step + 1e-5);
    check_common(stored, sample, at, row);
    divergence_row(&divergence, true_row, decoded, vocabulary, 0);
    CU_ASSERT(divergence.kld <= step * step / 8 + 2e-7);
    return divergence.kld;
}

static struct base_logits *opened(const struct sample *sample, const char *path)
{
    struct error err = {0};
    struct base_logits *stored = NULL;
    REQUIRE(!base_logits_open(&stored, path, sample->pool, &err), &err);
    const struct base_logits_info *info = base_logits_info(stored);
    const struct windows *windows = base_logits_windows(stored);
    CU_ASSERT(info->protocol == sample->info.protocol && info->context == sample->info.context);
    CU_ASSERT(info->windows == sample->info.windows && info->vocabulary == sample->info.vocabulary);
    CU_ASSERT(info->top_k == sample->info.top_k && info->scored == sample->windows.scored);
    CU_ASSERT(info->model_bytes == 12345 && info->model_weights == 678 && info->text_bytes == 91011);
    CU_ASSERT(info->text_crc32 == 0xCAFEF00D && strcmp(info->model, "base-model") == 0);
    CU_ASSERT_STRING_EQUAL(base_logits_path(stored), path);
    CU_ASSERT(windows->count == sample->windows.count && windows->first == sample->windows.first);
    CU_ASSERT(windows->batch == sample->windows.batch);
    CU_ASSERT(memcmp(windows->tokens, sample->windows.tokens, sample->windows.token_count * 4) == 0);
    return stored;
}

/* Read in chunks that do not fit the blocks, forwards; then one row from the middle again. */
static void whole_rows(void)
{
    enum { VOCABULARY = 9001, AT_ONCE = 37 }; /* 29 rows a block, 18 blocks: a group and a rest */
    struct sample sample;
    struct error err = {0};
    double worst = 0;
    testing_folder();
    make_sample(&sample, 2, VOCABULARY, 64, 8, 0);
    CHECK(!store(&sample, testing_path("whole.nbb"), 100, &err), &err);
    struct base_logits *stored = opened(&sample, testing_path("whole.nbb"));
    const uint64_t scored = sample.windows.scored;
    for (uint64_t window = 0; window < 8; window++) {
        for (uint64_t begin = 0; begin < scored; begin += AT_ONCE) {
            const uint64_t count = scored - begin < AT_ONCE ? scored - begin : AT_ONCE;
            CHECK(!base_logits_load(stored, window, begin, count, &err), &err);
            for (uint64_t i = 0; i < count; i++)
                worst = fmax(worst, check_whole(stored, &sample, i, window * scored + begin + i));
        }
    }
    printf("  largest divergence of a stored row from the true one: %.2g nats\n", worst);
    CHECK(!base_logits_load(stored, 3, 5, 1, &err), &err);
    check_whole(stored, &sample, 0, 3 * scored + 5);
    CU_ASSERT_EQUAL(base_logits_load(stored, 8, 0, 1, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(base_logits_load(stored, 0, scored, 1, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(base_logits_load(stored, 0, 1, scored, &err), ERR_USAGE);
    base_logits_close(stored);
    base_logits_close(NULL);
    free_sample(&sample);
}

/* Against a selection that looks at every token k times. */
static void check_top(
    const struct base_logits *stored, const struct sample *sample, uint64_t at, uint64_t row)
{
    const uint64_t vocabulary = sample->info.vocabulary, k = sample->info.top_k;
    const float *true_row = row_of(sample, row);
    const double log_sum = log_sum_of(true_row, vocabulary);
    static bool taken[70000];
    struct base_logits_top top;
    double rest = 0;
    base_logits_row_top(stored, at, &top);
    check_common(stored, sample, at, row);
    memset(taken, 0, vocabulary);
    for (uint64_t i = 0; i < k; i++) {
        uint64_t best = vocabulary;
        for (uint64_t id = 0; id < vocabulary; id++) {
            if (!taken[id] && (best == vocabulary || true_row[id] > true_row[best])) best = id;
        }
        taken[best] = true;
        const double log_prob = (double)true_row[best] - log_sum;
        CU_ASSERT_EQUAL(top.ids[i], best);
        CU_ASSERT_DOUBLE_EQUAL((double)top.log_probs[i], log_prob, 5e-7 + 1e-7 * fabs(log_prob));
    }
    for (uint64_t id = 0; id < vocabulary; id++)
        rest += taken[id] ? 0 : exp((double)true_row[id] - log_sum);
    if (rest > 1e-30) CU_ASSERT_DOUBLE_EQUAL(top.log_rest, log(rest), 1e-6 + 1e-6 * fabs(log(rest)));
    if (k == vocabulary) CU_ASSERT(top.log_rest == -INFINITY);
}

/* Small ids take two bytes, large ones four; all tokens are as good as some. */
static void top_rows(void)
{
    static const struct {
        uint32_t vocabulary;
        uint64_t top_k;
    } cases[] = {{300, 1}, {300, 7}, {300, 300}, {65536, 5}, {65537, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sample sample;
        struct error err = {0};
        testing_folder();
        make_sample(&sample, 2, cases[i].vocabulary, 8, 2, cases[i].top_k);
        CHECK(!store(&sample, testing_path("top.nbb"), 5, &err), &err);
        struct base_logits *stored = opened(&sample, testing_path("top.nbb"));
        for (uint64_t window = 0; window < 2; window++) {
            CHECK(!base_logits_load(stored, window, 0, 7, &err), &err);
            for (uint64_t row = 0; row < 7; row++)
                check_top(stored, &sample, row, window * 7 + row);
        }
        base_logits_close(stored);
        free_sample(&sample);
    }
}

/* The protocol decides which rows there are. */
static void second_half(void)
{
    struct sample sample;
    struct error err = {0};
    testing_folder();
    make_sample(&sample, 1, 50, 9, 3, 0);
    sample.info.protocol = PERPLEXITY_LLAMA_CPP;
    windows_place(&sample.windows, PERPLEXITY_LLAMA_CPP);
    sample.rows = 3 * sample.windows.scored;
    CU_ASSERT_EQUAL(sample.windows.scored, 4);
    CHECK(!store(&sample, testing_path("half.nbb"), 5, &err), &err);
    struct base_logits *stored = opened(&sample, testing_path("half.nbb"));
    CHECK(!base_logits_load(stored, 2, 0, 4, &err), &err);
    for (uint64_t row = 0; row < 4; row++)
        check_whole(stored, &sample, row, 8 + row);
    base_logits_close(stored);
    free_sample(&sample);
}

static void same_bytes(void)
{
    static const unsigned threads[] = {1, 2, 3, 7};
    testing_folder();
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 4; i++) {
            struct sample sample;
            struct error err = {0};
            make_sample(&sample, threads[i], 9001, 64, 8, kind ? 20 : 0);
            const char *path = testing_path("%d-%d.nbb", kind, i);
            CHECK(!store(&sample, path, i == 3 ? 1 : (uint64_t)50 << i, &err), &err);
            CU_ASSERT(testing_same_files(testing_path("%d-0.nbb", kind), path));
            free_sample(&sample);
        }
    }
}

/* ---- writers that are misused ---- */

static void writer_refusals(void)
{
    struct sample sample;
    struct error err = {0};
    struct base_logits_writer *writer = NULL;
    testing_folder();
    const char *path = testing_path("w.nbb");
    make_sample(&sample, 2, 300, 8, 2, 0);
    REQUIRE(
        !base_logits_create(&writer, path, false, &sample.info, &sample.windows, sample.pool, &err), &err);
    CHECK(!base_logits_add(writer, sample.logits, 13, &err), &err);
    CU_ASSERT_EQUAL(base_logits_commit(writer, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "only 13 of 14 rows"));
    CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
    REQUIRE(
        !base_logits_create(&writer, path, false, &sample.info, &sample.windows, sample.pool, &err), &err);
    CU_ASSERT_EQUAL(base_logits_add(writer, sample.logits, 15, &err), ERR_USAGE);
    base_logits_abandon(writer);
    base_logits_abandon(NULL);
    for (int kind = 0; kind < 6; kind++) {
        const float bad[] = {NAN, INFINITY, -INFINITY};
        const float kept = sample.logits[9 * 300 + 44];
        sample.info.top_k = kind / 3 ? 9 : 0;
        sample.logits[9 * 300 + 44] = bad[kind % 3];
        CU_ASSERT_EQUAL(store(&sample, path, 14, &err), ERR_NUMERIC);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "window 1, position 2"));
        CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
        sample.logits[9 * 300 + 44] = kept;
    }
    sample.info.top_k = 301;
    CU_ASSERT_EQUAL(store(&sample, path, 14, &err), ERR_USAGE);
    sample.info.top_k = 0;
    testing_write(path, "x", 1);
    CU_ASSERT_EQUAL(
        base_logits_create(&writer, path, false, &sample.info, &sample.windows, sample.pool, &err),
        ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "--force"));
    CU_ASSERT_PTR_NULL(writer);
    free_sample(&sample);
}

/* ---- files that are damaged ---- */

/* Open and read all of it. */
static enum status read_all(struct pool *pool, const char *path, struct error *err)
{
    struct base_logits *stored = NULL;
    enum status status = base_logits_open(&stored, path, pool, err);
    for (uint64_t window = 0; !status && window < base_logits_info(stored)->windows; window++)
        status = base_logits_load(stored, window, 0, base_logits_info(stored)->scored, err);
    base_logits_close(stored);
    return status;
}

/* A small file of each kind. */
static char *small_file(struct sample *sample, uint64_t top_k, uint64_t *bytes)
{
    struct error err = {0};
    testing_folder();
    make_sample(sample, 1, 300, 5, 2, top_k);
    REQUIRE(!store(sample, testing_path("small.nbb"), 3, &err), &err);
    return testing_read(testing_path("small.nbb"), bytes);
}

static void damaged_anywhere(void)
{
    for (uint64_t top_k = 0; top_k < 8; top_k += 7) {
        struct sample sample;
        uint64_t bytes;
        char *file = small_file(&sample, top_k, &bytes);
        const char *path = testing_path("damaged.nbb");
        corpus_keep("base_logits", top_k ? "top-k" : "whole", file, bytes);
        for (uint64_t at = 0; at < bytes; at++) {
            struct error err = {0};
            file[at] ^= (char)(1 << at % 8);
            testing_write(path, file, bytes);
            const enum status status = read_all(sample.pool, path, &err);
            CHECK(status == ERR_FORMAT || (status == ERR_UNSUPPORTED && at >= 8 && at < 12), &err);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "damaged.nbb"));
            file[at] ^= (char)(1 << at % 8);
        }
        memory_free(file);
        free_sample(&sample);
    }
}

static void truncated_anywhere(void)
{
    for (uint64_t top_k = 0; top_k < 8; top_k += 7) {
        struct sample sample;
        uint64_t bytes;
        char *file = small_file(&sample, top_k, &bytes);
        const char *path = testing_path("cut.nbb");
        struct error err = {0};
        for (uint64_t length = bytes; length-- > 0;) {
            testing_write(path, file, length);
            CU_ASSERT_EQUAL(read_all(sample.pool, path, &err), ERR_FORMAT);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "cut.nbb"));
        }
        char *longer = memory_new(bytes + 1, 1, &err);
        REQUIRE(longer != NULL, &err);
        memcpy(longer, file, bytes);
        testing_write(path, longer, bytes + 1);
        CU_ASSERT_EQUAL(read_all(sample.pool, path, &err), ERR_FORMAT);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "1 bytes after the last block"));
        memory_free(longer);
        memory_free(file);
        free_sample(&sample);
    }
}

/* ---- files that lie, with checksums that fit ---- */

enum { HEADER = 336, TOKENS = 10 * 4, BLOCK = HEADER + TOKENS + 4, DATA = BLOCK + 8 };

/* The small file, its one block as it is unpacked, and room for changes. */
struct hostile {
    struct sample sample;
    uint8_t file[64 * 1024], block[64 * 1024];
    uint64_t block_bytes;
};

static void begin_hostile(struct hostile *hostile, uint64_t top_k)
{
    struct error err = {0};
    uint64_t bytes;
    char *file = small_file(&hostile->sample, top_k, &bytes);
    hostile->block_bytes = 8 * (top_k ? 8 + 6 * top_k : 16 + 2 * 300);
    memcpy(hostile->file, file, bytes);
    REQUIRE(
        !file_unpack(hostile->block, hostile->block_bytes, hostile->file + DATA, bytes - DATA, &err), &err);
    memory_free(file);
}

/* Put it together again and see what becomes of it. */
static void check_hostile(
    struct hostile *hostile, uint64_t block_bytes, const char *name, enum status expected, const char *part)
{
    struct error err = {0};
    uint64_t packed;
    uint8_t *file = hostile->file;
    REQUIRE(!file_pack(file + DATA, sizeof hostile->file - DATA, &packed, hostile->block, block_bytes, &err),
        &err);
    bytes_put(file + HEADER - 4, file_crc32(0, file, HEADER - 4), 4);
    bytes_put(file + HEADER + TOKENS, file_crc32(0, file + HEADER, TOKENS), 4);
    bytes_put(file + BLOCK, packed, 4);
    bytes_put(file + BLOCK + 4, file_crc32(0, file + DATA, packed), 4);
    testing_write(testing_path("hostile.nbb"), file, DATA + packed);
    corpus_keep("base_logits", name, file, DATA + packed);
    CHECK(read_all(hostile->sample.pool, testing_path("hostile.nbb"), &err) == expected, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
}

static void lying_headers(void)
{
    static const struct {
        const char *name;
        unsigned offset, bytes;
        uint64_t value;
        enum status status;
        const char *part;
    } lies[] = {
        {"version", 8, 4, 2, ERR_UNSUPPORTED, "version 2"},
        {"protocol", 12, 4, 2, ERR_FORMAT, "protocol is 2"},
        {"no-vocabulary", 16, 4, 0, ERR_FORMAT, "vocabulary is 0"},
        {"large-vocabulary", 16, 4, 0xFFFFFFFF, ERR_FORMAT, "vocabulary is 4294967295"},
        {"claimed-vocabulary", 16, 4, 1 << 24, ERR_FORMAT, "too few for"},
        {"small-vocabulary", 16, 4, 3, ERR_FORMAT, "the vocabulary has 3"},
        {"large-top-k", 20, 4, 301, ERR_FORMAT, "top-k is 301"},
        {"other-top-k", 20, 4, 9, ERR_FORMAT, "block 0"},
        {"short-context", 24, 8, 3, ERR_FORMAT, "context is 3"},
        {"long-context", 24, 8, UINT64_C(1) << 40, ERR_FORMAT, "context is 1099511627776"},
        {"no-windows", 32, 8, 0, ERR_FORMAT, "no windows"},
        {"many-windows", 32, 8, UINT64_MAX / 3, ERR_FORMAT, "within the tokens"},
        {"overflowing-windows", 32, 8, UINT64_C(1) << 62, ERR_FORMAT, "within the tokens"},
        {"more-windows", 32, 8, 3, ERR_FORMAT, "hostile.nbb"},
        {"large-token", HEADER + 8, 4, 300, ERR_FORMAT, "token 2 is 300"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct hostile *hostile = malloc(sizeof *hostile);
        REQUIRE(hostile != NULL, NULL);
        begin_hostile(hostile, 0);
        bytes_put(hostile->file + lies[i].offset, lies[i].value, lies[i].bytes);
        check_hostile(hostile, hostile->block_bytes, lies[i].name, lies[i].status, lies[i].part);
        free_sample(&hostile->sample);
        free(hostile);
    }
}

/* Numbers no writer writes, in row 1 of 8: columns of four bytes, then planes. */
static void lying_rows(void)
{
    enum { NOT_A_NUMBER = 0x7FC00000, ONE = 0x3F800000, MINUS_ONE = 0xBF800000, INFINITE = 0x7F800000 };
    static const struct {
        const char *name;
        uint64_t top_k;
        unsigned column;
        uint32_t value;
        const char *part;
    } lies[] = {
        {"highest-nan", 0, 0, NOT_A_NUMBER, "highest log-probability"},
        {"highest-one", 0, 0, ONE, "highest log-probability"},
        {"step-nan", 0, 1, NOT_A_NUMBER, "the step is"},
        {"step-negative", 0, 1, MINUS_ONE, "the step is -1"},
        {"step-large", 0, 1, ONE, "the step is 1"},
        {"target-infinite", 0, 2, INFINITE, "target's log-probability"},
        {"first-large", 0, 3, 300, "the likeliest token is 300"},
        {"rest-nan", 7, 0, NOT_A_NUMBER, "the rest"},
        {"rest-infinite", 7, 0, INFINITE, "the rest"},
        {"top-target-nan", 7, 1, NOT_A_NUMBER, "target's log-probability"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct hostile *hostile = malloc(sizeof *hostile);
        REQUIRE(hostile != NULL, NULL);
        begin_hostile(hostile, lies[i].top_k);
        bytes_put(hostile->block + 4 * (8 * lies[i].column + 1), lies[i].value, 4);
        check_hostile(hostile, hostile->block_bytes, lies[i].name, ERR_FORMAT, lies[i].part);
        free_sample(&hostile->sample);
        free(hostile);
    }
}

static void lying_tops_and_blocks(void)
{
    struct hostile *hostile = malloc(sizeof *hostile);
    REQUIRE(hostile != NULL, NULL);
    begin_hostile(hostile, 7);
    uint8_t *planes = hostile->block + 8 * 8; /* [6][8 rows][7] */
    planes[8 * 7 + 7 + 3] = 0xFF;             /* the id's high byte, row 1 */
    check_hostile(hostile, hostile->block_bytes, "id-large", ERR_FORMAT, "beyond the vocabulary of 300");
    free_sample(&hostile->sample);
    begin_hostile(hostile, 7);
    planes[5 * 56 + 7 + 3] = 0x80; /* the log-probability's high byte: about -0, above the one before */
    check_hostile(hostile, hostile->block_bytes, "rising", ERR_FORMAT, "higher than the one before");
    check_hostile(hostile, hostile->block_bytes - 1, "block-short", ERR_FORMAT, "block 0 at byte 380");
    check_hostile(hostile, hostile->block_bytes + 1, "block-long", ERR_FORMAT, "block 0 at byte 380");
    memset(hostile->block, 0, sizeof hostile->block);
    check_hostile(hostile, sizeof hostile->block / 2, "bomb", ERR_FORMAT, "block 0 at byte 380");
    free_sample(&hostile->sample);
    free(hostile);
}

/* A name may hold anything; it comes out fit for a terminal. */
static void strange_name(void)
{
    struct hostile *hostile = malloc(sizeof *hostile);
    struct error err = {0};
    struct base_logits *stored = NULL;
    REQUIRE(hostile != NULL, NULL);
    begin_hostile(hostile, 0);
    memset(hostile->file + 72, 0x1B, 256);
    check_hostile(hostile, hostile->block_bytes, "name", OK, "");
    REQUIRE(!base_logits_open(&stored, testing_path("hostile.nbb"), hostile->sample.pool, &err), &err);
    CU_ASSERT(strncmp(base_logits_info(stored)->model, "\\x1b\\x1b", 8) == 0);
    CU_ASSERT(strlen(base_logits_info(stored)->model) < BASE_LOGITS_NAME);
    base_logits_close(stored);
    free_sample(&hostile->sample);
    free(hostile);
}

/* ---- without memory ---- */

static void without_memory(void)
{
    for (uint64_t top_k = 0; top_k < 8; top_k += 7) {
        struct sample sample;
        struct error err = {0};
        enum status status = ERR_MEMORY;
        testing_folder();
        make_sample(&sample, 1, 300, 5, 2, top_k);
        for (uint64_t nth = 1; status == ERR_MEMORY && nth < 200; nth++) {
            memory_fail_at(nth, 0);
            status = store(&sample, testing_path("m.nbb"), 3, &err);
            memory_fail_at(0, 0);
        }
        CHECK(status == OK, &err);
        status = ERR_MEMORY;
        for (uint64_t nth = 1; status == ERR_MEMORY && nth < 200; nth++) {
            memory_fail_at(nth, 0);
            status = read_all(sample.pool, testing_path("m.nbb"), &err);
            memory_fail_at(0, 0);
        }
        CHECK(status == OK, &err);
        free_sample(&sample);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"whole rows", whole_rows},
        {"the k likeliest", top_rows},
        {"the second half of a window", second_half},
        {"the same bytes for any threads and calls", same_bytes},
        {"a writer that is misused", writer_refusals},
        {"damaged at every byte", damaged_anywhere},
        {"cut short at every length", truncated_anywhere},
        {"headers that lie", lying_headers},
        {"rows that lie", lying_rows},
        {"tops and blocks that lie", lying_tops_and_blocks},
        {"a strange name", strange_name},
        {"without memory", without_memory},
    };
    return TESTING_RUN("base_logits", cases);
}
