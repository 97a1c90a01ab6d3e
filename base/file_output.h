/* What a folder of outputs (file_folder.c) needs of single ones (file_output.c). Only these two include this. */
#ifndef NIBBLE_BASE_FILE_OUTPUT_H
#define NIBBLE_BASE_FILE_OUTPUT_H

#include "base/file.h"

/* Put a path into the table of what a signal removes, files before folders; *slot is where. The path belongs to the table until
 * output_forget, which frees it unless a handler has taken it. Only within output_undisturbed. */
enum status output_remember(char *path, unsigned *slot, struct error *err);
void output_forget(char *path, unsigned slot);

/* Run `create`, which makes a file or folder and puts it into the table, with no signal handler in between. */
enum status output_undisturbed(
    enum status (*create)(void *context, struct error *err), void *context, struct error *err);

/* ".<name>.tmp.<pid>" beside the path; *folder is the folder both lie in. Owner: the caller, memory_free. */
enum status output_temporary_name(char **temporary, char **folder, const char *path, struct error *err);

/* True if `name` is such a name of the same target whose process no longer exists; `temporary` is our own, with any folders. */
bool output_is_left_behind(const char *name, const char *temporary);

/* An output that is the file `folder`/`name` from the start; its folder must be new. */
enum status output_open_inside(struct output **out, const char *folder, const char *name, struct error *err);
/* Complete it: length, mode, fsync, close. */
enum status output_finish(struct output *output, struct error *err);
/* Free it; the file stays. */
void output_keep(struct output *output);

/* fsync a folder, so that what was renamed in it stays. What cannot be synced is no error. */
enum status output_sync_folder(const char *folder, const char *path, struct error *err);

#endif
