/*
 * One attempt at one task, before the network: prompt, key and money. Everything of
 * a job lies in its own memory context; its key is wiped with it. Jobs are prepared together, so that what
 * they share (model, server, key, instructions, earlier votes) is read once.
 */
#include "pg/annotate/job.h"

#include <math.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "core/base/hash.h"

/* A task that was claimed so much oftener than its attempts allow takes its worker down: stop asking. */
#define CRASHES_MAX 5
/* How long a request waits for others to leave it some money. */
#define MONEY_MS 500

/* Contexts for jobs to come, all of one parent: the server keeps fewer than there are jobs at a time. */
static MemoryContext spare[1024];
static int spare_count;

SermJob *
serm_job_create(MemoryContext parent, const SermTask *task, Oid role, const char *search_path)
{
	MemoryContext context =
	    spare_count > 0 ? spare[--spare_count]
	                    : AllocSetContextCreate(parent, "serm annotating job", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermJob *job = palloc0(sizeof(SermJob));

	job->context = context;
	serm_host_init(&job->host, context, SERM_JOB_MEMORY_BYTES);
	job->host.arena.block_least = SERM_JOB_BLOCK_BYTES;
	job->role = role;
	job->search_path = search_path;
	job->outcome = SERM_OUTCOME_CONFIG;
	job->vote = SERM_NO_VOTE;
	job->retry_after_ms = -1;
	job->task = *task;
	job->task.model = pstrdup(task->model);
	job->task.agent = pstrdup(task->agent);
	job->task.server = pstrdup(task->server);
	job->task.query = pstrdup(task->query);
	job->task.doc = pstrdup(task->doc);
	if (task->compared != NULL) {
		Size size = mul_size((Size) task->compared_count, sizeof(int64));

		job->task.compared = memcpy(palloc(size), task->compared, size);
	}
	MemoryContextSwitchTo(previous);
	return job;
}

void
serm_job_free(SermJob *job)
{
	if (job->key != NULL)
		explicit_bzero(job->key, strlen(job->key));
	if (spare_count < (int) lengthof(spare)) {
		spare[spare_count] = job->context;
		MemoryContextReset(spare[spare_count++]);
	} else
		MemoryContextDelete(job->context);
}

/* --- encodings */

/* What goes into a prompt: UTF-8, or bytes that the prompt's cleaning makes UTF-8. */
static SermText
to_utf8(const char *string)
{
	const char *converted = string;

	if (GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII)
		converted = (const char *) pg_do_encoding_conversion((unsigned char *) unconstify(char *, string),
		    (int) strlen(string), GetDatabaseEncoding(), PG_UTF8);
	return (SermText){converted, strlen(converted)};
}

/* --- before the network */

/* What the jobs of one agent and form have in common; it lives while they are prepared. */
typedef struct Setup {
	const char *model_name;
	const char *agent_name;
	const char *server_name;
	bool compares;
	Oid role;
	const char *search_path;
	SermModelRow *model;
	SermServerOptions server;
	char *key;
	SermForm form;
	int example_count;
	SermPromptRow *prompt;
	SermPrompt *written; /* one that was written; NULL: none yet */
	SermText *grade_names;
	Oid evidence; /* InvalidOid: none */
	char *evidence_statement;
	char *failure; /* what is wrong with it is what is wrong with each job */
} Setup;

static char *
describe_error(const ErrorData *error)
{
	return psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
}

/* A question that compares nothing, for want of other documents, is absolute whatever its agent's form. */
static void
read_prompt(Setup *setup)
{
	const SermAgent *agent = serm_agent_read(setup->model, setup->agent_name);

	setup->form = !setup->compares                                 ? SERM_FORM_ABSOLUTE
	              : agent != NULL && agent->form == SERM_FORM_PAIR ? SERM_FORM_PAIR
	                                                               : SERM_FORM_LIST;
	setup->example_count = agent != NULL ? agent->examples : 0;
	setup->prompt = serm_prompt_read(setup->model_name, setup->form);
}

static void
find_evidence(Setup *setup)
{
	int level = NewGUCNestLevel();

	(void) set_config_option(
	    "search_path", setup->search_path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	setup->evidence = serm_evidence_find(setup->model->options.evidence);
	AtEOXact_GUC(false, level);
	setup->evidence_statement = serm_evidence_statement(setup->evidence);
}

static void
setup_step(void *argument)
{
	Setup *setup = argument;
	Oid server;

	setup->model = serm_model_read(setup->model_name);
	server = serm_server_find(setup->server_name);
	serm_server_read(server, &setup->server);
	if (setup->server.endpoint == NULL || setup->server.model == NULL)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("server \"%s\" lacks the option %s", setup->server_name,
		        setup->server.endpoint == NULL ? "endpoint" : "model"));
	setup->key = serm_server_key(server, setup->role);
	setup->grade_names = palloc(mul_size(setup->model->grade_count, sizeof(SermText)));
	for (int i = 0; i < setup->model->grade_count; i++)
		setup->grade_names[i] = to_utf8(setup->model->grades[i]);
	read_prompt(setup);
	if (setup->model->options.evidence != NULL && setup->model->options.evidence[0] != '\0')
		find_evidence(setup);
}

static Setup *
find_setup(List **setups, const SermJob *job)
{
	ErrorData *error;
	ListCell *cell;
	Setup *setup;

	foreach (cell, *setups) {
		setup = lfirst(cell);
		if (strcmp(setup->model_name, job->task.model) == 0 &&
		    strcmp(setup->agent_name, job->task.agent) == 0 &&
		    strcmp(setup->server_name, job->task.server) == 0 &&
		    setup->compares == (job->task.compared != NULL))
			return setup;
	}
	setup = palloc0(sizeof(Setup));
	setup->model_name = job->task.model;
	setup->agent_name = job->task.agent;
	setup->server_name = job->task.server;
	setup->compares = job->task.compared != NULL;
	setup->role = job->role;
	setup->search_path = job->search_path;
	*setups = lappend(*setups, setup);
	error = serm_attempt(setup_step, setup);
	if (error != NULL)
		setup->failure = describe_error(error);
	return setup;
}

static void
wipe_keys(List *setups)
{
	ListCell *cell;

	foreach (cell, setups) {
		Setup *setup = lfirst(cell);

		if (setup->key != NULL)
			explicit_bzero(setup->key, strlen(setup->key));
	}
}

/* What it fails with is the answer of its job: raised, it would have the function called again for the
 * others. */
static void
read_evidence(SermJob *job, const Setup *setup, SermPromptInput *input)
{
	SermUserAnswer answer;

	serm_user_call(setup->evidence, setup->evidence_statement, job->search_path, job->task.query,
	    job->task.doc, &answer);
	if (answer.error != NULL)
		job->failure = psprintf("%s: the evidence function failed: %s",
		    unpack_sql_state(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION), answer.error);
	else if (answer.text != NULL)
		input->evidence = to_utf8(answer.text);
}

static void
append_part(StringInfo parts, const void *bytes, size_t length)
{
	uint64 size = length;

	appendBinaryStringInfo(parts, (const char *) &size, sizeof(size));
	if (length > 0)
		appendBinaryStringInfo(parts, bytes, (int) length);
}

/* SHA-256 over all that the answer depends on: who is asked, how, and what. Not over the numbers that fence.
 */
static bytea *
hash_question(const SermJob *job, const SermPromptInput *input)
{
	const SermServerOptions *server = &job->server;
	StringInfoData parts;

	initStringInfo(&parts);
	append_part(&parts, job->task.server, strlen(job->task.server));
	append_part(&parts, server->endpoint, strlen(server->endpoint));
	append_part(&parts, server->model, strlen(server->model));
	append_part(&parts, &server->temperature, sizeof(server->temperature));
	append_part(&parts, &server->max_tokens, sizeof(server->max_tokens));
	append_part(&parts, &server->json_mode, sizeof(server->json_mode));
	append_part(&parts, &job->task.path, sizeof(job->task.path));
	for (uint32_t i = 0; i < input->grade_count; i++)
		append_part(&parts, input->grade_names[i].bytes, input->grade_names[i].length);
	append_part(&parts, &input->form, sizeof(input->form));
	append_part(&parts, input->instructions.bytes, input->instructions.length);
	for (uint32_t i = 0; i < input->example_count; i++) {
		append_part(&parts, input->examples[i].query.bytes, input->examples[i].query.length);
		append_part(&parts, input->examples[i].doc.bytes, input->examples[i].doc.length);
		append_part(&parts, &input->examples[i].grade, sizeof(input->examples[i].grade));
	}
	append_part(&parts, input->evidence.bytes, input->evidence.length);
	append_part(&parts, input->query.bytes, input->query.length);
	for (uint32_t i = 0; i < input->doc_count; i++)
		append_part(&parts, input->docs[i].bytes, input->docs[i].length);
	return DatumGetByteaP(
	    DirectFunctionCall1(sha256_bytea, PointerGetDatum(cstring_to_text_with_len(parts.data, parts.len))));
}

/* A job while it is prepared. */
typedef struct Draft {
	SermJob *job;
	Setup *setup;
	const uint8 *nonce;
	SermPromptInput input;
} Draft;

/* The examples of the prompt; in the place of one that has the query in question, and so may be its pair,
 * comes another of its grade. */
static void
choose_examples(const SermTask *task, const Setup *setup, SermPromptInput *input)
{
	SermPromptExample *chosen = palloc(SERM_PROMPT_EXAMPLES_MAX * sizeof(SermPromptExample));
	ListCell *cell, *other;

	input->examples = chosen;
	foreach (cell, setup->prompt->examples) {
		const SermShown *shown = lfirst(cell);

		if (shown->spare || (int) input->example_count >= setup->example_count)
			continue;
		if (strcmp(shown->query, task->query) == 0) {
			const SermShown *instead = NULL;

			foreach (other, setup->prompt->examples) {
				const SermShown *spare = lfirst(other);

				if (spare->spare && spare->grade == shown->grade && strcmp(spare->query, task->query) != 0)
					instead = spare;
			}
			if (instead == NULL)
				continue;
			shown = instead;
		}
		chosen[input->example_count++] =
		    (SermPromptExample){to_utf8(shown->query), to_utf8(shown->doc), (uint32_t) shown->grade};
	}
}

static void
describe_question(SermJob *job, const Setup *setup, SermPromptInput *input)
{
	SermText *docs;

	if (job->task.compared == NULL) {
		docs = palloc(sizeof(SermText));
		docs[0] = to_utf8(job->task.doc);
		input->doc_count = 1;
		job->question = (SermQuestion){SERM_FORM_ABSOLUTE, input->grade_count};
		choose_examples(&job->task, setup, input);
	} else {
		char **texts = serm_compared_docs(&job->task);

		docs = palloc(mul_size((Size) job->task.compared_count, sizeof(SermText)));
		for (int i = 0; i < job->task.compared_count; i++)
			docs[i] = to_utf8(texts[i]);
		input->doc_count = (uint32_t) job->task.compared_count;
		job->question = (SermQuestion){setup->form, input->doc_count};
	}
	input->docs = docs;
	input->form = job->question.form;
}

/* The same question has a canary, or has none, whenever it is asked. */
static bool
has_canary(const SermJob *job)
{
	const unsigned char *hash = (const unsigned char *) VARDATA_ANY(job->vote.key);

	return (hash[0] * 256 + hash[1]) / 65536.0 < job->server.canary;
}

static void
describe_step(void *argument)
{
	Draft *draft = argument;
	SermJob *job = draft->job;
	const Setup *setup = draft->setup;

	job->grade_count = setup->model->grade_count;
	job->prompt_version = setup->prompt->version;
	job->budgets = setup->model->options;
	job->server = setup->server;
	/* The only text of it that is still needed when the request leaves. */
	job->server.endpoint = pstrdup(setup->server.endpoint);
	job->attempts_max = job->server.max_attempts;
	if (job->task.attempt > job->attempts_max + CRASHES_MAX)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("given up after %d attempts that ended with their worker", job->task.attempt - 1));
	if (setup->key != NULL && job->key == NULL)
		job->key = pstrdup(setup->key);
	draft->input = (SermPromptInput){.query = to_utf8(job->task.query),
	    .grade_names = setup->grade_names,
	    .grade_count = (uint32) setup->model->grade_count};
	if (setup->prompt->instructions != NULL)
		draft->input.instructions = to_utf8(setup->prompt->instructions);
	describe_question(job, setup, &draft->input);
	if (OidIsValid(setup->evidence))
		read_evidence(job, setup, &draft->input);
	if (job->failure != NULL)
		return;
	job->vote.key = hash_question(job, &draft->input);
	draft->input.canary = has_canary(job);
	if (!job->server.cache)
		job->vote.key = NULL;
}

