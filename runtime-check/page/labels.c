/* See labels.h. Placement is greedy over a fixed list of positions around each point; with some dozen labels that is as good as it
 * has to be, and it is the same on every machine. */
#include "runtime-check/page/labels.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

/* ---- texts ---- */

/* One character in units of the font's size. */
static double character_width(uint32_t point)
{
    if (point >= 0x1100) return 1.05;
    if (point >= 0x80) return 0.75;
    if (strchr("iljtf.,:;'|!()[]/ I-", (int)point)) return 0.4;
    if (strchr("mwMW@%", (int)point)) return 0.98;
    return point >= 'A' && point <= 'Z' ? 0.74 : 0.64;
}

/* The length in bytes of the character at `text`, which is not at its end, and what it is. */
static uint64_t next_character(const char *text, uint32_t *point)
{
    const unsigned length = utf8_sequence(text, strlen(text));
    *point = length ? utf8_code_point(text, length) : 0xFFFD;
    return length ? length : 1;
}

double labels_width(const char *text, double font)
{
    double width = 0;
    uint32_t point;
    while (*text) {
        text += next_character(text, &point);
        width += character_width(point);
    }
    return width * font;
}

char *labels_shorten(const char *text, uint64_t most, struct error *err)
{
    static const char ellipsis[] = "\xE2\x80\xA6";
    uint64_t count = 0, head = 0, tail = 0, index = 0;
    const uint64_t bytes = strlen(text);
    uint32_t point;
    for (uint64_t at = 0; at < bytes; count++)
        at += next_character(text + at, &point);
    if (count <= most) return memory_text(text, bytes, err);
    const uint64_t first = (most - 1) / 2, last = count - (most - 1 - first);
    for (uint64_t at = 0; at < bytes; index++) {
        if (index == first) head = at;
        if (index == last) tail = at;
        at += next_character(text + at, &point);
    }
    char *out = memory_new(bytes + sizeof ellipsis, 1, err);
    if (!out) return NULL;
    memcpy(out, text, head);
    strcpy(stpcpy(out + head, ellipsis), text + tail);
    return out;
}

/* ---- on a line ---- */

/* Neighbours that touch, moved as one. */
struct cluster {
    double sum; /* of the members' wishes for the first one's position */
    uint64_t first, count;
};

static double cluster_start(const struct cluster *cluster, double gap, double low, double high)
{
    const double start = cluster->sum / (double)cluster->count;
    const double most = high - gap * (double)(cluster->count - 1);
    return fmax(low, fmin(most, start));
}

/* Join the last cluster with those before it that it would touch; returns how many are left. */
static uint64_t join(struct cluster *clusters, uint64_t count, double gap, double low, double high)
{
    while (count > 1) {
        struct cluster *a = &clusters[count - 2], *b = &clusters[count - 1];
        const double length = gap * (double)a->count;
        if (cluster_start(b, gap, low, high) >= cluster_start(a, gap, low, high) + length) break;
        a->sum += b->sum - length * (double)b->count;
        a->count += b->count;
        count--;
    }
    return count;
}

/* The order of the positions: order[i] is the index of the i-th smallest, the earlier index first where two are equal. */
static void sort_positions(uint64_t *order, const double *at, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t place = i;
        for (; place > 0 && at[order[place - 1]] > at[i]; place--)
            order[place] = order[place - 1];
        order[place] = i;
    }
}

enum status labels_spread(double *at, uint64_t count, double gap, double low, double high, struct error *err)
{
    uint64_t *order = memory_new(count, sizeof *order, err), used = 0;
    struct cluster *clusters = order ? memory_new(count, sizeof *clusters, err) : NULL;
    if (clusters && count > 0) {
        if (gap * (double)(count - 1) > high - low) gap = (high - low) / (double)(count - 1);
        sort_positions(order, at, count);
        for (uint64_t i = 0; i < count; i++) {
            clusters[used] = (struct cluster){at[order[i]], i, 1};
            used = join(clusters, used + 1, gap, low, high);
        }
        for (uint64_t i = 0; i < used; i++) {
            const double start = cluster_start(&clusters[i], gap, low, high);
            for (uint64_t k = 0; k < clusters[i].count; k++)
                at[order[clusters[i].first + k]] = start + gap * (double)k;
        }
    }
    memory_free(order);
    memory_free(clusters);
    return clusters ? OK : ERR_MEMORY;
}

/* ---- around points ---- */

static bool overlap(const struct labels_box *a, const struct labels_box *b)
{
    return a->left < b->right && b->left < a->right && a->top < b->bottom && b->top < a->bottom;
}

