/* Layout:  token u24 | logsumexp f32 | tail or entropy f32 | [range f16] | ids, Elias-Fano | values | hidden states f16 */
#include "distill/token_record.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "distill/teacher_row.h"
#include "formats/bytes.h"
#include "tensor/dtype.h"

enum { TOKEN_BYTES = 3, LEVELS = 255 };

/* ---- the layout ---- */

static enum status check_shape(const struct token_record_shape *shape, struct error *err)
{
    if (shape->vocabulary < 1 || shape->vocabulary > TOKEN_RECORD_VOCABULARY_LIMIT)
        return fail(err, ERR_USAGE, "a vocabulary of %u; a dataset stores at most %d tokens exactly",
            shape->vocabulary, TOKEN_RECORD_VOCABULARY_LIMIT);
    if (shape->count < 1 || shape->count > TOKEN_RECORD_COUNT_LIMIT)
        return fail(err, ERR_USAGE, "%u ids per token; 1 to %d can be stored", shape->count,
            TOKEN_RECORD_COUNT_LIMIT);
    if (!shape->draws && shape->count > shape->vocabulary)
        return fail(
            err, ERR_USAGE, "the %u likeliest tokens of a vocabulary of %u", shape->count, shape->vocabulary);
    if (shape->draws ? shape->value_bits != 0 && shape->value_bits != 16
                     : shape->value_bits != 8 && shape->value_bits != 16 && shape->value_bits != 32)
        return fail(err, ERR_USAGE, "values of %u bits", shape->value_bits);
    if ((uint64_t)shape->hidden_layers * shape->hidden_width > TOKEN_RECORD_BYTES_LIMIT / 2)
        return fail(err, ERR_USAGE, "%u hidden states of %u numbers per token are too many",
            shape->hidden_layers, shape->hidden_width);
    return OK;
}

static void add_field(struct token_record_layout *layout, unsigned index, const char *name, const char *type,
    uint64_t bytes, uint64_t count)
{
    layout->fields[index] = (struct token_record_field){name, type, layout->bytes, bytes, count};
    layout->bytes += bytes;
}

enum status token_record_plan(
    struct token_record_layout *out, const struct token_record_shape *shape, struct error *err)
{
    static const char *const types[] = {"none", "u8", "f16", "", "f32"};
    const uint64_t value_bytes = shape->value_bits / 8;
    const uint64_t states = (uint64_t)shape->hidden_layers * shape->hidden_width;
    *out = (struct token_record_layout){.shape = *shape};
    enum status status = check_shape(shape, err);
    if (status) return status;
    out->ids = elias_fano_layout(shape->vocabulary, shape->count);
    add_field(out, FIELD_TOKEN, "token", "u24", TOKEN_BYTES, 1);
    add_field(out, FIELD_LOG_SUM, "logsumexp", "f32", 4, 1);
    add_field(out, FIELD_REST, shape->draws ? "entropy" : "tail", "f32", 4, 1);
    add_field(out, FIELD_RANGE, "range", "f16", shape->value_bits == 8 ? 2 : 0, 1);
    add_field(out, FIELD_IDS, "ids", "elias-fano", out->ids.bytes, shape->count);
    add_field(out, FIELD_VALUES, shape->draws ? "log_weights" : "distances", types[value_bytes],
        value_bytes * shape->count, shape->count);
    add_field(out, FIELD_HIDDEN, "hidden", "f16", 2 * states, states);
    if (out->bytes <= TOKEN_RECORD_BYTES_LIMIT) return OK;
    return fail(err, ERR_USAGE, "a record would have %llu bytes, more than %d",
        (unsigned long long)out->bytes, TOKEN_RECORD_BYTES_LIMIT);
}

