/* See compare_check.h. */
#include "runtime-check/compare_check.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

static enum status same_document(
    bool *same, struct container *a, struct container *b, const char *name, struct error *err)
{
    char *a_text = NULL, *b_text = NULL;
    uint64_t a_bytes = 0, b_bytes = 0;
    enum status status = container_document(a, name, &a_text, &a_bytes, err);
    if (!status) status = container_document(b, name, &b_text, &b_bytes, err);
    *same = !status && a_text && b_text && a_bytes == b_bytes && memcmp(a_text, b_text, a_bytes) == 0;
    memory_free(a_text);
    memory_free(b_text);
    return status;
}

/* Two tokenizers written differently may still agree: on this text they must. */
static enum status check_ids(
    struct model *base, struct model *candidate, const char *text, uint64_t text_bytes, struct error *err)
{
    uint32_t *a = NULL, *b = NULL;
    uint64_t a_count, b_count;
    enum status status = tokenizer_encode(base->tokenizer, &a, &a_count, text, text_bytes, true, err);
    if (!status) status = tokenizer_encode(candidate->tokenizer, &b, &b_count, text, text_bytes, true, err);
    if (!status && (a_count != b_count || memcmp(a, b, a_count * sizeof *a) != 0)) {
        status = fail(err, ERR_USAGE, "%s and %s have different tokenizers: they cut this text differently",
            container_path(base->container), container_path(candidate->container));
    }
    memory_free(a);
    memory_free(b);
    return status;
}

static enum status check_vocabulary(
    const char *base, uint32_t vocabulary, const struct model *candidate, struct error *err)
{
    if (vocabulary == candidate->config.vocabulary) return OK;
    return fail(err, ERR_USAGE,
        "%s has a vocabulary of %" PRIu32 ", %s one of %" PRIu32 ": their predictions do not compare", base,
        vocabulary, container_path(candidate->container), candidate->config.vocabulary);
}

enum status compare_check_model(struct model *base, struct model *candidate, const char *text,
    uint64_t text_bytes, struct error *err)
{
    bool same = false;
    enum status status =
        check_vocabulary(container_path(base->container), base->config.vocabulary, candidate, err);
    if (status || !base->tokenizer || !candidate->tokenizer) return status;
    status = same_document(&same, base->container, candidate->container, "tokenizer.json", err);
    if (status || same) return status;
    return check_ids(base, candidate, text, text_bytes, err);
}

enum status compare_check_stored(
    const struct base_logits *base, const struct model *candidate, struct error *err)
{
    return check_vocabulary(base_logits_path(base), base_logits_info(base)->vocabulary, candidate, err);
}

enum status compare_check_text(
    const struct base_logits *base, const char *text, uint64_t text_bytes, struct error *err)
{
    const struct base_logits_info *info = base_logits_info(base);
    const uint32_t crc = file_crc32(0, text, text_bytes);
    if (info->text_bytes == text_bytes && info->text_crc32 == crc) return OK;
    return fail(err, ERR_USAGE,
        "the text has %" PRIu64 " bytes and CRC-32 %08" PRIx32 "; %s was made on one of %" PRIu64
        " bytes and CRC-32 %08" PRIx32 ": leave the text out or give that one",
        text_bytes, crc, base_logits_path(base), info->text_bytes, info->text_crc32);
}
