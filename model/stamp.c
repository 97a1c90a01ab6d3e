#include "model/stamp.h"

#include <string.h>

#include "base/file.h"

enum { SHOWN_BYTES = 120 }; /* of a name or value in a message, which has room for three of them */

static const char advice[] = "give the options of before, or --restart to begin anew, or remove the folder";

enum status stamp_check(const char *what, const struct json_value *stamp, struct error *err)
{
    char name[SHOWN_BYTES];

    if (stamp->kind != JSON_OBJECT) return fail(err, ERR_FORMAT, "%s: is no object", what);
    for (const struct json_value *entry = stamp->children; entry; entry = entry->next) {
        if (entry->kind == JSON_STRING) continue;
        error_quote(name, sizeof name, entry->key.bytes, entry->key.count);
        return fail(err, ERR_FORMAT, "%s: the value of %s is no string", what, name);
    }
    return OK;
}

enum status stamp_parse(
    struct json_document **out, const char *what, const char *bytes, uint64_t count, struct error *err)
{
    enum status status = json_parse(out, what, bytes, count, err);

    if (status) return status;
    status = stamp_check(what, json_root(*out), err);
    if (!status) return OK;
    json_free(*out);
    *out = NULL;
    return status;
}

/* The terminators go in as well, so that "ab", "c" differs from "a", "bc". */
uint32_t stamp_crc(const struct json_value *stamp)
{
    uint32_t crc = 0;

    for (const struct json_value *entry = stamp->children; entry; entry = entry->next) {
        crc = file_crc32(crc, entry->key.bytes, entry->key.count + 1);
        crc = file_crc32(crc, entry->text.bytes, entry->text.count + 1);
    }
    return crc;
}

static bool same_text(struct json_text a, struct json_text b)
{
    return a.count == b.count && memcmp(a.bytes, b.bytes, a.count) == 0;
}

/* The entry of the same name, or NULL. */
static const struct json_value *find(const struct json_value *stamp, const struct json_value *wanted)
{
    const struct json_value *entry = stamp->children;

    while (entry && !same_text(entry->key, wanted->key))
        entry = entry->next;
    return entry;
}

/* before or now may be NULL: that side has no such entry. */
static enum status differs(
    const char *folder, const struct json_value *before, const struct json_value *now, struct error *err)
{
    struct json_text key = before ? before->key : now->key;
    char name[SHOWN_BYTES], old[SHOWN_BYTES], new[SHOWN_BYTES];

    error_quote(name, sizeof name, key.bytes, key.count);
    if (before) error_quote(old, sizeof old, before->text.bytes, before->text.count);
    if (now) error_quote(new, sizeof new, now->text.bytes, now->text.count);
    if (!before)
        return fail(err, ERR_USAGE, "%s was made without %s, this run has %s; %s", folder, name, new, advice);
    if (!now)
        return fail(
            err, ERR_USAGE, "%s was made with %s %s, this run has none; %s", folder, name, old, advice);
    return fail(
        err, ERR_USAGE, "%s was made with %s %s, this run has %s; %s", folder, name, old, new, advice);
}

enum status stamp_compare(
    const char *folder, const struct json_value *before, const struct json_value *now, struct error *err)
{
    for (const struct json_value *entry = now->children; entry; entry = entry->next) {
        const struct json_value *old = find(before, entry);
        if (!old || !same_text(old->text, entry->text)) return differs(folder, old, entry, err);
    }
    for (const struct json_value *entry = before->children; entry; entry = entry->next) {
        if (!find(now, entry)) return differs(folder, entry, NULL, err);
    }
    return OK;
}