void token_record_write_fields(const struct token_record_layout *layout, struct json_writer *json)
{
    json_write_key(json, "fields");
    json_open_array(json);
    for (unsigned i = 0; i < FIELD_COUNT; i++) {
        const struct token_record_field *field = &layout->fields[i];
        if (field->bytes == 0) continue;
        json_open_object(json);
        json_put_text(json, "name", field->name);
        json_put_text(json, "type", field->type);
        json_put_u64(json, "at", field->at);
        json_put_u64(json, "bytes", field->bytes);
        json_put_u64(json, "count", field->count);
        if (i == FIELD_IDS) json_put_u64(json, "low_bits", layout->ids.low);
        json_close_object(json);
    }
    json_close_array(json);
}

enum status token_record_new(
    struct token_record *out, const struct token_record_layout *layout, struct error *err)
{
    *out = (struct token_record){.ids = memory_new(layout->shape.count, sizeof *out->ids, err)};
    if (out->ids) out->values = memory_new(layout->shape.count, 2 * sizeof *out->values, err);
    if (out->values) out->weights = memory_new(layout->shape.vocabulary, sizeof *out->weights, err);
    return out->weights ? OK : ERR_MEMORY;
}

void token_record_free(struct token_record *record)
{
    memory_free(record->ids);
    memory_free(record->values);
    memory_free(record->weights);
}

/* ---- writing ---- */

static void put_f32(uint8_t *out, double value)
{
    const float rounded = (float)value;
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    bytes_put(out, bits, 4);
}

/* The least half-precision number that is not below a distance, so that codes reach it. */
static uint16_t half_at_least(double value)
{
    const uint16_t half = dtype_f32_to_f16((float)value);
    return (double)dtype_f16_to_f32(half) < value ? (uint16_t)(half + 1) : half;
}

/* distances [count] are not negative. */
static void put_distances(uint8_t *record, const struct token_record_layout *layout, double *distances)
{
    uint8_t *out = record + layout->fields[FIELD_VALUES].at;
    const uint32_t count = layout->shape.count, bits = layout->shape.value_bits;
    double furthest = 0;
    for (uint32_t i = 0; i < count && bits < 32; i++) {
        distances[i] = fmin(distances[i], TOKEN_RECORD_RANGE);
        furthest = fmax(furthest, distances[i]);
    }
    const uint16_t half = half_at_least(furthest);
    const double range = (double)dtype_f16_to_f32(half);
    if (bits == 8) bytes_put(record + layout->fields[FIELD_RANGE].at, half, 2);
    for (uint32_t i = 0; i < count; i++) {
        if (bits == 8)
            out[i] = range > 0 ? (uint8_t)lrint(LEVELS * sqrt(distances[i] / range)) : 0;
        else if (bits == 16)
            bytes_put(out + 2 * i, dtype_f32_to_f16((float)distances[i]), 2);
        else
            put_f32(out + 4 * i, distances[i]);
    }
}

/* The mass must leave something for the stored tokens, or their logarithms would be those of 0. */
static float tail_below_one(double tail)
{
    const float rounded = (float)tail;
    return rounded < 1 ? rounded : nextafterf(1, 0);
}

static void put_top(uint8_t *out, const struct token_record_layout *layout, struct teacher_row *row,
    struct token_record *work)
{
    const double tail = teacher_row_top(row, work->ids, layout->shape.count);
    for (uint32_t i = 0; i < layout->shape.count; i++)
        work->values[i] = (double)row->highest - (double)row->logits[work->ids[i]];
    put_distances(out, layout, work->values);
    put_f32(out + layout->fields[FIELD_REST].at, (double)tail_below_one(tail));
}

static void put_draws(uint8_t *out, const struct token_record_layout *layout, struct teacher_row *row,
    double temperature, uint64_t *random, struct token_record *work)
{
    const uint32_t count = layout->shape.count;
    uint8_t *values = out + layout->fields[FIELD_VALUES].at;
    put_f32(out + layout->fields[FIELD_REST].at, teacher_row_entropy(row));
    teacher_row_draw(row, work->ids, work->values, count, temperature, random, work->values + count);
    for (uint32_t i = 0; i < count && layout->shape.value_bits; i++)
        bytes_put(values + 2 * i, dtype_f32_to_f16((float)work->values[i]), 2);
}

