/* See zip_archive.h. Entries are put in the order of their place, so that one look at neighbours finds every overlap. */
#include "formats/pytorch/zip_archive.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"

enum {
    LOCAL_BYTES = 30,
    DIRECTORY_BYTES = 46, /* of one entry, before its name */
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    COMMENT_LIMIT = 65535,
    LOCAL_SIGNATURE = 0x04034b50,
    DIRECTORY_SIGNATURE = 0x02014b50,
    END_SIGNATURE = 0x06054b50,
    END64_SIGNATURE = 0x06064b50,
    LOCATOR_SIGNATURE = 0x07064b50,
    ZIP64_EXTRA = 1,
    FLAG_ENCRYPTED = 1 | 1 << 6 | 1 << 13, /* weak, strong, the directory itself */
    FLAG_DESCRIPTOR = 1 << 3,              /* the local header leaves checksum and sizes open */
    FLAG_PATCH = 1 << 5
};

/* The directory as the end of the file describes it. */
struct directory {
    uint64_t count, bytes, offset;
    uint64_t end; /* where it must end: at the first of the end records */
};

/* What one entry's record in the directory says. */
struct record {
    uint16_t flags, method, name_bytes, extra_bytes;
    uint32_t crc;
    uint64_t packed, bytes, header;
    const char *name;
    const uint8_t *extra;
};

/* ---- the end of the file ---- */

/* The last end record whose comment reaches exactly to the end of the file. */
static enum status find_end(uint64_t *out, const struct file *file, struct error *err)
{
    const uint64_t most = END_BYTES + COMMENT_LIMIT;

    for (uint64_t back = END_BYTES; back <= file->bytes && back <= most; back++) {
        const uint8_t *at = file->map + file->bytes - back;
        if (bytes_get_u32(at) != END_SIGNATURE || bytes_get_u16(at + 20) != back - END_BYTES) continue;
        *out = file->bytes - back;
        return OK;
    }
    return fail(err, ERR_FORMAT,
        "the zip archive has no directory at its end (%" PRIu64
        " bytes): cut short, or an interrupted download",
        file->bytes);
}

/* One number that is in both end records: the short one may leave it to the long one. */
static bool differs(uint64_t in_short, uint64_t in_long, uint64_t open)
{
    return in_short != open && in_short != in_long;
}

static enum status read_end64(struct directory *out, const struct file *file, uint64_t end, struct error *err)
{
    const uint64_t locator = end - LOCATOR_BYTES;
    const uint64_t at = bytes_get_u64(file->map + locator + 8);
    uint64_t past;

    if (checked_add(&past, at, END64_BYTES) || past != locator ||
        bytes_get_u32(file->map + at) != END64_SIGNATURE)
        return fail(err, ERR_FORMAT,
            "the zip64 end record is expected at byte %" PRIu64 ", right before its locator at byte %" PRIu64,
            at, locator);
    const uint8_t *record = file->map + at;
    if (bytes_get_u32(file->map + locator + 4) || bytes_get_u32(file->map + locator + 16) > 1 ||
        bytes_get_u32(record + 16) || bytes_get_u32(record + 20))
        return fail(err, ERR_UNSUPPORTED, "the zip archive is spread over several disks");
    const struct directory found = {
        bytes_get_u64(record + 32), bytes_get_u64(record + 40), bytes_get_u64(record + 48), at};
    if (bytes_get_u64(record + 24) != found.count || bytes_get_u64(record + 4) != END64_BYTES - 12 ||
        differs(out->count, found.count, UINT16_MAX) || differs(out->bytes, found.bytes, UINT32_MAX) ||
        differs(out->offset, found.offset, UINT32_MAX))
        return fail(err, ERR_FORMAT, "the end records at byte %" PRIu64 " and %" PRIu64 " disagree", at, end);
    *out = found;
    return OK;
}

static enum status read_end(struct directory *out, const struct file *file, struct error *err)
{
    uint64_t end = 0, past;
    enum status status = find_end(&end, file, err);

