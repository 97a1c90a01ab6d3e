/* The pickle reader by itself: what pickling writes of tensors, and one pickle per way of doing anything else. */
#include "formats/pytorch/pickle.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

/* ---- pieces of pickles ---- */

#define P2 "\x80\x02"
#define ODICT "ccollections\nOrderedDict\n)R"
#define TEXT(n, s) "X" n "\0\0\0" s
#define STORAGE(class, key, n)                                                                               \
    "(" TEXT("\7", "storage") "ctorch\n" class "\n" TEXT("\1", key) TEXT("\3", "cpu") "K" n "tQ"
/* [2, 3] of six floats, row-major */
#define V2 "ctorch._utils\n_rebuild_tensor_v2\n"
#define REST "\x89" ODICT
#define TENSOR V2 "(" STORAGE("FloatStorage", "0", "\6") "K\0K\2K\3\x86K\3K\1\x86" REST "tR"
#define ITEM(name) TEXT("\1", name) TENSOR
#define BYTES(text) text, sizeof(text) - 1

static const struct good {
    const char *name, *bytes;
    uint64_t count, tensors;
} goods[] = {
    {"empty-tensor-dict", BYTES(P2 "}" ITEM("a") "s."), 1},
    {"items", BYTES(P2 "}(" ITEM("a") ITEM("b") "u."), 2},
    {"ordered", BYTES(P2 ODICT "(" ITEM("a") "u."), 1},
    {"build-metadata", BYTES(P2 ODICT "(" ITEM("a") "u}" TEXT("\1", "m") "Nsb."), 1},
    {"memo", BYTES(P2 "}q\0(" TEXT("\1", "a") "q\1" TENSOR "r\2\0\0\0" TEXT("\1", "b") "h\2u."), 2},
    {"protocol-4", BYTES("\x80\x04\x95\x03\0\0\0\0\0\0\0}\x94(" ITEM("a") "u."), 1},
    {"parameter",
        BYTES(P2 "}" TEXT("\1", "a") "ctorch._utils\n_rebuild_parameter\n(" TENSOR "\x88" ODICT "tRs."), 1},
    {"subclass",
        BYTES(
            P2 "}" TEXT("\1", "a") "ctorch._tensor\n_rebuild_from_type_v2\n(" V2 "ctorch\nTensor\n(" STORAGE(
                "FloatStorage", "0", "\6") "K\0K\2K\3\x86K\3K\1\x86" REST "t}tRs."),
        1},
    {"size",
        BYTES(P2 "}" TEXT("\1", "a") V2
            "(" STORAGE("HalfStorage", "0", "\6") "K\0ctorch\nSize\nK\6\x85\x85RK\1\x85" REST "tRs."),
        1},
    {"wrapped",
        BYTES(P2 "}(" TEXT("\5", "model") "}" ITEM("a") "s" TEXT("\1", "o") "}" TEXT("\1", "l") "]K\1as" TEXT(
            "\1", "n") "G@\0\0\0\0\0\0\0u."),
        1},
    {"wrapped-beside-a-tensor",
        BYTES(P2 "}(" TEXT("\x0a", "state_dict") "}(" ITEM("a") ITEM("b") "u" ITEM("l") "u."), 2},
    {"model-is-a-layer", BYTES(P2 "}(" TEXT("\5", "model") TENSOR "u."), 1},
    {"long",
        BYTES(P2 "}" TEXT("\1", "a") V2
            "(" STORAGE("FloatStorage", "0", "\6") "\x8a\0\x8a\1\2\x8b\1\0\0\0\3\x86K\3K\1\x86" REST "tRs."),
        1},
    {"plain-things",
        BYTES(P2 "}(" TEXT("\5", "model") "}" ITEM("a") "s" TEXT("\1", "x") "ctorch\ndevice\n" TEXT("\3",
            "cpu") "\x85R" TEXT("\1", "y") "c__builtin__\nset\n]\x85R" TEXT("\1", "z") "ctorch\nfloat16\nu."),
        1},
};

