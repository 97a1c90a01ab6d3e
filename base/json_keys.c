/* A set of byte strings: open addressing, linear probing, at most half full. The hash is SipHash-1-3 under a
 * key that differs from process to process, so a file cannot be made whose names all collide; what the set
 * answers depends on its members only, never on the key. */
#include "base/json.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>

#include "base/memory.h"

enum { SLOTS_FIRST = 16, CHUNK_FIRST = 1024, CHUNK_LARGEST = 64 * 1024 };

/* An empty slot has bytes == NULL. */
struct json_key {
    const char *bytes;
    uint64_t count, hash;
};

/* Copies of keys lie one after the other in chunks, which never move. */
struct json_keys_chunk {
    struct json_keys_chunk *older;
    uint64_t used, capacity;
    char bytes[];
};

static pthread_once_t secret_once = PTHREAD_ONCE_INIT;
static uint64_t secret[2];

/* The kernel hands 16 random bytes to every process; nothing to open, nothing that can fail. */
static void make_secret(void)
{
    unsigned long address = getauxval(AT_RANDOM);

    if (address) memcpy(secret, (const void *)address, sizeof secret);
}

static uint64_t rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3, Aumasson and Bernstein 2012. The byte order of a word does not matter here: hashes are never
 * stored. */
static uint64_t hash_bytes(const char *bytes, uint64_t count)
{
    uint64_t v[4] = {secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
        secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573)};
    uint64_t word, at;

    for (at = 0; at + 8 <= count; at += 8) {
        memcpy(&word, bytes + at, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = 0;
    if (at < count) memcpy(&word, bytes + at, count - at);
    word ^= count << 56;
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The slot that holds the key, or the empty one where it belongs. There always is an empty one. */
static struct json_key *find_slot(struct json_key *slots, uint64_t capacity, struct json_key key)
{
    uint64_t at = key.hash & (capacity - 1);

    while (slots[at].bytes) {
        bool same = slots[at].hash == key.hash && slots[at].count == key.count;
        if (same && memcmp(slots[at].bytes, key.bytes, key.count) == 0) break;
        at = (at + 1) & (capacity - 1);
    }
    return &slots[at];
}

static enum status grow_slots(struct json_keys *keys, struct error *err)
{
    uint64_t capacity = keys->capacity ? keys->capacity * 2 : SLOTS_FIRST;
    struct json_key *slots = memory_new(capacity, sizeof *slots, err);

    if (!slots) return ERR_MEMORY;
    for (uint64_t i = 0; i < keys->capacity; i++) {
        if (keys->slots[i].bytes) *find_slot(slots, capacity, keys->slots[i]) = keys->slots[i];
    }
    memory_free(keys->slots);
    keys->slots = slots;
    keys->capacity = capacity;
    return OK;
}

static char *copy_key(struct json_keys *keys, const char *bytes, uint64_t count, struct error *err)
{
    struct json_keys_chunk *chunk = keys->chunks;
    uint64_t capacity;
    char *copy;

    if (!chunk || chunk->capacity - chunk->used < count) {
        capacity = chunk ? chunk->capacity * 2 : CHUNK_FIRST;
        if (capacity > CHUNK_LARGEST) capacity = CHUNK_LARGEST;
        if (capacity < count) capacity = count;
        chunk = memory_new(1, sizeof *chunk + capacity, err);
        if (!chunk) return NULL;
        chunk->capacity = capacity;
        chunk->older = keys->chunks;
        keys->chunks = chunk;
    }
    copy = chunk->bytes + chunk->used;
    memcpy(copy, bytes, count);
    chunk->used += count;
    return copy;
}

enum status json_keys_add(
    struct json_keys *keys, const char *bytes, uint64_t count, bool *added, struct error *err)
{
    struct json_key key = {count > 0 ? bytes : "", count, 0}, *slot;

    *added = false;
    pthread_once(&secret_once, make_secret);
    key.hash = hash_bytes(key.bytes, count);
    if (keys->count * 2 >= keys->capacity) {
        enum status status = grow_slots(keys, err);
        if (status) return status;
    }
    slot = find_slot(keys->slots, keys->capacity, key);
    if (slot->bytes) return OK;
    key.bytes = copy_key(keys, key.bytes, count, err);
    if (!key.bytes) return ERR_MEMORY;
    *slot = key;
    keys->count++;
    *added = true;
    return OK;
}

void json_keys_free(struct json_keys *keys)
{
    while (keys->chunks) {
        struct json_keys_chunk *older = keys->chunks->older;
        memory_free(keys->chunks);
        keys->chunks = older;
    }
    memory_free(keys->slots);
    memset(keys, 0, sizeof *keys);
}
