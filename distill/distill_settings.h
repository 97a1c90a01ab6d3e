/* What a dataset is asked to be: the option table of `nibble-distill dataset`, and the same options checked. No teacher was seen yet. */
#ifndef NIBBLE_DISTILL_SETTINGS_H
#define NIBBLE_DISTILL_SETTINGS_H

#include "base/options.h"
#include "distill/token_record.h"
#include "model/forward.h"
#include "model/sampling.h"

/* The command line as it was parsed. */
struct distill_options {
    struct common_options common;
    const char *teacher, *output;
    const char *text, *prompts; /* at most one; both NULL: bos */
    bool bos, unpacked, ignore_eos, restart, pack, unique;
    uint64_t length, sequences, attempts, batch, seed, shard_size; /* 0: the default */
    struct sampling_options sampling;
    const char *targets; /* "top-k", "draws" */
    uint64_t k, draws;
    const char *values; /* bits */
    double draw_temperature;
    const char *hidden;
    uint64_t min_length, max_length;
    const char *perplexity, *match, *no_match;
};

/* The defaults; options_parse overwrites what is given. */
struct distill_options distill_settings_defaults(void);
extern const struct command distill_settings_command;

enum { DISTILL_HIDDEN_LIMIT = 512 };

/* The options, checked against the teacher. */
struct distill_settings {
    const struct distill_options *options;
    bool from_text;
    uint64_t length, sequences, attempts, batch; /* sequences, attempts UINT64_MAX: no limit */
    double perplexity_low, perplexity_high;
    uint32_t hidden_layers[DISTILL_HIDDEN_LIMIT]; /* rising; shape.hidden_layers of them */
    struct token_record_layout layout;
};

/* Check what needs no teacher; before one is opened. ERR_USAGE names the option and what would be allowed. */
enum status distill_settings_check(const struct distill_options *options, struct error *err);

/* Check the rest and decide the defaults. Keeps the pointer. ERR_USAGE as before; ERR_UNSUPPORTED: the teacher carries no tokenizer. */
enum status distill_settings_resolve(struct distill_settings *out, const struct distill_options *options,
    const struct model *teacher, struct error *err);

/* Everything but the teacher's files that decides a dataset's bytes, as entries of an open stamp (model/stamp.h).
 *   source_crc  the CRC-32 of the tokens of the text or the prompts */
void distill_settings_stamp(
    const struct distill_settings *settings, uint32_t source_crc, struct json_writer *json);

#endif
