/*
 * The options of serm.train: their table, the texts among them that stand for
 * more than one value, and what core makes of them.
 */
#include "pg/serm.h"

#include <ctype.h>

#include "core/model/cross_encoder_stored.h"
#include "core/train/distill.h"
#include "core/train/loss.h"
#include "pg/evolve/evolve.h"

#define SOURCE_WEIGHT_MAX 1000
#define EPOCHS_MAX 1000
#define BATCH_MAX 4096
#define SHOWN 10000
/* Measured in doc/distillation.md. */
#define ALPHA .9
#define UNLABELLED 20000
/* The default model's, at the weight of many queries. */
#define ENCODER_LOSS "ce:1, ranknet:0.3"
#define CHECKPOINT_SECONDS 300
#define MASK .15
#define ENCODER_CORPUS 100000

#define OPTION(name, type, field, least, most, words)                                                        \
	{                                                                                                        \
		name, type, offsetof(SermTrainSettings, field), least, most, words                                   \
	}
#define INT(name, field, least, most) OPTION(name, SERM_OPTION_INT, field, least, most, NULL)
#define REAL(name, field, least, most) OPTION(name, SERM_OPTION_REAL, field, least, most, NULL)
#define BOOL(name, field) OPTION(name, SERM_OPTION_BOOL, field, 0, 1, NULL)
#define TEXT(name, field) OPTION(name, SERM_OPTION_TEXT, field, 0, 0, NULL)
#define CHOICE(name, field, words) OPTION(name, SERM_OPTION_TEXT, field, 0, 0, words)

/* Of every kind that learns from judgments. */
#define JUDGMENT_OPTIONS                                                                                     \
	INT("seed", seed, 0, PG_INT32_MAX), INT("epochs", epochs, 0, EPOCHS_MAX), TEXT("loss", loss),            \
	    TEXT("source_weights", source_weights), BOOL("class_weights", class_weights),                        \
	    BOOL("rank_weights", rank_weights), BOOL("propensity", propensity),                                  \
	    REAL("propensity_clip", propensity_clip, .001, 1), BOOL("calibrate", calibrate),                     \
	    CHOICE("continue", continued, "auto, always, never"),                                                \
	    INT("continue_above", continue_above, 1, PG_INT32_MAX), INT("parent", parent, 0, PG_INT32_MAX),      \
	    INT("replay_max", replay_max, 1, PG_INT32_MAX), INT("reference", reference, 0, PG_INT32_MAX)
/* Of every training of an encoder. */
#define ENCODER_OPTIONS                                                                                      \
	INT("batch", batch, 1, BATCH_MAX), REAL("learning_rate", learning_rate, 0, 1),                           \
	    REAL("weight_decay", weight_decay, 0, 1), REAL("warmup", warmup, 0, 1), REAL("clip", clip, 0, 1e6),  \
	    REAL("dropout", dropout, -1, .9), INT("checkpoint", checkpoint, -1, PG_INT32_MAX)

/* In all tables of a kind the last row says what to do with the version, and is no part of it. */
static const SermOption setting_table[] = {
    JUDGMENT_OPTIONS,
    INT("heads", heads, 1, SERM_HEADS_MAX),
    INT("pretrain_epochs", pretrain_epochs, -1, EPOCHS_MAX),
    INT("batch", batch, 0, BATCH_MAX),
    REAL("learning_rate", learning_rate, 1e-8, 1),
    REAL("weight_decay", weight_decay, 0, 1),
    REAL("dropout", dropout, 0, .9),
    REAL("pairwise", pairwise, -1, 100),
    REAL("guard", guard, -1, 100),
    INT("curriculum", curriculum, 0, EPOCHS_MAX),
    REAL("margin_cap", margin_cap, 0, 2),
    REAL("new_share", share[SERM_ORIGIN_NEW], 0, 1000),
    REAL("history_share", share[SERM_ORIGIN_HISTORY], 0, 1000),
    REAL("original_share", share[SERM_ORIGIN_ORIGINAL], 0, 1000),
    REAL("anchor", anchor, 0, 1000),
    INT("corpus", corpus, 1, PG_INT32_MAX),
    BOOL("promote", promote),
};

