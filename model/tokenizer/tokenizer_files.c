/* See tokenizer_files.h. */
#include "model/tokenizer/tokenizer_files.h"

#include "base/memory.h"
#include "model/tokenizer/sentencepiece.h"
#include "model/tokenizer/vocab_merges.h"

/* The documents that a tokenizer.json is made of. */
struct sources {
    const char *model_name;
    char *model, *vocab, *merges; /* NULL: there is none */
    uint64_t model_bytes, vocab_bytes, merges_bytes;
    struct token_extras extras;
};

static enum status read_sources(struct sources *out, struct container *container, struct error *err)
{
    static const char *const names[] = {"tokenizer.model", "spiece.model"};
    enum status status = OK;

    for (unsigned i = 0; i < 2 && !status && !out->model; i++) {
        out->model_name = names[i];
        status = container_document(container, names[i], &out->model, &out->model_bytes, err);
    }
    if (!status && !out->model) {
        status = container_document(container, "vocab.json", &out->vocab, &out->vocab_bytes, err);
        if (!status && out->vocab)
            status = container_document(container, "merges.txt", &out->merges, &out->merges_bytes, err);
    }
    if (!status && (out->model || out->merges)) status = token_extras_read(&out->extras, container, err);
    return status;
}

/* *made_of: NULL where there is nothing to make it of. */
static enum status write(
    char **text, uint64_t *bytes, const char **made_of, const struct sources *from, struct error *err)
{
    enum status status = OK;

    *made_of = from->model ? from->model_name : from->merges ? "vocab.json and merges.txt" : NULL;
    if (from->model)
        status = sentencepiece_write(text, bytes, from->model, from->model_bytes, &from->extras, err);
    else if (from->merges)
        status = vocab_merges_write(text, bytes, from->vocab, from->vocab_bytes, from->merges,
            from->merges_bytes, &from->extras, err);
    return status ? fail_within(err, status, "%s", *made_of) : OK;
}

static void release(struct sources *sources)
{
    token_extras_free(&sources->extras);
    memory_free(sources->merges);
    memory_free(sources->vocab);
    memory_free(sources->model);
}

enum status tokenizer_files_attach(const char **made_of, struct container *container, struct error *err)
{
    struct sources sources = {0};
    char *text = NULL;
    uint64_t bytes;
    enum status status = container_document(container, "tokenizer.json", &text, &bytes, err);
    const bool there = text != NULL;

    *made_of = NULL;
    memory_free(text);
    if (status || there) return status;
    text = NULL;
    status = read_sources(&sources, container, err);
    if (!status) status = write(&text, &bytes, made_of, &sources, err);
    if (!status && text) status = container_attach(container, "tokenizer.json", text, bytes, err);
    release(&sources);
    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}
