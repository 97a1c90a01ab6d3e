/* What a command line says of calibration: the options of every tool that observes activations, and what they mean for a model. */
#ifndef NIBBLE_MODEL_CALIBRATION_REQUEST_H
#define NIBBLE_MODEL_CALIBRATION_REQUEST_H

#include "base/option_pairs.h"
#include "model/calibration.h"
#include "model/checkpoint.h"

struct calibration_request {
    const char *path, *pick;        /* path NULL: no calibration */
    uint64_t samples, length, seed; /* 0 of the first two: the default */
    bool unpacked;
};

#define CALIBRATION_DEFAULTS                                                                                 \
    {                                                                                                        \
        .pick = "spread"                                                                                     \
    }

/* The rows of an option table, for a structure with `struct calibration_request calibration`. */
#define CALIBRATION_OPTIONS(type)                                                                            \
    {"calibration", OPTION_TEXT, offsetof(type, calibration.path), 0, 0, NULL, "FILE", NULL,                 \
        "Text on which activations are observed: plain UTF-8, or JSON lines (.jsonl: `text`, or chat "       \
        "`messages`), either of them gzipped or not. Use text like what the model will read, but not the "   \
        "text it will be judged on.",                                                                        \
        "Calibration"},                                                                                      \
        {"samples", OPTION_COUNT, offsetof(type, calibration.samples), 1, 1 << 20, NULL, "N",                \
            "as many as make 65536 tokens",                                                                  \
            "Samples of the calibration text. Time grows with samples x sample length.", NULL},              \
        {"sample-length", OPTION_COUNT, offsetof(type, calibration.length), 2, 1 << 20, NULL, "N",           \
            "512, or the model's context if that is less", "Tokens per sample.", NULL},                      \
        {"pick", OPTION_CHOICE, offsetof(type, calibration.pick), 0, 0, "spread|first|random", "HOW",        \
            "spread",                                                                                        \
            "Which samples, if the text has more: evenly spread over it, the first ones, or drawn by "       \
            "--seed.",                                                                                       \
            NULL},                                                                                           \
        {"seed", OPTION_COUNT, offsetof(type, calibration.seed), 0, 1e18, NULL, "N", "0",                    \
            "Of --pick random.", NULL},                                                                      \
    {                                                                                                        \
        "unpacked", OPTION_FLAG, offsetof(type, calibration.unpacked), 0, 0, NULL, NULL, NULL,               \
            "Make every document a sample of its own, cut at the sample length, instead of joining them "    \
            "all.",                                                                                          \
            NULL                                                                                             \
    }

/* Read and tokenize the text with the model's own tokenizer. ERR_UNSUPPORTED: the model has none; else as calibration_load, which
 * also says what to release. */
enum status calibration_request_load(struct calibration *out, const struct calibration_request *request,
    struct checkpoint *input, const struct report *report, struct error *err);

/* What decides the bytes: what a person gave comes first, so that where two runs differ, that is the difference they are told. */
void calibration_request_pairs(struct option_pairs *pairs, const struct calibration *calibration);

#endif
