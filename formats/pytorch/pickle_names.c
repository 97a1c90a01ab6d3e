/* See pickle_names.h. */
#include "formats/pytorch/pickle_names.h"

#include <string.h>

static const struct pickle_type types[] = {
    {"FloatStorage", "float32", true, DTYPE_F32, 4},
    {"HalfStorage", "float16", true, DTYPE_F16, 2},
    {"BFloat16Storage", "bfloat16", true, DTYPE_BF16, 2},
    {"DoubleStorage", "float64", true, DTYPE_F64, 8},
    {"CharStorage", "int8", true, DTYPE_I8, 1},
    {"ShortStorage", "int16", true, DTYPE_I16, 2},
    {"IntStorage", "int32", true, DTYPE_I32, 4},
    {"LongStorage", "int64", true, DTYPE_I64, 8},
    {"ByteStorage", "uint8", true, DTYPE_U8, 1},
    {"BoolStorage", "bool", true, DTYPE_BOOL, 1},
    {"ComplexFloatStorage", "complex64", false, 0, 8},
    {"ComplexDoubleStorage", "complex128", false, 0, 16},
    {"QInt8Storage", "qint8", false, 0, 1},
    {"QUInt8Storage", "quint8", false, 0, 1},
    {"QInt32Storage", "qint32", false, 0, 4},
    {NULL, "uint16", false, 0, 2},
    {NULL, "uint32", false, 0, 4},
    {NULL, "uint64", false, 0, 8},
    {NULL, "float8_e4m3fn", false, 0, 1},
    {NULL, "float8_e5m2", false, 0, 1},
    {NULL, "float8_e4m3fnuz", false, 0, 1},
    {NULL, "float8_e5m2fnuz", false, 0, 1},
    {NULL, "float8_e8m0fnu", false, 0, 1},
};

static const struct pickle_name names[] = {
    {"collections", "OrderedDict", PICKLE_DICT, NULL},
    {"torch._utils", "_rebuild_tensor", PICKLE_REBUILD, NULL},
    {"torch._utils", "_rebuild_tensor_v2", PICKLE_REBUILD, NULL},
    {"torch._utils", "_rebuild_tensor_v3", PICKLE_REBUILD_TYPED, NULL},
    {"torch._utils", "_rebuild_parameter", PICKLE_PARAMETER, NULL},
    {"torch._utils", "_rebuild_parameter_with_state", PICKLE_PARAMETER, NULL},
    {"torch._tensor", "_rebuild_from_type_v2", PICKLE_SUBCLASS, NULL},
    {"torch", "Size", PICKLE_SIZE, NULL},
    {"torch", "device", PICKLE_PLAIN, NULL},
    {"_codecs", "encode", PICKLE_PLAIN, NULL}, /* bytes in protocol 2 */
    {"__builtin__", "set", PICKLE_PLAIN, NULL},
    {"builtins", "set", PICKLE_PLAIN, NULL},
    {"torch", "Tensor", PICKLE_CLASS, NULL},
    {"torch.nn.parameter", "Parameter", PICKLE_CLASS, NULL},
    {"torch.storage", "UntypedStorage", PICKLE_TYPE, NULL},
};

static bool same(const char *word, const char *text, uint64_t bytes)
{
    return word && strlen(word) == bytes && memcmp(word, text, bytes) == 0;
}

bool pickle_names_find(
    struct pickle_name *out, const char *module, uint64_t module_bytes, const char *name, uint64_t name_bytes)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!same(names[i].module, module, module_bytes) || !same(names[i].name, name, name_bytes)) continue;
        *out = names[i];
        return true;
    }
    if (!same("torch", module, module_bytes)) return false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!same(types[i].storage, name, name_bytes) && !same(types[i].name, name, name_bytes)) continue;
        *out = (struct pickle_name){"torch", types[i].name, PICKLE_TYPE, &types[i]};
        return true;
    }
    return false;
}
