/* Rows and columns of tensors, tensors that come and go: what is read is what was chosen, from every offset. */
#include "formats/container_select.h"

#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

static struct container *open_tiny(void)
{
    struct container *container;
    struct error err = {0};

    testing_folder();
    REQUIRE(container_open(&container, tiny_model_folder("model", (struct tiny_model){0}), &err) == OK, &err);
    return container;
}

static uint64_t number_of(const struct container *container, const char *name)
{
    const struct tensor *tensor = container_find(container, name);

    REQUIRE(tensor != NULL, NULL);
    return container_index(container, tensor);
}

static float *read_all(struct container *container, const char *name)
{
    const struct tensor *tensor = container_find(container, name);
    float *out = memory_new(tensor->bytes, 1, NULL);
    struct error err = {0};

    REQUIRE(out && container_read(container, tensor, 0, out, tensor->bytes, &err) == OK, &err);
    return out;
}

static const char *const down = "model.layers.1.mlp.down_proj.weight"; /* [64][96] */
static const uint64_t some_rows[] = {5, 6, 7, 1, 63}, some_cols[] = {95, 0, 1, 40};
enum { ROWS = 5, COLS = 4 };

static void choose(struct container *container, const char *name, const uint64_t *rows, uint64_t row_count,
    const uint64_t *cols, uint64_t col_count)
{
    const struct container_choice choice = {rows, cols, row_count, col_count};
    struct error err = {0};

    REQUIRE(container_select(container, number_of(container, name), &choice, &err) == OK, &err);
}

static void rows_and_columns(void)
{
    struct container *container = open_tiny();
    float *whole = read_all(container, down);

    choose(container, down, some_rows, ROWS, some_cols, COLS);
    const struct tensor *tensor = container_find(container, down);
    CU_ASSERT(tensor->shape[0] == ROWS && tensor->shape[1] == COLS && tensor->bytes == ROWS * COLS * 4);
    float *part = read_all(container, down);
    for (unsigned r = 0; r < ROWS; r++) {
        for (unsigned c = 0; c < COLS; c++)
            CU_ASSERT_EQUAL(part[r * COLS + c], whole[some_rows[r] * 96 + some_cols[c]]);
    }
    for (uint64_t begin = 0; begin < tensor->bytes; begin += 3) { /* inside rows and elements */
        uint8_t piece[ROWS * COLS * 4];
        const uint64_t count = (tensor->bytes - begin) / 2 + 1;
        CU_ASSERT(container_read(container, tensor, begin, piece, count, NULL) == OK);
        CU_ASSERT(memcmp(piece, (uint8_t *)part + begin, count) == 0);
    }
    CU_ASSERT(container_map(container, NULL) == OK);
    CU_ASSERT(memcmp(container_find(container, down)->data, part, tensor->bytes) == 0);
    memory_free(whole);
    memory_free(part);
    container_close(container);
}

static void from_what_was_chosen(void)
{
    static const uint64_t again[] = {3, 0};
    struct container *container = open_tiny();
    float *whole = read_all(container, down);

    choose(container, down, some_rows, ROWS, NULL, 0);
    choose(container, down, again, 2, some_cols, COLS);
    float *part = read_all(container, down);
    CU_ASSERT_EQUAL(part[0], whole[1 * 96 + 95]);
    CU_ASSERT_EQUAL(part[COLS + 3], whole[5 * 96 + 40]);
    memory_free(whole);
    memory_free(part);
    container_close(container);
}

static void vectors(void)
{
    const char *name = "model.norm.weight";
    struct container *container = open_tiny();
    float *whole = read_all(container, name);

    choose(container, name, some_rows, ROWS, NULL, 0);
    float *part = read_all(container, name);
    for (unsigned r = 0; r < ROWS; r++)
        CU_ASSERT_EQUAL(part[r], whole[some_rows[r]]);
    memory_free(whole);
    memory_free(part);
    container_close(container);
}

static void bad_choices(void)
{
    static const uint64_t beyond[] = {0, 64};
    const struct container_choice rows = {beyond, NULL, 2, 0}, cols = {NULL, some_cols, 0, COLS},
                                  none = {beyond, NULL, 0, 0};
    struct container *container = open_tiny();

    CU_ASSERT(container_select(container, number_of(container, down), &rows, NULL) == ERR_USAGE);
    CU_ASSERT(container_select(container, number_of(container, down), &none, NULL) == ERR_USAGE);
    CU_ASSERT(
        container_select(container, number_of(container, "model.norm.weight"), &cols, NULL) == ERR_USAGE);
    container_close(container);
}

static void come_and_go(void)
{
    static const float values[] = {1, 2, 3};
    const struct tensor tensor = {
        .name = "new.bias", .dtype = DTYPE_F32, .rank = 1, .shape = {3}, .data = values};
    struct container *container = open_tiny();
    const uint64_t count = container_count(container);
    bool *gone = memory_new(count + 1, sizeof *gone, NULL);

    CU_ASSERT(container_add(container, &tensor, NULL) == OK);
    gone[number_of(container, down)] = true;
    float *norm = read_all(container, "model.norm.weight");
    container_remove(container, gone);
    CU_ASSERT(container_reindex(container, NULL) == OK);
    CU_ASSERT_EQUAL(container_count(container), count);
    CU_ASSERT_PTR_NULL(container_find(container, down));
    float *added = read_all(container, "new.bias"), *after = read_all(container, "model.norm.weight");
    CU_ASSERT(memcmp(added, values, sizeof values) == 0 && memcmp(norm, after, 64 * sizeof *norm) == 0);
    CU_ASSERT(container_map(container, NULL) == OK);
    CU_ASSERT(memcmp(container_find(container, "new.bias")->data, values, sizeof values) == 0);
    memory_free(gone);
    memory_free(norm);
    memory_free(added);
    memory_free(after);
    container_close(container);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"rows and columns, from every offset", rows_and_columns},
        {"a choice from a choice", from_what_was_chosen},
        {"elements of vectors", vectors},
        {"choices that cannot be", bad_choices},
        {"tensors that come and go", come_and_go},
    };

    return TESTING_RUN("container_select", cases);
}
