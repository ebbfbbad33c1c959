/*
 * serm.import_model: a cross-encoder from the files of a model repository.
 * Everything is read, verified and stored in one transaction, so a model is
 * imported as a whole or not at all, and its files are not needed afterwards.
 */
#include "pg/serm.h"

#include "catalog/pg_authid.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"

#include "core/model/cross_encoder_stored.h"
#include "core/model/encoder_layout.h"
#include "core/model/safetensors.h"
#include "core/model/tokenizer_read.h"
#include "pg/store/internal.h"

#define WEIGHTS "model.safetensors"
#define WEIGHTS_INDEX "model.safetensors.index.json"
#define CONFIG_BYTES_MAX ((Size) 1 << 20)
#define TOKENIZER_BYTES_MAX ((Size) 64 << 20)
#define NOTICE_NAMES_MAX 8

/* Arguments of both forms; the second is the directory or the names of the files. */
enum { NAME, SOURCE, OPTIONS, GRADES, LOG_TABLE, DOCUMENTS, CONTENTS };

typedef struct ImportOptions {
	SermModelOptions model; /* first: the table of the models' options is used as it is */
	int max_length;         /* tokens of an input; 0: what the files say */
} ImportOptions;

typedef struct Import {
	SermImportSource source;
	ImportOptions options;
	SermArena arena;
	SermHost host; /* hears interrupts */
	SermWatch watch;
	SermError error;
	SermEncoderConfig config;
	SermTensor *tensors;
	uint32 tensor_count;
	uint64 parameters;
	StringInfoData ignored; /* names of tensors that are not needed */
	int ignored_count;
} Import;

/* Raise what reading a file found. What is wrong with a file of somebody's making is no damage of ours. */
static void
check_file(Import *import, SermStatus status, const char *file)
{
	int code;

	if (status == SERM_OK)
		return;
	if (status == SERM_ERR_CANCELED)
		serm_host_check(&import->host, status, &import->error);
	if (status == SERM_ERR_MEMORY)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory while importing %s", file));
	code = status == SERM_ERR_CORRUPT ? ERRCODE_INVALID_BINARY_REPRESENTATION
	       : status == SERM_ERR_LIMIT ? ERRCODE_PROGRAM_LIMIT_EXCEEDED
	                                  : ERRCODE_FEATURE_NOT_SUPPORTED;
	ereport(ERROR, errcode(code), errmsg("%s cannot be imported: %s", file, import->error.message),
	    status == SERM_ERR_INVALID && strcmp(file, "config.json") == 0
	        ? errhint("Import BERT, RoBERTa, XLM-R or ModernBERT sequence classifiers with the settings that "
	                  "doc/import.md names.")
	        : 0);
}

pg_noreturn static void
missing_file(const Import *import, const char *what, const char *hint)
{
	ereport(ERROR, errcode(ERRCODE_UNDEFINED_FILE),
	    errmsg("there is no %s %s%s", what, import->source.directory != NULL ? "in " : "among the files",
	        import->source.directory != NULL ? import->source.directory : ""),
	    errhint("%s", hint));
}

/* --- config and tokenizer */

static void
add_tensor(Import *import, const char *name, SermDtype dtype, uint32 rank, const uint64 *shape,
    const void *data, Size bytes)
{
	SermTensor *tensor = &import->tensors[import->tensor_count++];

	*tensor = (SermTensor){.dtype = dtype, .rank = rank, .data = data, .bytes = bytes};
	strlcpy(tensor->name, name, sizeof(tensor->name));
	memcpy(tensor->shape, shape, rank * sizeof(uint64));
}

static void
read_config(Import *import)
{
	SermText file = serm_import_text(&import->source, "config.json", CONFIG_BYTES_MAX);
	size_t length;
	char *json;

	if (file.bytes == NULL)
		missing_file(import, "config.json", "A model repository in the form of Hugging Face is needed.");
	check_file(import,
	    serm_encoder_config_read(file.bytes, file.length, &import->arena, &import->config, &import->error),
	    "config.json");
	check_file(import, serm_encoder_supported(&import->config, &import->error), "config.json");
	json = serm_encoder_config_write(&import->config, &import->arena, &length);
	if (json == NULL)
		check_file(import, SERM_ERR_MEMORY, "config.json");
	add_tensor(import, SERM_ENCODER_CONFIG_TENSOR, SERM_DTYPE_U8, 1, &(uint64){length}, json, length);
	pfree(unconstify(char *, file.bytes));
}

