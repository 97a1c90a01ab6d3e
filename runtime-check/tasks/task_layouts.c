/* See task_layouts.h. */
#include "runtime-check/tasks/task_layouts.h"

#include <string.h>

#include "base/memory.h"
#include "runtime-check/tasks/draft.h"
#include "runtime-check/tasks/task_clean.h"

/* {{question}} as it stands */
static void read_plain(struct draft *draft)
{
    const uint64_t from = draft_begin(draft);
    const struct json_text question = draft_string(draft, "question");
    draft_put(draft, question.bytes, question.count);
    draft->context = draft_finish(draft, from);
    draft_add_list(draft, "choices");
    draft_right_by_answer(draft);
}

/* Question: {{...}}\nAnswer: */
static void put_question(struct draft *draft, struct json_text question)
{
    const uint64_t from = draft_begin(draft);
    draft_put_string(draft, "Question: ");
    draft_put(draft, question.bytes, question.count);
    draft_put_string(draft, "\nAnswer:");
    draft->context = draft_finish(draft, from);
}

static struct json_text text_of(const struct text *text)
{
    return (struct json_text){text->bytes ? text->bytes : "", text->count};
}

static void append(struct draft *draft, struct text *out, struct json_text text)
{
    if (!draft->status) draft->status = text_append(out, text.bytes, text.count, draft->err);
}

/* {{activity_label}}: {{ctx_a}} {{ctx_b.capitalize()}}, cleaned; `ctx` alone stands for both as it is */
static void put_hellaswag_query(struct draft *draft)
{
    static const struct json_text colon = {": ", 2}, space = {" ", 1};
    const uint64_t from = draft_begin(draft);
    struct text raw = {0};
    append(draft, &raw, draft_string(draft, "activity_label"));
    append(draft, &raw, colon);
    if (json_member(draft->object, "ctx_a")) {
        append(draft, &raw, draft_string(draft, "ctx_a"));
        append(draft, &raw, space);
        const struct json_text second = draft_string(draft, "ctx_b");
        if (!draft->status) draft->status = task_clean_capitalize(&raw, second, draft->err);
    } else {
        append(draft, &raw, draft_string(draft, "ctx"));
    }
    if (!draft->status) draft->status = task_clean_hellaswag(&draft->file->texts, text_of(&raw), draft->err);
    draft->context = draft_finish(draft, from);
    text_free(&raw);
}

static void read_hellaswag(struct draft *draft)
{
    put_hellaswag_query(draft);
    for (const struct json_value *ending = draft_list_of(draft, draft->object, "endings");
         ending && !draft->status; ending = ending->next) {
        struct text clean = {0};
        if (ending->kind != JSON_STRING) draft_refuse(draft, "endings", "a list of strings");
        if (!draft->status) draft->status = task_clean_hellaswag(&clean, ending->text, draft->err);
        draft_add(draft, text_of(&clean));
        text_free(&clean);
    }
    draft_right_by_index(draft, "label", 0);
}

/* The option stands in the context, the rest of the sentence is scored (Trinh and Le 2018, partial evaluation). */
static void add_winogrande_option(
    struct draft *draft, struct json_text before, const char *key, struct json_text rest)
{
    const uint64_t from = draft_begin(draft);
    const struct json_text option = draft_string(draft, key);
    draft_put(draft, before.bytes, before.count);
    draft_put(draft, option.bytes, option.count);
    draft->context = draft_finish(draft, from);
    draft_add(draft, rest);
}

static void read_winogrande(struct draft *draft)
{
    const struct json_text sentence = draft_string(draft, "sentence");
    const char *blank = draft->status ? NULL : memchr(sentence.bytes, '_', sentence.count);
    if (!blank) {
        if (!draft->status)
            draft->status = fail(draft->err, ERR_FORMAT, "\"sentence\" has no \"_\" to fill in");
        return;
    }
    const struct json_text before = {sentence.bytes, (uint64_t)(blank - sentence.bytes)};
    const struct json_text rest =
        task_clean_strip((struct json_text){blank + 1, sentence.count - before.count - 1});
    add_winogrande_option(draft, before, "option1", rest);
    add_winogrande_option(draft, before, "option2", rest);
    draft_right_by_index(draft, "answer", 1);
}

