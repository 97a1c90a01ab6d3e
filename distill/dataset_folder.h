/* The folder in which a dataset grows: whose it is, what is in it, and that only one process writes there. */
#ifndef NIBBLE_DISTILL_DATASET_FOLDER_H
#define NIBBLE_DISTILL_DATASET_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Fields are for reading. */
struct dataset_folder {
    const char *path;
    int descriptor; /* locked while it is open */
    bool created;   /* by this run */
    bool begun;     /* holds dataset.json */
};

/* Make the folder, or recognise an empty one or that of a dataset, and lock it for this process; the lock ends with the process, however
 * that ends. Temporary files that killed runs left are removed. Keeps the pointer to path. ERR_USAGE: it is a file, or holds what is no
 * dataset's; another process is at work on it. */
enum status dataset_folder_enter(struct dataset_folder *out, const char *path, struct error *err);

/* Remove the dataset's files: all, or the shards from number `first` on. */
enum status dataset_folder_remove(struct dataset_folder *folder, struct error *err);
enum status dataset_folder_remove_shards(struct dataset_folder *folder, uint32_t first, struct error *err);

/* Give up the lock; with `undo`, a folder that this run made goes, with the dataset's files in it. Accepts what is all zero. */
void dataset_folder_leave(struct dataset_folder *folder, bool undo);

#endif
