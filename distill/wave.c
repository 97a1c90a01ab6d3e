/* All sequences stand at the same position: a step takes the next tokens of all, and rows beyond a sequence's end go along and are
 * dropped, so that the shape of every product, and with it its rounding, depends on the settings alone. A row's record is a task; the
 * task of a sequence's last known token also picks the next one. */
#include "distill/wave.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/report.h"
#include "model/sampling.h"
#include "tensor/dtype.h"

enum {
    STEP_TOKENS = 2048, /* of all sequences together */
    ROWS_MOST = 256,    /* rows of logits at a time */
    ROWS_LEAST = 64,
    LOGIT_FLOATS = 4 * 1024 * 1024
};

struct wave_sequence {
    uint64_t known, prompt, source; /* tokens that are known, that were given; source number */
    uint64_t random;                /* of the sampler */
    bool ended;                     /* by an end-of-sequence token */
};

/* What a worker writes to. */
struct wave_worker {
    struct token_record record;
    float *logits;                         /* [vocabulary] as they are sampled from */
    struct sampling_candidate *candidates; /* [vocabulary] */
    uint8_t *occurred;                     /* [(vocabulary + 7) / 8] */
};

struct wave {
    const struct distill_settings *settings;
    struct model *teacher;
    struct session *session;
    uint64_t count;
    struct wave_sequence *sequences; /* [batch] */
    uint32_t *tokens;                /* [batch][length] */
    uint32_t *step;                  /* [batch][step length] */
    double *nll;                     /* [batch][length] -ln p of the token after */
    uint8_t *records;                /* [batch][length][record bytes] */
    float *hidden, *logits;          /* [batch * step length][hidden], [logit rows][vocabulary] */
    uint16_t *states;                /* [batch * step length][layers chosen][hidden], half precision */
    uint64_t step_length, logit_rows;
    uint64_t from, length,
        first_row;               /* of the present step: first position, positions; of the present logits */
    struct wave_worker *workers; /* [workers] */
    uint32_t *padding;           /* [padding_count] ids that stand for no token and are never sampled */
    uint64_t padding_count;
    double teacher_seconds;
};

/* ---- life ---- */

static enum status list_padding(struct wave *wave, struct error *err)
{
    const uint32_t vocabulary = wave->teacher->config.vocabulary;
    uint64_t capacity = 0, bytes;
    for (uint32_t id = 0; id < vocabulary; id++) {
        if (tokenizer_token(wave->teacher->tokenizer, id, &bytes)) continue;
        enum status status =
            memory_grow(&wave->padding, &capacity, wave->padding_count + 1, sizeof *wave->padding, err);
        if (status) return status;
        wave->padding[wave->padding_count++] = id;
    }
    return OK;
}

static enum status make_workers(struct wave *wave, struct error *err)
{
    const uint64_t vocabulary = wave->teacher->config.vocabulary;
    const unsigned count = pool_workers(wave->teacher->pool);
    wave->workers = memory_new(count, sizeof *wave->workers, err);
    if (!wave->workers) return ERR_MEMORY;
    for (unsigned i = 0; i < count; i++) {
        struct wave_worker *worker = &wave->workers[i];
        enum status status = token_record_new(&worker->record, &wave->settings->layout, err);
        if (status) return status;
        if (wave->settings->from_text) continue;
        if (!(worker->logits = memory_new(vocabulary, sizeof *worker->logits, err)) ||
            !(worker->candidates = memory_new(vocabulary, sizeof *worker->candidates, err)) ||
            !(worker->occurred = memory_new((vocabulary + 7) / 8, 1, err)))
            return ERR_MEMORY;
    }
    return OK;
}

static enum status make_buffers(struct wave *wave, struct error *err)
{
    const struct distill_settings *settings = wave->settings;
    const struct token_record_shape *shape = &settings->layout.shape;
    const uint64_t batch = settings->batch, length = settings->length, rows = batch * wave->step_length;
    const uint64_t state_bytes = 2 * (uint64_t)shape->hidden_layers * shape->hidden_width;
    const bool made = (wave->sequences = memory_new(batch, sizeof *wave->sequences, err)) &&
                      (wave->tokens = memory_new(batch * length, sizeof *wave->tokens, err)) &&
                      (wave->step = memory_new(rows, sizeof *wave->step, err)) &&
                      (wave->nll = memory_new(batch * length, sizeof *wave->nll, err)) &&
                      (wave->records = memory_new(batch * length, settings->layout.bytes, err)) &&
                      (wave->hidden = memory_new(rows, wave->teacher->config.hidden * sizeof(float), err)) &&
                      (wave->logits = memory_new(wave->logit_rows, shape->vocabulary * sizeof(float), err)) &&
                      (wave->states = memory_new(rows, state_bytes, err));
    return made ? OK : ERR_MEMORY;
}

static enum status keep_states(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err);

