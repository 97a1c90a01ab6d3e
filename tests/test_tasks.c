/* Multiple choice: items of every layout, hostile lines, scores against lm-evaluation-harness itself (tests/golden/tasks), against
 * whole sequences run without a cache, and the statistics by hand. The model is the one that ships. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/tasks/choice.h"
#include "runtime-check/judge/perplexity.h"
#include "runtime-check/tasks/tally.h"
#include "runtime-check/tasks/task_clean.h"
#include "runtime-check/tasks/task_layouts.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define MODEL "../models/folio-4M"

static struct model *open_model(struct pool **pool, unsigned threads, const char *path)
{
    struct model *model = NULL;
    struct error err = {0};
    REQUIRE(!pool_create(pool, threads, &err), &err);
    REQUIRE(!model_open(&model, path, *pool, &err), &err);
    return model;
}

/* ---- reading ---- */

static bool is_text(const struct task_file *file, struct task_text text, const char *expected)
{
    const bool same = text.bytes == strlen(expected) &&
                      (text.bytes == 0 || memcmp(task_file_text(file, text), expected, text.bytes) == 0);
    if (!same)
        printf("  found \"%.*s\", expected \"%s\"\n", (int)text.bytes, task_file_text(file, text), expected);
    return same;
}

static void parse_one(struct task_file *file, const char *layout, const char *line)
{
    struct error err = {0};
    CHECK(!task_file_parse(file, "items", line, strlen(line), layout, 0, &err), &err);
    REQUIRE(file->count == 1, &err);
}

/* One item of each layout: how it is recognised, the text that is made of it, which choice is right. */
static void layouts(void)
{
    static const struct {
        const char *layout, *line, *description, *context, *first, *last;
        uint32_t choices, right;
    } cases[] = {
        {"plain", "{\"question\":\"q \",\"choices\":[\"a\",\"b\"],\"answer\":1}", "", "q ", " a", " b", 2, 1},
        {"plain", "{\"question\":\"q\",\"choices\":[\"B\",\"x\"],\"answer\":\"B\"}", "", "q", " B", " x", 2,
            0},
        {"plain", "{\"question\":\"q\",\"choices\":[\"y\",\"x\"],\"answer\":\"B\"}", "", "q", " y", " x", 2,
            1},
        {"hellaswag",
            "{\"activity_label\":\"Act\",\"ctx_a\":\"[header] A man [title] sits. [step] "
            "He\",\"ctx_b\":\"The "
            "MAN\",\"label\":\"1\",\"endings\":[\" one  two\",\"x [t] y\",\"[a\",\"b]\"]}",
            "", "Act: A man. sits. He The man", " one two", " b]", 4, 1},
        {"hellaswag", "{\"activity_label\":\"Act\",\"ctx\":\"a Man\",\"label\":0,\"endings\":[\"x\",\"y\"]}",
            "", "Act: a Man", " x", " y", 2, 0},
        {"winogrande",
            "{\"sentence\":\"Ann saw Bo as _  was near. \",\"option1\":\"Ann\",\"option2\":\"Bo\",\"answer\":"
            "\"2\"}",
            "", "Ann saw Bo as Ann", " was near.", " was near.", 2, 1},
        {"piqa", "{\"goal\":\"g\",\"sol1\":\"s\",\"sol2\":\"t\",\"label\":1}", "",
            "Question: g\nAnswer:", " s", " t", 2, 1},
        {"arc",
            "{\"question\":\"q\",\"choices\":{\"text\":[\"x\",\"y\",\"z\"],\"label\":[\"1\",\"2\",\"3\"]},"
            "\"answerKey\":\"3\"}",
            "", "Question: q\nAnswer:", " x", " z", 3, 2},
        {"arc",
            "{\"id\":\"i\",\"question\":{\"stem\":\"q\",\"choices\":[{\"text\":\"x\",\"label\":\"A\"},"
            "{\"text\":\"y\",\"label\":\"B\"}]},\"answerKey\":\"B\"}",
            "", "Question: q\nAnswer:", " x", " y", 2, 1},
        {"openbookqa",
            "{\"question_stem\":\"q\",\"choices\":{\"text\":[\"x\",\"y\"],\"label\":[\"A\",\"B\"]},"
            "\"answerKey\":\" A\"}",
            "", "q", " x", " y", 2, 0},
        {"boolq", "{\"passage\":\"p\",\"question\":\"q\",\"answer\":true}", "",
            "p\nQuestion: q?\nAnswer:", " no", " yes", 2, 1},
        {"boolq", "{\"passage\":\"p\",\"question\":\"q\",\"label\":0}", "", "p\nQuestion: q?\nAnswer:", " no",
            " yes", 2, 0},
        {"sciq",
            "{\"support\":\" s "
            "\",\"question\":\"q\",\"distractor1\":\"a\",\"distractor2\":\"b\",\"distractor3\":"
            "\"c\",\"correct_answer\":\"d\"}",
            "", "s \nQuestion: q\nAnswer:", " a", " d", 4, 3},
        {"mmlu", "{\"question\":\" q\\n\",\"choices\":[\"x\",\"y\",\"z\"],\"answer\":2,\"subject\":\"a_b\"}",
            "The following are multiple choice questions (with answers) about a b.\n\n",
            "q\nA. x\nB. y\nC. z\nAnswer:", " A", " C", 3, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct task_file file = {0};
        parse_one(&file, "auto", cases[i].line);
        const struct task_item *item = &file.items[0];
        CU_ASSERT_STRING_EQUAL(file.layout->name, cases[i].layout);
        CU_ASSERT(is_text(&file, item->description, cases[i].description));
        CU_ASSERT(is_text(&file, file.choices[0].context, cases[i].context));
        CU_ASSERT(is_text(&file, file.choices[0].continuation, cases[i].first));
        CU_ASSERT(is_text(&file, file.choices[item->choices - 1].continuation, cases[i].last));
        CU_ASSERT(item->choices == cases[i].choices && item->right == cases[i].right);
        corpus_keep("tasks", cases[i].layout, cases[i].line, strlen(cases[i].line));
        task_file_free(&file);
    }
}

static void put_little(uint8_t *out, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> 8 * i);
}

