/*
 * Canonical order: what training computes must not depend on the order in
 * which the host happened to read its rows, so documents and examples are
 * sorted by content before anything else looks at them.
 */
#ifndef SERM_CORE_TRAIN_ORDER_H
#define SERM_CORE_TRAIN_ORDER_H

#include "core/train/train.h"

/* < 0 when item `a` goes before item `b`. */
typedef int (*SermCompare)(const void *items, uint32_t a, uint32_t b);

/* Stable merge sort of `indices` [count]; `scratch` has the same size. */
extern SermStatus serm_order_sort(uint32_t *indices, uint32_t *scratch, size_t count, SermCompare compare,
    const void *items, const SermTrainHost *host, SermError *error);

/* The distinct documents of `docs` by content; the array comes from `arena`. */
extern SermStatus serm_order_documents(const SermText *docs, size_t count, const SermTrainHost *host,
    SermArena *arena, SermText **distinct, size_t *distinct_count, SermError *error);

/* Examples by query, then by document; a list is the examples of one query. */
typedef struct SermExampleOrder {
	const uint32_t *example;    /* [example_count] indices into the set, in canonical order */
	const uint32_t *list_start; /* [list_count + 1] positions in `example` */
	const uint64_t *list_key;   /* [list_count] serm_text_query_key of the query */
	uint32_t example_count;
	uint32_t list_count;
} SermExampleOrder;

extern SermStatus serm_order_examples(const SermTrainingSet *set, const SermTrainHost *host, SermArena *arena,
    SermExampleOrder *order, SermError *error);

#endif