    if (status) return status;
    const uint8_t *record = file->map + end;
    if (bytes_get_u16(record + 4) || bytes_get_u16(record + 6) ||
        bytes_get_u16(record + 8) != bytes_get_u16(record + 10))
        return fail(err, ERR_UNSUPPORTED, "the zip archive is spread over several disks");
    *out = (struct directory){
        bytes_get_u16(record + 10), bytes_get_u32(record + 12), bytes_get_u32(record + 16), end};
    if (end >= LOCATOR_BYTES && bytes_get_u32(file->map + end - LOCATOR_BYTES) == LOCATOR_SIGNATURE)
        status = read_end64(out, file, end, err);
    if (status) return status;
    if (checked_add(&past, out->offset, out->bytes) || past != out->end)
        return fail(err, ERR_FORMAT,
            "the directory has %" PRIu64 " bytes at byte %" PRIu64 ", it must end at byte %" PRIu64,
            out->bytes, out->offset, out->end);
    if (out->count > out->bytes / DIRECTORY_BYTES)
        return fail(err, ERR_FORMAT, "the directory claims %" PRIu64 " entries in %" PRIu64 " bytes",
            out->count, out->bytes);
    return OK;
}

/* ---- one record of the directory ---- */

/* The zip64 field of an extra area: *bytes long, NULL if there is none. False: the area is damaged. */
static bool find_zip64(const uint8_t **out, uint16_t *bytes, const uint8_t *extra, uint64_t extra_bytes)
{
    *out = NULL;
    *bytes = 0;
    for (uint64_t at = 0; at < extra_bytes;) {
        if (extra_bytes - at < 4) return false;
        const uint16_t field = bytes_get_u16(extra + at + 2);
        if (field > extra_bytes - at - 4) return false;
        if (bytes_get_u16(extra + at) == ZIP64_EXTRA && !*out) {
            *out = extra + at + 4;
            *bytes = field;
        }
        at += 4 + (uint64_t)field;
    }
    return true;
}

/* Sizes and place that did not fit 32 bits stand in the zip64 field, in this order. */
static enum status widen(struct record *record, struct error *err)
{
    uint64_t *const wide[] = {&record->bytes, &record->packed, &record->header};
    const uint8_t *field;
    uint16_t left;

    if (!find_zip64(&field, &left, record->extra, record->extra_bytes))
        return fail(err, ERR_FORMAT, "its extra fields in the directory are damaged");
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        if (*wide[i] != UINT32_MAX) continue;
        if (left < 8) return fail(err, ERR_FORMAT, "a size of more than 32 bits is missing in the directory");
        *wide[i] = bytes_get_u64(field);
        field += 8;
        left = (uint16_t)(left - 8);
    }
    return OK;
}

static enum status check_kind(const struct record *record, struct error *err)
{
    if (record->flags & FLAG_ENCRYPTED) return fail(err, ERR_UNSUPPORTED, "is encrypted");
    if (record->method != 0 || record->flags & FLAG_PATCH)
        return fail(err, ERR_UNSUPPORTED,
            "is compressed (method %u); torch.save stores entries as they are, repack it with zip -0",
            (unsigned)record->method);
    if (record->packed != record->bytes)
        return fail(err, ERR_FORMAT,
            "is stored, but has %" PRIu64 " bytes in the archive and %" PRIu64 " outside", record->packed,
            record->bytes);
    return OK;
}

/* ---- its local header ---- */

/* Whether a size of the local header can stand beside the directory's: it may stand in the header's zip64 field (*wide, of which
 * *left bytes are not used yet), or be left open. */
static bool size_agrees(uint32_t local, uint64_t central, bool open, const uint8_t **wide, uint16_t *left)
{
    uint64_t size = local;

    if (local == UINT32_MAX && *left >= 8) {
        size = bytes_get_u64(*wide);
        *wide += 8;
        *left = (uint16_t)(*left - 8);
    }
    return size == central || (open && size == 0);
}