/* gzip (RFC 1952) with one stored block (RFC 1951, section 3.2.4). */
static void write_packed(const char *path, const char *text, uint64_t count)
{
    uint8_t bytes[1024] = {0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255, 1};
    struct error err = {0};
    REQUIRE(count + 23 <= sizeof bytes, &err);
    put_little(bytes + 11, (uint32_t)count, 2);
    put_little(bytes + 13, ~(uint32_t)count, 2);
    memcpy(bytes + 15, text, count);
    put_little(bytes + 15 + count, file_crc32(0, text, count), 4);
    put_little(bytes + 19 + count, (uint32_t)count, 4);
    testing_write(path, bytes, count + 23);
}

/* Lines end in any way, some are empty, the file may be packed; lengths count characters and bytes; a limit stops early. */
static void files(void)
{
    static const char text[] =
        "\n{\"question\":\"q\",\"choices\":[\"\xc3\xa9t\xc3\xa9\",\"x\"],\"answer\":0}\r\n"
        " \t\n{\"question\":\"r\",\"choices\":[\"a\",\"b\"],\"answer\":1}";
    struct task_file file = {0};
    struct error err = {0};
    const char *path = testing_path("items.jsonl.gz");
    write_packed(path, text, sizeof text - 1);
    CHECK(!task_file_read(&file, path, "auto", 0, &err), &err);
    CU_ASSERT(file.count == 2 && file.choice_count == 4);
    CU_ASSERT(file.items[0].line == 2 && file.items[1].line == 4 && file.items[1].first == 2);
    CU_ASSERT(file.choices[0].characters == 3 && file.choices[0].bytes == 5);
    CU_ASSERT_DOUBLE_EQUAL(task_file_chance(&file), 0.5, 0);
    task_file_free(&file);
    CHECK(!task_file_parse(&file, "items", text, sizeof text - 1, "plain", 1, &err), &err);
    CU_ASSERT_EQUAL(file.count, 1);
    task_file_free(&file);
}

