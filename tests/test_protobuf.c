/* The wire format of protocol buffers: every kind of field, and every way to break one. */
#include "base/protobuf.h"

#include <string.h>

#include "tests/support/testing.h"

static void kinds(void)
{
    static const uint8_t bytes[] = {0x08, 0x96, 0x01,                      /* 1: varint 150 */
        0x15, 0x00, 0x00, 0x80, 0x3F,                                      /* 2: fixed32, 1.0 */
        0x1A, 0x03, 'a', 'b', 'c',                                         /* 3: bytes */
        0x21, 1, 2, 3, 4, 5, 6, 7, 8,                                      /* 4: fixed64 */
        0x80, 0x80, 0x80, 0x80, 0x08, 0x00,                                /* 2^28: varint 0 */
        0x28, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}; /* 5: varint -1 */
    static const struct {
        uint32_t number;
        enum protobuf_wire wire;
        uint64_t value, offset;
    } expected[] = {{1, PROTOBUF_VARINT, 150, 0}, {2, PROTOBUF_FIXED32, 0x3F800000, 3},
        {3, PROTOBUF_BYTES, 3, 8}, {4, PROTOBUF_FIXED64, UINT64_C(0x0807060504030201), 13},
        {1 << 28, PROTOBUF_VARINT, 0, 22}, {5, PROTOBUF_VARINT, UINT64_MAX, 28}};
    struct protobuf_reader reader;
    struct protobuf_field field;
    struct error err = {0};
    bool more;

    protobuf_reader_init(&reader, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        REQUIRE(protobuf_next(&reader, &field, &more, &err) == OK && more, &err);
        CU_ASSERT_EQUAL(field.number, expected[i].number);
        CU_ASSERT_EQUAL(field.wire, expected[i].wire);
        CU_ASSERT_EQUAL(field.value, expected[i].value);
        CU_ASSERT_EQUAL(field.offset, expected[i].offset);
        if (field.wire == PROTOBUF_BYTES) CU_ASSERT_EQUAL(memcmp(field.bytes, "abc", 3), 0);
    }
    REQUIRE(protobuf_next(&reader, &field, &more, &err) == OK, &err);
    CU_ASSERT_FALSE(more);
}

/* A message inside ends where its field does, and counts its offsets from the beginning of all. */
static void inside(void)
{
    static const uint8_t bytes[] = {0x0A, 0x02, 0x08, 0x07, 0x10, 0x01};
    struct protobuf_reader reader, inner;
    struct protobuf_field field, within;
    struct error err = {0};
    bool more;

    protobuf_reader_init(&reader, bytes, sizeof bytes);
    REQUIRE(protobuf_next(&reader, &field, &more, &err) == OK && more, &err);
    protobuf_reader_enter(&inner, &reader, &field);
    REQUIRE(protobuf_next(&inner, &within, &more, &err) == OK && more, &err);
    CU_ASSERT_TRUE(within.number == 1 && within.value == 7 && within.offset == 2);
    REQUIRE(protobuf_next(&inner, &within, &more, &err) == OK, &err);
    CU_ASSERT_FALSE(more);
    REQUIRE(protobuf_next(&reader, &field, &more, &err) == OK && more, &err);
    CU_ASSERT_TRUE(field.number == 2 && field.value == 1);
}

static void broken(void)
{
    static const struct {
        const char *bytes;
        uint64_t count;
        const char *says;
    } cases[] = {
        {"\x08", 1, "ends in the middle of a field"},
        {"\x08\x80", 2, "ends in the middle of a field"},
        {"\x80", 1, "ends in the middle of a field"},
        {"\x15\0\0\0", 4, "ends in the middle of a field"},
        {"\x21\0\0\0\0\0\0\0", 8, "ends in the middle of a field"},
        {"\x1A\x03xx", 4, "at byte 0: field 3 has 3 bytes, 2 are left"},
        {"\x1A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11, "18446744073709551615 bytes, 0 are left"},
        {"\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02", 11, "at byte 1: a number of more than 64 bits"},
        {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, "a number of more than 64 bits"},
        {"\x00\x01", 2, "0 is no number of a field"},
        {"\x80\x80\x80\x80\x10\x00", 6, "536870912 is no number of a field"},
        {"\x0B", 1, "field 1 is of kind 3, which is not known"},
        {"\x0F", 1, "field 1 is of kind 7, which is not known"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct protobuf_reader reader;
        struct protobuf_field field;
        struct error err = {0};
        bool more;
        protobuf_reader_init(&reader, cases[i].bytes, cases[i].count);
        CHECK(protobuf_next(&reader, &field, &more, &err) == ERR_FORMAT, &err);
        CHECK(strstr(err.text, cases[i].says) != NULL, &err);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"kinds of fields", kinds},
        {"a message inside", inside},
        {"broken fields", broken},
    };

    return TESTING_RUN("protobuf", cases);
}
