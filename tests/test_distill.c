/* Whole datasets: the same bytes for any number of threads and after any kill; what is refused, and that nothing is lost by it; filters;
 * the given tokens and the sampled ones; damage that leaves the rest readable; and the exports. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/report.h"
#include "distill/dataset.h"
#include "distill/export_files.h"
#include "distill/filters.h"
#include "distill/produce.h"
#include "formats/container.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/sample_text.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

static const struct tiny_model small = {.layers = 2, .hidden = 32, .ffn = 32, .heads = 2, .seed = 4};
static const struct report quiet = {.quiet = true};

/* ---- runs ---- */

/* A fresh folder with a teacher and a text of 3000 tokens; few bytes make a shard. */
static struct distill_options fresh(void)
{
    struct distill_options options = distill_settings_defaults();
    testing_folder();
    options.teacher = tiny_model_folder("teacher", small);
    options.text = sample_text("text", 3000, 1);
    options.output = testing_path("out.nbd");
    options.length = 32;
    options.k = 8;
    options.batch = 4;
    options.shard_size = 2500;
    options.common.threads = 1;
    return options;
}

/* The same with sampling. */
static struct distill_options fresh_sampling(void)
{
    struct distill_options options = fresh();
    static const char prompts[] = "AB\nHELLO WORLD\n\nTHE\n";
    testing_write(testing_path("prompts"), prompts, sizeof prompts - 1);
    options.text = NULL;
    options.prompts = testing_path("prompts");
    options.sequences = 30;
    options.sampling.temperature = 1.2;
    options.sampling.top_p = 0.95;
    options.sampling.repetition_penalty = 1.1;
    options.seed = 3;
    return options;
}

static enum status produce(
    const struct distill_options *options, struct produce_result *result, struct error *err)
{
    struct produce_result unused;
    struct pool *pool = NULL;
    const struct report report = {.quiet = !options->common.verbose};
    enum status status = pool_create(&pool, (unsigned)options->common.threads, err);
    if (!status) status = produce_dataset(result ? result : &unused, options, pool, &report, err);
    pool_free(pool);
    return status;
}

static struct produce_result must_produce(const struct distill_options *options)
{
    struct produce_result result;
    struct error err = {0};
    REQUIRE(produce(options, &result, &err) == OK, &err);
    return result;
}

/* ---- what must hold ---- */

static const char *shard_of(const char *folder, unsigned number)
{
    return testing_path("%s/shard-%05u.nbd", folder, number);
}

static unsigned shards_in(const char *folder)
{
    unsigned count = 0;
    while (file_kind(shard_of(folder, count)) == FILE_REGULAR)
        count++;
    return count;
}

/* Two datasets in the test's folder hold the same files of the same bytes. */
static bool same_datasets(const char *a, const char *b)
{
    const unsigned count = shards_in(a);
    bool same = count > 0 && shards_in(b) == count;
    for (unsigned i = 0; i < count && same; i++)
        same = testing_same_files(shard_of(a, i), shard_of(b, i));
    return same &&
           testing_same_files(testing_path("%s/dataset.json", a), testing_path("%s/dataset.json", b)) &&
           testing_same_files(testing_path("%s/tokenizer.json", a), testing_path("%s/tokenizer.json", b));
}

