/* The long run: decoder layers one after the other, each compressed on the inputs that it will really see, finished layers in a journal.
 * Whatever a kill can interrupt is on disk by then or is computed again to the same bits. What is done to a layer is the tool's. */
#ifndef NIBBLE_MODEL_LAYERWISE_H
#define NIBBLE_MODEL_LAYERWISE_H

#include "model/layerwise/journal.h"
#include "model/layerwise/layer.h"

/* What goes into the file of a finished layer. */
struct layer_record {
    struct tensor *tensors; /* [count] with data, which stays the layer's, under their names in the model */
    uint64_t count, capacity;
    char *notes; /* JSON text, memory_free */
    uint64_t notes_bytes;
};

/* Another tensor. ERR_MEMORY. */
enum status layer_record_add(struct layer_record *record, const struct tensor *tensor, struct error *err);

/* What a tool does. `layer` has loaded tensors; its current ones are to be replaced (layer_replace). */
struct layerwise_work {
    /* Compress a layer: all stages of the walk in turn, which has entered none of them yet. */
    enum status (*compress)(void *context, struct layer *layer, struct error *err);
    /* What the layer's file shall hold. */
    enum status (*record)(
        void *context, const struct layer *layer, struct layer_record *out, struct error *err);
    /* Take notes and tensors of a layer that an earlier run finished; ERR_FORMAT if they are not what this run would make. With a
     * layer, put them in their places, before its first stage; NULL: only check, and remember the notes. */
    enum status (*again)(
        void *context, struct layer *layer, uint32_t index, struct container *from, struct error *err);
    /* Say what became of a layer. seconds_left: of the whole run, estimated. */
    void (*note)(void *context, uint32_t index, double seconds, double seconds_left);
};

struct layerwise {
    struct checkpoint *input;
    struct walk *walk; /* before the first layer; NULL: nothing is observed, layers are only compressed */
    struct journal *journal;
    const char *stamp;
    const struct layerwise_work *work;
    void *context;
    const struct report *report;
    double journal_seconds; /* out, added up */
};

/* All layers from `finished` on, which the journal holds the ones before; the walk is brought there first, from saved states or from
 * the start. Errors name the layer. */
enum status layerwise_run(struct layerwise *run, uint32_t finished, struct error *err);

/* "stopped; finished layers are kept in ..." for a signal that ends the process (file_signal_note); tool: its name. */
void layerwise_note_for_signals(const char *tool, const struct journal *journal);

/* ERR_FORMAT unless `tensor`, of a finished layer's file, is stored as `target` says. NULL is refused too. */
enum status layerwise_expect(const struct tensor *tensor, const struct tensor *target,
    const struct container *from, struct error *err);

/* Put a tensor of a finished layer's file in its place (layers_place). */
enum status layerwise_take(struct layer *layer, uint32_t place, const struct tensor *tensor,
    struct container *from, struct error *err);

/* The seam for tests: seconds between two savings of the hidden states. */
extern double layerwise_states_interval;

#endif
