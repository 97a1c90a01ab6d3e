#include "distill/dataset.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

enum { TOKENIZER_LIMIT = 256 * 1024 * 1024 };

static enum status shard_path(char **out, const struct dataset *dataset, uint64_t index, struct error *err)
{
    char name[24];
    shard_name(name, (uint32_t)index);
    return file_join(out, dataset->path, name, strlen(name), err);
}

static bool has_shard(const struct dataset *dataset, uint64_t index)
{
    char *path = NULL;
    const bool there = shard_path(&path, dataset, index, NULL) == OK && file_kind(path) == FILE_REGULAR;
    memory_free(path);
    return there;
}

enum status dataset_open(
    struct dataset *out, const char *path, bool skip_damaged, const struct report *report, struct error *err)
{
    *out = (struct dataset){.path = path, .skip_damaged = skip_damaged, .report = report};
    if (file_kind(path) == FILE_REGULAR)
        return fail(
            err, ERR_FORMAT, "%s: is a file; a dataset is a folder with " DATASET_DOCUMENT " in it", path);
    enum status status = dataset_document_read(&out->document, path, err);
    if (status) return status;
    out->shard_count = out->document.shard_count;
    while (!out->document.complete && out->shard_count < SHARD_LIMIT && has_shard(out, out->shard_count))
        out->shard_count++;
    return OK;
}

void dataset_close(struct dataset *dataset)
{
    dataset_document_free(&dataset->document);
}

/* A shard may be whole and yet not the one that the dataset was completed with. */
static enum status check_index(
    const struct dataset *dataset, const struct shard *shard, const char *path, struct error *err)
{
    const struct shard_info *found = shard_info(shard);
    if (!dataset->document.complete) return OK;
    const struct shard_info *expected = &dataset->document.shards[found->number];
    if (found->crc == expected->crc && found->bytes == expected->bytes &&
        found->sequences == expected->sequences && found->records == expected->records)
        return OK;
    return fail(err, ERR_FORMAT, "%s: is not the shard that " DATASET_DOCUMENT " describes", path);
}

enum status dataset_shard(struct shard **out, struct dataset *dataset, uint64_t index, struct error *err)
{
    char *path = NULL;
    struct error trouble;
    *out = NULL;
    if (!err) err = &trouble;
    enum status status = shard_path(&path, dataset, index, err);
    if (!status)
        status = shard_open(
            out, path, &dataset->document.layout, (uint32_t)index, dataset->document.stamp_crc, err);
    if (!status && (status = check_index(dataset, *out, path, err))) {
        shard_close(*out);
        *out = NULL;
    }
    memory_free(path);
    if (status != ERR_FORMAT && status != ERR_IO && status != ERR_UNSUPPORTED) return status;
    if (!dataset->skip_damaged) return fail_within(err, status, "--skip-damaged would go on without it");
    report_note(dataset->report, "note: %s; it is skipped", err->text);
    dataset->damaged++;
    return OK;
}

enum status dataset_tokenizer(struct tokenizer **out, const struct dataset *dataset, struct error *err)
{
    char *path = NULL, *text = NULL;
    uint64_t bytes;
    *out = NULL;
    enum status status = file_join(&path, dataset->path, DATASET_TOKENIZER, strlen(DATASET_TOKENIZER), err);
    if (!status) status = file_read_all(&text, &bytes, path, TOKENIZER_LIMIT, err);
    if (!status) status = tokenizer_create(out, path, text, bytes, err);
    memory_free(text);
    memory_free(path);
    return status;
}