/* Every refusal names the line and what is wrong with it. */
static void hostile_lines(void)
{
    static const struct {
        const char *name, *layout, *line, *wanted;
        enum status status;
    } cases[] = {
        {"empty", "auto", "", "there are no items", ERR_FORMAT},
        {"blank", "auto", "\n \n\r\n", "there are no items", ERR_FORMAT},
        {"not-json", "auto", "{", "line 1", ERR_FORMAT},
        {"nul", "auto", "{\"question\":\"\\u0000\",\"choices\":[\"\\u0000\"],\"answer\":0}",
            "line 1: one choice only", ERR_FORMAT},
        {"list", "auto", "[]", "line 1: not a JSON object", ERR_FORMAT},
        {"unknown-keys", "auto", "{\"a\":1}", "no known layout", ERR_FORMAT},
        {"no-answer", "auto", "{\"question\":\"q\",\"choices\":[\"a\",\"b\"]}", "\"answer\" names none",
            ERR_FORMAT},
        {"answer-beyond", "auto", "\n{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":2}",
            "items: line 2: \"answer\" names none of the 2 choices", ERR_FORMAT},
        {"answer-negative", "auto", "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":-1}",
            "\"answer\" names none", ERR_FORMAT},
        {"answer-huge", "auto",
            "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":18446744073709551615}",
            "\"answer\" names none", ERR_FORMAT},
        {"answer-fraction", "auto", "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0.5}",
            "\"answer\" names none", ERR_FORMAT},
        {"answer-text", "auto", "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":\"c\"}",
            "\"answer\" names none", ERR_FORMAT},
        {"choices-string", "plain", "{\"question\":\"q\",\"choices\":\"ab\",\"answer\":0}",
            "\"choices\" is missing or not a list", ERR_FORMAT},
        {"choices-empty", "plain", "{\"question\":\"q\",\"choices\":[],\"answer\":0}",
            "\"choices\" is missing or not a list", ERR_FORMAT},
        {"choices-numbers", "plain", "{\"question\":\"q\",\"choices\":[1,2],\"answer\":0}",
            "\"choices\" is missing or not a list of strings", ERR_FORMAT},
        {"question-number", "plain", "{\"question\":1,\"choices\":[\"a\",\"b\"],\"answer\":0}",
            "\"question\" is missing or not a string", ERR_FORMAT},
        {"hellaswag-test", "auto",
            "{\"activity_label\":\"a\",\"ctx\":\"c\",\"endings\":[\"x\",\"y\"],\"label\":\"\"}",
            "\"label\" names none", ERR_FORMAT},
        {"winogrande-no-blank", "auto",
            "{\"sentence\":\"s\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"1\"}", "has no \"_\"",
            ERR_FORMAT},
        {"winogrande-zero", "auto",
            "{\"sentence\":\"_\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"0\"}",
            "\"answer\" names none", ERR_FORMAT},
        {"arc-no-label", "auto",
            "{\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"]},\"answerKey\":\"A\"}",
            "\"label\" is missing", ERR_FORMAT},
        {"arc-label-beyond", "auto",
            "{\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"A\",\"B\",\"C\"]},"
            "\"answerKey\":\"C\"}",
            "\"answerKey\" names none of the 2", ERR_FORMAT},
        {"arc-rows", "auto", "{\"question\":{\"stem\":\"q\",\"choices\":[1,2]},\"answerKey\":\"A\"}",
            "\"label\" is missing", ERR_FORMAT},
        {"mixed", "auto",
            "{\"goal\":\"g\",\"sol1\":\"s\",\"sol2\":\"t\",\"label\":1}\n"
            "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0}",
            "line 2: \"goal\" is missing", ERR_FORMAT},
        {"twice", "auto", "{\"question\":\"q\",\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0}",
            "line 1", ERR_FORMAT},
        {"not-utf8", "auto", "{\"question\":\"\xff\",\"choices\":[\"a\",\"b\"],\"answer\":0}", "line 1",
            ERR_FORMAT},
        {"layout", "nonsense", "{}", "there is no layout", ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct task_file file = {0};
        struct error err = {0};
        const char *line = cases[i].line;
        const enum status status =
            task_file_parse(&file, "items", line, strlen(line), cases[i].layout, 0, &err);
        CHECK(status == cases[i].status && strstr(err.text, cases[i].wanted), &err);
        corpus_keep("tasks", cases[i].name, line, strlen(line));
        task_file_free(&file);
    }
}

