/* The folder of a journal: which files in it are the journal's, by their names, and who may write there. Only journal.c
 * includes this. */
#ifndef NIBBLE_MODEL_JOURNAL_FOLDER_H
#define NIBBLE_MODEL_JOURNAL_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/report.h"

#define STAMP_NAME "journal.json"
#define LAYERS_LIMIT 100000 /* numbers in names have five digits */

/* What a file in the folder is, by its name; bits, so that several can be asked for. */
enum name_kind {
    NAME_FOREIGN = 1,
    NAME_LAYER = 2,
    NAME_STATES = 4,
    NAME_STAMP = 8,
    NAME_LOCK = 16,
    NAME_CHOICE = 32,
    NAME_TEMPORARY = 64 /* of one of the above */
};

/* Fields but path, created and locked are private. */
struct journal_folder {
    char *path;
    char *file; /* the path that was asked for last */
    int lock;
    bool locked;
    bool created; /* by this run */
    const struct report *report;
};

/* Name the folder OUTPUT.journal; nothing is touched. Release with folder_free, also after an error: it gives up the
 * lock, and accepts what is all zero. */
enum status folder_init(
    struct journal_folder *out, const char *output, const struct report *report, struct error *err);
void folder_free(struct journal_folder *folder);

/* Paths of files in it, valid until the next call of one of these. */
const char *folder_layer(struct journal_folder *folder, uint32_t layer);
const char *folder_states(struct journal_folder *folder, uint32_t layer);
const char *folder_stamp(struct journal_folder *folder);
const char *folder_choice(struct journal_folder *folder);

/* Make the folder or recognise it as a journal, and lock it for this process; the lock ends with the process, however that
 * ends. With restart, the stamp may be missing where layers are. ERR_USAGE: it is no journal; somebody else is
 * at work. */
enum status folder_enter(struct journal_folder *folder, bool restart, struct error *err);

/* Whether it holds files of these kinds. */
enum status folder_holds(struct journal_folder *folder, unsigned kinds, bool *out, struct error *err);

#define KEEP_NONE UINT32_MAX

/* Remove the files of these kinds, but for those of layer number `keep`. */
enum status folder_remove(struct journal_folder *folder, unsigned kinds, uint32_t keep, struct error *err);

/* Remove the lock and the folder, which must hold no other file of the journal. If it holds somebody else's it stays, and
 * report is told. */
enum status folder_leave(struct journal_folder *folder, struct error *err);

/* After folder_enter or what came next failed: take back a folder that was made for nothing. */
void folder_undo(struct journal_folder *folder);

#endif