static void
write_step(void *argument)
{
	Draft *draft = argument;
	SermJob *job = draft->job;
	SermRequest request = {.model = to_utf8(job->server.model),
	    .temperature = job->server.temperature,
	    .tokens_max = (uint32) job->server.max_tokens,
	    .json_mode = job->server.json_mode};
	SermPrompt prompt;
	SermError error;
	SermHost *host = &job->host;

	memcpy(draft->input.nonce, draft->nonce, sizeof(draft->input.nonce));
	draft->input.like = draft->setup->written;
	request.seed =
	    serm_hash_mix(serm_hash_bytes(job->task.agent, strlen(job->task.agent), (uint64) job->task.sample) +
	                  ((uint64) job->task.path << 32) + (uint64) job->task.attempt);

	serm_host_check(host, serm_prompt_build(&draft->input, &host->arena, &prompt, &error), &error);
	/* Lists differ in their number of documents. */
	if (job->question.form != SERM_FORM_LIST && draft->setup->written == NULL) {
		draft->setup->written = palloc(sizeof(SermPrompt));
		*draft->setup->written = prompt;
	}
	memcpy(job->canary, prompt.canary, sizeof(job->canary));
	serm_host_check(host, serm_prompt_request(&prompt, &request, &host->arena, &job->body, &error), &error);
	/* A token is a byte at least. */
	job->cost_most = ((double) job->body.length * job->server.price_prompt +
	                     (double) job->server.max_tokens * job->server.price_completion) /
	                 SERM_TOKENS_PRICED;
}