/* What an encoder can be told. */
static const SermOption encoder_table[] = {
    JUDGMENT_OPTIONS,
    ENCODER_OPTIONS,
    INT("list", list, 1, SERM_LOSS_LIST_MAX),
    INT("layers_frozen", layers_frozen, 0, SERM_ENCODER_LAYERS_MAX),
    INT("max_length", max_length, 0, SERM_TOKENS_MAX),
    BOOL("promote", promote),
};

/* The options of serm.train for a kind of model. */
static const SermOption *
table_of(const SermTrainSettings *settings, int *count)
{
	*count = settings->encoder ? (int) lengthof(encoder_table) : (int) lengthof(setting_table);
	return settings->encoder ? encoder_table : setting_table;
}

static const SermOption distill_table[] = {
    INT("teacher_version", distill.teacher_version, 0, PG_INT32_MAX),
    REAL("alpha", distill.alpha, .001, 1),
    REAL("temperature", distill.temperature, .1, 100),
    INT("judged", distill.judged, 0, PG_INT32_MAX),
    INT("unlabelled", distill.unlabelled, 0, PG_INT32_MAX),
    INT("per_query", distill.per_query, 1, PG_INT32_MAX),
    REAL("unlabelled_weight", distill.unlabelled_weight, .001, 1000),
    REAL("failed_share", distill.failed_share, 0, 1),
};

/* What says how a version is continued, or which other version it is compared with. */
static const char *const not_distilled[] = {"continue", "continue_above", "parent", "new_share",
    "history_share", "original_share", "anchor", "replay_max", "reference"};

/* Of those, what a model without judgments can be told; `shown` is its own. */
static const SermOption pretrain_table[] = {
    INT("seed", seed, 0, PG_INT32_MAX),
    INT("pretrain_epochs", pretrain_epochs, -1, EPOCHS_MAX),
    REAL("guard", guard, -1, 100),
    INT("corpus", corpus, 1, PG_INT32_MAX),
    INT("shown", shown, 0, PG_INT32_MAX),
    BOOL("promote", promote),
};

static void
encoder_defaults(SermTrainSettings *settings)
{
	SermEncoderOptions options;

	serm_encoder_options_defaults(&options);
	/* 0 of epochs and learning_rate: by the version it begins with. */
	settings->encoder = true;
	settings->epochs = 0;
	settings->batch = (int32) options.batch;
	settings->list = (int32) options.list_max;
	settings->learning_rate = 0;
	settings->weight_decay = options.weight_decay;
	settings->warmup = options.warmup;
	settings->clip = options.clip;
	settings->dropout = options.dropout;
	settings->loss = ENCODER_LOSS;
	settings->checkpoint = CHECKPOINT_SECONDS;
	settings->pretrain_epochs = 0;
	settings->mask = MASK;
	settings->corpus = ENCODER_CORPUS;
}

/* The same of an encoder that is made here. */
static const SermOption encoder_pretrain_table[] = {
    ENCODER_OPTIONS,
    INT("seed", seed, 0, PG_INT32_MAX),
    INT("epochs", pretrain_epochs, 0, EPOCHS_MAX),
    REAL("mask", mask, 0, 1),
    INT("corpus", corpus, 1, PG_INT32_MAX),
    INT("shown", shown, 0, PG_INT32_MAX),
    BOOL("promote", promote),
};

static const SermOption *
pretrain_table_of(const SermTrainSettings *settings, int *count)
{
	*count = settings->encoder ? (int) lengthof(encoder_pretrain_table) : (int) lengthof(pretrain_table);
	return settings->encoder ? encoder_pretrain_table : pretrain_table;
}

