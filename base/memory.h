/* Memory: zeroed, 64-byte-aligned, checked against overflow, and able to fail on demand so that tests can walk every
 * allocation of an operation. */
#ifndef NIBBLE_BASE_MEMORY_H
#define NIBBLE_BASE_MEMORY_H

#include <stdint.h>

#include "base/error.h"

/* count * size zeroed bytes aligned to 64, or NULL with ERR_MEMORY in err. count or size 0 gives a valid pointer that
 * may not be read. A block of 1 TiB or more is always refused. Large blocks take no memory before they are touched. Owner:
 * the caller, released by memory_free. Safe from any thread. */
void *memory_new(uint64_t count, uint64_t size, struct error *err);

/* Grow *array (NULL, or from memory_new or memory_grow) so that it holds at least `needed` elements of `size` bytes;
 * *capacity counts elements and at least doubles. Contents are kept, the new part is zeroed. ERR_MEMORY leaves the old
 * array as it was. `array` is the address of a pointer of any object type. */
enum status memory_grow(void *array, uint64_t *capacity, uint64_t needed, uint64_t size, struct error *err);

/* A terminated copy of `count` bytes of text, or NULL with ERR_MEMORY in err. */
char *memory_text(const char *text, uint64_t count, struct error *err);

/* Release what any function above returned; NULL is allowed. */
void memory_free(void *pointer);

/* For tests: the nth allocation from now (1 = the next) fails, and with `sticky` every one after it too; 0 switches it
 * off. memory_failures says how many have failed since. */
void memory_fail_at(uint64_t nth, int sticky);
uint64_t memory_failures(void);

/* The highest resident set size of this process so far, in bytes; 0 where the system does not say. */
uint64_t memory_peak_bytes(void);

#endif