bool token_record_put(uint8_t *out, const struct token_record_layout *layout, uint32_t token,
    const float *logits, double temperature, uint64_t *random, struct token_record *work)
{
    struct teacher_row row;
    if (!teacher_row_init(&row, logits, work->weights, layout->shape.vocabulary)) return false;
    work->log_sum = (float)row.log_sum;
    bytes_put(out, token, TOKEN_BYTES);
    put_f32(out + layout->fields[FIELD_LOG_SUM].at, row.log_sum);
    if (layout->shape.draws)
        put_draws(out, layout, &row, temperature, random, work);
    else
        put_top(out, layout, &row, work);
    elias_fano_put(out + layout->fields[FIELD_IDS].at, &layout->ids, work->ids);
    return true;
}

/* ---- reading ---- */

static float get_f32(const uint8_t *at)
{
    const uint32_t bits = bytes_get_u32(at);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t token_record_token(const uint8_t *bytes)
{
    return (uint32_t)bytes_get(bytes, TOKEN_BYTES);
}

static void get_values(double *out, const struct token_record_layout *layout, const uint8_t *record)
{
    const uint8_t *values = record + layout->fields[FIELD_VALUES].at;
    const uint32_t count = layout->shape.count, bits = layout->shape.value_bits;
    const double range =
        bits == 8 ? (double)dtype_f16_to_f32(bytes_get_u16(record + layout->fields[FIELD_RANGE].at)) : 0;
    for (uint32_t i = 0; i < count; i++) {
        if (bits == 8)
            out[i] = range * ((double)values[i] / LEVELS) * ((double)values[i] / LEVELS);
        else if (bits == 16)
            out[i] = (double)dtype_f16_to_f32(bytes_get_u16(values + 2 * i));
        else
            out[i] = bits == 32 ? (double)get_f32(values + 4 * i) : 0;
    }
}

/* Distances to log-probabilities; false if they are none. */
static bool normalise(double *values, uint32_t count, double tail)
{
    double least = INFINITY, sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!(values[i] >= 0) || !isfinite(values[i])) return false;
        least = fmin(least, values[i]);
    }
    for (uint32_t i = 0; i < count; i++)
        sum += exp(least - values[i]);
    for (uint32_t i = 0; i < count; i++)
        values[i] = log1p(-tail) - (values[i] - least) - log(sum);
    return true;
}

static bool all_finite(const double *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) return false;
    }
    return true;
}

enum status token_record_get(struct token_record *out, const struct token_record_layout *layout,
    const uint8_t *bytes, struct error *err)
{
    const struct token_record_shape *shape = &layout->shape;
    out->token = token_record_token(bytes);
    out->log_sum = get_f32(bytes + layout->fields[FIELD_LOG_SUM].at);
    out->rest = get_f32(bytes + layout->fields[FIELD_REST].at);
    if (out->token >= shape->vocabulary)
        return fail(
            err, ERR_FORMAT, "token %u is beyond the vocabulary of %u", out->token, shape->vocabulary);
    if (!isfinite(out->log_sum)) return fail(err, ERR_FORMAT, "the logsumexp is not finite");
    if (!(out->rest >= 0) || !isfinite(out->rest) || (!shape->draws && !(out->rest < 1)))
        return fail(err, ERR_FORMAT, "the %s is %g", layout->fields[FIELD_REST].name, (double)out->rest);
    if (!elias_fano_get(out->ids, &layout->ids, bytes + layout->fields[FIELD_IDS].at))
        return fail(err, ERR_FORMAT, "the ids are no sorted ids of this vocabulary");
    for (uint32_t i = 1; i < shape->count && !shape->draws; i++) {
        if (out->ids[i] == out->ids[i - 1]) return fail(err, ERR_FORMAT, "id %u is there twice", out->ids[i]);
    }
    get_values(out->values, layout, bytes);
    if (shape->draws ? all_finite(out->values, shape->count)
                     : normalise(out->values, shape->count, (double)out->rest))
        return OK;
    return fail(err, ERR_FORMAT, "the %s are no numbers that could have been stored",
        layout->fields[FIELD_VALUES].name);
}