/* Jobs that are prepared together. */
typedef struct Drafts {
	Draft *drafts;
	int first, count;
	void (*step)(void *);
	int64 since_ms;
} Drafts;

static void
take_steps(void *argument)
{
	const Drafts *all = argument;

	for (int i = all->first; i < all->first + all->count; i++) {
		SermJob *job = all->drafts[i].job;

		if (job->failure != NULL || job->vote.cached || job->postponed)
			continue;
		job->postponed = i > 0 && OidIsValid(all->drafts[i].setup->evidence) &&
		                 serm_now_ms() - all->since_ms >= SERM_EVIDENCE_MS;
		if (job->postponed)
			continue;
		MemoryContextSwitchTo(job->context);
		all->step(&all->drafts[i]);
	}
}

/*
 * Whatever is wrong with a model, a server, a key or evidence is the answer of its job, not the worker's
 * end. A subtransaction for each costs more than most steps: only where something is wrong.
 */
static void
attempt_steps(Draft *drafts, int count, void (*step)(void *))
{
	Drafts all = {drafts, 0, count, step, serm_now_ms()};
	MemoryContext previous = CurrentMemoryContext;

	if (serm_attempt(take_steps, &all) != NULL)
		for (int i = 0; i < count; i++) {
			Drafts one = {drafts, i, 1, step, all.since_ms};
			ErrorData *error;

			MemoryContextSwitchTo(drafts[i].job->context);
			error = serm_attempt(take_steps, &one);
			if (error != NULL)
				drafts[i].job->failure = describe_error(error);
		}
	MemoryContextSwitchTo(previous);
}

