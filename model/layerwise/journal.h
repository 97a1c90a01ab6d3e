/* The journal of a long run: finished layers on disk, so that the same command goes on where it was stopped. A folder
 * OUTPUT.journal beside the output holds journal.json (the stamp: everything that decides the bytes), one .nbl file
 * per finished layer, which appears complete or not at all, what was chosen by measurement before the first layer, and at
 * times the states of the walk. All of it is
 * untrusted when read back: a damaged layer file is done again, never used; so is one of another journal or another
 * layer, which each file says of itself.
 *
 * Files are known by their names: journal.json, layer-00000.nbl, allocation.nbl, states-00000, temporary
 * files of these, lock. Others
 * are never touched. A journal belongs to one thread. */
#ifndef NIBBLE_MODEL_JOURNAL_H
#define NIBBLE_MODEL_JOURNAL_H

#include "base/report.h"
#include "base/threads.h"
#include "formats/container.h"

struct journal;

/* Open or create the journal of `output`. The stamp is one flat JSON object of strings, {"name": "value", ...}: what a
 * journal must have been made with to be continued.
 *   layers       of the model, below 100000
 *   restart      discard what an earlier run left instead of continuing it
 *   pool,report  must outlive the journal; report may be NULL
 * Continues with the leading layers that are whole: *finished of them, which are opened and checked (every byte against
 * its checksum, by the pool); a later one that is damaged is told to report. What killed runs were still writing is
 * removed. A journal without a single layer is begun anew, whatever its stamp.
 *
 * ERR_USAGE: the journal was made with another stamp (names the first entry that differs and both values, and says what
 * to do: the old options, --restart, or removing the folder); another process is at work on it; the folder exists but
 * is no journal (a link to one is none), or its journal.json is missing. ERR_FORMAT: journal.json is damaged; hours of
 * work may hang on it, so that only restart discards it. ERR_IO, ERR_MEMORY: also where a layer cannot be read for no
 * fault of its own; it is not done again for that. After an error *out is NULL, and a folder that was made for nothing
 * is gone. Release with journal_close. */
enum status journal_open(struct journal **out, const char *output, const char *stamp, uint32_t layers,
    bool restart, struct pool *pool, const struct report *report, uint32_t *finished, struct error *err);
void journal_close(struct journal *journal);

const char *journal_folder(const struct journal *journal);

/* Write a finished layer, durably: tensors (data in memory, as long as storage and shape say, the gaps of TILES storage
 * zero) under their names in the model, and notes, a JSON text, as document "layer.json". It is then opened like one
 * that was found. One that was there is replaced, and its container closed. */
enum status journal_add(struct journal *journal, uint32_t layer, const struct tensor *tensors, uint64_t count,
    const char *notes, uint64_t notes_bytes, struct error *err);

/* The file of a finished layer (owned by the journal), not mapped; container_document gives "layer.json". NULL before
 * it is finished. */
struct container *journal_layer(const struct journal *journal, uint32_t layer);

/* A choice that all layers are made with, and that takes long to find: one JSON text, durably, under the same stamp. Reading
 * gives NULL where there is none, or a damaged one (told to report); owner of *text: the caller, memory_free. ERR_IO,
 * ERR_MEMORY: as in journal_open. */
enum status journal_put_choice(struct journal *journal, const char *text, uint64_t bytes, struct error *err);
enum status journal_get_choice(struct journal *journal, char **text, uint64_t *bytes, struct error *err);

/* The path for the states at the start of layer `layer` (walk_save), valid until the next call, and the latest layer
 * >= 1 and <= `finished` for which such a file exists (0: none). journal_drop_states removes those of all layers but
 * `keep`, as far as it can. */
const char *journal_states_path(struct journal *journal, uint32_t layer);
uint32_t journal_latest_states(struct journal *journal, uint32_t finished);
void journal_drop_states(struct journal *journal, uint32_t keep);

/* The output is complete: remove the folder and all that the journal wrote in it (nothing else). If it holds files of
 * somebody else it stays, with these alone, and report is told. Closes the journal, also on error, and with it the
 * containers of its layers. */
enum status journal_remove(struct journal *journal, struct error *err);

#endif