/* Whether a segment passes through a box (Liang and Barsky 1984). */
static bool crosses(const struct labels_segment *segment, const struct labels_box *box)
{
    const double dx = segment->x2 - segment->x1, dy = segment->y2 - segment->y1;
    const double step[4] = {-dx, dx, -dy, dy};
    const double room[4] = {
        segment->x1 - box->left, box->right - segment->x1, segment->y1 - box->top, box->bottom - segment->y1};
    double from = 0, to = 1;
    for (int i = 0; i < 4; i++) {
        if (step[i] == 0 && room[i] < 0) return false;
        if (step[i] < 0) from = fmax(from, room[i] / step[i]);
        if (step[i] > 0) to = fmin(to, room[i] / step[i]);
    }
    return from < to;
}

/* Whether two segments cross: the ends of each lie on different sides of the other. */
static bool cross_another(const struct labels_segment *a, const struct labels_segment *b)
{
#define SIDE(s, x, y) ((s->x2 - s->x1) * ((y)-s->y1) - (s->y2 - s->y1) * ((x)-s->x1))
    return SIDE(a, b->x1, b->y1) * SIDE(a, b->x2, b->y2) < 0 &&
           SIDE(b, a->x1, a->y1) * SIDE(b, a->x2, a->y2) < 0;
#undef SIDE
}

/* A try: the label at the end of a leader of this length and direction. */
static void put_at(struct label *label, const struct labels_ground *ground, double distance, double angle)
{
    const double height = 1.15 * ground->font, cosine = cos(angle), sine = sin(angle);
    const double x = label->x + distance * cosine, y = label->y + distance * sine;
    struct labels_box *place = &label->place;
    place->left = cosine > 0.3 ? x : cosine < -0.3 ? x - label->width : x - label->width / 2;
    place->top = sine > 0.3 ? y : sine < -0.3 ? y - height : y - height / 2;
    place->right = place->left + label->width;
    place->bottom = place->top + height;
    label->led = distance > ground->radius + 0.6 * ground->font;
    label->leader = (struct labels_segment){
        label->x + ground->radius * cosine, label->y + ground->radius * sine, x - 2 * cosine, y - 2 * sine};
}

/* Whether the label's place is forbidden by the ground or by another label. */
static bool blocked(
    const struct label *labels, uint64_t count, const struct label *mine, const struct labels_ground *ground)
{
    const struct labels_box *place = &mine->place, *area = &ground->area;
    if (place->left < area->left || place->right > area->right || place->top < area->top ||
        place->bottom > area->bottom)
        return true;
    for (uint64_t i = 0; i < ground->obstacle_count; i++) {
        const struct labels_box *obstacle = &ground->obstacles[i];
        const bool own = mine->x > obstacle->left && mine->x < obstacle->right && mine->y > obstacle->top &&
                         mine->y < obstacle->bottom;
        if (overlap(place, obstacle) || (mine->led && !own && crosses(&mine->leader, obstacle))) return true;
    }
    for (uint64_t i = 0; i < count; i++) {
        const struct label *other = &labels[i];
        if (other == mine || !other->shown) continue;
        if (overlap(place, &other->place) || (mine->led && crosses(&mine->leader, &other->place)) ||
            (other->led && crosses(&other->leader, place)) ||
            (mine->led && other->led && cross_another(&mine->leader, &other->leader)))
            return true;
    }
    return false;
}

/* What covers lines, is far or lies in an unusual direction costs. */
static double cost_of(
    const struct label *label, const struct labels_ground *ground, double distance, int turn)
{
    static const double directions[8] = {0, 4, 6, 3, 5, 3, 4, 1}; /* right, below right, below, ... */
    double cost = distance + directions[turn / 2] + turn % 2;
    for (uint64_t i = 0; i < ground->segment_count; i++)
        cost += crosses(&ground->segments[i], &label->place) ? 1.2 * ground->font : 0;
    return cost;
}

/* Find the cheapest free place of one label among all others. */
static void place_one(
    struct label *labels, uint64_t count, struct label *mine, const struct labels_ground *ground)
{
    static const double leaders[] = {0, 1.2, 2.2, 3.4, 4.8, 6.4, 8.2}; /* in units of the font's size */
    const double turn_angle = 0.39269908169872414;                     /* pi / 8 */
    struct label best = *mine;
    double least = INFINITY;
    for (int i = 0; i < 7; i++) {
        for (int turn = 0; turn < 16; turn++) {
            const double distance = ground->radius + 2 + leaders[i] * ground->font;
            put_at(mine, ground, distance, turn * turn_angle);
            const double cost = cost_of(mine, ground, distance, turn);
            if (cost >= least || blocked(labels, count, mine, ground)) continue;
            least = cost;
            best = *mine;
        }
    }
    *mine = best;
    mine->shown = least < INFINITY;
}

void labels_place(struct label *labels, uint64_t count, const struct labels_ground *ground)
{
    for (uint64_t i = 0; i < count; i++)
        labels[i].shown = false;
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < count; i++)
            place_one(labels, count, &labels[i], ground);
    }
}
