/* Records of a teacher's rows: NumPy's statistics on the same logits, the bounds that token_record.h states, a student's divergence from
 * the sparse record against the exact one, draws without bias, and hostile bytes. */
#include "distill/token_record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "distill/teacher_row.h"
#include "formats/bytes.h"
#include "model/sampling.h"
#include "tests/support/testing.h"

enum { VOCABULARY = 300 };

/* ---- golden rows ---- */

static float (*golden_rows(uint64_t *count))[VOCABULARY]
{
    uint64_t bytes;
    void *rows = testing_read(testing_source("golden/distill/logits.f32"), &bytes);
    *count = bytes / sizeof(float[VOCABULARY]);
    return rows;
}

static struct token_record_layout plan(struct token_record_shape shape)
{
    struct token_record_layout layout;
    struct error err = {0};
    REQUIRE(token_record_plan(&layout, &shape, &err) == OK, &err);
    return layout;
}

/* A record written and read again. Release with token_record_free. */
static struct token_record through(
    const struct token_record_layout *layout, const float *logits, double temperature, uint64_t seed)
{
    struct token_record work, out;
    struct error err = {0};
    uint8_t *bytes = memory_new(layout->bytes, 1, &err);
    REQUIRE(bytes && !token_record_new(&work, layout, &err) && !token_record_new(&out, layout, &err), &err);
    REQUIRE(token_record_put(bytes, layout, 7, logits, temperature, &seed, &work), NULL);
    CHECK(token_record_get(&out, layout, bytes, &err) == OK, &err);
    CU_ASSERT_EQUAL(out.token, 7);
    CU_ASSERT_EQUAL(token_record_token(bytes), 7);
    token_record_free(&work);
    memory_free(bytes);
    return out;
}

static double number(const struct json_value *object, const char *key)
{
    return json_member(object, key)->number;
}

/* In single precision: sums of exponentials that are floats (2^-22 of each, say), kept in a float (2^-24). */
static void check_golden(const struct json_value *row, const float *logits, uint32_t k)
{
    const struct token_record_layout layout =
        plan((struct token_record_shape){.vocabulary = VOCABULARY, .count = k, .value_bits = 32});
    struct token_record record = through(&layout, logits, 1, 0);
    const double log_sum = number(row, "logsumexp"), tail = number(row, "tail");
    const struct json_value *id = json_member(row, "ids")->children,
                            *log_prob = json_member(row, "log_probs")->children;
    CU_ASSERT_DOUBLE_EQUAL((double)record.log_sum, log_sum, 5e-7 + 1e-7 * fabs(log_sum));
    CU_ASSERT_DOUBLE_EQUAL((double)record.rest, tail, 5e-7 * tail + 1e-38);
    for (uint32_t i = 0; i < k; i++, id = id->next, log_prob = log_prob->next) {
        CU_ASSERT_EQUAL(record.ids[i], id->u64);
        CU_ASSERT_DOUBLE_EQUAL(record.values[i], log_prob->number, 1e-6 + 1e-7 * fabs(log_prob->number));
    }
    struct teacher_row teacher;
    float weights[VOCABULARY];
    REQUIRE(teacher_row_init(&teacher, logits, weights, VOCABULARY), NULL);
    CU_ASSERT_DOUBLE_EQUAL(teacher_row_entropy(&teacher), number(row, "entropy"), 2e-6);
    token_record_free(&record);
}

static void test_golden(void)
{
    uint64_t count, bytes;
    struct json_document *json = NULL;
    struct error err = {0};
    float(*rows)[VOCABULARY] = golden_rows(&count);
    char *text = testing_read(testing_source("golden/distill/rows.json"), &bytes);
    REQUIRE(json_parse(&json, "rows.json", text, bytes, &err) == OK, &err);
    const struct json_value *row = json_member(json_root(json), "rows")->children;
    const uint32_t k = (uint32_t)json_member(json_root(json), "k")->u64;
    for (uint64_t i = 0; i < count; i++, row = row->next)
        check_golden(row, rows[i], k);
    CU_ASSERT_PTR_NULL(row);
    json_free(json);
    memory_free(text);
    memory_free(rows);
}

