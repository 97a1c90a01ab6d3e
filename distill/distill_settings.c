#include "distill/distill_settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"

enum { BATCH_TOKENS = 2048, SAMPLING_BATCH = 8, DEFAULT_LENGTH = 512, ATTEMPTS_PER_SEQUENCE = 10 };

/* ---- without a teacher ---- */

static enum status check_source(const struct distill_options *options, struct error *err)
{
    const int given = (options->text != NULL) + (options->prompts != NULL) + options->bos;
    if (given != 1)
        return fail(err, ERR_USAGE,
            "%s of --text FILE, --prompts FILE and --bos are given; one says where the tokens come from",
            given ? "several" : "none");
    if (options->bos && !options->sequences)
        return fail(err, ERR_USAGE, "--bos needs --sequences N: how many to sample");
    if (options->unpacked && !options->text)
        return fail(err, ERR_USAGE, "--unpacked is about --text; sampled sequences are never joined");
    if (options->attempts && options->text)
        return fail(err, ERR_USAGE, "--attempts is about sampling; a text has as many sequences as it has");
    return OK;
}

static enum status check_sampling(const struct distill_options *options, struct error *err)
{
    if (!(options->sampling.temperature > 0))
        return fail(err, ERR_USAGE,
            "--temperature %g: sampling needs one above 0 (at 0 every run would write the same text)",
            options->sampling.temperature);
    if (!(options->draw_temperature > 0))
        return fail(err, ERR_USAGE, "--draw-temperature %g: must be above 0", options->draw_temperature);
    if (options->max_length && options->max_length < options->min_length)
        return fail(err, ERR_USAGE, "--max-length %" PRIu64 " is below --min-length %" PRIu64,
            options->max_length, options->min_length);
    return OK;
}

/* "LOW-HIGH"; no exponents with a sign, so that there is one dash. */
static bool read_range(double *low, double *high, const char *text)
{
    const char *dash = strchr(text, '-');
    return dash && number_read(low, text, (uint64_t)(dash - text)) &&
           number_read(high, dash + 1, strlen(dash + 1)) && *low >= 0 && *low <= *high;
}

enum status distill_settings_check(const struct distill_options *options, struct error *err)
{
    double low, high;
    enum status status = check_source(options, err);
    if (!status) status = check_sampling(options, err);
    if (status || !options->perplexity || read_range(&low, &high, options->perplexity)) return status;
    return fail(
        err, ERR_USAGE, "--perplexity %s: is not LOW-HIGH, two numbers such as 5-100", options->perplexity);
}

/* ---- with one ---- */

static enum status read_layers(struct distill_settings *out, const char *text, uint32_t layers,
    struct token_record_shape *shape, struct error *err)
{
    const bool all = strcmp(text, "all") == 0;
    if (all && layers > DISTILL_HIDDEN_LIMIT)
        return fail(err, ERR_USAGE, "--hidden all: %" PRIu32 " layers; at most %d can be stored", layers,
            DISTILL_HIDDEN_LIMIT);
    for (uint32_t i = 0; all && i < layers; i++)
        out->hidden_layers[shape->hidden_layers++] = i;
    for (const char *at = text; !all;) {
        char *end;
        const unsigned long layer = strtoul(at, &end, 10);
        const bool rising = !shape->hidden_layers || layer > out->hidden_layers[shape->hidden_layers - 1];
        if (*at < '0' || *at > '9' || (*end && *end != ',') || layer >= layers || !rising ||
            shape->hidden_layers == DISTILL_HIDDEN_LIMIT)
            return fail(err, ERR_USAGE,
                "--hidden %s: give rising numbers of layers, 0 to %" PRIu32 ", with commas between, or all",
                text, layers - 1);
        out->hidden_layers[shape->hidden_layers++] = (uint32_t)layer;
        if (!*end) break;
        at = end + 1;
    }
    return OK;
}

