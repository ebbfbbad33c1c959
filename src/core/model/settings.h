/*
 * How an opened cross-encoder computes and how much it reads of a document
 * that is longer than its input. Other kinds of models have no such choice.
 */
#ifndef SERM_CORE_MODEL_SETTINGS_H
#define SERM_CORE_MODEL_SETTINGS_H

#include "core/math/linear.h"

typedef enum SermLongDocuments {
	SERM_LONG_TRUNCATE = 0, /* one input: what does not fit is cut */
	SERM_LONG_CHUNK_MAX,    /* as many inputs as hold the whole document: the best one counts */
	SERM_LONG_CHUNK_FIRST,  /* the best one of the first `chunk_count` */
	SERM_LONG_COUNT
} SermLongDocuments;

typedef struct SermModelSettings {
	SermPrecision precision;      /* of the weights of linear layers */
	const SermGemmProvider *gemm; /* of f32; NULL: the built-in one */
	SermLongDocuments long_documents;
	uint32_t chunk_count;   /* > 0 */
	uint32_t chunk_overlap; /* tokens that neighbours share, at most half a chunk */
	const SermWatch *watch; /* asked while the model is opened, or NULL */
} SermModelSettings;

#endif
