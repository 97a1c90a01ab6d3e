/* See gguf_pre.h. */
#include "model/tokenizer/gguf_pre.h"

#include <stdio.h>
#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define LETTERS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define END "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define REST " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" END
#define LLAMA3 CONTRACTIONS LETTERS "\\p{N}{1,3}|" REST
#define QWEN2 CONTRACTIONS LETTERS "\\p{N}|" REST
#define CASED "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define UNCASED "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN CASED "*" UNCASED "+|" CASED "+" UNCASED "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" END
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
#define GPT4O                                                                                                \
    CASED "*" UNCASED "+" SUFFIX CASED "+" UNCASED "*" SUFFIX                                                \
          "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" END
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* Han, and what DeepSeek's two ranges take with it */
#define HAN_CODER "[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+"
#define HAN_V3 "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+"
#define DEEPSEEK_V3                                                                                          \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                                 \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" END

static const struct gguf_pre rows[] = {
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false, false},
    {"gpt-2", {GPT2}, false, false, false},
    {"olmo", {GPT2}, true, false, false},
    {"mpt", {GPT2}, true, false, false},
    {"llama-bpe", {LLAMA3}, false, true, true},
    {"llama3", {LLAMA3}, false, true, true},
    {"llama-v3", {LLAMA3}, false, true, true},
    {"dbrx", {LLAMA3}, false, false, false},
    {"qwen2", {QWEN2}, true, false, false},
    {"deepseek-r1-qwen", {QWEN2}, true, false, false},
    {"smollm", {"\\p{N}", GPT2}, false, false, false},
    {"starcoder", {"\\p{N}", GPT2}, false, false, false},
    {"refact", {"\\p{N}", GPT2}, false, false, false},
    {"command-r", {"\\p{N}", GPT2}, true, false, false},
    {"tekken", {TEKKEN}, false, true, true},
    {"gpt-4o", {GPT4O}, false, false, false},
    {"deepseek-coder", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN_CODER, "\\p{N}"}, false, false, false},
    {"deepseek-v3", {"\\p{N}{1,3}", HAN_V3, DEEPSEEK_V3}, false, false, false},
};

enum { ROWS = sizeof rows / sizeof *rows };

const struct gguf_pre *gguf_pre_find(const char *name, uint64_t bytes)
{
    for (unsigned i = 0; i < ROWS; i++) {
        if (strlen(rows[i].name) == bytes && memcmp(rows[i].name, name, bytes) == 0) return &rows[i];
    }
    return NULL;
}

char *gguf_pre_names(char out[GGUF_PRE_NAMES])
{
    size_t at = 0;

    for (unsigned i = 0; i < ROWS && at < GGUF_PRE_NAMES; i++)
        at += (size_t)snprintf(out + at, GGUF_PRE_NAMES - at, "%s%s", i ? ", " : "", rows[i].name);
    return out;
}

/* ---- matching ---- */

/* The next byte of a pattern, with a raw CR or LF as its escape: *half is what is left of one. 0: the end. */
static char next_byte(const char **at, const char *end, char *half)
{
    const char kept = *half;

    *half = 0;
    if (kept) return kept;
    if (*at == end) return 0;
    const char byte = *(*at)++;
    if (byte != '\r' && byte != '\n') return byte;
    *half = byte == '\r' ? 'r' : 'n';
    return '\\';
}

static bool same_pattern(const char *known, const struct json_text *pattern)
{
    const char *at = pattern->bytes, *end = at + pattern->count;
    char half = 0;

    for (;; known++) {
        const char byte = next_byte(&at, end, &half);
        if (byte != *known) return false;
        if (!byte) return at == end;
    }
}

static bool is_row(const struct gguf_pre *row, const struct json_text *patterns, uint64_t count, bool nfc)
{
    uint64_t known = 0;

    if (row->nfc != nfc) return false;
    while (known < GGUF_PRE_PATTERNS && row->patterns[known]) {
        if (known == count || !same_pattern(row->patterns[known], &patterns[known])) return false;
        known++;
    }
    return known == count;
}

const struct gguf_pre *gguf_pre_match(
    const struct json_text *patterns, uint64_t count, bool nfc, bool ignore_merges)
{
    const struct gguf_pre *found = NULL;

    for (unsigned i = 1; i < ROWS; i++) { /* 0: default */
        if (!is_row(&rows[i], patterns, count, nfc)) continue;
        if (rows[i].ignore_merges == ignore_merges) return &rows[i];
        if (!found) found = &rows[i];
    }
    return found;
}
