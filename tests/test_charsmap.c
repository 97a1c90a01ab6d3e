/* Tables of character rewrites: both ways to follow one, and tables that are damaged at every byte and bit. What tables of real
 * models do is held to sentencepiece and tokenizers in test_tokenizer_files.c. */
#include "model/tokenizer/charsmap.h"

#include "base/json.h"
#include "base/memory.h"
#include "model/tokenizer/unicode.h"
#include "tests/support/charsmap_table.h"

#define E_ACUTE "e\xCC\x81"
#define E_CIRCUMFLEX "e\xCC\x82"

static void make(struct charsmap_table *table)
{
    charsmap_table_begin(table);
    charsmap_table_add(table, E_ACUTE, "\xC3\xA9");
    charsmap_table_add(table, E_CIRCUMFLEX, "\xC3\xAA");
    charsmap_table_add(table, E_CIRCUMFLEX "\xCC\x81", "\xE1\xBA\xBF");
    charsmap_table_add(table, "\xEF\xBD\x81", "a"); /* full width */
    charsmap_table_add(table, "\xE2\x80\x8B", "");  /* no width */
    charsmap_table_add(table, "\t", " ");
    charsmap_table_end(table);
}

static void check(const struct charsmap *map, bool longest, const char *from, const char *to, uint64_t first)
{
    struct text out = {0};
    struct error err = {0};
    uint64_t made = *from ? unicode_length(*from) : 0;

    CHECK(charsmap_rewrite(map, &out, from, strlen(from), longest, &made, &err) == OK, &err);
    CHECK(out.count == strlen(to) && memcmp(out.bytes ? out.bytes : "", to, out.count) == 0, &err);
    CU_ASSERT_EQUAL(made, first);
    text_free(&out);
}

static void both_ways(void)
{
    static struct charsmap_table table;
    struct charsmap *map = NULL;
    struct error err = {0};

    make(&table);
    REQUIRE(charsmap_create(&map, table.bytes, table.count, &err) == OK, &err);
    for (int longest = 0; longest < 2; longest++) {
        check(map, longest, "", "", 0);
        check(map, longest, "xe", "xe", 1);
        check(map, longest, E_ACUTE "\t" E_ACUTE, "\xC3\xA9 \xC3\xA9", 2);
        check(map, longest, "\xEF\xBD\x81z", "az", 1);
        check(map, longest, "\xE2\x80\x8B", "", 0);
        check(map, longest, "\xE2\x80\x8B\xC3\xA9x", "\xC3\xA9x", 2);
        check(map, longest, "\xF0\x9F\x98\x80" E_ACUTE, "\xF0\x9F\x98\x80\xC3\xA9", 4);
    }
    /* Graphemes: the shortest rule takes the whole of it; one of six bytes or more is taken apart. */
    check(map, true, E_CIRCUMFLEX "\xCC\x81", "\xE1\xBA\xBF", 3);
    check(map, false, E_CIRCUMFLEX "\xCC\x81", "\xC3\xAA", 2);
    check(map, true, "\xEF\xBD\x81\xCC\x81", "a\xCC\x81", 1);
    check(map, false, "\xEF\xBD\x81\xCC\x81", "a", 1);
    check(map, true, E_ACUTE "\xCC\x81\xCC\x81", "\xC3\xA9\xCC\x81\xCC\x81", 2);
    check(map, false, E_ACUTE "\xCC\x81\xCC\x81", E_ACUTE "\xCC\x81\xCC\x81", 7);
    charsmap_free(map);
}

static void refused(const uint8_t *bytes, uint64_t count, const char *says)
{
    struct charsmap *map = NULL;
    struct error err = {0};

    CHECK(charsmap_create(&map, bytes, count, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_PTR_NULL(map);
}

static void bad_tables(void)
{
    static struct charsmap_table table;

    make(&table);
    for (uint64_t count = 0; count < table.count; count++) {
        const bool strings = count > 4 + 1024 * table.nodes;
        if (!strings || table.bytes[count - 1] != 0) refused(table.bytes, count, "precompiled_charsmap");
    }
    table.bytes[table.count - 2] = 0xFF;
    refused(table.bytes, table.count, "no UTF-8");
    bytes_put(table.bytes, 0, 4);
    refused(table.bytes, table.count, "hold no table of 0");
    bytes_put(table.bytes, 0xFFFFFFFC, 4);
    refused(table.bytes, table.count, "hold no table of 4294967292");
    bytes_put(table.bytes, 1022, 4);
    refused(table.bytes, table.count, "hold no table of 1022");
}

/* Rewritten or refused; what is written is UTF-8. */
static enum status follow(const struct charsmap_table *table, bool longest, struct error *err)
{
    static const char text[] =
        "x" E_ACUTE "\t" E_CIRCUMFLEX "\xCC\x81 \xEF\xBD\x81\xE2\x80\x8B\xF0\x9F\x98\x80zzz";
    struct charsmap *map = NULL;
    struct text out = {0};
    uint64_t first = 1;
    enum status status = charsmap_create(&map, table->bytes, table->count, err);

    if (!status) status = charsmap_rewrite(map, &out, text, sizeof text - 1, longest, &first, err);
    if (!status) CU_ASSERT_TRUE(json_valid_utf8(out.bytes, out.count) && first <= out.count);
    text_free(&out);
    charsmap_free(map);
    return status;
}

static void flipped_bits(void)
{
    static struct charsmap_table table;
    uint64_t refusals = 0;

    make(&table);
    for (uint64_t bit = 0; bit < table.count * 8; bit++) {
        uint8_t *byte = &table.bytes[bit / 8];
        if (!*byte && bit % 64) continue; /* units that no rule uses: some of them */
        *byte ^= (uint8_t)(1u << bit % 8);
        for (int longest = 0; longest < 2; longest++) {
            struct error err = {0};
            const enum status status = follow(&table, longest, &err);
            CHECK(status == OK || (status == ERR_FORMAT && err.text[0]), &err);
            refusals += status != OK;
        }
        *byte ^= (uint8_t)(1u << bit % 8);
    }
    CU_ASSERT_TRUE(refusals > 50);
}

/* A value in the middle of a character, and a rule that ends in one. */
static void half_characters(void)
{
    static struct charsmap_table table;
    struct error err = {0};

    charsmap_table_begin(&table);
    charsmap_table_add(&table, "z", "\xC3\xA9");
    table.units[256]++;
    charsmap_table_end(&table);
    CHECK(follow(&table, true, &err) == ERR_FORMAT && strstr(err.text, "leads to 1, outside"), &err);
    charsmap_table_begin(&table);
    charsmap_table_add(&table, "\xEF\xBD", "a");
    charsmap_table_end(&table);
    CHECK(follow(&table, true, &err) == ERR_FORMAT && strstr(err.text, "half a character"), &err);
    CHECK(follow(&table, false, &err) == OK, &err);
}

static void memory_faults(void)
{
    static struct charsmap_table table;
    enum status status = ERR_MEMORY;
    uint64_t nth = 0;

    make(&table);
    do {
        struct error err = {0};
        memory_fail_at(++nth, 0);
        status = follow(&table, true, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || status == ERR_MEMORY, &err);
    } while (status && nth < 100);
    CU_ASSERT_TRUE(nth > 3);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"both ways", both_ways},
        {"tables that are refused", bad_tables},
        {"flipped bits", flipped_bits},
        {"half characters", half_characters},
        {"memory faults", memory_faults},
    };

    return TESTING_RUN("charsmap", cases);
}
