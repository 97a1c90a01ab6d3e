/* The processor's energy counters: Linux's power capping interface (Documentation/power/powercap/powercap.rst), which shows the
 * RAPL counters of Intel and AMD processors as <root>/intel-rapl:N/energy_uj. */
#ifndef NIBBLE_RUNTIME_CHECK_ENERGY_H
#define NIBBLE_RUNTIME_CHECK_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

#define ENERGY_ROOT "/sys/class/powercap"

enum { ENERGY_PACKAGE_LIMIT = 16, ENERGY_PATH_LIMIT = 256 };

/* The packages (sockets, or dies of one) whose counters are read. */
struct energy {
    unsigned count; /* 0: not available */
    struct energy_package {
        char counter[ENERGY_PATH_LIMIT]; /* path of energy_uj */
        uint64_t range;                  /* max_energy_range_uj: the counter goes from it to 0 */
    } packages[ENERGY_PACKAGE_LIMIT];
    char reason[2 * ENERGY_PATH_LIMIT]; /* why count is 0, in words */
};

/* One reading, microjoules. */
struct energy_reading {
    uint64_t counters[ENERGY_PACKAGE_LIMIT];
};

/* Find the packages below `root`: entries intel-rapl:N whose name begins with "package". Not their parts (intel-rapl:N:M), which
 * they contain; not other views of the same counter (intel-rapl-mmio:N); not "psys", which contains the packages. Either all
 * packages can be read or count is 0: half a machine's energy would look like a whole one's. */
void energy_open(struct energy *energy, const char *root);

/* Read all counters. False: one cannot be read (any more). */
bool energy_read(struct energy_reading *out, const struct energy *energy);

/* Joules that all packages together used from one reading to the next; a counter that is smaller than before has passed its
 * range once. NaN without packages, if nothing was counted (the interval was shorter than the counter's step, about a
 * millisecond), or if a reading lies outside its range. Everything that ran on the packages is in it. */
double energy_joules(
    const struct energy *energy, const struct energy_reading *before, const struct energy_reading *after);

#endif
