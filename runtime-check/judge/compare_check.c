/* See compare_check.h. */
#include "runtime-check/judge/compare_check.h"

#include <inttypes.h>

#include "base/file.h"

enum status compare_check_stored(
    const struct base_logits *base, const struct model *candidate, struct error *err)
{
    const uint32_t vocabulary = base_logits_info(base)->vocabulary;
    if (vocabulary == candidate->config.vocabulary) return OK;
    return fail(err, ERR_USAGE,
        "%s has a vocabulary of %" PRIu32 ", %s one of %" PRIu32 ": their predictions do not compare",
        base_logits_path(base), vocabulary, container_path(candidate->container),
        candidate->config.vocabulary);
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