void
serm_train_settings_defaults(SermTrainSettings *settings, const char *kind)
{
	SermTrainOptions options;

	serm_train_defaults(&options);
	*settings = (SermTrainSettings){.seed = 1,
	    .heads = (int32) options.heads,
	    .epochs = (int32) options.epochs,
	    .pretrain_epochs = (int32) options.pretrain_epochs,
	    .batch = (int32) options.batch,
	    .learning_rate = options.learning_rate,
	    .weight_decay = options.weight_decay,
	    .dropout = options.dropout,
	    .pairwise = options.pairwise,
	    .guard = options.guard,
	    .propensity_clip = options.propensity_clip,
	    .continued = "auto",
	    .continue_above = 1000000,
	    .anchor = options.anchor,
	    .replay_max = 1000000,
	    .corpus = 1000000,
	    .shown = SHOWN,
	    .distill = {.alpha = ALPHA,
	        .temperature = options.temperature,
	        .judged = 1000000,
	        .unlabelled = UNLABELLED,
	        .per_query = 50,
	        .unlabelled_weight = 1,
	        .failed_share = .1}};
	memcpy(settings->share, options.share, sizeof(settings->share));
	if (strcmp(kind, SERM_KIND_CROSS_ENCODER) == 0)
		encoder_defaults(settings);
}

/* --- texts that stand for more than one value */

static char *
loss_names(void)
{
	StringInfoData names;
	const SermLoss *loss;

	initStringInfo(&names);
	for (size_t i = 0; (loss = serm_loss_at(i)) != NULL; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", loss->name);
	return names.data;
}

static void
check_loss(const SermTrainSettings *settings, const char *what)
{
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	SermError error = {0};
	uint32 count;

	if (settings->loss == NULL)
		return;
	/* The number of grades decides defaults only, not what can be read. */
	if (serm_loss_parse(settings->loss, SERM_GRADES_MAX, terms, &count, &error) != SERM_OK)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"loss\" of %s: %s", what, error.message),
		    errhint("Write losses with coefficients, as in \"ce:1, ranknet:0.3\". Valid losses are: %s.",
		        loss_names()));
	if (settings->pairwise >= 0 && !settings->encoder)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("options \"loss\" and \"pairwise\" of %s exclude each other", what),
		    errhint("\"pairwise\" is the coefficient of ranknet in the default loss:"
		            " write \"ce:1, ranknet:%g\" instead.",
		        settings->pairwise));
}

pg_noreturn static void
bad_source(const char *item)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
	    errmsg("option \"source_weights\" cannot read \"%s\"", item),
	    errhint("Write sources with weights from 0 to 1000, as in \"human:1, agents:0.5\"."
	            " Valid sources are: human, agents, clicks, import."));
}

static void
read_source(char *item, double *weight)
{
	char *whole = pstrdup(item), *colon = strchr(item, ':'), *end;
	double value;

	if (colon == NULL)
		bad_source(whole);
	*colon = '\0';
	value = strtod(colon + 1, &end);
	while (isspace((unsigned char) *end))
		end++;
	if (end == colon + 1 || *end != '\0' || !(value >= 0 && value <= SOURCE_WEIGHT_MAX))
		bad_source(whole);
	while (isspace((unsigned char) *item))
		item++;
	while (colon > item && isspace((unsigned char) colon[-1]))
		*--colon = '\0';
	for (int source = 0; source < SERM_SOURCE_COUNT; source++)
		if (strcmp(item, serm_source_names[source]) == 0) {
			weight[source] = value;
			return;
		}
	bad_source(whole);
}

void
serm_train_settings_sources(const SermTrainSettings *settings, double *weight)
{
	char *rest = settings->source_weights != NULL ? pstrdup(settings->source_weights) : NULL;

	for (int source = 0; source < SERM_SOURCE_COUNT; source++)
		weight[source] = 1;
	while (rest != NULL) {
		char *item = rest, *comma = strchr(rest, ',');

		rest = NULL;
		if (comma != NULL) {
			*comma = '\0';
			rest = comma + 1;
		}
		read_source(item, weight);
	}
}

