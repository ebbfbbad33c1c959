#include "pg/serm.h"

#include "utils/guc.h"

char *serm_default_model = NULL;
int serm_train_memory_mb = 1024;
int serm_mine_pairs_max = 2000000;

void
serm_define_gucs(void)
{
	DefineCustomStringVariable("serm.model", "The model that scoring functions use when none is named.",
	    "Empty: the only model there is.", &serm_default_model, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("serm.train_memory", "Memory that training one model may take.", NULL,
	    &serm_train_memory_mb, 1024, 64, 1024 * 1024, PGC_SUSET, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("serm.mine_pairs_max",
	    "Distinct pairs of query and document that one call of a mining function may read.",
	    "Mining keeps about 150 bytes for each of them.", &serm_mine_pairs_max, 2000000, 1, 1000000000,
	    PGC_USERSET, 0, NULL, NULL, NULL);
}
