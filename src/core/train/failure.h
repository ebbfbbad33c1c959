/*
 * The two failures that every stage of training shares, in one wording.
 */
#ifndef SERM_CORE_TRAIN_FAILURE_H
#define SERM_CORE_TRAIN_FAILURE_H

#include "core/base/status.h"

static inline SermStatus
serm_train_canceled(SermError *error)
{
	return serm_fail(error, SERM_ERR_CANCELED, "training was canceled");
}

static inline SermStatus
serm_train_out_of_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "training does not fit into its memory limit");
}

#endif
