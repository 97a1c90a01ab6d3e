/* See page.h. Not here yet: every page is refused. */
#include "runtime-check/page.h"

enum status page_write(const char *path, bool force, const struct page *page, struct error *err)
{
    (void)force;
    (void)page;
    return fail(err, ERR_UNSUPPORTED, "%s: pages are not written by this build", path);
}