static void check_refused(const struct distill_options *options, enum status expected, const char *part)
{
    struct error err = {0};
    CHECK(produce(options, NULL, &err) == expected, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
}

static bool is_absent(const char *name)
{
    return file_kind(testing_path("%s", name)) == FILE_ABSENT;
}

/* All records of a dataset in turn. */
typedef void (*record_visitor)(void *context, const struct shard_sequence *sequence, uint64_t position,
    const struct token_record *record, const uint8_t *bytes, const struct token_record_layout *layout);

static uint64_t visit(const char *path, record_visitor see, void *context)
{
    struct dataset dataset;
    struct error err = {0};
    struct token_record record;
    uint64_t sequences = 0;
    REQUIRE(dataset_open(&dataset, path, false, &quiet, &err) == OK, &err);
    REQUIRE(token_record_new(&record, &dataset.document.layout, &err) == OK, &err);
    for (uint64_t i = 0; i < dataset.shard_count; i++) {
        struct shard *shard = NULL;
        REQUIRE(dataset_shard(&shard, &dataset, i, &err) == OK, &err);
        for (uint64_t j = 0; j < shard_info(shard)->sequences; j++, sequences++) {
            const struct shard_sequence sequence = shard_sequence(shard, j);
            for (uint64_t position = 0; position < sequence.length; position++) {
                const uint8_t *bytes;
                REQUIRE(shard_record(shard, &bytes, sequence.first + position, &err) == OK, &err);
                REQUIRE(token_record_get(&record, &dataset.document.layout, bytes, &err) == OK, &err);
                see(context, &sequence, position, &record, bytes, &dataset.document.layout);
            }
        }
        shard_close(shard);
    }
    token_record_free(&record);
    dataset_close(&dataset);
    return sequences;
}

/* ---- the same bytes ---- */

static void test_threads(void)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        struct distill_options options = kind < 2 ? fresh() : fresh_sampling();
        if (kind % 2) options.targets = "draws";
        options.pack = kind == 1;
        options.unique = true;
        if (kind == 3) options.hidden = "all";
        must_produce(&options);
        CU_ASSERT_TRUE(shards_in("out.nbd") > 2);
        for (unsigned threads = 2; threads <= 3; threads++) {
            options.common.threads = threads;
            options.output = testing_path("again-%u.nbd", threads);
            must_produce(&options);
            CU_ASSERT_TRUE(same_datasets("out.nbd", threads == 2 ? "again-2.nbd" : "again-3.nbd"));
        }
        if (kind < 2 && !options.pack) continue;
        options.seed++; /* and another seed others */
        options.output = testing_path("other.nbd");
        must_produce(&options);
        CU_ASSERT_FALSE(testing_same_files(shard_of("out.nbd", 0), shard_of("other.nbd", 0)));
    }
}

/* ---- what is in it ---- */

struct told {
    struct model *teacher;
    uint64_t records, bad;
    double worst;
    const uint8_t *text;
    uint64_t text_at;
};

/* Records against a forward pass of one sequence at a time: the rounding of other batches moves a logit by 1e-5 at most here. */
static void see_text(void *context, const struct shard_sequence *sequence, uint64_t position,
    const struct token_record *record, const uint8_t *bytes, const struct token_record_layout *layout)
{
    static uint32_t tokens[64];
    struct told *told = context;
    struct session *session = NULL;
    (void)bytes;
    told->records++;
    tokens[position] = record->token;
    if (position + 1 < sequence->length) return;
    const uint64_t length = sequence->length, vocabulary = layout->shape.vocabulary;
    float *hidden = memory_new(length, told->teacher->config.hidden * sizeof(float), NULL);
    float *logits = memory_new(length, vocabulary * sizeof(float), NULL);
    struct error err = {0};
    REQUIRE(session_create(&session, told->teacher, 1, length, &err) == OK, &err);
    REQUIRE(session_step(session, hidden, tokens, length, &err) == OK, &err);
    REQUIRE(model_logits(told->teacher, logits, hidden, length, &err) == OK, &err);
    double nll = 0;
    for (uint64_t i = 0; i < length; i++) {
        double sum = 0;
        for (uint64_t j = 0; j < vocabulary; j++)
            sum += exp((double)logits[i * vocabulary + j]);
        if (i + 1 < length) nll += log(sum) - (double)logits[i * vocabulary + tokens[i + 1]];
        if (i + 1 < length) continue;
        told->worst = fmax(told->worst, fabs(log(sum) - (double)record->log_sum)); /* of the last: in hand */
        for (uint32_t j = 0; j < layout->shape.count && !layout->shape.draws; j++)
            told->worst = fmax(told->worst,
                fabs((double)logits[i * vocabulary + record->ids[j]] - log(sum) - record->values[j]));
    }
    told->worst = fmax(told->worst, fabs(nll / (double)(length - 1) - (double)sequence->nll));
    session_free(session);
    memory_free(hidden);
    memory_free(logits);
}

