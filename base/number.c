/* strtod and printf obey the locale of the process; both are held to the C locale here. */
#include "base/number.h"

#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;
static locale_t c_locale;

static void make_c_locale(void)
{
    /* Built into the C library: nothing to load, nothing that can fail, nothing to free. */
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

bool number_read(double *out, const char *text, uint64_t count)
{
    char copy[NUMBER_TEXT_LIMIT + 1], *end;

    if (count == 0 || count > NUMBER_TEXT_LIMIT) return false;
    for (uint64_t i = 0; i < count; i++) {
        bool known = (text[i] >= '0' && text[i] <= '9') || (text[i] != 0 && strchr("+-.eE", text[i]));
        if (!known) return false;
    }
    memcpy(copy, text, count);
    copy[count] = 0;
    pthread_once(&c_locale_once, make_c_locale);
    *out = strtod_l(copy, &end, c_locale);
    return end == copy + count;
}

char *number_write(char *out, double value)
{
    locale_t previous;

    pthread_once(&c_locale_once, make_c_locale);
    previous = uselocale(c_locale);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, value);
        if (strtod_l(out, NULL, c_locale) == value) break;
    }
    uselocale(previous);
    return out;
}
