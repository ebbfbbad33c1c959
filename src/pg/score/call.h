/*
 * Scorers of SQL call sites: found once per statement, kept with the FmgrInfo.
 */
#ifndef SERM_PG_SCORE_CALL_H
#define SERM_PG_SCORE_CALL_H

#include "pg/store/store.h"

/*
 * The scorer of this call: the model is the text argument of that number (-1:
 * the default model), version 0 the active one. Uses fn_extra of the call site
 * wholly. Errors: as serm_scorer_open.
 */
extern SermScorer *serm_call_scorer(FunctionCallInfo fcinfo, int model_argument, int version);

/* The same with the model given; NULL: the default one. For callers whose arguments are not in `fcinfo`. */
extern SermScorer *serm_call_scorer_named(FunctionCallInfo fcinfo, const text *model, int version);

#endif
