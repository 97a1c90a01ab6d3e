/* The options that decide the bytes of an output, as pairs of texts: for its provenance, and for the journal's stamp. Never
 * threads, paths or times. */
#ifndef NIBBLE_QUANTIZE_PAIRS_H
#define NIBBLE_QUANTIZE_PAIRS_H

#include "base/option_pairs.h"
#include "model/calibration.h"
#include "quantize/plan.h"

struct pairs {
    struct option_pairs all;
    char *uncalibrated; /* owned; of pairs_add_uncalibrated */
};

/* Take down what the options ask for; a calibration of 0 samples is none. Texts point into options, settings and calibration's
 * numbers are copied. Release with pairs_free, also after an error. */
enum status pairs_create(struct pairs *out, const struct quantize_options *options,
    const struct settings *settings, const struct calibration *calibration, bool tied, struct error *err);
/* Once, at the end: the checksum of --imatrix. */
void pairs_add_imatrix(struct pairs *pairs, uint32_t crc32);
/* Once, after the work: the experts that it did not reach, if there are any. ERR_MEMORY. */
enum status pairs_add_uncalibrated(struct pairs *pairs, const struct plan *plan, struct error *err);
void pairs_free(struct pairs *pairs);

#endif
