/* How much memory a calibrated run will take, before it starts. */
#ifndef NIBBLE_QUANTIZE_FOOTPRINT_H
#define NIBBLE_QUANTIZE_FOOTPRINT_H

#include "quantize/calibrated.h"

struct footprint {
    uint64_t peak;   /* bytes, everything included */
    uint64_t states; /* of hidden states: within the peak if in memory, else on disk */
    bool in_memory;
};

/* States stay in memory if they take at most FOOTPRINT_STATES and the limit (0: none) allows. ERR_MEMORY: even with states
 * in a file more is needed than the limit; the text says how much. */
#define FOOTPRINT_STATES (UINT64_C(512) << 20)
enum status footprint_settle(
    struct footprint *out, const struct calibrated *work, uint64_t limit, struct error *err);

/* The same for the measurement of so many matrices before the run (quantize/cost.h). */
enum status footprint_measuring(struct footprint *out, const struct calibrated *work, uint64_t matrices,
    uint64_t limit, struct error *err);

#endif
