/* See energy.h. */
#include "runtime-check/bench/energy.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime-check/bench/sysfs.h"

#define ZONE "intel-rapl:"

/* "intel-rapl:0", but not "intel-rapl:0:1" or "intel-rapl-mmio:0". */
static bool is_zone(const char *name)
{
    if (strncmp(name, ZONE, strlen(ZONE)) != 0) return false;
    const char *number = name + strlen(ZONE);
    return *number && strspn(number, "0123456789") == strlen(number);
}

/* False if the path does not fit. */
static bool zone_path(char out[ENERGY_PATH_LIMIT], const char *root, const char *zone, const char *file)
{
    const int count = snprintf(out, ENERGY_PATH_LIMIT, "%s/%s/%s", root, zone, file);
    return count >= 0 && count < ENERGY_PATH_LIMIT;
}

static bool refuse(struct energy *energy, const char *path, const char *why)
{
    snprintf(energy->reason, sizeof energy->reason, "%s: %s", path, why);
    return false;
}

/* Take in one zone, if it is a package. False, with the reason: it is one and cannot be read. */
static bool add_zone(struct energy *energy, const char *root, const char *zone)
{
    char path[ENERGY_PATH_LIMIT], name[64];
    struct energy_package *package = &energy->packages[energy->count];
    uint64_t value;
    if (!zone_path(path, root, zone, "name")) return refuse(energy, root, "the path is too long");
    if (!sysfs_text(name, sizeof name, path)) return refuse(energy, path, strerror(errno));
    if (strncmp(name, "package", strlen("package")) != 0) return true;
    if (energy->count == ENERGY_PACKAGE_LIMIT)
        return refuse(energy, root, "more packages than this version reads");
    if (!zone_path(path, root, zone, "max_energy_range_uj") ||
        !zone_path(package->counter, root, zone, "energy_uj"))
        return refuse(energy, root, "the path is too long");
    if (!sysfs_number(&package->range, path)) return refuse(energy, path, strerror(errno));
    if (!sysfs_number(&value, package->counter)) return refuse(energy, package->counter, strerror(errno));
    energy->count++;
    return true;
}

void energy_open(struct energy *energy, const char *root)
{
    memset(energy, 0, sizeof *energy);
    DIR *folder = opendir(root);
    const struct dirent *entry;
    bool usable = true;
    snprintf(energy->reason, sizeof energy->reason, "no energy counter in %s", root);
    if (!folder) return;
    while (usable && (entry = readdir(folder))) {
        if (is_zone(entry->d_name)) usable = add_zone(energy, root, entry->d_name);
    }
    closedir(folder);
    if (!usable) energy->count = 0;
}

bool energy_read(struct energy_reading *out, const struct energy *energy)
{
    bool read = energy->count > 0;
    for (unsigned i = 0; i < energy->count && read; i++)
        read = sysfs_number(&out->counters[i], energy->packages[i].counter);
    return read;
}

double energy_joules(
    const struct energy *energy, const struct energy_reading *before, const struct energy_reading *after)
{
    double total = 0;
    for (unsigned i = 0; i < energy->count; i++) {
        const uint64_t range = energy->packages[i].range;
        const uint64_t from = before->counters[i], to = after->counters[i];
        if (from > range || to > range) return NAN;
        total += (double)(to >= from ? to - from : range - from + to + 1);
    }
    return total > 0 ? total * 1e-6 : NAN;
}