/* So many choices and no more; a line so long and no longer. */
static void limits(void)
{
    static char line[TASK_FILE_LINE_BYTES + 4096];
    struct error err = {0};
    for (int choices = TASK_FILE_CHOICES; choices <= TASK_FILE_CHOICES + 1; choices++) {
        struct task_file file = {0};
        int used = snprintf(line, sizeof line, "{\"question\":\"q\",\"answer\":0,\"choices\":[\"x\"");
        for (int i = 1; i < choices; i++)
            used += snprintf(line + used, sizeof line - (size_t)used, ",\"x\"");
        used += snprintf(line + used, sizeof line - (size_t)used, "]}");
        const enum status status = task_file_parse(&file, "items", line, (uint64_t)used, "auto", 0, &err);
        CU_ASSERT_EQUAL(status, choices > TASK_FILE_CHOICES ? ERR_FORMAT : OK);
        corpus_keep("tasks", choices > TASK_FILE_CHOICES ? "choices-65" : "choices-64", line, (uint64_t)used);
        task_file_free(&file);
    }
    struct task_file file = {0};
    memset(line, ' ', sizeof line);
    memcpy(line, "{\"a\":1", 6);
    line[TASK_FILE_LINE_BYTES] = '}';
    CU_ASSERT_EQUAL(
        task_file_parse(&file, "items", line, TASK_FILE_LINE_BYTES + 1, "auto", 0, &err), ERR_MEMORY);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "items: line 1: longer than 1048576 bytes"));
    task_file_free(&file);
}

/* Python's string functions, and that brackets without an end are found in linear time (a quadratic search through a megabyte
 * of them would outlast the test's time limit many times over). */
static void cleaning(void)
{
    static const struct {
        const char *in, *cleaned, *capitalized;
    } cases[] = {
        {"", "", ""},
        {" \x1c\xc2\xa0 a b\xe2\x80\x83\n", "a b", " \x1c\xc2\xa0 a b\xe2\x80\x83\n"},
        {"A [title] B", "A. B", "A [title] b"},
        {"a [b [c] d] e", "a d] e", "A [b [c] d] e"},
        {"a [b\nc] [d", "a [b\nc] [d", "A [b\nc] [d"},
        {"a   b    c", "a  b  c", "A   b    c"},
        {"\xc3\xa9LAN Vital", "\xc3\xa9LAN Vital", "\xc3\x89lan vital"},
    };
    struct error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text cleaned = {0}, capitalized = {0};
        const struct json_text in = {cases[i].in, strlen(cases[i].in)};
        CHECK(!task_clean_hellaswag(&cleaned, in, &err) && !task_clean_capitalize(&capitalized, in, &err),
            &err);
        CHECK(!text_append(&cleaned, "", 1, &err) && !text_append(&capitalized, "", 1, &err), &err);
        CU_ASSERT_STRING_EQUAL(cleaned.bytes, cases[i].cleaned);
        CU_ASSERT_STRING_EQUAL(capitalized.bytes, cases[i].capitalized);
        text_free(&cleaned);
        text_free(&capitalized);
    }
    static char brackets[1 << 20];
    struct text out = {0};
    memset(brackets, '[', sizeof brackets);
    CHECK(!task_clean_hellaswag(&out, (struct json_text){brackets, sizeof brackets}, &err), &err);
    CU_ASSERT_EQUAL(out.count, sizeof brackets);
    text_free(&out);
}

/* ---- against the harness ---- */

static const struct json_value *member(const struct json_value *object, const char *key)
{
    const struct json_value *value = json_member(object, key);
    struct error err = {0};
    fail(&err, ERR_FORMAT, "no \"%s\"", key);
    REQUIRE(value, &err);
    return value;
}

/* The text before a choice as the harness has it: description, examples, context. */
static bool same_context(
    const struct task_file *file, const struct task_item *item, struct json_text expected)
{
    const struct task_choice *choice = &file->choices[item->first];
    struct text text = {0};
    struct error err = {0};
    REQUIRE(!text_append(&text, task_file_text(file, item->description), item->description.bytes, &err) &&
                !text_append(&text, file->examples.bytes, file->examples.count, &err) &&
                !text_append(&text, task_file_text(file, choice->context), choice->context.bytes, &err),
        &err);
    const bool same =
        text.count == expected.count && (!text.count || !memcmp(text.bytes, expected.bytes, text.count));
    if (!same) printf("  found:\n%.*s\n  expected:\n%s\n", (int)text.count, text.bytes, expected.bytes);
    text_free(&text);
    return same;
}