static const struct bad {
    const char *name, *bytes;
    uint64_t count;
    enum status expected;
    const char *says;
} bads[] = {
    {"os-system", BYTES(P2 "cos\nsystem\n" TEXT("\4", "true") "\x85R."), ERR_FORMAT,
        "byte 2: unpickling would import os.system, which plain tensors do not need: refused, nothing was "
        "run"},
    {"posix-system", BYTES(P2 "cposix\nsystem\n" TEXT("\4", "true") "\x85R."), ERR_FORMAT, "posix.system"},
    {"eval", BYTES(P2 "c__builtin__\neval\n" TEXT("\3", "1+1") "\x85R."), ERR_FORMAT, "__builtin__.eval"},
    {"exec-stack-global",
        BYTES("\x80\x04\x8c\x08"
              "builtins\x8c\x04"
              "exec\x93\x8c\x01x\x85R."),
        ERR_FORMAT, "byte 18: unpickling would import builtins.exec"},
    {"getattr", BYTES(P2 "c__builtin__\ngetattr\n."), ERR_FORMAT, "__builtin__.getattr"},
    {"dotted-name", BYTES("\x80\x04\x8c\x05torch\x8c\x12_utils.os.system()\x93."), ERR_FORMAT,
        "torch._utils.os.system()"},
    {"torch-load", BYTES(P2 "ctorch\nload\n."), ERR_FORMAT, "torch.load"},
    {"nested-in-tensor", BYTES(P2 "}" TEXT("\1", "a") V2 "(cos\nsystem\n" TEXT("\1", "x") "\x85RK\0)R."),
        ERR_FORMAT, "os.system"},
    {"control-characters", BYTES(P2 "co\x1b[31ms\nsys\x07tem\n."), ERR_FORMAT, "o\\x1b[31ms.sys\\x07tem"},
    {"call-of-result", BYTES(P2 ODICT ")R."), ERR_FORMAT, "calls a dict with a tuple"},
    {"call-of-tensor", BYTES(P2 TENSOR ")R."), ERR_FORMAT, "calls a tensor"},
    {"call-of-type", BYTES(P2 "ctorch\nFloatStorage\n)R."), ERR_FORMAT, "calls a type"},
    {"call-without-tuple", BYTES(P2 "ctorch\nSize\nK\1R."), ERR_FORMAT, "with a number"},
    {"ordered-of-arguments", BYTES(P2 "ccollections\nOrderedDict\n]\x85R."), ERR_FORMAT,
        "OrderedDict made of arguments"},
    {"build-on-tensor", BYTES(P2 TENSOR "}b."), ERR_FORMAT, "would set the state of a tensor"},
    {"build-on-name", BYTES(P2 "ctorch\nTensor\n}" TEXT("\x0c", "__setstate__") "Nsb."), ERR_FORMAT,
        "would set the state of a name"},
    {"build-with-text", BYTES(P2 "}" TEXT("\1", "x") "b."), ERR_FORMAT, "would set the state"},
    {"build-on-nothing", BYTES(P2 "}b."), ERR_FORMAT, "set the state of nothing"},
    {"inst", BYTES(P2 "(ios\nsystem\n."), ERR_FORMAT,
        "byte 3: opcode INST, which no checkpoint of tensors has: refused"},
    {"obj", BYTES(P2 "(cos\nsystem\no."), ERR_FORMAT, "os.system"},
    {"newobj", BYTES(P2 "ctorch\nTensor\n)\x81."), ERR_FORMAT, "opcode NEWOBJ"},
    {"newobj-ex", BYTES("\x80\x04)}\x92."), ERR_FORMAT, "opcode NEWOBJ_EX"},
    {"extension", BYTES(P2 "\x82\1."), ERR_FORMAT, "opcode EXT1"},
    {"text-persid", BYTES(P2 "Pstorage\n."), ERR_FORMAT, "opcode PERSID"},
    {"dup", BYTES(P2 "}2."), ERR_FORMAT, "opcode DUP"},
    {"no-opcode", BYTES(P2 "\xff."), ERR_FORMAT, "byte 2: 0xff is no opcode"},
    {"protocol-0", BYTES("(dp0\n."), ERR_FORMAT, "is no pickle of protocol 2 or later"},
    {"protocol-9", BYTES("\x80\x09}."), ERR_UNSUPPORTED, "pickle protocol 9"},
    {"protocol-twice", BYTES(P2 P2 "}."), ERR_UNSUPPORTED, "at the beginning"},
    {"nothing", BYTES(""), ERR_FORMAT, "needs 1 more bytes, 0 are left"},
    {"no-stop", BYTES(P2 "}"), ERR_FORMAT, "byte 3: needs 1 more bytes"},
    {"after-stop", BYTES(P2 "}.}"), ERR_FORMAT, "1 bytes follow the end"},
    {"two-values", BYTES(P2 "}}."), ERR_FORMAT, "ends with 2 values"},
    {"no-value", BYTES(P2 "."), ERR_FORMAT, "ends with 0 values"},
    {"mark-left", BYTES(P2 "(."), ERR_UNSUPPORTED, "is a mark"},
    {"long4-huge", BYTES(P2 "\x8b\xff\xff\xff\xff."), ERR_FORMAT,
        "byte 2: needs 4294967295 more bytes, 1 are left"},
    {"text-huge",
        BYTES(P2 "X\xff\xff\xff\x7f"
                 "a."),
        ERR_FORMAT, "needs 2147483647 more bytes"},
    {"text8-huge", BYTES("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), ERR_FORMAT,
        "needs 18446744073709551615 more bytes"},
    {"frame-huge", BYTES("\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}."), ERR_FORMAT, "a frame of"},
    {"global-no-end", BYTES(P2 "cos\nsystem"), ERR_FORMAT, "a name without end"},
    {"memo-bomb", BYTES(P2 "}r\xff\xff\xff\xff."), ERR_FORMAT,
        "remembers a value as number 4294967295, the next is 0"},
    {"memo-empty-stack", BYTES(P2 "q\0."), ERR_FORMAT, "of an empty stack"},
    {"memo-of-mark", BYTES(P2 "(q\0."), ERR_FORMAT, "of an empty stack"},
    {"get-unknown", BYTES(P2 "h\0."), ERR_FORMAT, "recalls value 0, 0 are remembered"},
    {"tuple-no-mark", BYTES(P2 "K\1t."), ERR_FORMAT, "down to a mark that is not there"},
    {"tuple3-of-two", BYTES(P2 "K\1K\1\x87."), ERR_FORMAT, "from an empty stack"},
    {"tuple-over-mark", BYTES(P2 "K\1(K\1\x86."), ERR_FORMAT, "from an empty stack"},
    {"items-odd", BYTES(P2 "}(K\1u."), ERR_FORMAT, "1 values are no pairs"},
    {"items-of-tuple", BYTES(P2 ")(K\1K\1u."), ERR_FORMAT, "something that is no dict"},
    {"items-of-nothing", BYTES(P2 "(K\1K\1u."), ERR_FORMAT, "something that is no dict"},
    {"append-to-dict", BYTES(P2 "}K\1a."), ERR_FORMAT, "something that is no list"},
    {"append-to-nothing", BYTES(P2 "K\1a."), ERR_FORMAT, "something that is no list"},
    {"stack-global-number", BYTES("\x80\x04K\1K\2\x93."), ERR_FORMAT, "a name that is no text"},
    {"persistent-number", BYTES(P2 "K\1Q."), ERR_FORMAT, "a persistent id that is no storage"},
    {"persistent-text", BYTES(P2 TEXT("\7", "storage") "Q."), ERR_FORMAT,
        "a persistent id that is no storage"},
    {"persistent-module", BYTES(P2 "(" TEXT("\6", "module") "NNNNtQ."), ERR_FORMAT,
        "a persistent id that is no storage"},
    {"storage-negative",
        BYTES(P2 "(" TEXT("\7", "storage") "ctorch\nFloatStorage\n" TEXT("\1", "0")
                TEXT("\3", "cpu") "J\xff\xff\xff\xfftQ."),
        ERR_FORMAT, "no storage"},
    {"storage-overflow",
        BYTES(P2 "(" TEXT("\7", "storage") "ctorch\nComplexDoubleStorage\n" TEXT("\1", "0")
                TEXT("\3", "cpu") "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ftQ."),
        ERR_FORMAT, "a storage of 9223372036854775807 elements"},
    {"tensor-of-number", BYTES(P2 V2 "K\1\x85R."), ERR_FORMAT, "a tensor made of a number"},
    {"tensor-no-arguments", BYTES(P2 V2 ")R."), ERR_FORMAT, "a tensor made of no tensor"},
    {"offset-negative",
        BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\6") "J\xff\xff\xff\xffK\2\x85K\1\x85tR."), ERR_FORMAT,
        "whose offset is negative"},
    {"shape-number", BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\6") "K\0K\2K\1\x85tR."), ERR_FORMAT,
        "whose shape is a number"},
    {"shape-negative",
        BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\6") "K\0J\xff\xff\xff\xff\x85K\1\x85tR."), ERR_FORMAT,
        "whose shape is negative"},
    {"stride-negative",
        BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\6") "K\0K\2\x85J\xff\xff\xff\xff\x85tR."), ERR_FORMAT,
        "whose stride is negative"},
    {"stride-missing", BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\6") "K\0K\2\x85)tR."), ERR_FORMAT,
        "1 dimensions and 0 strides"},
    {"shape-huge-number",
        BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\6") "K\0\x8a\x09\0\0\0\0\0\0\0\0\1\x85K\1\x85tR."),
        ERR_FORMAT, "whose shape is negative, or no number"},
    {"rank-9", BYTES(P2 V2 "(" STORAGE("FloatStorage", "0", "\1") "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t)tR."),
        ERR_FORMAT, "9 dimensions, at most 8"},
    {"untyped",
        BYTES(P2 V2 "((" TEXT("\7", "storage") "ctorch.storage\nUntypedStorage\n" TEXT("\1", "0")
                TEXT("\3", "cpu") "K\4tQK\0)"
                                  ")tR."),
        ERR_FORMAT, "a tensor without a type"},
    {"subclass-of-itself",
        BYTES(P2 "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_"
                 "v2\nctorch\nTensor\n(ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n)ttR."),
        ERR_FORMAT, "a tensor of no class"},
    {"parameter-of-number", BYTES(P2 "ctorch._utils\n_rebuild_parameter\nK\1\x85R."), ERR_FORMAT,
        "whose argument is a number, not a tensor"},
    {"not-a-dict", BYTES(P2 TENSOR "."), ERR_UNSUPPORTED, "is a tensor, not a dict of tensors"},
    {"a-list", BYTES(P2 "](" TENSOR "e."), ERR_UNSUPPORTED, "is a list, not a dict"},
    {"no-tensors", BYTES(P2 "}" TEXT("\1", "a") "K\1s."), ERR_UNSUPPORTED,
        "has no tensors at the top or under model"},
    {"two-wrappers",
        BYTES(P2 "}(" TEXT("\5", "model") "}" ITEM("a") "s" TEXT("\6", "module") "}" ITEM("b") "su."),
        ERR_UNSUPPORTED, "under model and under module"},
    {"entry-number", BYTES(P2 "}(" ITEM("a") TEXT("\1", "b") "K\1u."), ERR_UNSUPPORTED,
        "entry b of the state dict is a number"},
    {"entry-dict", BYTES(P2 "}(" ITEM("a") TEXT("\1", "b") "}u."), ERR_UNSUPPORTED,
        "entry b of the state dict is a dict"},
    {"key-number", BYTES(P2 "}(K\1" TENSOR "u."), ERR_UNSUPPORTED, "a key of the state dict is a number"},
};

