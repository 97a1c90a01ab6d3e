/* See gguf_scores.h. */
#include "model/tokenizer/gguf_scores.h"

#include <stdlib.h>

#include "base/memory.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/unicode.h"

#define SPACE "\xE2\x96\x81" /* U+2581 */

/* A piece, and the rank of the merge that ends its making. */
struct made {
    uint32_t id;
    bool reached; /* else no merge makes it */
    uint32_t rank;
};

static const char *quote(const struct bpe *bpe, uint32_t entry, char out[80])
{
    uint64_t bytes;
    const char *content = vocabulary_content(bpe->vocabulary, entry, &bytes);

    return error_quote(out, 80, content, bytes);
}

static bool is_byte(const struct bpe *bpe, uint32_t entry)
{
    uint64_t bytes;
    const char *content = vocabulary_content(bpe->vocabulary, entry, &bytes);

    return bytes == 6 && memcmp(content, "<0x", 3) == 0;
}

/* ---- pieces ---- */

bool gguf_scores_have_bytes(const struct bpe *bpe)
{
    for (unsigned i = 0; i < 256; i++) {
        if (!bpe->byte_fallback || bpe->byte_tokens[i] == NO_ENTRY) return false;
    }
    return true;
}

/* U+2581 behind the first character, where it never gets to. */
static bool has_inner_space(const char *content, uint64_t bytes)
{
    for (uint64_t i = 1; i + 3 <= bytes; i++) {
        if (memcmp(content + i, SPACE, 3) == 0) return true;
    }
    return false;
}

static enum status trace(struct made *out, const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t entry,
    bool split, struct error *err)
{
    uint64_t bytes, symbols;
    const char *content = vocabulary_content(bpe->vocabulary, entry, &bytes);
    char quoted[80];
    enum status status = bpe_trace(bpe, scratch, content, bytes, &symbols, &out->rank, err);

    if (status) return status;
    if (symbols == 2 || (symbols != 1 && bpe->ignore_merges) || (split && has_inner_space(content, bytes)))
        return fail(err, ERR_UNSUPPORTED,
            "the token \"%s\" is never made of its parts, but programs that read GGUF's scores would make "
            "it; other output "
            "formats keep tokenizer.json",
            quote(bpe, entry, quoted));
    out->reached = symbols == 1 && bytes > unicode_length(*content);
    out->id = bpe->vocabulary->entries[entry].id;
    return OK;
}

/* Made ones first, in the order of making. */
static int compare_made(const void *left, const void *right)
{
    const struct made *a = left, *b = right;

    if (a->reached != b->reached) return a->reached ? -1 : 1;
    if (a->reached && a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

enum status gguf_scores_make(float *scores, const struct bpe *bpe, const struct added_tokens *added,
    bool split, uint64_t rows, struct error *err)
{
    const struct vocabulary *vocabulary = bpe->vocabulary;
    struct bpe_scratch *scratch = NULL;
    struct made *made = memory_new(vocabulary->model_count, sizeof *made, err);
    uint64_t count = 0;
    enum status status = made ? OK : ERR_MEMORY;

    if (!status) status = bpe_scratch_create(&scratch, 0, err);
    for (uint32_t i = 0; i < vocabulary->model_count && !status; i++) {
        uint64_t bytes;
        vocabulary_content(vocabulary, i, &bytes);
        if (bytes == 0 || added_tokens_find(added, i)) continue;
        status = trace(&made[count], bpe, scratch, i, split, err);
        if (!status && !is_byte(bpe, i)) count++;
    }
    if (!status && count) qsort(made, count, sizeof *made, compare_made);
    for (uint64_t i = 0; i < rows; i++)
        scores[i] = 0;
    for (uint64_t i = 0; i < count && !status; i++)
        scores[made[i].id] = i ? -(float)i : 0;
    bpe_scratch_free(scratch);
    memory_free(made);
    return status;
}

/* ---- byte level ---- */

/* True if every byte has a token. */
static bool has_alphabet(const struct bpe *bpe)
{
    for (unsigned i = 0; i < 256; i++) {
        if (bpe->direct[byte_level_point((uint8_t)i)] == NO_ENTRY) return false;
    }
    return true;
}

static enum status check_made(
    const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t entry, struct error *err)
{
    uint64_t bytes, symbols;
    uint32_t rank;
    const char *content = vocabulary_content(bpe->vocabulary, entry, &bytes);
    char quoted[80];
    enum status status = bpe_trace(bpe, scratch, content, bytes, &symbols, &rank, err);

    if (status || symbols == 1) return status;
    return fail(err, ERR_UNSUPPORTED,
        "tokenizer.json: model: ignore_merges is not what programs that read GGUF take for this pattern, and "
        "it "
        "matters for \"%s\"; other output formats keep tokenizer.json",
        quote(bpe, entry, quoted));
}

enum status gguf_scores_check_byte_level(
    const struct bpe *bpe, const struct added_tokens *added, bool whole_words, struct error *err)
{
    struct bpe_scratch *scratch = NULL;
    enum status status = OK;

    if (bpe->byte_fallback || (bpe->unknown_text && !has_alphabet(bpe)))
        return fail(err, ERR_UNSUPPORTED,
            "tokenizer.json: model: byte_fallback, or an unk_token that stands for bytes: GGUF's \"gpt2\" "
            "tokenizer has "
            "neither; other output formats keep tokenizer.json");
    if (!whole_words) return OK;
    status = bpe_scratch_create(&scratch, 0, err);
    for (uint32_t i = 0; i < bpe->vocabulary->model_count && !status; i++) {
        if (!added_tokens_find(added, i)) status = check_made(bpe, scratch, i, err);
    }
    bpe_scratch_free(scratch);
    return status;
}
