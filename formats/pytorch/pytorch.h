/* PyTorch checkpoints, as torch.save has written them since 1.6: a zip archive whose entries share one folder.
 *
 *   X/data.pkl     a pickle of the state dict (formats/pytorch/pickle.h)
 *   X/data/KEY     the bytes of one storage, at any place; PyTorch aligns it to 64
 *   X/byteorder    "little", or not there
 *
 * A tensor is a view of a storage: type, offset, shape, stride. Views that are row-major and without gaps lie in the file as they
 * are; transposed matrices are put in order while they are read; other strides are refused. Several names for the same view
 * (tied weights) become aliases of the first. Source: torch/serialization.py. */
#ifndef NIBBLE_FORMATS_PYTORCH_H
#define NIBBLE_FORMATS_PYTORCH_H

#include "formats/reader.h"

#define PYTORCH_FORMAT "PyTorch"
/* How files before PyTorch 1.6 begin: a pickle of the number 0x1950a86a20f9469cfc6c. */
#define PYTORCH_OLD_MAGIC "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"

/* One file, the only one or a shard. ERR_FORMAT: a damaged archive or pickle, a pickle that would do more than rebuild tensors, a
 * view that leaves its storage. ERR_UNSUPPORTED: TorchScript, files before PyTorch 1.6, big-endian ones, element types that
 * tensor/dtype has not, strides of another kind. */
extern const struct shard_format pytorch_shards;

/* Read every entry of every file of an opened PyTorch checkpoint and compare its checksum; each fault is told to `fault`, one line
 * that names file and entry. Errors are those of reading. */
enum status pytorch_verify(struct container *container, void (*fault)(void *context, const char *text),
    void *context, struct error *err);

#endif