static bool is_one(const struct json_value *object, const char *key)
{
    return member(object, key)->number > 0.5;
}

/* Compare one item; returns the largest difference of a log-likelihood. */
static double compare_item(const struct task_file *file, uint64_t index, const struct tasks_scores *scores,
    const struct json_value *expected)
{
    const struct task_item *item = &file->items[index];
    const struct json_value *sum = member(expected, "log_likelihoods")->children;
    const struct json_value *text = member(expected, "continuations")->children;
    double off = 0;
    CU_ASSERT_EQUAL(member(expected, "log_likelihoods")->count, item->choices);
    CU_ASSERT(same_context(file, item, member(expected, "context")->text));
    for (uint32_t i = 0; i < item->choices; i++, sum = sum->next, text = text->next) {
        off = fmax(off, fabs(scores->sums[item->first + i] - sum->number));
        CU_ASSERT(is_text(file, file->choices[item->first + i].continuation, text->text.bytes));
    }
    CU_ASSERT_EQUAL(scores->chosen[index] == item->right, is_one(expected, "acc"));
    if (strcmp(file->layout->name, "winogrande") !=
        0) { /* there the harness measures contexts, for no metric */
        CU_ASSERT_EQUAL(scores->chosen_by_characters[index] == item->right, is_one(expected, "acc_norm"));
        CU_ASSERT_EQUAL(scores->chosen_by_bytes[index] == item->right, is_one(expected, "acc_bytes"));
    }
    return off;
}

static void compare_set(struct model *model, const char *name, const char *expected_name)
{
    struct error err = {0};
    struct task_file file;
    struct tasks_plan plan;
    struct tasks_scores scores;
    struct tally_summary summary;
    struct json_document *document = NULL;
    char path[256];
    uint64_t bytes;
    double off = 0;
    snprintf(path, sizeof path, "golden/tasks/%s.expected.json", expected_name);
    char *json = testing_read(testing_source(path), &bytes);
    REQUIRE(!json_parse(&document, path, json, bytes, &err), &err);
    const struct json_value *root = json_root(document), *item = member(root, "items")->children;
    snprintf(path, sizeof path, "golden/tasks/%s.jsonl", name);
    REQUIRE(!task_file_read(&file, testing_source(path), "auto", 0, &err), &err);
    snprintf(path, sizeof path, "golden/tasks/%s-examples.jsonl", name);
    const uint64_t shots = member(root, "shots")->u64;
    REQUIRE(!shots || !task_file_add_examples(&file, testing_source(path), shots, &err), &err);
    CHECK(!tasks_plan(&plan, model, &file, 0, &err), &err);
    CHECK(!tasks_score(&scores, model, &file, &plan, NULL, &err), &err);
    CU_ASSERT_EQUAL(file.count, member(root, "items")->count);
    for (uint64_t i = 0; i < file.count; i++, item = item->next)
        off = fmax(off, compare_item(&file, i, &scores, item));
    tally_summarize(&summary, &file, &scores, &scores);
    CU_ASSERT_DOUBLE_EQUAL(summary.accuracy.error, member(root, "acc_stderr")->number, 1e-12);
    printf("  %-20s %2d items, off by %.1e nats at most\n", expected_name, (int)file.count, off);
    CU_ASSERT(off < 1e-3);
    tasks_free(&scores);
    task_file_free(&file);
    json_free(document);
    memory_free(json);
}

static void harness(void)
{
    static const char *const sets[][2] = {
        {"plain", "plain"},
        {"hellaswag", "hellaswag"},
        {"winogrande", "winogrande"},
        {"winogrande", "winogrande-2-shots"},
        {"piqa", "piqa"},
        {"arc", "arc"},
        {"arc", "arc-2-shots"},
        {"openbookqa", "openbookqa"},
        {"boolq", "boolq"},
        {"sciq", "sciq"},
        {"mmlu", "mmlu"},
        {"mmlu", "mmlu-2-shots"},
    };
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 2, testing_source(MODEL));
    printf("\n");
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        compare_set(model, sets[i][0], sets[i][1]);
    model_close(model);
    pool_free(pool);
}

