/* See page_names.h. */
#include "runtime-check/page/page_names.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* ---- names ---- */

/* A part of a text. */
struct piece {
    const char *bytes;
    uint64_t count;
};

static bool same_piece(struct piece a, struct piece b)
{
    return a.count == b.count && memcmp(a.bytes, b.bytes, a.count) == 0;
}

static bool ends_with(struct piece piece, const char *end)
{
    const uint64_t count = strlen(end);
    return piece.count > count && memcmp(piece.bytes + piece.count - count, end, count) == 0;
}

/* The end of a path: level 0 is its last part without the format's suffix, level n its last n parts. Slashes at the end of the
 * path do not count. */
static struct piece path_tail(const char *path, uint64_t level)
{
    uint64_t end = strlen(path), parts = 0;
    while (end > 1 && path[end - 1] == '/')
        end--;
    uint64_t start = end;
    for (; start > 0; start--) {
        if (path[start - 1] == '/' && start < end && ++parts >= (level ? level : 1)) break;
    }
    struct piece piece = {path + start, end - start};
    if (level == 0 && ends_with(piece, ".nbl")) piece.count -= 4;
    if (level == 0 && ends_with(piece, ".safetensors")) piece.count -= 12;
    return piece;
}

/* The least level at which no other path ends alike; where there is none, all of it. */
static struct piece unique_tail(const struct comparison_model *models, uint64_t count, uint64_t index)
{
    const uint64_t bytes = strlen(models[index].name);
    for (uint64_t level = 0;; level++) {
        const struct piece mine = path_tail(models[index].name, level);
        bool unique = true;
        for (uint64_t i = 0; i < count && unique; i++)
            unique = i == index || !same_piece(mine, path_tail(models[i].name, level));
        if (unique || (level > 0 && mine.bytes == models[index].name) || level > bytes) return mine;
    }
}

/* How many of the names before this one are the same piece. */
static uint64_t earlier(const struct page_look *looks, uint64_t index, struct piece piece)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < index; i++)
        found += strncmp(looks[i].name, piece.bytes, piece.count) == 0 &&
                 (looks[i].name[piece.count] == 0 || strncmp(looks[i].name + piece.count, " #", 2) == 0);
    return found;
}

static char *make_name(const struct page_look *looks, uint64_t index, struct piece piece, struct error *err)
{
    char number[32] = "";
    const uint64_t same = earlier(looks, index, piece);
    if (same > 0) snprintf(number, sizeof number, " #%" PRIu64, same + 1);
    char *name = memory_new(piece.count + sizeof number, 1, err);
    if (!name) return NULL;
    memcpy(name, piece.bytes, piece.count);
    strcpy(name + piece.count, number);
    return name;
}

/* ---- looks ---- */

/* Whether two names are the same but for their numbers. */
static bool same_family(const char *a, const char *b)
{
    for (;;) {
        const bool a_digit = isdigit((unsigned char)*a), b_digit = isdigit((unsigned char)*b);
        if (a_digit != b_digit || (!a_digit && *a != *b)) return false;
        if (!*a) return true;
        if (!a_digit) {
            a++, b++;
            continue;
        }
        a += strspn(a, "0123456789");
        b += strspn(b, "0123456789");
    }
}

/* Number the families in the order of their first members; returns how many there are. */
static uint64_t find_families(struct page_look *looks, uint64_t count)
{
    uint64_t families = 0;
    for (uint64_t i = 1; i < count; i++) {
        uint64_t first = 1;
        while (first < i && !same_family(looks[first].name, looks[i].name))
            first++;
        looks[i].family = first < i ? looks[first].family : families++;
    }
    return families;
}

static void set_style(struct page_look *look, uint64_t number)
{
    const bool grey = number >= PAGE_STYLES, again = number >= PAGE_COLOURS;
    look->shape = (unsigned)(number % PAGE_SHAPES);
    /* the second time round a shape meets another colour */
    look->colour = grey ? PAGE_COLOURS : (unsigned)((number + (again ? 3 : 0)) % PAGE_COLOURS);
    look->hollow = again;
}

enum status page_names_make(
    struct page_look **out, const struct comparison_model *models, uint64_t count, struct error *err)
{
    struct page_look *looks = *out = memory_new(count, sizeof *looks, err);
    if (!looks) return ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++) {
        looks[i].name = make_name(looks, i, unique_tail(models, count, i), err);
        if (!looks[i].name) return ERR_MEMORY;
    }
    const bool alone = find_families(looks, count) == 1;
    for (uint64_t i = 1; i < count; i++) {
        if (alone) looks[i].family = i - 1;
        set_style(&looks[i], looks[i].family);
    }
    return OK;
}

void page_names_free(struct page_look *looks, uint64_t count)
{
    for (uint64_t i = 0; looks && i < count; i++)
        memory_free(looks[i].name);
    memory_free(looks);
}
