/* Files: exact positioned reads, read-only maps, outputs that appear complete or not at all, and CRC-32. Its sources
 * are the only includers of zlib. */
#ifndef NIBBLE_BASE_FILE_H
#define NIBBLE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* ---- reading ---- */

/* An open regular file of known size. The path is kept for messages. */
struct file {
    char *path;
    int descriptor;
    uint64_t bytes;
    const uint8_t *map; /* whole file, read-only, once file_map was called; else NULL */
};

/* Open for reading. Folders, devices and FIFOs are ERR_FORMAT; a missing file is ERR_IO. Never blocks. */
enum status file_open(struct file **out, const char *path, struct error *err);

/* Read exactly `count` bytes at `offset` into buffer; short files are ERR_FORMAT ("ends at byte ..."), retries EINTR
 * and short reads. Thread-safe. */
enum status file_read_at(struct file *file, uint64_t offset, void *buffer, uint64_t count, struct error *err);

/* Map the whole file read-only and shared (pages are shared between processes). Idempotent, but one thread at a time. An
 * empty file maps to a non-NULL pointer that may not be read. */
enum status file_map(struct file *file, struct error *err);

void file_close(struct file *file);

/* Read a whole small file into memory with a terminating NUL (not counted). Larger than `limit_bytes`: ERR_MEMORY.
 * Owner of *out: the caller, memory_free. */
enum status file_read_all(
    char **out, uint64_t *bytes, const char *path, uint64_t limit_bytes, struct error *err);

/* Read a whole text into memory with a terminating NUL (not counted), unpacked if its first two bytes are those of gzip:
 * members joined end to end become one text. `limit_bytes` holds for the unpacked text; more is ERR_MEMORY, found out
 * before more than about that much is allocated. ERR_FORMAT: packed data that is damaged, cut short or followed by
 * anything that is no gzip member. *file_crc: CRC-32 of the bytes as they lie on disk. Owner of *out: the caller,
 * memory_free. */
enum status file_read_text(char **out, uint64_t *bytes, uint32_t *file_crc, const char *path,
    uint64_t limit_bytes, struct error *err);

/* What a path is, through links. FILE_ABSENT also when it cannot be looked at; file_open then says why. */
enum file_kind { FILE_ABSENT, FILE_REGULAR, FILE_FOLDER, FILE_OTHER };
enum file_kind file_kind(const char *path);

/* The size of a file in bytes; 0 if there is none. */
uint64_t file_size(const char *path);

/* True if both paths exist and are the same file (device and inode, through links). */
bool file_same(const char *path_a, const char *path_b);

/* The folder that what `path` names lies in, or would lie in ("." for a plain name); memory_free, NULL with ERR_MEMORY. */
char *file_parent(const char *path, struct error *err);

/* folder + "/" + name in new memory; name must be one path component (no '/', not "." or "..", no NUL inside `bytes`),
 * else ERR_FORMAT. For names that come from untrusted files. */
enum status file_join(
    char **out, const char *folder, const char *name, uint64_t name_bytes, struct error *err);

/* ---- writing: all or nothing ---- */

struct output;

/* Start a new file that will appear under `path`. A temporary file `.<name>.tmp.<pid>` is created beside it, locked and
 * readable by its owner only until it is complete; those that killed processes left for the same target are removed, one
 * of this process's number that is still being written is ERR_IO. If path exists and !force: ERR_USAGE ("exists; --force replaces it"). A path that is a folder, a
 * device or anything else that is no file: ERR_USAGE. A link is replaced, not followed. */
enum status output_open(struct output **out, const char *path, bool force, struct error *err);

/* Reserve `bytes` of disk, so that a full disk is found out before hours of work. File systems that cannot: ignored. */
enum status output_reserve(struct output *output, uint64_t bytes, struct error *err);

/* Write exactly `count` bytes at `offset`; retries EINTR and short writes. Thread-safe for disjoint ranges. */
enum status output_write_at(
    struct output *output, uint64_t offset, const void *buffer, uint64_t count, struct error *err);