/* ---- against whole sequences ---- */

/* The log-likelihood of one choice, its whole sequence run by itself. */
static double score_alone(struct model *model, const struct choice_tokens *tokens)
{
    const uint64_t count = tokens->count - 1, hidden = model->config.hidden,
                   vocabulary = model->config.vocabulary;
    struct error err = {0};
    struct session *session = NULL;
    float *states = memory_new(count * hidden, sizeof *states, &err);
    float *logits = memory_new(count * vocabulary, sizeof *logits, &err);
    double sum = 0;
    REQUIRE(states && logits && !session_create(&session, model, 1, count, &err), &err);
    REQUIRE(!session_step(session, states, tokens->ids, count, &err), &err);
    REQUIRE(!model_logits(model, logits, states, count, &err), &err);
    for (uint64_t i = count - tokens->scored; i < count; i++)
        sum -= perplexity_nll(logits + i * vocabulary, vocabulary, tokens->ids[i + 1]);
    session_free(session);
    memory_free(states);
    memory_free(logits);
    return sum;
}

/* Score the first items of the shipped file, with examples in front, and each choice by itself. */
static void compare_alone(
    struct model *model, uint64_t context, struct tasks_plan *plan, uint64_t *tokens_run)
{
    struct error err = {0};
    struct task_file file;
    struct tasks_scores scores;
    struct choice_tokens tokens = {0};
    uint64_t truncated = 0;
    double off = 0;
    REQUIRE(!task_file_read(&file, testing_source(MODEL "/choices.jsonl"), "auto", 6, &err), &err);
    REQUIRE(!task_file_add_examples(&file, testing_source("golden/tasks/plain.jsonl"), 2, &err), &err);
    CHECK(!tasks_plan(plan, model, &file, context, &err), &err);
    CHECK(!tasks_score(&scores, model, &file, plan, NULL, &err), &err);
    for (uint64_t i = 0; i < file.count; i++) {
        const struct task_item *item = &file.items[i];
        for (uint32_t choice = 0; choice < item->choices; choice++) {
            CHECK(!choice_tokenize(&tokens, model, &file, item, choice, plan->context, &err), &err);
            CU_ASSERT(tokens.count <= plan->context + 1 && tokens.scored < tokens.count);
            truncated += tokens.truncated;
            off = fmax(off, fabs(score_alone(model, &tokens) - scores.sums[item->first + choice]));
        }
    }
    CU_ASSERT(off < 1e-3);
    CU_ASSERT_EQUAL(plan->truncated, truncated);
    *tokens_run = scores.tokens_run;
    choice_free(&tokens);
    tasks_free(&scores);
    task_file_free(&file);
}

/* Shared beginnings change nothing but the work; also with a context so short that some sequences are cut. */
static void whole_sequences(void)
{
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 2, testing_source(MODEL));
    struct tasks_plan plan;
    uint64_t tokens_run;
    compare_alone(model, 0, &plan, &tokens_run);
    CU_ASSERT(plan.context == 256 && plan.truncated == 0);
    CU_ASSERT(tokens_run < plan.tokens / 2);
    compare_alone(model, 60, &plan, &tokens_run);
    CU_ASSERT(plan.truncated > 0 && plan.truncated < 24 && plan.longest == 60);
    model_close(model);
    pool_free(pool);
}

/* The same bits for any number of threads; and the shipped items are answered better than by guessing. */
static void same_for_any_threads(void)
{
    double *first = NULL;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct pool *pool = NULL;
        struct model *model = open_model(&pool, threads, testing_source(MODEL));
        struct error err = {0};
        struct task_file file;
        struct tasks_plan plan;
        struct tasks_scores scores;
        struct tally_summary summary;
        REQUIRE(!task_file_read(&file, testing_source(MODEL "/choices.jsonl"), "auto", 30, &err), &err);
        REQUIRE(!tasks_plan(&plan, model, &file, 0, &err), &err);
        REQUIRE(!tasks_score(&scores, model, &file, &plan, NULL, &err), &err);
        tally_summarize(&summary, &file, &scores, &scores);
        CU_ASSERT(summary.accuracy.value > 0.35 && summary.accuracy_by_characters.value > 0.35);
        if (!first) {
            first = memory_new(file.choice_count, sizeof *first, &err);
            memcpy(first, scores.sums, file.choice_count * sizeof *first);
        }
        CU_ASSERT(memcmp(first, scores.sums, file.choice_count * sizeof *first) == 0);
        tasks_free(&scores);
        task_file_free(&file);
        model_close(model);
        pool_free(pool);
    }
    memory_free(first);
}