/* One look for all of them. */
static void
find_known(Draft *drafts, int count)
{
	SermVoteRow **votes = palloc(mul_size(count, sizeof(SermVoteRow *)));
	int asked = 0;

	for (int i = 0; i < count; i++)
		if (drafts[i].job->failure == NULL && drafts[i].job->vote.key != NULL)
			votes[asked++] = &drafts[i].job->vote;
	if (asked > 0)
		serm_queue_find_votes(votes, asked);
	for (int i = 0; i < count; i++) {
		SermJob *job = drafts[i].job;

		if (job->vote.cached && job->vote.rationale != NULL)
			job->vote.rationale = MemoryContextStrdup(job->context, job->vote.rationale);
		if (job->vote.cached && job->vote.places != NULL)
			job->vote.places = MemoryContextStrdup(job->context, job->vote.places);
	}
}

void
serm_jobs_prepare(List *jobs)
{
	int count = list_length(jobs);
	Draft *drafts = palloc0(mul_size(Max(count, 1), sizeof(Draft)));
	uint8 *nonces = palloc(mul_size(Max(count, 1), SERM_PROMPT_NONCE_BYTES));
	List *setups = NIL;
	ListCell *cell;

	if (!pg_strong_random(nonces, (size_t) count * SERM_PROMPT_NONCE_BYTES))
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not draw a random number"));
	foreach (cell, jobs) {
		Draft *draft = &drafts[foreach_current_index(cell)];

		draft->job = lfirst(cell);
		draft->nonce = nonces + (size_t) foreach_current_index(cell) * SERM_PROMPT_NONCE_BYTES;
		draft->setup = find_setup(&setups, draft->job);
		if (draft->setup->failure != NULL)
			draft->job->failure = MemoryContextStrdup(draft->job->context, draft->setup->failure);
	}
	attempt_steps(drafts, count, describe_step);
	find_known(drafts, count);
	attempt_steps(drafts, count, write_step);
	wipe_keys(setups);
}