/* fsync, close, rename over the final name, fsync the folder; frees output. On error the temporary file is removed and
 * whatever stood under the final name is untouched; only if the very last step fails, the folder's fsync, is the new
 * file in place (complete), and the error says so. If !force and a file appeared under the name meanwhile: ERR_USAGE. */
enum status output_commit(struct output *output, struct error *err);

/* Remove the temporary file and free output; NULL is allowed. */
void output_abandon(struct output *output);

/* A folder of files that appears under `path` complete or not at all: they are written into `.<name>.tmp.<pid>` beside it, which
 * is then renamed. What stands under `path` already is ERR_USAGE, unless it is an empty folder: a folder with files in it is never replaced. Temporary folders that
 * killed processes left for the same target are removed. */
struct output_folder;
enum status output_folder_open(struct output_folder **out, const char *path, struct error *err);

/* Add one more file; at most 200 in all. Owner of *out: the folder; it is for output_reserve and output_write_at alone. */
enum status output_folder_add(
    struct output **out, struct output_folder *folder, const char *name, struct error *err);

/* fsync everything, rename the folder, fsync the one it lies in; frees `folder`. On error nothing is left of it. */
enum status output_folder_commit(struct output_folder *folder, struct error *err);
/* Remove it and all its files; NULL is allowed. */
void output_folder_abandon(struct output_folder *folder);

/* Install handlers: SIGINT, SIGTERM and (unless it is ignored: nohup) SIGHUP remove temporary files of open outputs and
 * then end the process by that signal (exit 130 and 143 to a shell); SIGBUS (a mapped file was cut short by someone
 * else) prints one line and exits 4; SIGXFSZ and SIGPIPE are ignored, so that the write itself reports. Called once by
 * each tool's main. */
void file_catch_signals(void);

/* From now on those of these signals that end the process by themselves (SIGINT, SIGTERM, SIGHUP) also write `text` to
 * standard error, once, after the temporary files are gone: one line, its newline may be left out. NULL (as at first):
 * nothing is written. The text must live, unchanged, until the process ends: a handler may be reading it
 * after another one was set. Any thread, any time. */
void file_signal_note(const char *text);

/* ---- packing ---- */

/* The most bytes that one packed buffer holds. */
#define FILE_PACK_LIMIT (UINT64_C(1) << 30)

/* The room that file_pack needs for `count` bytes; 0 above FILE_PACK_LIMIT. */
uint64_t file_pack_bound(uint64_t count);

/* Pack `count` bytes as a zlib stream (RFC 1950, Huffman codes only) into out [capacity], at least file_pack_bound(count)
 * bytes; *packed_bytes says how many were used. The same bytes and the same zlib give the same stream. ERR_MEMORY. Any
 * thread. */
enum status file_pack(void *out, uint64_t capacity, uint64_t *packed_bytes, const void *bytes, uint64_t count,
    struct error *err);

/* Unpack a zlib stream of which it is known that it gives exactly `count` bytes, into out [count]. ERR_FORMAT: damaged, or
 * any other number of bytes (nothing is written beyond out); ERR_MEMORY. Any thread. */
enum status file_unpack(
    void *out, uint64_t count, const void *packed, uint64_t packed_bytes, struct error *err);

/* ---- checksums ---- */

/* CRC-32 (ISO-HDLC, the one of zlib, gzip and PNG) of `count` more bytes after `crc`; start with 0. */
uint32_t file_crc32(uint32_t crc, const void *bytes, uint64_t count);

/* The CRC-32 of A followed by B, from the CRC-32 of each and the length of B. */
uint32_t file_crc32_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b);

/* ---- the seam for tests ---- */

/* The system calls used above. Tests replace entries to inject short reads, EINTR, ENOSPC, EIO and kills. */
struct file_calls {
    int64_t (*pread)(int descriptor, void *buffer, size_t count, int64_t offset);
    int64_t (*pwrite)(int descriptor, const void *buffer, size_t count, int64_t offset);
    int (*fsync)(int descriptor);
    int (*close)(int descriptor);
    int (*rename)(const char *from, const char *to);
};
extern struct file_calls file_calls;

#endif
