/* Folders with a model of one number and files of a tokenizer, for what looks for documents beside a model. */
#ifndef NIBBLE_TESTS_SUPPORT_TOKENIZER_FOLDER_H
#define NIBBLE_TESTS_SUPPORT_TOKENIZER_FOLDER_H

#include <string.h>

#include "formats/container.h"
#include "tests/support/testing.h"

/* A fresh folder with model.safetensors; more goes into it by testing_path. */
static inline const char *tokenizer_folder_make(void)
{
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    char file[8 + sizeof header + 3] = {0};
    const char *folder = testing_folder();

    file[0] = sizeof header - 1;
    memcpy(file + 8, header, sizeof header - 1);
    testing_write(testing_path("model.safetensors"), file, 8 + sizeof header - 1 + 4);
    return folder;
}

static inline struct container *tokenizer_folder_open(const char *folder)
{
    struct container *container = NULL;
    struct error err = {0};

    REQUIRE(container_open(&container, folder, &err) == OK, &err);
    return container;
}

#endif