static void check_against_forward(struct distill_options options, double tolerance)
{
    struct told told = {0};
    struct pool *pool = NULL;
    struct error err = {0};
    const struct produce_result result = must_produce(&options);
    REQUIRE(!pool_create(&pool, 1, &err) && !model_open(&told.teacher, options.teacher, pool, &err), &err);
    CU_ASSERT_EQUAL(visit(options.output, see_text, &told), result.sequences);
    CU_ASSERT_EQUAL(told.records, result.tokens);
    CU_ASSERT_TRUE(told.worst < tolerance);
    model_close(told.teacher);
    pool_free(pool);
}

static void test_predictions(void)
{
    struct distill_options options = fresh();
    options.values = "32";
    check_against_forward(options, 2e-5);
    options.output = testing_path("documents.nbd");
    options.text = testing_path("documents.jsonl");
    static const char documents[] =
        "{\"text\": \"ONE TWO\"}\n{\"text\": \"THREE FOUR FIVE SIX\"}\n{\"text\": \"A\"}\n"
        "{\"text\": \"SEVEN EIGHT NINE TEN ELEVEN TWELVE THIRTEEN\"}\n{\"text\": \"LAST\"}\n";
    testing_write(options.text, documents, sizeof documents - 1);
    options.unpacked = true;
    check_against_forward(options, 2e-5);
    options = fresh_sampling();
    options.values = "32";
    check_against_forward(options, 2e-5);
}

struct sampled {
    unsigned prompts[3], sequences, ended;
    uint64_t last_source;
};

enum { EOS = 2 }; /* of tests/support/tiny_model.h */

static void see_sampled(void *context, const struct shard_sequence *sequence, uint64_t position,
    const struct token_record *record, const uint8_t *bytes, const struct token_record_layout *layout)
{
    struct sampled *sampled = context;
    (void)bytes, (void)layout;
    if (record->token == EOS) CU_ASSERT(position + 1 == sequence->length && sequence->flags == SHARD_ENDED);
    if (position > 0) return;
    sampled->sequences++;
    sampled->prompts[sequence->source % 3] += sequence->prompt;
    sampled->ended += sequence->flags & SHARD_ENDED;
    CU_ASSERT_TRUE(sequence->length == 32 || sequence->flags == SHARD_ENDED);
    sampled->last_source = sequence->source;
}

/* Sequences start with their prompts in turn, and there are exactly as many as asked for. */
static void test_sampling(void)
{
    struct distill_options options = fresh_sampling();
    struct sampled sampled = {0};
    options.sequences = 89;
    must_produce(&options);
    CU_ASSERT_EQUAL(visit(options.output, see_sampled, &sampled), 89);
    CU_ASSERT_TRUE(sampled.ended > 0); /* one of 269 tokens, 2400 times */
    CU_ASSERT(sampled.prompts[0] == 30 * 2 && sampled.prompts[1] == 30 * 11 && sampled.prompts[2] == 29 * 3);
    CU_ASSERT_EQUAL(sampled.last_source, 88);
    options = fresh_sampling();
    options.prompts = NULL;
    options.bos = true;
    options.sequences = 3;
    check_refused(&options, ERR_USAGE, "puts no BOS in front"); /* and tests/cli/distill has one that does */
}

struct states {
    uint64_t records, nonzero;
};

static void see_states(void *context, const struct shard_sequence *sequence, uint64_t position,
    const struct token_record *record, const uint8_t *bytes, const struct token_record_layout *layout)
{
    struct states *states = context;
    const struct token_record_field *field = &layout->fields[FIELD_HIDDEN];
    (void)sequence, (void)position, (void)record;
    states->records++;
    CU_ASSERT(field->count == 32 && field->bytes == 64 && field->at + 64 == layout->bytes);
    for (uint64_t i = 0; i < field->bytes; i += 2)
        states->nonzero += (bytes[field->at + i] | bytes[field->at + i + 1]) != 0;
}

static void test_hidden(void)
{
    struct distill_options options = fresh();
    struct states states = {0};
    options.hidden = "1";
    must_produce(&options);
    visit(options.output, see_states, &states);
    CU_ASSERT_TRUE(states.nonzero > 31 * states.records);
    options.output = testing_path("other.nbd");
    static const char *const bad[] = {"2", "1,0", "x", "", "0,", "-1", "0 1"};
    for (unsigned i = 0; i < 7; i++) {
        options.hidden = bad[i];
        check_refused(&options, ERR_USAGE, "--hidden");
    }
    CU_ASSERT_TRUE(is_absent("other.nbd"));
}

