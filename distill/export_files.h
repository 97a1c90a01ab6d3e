/* A dataset written for other programs: one .safetensors file, a folder of .npy files, or JSON lines. All or nothing (base/file). */
#ifndef NIBBLE_DISTILL_EXPORT_FILES_H
#define NIBBLE_DISTILL_EXPORT_FILES_H

#include "distill/dataset.h"

struct export_result {
    uint64_t sequences, tokens, bytes;
};

/* Arrays as distill/export_columns.h has them, by these names. */
enum status export_safetensors(
    struct export_result *out, struct dataset *dataset, const char *path, bool force, struct error *err);
/* path is a folder, made new: tokens.npy and so on. */
enum status export_npy(
    struct export_result *out, struct dataset *dataset, const char *path, struct error *err);
/* One object a line, for each sequence: "source", "prompt" (tokens given), "text", "tokens", "logsumexp", "tail" or "entropy" (a number
 * per token), "ids" and "log_probs" or "weights" (lists per token). Without hidden states. */
enum status export_json_lines(
    struct export_result *out, struct dataset *dataset, const char *path, bool force, struct error *err);

#endif
