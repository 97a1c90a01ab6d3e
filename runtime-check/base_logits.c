/* See base_logits.h. */
#include "runtime-check/base_logits.h"

enum status base_logits_open(struct base_logits **out, const char *path, struct error *err)
{
    *out = NULL;
    return fail(err, ERR_UNSUPPORTED, "%s: stored base logits are not read by this version", path);
}

void base_logits_close(struct base_logits *stored)
{
    (void)stored;
}

const struct base_logits_info *base_logits_info(const struct base_logits *stored)
{
    (void)stored;
    return NULL;
}

const struct windows *base_logits_windows(const struct base_logits *stored)
{
    (void)stored;
    return NULL;
}