static void
admit(SermJob *job, const SermReservation *money)
{
	MemoryContext previous = MemoryContextSwitchTo(job->context);

	if (money->problem != NULL)
		job->failure = pstrdup(money->problem);
	if (money->answer == SERM_BUDGET_GONE) {
		job->failure = pstrdup("its task is gone");
		serm_job_decide(job);
	} else if (money->answer == SERM_BUDGET_WAIT) {
		job->decision = (SermRetryDecision){SERM_RETRY_AGAIN, MONEY_MS, false};
		job->failure = pstrdup("it waits for what others leave of the budget");
	} else if (job->vote.cached)
		job->decision.action = SERM_RETRY_DONE;
	else if (job->failure != NULL)
		serm_job_decide(job);
	job->admitted =
	    money->answer == SERM_BUDGET_RESERVED && !job->vote.cached && !job->postponed && job->failure == NULL;
	MemoryContextSwitchTo(previous);
}

void
serm_jobs_admit(List *jobs)
{
	SermReservation *money = palloc0(mul_size(Max(list_length(jobs), 1), sizeof(SermReservation)));
	ListCell *cell;

	foreach (cell, jobs) {
		SermJob *job = lfirst(cell);
		bool asks = job->failure == NULL && !job->vote.cached && !job->postponed;

		money[foreach_current_index(cell)] = (SermReservation){
		    .task = &job->task, .options = &job->budgets, .most = asks ? job->cost_most : 0};
	}
	serm_budget_reserve(money, list_length(jobs));
	foreach (cell, jobs)
		admit(lfirst(cell), &money[foreach_current_index(cell)]);
}