/* ---- filters ---- */

static void test_filters(void)
{
    struct distill_options options = fresh();
    static const char documents[] = "{\"text\": \"ONE TWO\"}\n{\"text\": \"THREE FOUR FIVE "
                                    "SIX\"}\n{\"text\": \"ONE TWO\"}\n{\"text\": \"A1B\"}\n"
                                    "{\"text\": \"SEVEN EIGHT NINE TEN ELEVEN TWELVE THIRTEEN\"}\n{\"text\": "
                                    "\"NOTHING\"}\n{\"text\": \"ONE TWO\"}\n";
    options.text = testing_path("documents.jsonl");
    testing_write(options.text, documents, sizeof documents - 1);
    options.unpacked = true;
    options.batch = 2;
    options.min_length = 5;
    options.max_length = 25;
    options.unique = true;
    options.match = "0x4"; /* this tokenizer decodes every byte as <0x54>; every letter up to O matches */
    options.no_match = "0x54> <0x48> <0x(49|52)"; /* THI, THR */
    const struct produce_result result = must_produce(&options);
    CU_ASSERT_EQUAL(result.taken[FILTER_LENGTH], 2); /* A1B, and the long one */
    CU_ASSERT_EQUAL(result.taken[FILTER_MATCH], 0);
    CU_ASSERT_EQUAL(result.taken[FILTER_NO_MATCH], 2); /* THREE, NOTHING */
    CU_ASSERT_EQUAL(result.taken[FILTER_UNIQUE], 2);
    CU_ASSERT(result.sequences == 1 && result.sources == 7);
    options.output = testing_path("none.nbd");
    options.match = "no such text";
    check_refused(&options, ERR_USAGE, "left none of 7");
    CU_ASSERT_TRUE(is_absent("none.nbd"));
    options.match = "(";
    check_refused(&options, ERR_USAGE, "--match (");
}

struct perplexities {
    double low, high;
    unsigned outside;
};

static void see_perplexity(void *context, const struct shard_sequence *sequence, uint64_t position,
    const struct token_record *record, const uint8_t *bytes, const struct token_record_layout *layout)
{
    struct perplexities *seen = context;
    const double perplexity = exp((double)sequence->nll);
    (void)record, (void)bytes, (void)layout, (void)position;
    seen->outside += perplexity < seen->low || perplexity > seen->high;
}

static void test_perplexity_window(void)
{
    struct distill_options options = fresh();
    struct perplexities seen = {0, 1e9, 0};
    const struct produce_result all = must_produce(&options);
    options.output = testing_path("some.nbd");
    options.perplexity = "280-290";
    seen.low = 280;
    seen.high = 290;
    CU_ASSERT_TRUE(
        visit(testing_path("out.nbd"), see_perplexity, &seen) == all.sequences && seen.outside > 0);
    const struct produce_result some = must_produce(&options);
    seen.outside = 0;
    visit(options.output, see_perplexity, &seen);
    CU_ASSERT(seen.outside == 0 && some.sequences > 0 && some.sequences < all.sequences);
    CU_ASSERT_EQUAL(some.sequences + some.taken[FILTER_PERPLEXITY], all.sequences);
}

/* ---- killed, and gone on with ---- */

static pid_t start(const struct distill_options *options)
{
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0, NULL);
    if (child == 0) {
        alarm(120);
        _exit((int)produce(options, NULL, NULL));
    }
    return child;
}

