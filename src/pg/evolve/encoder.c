/*
 * What is different about training a cross-encoder: it always begins with the
 * weights of a version. By default that is the newest one that no judgment took
 * part in, so that each training reads all judgments once and none of them
 * twice; a version that has learned is continued on demand.
 */
#include "pg/serm.h"

#include "core/model/cross_encoder_stored.h"
#include "miscadmin.h"
#include "pg/evolve/evolve.h"

/* Epochs and rate of a model that was imported, and of one that began here: the latter is small. */
#define IMPORTED_EPOCHS 3
#define IMPORTED_RATE 2e-5
#define OWN_EPOCHS 4
#define OWN_RATE 2e-4

/* --- where it begins */

static bool
has_more_judgments(const SermModelRow *row, int32 bound)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_INT4(bound)};
	bool null;

	serm_spi_execute("SELECT pg_catalog.count(*) > $2 FROM (SELECT FROM serm.judgment j WHERE j.model = $1"
	                 " LIMIT $2::bigint + 1) j",
	    SPI_OK_SELECT, true, params, lengthof(params));
	return DatumGetBool(serm_spi_value(0, 1, &null));
}

/* The newest version that no judgment took part in; 0 without one. */
static int
base_version(const SermModelRow *row)
{
	SermParam params[] = {SERM_TEXT(row->name)};
	bool null;

	serm_spi_execute("SELECT coalesce(pg_catalog.max(v.version), 0) FROM serm.version AS v WHERE v.model = $1"
	                 " AND (v.config ->> 'generation' = '0' OR v.config ->> 'source' = 'import')",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return DatumGetInt32(serm_spi_value(0, 1, &null));
}

static bool
config_says(const SermModelRow *row, int version, const char *key, const char *value)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_INT4(version), SERM_TEXT(key), SERM_TEXT(value)};

	serm_spi_execute("SELECT FROM serm.version AS v WHERE v.model = $1 AND v.version = $2"
	                 " AND v.config ->> $3 = $4",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed > 0;
}

static int
choose_begin(const SermTraining *training)
{
	const SermTrainSettings *settings = &training->settings;
	const SermModelRow *row = training->row;
	int base = base_version(row);

	if (settings->parent != 0)
		return settings->parent;
	if (strcmp(settings->continued, "always") == 0 ||
	    (strcmp(settings->continued, "auto") == 0 && row->active != 0 &&
	        has_more_judgments(row, settings->continue_above))) {
		if (row->active == 0)
			ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			    errmsg("model \"%s\" has no active version to continue", row->name),
			    errhint("CALL serm.train('%s') without the option \"continue\" first.", row->name));
		return row->active;
	}
	return base != 0 ? base : row->active;
}

/* A version that has judgments behind it is told apart: what is new to it, and what it forgets. */
static bool
has_learned(const SermModelRow *row, int version)
{
	return !config_says(row, version, "generation", "0") && !config_says(row, version, "source", "import");
}

/* Of the weights of a version, without reading them. */
static Size
stored_bytes(const SermModelRow *row, int version)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_INT4(version)};
	bool null;

	serm_spi_execute("SELECT coalesce(pg_catalog.sum(pg_catalog.octet_length(t.data)), 0)::bigint"
	                 " FROM serm.tensor AS t WHERE t.model = $1 AND t.version = $2",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return (Size) DatumGetInt64(serm_spi_value(0, 1, &null));
}

static void
resolve(SermTrainSettings *settings, bool imported)
{
	if (settings->epochs == 0)
		settings->epochs = imported ? IMPORTED_EPOCHS : OWN_EPOCHS;
	if (settings->learning_rate == 0)
		settings->learning_rate = imported ? IMPORTED_RATE : OWN_RATE;
}

void
serm_encoder_training_open(SermTraining *training)
{
	const SermModelRow *row = training->row;
	SermHost *host = &training->host;
	Size bytes;

	training->begin = choose_begin(training);
	if (training->begin == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no version to begin with", row->name),
		    errhint("Make one with CALL serm.pretrain('%s').", row->name));
	if (has_learned(row, training->begin))
		training->parent = serm_scorer_open(row->name, training->begin, SERM_SEE_WRITES, host->context);
	resolve(&training->settings,
	    base_version(row) == 0 || config_says(row, base_version(row), "source", "import"));
	training->begin_context = AllocSetContextCreate(host->context, "serm begin", ALLOCSET_SMALL_SIZES);
	/* They lie beside the arena, whose limit is the limit of all. */
	bytes = stored_bytes(row, training->begin);
	if (bytes >= host->arena.limit - host->arena.total)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY),
		    errmsg("the weights of model \"%s\" alone do not fit in %d MB", row->name, serm_train_memory_mb),
		    errhint("Raise serm.train_memory."));
	host->arena.limit -= bytes;
	training->begin_tensors = serm_version_tensors(row, training->begin, training->begin_context);
}

/* --- fitting */