/* PyTorch leaves everything open, and has other numbers in the zip64 field: only what the header refers to is looked at. */
static bool sizes_agree(const struct record *record, const uint8_t *local, const uint8_t *extra)
{
    const bool open = record->flags & FLAG_DESCRIPTOR;
    const uint32_t crc = bytes_get_u32(local + 14);
    const uint8_t *wide;
    uint16_t left;

    return find_zip64(&wide, &left, extra, bytes_get_u16(local + 28)) &&
           (crc == record->crc || (open && crc == 0)) &&
           size_agrees(bytes_get_u32(local + 22), record->bytes, open, &wide, &left) &&
           size_agrees(bytes_get_u32(local + 18), record->packed, open, &wide, &left);
}

/* Everything of the entry lies before the directory. Sets *offset: where its data begin. */
static enum status check_local(struct record *record, uint64_t *offset, const struct file *file,
    const struct directory *directory, struct error *err)
{
    uint64_t end;

    if (checked_add(&end, record->header, LOCAL_BYTES) || end > directory->offset ||
        bytes_get_u32(file->map + record->header) != LOCAL_SIGNATURE)
        return fail(err, ERR_FORMAT, "has no local header at byte %" PRIu64, record->header);
    const uint8_t *local = file->map + record->header;
    const uint64_t name_bytes = bytes_get_u16(local + 26), extra_bytes = bytes_get_u16(local + 28);
    *offset = end + name_bytes + extra_bytes; /* at most 2^17 beyond a place in the file */
    if (*offset > directory->offset || checked_add(&end, *offset, record->bytes) || end > directory->offset)
        return fail(err, ERR_FORMAT,
            "%" PRIu64 " bytes at byte %" PRIu64 " reach into the directory at byte %" PRIu64, record->bytes,
            *offset, directory->offset);
    if (name_bytes != record->name_bytes || memcmp(local + LOCAL_BYTES, record->name, name_bytes) != 0 ||
        bytes_get_u16(local + 6) != record->flags || bytes_get_u16(local + 8) != record->method ||
        !sizes_agree(record, local, local + LOCAL_BYTES + name_bytes))
        return fail(err, ERR_FORMAT, "its local header at byte %" PRIu64 " disagrees with the directory",
            record->header);
    return OK;
}

/* ---- the directory ---- */

static enum status add_entry(struct zip_archive *out, struct record *record, const struct file *file,
    const struct directory *directory, struct error *err)
{
    struct zip_entry entry = {.crc = record->crc};
    char shown[96];
    enum status status = names_check(record->name, record->name_bytes, NULL);

    if (status)
        return fail(err, status, "entry '%s': cannot be the name of an entry",
            error_quote(shown, sizeof shown, record->name, record->name_bytes));
    entry.name = names_keep(&out->names, record->name, record->name_bytes, err);
    if (!entry.name) return ERR_MEMORY;
    status = widen(record, err);
    if (!status) status = check_kind(record, err);
    if (!status) status = check_local(record, &entry.offset, file, directory, err);
    if (status) return fail_within(err, status, "entry %s", entry.name);
    entry.bytes = record->bytes;
    entry.header = record->header;
    status = memory_grow(&out->entries, &out->capacity, out->count + 1, sizeof entry, err);
    if (!status) out->entries[out->count++] = entry;
    return status;
}

static enum status read_directory(
    struct zip_archive *out, const struct file *file, const struct directory *directory, struct error *err)
{
    uint64_t at = directory->offset;