/* Killed at moments that nobody chose, each time going on from there; then the bytes are those of a run that nothing disturbed. */
static unsigned kill_at_random(struct distill_options options, unsigned kills, uint64_t seed)
{
    struct distill_options undisturbed = options;
    undisturbed.output = testing_path("expected.nbd");
    double seconds = report_seconds();
    must_produce(&undisturbed);
    seconds = report_seconds() - seconds;
    unsigned killed = 0;
    for (unsigned i = 0; i < 20 * kills && killed < kills; i++) {
        const pid_t child = start(&options);
        int how = 0;
        usleep((useconds_t)(seconds * 1e6 * (double)(testing_random(&seed) % 1000) / 1000));
        kill(child, SIGKILL);
        REQUIRE(waitpid(child, &how, 0) == child, NULL);
        if (WIFSIGNALED(how)) {
            killed++;
            continue;
        }
        CU_ASSERT_TRUE(same_datasets("expected.nbd", "out.nbd"));
        struct distill_options again = options; /* begin anew */
        check_refused(&again, ERR_USAGE, "is a complete dataset");
        for (unsigned shard = shards_in("out.nbd"); shard-- > 0;)
            unlink(shard_of("out.nbd", shard));
        unlink(testing_path("out.nbd/dataset.json"));
    }
    if (is_absent("out.nbd/dataset.json") || shards_in("out.nbd") < shards_in("expected.nbd"))
        must_produce(&options);
    struct error err = {0};
    if (!same_datasets("expected.nbd", "out.nbd")) CHECK(produce(&options, NULL, &err) == OK, &err);
    CU_ASSERT_TRUE(same_datasets("expected.nbd", "out.nbd"));
    return killed;
}

static void test_killed_at_random(void)
{
    unsigned killed = 0;
    for (unsigned i = 0; i < 4; i++) {
        struct distill_options options = i % 2 ? fresh_sampling() : fresh();
        options.unique = true;
        options.common.threads = 1 + i / 2;
        if (i == 2) options.pack = true;
        if (i == 3) options.targets = "draws";
        options.shard_size = 2000;
        options.no_match = "QU";
        killed += kill_at_random(options, 6, i);
    }
    CU_ASSERT_TRUE(killed >= 20);
}

/* A run whose nth shard cannot be put in place, as on a full disk: what is there stays, and the same command goes on. */
static int renames_left;
static struct file_calls real_calls;

static int failing_rename(const char *from, const char *to)
{
    if (renames_left-- > 0) return real_calls.rename(from, to);
    errno = ENOSPC;
    return -1;
}

static enum status interrupted(const struct distill_options *options, int renames, struct error *err)
{
    real_calls = file_calls;
    renames_left = renames;
    file_calls.rename = failing_rename;
    const enum status status = produce(options, NULL, err);
    file_calls = real_calls;
    return status;
}

static void test_full_disk(void)
{
    struct distill_options options = fresh(), undisturbed = options;
    undisturbed.output = testing_path("expected.nbd");
    must_produce(&undisturbed);
    const int shards = (int)shards_in("expected.nbd");
    for (int n = 0; n < shards + 3; n++) { /* tokenizer.json, dataset.json, the shards, dataset.json */
        struct error err = {0};
        CHECK(interrupted(&options, n, &err) == ERR_IO && strstr(err.text, "out.nbd"), &err);
        CU_ASSERT_TRUE(n > 2 || is_absent("out.nbd")); /* nothing was made for nothing */
        if (n <= 2) continue;
        CU_ASSERT_EQUAL((int)shards_in("out.nbd"), n - 2);
        const struct produce_result result = must_produce(&options);
        CU_ASSERT_EQUAL((int)result.shards_resumed, n - 2);
        CU_ASSERT_TRUE(same_datasets("expected.nbd", "out.nbd"));
        struct error gone = {0};
        unlink(testing_path("out.nbd/dataset.json"));
        unlink(testing_path("out.nbd/tokenizer.json"));
        for (int i = 0; i < shards; i++)
            unlink(shard_of("out.nbd", (unsigned)i));
        REQUIRE(rmdir(testing_path("out.nbd")) == 0, &gone);
    }
}

static void test_other_options(void)
{
    struct distill_options options = fresh();
    CU_ASSERT_EQUAL(interrupted(&options, 4, NULL), ERR_IO);
    struct distill_options other = options;
    other.k = 9;
    check_refused(&other, ERR_USAGE, "with k 8, this run has 9");
    other = options;
    other.text = sample_text("text", 3000, 2);
    check_refused(&other, ERR_USAGE, "tokens_crc32");
    sample_text("text", 3000, 1);
    struct tiny_model model = small;
    model.seed = 5;
    other = options;
    other.teacher = tiny_model_folder("other-teacher", model);
    check_refused(&other, ERR_USAGE, "input");
    CU_ASSERT_EQUAL(shards_in("out.nbd"), 2);
    other.restart = true;
    CU_ASSERT_EQUAL(must_produce(&other).shards_resumed, 0);
}

