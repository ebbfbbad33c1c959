/*
 * Pooling adjacent violators in one pass over a stack of blocks.
 */
#include "core/stats/isotonic.h"

#include <math.h>
#include <stdlib.h>

typedef struct Block {
	double weight;
	double x; /* weighted sums */
	double y;
} Block;

static int
compare_points(const void *left, const void *right)
{
	const SermIsotonicPoint *a = left, *b = right;

	if (a->x != b->x)
		return a->x < b->x ? -1 : 1;
	/* Sums must not depend on the order in which the points came. */
	if (a->y != b->y)
		return a->y < b->y ? -1 : 1;
	return (a->weight > b->weight) - (a->weight < b->weight);
}

static SermStatus
check_points(const SermIsotonicPoint *points, uint32_t count, SermError *error)
{
	if (count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no points for a monotone curve");
	for (uint32_t i = 0; i < count; i++)
		if (!isfinite(points[i].x) || !isfinite(points[i].y) || !(points[i].weight > 0) ||
		    !isfinite(points[i].weight))
			return serm_fail(error, SERM_ERR_INVALID, "point %u of a monotone curve is (%g, %g) of weight %g",
			    i, points[i].x, points[i].y, points[i].weight);
	return SERM_OK;
}

/* Blocks of equal x first, then pooled while a level is not above the one before; returns how many stand. */
static uint32_t
pool(const SermIsotonicPoint *points, uint32_t count, Block *blocks)
{
	uint32_t stand = 0;

	for (uint32_t i = 0; i < count;) {
		Block block = {0};
		double x = points[i].x;

		for (; i < count && points[i].x == x; i++) {
			block.weight += points[i].weight;
			block.x += points[i].weight * points[i].x;
			block.y += points[i].weight * points[i].y;
		}
		while (stand > 0 && blocks[stand - 1].y * block.weight >= block.y * blocks[stand - 1].weight) {
			stand--;
			block.weight += blocks[stand].weight;
			block.x += blocks[stand].x;
			block.y += blocks[stand].y;
		}
		blocks[stand++] = block;
	}
	return stand;
}

SermStatus
serm_isotonic_fit(
    SermIsotonicPoint *points, uint32_t count, SermArena *arena, SermIsotonicCurve *curve, SermError *error)
{
	SermStatus status = check_points(points, count, error);
	Block *blocks;

	if (status != SERM_OK)
		return status;
	blocks = serm_arena_array(arena, count, sizeof(Block));
	curve->at = serm_arena_array(arena, count, sizeof(double));
	curve->level = serm_arena_array(arena, count, sizeof(double));
	if (blocks == NULL || curve->at == NULL || curve->level == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for a monotone curve of %u points", count);
	qsort(points, count, sizeof(SermIsotonicPoint), compare_points);
	curve->knot_count = pool(points, count, blocks);
	for (uint32_t i = 0; i < curve->knot_count; i++) {
		curve->at[i] = blocks[i].x / blocks[i].weight;
		curve->level[i] = blocks[i].y / blocks[i].weight;
	}
	return SERM_OK;
}

double
serm_isotonic_value(const double *at, const double *level, uint32_t knot_count, double x)
{
	uint32_t low = 0, high = knot_count - 1;

	if (isnan(x))
		return x;
	if (!(x > at[0]))
		return level[0];
	if (x >= at[high])
		return level[high];
	/* Invariant: at[low] <= x < at[high]. */
	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (at[middle] <= x)
			low = middle;
		else
			high = middle;
	}
	return level[low] + (level[high] - level[low]) * (x - at[low]) / (at[high] - at[low]);
}