/* ---- statistics ---- */

/* Ties go to the first; a length of zero never wins; NaN-free. */
static void choosing(void)
{
    const double sums[4] = {-8, -6, -6, -9};
    const uint64_t lengths[4] = {4, 2, 0, 9};
    CU_ASSERT_EQUAL(tasks_choose(sums, NULL, 4), 1);
    CU_ASSERT_EQUAL(tasks_choose(sums, lengths, 4), 3);
    CU_ASSERT_EQUAL(tasks_choose(sums + 1, NULL, 2), 0);
    CU_ASSERT_EQUAL(tasks_choose((const double[]){0, -1}, (const uint64_t[]){0, 5}, 2), 1);
}

/* Four items of two choices, by hand: the base is right on 1, 2 and 3, the other on 1 and 4. Probabilities of the base are 1/2
 * and 1/2 on item 1, the other's 1/4 and 3/4: KL = ln 2 - (ln 4 / 3 * 2 ...) / 2. */
static void statistics(void)
{
    static const char text[] = "{\"question\":\"q\",\"choices\":[\"a\",\"bb\"],\"answer\":0}\n"
                               "{\"question\":\"q\",\"choices\":[\"a\",\"bb\"],\"answer\":0}\n"
                               "{\"question\":\"q\",\"choices\":[\"a\",\"bb\"],\"answer\":1}\n"
                               "{\"question\":\"q\",\"choices\":[\"a\",\"bb\"],\"answer\":1}\n";
    double base_sums[8] = {-1, -1, -1, -5, -5, -1, -1, -5}, sums[8] = {-1, -1, -5, -1, -1, -5, -5, -1};
    uint32_t base_chosen[4] = {0, 0, 1, 0}, chosen[4] = {0, 1, 0, 1};
    struct tasks_scores base = {base_sums, base_chosen, base_chosen, base_chosen, 0, 0};
    struct tasks_scores scores = {sums, chosen, chosen, chosen, 0, 0};
    struct tally_summary summary;
    struct task_file file;
    struct error err = {0};
    REQUIRE(!task_file_parse(&file, "items", text, sizeof text - 1, "auto", 0, &err), &err);
    tally_summarize(&summary, &file, &scores, &base);
    CU_ASSERT_DOUBLE_EQUAL(summary.accuracy.value, 0.5, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(summary.accuracy.error, sqrt(0.25 / 3), 1e-15);
    CU_ASSERT(summary.lost == 2 && summary.gained == 1);
    CU_ASSERT_DOUBLE_EQUAL(summary.change.value, -0.25, 1e-15);
    /* differences 0, -1, -1, 1: mean -1/4, squares 1/16 + 2 * 9/16 + 25/16 = 44/16 */
    CU_ASSERT_DOUBLE_EQUAL(summary.change.error, sqrt(44.0 / 16 / 3 / 4), 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(summary.flips.value, 0.75, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(summary.agree.value, 0.25, 1e-15);
    /* items 2 to 4 swap p = 1 / (1 + e^-4) and 1 - p: KL = (2 p - 1) * 4; item 1 is unchanged */
    const double p = 1 / (1 + exp(-4.0));
    CU_ASSERT_DOUBLE_EQUAL(summary.kld.value, 0.75 * (2 * p - 1) * 4, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(summary.right_log_prob.value, (log(0.5) + 2 * log(1 - p) + log(p)) / 4, 1e-12);
    task_file_free(&file);
}

/* ---- refusals ---- */

static enum status plan_text(struct model *model, const char *text, uint64_t context, struct error *err)
{
    struct task_file file;
    struct tasks_plan plan;
    struct error unexpected = {0};
    REQUIRE(!task_file_parse(&file, "items", text, strlen(text), "auto", 0, &unexpected), &unexpected);
    const enum status status = tasks_plan(&plan, model, &file, context, err);
    task_file_free(&file);
    return status;
}

static void refusals(void)
{
    static const char item[] =
        "{\"question\":\"It was\",\"choices\":[\"a long continuation of many words\",\"b\"],"
        "\"answer\":0}";
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 1, testing_source(MODEL));
    struct error err = {0};
    CU_ASSERT_EQUAL(plan_text(model, item, 4, &err), ERR_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "line 1, choice 1: it has"));
    struct tokenizer *tokenizer = model->tokenizer;
    model->tokenizer = NULL;
    CU_ASSERT_EQUAL(plan_text(model, item, 0, &err), ERR_UNSUPPORTED);
    model->tokenizer = tokenizer;
    struct task_file file = {.layout = task_layouts_find("plain")};
    CU_ASSERT_EQUAL(
        task_file_add_examples(&file, testing_source("golden/tasks/plain.jsonl"), 50, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "50 examples were asked for, it has 7"));
    task_file_free(&file);
    model_close(model);
    pool_free(pool);
}

/* A tokenizer without BOS: nothing can be scored after an empty text, and the message says where; weights that are not finite are an
 * error, not an answer. */
static void tiny_models(void)
{
    const char *folder = tiny_model_folder("tiny", (struct tiny_model){0});
    const char *poisoned = tiny_model_folder(
        "poisoned", (struct tiny_model){.poison = "lm_head.weight", .poison_at = 5, .poison_value = NAN});
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 1, folder);
    struct error err = {0};
    uint32_t prefix;
    const bool bare =
        !tokenizer_prefix(model->tokenizer, &prefix) && model->config.bos < 0 && !model->config.stop_count;
    const enum status status =
        plan_text(model, "{\"question\":\"\",\"choices\":[\"a\",\"b\"],\"answer\":0}", 0, &err);
    CU_ASSERT_EQUAL(status, bare ? ERR_FORMAT : OK);
    if (bare) CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "line 1, choice 1: nothing stands before"));
    model_close(model);
    pool_free(pool);

    struct task_file file;
    struct tasks_plan plan;
    struct tasks_scores scores;
    model = open_model(&pool, 2, poisoned);
    parse_one(&file, "auto", "{\"question\":\"A B C\",\"choices\":[\"D\",\"E\"],\"answer\":0}");
    CHECK(!tasks_plan(&plan, model, &file, 0, &err), &err);
    CU_ASSERT_EQUAL(tasks_score(&scores, model, &file, &plan, NULL, &err), ERR_NUMERIC);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "line 1"));
    tasks_free(&scores);
    task_file_free(&file);
    model_close(model);
    pool_free(pool);
}