static void flip(const char *path, uint64_t at)
{
    uint64_t count;
    char *bytes = testing_read(path, &count);
    bytes[at < count ? at : count / 2] ^= 1;
    testing_write(path, bytes, count);
    memory_free(bytes);
}

/* A shard that was damaged between the runs is made again, and all after it. */
static void test_damaged_between(void)
{
    struct distill_options options = fresh(), undisturbed = options;
    undisturbed.output = testing_path("expected.nbd");
    must_produce(&undisturbed);
    REQUIRE(shards_in("expected.nbd") > 3, NULL);
    CU_ASSERT_EQUAL(interrupted(&options, 5, NULL), ERR_IO);
    flip(shard_of("out.nbd", 1), 400);
    CU_ASSERT_EQUAL(must_produce(&options).shards_resumed, 1);
    CU_ASSERT_TRUE(same_datasets("expected.nbd", "out.nbd"));
}

/* ---- refusals ---- */

static void test_refusals(void)
{
    struct distill_options options = fresh(), bad = options;
    bad.k = 270;
    check_refused(&bad, ERR_USAGE, "--k 270 is above the teacher's vocabulary of 269");
    bad = options;
    bad.text = NULL;
    check_refused(&bad, ERR_USAGE, "none of --text");
    bad.bos = true;
    check_refused(&bad, ERR_USAGE, "--sequences");
    bad.sequences = 5;
    bad.sampling.temperature = 0;
    check_refused(&bad, ERR_USAGE, "--temperature 0");
    bad.sampling.temperature = -1;
    check_refused(&bad, ERR_USAGE, "--temperature -1");
    bad.sampling.temperature = NAN;
    check_refused(&bad, ERR_USAGE, "--temperature");
    bad = options;
    bad.draw_temperature = 0;
    check_refused(&bad, ERR_USAGE, "--draw-temperature");
    bad = options;
    bad.perplexity = "9-3";
    check_refused(&bad, ERR_USAGE, "--perplexity 9-3");
    bad = options;
    bad.prompts = "x";
    check_refused(&bad, ERR_USAGE, "several of");
    bad = fresh_sampling();
    bad.length = 11; /* "HELLO WORLD" */
    check_refused(&bad, ERR_USAGE, "line 2: has 11 tokens");
    CU_ASSERT_TRUE(is_absent("out.nbd"));
    bad = fresh();
    unlink(testing_path("teacher/tokenizer.json"));
    check_refused(&bad, ERR_UNSUPPORTED, "tokenizer.json");
    CU_ASSERT_TRUE(is_absent("out.nbd"));
}

static void test_outputs_that_exist(void)
{
    struct distill_options options = fresh();
    REQUIRE(mkdir(options.output, 0777) == 0, NULL);
    testing_write(testing_path("out.nbd/precious"), "x", 1);
    check_refused(&options, ERR_USAGE, "it holds precious");
    options.restart = true;
    check_refused(&options, ERR_USAGE, "it holds precious");
    CU_ASSERT_FALSE(is_absent("out.nbd/precious"));
    unlink(testing_path("out.nbd/precious"));
    options.restart = false;
    must_produce(&options); /* an empty folder is fine */
    check_refused(&options, ERR_USAGE, "is a complete dataset");
    options.restart = true;
    check_refused(&options, ERR_USAGE, "is a complete dataset");
    options.output = testing_path("text");
    check_refused(&options, ERR_USAGE, "no folder");
}

/* ---- damage, afterwards ---- */