/* ---- what rounding costs ---- */

/* One row in double precision. */
struct exact {
    double log_p[VOCABULARY];
};

static void make_exact(struct exact *out, const float *logits)
{
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < VOCABULARY; i++)
        top = fmax(top, (double)logits[i]);
    for (int i = 0; i < VOCABULARY; i++)
        sum += exp((double)logits[i] - top);
    for (int i = 0; i < VOCABULARY; i++)
        out->log_p[i] = (double)logits[i] - top - log(sum);
}

/* The bounds of token_record.h for one row: of |e_i|, of the divergence, of the shift of a student's. */
struct bounds {
    double most;                  /* D */
    double hoeffding, moment;     /* divergence */
    double divergence;            /* measured */
    double shift, measured_shift; /* of the student's divergence */
};

static double error_bound(uint32_t bits, double range, double distance)
{
    if (bits == 8) return sqrt(range * distance) / 255 + range / 260100;
    return bits == 16 ? fmax(distance / 2048, 0x1p-25) : distance * 0x1p-24;
}

static struct bounds measure(const struct token_record *record, const struct exact *teacher,
    const struct exact *student, uint32_t count, uint32_t bits)
{
    struct bounds out = {0};
    double top = -INFINITY, range = 0, mass = 0, mean = 0, spread = 0;
    for (uint32_t i = 0; i < count; i++)
        top = fmax(top, teacher->log_p[record->ids[i]]);
    for (uint32_t i = 0; i < count; i++) {
        const double log_p = teacher->log_p[record->ids[i]];
        range = fmax(range, fmin(top - log_p, TOKEN_RECORD_RANGE));
        mass += exp(log_p);
        mean += exp(log_p) * (log_p - student->log_p[record->ids[i]]);
    }
    range *= 1 + 0x1p-10; /* rounded up to half precision */
    out.most = error_bound(bits, range, range);
    if (bits == 8) out.most = fmin(out.most, range / 255);
    for (uint32_t i = 0; i < count; i++) {
        const double log_p = teacher->log_p[record->ids[i]], log_q = record->values[i];
        const double error = error_bound(bits, range, top - log_p);
        const double f = log_p - student->log_p[record->ids[i]];
        out.divergence += exp(log_p) * (log_p - log_q);
        out.moment += exp(out.most) / 2 * exp(log_p) * error * error;
        out.measured_shift += exp(log_p) * f - exp(log_q) * (log_q - student->log_p[record->ids[i]]);
        spread += exp(log_p) * fabs(f - mean / mass);
    }
    out.hoeffding = mass * out.most * out.most / 2;
    out.shift = (exp(2 * out.most) - 1) * spread + out.hoeffding;
    return out;
}

static void check_rounding(const float *logits, const float *student_logits, uint32_t count, uint32_t bits)
{
    const struct token_record_layout layout =
        plan((struct token_record_shape){.vocabulary = VOCABULARY, .count = count, .value_bits = bits});
    struct token_record record = through(&layout, logits, 1, 0);
    struct exact teacher, student;
    make_exact(&teacher, logits);
    make_exact(&student, student_logits);
    const struct bounds found = measure(&record, &teacher, &student, count, bits);
    const double floor = 2e-6; /* what single precision of the exponentials and the tail leaves */
    double mass = 0;
    for (uint32_t i = 0; i < count; i++)
        mass += exp(record.values[i]);
    CU_ASSERT_DOUBLE_EQUAL(mass, 1 - (double)record.rest, 1e-12);
    CU_ASSERT_TRUE(found.divergence <= found.hoeffding + floor);
    CU_ASSERT_TRUE(found.divergence <= found.moment + floor);
    CU_ASSERT_TRUE(fabs(found.measured_shift) <= found.shift + floor);
    token_record_free(&record);
}