/* Every allocation fails once: an error each time, and nothing leaks (the sanitizers look). */
static void without_memory(void)
{
    static const char text[] = "{\"question\":\"A B\",\"choices\":[\"D\",\"E\"],\"answer\":0}\n";
    const char *folder = tiny_model_folder("small", (struct tiny_model){0});
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 1, folder);
    enum status status = ERR_MEMORY;
    uint64_t nth;
    for (nth = 1; status == ERR_MEMORY && nth < 500; nth++) {
        struct task_file file = {0};
        struct tasks_plan plan;
        struct tasks_scores scores = {0};
        memory_fail_at(nth, 1);
        status = task_file_parse(&file, "items", text, sizeof text - 1, "auto", 0, NULL);
        if (!status) status = tasks_plan(&plan, model, &file, 0, NULL);
        if (!status) status = tasks_score(&scores, model, &file, &plan, NULL, NULL);
        memory_fail_at(0, 0);
        tasks_free(&scores);
        task_file_free(&file);
    }
    CU_ASSERT(status == OK && nth > 20);
    model_close(model);
    pool_free(pool);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"one item of each layout", layouts},
        {"files", files},
        {"hostile lines", hostile_lines},
        {"limits", limits},
        {"cleaning", cleaning},
        {"against lm-evaluation-harness", harness},
        {"against whole sequences", whole_sequences},
        {"the same for any number of threads", same_for_any_threads},
        {"choosing", choosing},
        {"statistics by hand", statistics},
        {"refusals", refusals},
        {"tiny models", tiny_models},
        {"without memory", without_memory},
    };
    testing_kernel_set();
    return TESTING_RUN("tasks", cases);
}