static void test_damaged_dataset(void)
{
    struct distill_options options = fresh();
    struct dataset dataset;
    struct error err = {0};
    struct shard *shard;
    must_produce(&options);
    flip(shard_of("out.nbd", 1), UINT64_MAX);
    REQUIRE(truncate(shard_of("out.nbd", 2), 700) == 0, NULL);
    REQUIRE(dataset_open(&dataset, options.output, false, &quiet, &err) == OK, &err);
    CU_ASSERT_EQUAL(dataset_shard(&shard, &dataset, 0, &err), OK);
    shard_close(shard);
    CHECK(
        dataset_shard(&shard, &dataset, 1, &err) == ERR_FORMAT && strstr(err.text, "shard-00001.nbd"), &err);
    CHECK(
        dataset_shard(&shard, &dataset, 2, &err) == ERR_FORMAT && strstr(err.text, "shard-00002.nbd"), &err);
    dataset_close(&dataset);
    unlink(shard_of("out.nbd", 3));
    REQUIRE(dataset_open(&dataset, options.output, true, &quiet, &err) == OK, &err);
    for (uint64_t i = 0; i < dataset.shard_count; i++) {
        CU_ASSERT_EQUAL(dataset_shard(&shard, &dataset, i, &err), OK);
        CU_ASSERT_EQUAL(shard == NULL, i >= 1 && i <= 3);
        shard_close(shard);
    }
    CU_ASSERT_EQUAL(dataset.damaged, 3);
    dataset_close(&dataset);
}

/* A whole shard of another run of the same options under another number, or another file that says it is this one. */
static void test_foreign_shard(void)
{
    struct distill_options options = fresh();
    struct dataset dataset;
    struct shard *shard;
    uint64_t count;
    must_produce(&options);
    char *bytes = testing_read(shard_of("out.nbd", 0), &count);
    testing_write(shard_of("out.nbd", 1), bytes, count);
    memory_free(bytes);
    REQUIRE(dataset_open(&dataset, options.output, false, &quiet, NULL) == OK, NULL);
    CU_ASSERT_EQUAL(dataset_shard(&shard, &dataset, 1, NULL), ERR_FORMAT);
    dataset_close(&dataset);
}

/* ---- the document ---- */

static void check_document(
    const char *name, const char *text, const char *from, const char *to, enum status expected)
{
    struct dataset_document document;
    struct error err = {0};
    char *copy = memory_new(strlen(text) + strlen(to) + 1, 1, NULL);
    const char *at = strstr(text, from);
    REQUIRE(copy && at, NULL);
    memcpy(copy, text, (size_t)(at - text));
    strcpy(copy + (at - text), to);
    strcat(copy, at + strlen(from));
    corpus_keep("shard", name, copy, strlen(copy));
    CHECK(dataset_document_parse(&document, "dataset.json", copy, strlen(copy), &err) == expected, &err);
    dataset_document_free(&document);
    memory_free(copy);
}

static void test_document(void)
{
    struct distill_options options = fresh();
    options.hidden = "0,1";
    must_produce(&options);
    uint64_t count;
    char *text = testing_read(testing_path("out.nbd/dataset.json"), &count);
    check_document("document", text, "{", "{", OK);
    check_document("document-version", text, "\"version\": 1", "\"version\": 2", ERR_UNSUPPORTED);
    check_document("document-format", text, "\"nibble dist", "\"other dist", ERR_FORMAT);
    check_document(
        "document-vocabulary", text, "\"vocabulary\": 269", "\"vocabulary\": 4294967295", ERR_FORMAT);
    check_document("document-count", text, "\"count\": 8", "\"count\": 400", ERR_FORMAT);
    check_document("document-bits", text, "\"value_bits\": 8", "\"value_bits\": 9", ERR_FORMAT);
    check_document("document-width", text, "\"hidden_width\": 32", "\"hidden_width\": 33", ERR_FORMAT);
    check_document("document-layers", text, "      0,\n", "      \"0\",\n", ERR_FORMAT);
    check_document("document-file", text, "shard-00001", "../../00001", ERR_FORMAT);
    check_document("document-crc", text, "\"crc32\": \"", "\"crc32\": \"g", ERR_FORMAT);
    check_document("document-sum", text, "\"sequences\": 9", "\"sequences\": 1", ERR_FORMAT);
    check_document("document-stamp", text, "\"stamp\": {", "\"stamp\": {\"x\": 1, ", ERR_FORMAT);
    check_document("document-no-stamp", text, "\"stamp\": {", "\"stomp\": {", ERR_FORMAT);
    memory_free(text);
}

/* ---- exports ---- */

struct sums {
    double log_sum, rest, values;
    uint64_t tokens, ids, count;
};

