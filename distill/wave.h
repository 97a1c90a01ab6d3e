/* Sequences that go through the teacher side by side, each to its end: given ones are predicted, prompts are continued first. Every
 * token gets its record. */
#ifndef NIBBLE_DISTILL_WAVE_H
#define NIBBLE_DISTILL_WAVE_H

#include "distill/distill_settings.h"
#include "distill/shard.h"

struct wave;

/* Room for settings->batch sequences of settings->length tokens; keeps both pointers. Release with wave_free (NULL is allowed). */
enum status wave_create(
    struct wave **out, const struct distill_settings *settings, struct model *teacher, struct error *err);
void wave_free(struct wave *wave);

/* Empty it. */
void wave_clear(struct wave *wave);
uint64_t wave_count(const struct wave *wave);

/* Add a sequence, fewer than settings->batch times: tokens [count], 1 <= count <= settings->length, of source number `source`. */
void wave_add(struct wave *wave, const uint32_t *tokens, uint64_t count, uint64_t source);

/* Run them all. What comes out depends on the sequences, the settings and the teacher, not on the number of workers. ERR_NUMERIC, with the
 * sequence's source number: logits that are not finite, or a hidden state that half precision cannot hold; and as session_step. */
enum status wave_run(struct wave *wave, struct error *err);

/* Seconds that the teacher's layers and head took so far, of all runs. */
double wave_teacher_seconds(const struct wave *wave);

/* Of sequence `index`, once run: what it is, its tokens [length], its records [length][record bytes]. */
struct shard_sequence wave_sequence(const struct wave *wave, uint64_t index);
const uint32_t *wave_tokens(const struct wave *wave, uint64_t index);
const uint8_t *wave_records(const struct wave *wave, uint64_t index);

#endif
