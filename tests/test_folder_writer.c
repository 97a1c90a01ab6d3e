/* Hugging Face folders written: quantized matrices come back bit for bit, in every layout that can hold them; what cannot be said is
 * refused; a folder appears whole or not at all. */
#include "formats/folder_writer.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "convert/convert.h"
#include "formats/container.h"
#include "formats/nbl.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

static const char *golden_path(const char *name)
{
    char relative[96];

    snprintf(relative, sizeof relative, "golden/packed/%s", name);
    return testing_source(relative);
}

static enum status convert(const char *input, const char *output, const char *format, const char *type,
    uint64_t split_size, unsigned threads, struct error *err)
{
    struct convert_options options = convert_defaults();
    struct convert_result result;
    enum status status;

    options.common.quiet = true;
    options.common.threads = threads;
    options.input = input;
    options.output = output;
    options.format = format;
    options.type = type;
    options.split_size = split_size;
    status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

static const char *converted(const char *input, const char *name, const char *format, const char *type)
{
    const char *output = testing_path("%s", name);
    struct error err;

    REQUIRE(convert(input, output, format, type, 0, 2, &err) == OK, &err);
    return output;
}

/* ---- bit for bit ---- */

/* The words themselves: a file without config.json beside it is seen as it is stored. */
static struct container *raw(const char *folder)
{
    struct container *container = NULL;
    struct error err;
    char path[600], *bytes;
    uint64_t count;

    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    bytes = testing_read(path, &count);
    testing_folder();
    testing_write(testing_path("model.safetensors"), bytes, count);
    memory_free(bytes);
    REQUIRE(container_open(&container, testing_path("model.safetensors"), &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    return container;
}

/* Every tensor of the golden file but AutoGPTQ's empty biases is there, with the same type, shape and bytes, and no other. */
static void check_same_words(const char *golden, const char *folder)
{
    struct container *left = raw(golden), *right = raw(folder);
    uint64_t same = 0;

    for (uint64_t i = 0; i < container_count(left); i++) {
        const struct tensor *a = container_tensor(left, i), *b = container_find(right, a->name);
        if (strstr(a->name, ".bias")) continue;
        const bool equal = b && a->dtype == b->dtype && a->rank == b->rank &&
                           memcmp(a->shape, b->shape, sizeof a->shape) == 0 &&
                           memcmp(a->data, b->data, a->bytes) == 0;
        if (!equal) printf("\n  %s: %s differs\n", folder, a->name);
        CU_ASSERT(equal);
        same += equal;
    }
    CU_ASSERT(same == container_count(right) && same > 7);
    container_close(left);
    container_close(right);
}

/* Folder -> .nbl -> the same layout: the same bytes. */
static void same_words(void)
{
    static const char *const goldens[][2] = {{"gptq-4", "gptq"}, {"gptq-4-asym", "gptq"},
        {"gptq-3-old", "gptq"}, {"gptq-8-v2", "gptq-v2"}, {"gptq-2-v2-old", "gptq-v2"}, {"awq", "awq"},
        {"compressed-8-asym", "compressed-tensors"}, {"compressed-3-asym", "compressed-tensors"}};

    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        testing_folder();
        const char *file = converted(golden_path(goldens[i][0]), "model.nbl", NULL, "keep");
        check_same_words(golden_path(goldens[i][0]), converted(file, "out", goldens[i][1], "keep"));
    }
}

/* The matrices of two models: the same scheme, and the same bytes of tiles. */
static void check_same_tiles(const char *a_path, const char *b_path)
{
    struct container *a, *b;
    struct error err;
    uint64_t tiles = 0;

    REQUIRE(container_open(&a, a_path, &err) == OK && container_open(&b, b_path, &err) == OK, &err);
    REQUIRE(container_map(a, &err) == OK && container_map(b, &err) == OK, &err);
    for (uint64_t i = 0; i < container_count(a); i++) {
        const struct tensor *left = container_tensor(a, i), *right = container_find(b, left->name);
        if (strstr(left->name, ".bias")) continue; /* AutoGPTQ's, of zeros: dropped */
        const bool same = right && left->storage == right->storage && left->bytes == right->bytes &&
                          left->scheme.bits == right->scheme.bits &&
                          left->scheme.group == right->scheme.group &&
                          left->scheme.asymmetric == right->scheme.asymmetric &&
                          memcmp(left->data, right->data, left->bytes) == 0;
        if (!same) printf("\n  %s and %s: %s differs\n", a_path, b_path, left->name);
        CU_ASSERT(same);
        tiles += left->storage == STORAGE_TILES;
    }
    CU_ASSERT(tiles == 7);
    container_close(a);
    container_close(b);
}

/* GPTQ -> AWQ -> compressed-tensors -> GPTQ v2 -> .nbl, and more: the same codes, scales and zero-points all the way. */
static void round_trips(void)
{
    static const char *const chains[][6] = {
        {"gptq-4", "awq", "compressed-tensors", "gptq", "gptq-v2", NULL},
        {"gptq-4-asym", "awq", "compressed-tensors", "gptq-v2", "gptq", NULL},
        {"awq", "compressed-tensors", "gptq-v2", "awq", NULL},
        {"gptq-3-old", "mlx", "compressed-tensors", "gptq", NULL}, /* symmetric: mlx's biases are exact */
        {"compressed-3-asym", "gptq", "compressed-tensors", NULL},
        {"gptq-2-v2-old", "compressed-tensors", "gptq", "gptq-v2", NULL},
    };

    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++) {
        testing_folder();
        const char *first = golden_path(chains[i][0]), *at = first;
        for (int j = 1; chains[i][j]; j++) {
            char name[16];
            snprintf(name, sizeof name, "step%d", j);
            at = converted(at, name, chains[i][j], "keep");
            check_same_tiles(first, at);
        }
    }
}

/* What becomes of a whole model in a folder of dense weights: the floats that the file has. */
static void decoded(void)
{
    struct container *dense, *tiles;
    struct error err;

    testing_folder();
    const char *folder = converted(golden_path("gptq-4-asym"), "dense", "safetensors", "f32");
    REQUIRE(container_open(&dense, folder, &err) == OK && container_map(dense, &err) == OK, &err);
    REQUIRE(
        container_open(&tiles, golden_path("gptq-4-asym"), &err) == OK && container_map(tiles, &err) == OK,
        &err);
    for (uint64_t i = 0; i < container_count(tiles); i++) {
        const struct tensor *left = container_tensor(tiles, i), *right = container_find(dense, left->name);
        struct tiles_layout layout;
        float out[64 * 64];
        if (left->storage != STORAGE_TILES) continue;
        REQUIRE(
            right && tiles_layout(&layout, left->shape[0], left->shape[1], left->scheme, &err) == OK, &err);
        tiles_decode(&layout, out, layout.cols, left->data, 0, layout.rows);
        CU_ASSERT(right->dtype == DTYPE_F32 && memcmp(out, right->data, right->bytes) == 0);
    }
    container_close(dense);
    container_close(tiles);
}

/* ---- the files ---- */

/* Shards: an index that our reader holds against them, the same tensors, the same bytes for any number of threads. */
static void shards(void)
{
    const char *model = tiny_model_folder("model", (struct tiny_model){.dtype = "F16"});
    struct container *container;
    struct error err;
    char *index;
    uint64_t bytes;

    CHECK(convert(model, testing_path("one"), "safetensors", "keep", 40000, 1, &err) == OK, &err);
    CHECK(convert(model, testing_path("three"), "safetensors", "keep", 40000, 3, &err) == OK, &err);
    REQUIRE(container_open(&container, testing_path("one"), &err) == OK, &err);
    const uint64_t files = container_file_count(container);
    CU_ASSERT(files > 3);
    for (uint64_t i = 0; i < files; i++) {
        char name[96];
        CU_ASSERT(container_file(container, i).bytes < 46000);
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", (int)i + 1, (int)files);
        CU_ASSERT(testing_same_files(testing_path("one/%s", name), testing_path("three/%s", name)));
    }
    container_close(container);
    index = testing_read(testing_path("one/model.safetensors.index.json"), &bytes);
    CU_ASSERT(strstr(index, "\"total_size\"") != NULL);
    memory_free(index);
    CU_ASSERT(file_kind(testing_path("one/tokenizer.json")) == FILE_REGULAR);
    CU_ASSERT(file_kind(testing_path("one/quantize_config.json")) == FILE_ABSENT);
}

/* Kept matrices and single layers of another width are in the configuration, which comes back as it was without it. */
static void configurations(void)
{
    static const struct {
        const char *golden, *format, *text;
    } rows[] = {
        {"mlx-4-6", "safetensors", "\"tie_word_embeddings\": true"},
        {"gptq-4", "gptq", "\"checkpoint_format\": \"gptq\""},
        {"gptq-4", "gptq-v2", "\"checkpoint_format\": \"gptq_v2\""},
        {"gptq-4-asym", "gptq", "\"sym\": false"},
        {"awq", "awq", "\"modules_to_not_convert\": [\n      \"lm_head\"\n    ]"},
        {"compressed-8-asym", "compressed-tensors", "\"strategy\": \"channel\""},
        {"gptq-3-old", "mlx", "\"quantization\": {"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *text;
        uint64_t bytes;
        testing_folder();
        const char *type = strcmp(rows[i].format, "safetensors") == 0 ? "f32" : "keep";
        converted(golden_path(rows[i].golden), "out", rows[i].format, type);
        text = testing_read(testing_path("out/config.json"), &bytes);
        if (!strstr(text, rows[i].text)) printf("\n  row %zu: %s\n", i, text);
        CU_ASSERT(strstr(text, rows[i].text) != NULL);
        CU_ASSERT(strstr(text, "\"rope_theta\": 10000.0,") != NULL);
        if (strcmp(rows[i].format, "safetensors") == 0) CU_ASSERT(strstr(text, "quantization") == NULL);
        memory_free(text);
    }
}

/* ---- the writer alone ---- */

static struct tensor tiles_of(
    const char *name, uint32_t bits, uint32_t group, bool asymmetric, uint64_t rows, uint64_t cols)
{
    return (struct tensor){.name = name,
        .storage = STORAGE_TILES,
        .dtype = DTYPE_F16,
        .rank = 2,
        .shape = {rows, cols},
        .scheme = {bits, group, asymmetric}};
}

#define Q "model.layers.0.self_attn.q_proj.weight"

static void refusals(void)
{
    static const struct {
        enum packed_kind kind;
        const char *name;
        uint32_t bits, group;
        uint64_t rows, cols;
        const char *text;
    } rows[] = {
        {PACKED_GPTQ, Q, 5, 32, 64, 64, "gptq cannot store 5 bits"},
        {PACKED_GPTQ, Q, 6, 32, 64, 64, "gptq cannot store 6 bits"},
        {PACKED_GPTQ, Q, 4, 16, 60, 64, "must fill words"},
        {PACKED_GPTQ, Q, 3, 16, 64, 48, "must fill words"},
        {PACKED_GPTQ, "model.embed_tokens.weight", 4, 16, 64, 64, "--embedding keep"},
        {PACKED_GPTQ, "a.bias", 4, 16, 64, 64, "does not end in .weight"},
        {PACKED_AWQ, Q, 8, 32, 64, 64, "awq cannot store 8 bits"},
        {PACKED_AWQ, Q, 4, 32, 12, 64, "must fill words"},
        {PACKED_MLX, Q, 4, 16, 64, 64, "its groups are of 32, 64 or 128"},
        {PACKED_KINDS, Q, 4, 16, 64, 64, "--type f16, bf16 or f32 decodes it"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct tensor tensor =
            tiles_of(rows[i].name, rows[i].bits, rows[i].group, false, rows[i].rows, rows[i].cols);
        struct writer *writer = NULL;
        struct error err = {0};
        uint64_t index;
        testing_folder();
        REQUIRE(folder_writer_create(&writer, testing_path("out"), rows[i].kind, 0, NULL, &err) == OK, &err);
        CHECK(writer_add(writer, &tensor, &index, &err) == ERR_UNSUPPORTED, &err);
        CHECK(strstr(err.text, rows[i].text) != NULL, &err);
        writer_abandon(writer);
        CU_ASSERT(file_kind(testing_path("out")) == FILE_ABSENT);
    }
}

/* What is only seen when all tensors are known. */
static void refused_at_begin(void)
{
    const struct tensor a = tiles_of(Q, 4, 32, false, 64, 64), b = tiles_of("b.weight", 4, 16, false, 64, 64);
    const struct tensor dense = {.name = "c.weight", .rank = 2, .shape = {4, 4}};
    struct writer *writer;
    struct error err;
    uint64_t index;

    testing_folder();
    REQUIRE(folder_writer_create(&writer, testing_path("out"), PACKED_AWQ, 0, NULL, &err) == OK, &err);
    REQUIRE(writer_add(writer, &a, &index, &err) == OK && writer_add(writer, &b, &index, &err) == OK, &err);
    CHECK(writer_begin(writer, &err) == ERR_UNSUPPORTED && strstr(err.text, "one group size"), &err);
    writer_abandon(writer);
    REQUIRE(folder_writer_create(&writer, testing_path("out"), PACKED_GPTQ, 0, NULL, &err) == OK, &err);
    REQUIRE(writer_add(writer, &dense, &index, &err) == OK, &err);
    CHECK(writer_begin(writer, &err) == ERR_UNSUPPORTED &&
              strstr(err.text, "nothing in the model is quantized"),
        &err);
    CHECK(writer_add(writer, &dense, &index, &err) == ERR_FORMAT ||
              writer_add(writer, &dense, &index, &err) == ERR_USAGE,
        &err);
    writer_abandon(writer);
}

/* A matrix in pieces that arrive in any order, and one that never becomes whole. */
static void in_pieces(void)
{
    const struct tensor tensor = tiles_of(Q, 4, 32, true, 64, 64);
    const char *config = "{\"a\": 1}";
    struct tiles_layout layout;
    struct writer *writer;
    struct error err;
    uint64_t index;

    REQUIRE(tiles_layout(&layout, 64, 64, tensor.scheme, &err) == OK, &err);
    for (int whole = 0; whole < 2; whole++) {
        uint8_t *bytes = memory_new(layout.bytes, 1, NULL);
        testing_folder();
        memset(bytes, 0x11, layout.bytes);
        REQUIRE(folder_writer_create(&writer, testing_path("out"), PACKED_GPTQ, 0, NULL, &err) == OK, &err);
        REQUIRE(writer_add(writer, &tensor, &index, &err) == OK && writer_begin(writer, &err) == OK, &err);
        for (uint64_t end = layout.bytes; end > 0; end -= end < 100 ? end : 100) {
            const uint64_t begin = end < 100 ? 0 : end - 100;
            if (begin == 0 && !whole) break;
            CHECK(writer_write(writer, index, begin, bytes + begin, end - begin, &err) == OK, &err);
        }
        CHECK(writer_write(writer, index, layout.bytes, bytes, 1, &err) == ERR_USAGE, &err);
        CHECK(writer_document(writer, "config.json", config, strlen(config), &err) == OK, &err);
        CHECK(writer_document(writer, "config.json", config, strlen(config), &err) == ERR_FORMAT, &err);
        CHECK(writer_commit(writer, &err) == (whole ? OK : ERR_USAGE), &err);
        CU_ASSERT(file_kind(testing_path("out")) == (whole ? FILE_FOLDER : FILE_ABSENT));
        memory_free(bytes);
    }
}

/* ---- whole or not at all ---- */

static unsigned entries_in(const char *folder)
{
    char command[700];
    unsigned count = 0;
    FILE *pipe;

    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    pipe = popen(command, "r");
    REQUIRE(pipe && fscanf(pipe, "%u", &count) == 1, NULL);
    pclose(pipe);
    return count;
}

static void not_over_others(void)
{
    const char *place = testing_folder(), *golden = golden_path("gptq-4");
    struct error err;

    REQUIRE(mkdir(testing_path("empty"), 0777) == 0 && mkdir(testing_path("full"), 0777) == 0, NULL);
    testing_write(testing_path("full/mine.txt"), "x", 1);
    testing_write(testing_path("file"), "x", 1);
    CHECK(convert(golden, testing_path("empty/"), "gptq", "keep", 0, 1, &err) == OK, &err);
    CHECK(convert(golden, testing_path("full"), "gptq", "keep", 0, 1, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "a folder with files in it") != NULL, &err);
    CHECK(convert(golden, testing_path("file"), "gptq", "keep", 0, 1, &err) == ERR_USAGE, &err);
    CU_ASSERT(entries_in(place) == 3 && entries_in(testing_path("full")) == 1);
    CU_ASSERT(entries_in(testing_path("empty")) == 4);
}

static int64_t full_disk(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    static unsigned calls;

    (void)descriptor, (void)buffer, (void)offset;
    return ++calls % 9 ? (int64_t)pwrite(descriptor, buffer, count, offset) : -1;
}

/* A write that fails leaves nothing behind. */
static void faults(void)
{
    const struct file_calls before = file_calls;
    const char *place = testing_folder();
    struct error err;

    file_calls.pwrite = full_disk;
    for (int i = 0; i < 6; i++)
        CHECK(convert(golden_path("awq"), testing_path("out"), "awq", "keep", 0, 1, &err) == ERR_IO, &err);
    file_calls = before;
    CU_ASSERT(entries_in(place) == 0);
}

static void out_of_memory(void)
{
    const char *place = testing_folder();
    enum status status = ERR_MEMORY;
    uint64_t nth = 1;

    for (; status != OK && nth < 5000; nth++) {
        memory_fail_at(nth, 0);
        status = convert(golden_path("awq"), testing_path("out"), "compressed-tensors", "keep", 0, 1, NULL);
        memory_fail_at(0, 0);
        CU_ASSERT(status == OK || (status == ERR_MEMORY && entries_in(place) == 0));
    }
    CU_ASSERT(status == OK);
}

/* A signal takes the folder along; a process that was killed outright leaves one, which the next removes. */
static void signals(void)
{
    const int ends[] = {SIGTERM, SIGKILL};
    const char *place = testing_folder();
    struct error err;

    for (int i = 0; i < 2; i++) {
        const pid_t child = fork();
        if (child == 0) {
            struct writer *writer;
            const struct tensor tensor = {.name = "a.weight", .rank = 2, .shape = {4, 4}};
            uint64_t index;
            file_catch_signals();
            if (folder_writer_create(&writer, testing_path("out"), PACKED_KINDS, 0, NULL, NULL) == OK &&
                writer_add(writer, &tensor, &index, NULL) == OK && writer_begin(writer, NULL) == OK)
                raise(ends[i]);
            _exit(0);
        }
        int state = 0;
        REQUIRE(child > 0 && waitpid(child, &state, 0) == child, NULL);
        CU_ASSERT(WIFSIGNALED(state) && WTERMSIG(state) == ends[i]);
        CU_ASSERT(entries_in(place) == (unsigned)i);
    }
    CHECK(convert(golden_path("awq"), testing_path("out"), "awq", "keep", 0, 1, &err) == OK, &err);
    CU_ASSERT(entries_in(place) == 1);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the same words", same_words},
        {"round trips", round_trips},
        {"decoded", decoded},
        {"shards", shards},
        {"configurations", configurations},
        {"what a layout cannot say", refusals},
        {"what all tensors together cannot be", refused_at_begin},
        {"in pieces", in_pieces},
        {"not over others", not_over_others},
        {"faults", faults},
        {"out of memory", out_of_memory},
        {"signals", signals},
    };

    return TESTING_RUN("folder_writer", cases);
}
