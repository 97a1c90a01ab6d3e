/* What one prompt of speculative decoding gave, and the statistics of all of them. */
#ifndef NIBBLE_RUNTIME_CHECK_SPECULATE_TALLY_H
#define NIBBLE_RUNTIME_CHECK_SPECULATE_TALLY_H

#include "runtime-check/generate/speculate.h"

/* What one prompt gave. Doubles throughout, so that sums and differences of tallies are tallies. */
struct speculate_tally {
    double judged[SPECULATE_LOOKAHEAD], accepted[SPECULATE_LOOKAHEAD];
    double cycles, tokens, tokens_alone;
    double seconds_alone, seconds_draft, seconds_verify;
};

/* part / whole, 0 of nothing. */
double speculate_tally_ratio(double part, double whole);

/* Fill in all of *out that follows from the prompts' tallies ([count]) and from the bytes of both models' weights; positions and costs for
 * this lookahead. */
void speculate_tally_summarize(struct speculate_result *out, const struct speculate_tally *tallies,
    uint64_t count, const struct model *target, const struct model *draft, uint64_t lookahead);

#endif