static void read_piqa(struct draft *draft)
{
    put_question(draft, draft_string(draft, "goal"));
    draft_add_key(draft, "sol1");
    draft_add_key(draft, "sol2");
    draft_right_by_index(draft, "label", 0);
}

/* Choices with labels, in columns ("choices": {"text": [], "label": []}) or, as first distributed, in rows ("question":
 * {"stem", "choices": [{"text", "label"}]}); answerKey names a label. */
static void add_labelled_columns(struct draft *draft, struct json_text key, uint64_t *right)
{
    const struct json_value *choices = json_member(draft->object, "choices");
    const struct json_value *label = draft_list_of(draft, choices, "label");
    for (const struct json_value *text = draft_list_of(draft, choices, "text"); text && !draft->status;
         text = text->next) {
        draft_add(
            draft, text->kind == JSON_STRING ? text->text : draft_refuse(draft, "text", "a list of strings"));
    }
    *right = draft_position(label, key);
}

static void add_labelled_rows(
    struct draft *draft, const struct json_value *question, struct json_text key, uint64_t *right)
{
    for (const struct json_value *row = draft_list_of(draft, question, "choices"); row && !draft->status;
         row = row->next) {
        const struct json_text label = draft_string_of(draft, row, "label");
        if (*right == UINT64_MAX && draft_same(label, key)) *right = draft->item.choices;
        draft_add(draft, draft_string_of(draft, row, "text"));
    }
}

static void add_labelled(struct draft *draft)
{
    const struct json_value *question = json_member(draft->object, "question");
    struct json_text key = draft_string(draft, "answerKey");
    uint64_t right = UINT64_MAX;
    key = task_clean_strip(key);
    if (question && question->kind == JSON_OBJECT)
        add_labelled_rows(draft, question, key, &right);
    else
        add_labelled_columns(draft, key, &right);
    draft_right(draft, "answerKey", right);
}

static struct json_text stem_of(struct draft *draft, const char *flat)
{
    const struct json_value *question = json_member(draft->object, "question");
    if (question && question->kind == JSON_OBJECT) return draft_string_of(draft, question, "stem");
    return draft_string(draft, flat);
}

static void read_arc(struct draft *draft)
{
    put_question(draft, stem_of(draft, "question"));
    add_labelled(draft);
}

/* {{question_stem}} */
static void read_openbookqa(struct draft *draft)
{
    const uint64_t from = draft_begin(draft);
    const struct json_text stem = stem_of(draft, "question_stem");
    draft_put(draft, stem.bytes, stem.count);
    draft->context = draft_finish(draft, from);
    add_labelled(draft);
}

/* {{passage}}\nQuestion: {{question}}?\nAnswer: no | yes */
static void read_boolq(struct draft *draft)
{
    const char *key = json_member(draft->object, "label") ? "label" : "answer";
    const uint64_t from = draft_begin(draft);
    const struct json_text passage = draft_string(draft, "passage"),
                           question = draft_string(draft, "question");
    draft_put(draft, passage.bytes, passage.count);
    draft_put_string(draft, "\nQuestion: ");
    draft_put(draft, question.bytes, question.count);
    draft_put_string(draft, "?\nAnswer:");
    draft->context = draft_finish(draft, from);
    draft_add(draft, (struct json_text){"no", 2});
    draft_add(draft, (struct json_text){"yes", 3});
    draft_right_by_index(draft, key, 0);
}

/* {{support.lstrip()}}\nQuestion: {{question}}\nAnswer:, the right one last */
static void read_sciq(struct draft *draft)
{
    const uint64_t from = draft_begin(draft);
    const struct json_text support = task_clean_start(draft_string(draft, "support")),
                           question = draft_string(draft, "question");
    draft_put(draft, support.bytes, support.count);
    draft_put_string(draft, "\nQuestion: ");
    draft_put(draft, question.bytes, question.count);
    draft_put_string(draft, "\nAnswer:");
    draft->context = draft_finish(draft, from);
    draft_add_key(draft, "distractor1");
    draft_add_key(draft, "distractor2");
    draft_add_key(draft, "distractor3");
    draft_add_key(draft, "correct_answer");
    draft_right(draft, "correct_answer", 3);
}

