/*
 * Samples as a version sees them, for what weighs agents against it.
 */
#include "pg/store/store.h"

#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/array.h"

/* Samples whose texts are in memory at a time. */
#define READ_SAMPLES 100

static SermText
text_value(uint64 row, int column)
{
	char *string = serm_spi_string(row, column);

	return (SermText){string, strlen(string)};
}

/* By their ids: between two of them may lie any number of others. */
static void
read_texts(const char *model, const int64 *ids, size_t count)
{
	Datum *elements = palloc(mul_size(count, sizeof(Datum)));
	SermParam params[2] = {SERM_TEXT(model)};

	for (size_t i = 0; i < count; i++)
		elements[i] = Int64GetDatum(ids[i]);
	params[1] = SERM_DATUM(INT8ARRAYOID,
	    PointerGetDatum(construct_array(elements, (int) count, INT8OID, 8, true, TYPALIGN_DOUBLE)));
	serm_spi_execute("SELECT s.id, s.query, s.doc FROM serm.sample s WHERE s.model = $1 AND s.id = ANY ($2)"
	                 " ORDER BY s.id",
	    SPI_OK_SELECT, false, params, lengthof(params));
}

static void
predict_page(SermScorer *scorer, const int64 *ids, size_t count, uint32 grades, float *prior)
{
	size_t at = 0;
	bool null;

	for (size_t i = 0; i < count * grades; i++)
		prior[i] = 1.0f / (float) grades;
	read_texts(serm_scorer_row(scorer)->name, ids, count);
	for (uint64 row = 0; row < SPI_processed; row++) {
		int64 id = DatumGetInt64(serm_spi_value(row, 1, &null));
		SermPrediction prediction;

		CHECK_FOR_INTERRUPTS();
		while (at < count && ids[at] != id)
			at++;
		if (at == count)
			break;
		serm_scorer_predict(scorer, text_value(row, 2), text_value(row, 3), &prediction);
		memcpy(&prior[at * grades], prediction.probability, grades * sizeof(float));
	}
	SPI_freetuptable(SPI_tuptable);
}

void
serm_samples_predict(SermScorer *scorer, const int64 *ids, size_t count, uint32 grades, float *prior)
{
	for (size_t first = 0; first < count; first += READ_SAMPLES) {
		MemoryContext page =
		    AllocSetContextCreate(CurrentMemoryContext, "serm samples, one step", ALLOCSET_DEFAULT_SIZES);
		MemoryContext previous = MemoryContextSwitchTo(page);

		predict_page(scorer, &ids[first], Min(READ_SAMPLES, count - first), grades, &prior[first * grades]);
		MemoryContextSwitchTo(previous);
		MemoryContextDelete(page);
	}
}
