/* The safetensors format (github.com/huggingface/safetensors, README and tensor.rs):
 *
 *   +--------+----------------------+-----------------------------------------------+
 *   | u64 N  | N bytes of JSON      | data: every tensor, no gaps, no overlap       |
 *   +--------+----------------------+-----------------------------------------------+
 *
 *   {"name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, ...,
 *    "__metadata__": {"key": "text", ...}}
 *
 * Offsets count from the first byte after the header. The header may begin and end with white space.
 *
 * Beyond what the format itself forbids, refused here: names that are empty, longer than CONTAINER_NAME_LIMIT
 * or hold U+0000, a rank above TENSOR_RANK_LIMIT, fields of a tensor that are none of the three (they could
 * change what the bytes mean), and more than 65536 keys of metadata.
 *
 * __metadata__ pairs are ignored but for aliases of tied tensors: {"alias": "target"} where the target is a
 * tensor of this file and the alias is not the name of one ("format" is never an alias). */
#ifndef NIBBLE_FORMATS_SAFETENSORS_H
#define NIBBLE_FORMATS_SAFETENSORS_H

#include "formats/reader.h"

#define SAFETENSORS_HEADER_LIMIT 100000000

/* One file, the only one or a shard. Tensors stand in the order of their data; those metadata pairs that are aliases are kept.
 * ERR_FORMAT: a broken rule. ERR_UNSUPPORTED: an element type that tensor/dtype has not. */
extern const struct shard_format safetensors_shards;

#endif