static const SermTokenizer *
read_tokenizer(Import *import)
{
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "serm tokenizer", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermTokenizerFiles files = {
	    .tokenizer = serm_import_text(&import->source, "tokenizer.json", TOKENIZER_BYTES_MAX),
	    .tokenizer_config = serm_import_text(&import->source, "tokenizer_config.json", CONFIG_BYTES_MAX),
	    .watch = &import->watch};
	SermArena arena;
	SermTokenizerSpec spec;
	const SermTokenizer *tokenizer;
	const unsigned char *bytes;
	unsigned char *copy;
	size_t length;

	if (files.tokenizer.bytes == NULL) {
		files.vocab_txt = serm_import_text(&import->source, "vocab.txt", TOKENIZER_BYTES_MAX);
		files.vocab_json = serm_import_text(&import->source, "vocab.json", TOKENIZER_BYTES_MAX);
		files.merges = serm_import_text(&import->source, "merges.txt", TOKENIZER_BYTES_MAX);
		if (files.vocab_txt.bytes == NULL && (files.vocab_json.bytes == NULL || files.merges.bytes == NULL))
			missing_file(import, "tokenizer",
			    "Needed is tokenizer.json, or vocab.txt, or vocab.json together with merges.txt.");
	}
	serm_arena_init(&arena, serm_context_allocator(context), SIZE_MAX);
	check_file(import, serm_tokenizer_read(&files, &arena, &spec, &import->error), "the tokenizer");
	if (import->options.max_length != 0)
		spec.tokens_max = (uint32) import->options.max_length;
	check_file(import, serm_tokenizer_write(&spec, &arena, &bytes, &length, &import->error), "the tokenizer");
	MemoryContextSwitchTo(previous);

	copy = serm_arena_reserve(&import->arena, length);
	if (copy == NULL)
		check_file(import, SERM_ERR_MEMORY, "the tokenizer");
	memcpy(copy, bytes, length);
	MemoryContextDelete(context);
	check_file(import, serm_tokenizer_open(copy, length, &import->arena, &tokenizer, &import->error),
	    "the tokenizer");
	check_file(import, serm_encoder_fits(&import->config, tokenizer, &import->error), "the tokenizer");
	add_tensor(import, SERM_ENCODER_TOKENIZER_TENSOR, SERM_DTYPE_U8, 1, &(uint64){length}, copy, length);
	return tokenizer;
}

/* --- weights */

static SermFileTensors
read_header(Import *import, const SermImportFile *file)
{
	unsigned char prefix[SERM_SAFETENSORS_PREFIX] = {0};
	SermFileTensors tensors;
	size_t length = 0;
	char *header;

	serm_import_read(file, 0, prefix, Min(file->length, sizeof(prefix)));
	check_file(
	    import, serm_safetensors_header_length(prefix, file->length, &length, &import->error), file->name);
	header = palloc(length + 1);
	serm_import_read(file, SERM_SAFETENSORS_PREFIX, header, length);
	check_file(import,
	    serm_safetensors_read(
	        (SermText){header, length}, file->length, &import->arena, &tensors, &import->error),
	    file->name);
	pfree(header);
	return tensors;
}

/* The data of a tensor that the encoder needs; others are refused, but for known ones that nothing needs. */
static void
read_tensor(Import *import, const SermImportFile *file, const SermFileTensor *tensor)
{
	char name[SERM_TENSOR_NAME_MAX];
	void *data;

	switch (serm_encoder_tensor_name(&import->config, tensor->name, name)) {
		case SERM_TENSOR_IGNORED:
			if (import->ignored_count++ < NOTICE_NAMES_MAX)
				appendStringInfo(
				    &import->ignored, "%s%s", import->ignored_count > 1 ? ", " : "", tensor->name);
			return;
		case SERM_TENSOR_UNKNOWN:
			ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			    errmsg("%s cannot be imported: tensor \"%s\" is no part of a %s sequence classifier",
			        file->name, tensor->name, serm_encoder_architecture_name(import->config.architecture)),
			    errhint("Supported are BERT, RoBERTa, XLM-R and ModernBERT without adapters."));
		default:
			break;
	}
	for (uint32 i = 0; i < import->tensor_count; i++)
		if (strcmp(import->tensors[i].name, name) == 0)
			ereport(ERROR, errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			    errmsg("%s cannot be imported: tensor \"%s\" is there twice, with and without prefix",
			        file->name, name));
	data = serm_arena_reserve(&import->arena, tensor->bytes);
	if (data == NULL)
		check_file(import, SERM_ERR_MEMORY, file->name);
	serm_import_read(file, tensor->offset, data, tensor->bytes);
	add_tensor(import, name, tensor->dtype, tensor->rank, tensor->shape, data, tensor->bytes);
	import->parameters += tensor->bytes / serm_dtype_size(tensor->dtype);
}

static void
read_single(Import *import, SermImportFile *file)
{
	SermFileTensors tensors = read_header(import, file);

	for (uint32 i = 0; i < tensors.count; i++)
		read_tensor(import, file, &tensors.tensors[i]);
	serm_import_close(file);
}

