/* Any bytes as JSON lines, gzip too, read in every way there is with a tokenizer that has one token per byte. */
#include <string.h>

#include "model/calibration.h"
#include "tests/fuzz/fuzz.h"

static char folder[] = "/tmp/nibble-fuzz-XXXXXX", lines[64], plain[64];
static struct tokenizer *tokenizer;

static void clean_up(void)
{
    remove(lines);
    remove(plain);
    rmdir(folder);
    tokenizer_free(tokenizer);
}

/* <unk>, then one token per byte. */
static void make_tokenizer(void)
{
    static char json[8192];
    int used = snprintf(json, sizeof json,
        "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"merges\":[],"
        "\"vocab\":{\"<unk>\":0");

    for (int byte = 0; byte < 256; byte++)
        used += snprintf(json + used, sizeof json - (size_t)used, ",\"<0x%02X>\":%d", byte, byte + 1);
    used += snprintf(json + used, sizeof json - (size_t)used, "}}}");
    if (tokenizer_create(&tokenizer, "tokenizer.json", json, (uint64_t)used, NULL) != OK) abort();
}

static void make_all(void)
{
    if (!mkdtemp(folder)) abort();
    snprintf(lines, sizeof lines, "%s/lines.jsonl.gz", folder);
    snprintf(plain, sizeof plain, "%s/plain.txt", folder);
    atexit(clean_up);
    make_tokenizer();
}

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) abort();
}

static void check(const struct calibration *calibration, const struct calibration_options *options)
{
    uint64_t sum = 0;

    if (calibration->samples == 0 || calibration->samples > options->samples) abort();
    for (uint64_t i = 0; i < calibration->samples; i++) {
        const uint32_t count = calibration->lengths[i];
        if (count == 0 || count > options->length || (!options->unpacked && count < options->length)) abort();
        sum += count;
    }
    if (sum != calibration->tokens_used) abort();
    for (uint64_t i = 0; i < calibration->samples * calibration->length; i++) {
        if (calibration->tokens[i] >= tokenizer_size(tokenizer)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tokenizer) make_all();
    write_file(lines, data, size);
    write_file(plain, data, size);
    for (unsigned way = 0; way < 12; way++) {
        const struct calibration_options options = {.path = way < 6 ? lines : plain,
            .samples = 3,
            .length = 5,
            .pick = (enum calibration_pick)(way % 3),
            .seed = size,
            .unpacked = way % 6 >= 3};
        struct calibration calibration;
        if (calibration_load(&calibration, &options, tokenizer, NULL, NULL) == OK)
            check(&calibration, &options);
        calibration_free(&calibration);
    }
    return 0;
}