enum status wave_create(
    struct wave **out, const struct distill_settings *settings, struct model *teacher, struct error *err)
{
    struct wave *wave = memory_new(1, sizeof *wave, err);
    uint64_t rows = LOGIT_FLOATS / settings->layout.shape.vocabulary;
    *out = NULL;
    if (!wave) return ERR_MEMORY;
    wave->settings = settings;
    wave->teacher = teacher;
    wave->step_length = STEP_TOKENS > settings->batch ? STEP_TOKENS / settings->batch : 1;
    if (wave->step_length > settings->length) wave->step_length = settings->length;
    rows = rows < ROWS_LEAST ? ROWS_LEAST : rows > ROWS_MOST ? ROWS_MOST : rows;
    const uint64_t most = settings->batch * wave->step_length;
    wave->logit_rows = rows < most ? rows : most;
    enum status status = make_buffers(wave, err);
    if (!status) status = make_workers(wave, err);
    if (!status) status = list_padding(wave, err);
    if (!status) status = session_create(&wave->session, teacher, settings->batch, settings->length, err);
    if (!status && settings->layout.shape.hidden_layers) session_observe(wave->session, keep_states, wave);
    if (status)
        wave_free(wave);
    else
        *out = wave;
    return status;
}

void wave_free(struct wave *wave)
{
    if (!wave) return;
    for (unsigned i = 0; wave->workers && i < pool_workers(wave->teacher->pool); i++) {
        token_record_free(&wave->workers[i].record);
        memory_free(wave->workers[i].logits);
        memory_free(wave->workers[i].candidates);
        memory_free(wave->workers[i].occurred);
    }
    session_free(wave->session);
    memory_free(wave->workers);
    memory_free(wave->padding);
    memory_free(wave->sequences);
    memory_free(wave->tokens);
    memory_free(wave->step);
    memory_free(wave->nll);
    memory_free(wave->records);
    memory_free(wave->hidden);
    memory_free(wave->logits);
    memory_free(wave->states);
    memory_free(wave);
}

/* ---- filling ---- */

void wave_clear(struct wave *wave)
{
    wave->count = 0;
}

double wave_teacher_seconds(const struct wave *wave)
{
    return wave->teacher_seconds;
}

uint64_t wave_count(const struct wave *wave)
{
    return wave->count;
}

void wave_add(struct wave *wave, const uint32_t *tokens, uint64_t count, uint64_t source)
{
    const uint64_t index = wave->count++;
    memcpy(wave->tokens + index * wave->settings->length, tokens, count * sizeof *tokens);
    wave->sequences[index] = (struct wave_sequence){.known = count,
        .prompt = count,
        .source = source,
        .random = sampling_state(wave->settings->options->seed, source, 0)};
}

/* ---- hidden states ---- */

/* Whether a row of the present step is a token of a sequence. */
static bool is_used(const struct wave *wave, uint64_t row)
{
    const uint64_t number = row / wave->length;
    return number < wave->count && wave->from + row % wave->length < wave->sequences[number].known;
}

static enum status keep_states(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err)
{
    struct wave *wave = context;
    const struct token_record_shape *shape = &wave->settings->layout.shape;
    const uint64_t width = shape->hidden_width;
    uint32_t slot = 0;
    while (slot < shape->hidden_layers && wave->settings->hidden_layers[slot] != layer)
        slot++;
    if (slot == shape->hidden_layers) return OK;
    for (uint64_t token = 0; token < tokens; token++) {
        uint16_t *out = wave->states + ((first_token + token) * shape->hidden_layers + slot) * width;
        for (uint64_t i = 0; i < width && is_used(wave, first_token + token); i++) {
            out[i] = dtype_f32_to_f16(x[token * width + i]);
            if ((out[i] & 0x7fff) >= 0x7c00)
                return fail(err, ERR_NUMERIC,
                    "the hidden state after layer %" PRIu32 " has %g in channel %" PRIu64
                    ", which half precision cannot hold; leave that layer out of --hidden",
                    layer, (double)x[token * width + i], i);
        }
    }
    return OK;
}

/* Half precision as the file has it, whatever the machine. */
static void put_states(const struct wave *wave, uint64_t row, uint8_t *record)
{
    const struct token_record_field *field = &wave->settings->layout.fields[FIELD_HIDDEN];
    const uint16_t *states = wave->states + row * field->count;
    for (uint64_t i = 0; i < field->count; i++) {
        record[field->at + 2 * i] = (uint8_t)states[i];
        record[field->at + 2 * i + 1] = (uint8_t)(states[i] >> 8);
    }
}

/* ---- rows ---- */

static void pick_next(struct wave *wave, uint64_t index, const float *logits, struct wave_worker *worker)
{
    const struct distill_options *options = wave->settings->options;
    const uint64_t vocabulary = wave->teacher->config.vocabulary;
    struct wave_sequence *sequence = &wave->sequences[index];
    uint32_t *tokens = wave->tokens + index * wave->settings->length;
    memcpy(worker->logits, logits, vocabulary * sizeof *logits);
    for (uint64_t i = 0; i < wave->padding_count; i++)
        worker->logits[wave->padding[i]] = -INFINITY;
    sampling_penalize(worker->logits, vocabulary, tokens, sequence->known,
        options->sampling.repetition_penalty, worker->occurred);
    const uint32_t id =
        sampling_pick(worker->logits, vocabulary, &options->sampling, &sequence->random, worker->candidates);
    sequence->ended = !options->ignore_eos && sampling_is_stop(&wave->teacher->config, id);
    tokens[sequence->known++] = id;
}

