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

/* Where something was not made: the host said stop, or its memory had no room. */
static inline SermStatus
serm_train_not_made(const SermWatch *host, SermError *error)
{
	return serm_watch_ask(host) ? serm_train_out_of_memory(error) : serm_train_canceled(error);
}

#endif
