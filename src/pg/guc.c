#include "pg/serm.h"

#include "utils/guc.h"

char *serm_default_model = NULL;
int serm_train_memory_mb = 1024;

void
serm_define_gucs(void)
{
	DefineCustomStringVariable("serm.model", "The model that scoring functions use when none is named.",
	    "Empty: the only model there is.", &serm_default_model, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("serm.train_memory", "Memory that training one model may take.", NULL,
	    &serm_train_memory_mb, 1024, 64, 1024 * 1024, PGC_SUSET, GUC_UNIT_MB, NULL, NULL, NULL);
}
