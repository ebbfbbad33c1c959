/*
 * serm.prompt: instructions and examples of a model, by form of question. A version
 * never changes: its examples are drawn when it is made, from what people have
 * graded in the train split, so that the same version always shows the same ones and the
 * reliability of an agent under it means something.
 */
#include "pg/annotate/annotate.h"

#include "core/agent/prompt.h"

typedef struct PromptOptions {
	char *form;
	int examples;
	int seed;
} PromptOptions;

static const SermOption prompt_options[] = {
    {"form", SERM_OPTION_TEXT, offsetof(PromptOptions, form), 0, 0, "absolute, pair, list"},
    {"examples", SERM_OPTION_INT, offsetof(PromptOptions, examples), 0, SERM_PROMPT_EXAMPLES_MAX, NULL},
    {"seed", SERM_OPTION_INT, offsetof(PromptOptions, seed), 0, INT_MAX, NULL},
};

const char *
serm_form_name(SermForm form)
{
	static const char *const names[] = {
	    [SERM_FORM_ABSOLUTE] = "absolute", [SERM_FORM_PAIR] = "pair", [SERM_FORM_LIST] = "list"};

	return names[form];
}

/*
 * Examples as jsonb: of each grade as many as of the others while there are some, in an order that the seed
 * shuffles, and one spare of each grade. Sets *count to those that are no spares.
 */
static Datum
draw_examples(const SermModelRow *row, const PromptOptions *options, int64 *count)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_FLOAT4((float4) row->options.test_share),
	    SERM_INT4(options->examples), SERM_INT4(options->seed), SERM_INT4(row->grade_count - 1)};
	bool null;

	serm_spi_execute(
	    psprintf(
	        "WITH graded AS (SELECT j.id, j.query, j.doc_id, pg_catalog.left(j.doc, 4000) AS doc,"
	        "  least(pg_catalog.floor(j.grade + .5)::pg_catalog.int4, $5) AS grade,"
	        "  pg_catalog.md5($4::pg_catalog.text || ' ' || j.query || ' ' || coalesce(j.doc_id, j.doc))"
	        "   COLLATE \"C\" AS draw %s AND j.source IN ('human', 'import')"
	        "  AND serm.split_of(j.query, $2) = 'train'),"
	        " placed AS (SELECT g.*, pg_catalog.row_number() OVER (PARTITION BY g.grade ORDER BY g.draw, "
	        "g.id)"
	        "  AS place FROM graded g),"
	        " ordered AS (SELECT p.*, pg_catalog.row_number() OVER (ORDER BY p.place, p.draw, p.id) AS number"
	        "  FROM placed p),"
	        " chosen AS (SELECT o.*, o.number > $3 AS spare,"
	        "  pg_catalog.row_number() OVER (PARTITION BY o.grade, o.number > $3 ORDER BY o.place) AS "
	        "left_over"
	        "  FROM ordered o)"
	        " SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('query', c.query,"
	        "   'doc_id', c.doc_id, 'doc', c.doc, 'grade', c.grade, 'judgment', c.id, 'spare', c.spare)"
	        "   ORDER BY c.number), '[]'), pg_catalog.count(*) FILTER (WHERE NOT c.spare)"
	        "  FROM chosen c WHERE NOT c.spare OR (c.left_over = 1 AND EXISTS"
	        "   (SELECT FROM chosen o WHERE o.grade = c.grade AND NOT o.spare))",
	        serm_judgment_query(row)),
	    SPI_OK_SELECT, false, params, lengthof(params));
	*count = DatumGetInt64(serm_spi_value(0, 2, &null));
	return serm_spi_value(0, 1, &null);
}

/*
 * serm.add_prompt(model text, instructions text, options jsonb) returns the version
 *
 * Errors: 42704 unknown model, 22023 bad options, examples for another form than absolute, or empty
 * instructions.
 */
