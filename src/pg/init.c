/*
 * The library's entry. Loaded on first use in any session, or by the postmaster
 * through shared_preload_libraries; scoring needs no preload.
 */
#include "pg/serm.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "pg/annotate/annotate.h"
#include "pg/store/blas.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	serm_define_gucs();
	serm_annotate_define_gucs();
	serm_blas_define_gucs();
	MarkGUCPrefixReserved("serm");
	if (IsBinaryUpgrade || !process_shared_preload_libraries_in_progress)
		return;
	serm_annotate_register_launcher();
}