static void see_sums(void *context, const struct shard_sequence *sequence, uint64_t position,
    const struct token_record *record, const uint8_t *bytes, const struct token_record_layout *layout)
{
    struct sums *sums = context;
    (void)sequence, (void)position, (void)bytes;
    sums->tokens += record->token;
    sums->log_sum += (double)record->log_sum;
    sums->rest += (double)record->rest;
    for (uint32_t i = 0; i < layout->shape.count; i++) {
        sums->ids += record->ids[i];
        sums->values += (double)(float)record->values[i];
    }
    sums->count++;
}

static double sum_floats(struct container *container, const char *name, uint64_t *count)
{
    const struct tensor *tensor = container_find(container, name);
    double sum = 0;
    REQUIRE(tensor && tensor->dtype == DTYPE_F32, NULL);
    *count = tensor->bytes / 4;
    for (uint64_t i = 0; i < *count; i++)
        sum += (double)((const float *)tensor->data)[i];
    return sum;
}

static uint64_t sum_integers(struct container *container, const char *name)
{
    const struct tensor *tensor = container_find(container, name);
    uint64_t sum = 0;
    REQUIRE(tensor != NULL, NULL);
    for (uint64_t i = 0; i < tensor->bytes / 4; i++)
        sum += ((const uint32_t *)tensor->data)[i];
    return sum;
}

static void test_export(void)
{
    struct distill_options options = fresh();
    struct dataset dataset;
    struct export_result result;
    struct container *container = NULL;
    struct sums sums = {0};
    struct error err = {0};
    uint64_t count;
    must_produce(&options);
    visit(options.output, see_sums, &sums);
    REQUIRE(dataset_open(&dataset, options.output, false, &quiet, &err) == OK, &err);
    const char *file = testing_path("out.safetensors");
    REQUIRE(export_safetensors(&result, &dataset, file, false, &err) == OK, &err);
    CU_ASSERT(result.bytes == file_size(file) && result.tokens == sums.count);
    CU_ASSERT_EQUAL(export_safetensors(&result, &dataset, file, false, NULL), ERR_USAGE);
    REQUIRE(!container_open(&container, file, &err) && !container_map(container, &err), &err);
    CU_ASSERT_EQUAL(sum_integers(container, "tokens"), sums.tokens);
    CU_ASSERT_EQUAL(sum_integers(container, "ids"), sums.ids);
    CU_ASSERT_EQUAL(sum_floats(container, "log_probs", &count), sums.values);
    CU_ASSERT_EQUAL(count, 8 * sums.count);
    CU_ASSERT_EQUAL(sum_floats(container, "tail", &count), sums.rest);
    CU_ASSERT_EQUAL(sum_floats(container, "logsumexp", &count), sums.log_sum);
    container_close(container);
    REQUIRE(export_npy(&result, &dataset, testing_path("arrays"), &err) == OK, &err);
    CU_ASSERT_EQUAL(file_size(testing_path("arrays/ids.npy")), 128 + 4 * 8 * sums.count);
    CU_ASSERT_EQUAL(file_size(testing_path("arrays/offsets.npy")), 128 + 8 * (result.sequences + 1));
    REQUIRE(export_json_lines(&result, &dataset, testing_path("out.jsonl"), false, &err) == OK, &err);
    CU_ASSERT_EQUAL(result.tokens, sums.count);
    dataset_close(&dataset);
}

/* A process that ends takes nothing from the system's memory: waiting for the disk would show nothing here. */
static int no_sync(int descriptor)
{
    (void)descriptor;
    return 0;
}

int main(void)
{
    static const struct test_case cases[] = {
        {"threads", test_threads},
        {"predictions", test_predictions},
        {"sampling", test_sampling},
        {"hidden", test_hidden},
        {"filters", test_filters},
        {"perplexity window", test_perplexity_window},
        {"killed at random", test_killed_at_random},
        {"full disk", test_full_disk},
        {"other options", test_other_options},
        {"damaged between runs", test_damaged_between},
        {"refusals", test_refusals},
        {"outputs that exist", test_outputs_that_exist},
        {"damaged dataset", test_damaged_dataset},
        {"foreign shard", test_foreign_shard},
        {"document", test_document},
        {"export", test_export},
    };
    file_calls.fsync = no_sync;
    return TESTING_RUN("distill", cases);
}