SERM_FUNCTION(serm_add_prompt);
Datum
serm_add_prompt(PG_FUNCTION_ARGS)
{
	char *instructions = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	PromptOptions options = {.form = "absolute"};
	SermModelRow *row;
	Datum examples, version;
	int64 drawn = 0;
	bool null;
	int level;

	serm_options_read(PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2), prompt_options, lengthof(prompt_options),
	    &options, "serm.add_prompt");
	if (options.examples > 0 && strcmp(options.form, "absolute") != 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("examples are grades, and so only for questions of the form absolute"),
		    errhint("Leave the option examples out."));
	if (instructions != NULL &&
	    (instructions[0] == '\0' || strlen(instructions) > SERM_PROMPT_INSTRUCTIONS_BYTES_MAX))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("instructions have 1 to %zu bytes", SERM_PROMPT_INSTRUCTIONS_BYTES_MAX),
		    errhint("NULL stands for the built-in ones."));
	row = serm_model_read(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)));
	level = serm_spi_begin(false);
	examples = draw_examples(row, &options, &drawn);
	if (options.examples == 0)
		examples = DirectFunctionCall1(jsonb_in, CStringGetDatum("[]"));
	{
		SermParam params[] = {SERM_TEXT(row->name),
		    instructions != NULL ? SERM_TEXT(instructions) : SERM_NULL(TEXTOID), SERM_TEXT(options.form),
		    SERM_DATUM(JSONBOID, examples)};

		serm_spi_execute(
		    "SELECT FROM serm.model m WHERE m.name = $1 FOR NO KEY UPDATE", SPI_OK_SELECT, false, params, 1);
		serm_spi_execute("INSERT INTO serm.prompt (model, version, instructions, form, examples)"
		                 " SELECT $1, 1 + coalesce(pg_catalog.max(p.version), 0), $2, $3, $4"
		                 "  FROM serm.prompt p WHERE p.model = $1 RETURNING version",
		    SPI_OK_INSERT_RETURNING, false, params, lengthof(params));
	}
	version = serm_spi_value(0, 1, &null);
	if (drawn < options.examples)
		ereport(NOTICE, errmsg("%lld of %d examples: people have not graded more pairs of the train split",
		                    (long long) drawn, options.examples));
	serm_spi_end(level);
	PG_RETURN_DATUM(version);
}

static SermShown *
read_shown(uint64 i)
{
	SermShown *shown = palloc0(sizeof(SermShown));
	bool null;

	shown->query = serm_spi_string(i, 3);
	shown->doc_id = serm_spi_string(i, 4);
	shown->doc = serm_spi_string(i, 5);
	shown->grade = DatumGetInt32(serm_spi_value(i, 6, &null));
	shown->spare = DatumGetBool(serm_spi_value(i, 7, &null));
	return shown;
}

SermPromptRow *
serm_prompt_read(const char *model, SermForm form)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model), SERM_TEXT(serm_form_name(form))};
	SermPromptRow *row = palloc0(sizeof(SermPromptRow));
	bool null;

	serm_spi_execute_kept(&kept,
	    "SELECT p.version, p.instructions, e.query, e.doc_id, e.doc, e.grade, coalesce(e.spare, false)"
	    " FROM (SELECT * FROM serm.prompt p WHERE p.model = $1 AND p.form = $2"
	    "  ORDER BY p.version DESC LIMIT 1) p"
	    " LEFT JOIN LATERAL ROWS FROM (pg_catalog.jsonb_to_recordset(p.examples) AS (query pg_catalog.text,"
	    "  doc_id pg_catalog.text, doc pg_catalog.text, grade pg_catalog.int4, spare pg_catalog.bool))"
	    "  WITH ORDINALITY AS e(query, doc_id, doc, grade, spare, number) ON e.query IS NOT NULL"
	    "   AND e.doc IS NOT NULL AND e.grade >= 0"
	    " ORDER BY e.number",
	    SPI_OK_SELECT, params, lengthof(params));
	if (SPI_processed == 0)
		return row;
	row->version = DatumGetInt32(serm_spi_value(0, 1, &null));
	row->instructions = serm_spi_string(0, 2);
	for (uint64 i = 0; i < SPI_processed; i++) {
		(void) serm_spi_value(i, 3, &null);
		if (!null)
			row->examples = lappend(row->examples, read_shown(i));
	}
	return row;
}