static void
read_sharded(Import *import, SermText index)
{
	SermShards shards;
	SermFileTensors *tensors, all;
	SermImportFile file;

	check_file(import, serm_safetensors_index(index, &import->arena, &shards, &import->error), WEIGHTS_INDEX);
	tensors = palloc0(shards.file_count * sizeof(SermFileTensors));
	for (uint32 i = 0; i < shards.file_count; i++) {
		if (!serm_import_open(&import->source, shards.files[i], &file))
			missing_file(import, shards.files[i], "The index of the weights names it.");
		tensors[i] = read_header(import, &file);
		serm_import_close(&file);
	}
	check_file(
	    import, serm_safetensors_join(&shards, tensors, &import->arena, &all, &import->error), WEIGHTS_INDEX);
	for (uint32 i = 0, at = 0; i < shards.file_count; i++) {
		if (!serm_import_open(&import->source, shards.files[i], &file))
			missing_file(import, shards.files[i], "The index of the weights names it.");
		for (; at < all.count && all.tensors[at].shard == i; at++)
			read_tensor(import, &file, &all.tensors[at]);
		serm_import_close(&file);
	}
}

static void
read_weights(Import *import)
{
	SermImportFile file;
	SermText index;

	if (serm_import_open(&import->source, WEIGHTS, &file))
		read_single(import, &file);
	else {
		index = serm_import_text(&import->source, WEIGHTS_INDEX, SERM_SAFETENSORS_HEADER_MAX);
		if (index.bytes == NULL)
			missing_file(import, WEIGHTS,
			    "Other formats (pytorch_model.bin, ONNX) are not read: save the model with "
			    "save_pretrained(..., "
			    "safe_serialization=True).");
		read_sharded(import, index);
	}
	check_file(import,
	    serm_encoder_tensors_check(&import->config, &(SermTensorSet){import->tensors, import->tensor_count},
	        &import->watch, &import->error),
	    "the weights");
	if (import->ignored_count > 0)
		ereport(NOTICE, errmsg("%d tensors are not needed and were left out: %s%s", import->ignored_count,
		                    import->ignored.data, import->ignored_count > NOTICE_NAMES_MAX ? ", ..." : ""));
}

/* --- the model */

/* A label is a grade; one label alone is the logit of the better of two. */
static Datum
default_grades(const SermEncoderConfig *config)
{
	StringInfoData names;

	if (config->labels == 1)
		return OidInputFunctionCall(F_ARRAY_IN, "{irrelevant,relevant}", TEXTOID, -1);
	if (config->labels == 4)
		return OidInputFunctionCall(F_ARRAY_IN, "{bad,fair,good,excellent}", TEXTOID, -1);
	initStringInfo(&names);
	for (uint32 i = 0; i < config->labels; i++)
		appendStringInfo(&names, "%c%u", i == 0 ? '{' : ',', i);
	appendStringInfoChar(&names, '}');
	return OidInputFunctionCall(F_ARRAY_IN, names.data, TEXTOID, -1);
}

static void
check_grades_fit(const SermEncoderConfig *config, Datum grades)
{
	ArrayType *array = DatumGetArrayTypeP(grades);
	int count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	int needed = config->labels == 1 ? 2 : (int) config->labels;

	if (count != needed)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("this model has %u labels, which are %d grades, not %d", config->labels, needed, count),
		    errhint("Name the grades from worst to best in the order of the labels, or leave them out."));
}

