// The grids of the I-quants. Of all that 8 weights (or 4) could be as levels, only the points of a grid have a number.
// What is not on the grid becomes one of the points near it: ggml fixes a list of these for each, and takes the one that
// fits the weights best with the scale at hand.
//
// A point is an integer with four bits for each weight: its level, or twice that and one, which is what is multiplied by
// the scale.
#ifndef GRID_H
#define GRID_H

#include "i_types.h"

#define MANY (VECTOR / 2) // points at a time, in sums of 16 bits
#define MOST_NEAR 320 // points in a list, with room for the last vector; the longest has 292

typedef struct {
    int32_t begin;  // of the list, for what is not on the grid
    int16_t number; // on the grid, or -1
    uint16_t count; // of the list
} Place;

struct Grid {
    const uint32_t *points; // by number, as levels
    int size;
    int dimensions;
    int levels;
    int rings; // how many different distances the points in a list may have
    Place *places;
    uint32_t *near;  // all lists
    uint16_t *steps; // the same in a bit for each step up: level 1 or 2 of the eight weights, then 2; or NULL
    int room;        // in both
};

// Fill in `places` and the lists.
void grid_prepare(const Grid *grid);

#ifndef ON_GPU
// A quantizer with a grid, which a file's `prepare` has filled in.
#define GRID_QUANTIZER(type, GRID)                                                                                     \
    static inline size_t by_grid_##type(PARAMETERS, const Grid *grid);                                                 \
    QUANTIZER(type) {                                                                                                  \
        pthread_once(&prepared, prepare);                                                                              \
        return by_grid_##type(values, out, rows, row, importance, &GRID);                                              \
    }                                                                                                                  \
    static inline size_t by_grid_##type(PARAMETERS, const Grid *grid)
#endif

#define GRID_PLACES(dimensions) ((dimensions) == 8 ? 6561 : 4096)

static inline uint32_t doubled(uint32_t levels, int dimensions) {
    return 2 * levels + (dimensions == 8 ? 0x11111111u : 0x1111u);
}

static inline uint32_t halved(uint32_t point) { return (point >> 1) & 0x77777777u; }

// Where in `places` a point is, given as levels: the levels as digits.
static ANYWHERE inline uint32_t place_of(uint32_t levels, int dimensions) {
    const uint32_t base = dimensions == 8 ? 3 : 8;
    levels = (levels & 0x0f0f0f0f) + base * (levels >> 4 & 0x0f0f0f0f);
    levels = (levels & 0x00ff00ff) + base * base * (levels >> 8 & 0x00ff00ff);
    return (levels & 0xffff) + base * base * base * base * (levels >> 16);
}

static inline float coordinate(uint32_t point, int i) { return (float)(int)(point >> 4 * i & 15); }

#endif