static void test_rounding(void)
{
    uint64_t count;
    float(*rows)[VOCABULARY] = golden_rows(&count);
    for (uint64_t i = 0; i < count; i++) {
        if (i == 8)
            continue; /* below TOKEN_RECORD_RANGE lies more than the bounds speak of, with every token kept */
        for (uint32_t bits = 8; bits <= 32; bits *= 2) {
            check_rounding(rows[i], rows[(i + 1) % count], 20, bits);
            check_rounding(rows[i], rows[(i + 5) % count], 1, bits);
            check_rounding(rows[i], rows[(i + 3) % count], 120, bits);
        }
    }
    memory_free(rows);
}

/* The tail as one token: never above the exact divergence, and below it by no more than the bound. */
static void test_student(void)
{
    uint64_t count;
    float(*rows)[VOCABULARY] = golden_rows(&count);
    const struct token_record_layout layout =
        plan((struct token_record_shape){.vocabulary = VOCABULARY, .count = 20, .value_bits = 32});
    for (uint64_t i = 0; i < 6; i++) {
        struct token_record record = through(&layout, rows[i], 1, 0);
        struct exact teacher, student;
        double whole = 0, sparse = 0, student_tail = 1, least_s = 0, least_p = 0;
        make_exact(&teacher, rows[i]);
        make_exact(&student, rows[(i + 1) % 6]);
        for (int j = 0; j < VOCABULARY; j++) {
            whole += exp(teacher.log_p[j]) * (teacher.log_p[j] - student.log_p[j]);
            least_s = fmin(least_s, student.log_p[j]);
        }
        for (uint32_t j = 0; j < 20; j++) {
            sparse += exp(record.values[j]) * (record.values[j] - student.log_p[record.ids[j]]);
            student_tail -= exp(student.log_p[record.ids[j]]);
            least_p = fmin(least_p, record.values[j]);
        }
        const double tail = (double)record.rest;
        sparse += tail * (log(tail) - log(student_tail));
        CU_ASSERT_TRUE(sparse <= whole + 1e-5);
        CU_ASSERT_TRUE(whole - sparse <= tail * (least_p + log(student_tail) - log(tail) - least_s) + 1e-5);
        token_record_free(&record);
    }
    memory_free(rows);
}

/* Beyond the range a token counts for nothing; ties give the lowest ids; one that has everything leaves no tail. */
static void test_extremes(void)
{
    float logits[VOCABULARY] = {0};
    for (uint32_t bits = 8; bits <= 32; bits *= 2) {
        const struct token_record_layout layout =
            plan((struct token_record_shape){.vocabulary = VOCABULARY, .count = 4, .value_bits = bits});
        memset(logits, 0, sizeof logits);
        struct token_record record = through(&layout, logits, 1, 0);
        for (uint32_t i = 0; i < 4; i++) {
            CU_ASSERT_EQUAL(record.ids[i], i);
            CU_ASSERT_DOUBLE_EQUAL(record.values[i], -log(VOCABULARY), 1e-6);
        }
        token_record_free(&record);
        logits[200] = 3000;
        record = through(&layout, logits, 1, 0);
        CU_ASSERT_EQUAL(record.ids[3], 200);
        CU_ASSERT_DOUBLE_EQUAL(record.values[3], 0, 1e-12);
        CU_ASSERT_TRUE(record.values[0] < -39.9 && record.rest == 0);
        token_record_free(&record);
    }
    const struct token_record_layout one =
        plan((struct token_record_shape){.vocabulary = 1 << 16, .count = 1, .value_bits = 8});
    float *flat = memory_new(1 << 16, sizeof *flat, NULL);
    struct token_record record = through(&one, flat, 1, 0);
    CU_ASSERT_DOUBLE_EQUAL(
        record.values[0], -16 * log(2), 4e-3); /* 1 - tail is 2^-16, the tail's float 2^-25 off */
    token_record_free(&record);
    memory_free(flat);
}

/* ---- draws ---- */