static enum status run_row(void *context, uint64_t index, unsigned worker_number, struct error *err)
{
    struct wave *wave = context;
    const struct distill_settings *settings = wave->settings;
    const struct token_record_layout *layout = &settings->layout;
    const uint64_t row = wave->first_row + index, number = row / wave->length;
    const uint64_t position = wave->from + row % wave->length, at = number * settings->length + position;
    if (!is_used(wave, row)) return OK;
    struct wave_sequence *sequence = &wave->sequences[number];
    struct wave_worker *worker = &wave->workers[worker_number];
    const float *logits = wave->logits + index * layout->shape.vocabulary;
    uint64_t random = sampling_state(settings->options->seed, sequence->source, position + 1);
    if (!token_record_put(wave->records + at * layout->bytes, layout, wave->tokens[at], logits,
            settings->options->draw_temperature, &random, &worker->record))
        return fail(err, ERR_NUMERIC, "sequence %" PRIu64 ", position %" PRIu64 ": the logits are not finite",
            sequence->source, position);
    put_states(wave, row, wave->records + at * layout->bytes);
    if (!settings->from_text && position + 1 == sequence->known && sequence->known < settings->length &&
        !sequence->ended)
        pick_next(wave, number, logits, worker);
    if (position + 1 < sequence->known)
        wave->nll[at] = (double)worker->record.log_sum - (double)logits[wave->tokens[at + 1]];
    return OK;
}

/* ---- steps ---- */

/* Run positions from .. from + length - 1 of all sequences; tokens that are not known are 0. */
static enum status run_step(struct wave *wave, uint64_t from, uint64_t length, struct error *err)
{
    const struct distill_settings *settings = wave->settings;
    const uint64_t rows = settings->batch * length, width = wave->teacher->config.hidden;
    memset(wave->step, 0, rows * sizeof *wave->step);
    for (uint64_t i = 0; i < wave->count; i++) {
        for (uint64_t j = 0; j < length && from + j < wave->sequences[i].known; j++)
            wave->step[i * length + j] = wave->tokens[i * settings->length + from + j];
    }
    wave->from = from;
    wave->length = length;
    double start = report_seconds();
    enum status status = session_step(wave->session, wave->hidden, wave->step, length, err);
    for (uint64_t row = 0; row < rows && !status; row += wave->logit_rows) {
        const uint64_t left = rows - row, count = left < wave->logit_rows ? left : wave->logit_rows;
        wave->first_row = row;
        status = model_logits(wave->teacher, wave->logits, wave->hidden + row * width, count, err);
        wave->teacher_seconds += report_seconds() - start;
        if (!status) status = pool_run(wave->teacher->pool, count, run_row, wave, err);
        start = report_seconds();
    }
    return status;
}

/* The positions that the next step can take: those that all sequences know, or, from text, any know; 0: none is left. */
static uint64_t next_length(const struct wave *wave, uint64_t from)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (uint64_t i = 0; i < wave->count; i++) {
        const uint64_t known = wave->sequences[i].known;
        if (known <= from) continue;
        if (known < least) least = known;
        if (known > most) most = known;
    }
    if (most == 0) return 0;
    const uint64_t length = (wave->settings->from_text ? most : least) - from;
    return length < wave->step_length ? length : wave->step_length;
}

enum status wave_run(struct wave *wave, struct error *err)
{
    enum status status = OK;
    session_reset(wave->session);
    for (uint64_t from = 0, length; !status && (length = next_length(wave, from)) > 0; from += length)
        status = run_step(wave, from, length, err);
    return status;
}

/* ---- what came out ---- */

struct shard_sequence wave_sequence(const struct wave *wave, uint64_t index)
{
    const struct wave_sequence *sequence = &wave->sequences[index];
    const double *nll = wave->nll + index * wave->settings->length;
    double sum = 0;
    for (uint64_t i = 0; i + 1 < sequence->known; i++)
        sum += nll[i];
    return (struct shard_sequence){.source = sequence->source,
        .length = (uint32_t)sequence->known,
        .prompt = (uint32_t)sequence->prompt,
        .flags = sequence->ended ? SHARD_ENDED : 0,
        .nll = sequence->known > 1 ? (float)(sum / (double)(sequence->known - 1)) : 0};
}

const uint32_t *wave_tokens(const struct wave *wave, uint64_t index)
{
    return wave->tokens + index * wave->settings->length;
}

const uint8_t *wave_records(const struct wave *wave, uint64_t index)
{
    return wave->records + index * wave->settings->length * wave->settings->layout.bytes;
}