/* ---- cases ---- */

static void test_good(void)
{
    for (size_t i = 0; i < sizeof goods / sizeof *goods; i++) {
        const struct good *good = &goods[i];
        struct pickle pickle = {0};
        struct error err = {0};
        corpus_keep("pickle", good->name, good->bytes, good->count);
        if (pickle_read(&pickle, good->bytes, good->count, &err) != OK) printf("%s\n", good->name);
        CHECK(err.code == OK, &err);
        CU_ASSERT_EQUAL(pickle.count, good->tensors);
        pickle_free(&pickle);
    }
}

static void test_bad(void)
{
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        const struct bad *bad = &bads[i];
        struct pickle pickle = {0};
        struct error err = {0};
        corpus_keep("pickle", bad->name, bad->bytes, bad->count);
        const enum status status = pickle_read(&pickle, bad->bytes, bad->count, &err);
        if (status != bad->expected || !strstr(err.text, bad->says)) printf("%s: %s\n", bad->name, err.text);
        CU_ASSERT(status == bad->expected && strstr(err.text, bad->says) && !strchr(err.text, '\n'));
        pickle_free(&pickle);
    }
}

/* What a record says. */
static void test_record(void)
{
    static const char bytes[] = P2 "}" TEXT("\1", "w") V2
        "(" STORAGE("BFloat16Storage", "7", "\x14") "K\4K\2K\3\x86K\1K\2\x86" REST "tRs.";
    struct pickle pickle = {0};
    struct error err = {0};

    CHECK(pickle_read(&pickle, bytes, sizeof bytes - 1, &err) == OK, &err);
    CU_ASSERT_EQUAL_FATAL(pickle.count, 1);
    const struct pickle_tensor *tensor = &pickle.tensors[0];
    CU_ASSERT(
        tensor->name_bytes == 1 && tensor->name[0] == 'w' && tensor->key_bytes == 1 && tensor->key[0] == '7');
    CU_ASSERT(tensor->type->known && tensor->type->dtype == DTYPE_BF16);
    CU_ASSERT(tensor->storage_bytes == 40 && tensor->offset == 4 && tensor->rank == 2);
    CU_ASSERT(
        tensor->shape[0] == 2 && tensor->shape[1] == 3 && tensor->stride[0] == 1 && tensor->stride[1] == 2);
    pickle_free(&pickle);
}