void
serm_encoder_training_fit(SermTraining *training, const SermTrainingSet *set)
{
	SermTrainHost host = serm_training_host(training);
	SermEncoderTrainOptions options = serm_train_settings_encoder(&training->settings);
	SermEncoderKeeper keeper = {serm_checkpoint_restore, serm_checkpoint_keep, &training->checkpoint};
	bool keeps = training->settings.checkpoint >= 0;

	training->gemm_name = "built-in";
	training->checkpoint = (SermCheckpoint){
	    &training->host, training->row->name, training->settings.checkpoint, training->level, 0, 0};
	training->status =
	    serm_train_encoder(set, &training->begin_tensors, &options, &host, keeps ? &keeper : NULL,
	        &training->host.arena, &training->tensors, &training->report, &training->error);
	MemoryContextDelete(training->begin_context);
	training->begin_context = NULL;
}

/* --- making one */

bool
serm_encoder_unmade(const SermModelRow *row)
{
	SermParam params[] = {SERM_TEXT(row->name)};

	serm_spi_execute(
	    "SELECT FROM serm.version AS v WHERE v.model = $1 LIMIT 1", SPI_OK_SELECT, false, params, 1);
	return row->options.encoder.layers > 0 && SPI_processed == 0;
}

/* The documents, and the queries of the log. */
static SermText *
all_words(SermTraining *training, size_t *count)
{
	const SermPairSet *shown = &training->shown;
	SermText *words;
	SermError error = {0};

	*count = training->corpus_count + shown->query_count;
	words = serm_arena_array(&training->host.arena, Max(*count, 1), sizeof(SermText));
	if (words == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	if (training->corpus_count > 0)
		memcpy(words, training->corpus, training->corpus_count * sizeof(SermText));
	for (size_t q = 0; q < shown->query_count; q++)
		words[training->corpus_count + q] = shown->queries[q].utf8;
	return words;
}

void
serm_encoder_training_make(SermTraining *training)
{
	const SermEncoderShape *shape = &training->row->options.encoder;
	SermEncoderMaking making = {(uint32) shape->layers, (uint32) shape->hidden, (uint32) shape->heads,
	    (uint32) shape->intermediate, (uint32) shape->vocab, (uint32) shape->max_length,
	    (uint32) training->row->grade_count};
	SermEncoderPretrainOptions options = serm_pretrain_settings_encoder(&training->settings);
	SermTrainHost host = serm_training_host(training);
	SermEncoderKeeper keeper = {serm_checkpoint_restore, serm_checkpoint_keep, &training->checkpoint};
	size_t count;
	SermText *words;

	if (shape->layers == 0)
		ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		    errmsg("model \"%s\" was imported: it is pre-trained already", training->row->name),
		    errhint("CALL serm.train('%s') fits it to the judgments.", training->row->name));
	words = all_words(training, &count);
	training->gemm_name = "built-in";
	training->checkpoint = (SermCheckpoint){
	    &training->host, training->row->name, training->settings.checkpoint, training->level, 0, 0};
	training->status = serm_encoder_make(&making, words, count, training->corpus, training->corpus_count,
	    &options, &host, training->settings.checkpoint >= 0 ? &keeper : NULL, &training->host.arena,
	    &training->tensors, &training->report, &training->error);
}

/* --- describing */

Jsonb *
serm_encoder_json(const SermTensorSet *tensors)
{
	static const char *const kinds[] = {"WordPiece", "BPE", "Unigram"};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "serm encoder", ALLOCSET_SMALL_SIZES);
	const SermTensor *text = serm_tensor_find(tensors, SERM_ENCODER_CONFIG_TENSOR);
	const SermTensor *tables = serm_tensor_find(tensors, SERM_ENCODER_TOKENIZER_TENSOR);
	const SermTokenizer *tokenizer;
	SermEncoderConfig config;
	StringInfo json = serm_json_begin();
	double parameters = 0;
	SermError error = {0};
	SermArena arena;
	Jsonb *result;

	serm_arena_init(&arena, serm_context_allocator(context), SIZE_MAX);
	serm_check(serm_encoder_config_read(text->data, text->bytes, &arena, &config, &error), &error);
	serm_check(serm_tokenizer_open(tables->data, tables->bytes, &arena, &tokenizer, &error), &error);
	for (size_t i = 0; i < tensors->count; i++)
		if (tensors->tensors[i].dtype != SERM_DTYPE_U8)
			parameters += (double) (tensors->tensors[i].bytes / serm_dtype_size(tensors->tensors[i].dtype));
	serm_json_text(json, "architecture", serm_encoder_architecture_name(config.architecture));
	serm_json_number(json, "layers", config.layers);
	serm_json_number(json, "hidden", config.hidden);
	serm_json_number(json, "heads", config.heads);
	serm_json_number(json, "parameters", parameters);
	serm_json_text(json, "tokenizer", kinds[serm_tokenizer_kind(tokenizer)]);
	serm_json_number(json, "vocab", serm_tokenizer_vocab(tokenizer));
	serm_json_number(json, "tokens_max", serm_encoder_stored_tokens_max(&config, tokenizer));
	result = serm_json_end(json);
	MemoryContextDelete(context);
	return result;
}