/* "The following are multiple choice questions (with answers) about abstract algebra.\n\n" */
static void put_mmlu_description(struct draft *draft)
{
    const uint64_t from = draft_begin(draft);
    const struct json_text subject = draft_string(draft, "subject");
    draft_put_string(draft, "The following are multiple choice questions (with answers) about ");
    for (uint64_t i = 0; i < subject.count; i++)
        draft_put(draft, subject.bytes[i] == '_' ? " " : subject.bytes + i, 1);
    draft_put_string(draft, ".\n\n");
    draft->item.description = draft_finish(draft, from);
}

/* {{question.strip()}}\nA. {{choices[0]}}\n ... Answer: A | B | C | D */
static void read_mmlu(struct draft *draft)
{
    char letter = 'A';
    put_mmlu_description(draft);
    const uint64_t from = draft_begin(draft);
    const struct json_text question = task_clean_strip(draft_string(draft, "question"));
    draft_put(draft, question.bytes, question.count);
    const struct json_value *const choices = draft_list_of(draft, draft->object, "choices");
    for (const struct json_value *choice = choices; choice && !draft->status; choice = choice->next) {
        if (choice->kind != JSON_STRING) draft_refuse(draft, "choices", "a list of strings");
        if (!draft->status && letter > 'Z')
            draft->status = fail(draft->err, ERR_FORMAT, "more than 26 choices");
        if (draft->status) return;
        draft_put(draft, (const char[]){'\n', letter++, '.', ' '}, 4);
        draft_put(draft, choice->text.bytes, choice->text.count);
    }
    draft_put_string(draft, "\nAnswer:");
    draft->context = draft_finish(draft, from);
    for (char each = 'A'; each < letter; each++)
        draft_add(draft, (struct json_text){&each, 1});
    draft_right_by_answer(draft);
}

const struct task_layout task_layouts[] = {
    {"hellaswag", {"activity_label", "endings"}, read_hellaswag},
    {"winogrande", {"sentence", "option1", "option2"}, read_winogrande},
    {"piqa", {"goal", "sol1", "sol2"}, read_piqa},
    {"openbookqa", {"question_stem", "answerKey"}, read_openbookqa},
    {"arc", {"question", "answerKey"}, read_arc},
    {"boolq", {"passage", "question"}, read_boolq},
    {"sciq", {"support", "distractor1", "correct_answer"}, read_sciq},
    {"mmlu", {"question", "choices", "subject"}, read_mmlu},
    {"plain", {"question", "choices"}, read_plain},
    {NULL, {NULL}, NULL},
};

const struct task_layout *task_layouts_find(const char *name)
{
    for (const struct task_layout *layout = task_layouts; layout->name; layout++) {
        if (strcmp(layout->name, name) == 0) return layout;
    }
    return NULL;
}

const struct task_layout *task_layouts_detect(const struct json_value *object)
{
    for (const struct task_layout *layout = task_layouts; layout->name; layout++) {
        size_t key = 0;
        while (layout->keys[key] && json_member(object, layout->keys[key]))
            key++;
        if (!layout->keys[key]) return layout;
    }
    return NULL;
}

enum status task_layouts_read(struct task_file *file, const struct task_layout *layout,
    const struct json_value *object, struct error *err)
{
    struct draft draft = {.file = file, .object = object, .err = err};
    const uint64_t texts = file->texts.count, choices = file->choice_count;
    draft.item.first = choices;
    layout->read(&draft);
    if (!draft.status && draft.item.choices < 2)
        draft.status = fail(err, ERR_FORMAT, "one choice only; there must be two at least");
    if (!draft.status) {
        draft.status =
            memory_grow(&file->items, &file->item_capacity, file->count + 1, sizeof *file->items, err);
    }
    if (draft.status) {
        file->texts.count = texts;
        file->choice_count = choices;
        return draft.status;
    }
    file->items[file->count++] = draft.item;
    return OK;
}
