/* See trim.h. */
#include "prune/trim.h"

enum status trim_choose(
    struct trim **out, struct checkpoint *input, const char *path, const struct report *report, struct error *err)
{
    (void)input, (void)report;
    *out = NULL;
    return fail(err, ERR_UNSUPPORTED, "--trim-vocabulary %s: not there yet", path);
}

void trim_free(struct trim *trim)
{
    (void)trim;
}

const struct config_ids *trim_ids(const struct trim *trim)
{
    (void)trim;
    return NULL;
}

enum status trim_select(
    struct checkpoint *input, const struct trim *trim, struct model_config *config, struct error *err)
{
    (void)input, (void)trim, (void)config, (void)err;
    return OK;
}