bool
serm_train_settings_need_reference(const SermTrainSettings *settings)
{
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	SermError error;
	uint32 count;

	if (settings->reference > 0 || settings->loss == NULL || settings->distill.teacher != NULL)
		return settings->reference > 0;
	serm_check(serm_loss_parse(settings->loss, SERM_GRADES_MAX, terms, &count, &error), &error);
	return serm_loss_require(terms, count, 0, &error) != SERM_OK;
}

void
serm_train_settings_read(const Jsonb *options, SermTrainSettings *settings, const char *what)
{
	double sources[SERM_SOURCE_COUNT];
	int count;
	const SermOption *table = table_of(settings, &count);

	serm_options_read(options, table, count, settings, what);
	/* JSON null: the default. */
	if (settings->loss == NULL && settings->encoder)
		settings->loss = ENCODER_LOSS;
	check_loss(settings, what);
	if (settings->continued == NULL)
		settings->continued = "auto";
	if (settings->parent > 0 && strcmp(settings->continued, "never") == 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg(
		        "option \"parent\" of %s names a version to continue, and \"continue\" is \"never\"", what),
		    errhint("Leave one of them out."));
	serm_train_settings_sources(settings, sources);
	settings->promote_given |= options != NULL && serm_json_has(options, "promote");
}

Jsonb *
serm_train_settings_write(const SermTrainSettings *settings)
{
	int count;
	const SermOption *table = table_of(settings, &count);

	return serm_options_write(table, count - 1, settings);
}

void
serm_pretrain_settings_read(const Jsonb *options, SermTrainSettings *settings)
{
	int count;
	const SermOption *table = pretrain_table_of(settings, &count);

	serm_options_read(options, table, count, settings, "serm.pretrain");
	settings->promote_given = options != NULL && serm_json_has(options, "promote");
}

Jsonb *
serm_pretrain_settings_write(const SermTrainSettings *settings)
{
	int count;
	const SermOption *table = pretrain_table_of(settings, &count);

	return serm_options_write(table, count - 1, settings);
}

/* The options of serm.train that a distillation knows, and its own; the last of the first is `promote`. */
static SermOption *
distill_options(const SermTrainSettings *settings, bool with_promote, int *count)
{
	int known;
	const SermOption *table = table_of(settings, &known);
	SermOption *options = palloc(mul_size(known, sizeof(SermOption)) + sizeof(distill_table));

	*count = 0;
	for (int i = 0; i < known - (with_promote ? 0 : 1); i++) {
		bool kept = true;

		for (int n = 0; n < (int) lengthof(not_distilled); n++)
			kept &= strcmp(table[i].name, not_distilled[n]) != 0;
		if (kept)
			options[(*count)++] = table[i];
	}
	memcpy(options + *count, distill_table, sizeof(distill_table));
	*count += lengthof(distill_table);
	return options;
}

/* Does the loss that was asked for learn from a teacher, and from nothing else that is not there? */
static void
check_taught_loss(const SermTrainSettings *settings)
{
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	SermError error = {0};
	uint32 count;

	if (settings->loss == NULL)
		return;
	serm_check(serm_loss_parse(settings->loss, SERM_GRADES_MAX, terms, &count, &error), &error);
	if (serm_loss_require(terms, count, SERM_LOSS_TEACHER, &error) != SERM_OK)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"loss\" of serm.distill: %s", error.message),
		    errhint("Leave that loss out: a distillation compares with no other version of the student."));
	if (serm_distill_mix(terms, &count, settings->distill.alpha, true, &error) != SERM_OK)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"loss\" of serm.distill: %s", error.message),
		    errhint("Write for example \"ce:1, ranknet:0.3, kl(temperature=2):1, margin_mse:0.3\"."));
	if (settings->distill.temperature != 1)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("options \"loss\" and \"temperature\" of serm.distill exclude each other"),
		    errhint("Write the temperature as a parameter: \"kl(temperature=%g)\".",
		        settings->distill.temperature));
}

