/* Importance matrices of both formats: what is read, and everything that must be refused. */
#include "quantize/imatrix.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/gguf_file.h"
#include "tests/support/testing.h"

/* ---- .dat ---- */

struct dat {
    uint8_t bytes[4096];
    uint64_t count;
};

static void put_number(struct dat *dat, int32_t value)
{
    memcpy(dat->bytes + dat->count, &value, 4);
    dat->count += 4;
}

static void put_bytes(struct dat *dat, const void *bytes, uint64_t count)
{
    memcpy(dat->bytes + dat->count, bytes, count);
    dat->count += count;
}

/* An entry of sums 0, 1, 2 ... */
static void put_entry(struct dat *dat, const char *name, int32_t calls, int32_t cols)
{
    put_number(dat, (int32_t)strlen(name));
    put_bytes(dat, name, strlen(name));
    put_number(dat, calls);
    put_number(dat, cols);
    for (int32_t i = 0; i < cols; i++) {
        float sum = (float)i;
        put_bytes(dat, &sum, 4);
    }
}

static struct dat good_dat(void)
{
    struct dat dat = {0};
    put_number(&dat, 4);
    put_entry(&dat, "blk.0.attn_q.weight", 2, 5);
    put_entry(&dat, "blk.1.attn_qkv.weight", 3, 5);
    put_entry(&dat, "blk.0.something_else", 2, 3);
    put_entry(&dat, "blk.11.ffn_down.weight", 0, 4);
    return dat;
}

static enum status read_bytes(
    struct imatrix *out, const char *name, const void *bytes, uint64_t count, struct error *err)
{
    const char *path = testing_path("%s", name);
    testing_write(path, bytes, count);
    corpus_keep("imatrix", name, bytes, count);
    return imatrix_read(out, path, err);
}