static Jsonb *
describe(const Import *import, const SermTokenizer *tokenizer)
{
	static const char *const kinds[] = {"WordPiece", "BPE", "Unigram"};
	const SermEncoderConfig *config = &import->config;
	char *json =
	    psprintf("{\"source\": \"import\", \"architecture\": \"%s\", \"layers\": %u, \"hidden\": %u, "
	             "\"heads\": %u, \"labels\": %u, \"parameters\": " UINT64_FORMAT ", \"tokenizer\": \"%s\", "
	             "\"vocab\": %u, \"max_length\": %u}",
	        serm_encoder_architecture_name(config->architecture), config->layers, config->hidden,
	        config->heads, config->labels, import->parameters, kinds[serm_tokenizer_kind(tokenizer)],
	        serm_tokenizer_vocab(tokenizer), serm_encoder_stored_tokens_max(config, tokenizer));

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

static void
read_options(const Jsonb *given, ImportOptions *options)
{
	const int count = serm_model_option_count(SERM_KIND_CROSS_ENCODER);
	SermOption *table = palloc((count + 1) * sizeof(SermOption));
	ImportOptions plain;

	memcpy(table, serm_model_option_table, count * sizeof(SermOption));
	table[count] = (SermOption){
	    "max_length", SERM_OPTION_INT, offsetof(ImportOptions, max_length), 8, SERM_TOKENS_MAX, NULL};
	plain.max_length = 0;
	serm_model_options_read(SERM_KIND_CROSS_ENCODER, NULL, "serm.import_model", &plain.model);
	*options = plain;
	serm_options_read(given, table, count + 1, options, "serm.import_model");
	serm_model_options_keep(&options->model, &plain.model);
}

static int
import_model(FunctionCallInfo fcinfo, Import *import)
{
	const SermTokenizer *tokenizer;
	SermNewModel new = {.name = PG_ARGISNULL(NAME) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(NAME)),
	    .kind = SERM_KIND_CROSS_ENCODER,
	    .log = PG_ARGISNULL(LOG_TABLE) ? InvalidOid : PG_GETARG_OID(LOG_TABLE),
	    .documents = PG_ARGISNULL(DOCUMENTS) ? InvalidOid : PG_GETARG_OID(DOCUMENTS)};
	int level, version;

	read_options(PG_ARGISNULL(OPTIONS) ? NULL : PG_GETARG_JSONB_P(OPTIONS), &import->options);
	serm_arena_init(&import->arena, serm_context_allocator(CurrentMemoryContext), SIZE_MAX);
	serm_host_init(&import->host, CurrentMemoryContext, SIZE_MAX);
	import->watch = (SermWatch){serm_host_keep_going, &import->host};
	initStringInfo(&import->ignored);
	import->tensors = palloc0((SERM_TENSORS_MAX + 2) * sizeof(SermTensor));
	read_config(import);
	new.options = import->options.model;
	new.grades = PG_ARGISNULL(GRADES) ? default_grades(&import->config) : PG_GETARG_DATUM(GRADES);
	check_grades_fit(&import->config, new.grades);
	/* Before the weights are read: a wrong name or grade is told at once. */
	serm_model_create(&new);
	tokenizer = read_tokenizer(import);
	read_weights(import);
	for (int i = 0; i < import->source.count; i++)
		if (!import->source.used[i])
			ereport(NOTICE, errmsg("file \"%s\" is not needed and was not read", import->source.names[i]));

	level = serm_spi_begin(false);
	version = serm_version_store(new.name, 0, 0, &(SermTensorSet){import->tensors, import->tensor_count},
	    describe(import, tokenizer), NULL, NULL);
	serm_version_activate(new.name, version, "promote", "imported");
	serm_spi_end(level);
	return version;
}

SERM_FUNCTION(serm_import_directory);
Datum
serm_import_directory(PG_FUNCTION_ARGS)
{
	Import import = {0};
	char *directory;

	/* First: the answer must not tell what files the server has. */
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		    errmsg("must be a member of pg_read_server_files to import a directory of the server"),
		    errhint(
		        "Pass the files themselves: serm.import_model(name, files text[], contents => bytea[])."));
	if (PG_ARGISNULL(SOURCE))
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the directory must not be NULL"));
	directory = text_to_cstring(PG_GETARG_TEXT_PP(SOURCE));
	canonicalize_path(directory);
	import.source.directory = directory;
	PG_RETURN_INT32(import_model(fcinfo, &import));
}

SERM_FUNCTION(serm_import_files);
Datum
serm_import_files(PG_FUNCTION_ARGS)
{
	Import import = {0};
	Datum *names, *contents;
	bool *null_names, *null_contents;
	int count;

	if (PG_ARGISNULL(SOURCE) || PG_ARGISNULL(CONTENTS))
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("files and contents must not be NULL"),
		    errhint("Name both: serm.import_model('name', files => '{config.json, ...}',"
		            " contents => ARRAY[...])."));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(SOURCE), TEXTOID, -1, false, TYPALIGN_INT, &names, &null_names,
	    &import.source.count);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(CONTENTS), BYTEAOID, -1, false, TYPALIGN_INT, &contents,
	    &null_contents, &count);
	if (count != import.source.count)
		ereport(ERROR, errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
		    errmsg("there are %d names of files and %d contents", import.source.count, count));
	import.source.names = palloc0((Size) (count + 1) * sizeof(char *));
	import.source.contents = palloc0((Size) (count + 1) * sizeof(bytea *));
	import.source.used = palloc0((Size) (count + 1) * sizeof(bool));
	for (int i = 0; i < count; i++) {
		if (null_names[i] || null_contents[i])
			ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			    errmsg("neither the name nor the content of a file may be NULL"));
		import.source.names[i] = TextDatumGetCString(names[i]);
		import.source.contents[i] = DatumGetByteaPP(contents[i]);
		for (int j = 0; j < i; j++)
			if (strcmp(import.source.names[i], import.source.names[j]) == 0)
				ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				    errmsg("file \"%s\" is given twice", import.source.names[i]));
	}
	PG_RETURN_INT32(import_model(fcinfo, &import));
}