/* Cut short anywhere, a pickle is refused. */
static void test_truncated(void)
{
    const struct good *good = &goods[9];

    for (uint64_t count = 0; count < good->count; count++) {
        char *cut = memory_text(good->bytes, count, NULL); /* so that a sanitizer sees the end */
        struct pickle pickle = {0};
        struct error err = {0};
        CHECK(pickle_read(&pickle, cut, count, &err) == ERR_FORMAT, &err);
        pickle_free(&pickle);
        memory_free(cut);
    }
}

/* Many bytes of one opcode: the limits, and no recursion. */
static void repeat(
    const char *piece, uint64_t piece_bytes, uint64_t times, enum status expected, const char *says)
{
    struct error err = {0};
    struct pickle pickle = {0};
    char *bytes = memory_new(2 + piece_bytes * times, 1, &err);

    REQUIRE(bytes != NULL, &err);
    memcpy(bytes, P2, 2);
    for (uint64_t i = 0; i < times; i++)
        memcpy(bytes + 2 + i * piece_bytes, piece, piece_bytes);
    CHECK(pickle_read(&pickle, bytes, 2 + piece_bytes * times, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    pickle_free(&pickle);
    memory_free(bytes);
}

static void test_limits(void)
{
    repeat("(", 1, 1 << 17, ERR_MEMORY, "more than 65536 values on the stack");
    repeat("}", 1, 1 << 17, ERR_MEMORY, "more than 65536 values on the stack");
    repeat(")\x85", 2, 1 << 17, ERR_MEMORY, "on the stack");
    repeat("((lt", 4, 1 << 10, ERR_FORMAT, "opcode LIST");
    repeat(")", 1, 1, ERR_FORMAT, "needs 1 more");
    /* A tuple in a tuple in a tuple: depth costs nothing. */
    char *deep = memory_new(4 + (1 << 20), 1, NULL);
    memcpy(deep, P2 ")", 3);
    memset(deep + 3, '\x85', 1 << 20);
    deep[3 + (1 << 20)] = '.';
    struct pickle pickle = {0};
    struct error err = {0};
    CHECK(pickle_read(&pickle, deep, 4 + (1 << 20), &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "is a tuple, not a dict") != NULL, &err);
    pickle_free(&pickle);
    memory_free(deep);
}

/* Every allocation may fail. */
static void test_memory(void)
{
    const struct good *good = &goods[9];
    enum status status = ERR_MEMORY;

    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 100; nth++) {
        struct pickle pickle = {0};
        struct error err = {0};
        memory_fail_at(nth, 1);
        status = pickle_read(&pickle, good->bytes, good->count, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || status == ERR_MEMORY, &err);
        pickle_free(&pickle);
    }
    CU_ASSERT_EQUAL(status, OK);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"what torch writes", test_good},
        {"what is refused", test_bad},
        {"a record", test_record},
        {"cut short", test_truncated},
        {"limits", test_limits},
        {"no memory", test_memory},
    };

    return TESTING_RUN("pickle", cases);
}