static void check_refused(
    const char *name, const void *bytes, uint64_t count, enum status expected, const char *says)
{
    struct imatrix imatrix;
    struct error err = {0};
    CHECK(read_bytes(&imatrix, name, bytes, count, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CHECK(strstr(err.text, name) != NULL, &err);
    CHECK(!strchr(err.text, '\n'), &err);
    imatrix_free(&imatrix);
}

static void check_means(
    const struct imatrix *imatrix, enum role role, uint32_t layer, uint64_t cols, float count)
{
    const float *means;
    struct error err = {0};
    CHECK(imatrix_find(&means, imatrix, role, layer, cols, &err) == OK, &err);
    REQUIRE(means != NULL, &err);
    for (uint64_t i = 0; i < cols; i++)
        CU_ASSERT_EQUAL(means[i], (float)i / count);
    CU_ASSERT_EQUAL(imatrix_find(&means, imatrix, role, layer, cols + 1, &err), ERR_FORMAT);
    CU_ASSERT_PTR_NULL(means);
}

static void test_dat(void)
{
    struct dat dat = good_dat();
    struct imatrix imatrix;
    struct error err = {0};
    const float *means;
    CHECK(read_bytes(&imatrix, "good.dat", dat.bytes, dat.count, &err) == OK, &err);
    CU_ASSERT_EQUAL(imatrix.count, 3);
    CU_ASSERT_EQUAL(imatrix.crc32, file_crc32(0, dat.bytes, dat.count));
    check_means(&imatrix, ROLE_Q, 0, 5, 2);
    check_means(&imatrix, ROLE_Q, 1, 5, 3);
    check_means(&imatrix, ROLE_DOWN, 11, 4, 1);
    CHECK(imatrix_find(&means, &imatrix, ROLE_DOWN, 10, 4, &err) == OK, &err);
    CU_ASSERT_PTR_NULL(means);
    imatrix_free(&imatrix);
    put_number(&dat, 7);
    CHECK(read_bytes(&imatrix, "chunks.dat", dat.bytes, dat.count, &err) == OK, &err);
    imatrix_free(&imatrix);
    put_number(&dat, 5);
    put_bytes(&dat, "a.txt", 5);
    CHECK(read_bytes(&imatrix, "text.dat", dat.bytes, dat.count, &err) == OK, &err);
    imatrix_free(&imatrix);
    put_bytes(&dat, "x", 1);
    check_refused("left-over.dat", dat.bytes, dat.count, ERR_FORMAT, "1 bytes are left over");
}

/* Cut anywhere but after a part that may be missing. */
static void test_dat_truncated(void)
{
    struct dat dat = good_dat();
    uint64_t entries = dat.count;
    put_number(&dat, 7);
    put_number(&dat, 5);
    put_bytes(&dat, "a.txt", 5);
    for (uint64_t count = 0; count < dat.count; count++) {
        struct imatrix imatrix;
        struct error err = {0};
        testing_write(testing_path("cut.dat"), dat.bytes, count);
        bool whole = count == entries || count == entries + 4;
        enum status status = imatrix_read(&imatrix, testing_path("cut.dat"), &err);
        CHECK(status == (whole ? OK : ERR_FORMAT), &err);
        imatrix_free(&imatrix);
    }
    corpus_keep("imatrix", "cut.dat", dat.bytes, entries - 3);
}

/* Put another number at an offset of the good file. */
static void check_changed(const char *name, uint64_t offset, const void *value, const char *says)
{
    struct dat dat = good_dat();
    memcpy(dat.bytes + offset, value, 4);
    check_refused(name, dat.bytes, dat.count, ERR_FORMAT, says);
}

static void test_dat_numbers(void)
{
    enum { NAME = 4, CALLS = 8 + 19, COLS = CALLS + 4, SUMS = COLS + 4 };
    const int32_t none = 0, negative = -1, huge = INT32_MAX, less = 2;
    const float nan = NAN, infinite = INFINITY, below = -1;
    check_changed("entries-0.dat", 0, &none, "count of entries is 0");
    check_changed("entries-negative.dat", 0, &negative, "count of entries is -1");
    check_changed("entries-many.dat", 0, &huge, "count of entries is 2147483647");
    check_changed("entries-less.dat", 0, &less, "the text's name takes");
    check_changed("name-0.dat", NAME, &none, "offset 4: the length of a name is 0");
    check_changed("name-long.dat", NAME, &huge, "the length of a name is 2147483647");
    check_changed("calls-negative.dat", CALLS, &negative, "a count of calls is -1");
    check_changed("cols-0.dat", COLS, &none, "a count of columns is 0");
    check_changed("cols-many.dat", COLS, &huge, "a row of sums takes 8589934588 bytes");
    check_changed("sum-nan.dat", SUMS + 4, &nan, "blk.0.attn_q.weight: sum of squares 1 is nan");
    check_changed("sum-infinite.dat", SUMS + 8, &infinite, "sum of squares 2 is inf");
    check_changed("sum-negative.dat", SUMS, &below, "sum of squares 0 is -1");
    check_changed("empty.dat", 0, "abcd", "no GGUF file");
}

static void test_dat_entries(void)
{
    struct dat dat = {0};
    put_number(&dat, 2);
    put_entry(&dat, "blk.0.attn_q.weight", 2, 5);
    put_entry(&dat, "blk.0.attn_q.weight", 2, 5);
    check_refused("twice.dat", dat.bytes, dat.count, ERR_FORMAT, "is there twice");
    dat = (struct dat){0};
    put_number(&dat, 1);
    put_entry(&dat, "blk.0.attn_q.weight", 2, 1); /* its only sum is 0 */
    check_refused("unused.dat", dat.bytes, dat.count, ERR_FORMAT, "all sums are 0");
    dat = (struct dat){0};
    put_number(&dat, 1);
    put_entry(&dat, "encoder.weight", 2, 2);
    check_refused("unknown.dat", dat.bytes, dat.count, ERR_FORMAT, "names no matrix of a decoder");
    check_refused("empty.dat", "", 0, ERR_FORMAT, "truncated");
}

/* ---- GGUF ---- */

static const float sums[] = {0, 1, 2, 3}, four = 4;

enum { GGUF_F32 = 0, GGUF_F16 = 1 };

static void put_pair(struct gguf_file *file, const char *name, const float *counts, uint64_t matrices)
{
    char text[64];
    snprintf(text, sizeof text, "%s.in_sum2", name);
    gguf_file_tensor(file, text, 1, 4, GGUF_F32, sums, sizeof sums);
    snprintf(text, sizeof text, "%s.counts", name);
    if (counts) gguf_file_tensor(file, text, 1, matrices, GGUF_F32, counts, matrices * 4);
}

static enum status read_gguf(struct imatrix *out, struct gguf_file *file, const char *name, struct error *err)
{
    const char *path = testing_path("%s", name);
    uint64_t count;
    gguf_file_store(file, path);
    gguf_file_free(file);
    char *bytes = testing_read(path, &count);
    corpus_keep("imatrix", name, bytes, count);
    memory_free(bytes);
    return imatrix_read(out, path, err);
}

static void test_gguf(void)
{
    struct gguf_file file = {0};
    struct imatrix imatrix;
    struct error err = {0};
    gguf_file_string(&file, "general.type", "imatrix");
    gguf_file_u32(&file, "imatrix.chunk_count", 2);
    put_pair(&file, "blk.3.attn_v.weight", &four, 1);
    put_pair(&file, "output.weight", &four, 1);
    put_pair(&file, "blk.3.attn_other.weight", &four, 1);
    CHECK(read_gguf(&imatrix, &file, "good.gguf", &err) == OK, &err);
    CU_ASSERT_EQUAL(imatrix.count, 2);
    check_means(&imatrix, ROLE_V, 3, 4, 4);
    check_means(&imatrix, ROLE_HEAD, 0, 4, 4);
    imatrix_free(&imatrix);
}

/* ---- experts ---- */

static void check_expert(
    const struct imatrix *imatrix, uint32_t expert, uint32_t experts, uint64_t cols, const float *expected)
{
    const struct imatrix_expert wanted = {ROLE_EXPERT_UP, 2, expert, experts, cols};
    const float *means;
    struct error err = {0};
    bool unseen;
    CHECK(imatrix_find_expert(&means, &unseen, imatrix, &wanted, &err) == OK, &err);
    CU_ASSERT_EQUAL(means == NULL, expected == NULL);
    CU_ASSERT_EQUAL(unseen, expected == NULL);
    for (uint64_t i = 0; i < cols && means && expected; i++)
        CU_ASSERT_EQUAL(means[i], expected[i]);
}

static void check_expert_refused(const struct imatrix *imatrix, uint32_t experts, uint64_t cols)
{
    const struct imatrix_expert wanted = {ROLE_EXPERT_UP, 2, 0, experts, cols};
    const float *means;
    struct error err = {0};
    bool unseen;
    CHECK(imatrix_find_expert(&means, &unseen, imatrix, &wanted, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "columns for all experts") != NULL, &err);
    CU_ASSERT_TRUE(means == NULL && !unseen);
}

static const float stacked[] = {2, 4, 0, 0, 9, 3};

/* A count for each of three experts, of which the second saw nothing. */
static void test_experts_gguf(void)
{
    const float counts[] = {2, 0, 3}, first[] = {1, 2}, third[] = {3, 1};
    struct gguf_file file = {0};
    struct imatrix imatrix;
    struct error err = {0};
    gguf_file_string(&file, "general.type", "imatrix");
    gguf_file_tensor(&file, "blk.2.ffn_up_exps.weight.in_sum2", 3, 2, GGUF_F32, stacked, sizeof stacked);
    gguf_file_tensor(&file, "blk.2.ffn_up_exps.weight.counts", 3, 1, GGUF_F32, counts, sizeof counts);
    CHECK(read_gguf(&imatrix, &file, "stacked.gguf", &err) == OK, &err);
    check_expert(&imatrix, 0, 3, 2, first);
    check_expert(&imatrix, 1, 3, 2, NULL);
    check_expert(&imatrix, 2, 3, 2, third);
    check_expert_refused(&imatrix, 2, 3);
    check_expert_refused(&imatrix, 3, 3);
    const struct imatrix_expert other = {ROLE_EXPERT_DOWN, 2, 0, 3, 2};
    const float *means = first;
    bool unseen = true;
    CHECK(imatrix_find_expert(&means, &unseen, &imatrix, &other, &err) == OK, &err);
    CU_ASSERT_TRUE(means == NULL && !unseen); /* no entry is not the same as no tokens */
    imatrix_free(&imatrix);
}

/* Files of the older kind count calls, once for all; where an expert saw nothing they have that count everywhere. */
static void test_experts_dat(void)
{
    static const float values[] = {2, 4, 7, 7, 14, 3.5f}, first[] = {2 / 7.0f, 4 / 7.0f}, third[] = {2, 0.5f};
    const char name[] = "blk.2.ffn_up_exps.weight";
    struct dat dat = {0};
    struct imatrix imatrix;
    struct error err = {0};
    put_number(&dat, 1);
    put_number(&dat, (int32_t)strlen(name));
    put_bytes(&dat, name, strlen(name));
    put_number(&dat, 7);
    put_number(&dat, 6);
    put_bytes(&dat, values, sizeof values);
    CHECK(read_bytes(&imatrix, "stacked.dat", dat.bytes, dat.count, &err) == OK, &err);
    check_expert(&imatrix, 0, 3, 2, first);
    check_expert(&imatrix, 1, 3, 2, NULL);
    check_expert(&imatrix, 2, 3, 2, third);
    check_expert_refused(&imatrix, 4, 2);
    imatrix_free(&imatrix);
}

static void check_gguf_refused(
    struct gguf_file *file, const char *name, enum status expected, const char *says)
{
    struct imatrix imatrix;
    struct error err = {0};
    CHECK(read_gguf(&imatrix, file, name, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CHECK(strstr(err.text, name) != NULL, &err);
    imatrix_free(&imatrix);
    *file = (struct gguf_file){0};
}

static void test_gguf_refused(void)
{
    const float zero = 0, nan = NAN, two[] = {1, 2};
    struct gguf_file file = {0};
    gguf_file_string(&file, "general.type", "model");
    put_pair(&file, "output.weight", &four, 1);
    check_gguf_refused(&file, "model.gguf", ERR_UNSUPPORTED, "is no importance matrix");
    put_pair(&file, "output.weight", &four, 1);
    check_gguf_refused(&file, "no-type.gguf", ERR_UNSUPPORTED, "is no importance matrix");
    gguf_file_string(&file, "general.type", "imatrix");
    check_gguf_refused(&file, "nothing.gguf", ERR_FORMAT, "names no matrix");
    gguf_file_string(&file, "general.type", "imatrix");
    put_pair(&file, "output.weight", NULL, 1);
    check_gguf_refused(&file, "no-counts.gguf", ERR_FORMAT, "output.weight: has sums but no counts");
    gguf_file_string(&file, "general.type", "imatrix");
    put_pair(&file, "output.weight", two, 2);
    check_gguf_refused(&file, "experts.gguf", ERR_UNSUPPORTED, "counts for 2 matrices");
    gguf_file_string(&file, "general.type", "imatrix");
    gguf_file_tensor(&file, "blk.2.ffn_up_exps.weight.in_sum2", 3, 2, GGUF_F32, stacked, sizeof stacked);
    gguf_file_tensor(&file, "blk.2.ffn_up_exps.weight.counts", 4, 1, GGUF_F32, sums, sizeof sums);
    check_gguf_refused(&file, "uneven.gguf", ERR_FORMAT, "6 sums are not those of 4 matrices");
    gguf_file_string(&file, "general.type", "imatrix");
    put_pair(&file, "output.weight", &zero, 1);
    check_gguf_refused(&file, "count-0.gguf", ERR_FORMAT, "counts 0 tokens");
    gguf_file_string(&file, "general.type", "imatrix");
    put_pair(&file, "output.weight", &nan, 1);
    check_gguf_refused(&file, "count-nan.gguf", ERR_FORMAT, "counts nan tokens");
    gguf_file_string(&file, "general.type", "imatrix");
    gguf_file_tensor(&file, "output.weight.in_sum2", 1, 4, GGUF_F16, sums, 8);
    gguf_file_tensor(&file, "output.weight.counts", 1, 1, GGUF_F32, &four, 4);
    check_gguf_refused(&file, "f16.gguf", ERR_FORMAT, "not F32");
}

int main(void)
{
    static const struct test_case cases[] = {
        {"dat", test_dat},
        {"dat, truncated", test_dat_truncated},
        {"dat, numbers", test_dat_numbers},
        {"dat, entries", test_dat_entries},
        {"gguf", test_gguf},
        {"gguf, refused", test_gguf_refused},
        {"experts, gguf", test_experts_gguf},
        {"experts, dat", test_experts_dat},
    };
    return TESTING_RUN("imatrix", cases);
}
