/*
 * Has a stream changed? Two-sample statistics between a reference and a recent
 * part, each with an effect size and a p-value by permutation.
 *
 * What is permuted are units (result pages, sessions), never rows: the rows of a
 * page are not independent, and a test that took them so would raise false
 * alarms. Memory is constant: a unit stays in the sample while a hash of its key
 * is below a threshold that falls as the sample fills. Samples of parts merge to the
 * sample of the whole, in any order, bit for bit.
 */
#ifndef SERM_CORE_STATS_SHIFT_H
#define SERM_CORE_STATS_SHIFT_H

#include "core/base/arena.h"

#define SERM_SHIFT_ROWS_MAX 32768

typedef enum SermShiftKind {
	SERM_SHIFT_KS,          /* values: largest difference of the distributions */
	SERM_SHIFT_PSI,         /* values: population stability index over tenths of both parts together */
	SERM_SHIFT_JS,          /* items: Jensen-Shannon divergence of hashed shares, in bits */
	SERM_SHIFT_NOVELTY,     /* items: share of the recent ones that the reference does not have */
	SERM_SHIFT_CALIBRATION, /* values and outcomes: mean change of the outcome at equal value, over tenths */
	SERM_SHIFT_KINDS
} SermShiftKind;

typedef struct SermShiftRow {
	uint64_t unit; /* hash of the key of its unit */
	union {
		double value;
		uint64_t item; /* hash of it */
	};
	float outcome;
	uint32_t recent; /* 0 or 1 */
} SermShiftRow;

/* Both parts; start with a zeroed one and an arena. */
typedef struct SermShiftSample {
	SermArena *arena;
	SermShiftRow *rows[2];
	uint32_t count[2];
	uint32_t capacity[2];
	uint32_t level[2]; /* of 2^level units one is kept */
} SermShiftSample;

/* True while rows of the unit are wanted; ask before the row is made where making it is dear. */
extern bool serm_shift_wants(const SermShiftSample *sample, bool recent, uint64_t unit);
/* Errors: INVALID a value that is not finite, MEMORY. */
extern SermStatus serm_shift_add(
    SermShiftSample *sample, const SermShiftRow *row, bool by_item, SermError *error);
extern SermStatus serm_shift_merge(SermShiftSample *sample, const SermShiftSample *other, SermError *error);

typedef struct SermShiftOptions {
	uint32_t draws; /* permutations at most */
	uint64_t seed;
	SermKeepGoing keep_going; /* may be NULL */
	void *context;
} SermShiftOptions;

typedef struct SermShift {
	double statistic;
	double effect; /* statistic less its mean over the permutations */
	double p_value;
	uint32_t units[2]; /* reference, recent */
	uint32_t draws;
} SermShift;

extern void serm_shift_defaults(SermShiftOptions *options);

/*
 * The p-value is valid at every level: sequential (Besag and Clifford 1991), so a shuffled stream costs about
 * 100 permutations and only a shifted one costs all. Errors: NO_DATA fewer than two units in a part, MEMORY,
 * CANCELED.
 */
extern SermStatus serm_shift_test(SermShiftKind kind, const SermShiftSample *sample,
    const SermShiftOptions *options, SermArena *arena, SermShift *shift, SermError *error);

/* Benjamini and Hochberg (1995): which of the p-values stand when the share of false ones is held at `level`.
 */
extern void serm_shift_accept(const double *p_values, uint32_t count, double level, bool *accepted);

#endif