static enum status plan_record(struct distill_settings *out, const struct model *teacher, struct error *err)
{
    const struct distill_options *options = out->options;
    const uint32_t vocabulary = teacher->config.vocabulary;
    struct token_record_shape shape = {.draws = strcmp(options->targets, "draws") == 0,
        .vocabulary = vocabulary,
        .hidden_width = options->hidden ? teacher->config.hidden : 0};
    const uint64_t count = shape.draws ? options->draws : options->k;
    if (!shape.draws && count > vocabulary)
        return fail(err, ERR_USAGE, "--k %" PRIu64 " is above the teacher's vocabulary of %" PRIu32, count,
            vocabulary);
    shape.count = count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
    shape.value_bits = (uint32_t)strtoul(options->values, NULL, 10);
    if (shape.draws) shape.value_bits = options->draw_temperature == 1 ? 0 : 16;
    if (vocabulary > TOKEN_RECORD_VOCABULARY_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "the teacher's vocabulary of %" PRIu32 " is above %d", vocabulary,
            TOKEN_RECORD_VOCABULARY_LIMIT);
    enum status status =
        options->hidden ? read_layers(out, options->hidden, teacher->config.layers, &shape, err) : OK;
    return status ? status : token_record_plan(&out->layout, &shape, err);
}

enum status distill_settings_resolve(struct distill_settings *out, const struct distill_options *options,
    const struct model *teacher, struct error *err)
{
    const uint64_t context = teacher->config.context;
    *out = (struct distill_settings){.options = options, .from_text = options->text != NULL};
    if (!teacher->tokenizer)
        return fail(err, ERR_UNSUPPORTED, "%s carries no tokenizer.json, which a dataset needs",
            container_path(teacher->container));
    out->length = options->length                       ? options->length
                  : context && context < DEFAULT_LENGTH ? context
                                                        : DEFAULT_LENGTH;
    out->sequences = options->sequences ? options->sequences : UINT64_MAX;
    out->attempts = options->attempts                       ? options->attempts
                    : out->from_text || !options->sequences ? UINT64_MAX
                                                            : ATTEMPTS_PER_SEQUENCE * out->sequences;
    out->batch = options->batch               ? options->batch
                 : !out->from_text            ? SAMPLING_BATCH
                 : out->length < BATCH_TOKENS ? BATCH_TOKENS / out->length
                                              : 1;
    if (options->perplexity) read_range(&out->perplexity_low, &out->perplexity_high, options->perplexity);
    return plan_record(out, teacher, err);
}

/* ---- the stamp ---- */

static void put_number(struct json_writer *json, const char *key, double value)
{
    char text[32];
    json_put_text(json, key, number_write(text, value));
}

static void put_count(struct json_writer *json, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    json_put_text(json, key, value == UINT64_MAX ? "all" : text);
}

static void put_sampling(struct json_writer *json, const struct distill_options *options)
{
    put_number(json, "temperature", options->sampling.temperature);
    put_count(json, "top-k", options->sampling.top_k);
    put_number(json, "top-p", options->sampling.top_p);
    put_number(json, "min-p", options->sampling.min_p);
    put_number(json, "repetition-penalty", options->sampling.repetition_penalty);
    json_put_text(json, "ignore-eos", options->ignore_eos ? "yes" : "no");
}

void distill_settings_stamp(
    const struct distill_settings *settings, uint32_t source_crc, struct json_writer *json)
{
    const struct distill_options *options = settings->options;
    const struct token_record_shape *shape = &settings->layout.shape;
    json_put_text(json, "source",
        settings->from_text ? options->unpacked ? "text, by document" : "text"
        : options->prompts  ? "prompts"
                            : "BOS");
    json_put_crc32(json, "tokens_crc32", source_crc);
    put_count(json, "length", settings->length);
    put_count(json, "sequences", settings->sequences);
    put_count(json, "attempts", settings->attempts);
    put_count(json, "batch", settings->batch);
    if (!settings->from_text) put_sampling(json, options);
    if (!settings->from_text || shape->draws) put_count(json, "seed", options->seed);
    json_put_text(json, "targets", options->targets);
    put_count(json, shape->draws ? "draws" : "k", shape->count);
    put_count(json, "values", shape->value_bits);
    if (shape->draws) put_number(json, "draw-temperature", options->draw_temperature);
    json_put_text(json, "hidden", options->hidden ? options->hidden : "none");
    put_count(json, "min-length", options->min_length);
    put_count(json, "max-length", options->max_length);
    json_put_text(json, "match", options->match ? options->match : "");
    json_put_text(json, "no-match", options->no_match ? options->no_match : "");
    json_put_text(json, "perplexity", options->perplexity ? options->perplexity : "");
    json_put_text(json, "unique", options->unique ? "yes" : "no");
    json_put_text(json, "pack", options->pack ? "yes" : "no");
    put_count(json, "shard-size", options->shard_size);
}