/* The mean over M records of (1/N) sum of weight * f(id) is the exact sum of p f, here for every f = [id is j] at once: token j's share is a
 * mean of M N independent draws of weight w on j with probability q, so its standard error is sqrt((p w - p^2) / (M N)). Half precision
 * moves a weight by 2^-11 of its logarithm. All 300 shares are within 5 standard errors (6e-7 each to be outside: one set of seeds in
 * 6000), and chi-square, the sum of squared errors, within 5 of its own standard deviations. */
static void check_unbiased(const float *logits, double temperature)
{
    enum { RECORDS = 20000, DRAWS = 12 };
    const struct token_record_layout layout = plan((struct token_record_shape){
        .draws = true, .vocabulary = VOCABULARY, .count = DRAWS, .value_bits = temperature == 1 ? 0 : 16});
    struct exact exact;
    double estimate[VOCABULARY] = {0}, q[VOCABULARY], sum = 0, chi_square = 0;
    unsigned cells = 0;
    make_exact(&exact, logits);
    for (uint64_t i = 0; i < RECORDS; i++) {
        struct token_record record = through(&layout, logits, temperature, sampling_state(5, i, 1));
        for (unsigned j = 0; j < DRAWS; j++)
            estimate[record.ids[j]] += exp(record.values[j]) / DRAWS / RECORDS;
        token_record_free(&record);
    }
    for (int i = 0; i < VOCABULARY; i++)
        sum += q[i] = exp(exact.log_p[i] / temperature);
    for (int i = 0; i < VOCABULARY; i++) {
        const double p = exp(exact.log_p[i]), log_weight = exact.log_p[i] - log(q[i] / sum);
        const double variance = (p * exp(log_weight) - p * p) / ((double)RECORDS * DRAWS);
        const double rounding = temperature == 1 ? 1e-6 * p : p * (fabs(log_weight) * 0x1p-11 + 1e-6);
        CU_ASSERT_DOUBLE_EQUAL(estimate[i], p, 5 * sqrt(variance) + rounding + 1.0 / RECORDS / DRAWS);
        if (q[i] / sum * RECORDS * DRAWS < 10) continue; /* too few for a square to be normal */
        const double error = fmax(0, fabs(estimate[i] - p) - rounding);
        chi_square += error * error / variance;
        cells++;
    }
    CU_ASSERT_TRUE(cells > 50 && chi_square < cells + 5 * sqrt(2.0 * cells));
}

static void test_unbiased(void)
{
    uint64_t count;
    float(*rows)[VOCABULARY] = golden_rows(&count);
    check_unbiased(rows[1], 1);
    check_unbiased(rows[2], 1);
    check_unbiased(rows[2], 1.5);
    check_unbiased(rows[1], 0.8);
    memory_free(rows);
}

static void test_draw_records(void)
{
    uint64_t count;
    float(*rows)[VOCABULARY] = golden_rows(&count);
    const struct token_record_layout layout =
        plan((struct token_record_shape){.draws = true, .vocabulary = VOCABULARY, .count = 12});
    struct token_record a = through(&layout, rows[3], 1, 9), b = through(&layout, rows[3], 1, 9);
    CU_ASSERT_EQUAL(memcmp(a.ids, b.ids, 12 * sizeof *a.ids), 0); /* the same state, the same draws */
    CU_ASSERT_EQUAL(a.values[0], 0);
    token_record_free(&a);
    token_record_free(&b);
    struct token_record sure = through(&layout, rows[7], 1, 9);
    CU_ASSERT(sure.ids[0] == 123 && sure.ids[11] == 123);
    token_record_free(&sure);
    memory_free(rows);
}

/* ---- layout and limits ---- */