    for (uint64_t i = 0; i < directory->count; i++) {
        const uint8_t *bytes = file->map + at;
        const uint64_t left = directory->end - at;
        if (left < DIRECTORY_BYTES || bytes_get_u32(bytes) != DIRECTORY_SIGNATURE)
            return fail(err, ERR_FORMAT, "no entry of the directory at byte %" PRIu64, at);
        struct record record = {.flags = bytes_get_u16(bytes + 8),
            .method = bytes_get_u16(bytes + 10),
            .crc = bytes_get_u32(bytes + 16),
            .packed = bytes_get_u32(bytes + 20),
            .bytes = bytes_get_u32(bytes + 24),
            .name_bytes = bytes_get_u16(bytes + 28),
            .extra_bytes = bytes_get_u16(bytes + 30),
            .header = bytes_get_u32(bytes + 42)};
        const uint64_t whole =
            (uint64_t)DIRECTORY_BYTES + record.name_bytes + record.extra_bytes + bytes_get_u16(bytes + 32);
        if (whole > left) return fail(err, ERR_FORMAT, "the directory is cut short at byte %" PRIu64, at);
        record.name = (const char *)bytes + DIRECTORY_BYTES;
        record.extra = bytes + DIRECTORY_BYTES + record.name_bytes;
        enum status status = add_entry(out, &record, file, directory, err);
        if (status) return status;
        at += whole;
    }
    if (at != directory->end)
        return fail(err, ERR_FORMAT, "the directory goes on at byte %" PRIu64 " after its last entry", at);
    return OK;
}

/* ---- all entries together ---- */

static int compare_places(const void *left, const void *right)
{
    const struct zip_entry *a = left, *b = right;

    if (a->header != b->header) return a->header < b->header ? -1 : 1;
    return strcmp(a->name, b->name);
}

static enum status check_together(struct zip_archive *archive, struct error *err)
{
    const struct names_entry *twice;

    if (archive->count) qsort(archive->entries, archive->count, sizeof *archive->entries, compare_places);
    for (uint64_t i = 0; i < archive->count; i++) {
        const struct zip_entry *entry = &archive->entries[i];
        if (i && entry->header < entry[-1].offset + entry[-1].bytes)
            return fail(err, ERR_FORMAT, "entries %s and %s overlap at byte %" PRIu64, entry[-1].name,
                entry->name, entry->header);
        enum status status = names_add(&archive->index, entry->name, i, err);
        if (status) return status;
    }
    twice = names_sort(&archive->index);
    return twice ? fail(err, ERR_FORMAT, "duplicate entry %s", twice->name) : OK;
}

enum status zip_archive_read(struct zip_archive *out, struct file *file, struct error *err)
{
    struct directory directory = {0};
    enum status status = file_map(file, err);

    if (!status) status = read_end(&directory, file, err);
    if (!status) status = read_directory(out, file, &directory, err);
    return status ? status : check_together(out, err);
}

void zip_archive_free(struct zip_archive *archive)
{
    names_index_free(&archive->index);
    names_pool_free(&archive->names);
    memory_free(archive->entries);
    *archive = (struct zip_archive){0};
}

const struct zip_entry *zip_archive_find(const struct zip_archive *archive, const char *name)
{
    uint64_t number;

    return names_find(&archive->index, name, &number) ? &archive->entries[number] : NULL;
}

enum status zip_archive_check(const struct zip_entry *entry, struct file *file, struct error *err)
{
    enum { PIECE = 1 << 20 };
    uint8_t *piece = memory_new(entry->bytes < PIECE ? entry->bytes : PIECE, 1, err);
    enum status status = piece ? OK : ERR_MEMORY;
    uint32_t crc = 0;

    for (uint64_t at = 0, count; at < entry->bytes && !status; at += count) {
        count = entry->bytes - at < PIECE ? entry->bytes - at : PIECE;
        status = file_read_at(file, entry->offset + at, piece, count, err);
        if (!status) crc = file_crc32(crc, piece, count);
    }
    memory_free(piece);
    if (status || crc == entry->crc) return status;
    return fail(err, ERR_FORMAT,
        "entry %s: the checksum of its %" PRIu64 " bytes at byte %" PRIu64 " is %08" PRIx32
        ", recorded is %08" PRIx32,
        entry->name, entry->bytes, entry->offset, crc, entry->crc);
}
