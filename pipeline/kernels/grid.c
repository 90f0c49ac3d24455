// The lists of near points, as ggml's iq2xs_init_impl and iq3xs_init_impl make them.
#include <stdlib.h>

#include "grid.h"

#define MOST_POINTS 2048
#define MOST_DISTANCE 1024

// Squared distances of all points of the grid to one. Levels are two apart from each other.
static void measure(const Grid *grid, uint32_t from, int distances[MOST_POINTS]) {
    for (int number = 0; number < grid->size; ++number) {
        int distance = 0;
        for (int i = 0; i < 8; ++i) {
            const int apart = (int)(grid->points[number] >> 4 * i & 15) - (int)(from >> 4 * i & 15);
            distance += 4 * apart * apart;
        }
        distances[number] = distance;
    }
}

// The points in the nearest rings, from the nearest on, and in each by number.
static int list(const Grid *grid, const int distances[MOST_POINTS], uint32_t *near, int room) {
    char is_ring[MOST_DISTANCE] = {0};
    int count = 0, rings = 0;
    for (int number = 0; number < grid->size; ++number) is_ring[distances[number]] = 1;
    for (int distance = 0; distance < MOST_DISTANCE && rings < grid->rings; ++distance) {
        if (!is_ring[distance]) continue;
        ++rings;
        for (int number = 0; number < grid->size; ++number) {
            if (distances[number] != distance) continue;
            if (count == room) abort();
            near[count++] = grid->points[number];
        }
    }
    return count;
}

static uint32_t levels_of(int place, const Grid *grid) {
    uint32_t levels = 0;
    for (int i = 0; i < grid->dimensions; ++i, place /= grid->levels) levels |= (uint32_t)(place % grid->levels) << 4 * i;
    return levels;
}

static uint16_t steps_of(uint32_t levels) {
    uint16_t steps = 0;
    for (int i = 0; i < 8; ++i) {
        const int level = levels >> 4 * i & 15;
        steps |= (uint16_t)((level >= 1) << i | (level >= 2) << (i + 8));
    }
    return steps;
}

void grid_prepare(const Grid *grid) {
    int distances[MOST_POINTS], begin = 0;
    for (int place = 0; place < GRID_PLACES(grid->dimensions); ++place) grid->places[place].number = -1;
    for (int number = 0; number < grid->size; ++number) {
        grid->places[place_of(grid->points[number], grid->dimensions)].number = (int16_t)number;
    }
    for (int place = 0; place < GRID_PLACES(grid->dimensions); ++place) {
        if (grid->places[place].number >= 0) continue;
        measure(grid, levels_of(place, grid), distances);
        const int count = list(grid, distances, grid->near + begin, grid->room - MANY - begin);
        for (int i = begin; grid->steps && i < begin + count; ++i) grid->steps[i] = steps_of(grid->near[i]);
        grid->places[place].begin = begin;
        grid->places[place].count = (uint16_t)count;
        begin += count;
    }
}