static void test_sizes(void)
{
    struct token_record_layout layout =
        plan((struct token_record_shape){.vocabulary = 131072, .count = 50, .value_bits = 8});
    CU_ASSERT_EQUAL(layout.bytes, 146); /* 3 + 4 + 4 + 2 + 83 + 50 */
    layout = plan((struct token_record_shape){.vocabulary = 151936, .count = 50, .value_bits = 8});
    CU_ASSERT_EQUAL(layout.bytes, 148);
    layout = plan((struct token_record_shape){.draws = true, .vocabulary = 131072, .count = 12});
    CU_ASSERT_EQUAL(layout.bytes, 34); /* 3 + 4 + 4 + 23 */
    layout = plan((struct token_record_shape){.draws = true, .vocabulary = 1 << 20, .count = 12});
    CU_ASSERT_EQUAL(layout.bytes, 39);
}

static void test_limits(void)
{
    static const struct token_record_shape bad[] = {
        {.vocabulary = 0, .count = 1, .value_bits = 8},
        {.vocabulary = (1 << 20) + 1, .count = 1, .value_bits = 8},
        {.vocabulary = 100, .count = 101, .value_bits = 8},
        {.vocabulary = 100, .count = 0, .value_bits = 8},
        {.vocabulary = 100, .count = 5, .value_bits = 7},
        {.vocabulary = 100, .count = 5, .value_bits = 8, .draws = true},
        {.vocabulary = 1 << 20, .count = (1 << 16) + 1, .value_bits = 8},
        {.vocabulary = 100,
            .count = 5,
            .value_bits = 8,
            .hidden_layers = UINT32_MAX,
            .hidden_width = UINT32_MAX},
    };
    struct token_record_layout layout;
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(token_record_plan(&layout, &bad[i], NULL), ERR_USAGE);
}

static void test_not_finite(void)
{
    const struct token_record_layout layout =
        plan((struct token_record_shape){.vocabulary = VOCABULARY, .count = 4, .value_bits = 8});
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float logits[VOCABULARY] = {0};
    struct token_record work;
    uint8_t bytes[64];
    uint64_t random = 0;
    REQUIRE(layout.bytes <= sizeof bytes && token_record_new(&work, &layout, NULL) == OK, NULL);
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned at = 0; at < VOCABULARY; at += 299) {
            logits[at] = bad[i];
            CU_ASSERT_FALSE(token_record_put(bytes, &layout, 0, logits, 1, &random, &work));
            logits[at] = 0;
        }
    }
    token_record_free(&work);
}

/* Every flipped bit gives an error or a record whose numbers can be used. */
static void test_hostile(void)
{
    uint64_t count, random = 1;
    float(*rows)[VOCABULARY] = golden_rows(&count);
    for (unsigned kind = 0; kind < 4; kind++) {
        const struct token_record_layout layout = plan((struct token_record_shape){.draws = kind == 3,
            .vocabulary = VOCABULARY,
            .count = 9,
            .value_bits = kind == 3 ? 16 : 8u << kind});
        struct token_record work;
        uint8_t bytes[128];
        unsigned refused = 0;
        REQUIRE(layout.bytes <= sizeof bytes && token_record_new(&work, &layout, NULL) == OK, NULL);
        REQUIRE(token_record_put(bytes, &layout, 3, rows[3], 2, &random, &work), NULL);
        for (uint64_t bit = 0; bit < 8 * layout.bytes; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (token_record_get(&work, &layout, bytes, NULL) != OK)
                refused++;
            else
                CU_ASSERT_TRUE(
                    isfinite(work.values[0]) && work.ids[8] < VOCABULARY && work.token < VOCABULARY);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        CU_ASSERT_TRUE(refused > 30);
        CU_ASSERT_EQUAL(token_record_get(&work, &layout, bytes, NULL), OK);
        token_record_free(&work);
    }
    memory_free(rows);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden", test_golden},
        {"rounding", test_rounding},
        {"student", test_student},
        {"extremes", test_extremes},
        {"unbiased", test_unbiased},
        {"draw records", test_draw_records},
        {"sizes", test_sizes},
        {"limits", test_limits},
        {"not finite", test_not_finite},
        {"hostile", test_hostile},
    };
    return TESTING_RUN("token_record", cases);
}