void
serm_distill_settings_read(const Jsonb *options, SermTrainSettings *settings)
{
	double sources[SERM_SOURCE_COUNT];
	int count;
	SermOption *table = distill_options(settings, true, &count);

	settings->loss = NULL;
	serm_options_read(options, table, count, settings, "serm.distill");
	settings->continued = "never";
	check_loss(settings, "serm.distill");
	check_taught_loss(settings);
	/* An encoder has no default of its own, and core has one for the others. */
	if (settings->loss == NULL && settings->encoder)
		settings->loss =
		    psprintf(ENCODER_LOSS ", kl(temperature=%g):1, margin_mse:1", settings->distill.temperature);
	serm_train_settings_sources(settings, sources);
	settings->promote_given = options != NULL && serm_json_has(options, "promote");
}

Jsonb *
serm_distill_settings_write(const SermTrainSettings *settings)
{
	int count;
	SermOption *table = distill_options(settings, false, &count);

	return serm_options_write(table, count, settings);
}

SermTrainOptions
serm_train_settings_core(const SermTrainSettings *settings)
{
	return (SermTrainOptions){.seed = (uint64) settings->seed,
	    .heads = (uint32) settings->heads,
	    .epochs = (uint32) settings->epochs,
	    .pretrain_epochs = (uint32) settings->pretrain_epochs,
	    .batch = (uint32) settings->batch,
	    .learning_rate = settings->learning_rate,
	    .weight_decay = settings->weight_decay,
	    .dropout = settings->dropout,
	    .loss = settings->loss,
	    .pairwise = settings->pairwise,
	    .guard = settings->guard,
	    .class_weights = settings->class_weights,
	    .rank_weights = settings->rank_weights,
	    .curriculum = (uint32) settings->curriculum,
	    .margin_cap = settings->margin_cap,
	    .propensity_clip = settings->propensity_clip,
	    .share = {settings->share[SERM_ORIGIN_NEW], settings->share[SERM_ORIGIN_HISTORY],
	        settings->share[SERM_ORIGIN_ORIGINAL]},
	    .anchor = settings->anchor,
	    .calibrate = settings->calibrate,
	    .alpha = settings->distill.alpha,
	    .temperature = settings->distill.temperature};
}

SermEncoderTrainOptions
serm_train_settings_encoder(const SermTrainSettings *settings)
{
	SermEncoderTrainOptions options = {
	    .weights = serm_train_settings_core(settings), .tokens_max = (uint32) settings->max_length};

	options.fit = (SermEncoderOptions){.seed = (uint64) settings->seed,
	    .epochs = (uint32) settings->epochs,
	    .batch = (uint32) settings->batch,
	    .list_max = (uint32) settings->list,
	    .learning_rate = settings->learning_rate,
	    .weight_decay = settings->weight_decay,
	    .warmup = settings->warmup,
	    .clip = settings->clip,
	    .dropout = settings->dropout,
	    .freeze = (uint32) settings->layers_frozen,
	    .loss = settings->loss,
	    .alpha = settings->distill.alpha};
	return options;
}

SermEncoderPretrainOptions
serm_pretrain_settings_encoder(const SermTrainSettings *settings)
{
	SermEncoderPretrainOptions options;

	serm_encoder_pretrain_defaults(&options);
	options.seed = (uint64) settings->seed;
	options.epochs = (uint32) settings->pretrain_epochs;
	options.batch = (uint32) settings->batch;
	if (settings->learning_rate > 0)
		options.learning_rate = settings->learning_rate;
	options.weight_decay = settings->weight_decay;
	options.warmup = settings->warmup;
	options.clip = settings->clip;
	options.dropout = settings->dropout;
	options.mask = settings->mask;
	return options;
}
