#include "model/calibration_request.h"

#include <inttypes.h>
#include <string.h>

#define DEFAULT_LENGTH 512
#define DEFAULT_TOKENS 65536

static uint64_t default_length(uint64_t context)
{
    return context > 1 && context < DEFAULT_LENGTH ? context : DEFAULT_LENGTH;
}

enum status calibration_request_load(struct calibration *out, const struct calibration_request *request,
    struct checkpoint *input, const struct report *report, struct error *err)
{
    const uint64_t length = request->length ? request->length : default_length(input->config.context);
    const struct calibration_options wanted = {.path = request->path,
        .samples = request->samples ? request->samples : (DEFAULT_TOKENS + length - 1) / length,
        .length = length,
        .at_most = request->samples == 0,
        .pick = strcmp(request->pick, "first") == 0    ? CALIBRATION_FIRST
                : strcmp(request->pick, "random") == 0 ? CALIBRATION_RANDOM
                                                       : CALIBRATION_SPREAD,
        .seed = request->seed,
        .unpacked = request->unpacked};
    struct tokenizer *tokenizer = NULL;
    enum status status = checkpoint_tokenizer(&tokenizer, input->container, err);
    if (status == OK && !tokenizer)
        status = fail(err, ERR_UNSUPPORTED, "%s carries no tokenizer.json, which calibration text needs",
            container_path(input->container));
    if (status == OK) status = calibration_load(out, &wanted, tokenizer, report, err);
    tokenizer_free(tokenizer);
    return status;
}

void calibration_request_pairs(struct option_pairs *pairs, const struct calibration *calibration)
{
    option_pairs_add_text(pairs, "calibration crc32", "%08" PRIx32, calibration->file_crc32);
    option_pairs_add_text(pairs, "samples", "%" PRIu64, calibration->samples);
    option_pairs_add_text(pairs, "sample length", "%" PRIu64, calibration->length);
    option_pairs_add_text(pairs, "calibration tokens crc32", "%08" PRIx32, calibration->tokens_crc32);
}
