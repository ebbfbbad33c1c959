/*
 * A teacher behind an endpoint: a model of kind `remote`, whose opinion of a pair
 * is the distribution of the log-probabilities of the grades' tokens.
 *
 * Questions are asked in waves. One short transaction reads the server's settings
 * and key, looks for answers that are known, and takes the wave out of the
 * server's rates and the model's budgets; the network is talked to after its end,
 * with no snapshot, transaction id or lock held and interrupts served; another
 * transaction keeps the answers and settles what they cost. What was answered is
 * kept in serm._answer and never asked, or paid, again.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/agent/logprob.h"
#include "core/agent/prompt.h"
#include "core/base/hash.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "pg/annotate/ask.h"
#include "pg/annotate/http.h"
#include "pg/evolve/evolve.h"
#include "storage/latch.h"
#include "utils/array.h"

#define POLL_MS 50
/* Requests of a wave for each one that may be on its way. */
#define WAVE_DEPTH 4
/* {"grade": and the grade are all that is needed of an answer. */
#define ANSWER_TOKENS 16
#define PROMPT_MEMORY_BYTES ((Size) 8 * 1024 * 1024)
#define IDLE_MS 250
#define MONEY_MS 1000
/* A token is four bytes of a prompt, about; corrected by what the reply says. */
#define TOKEN_BYTES 4.0
#define TOKENS_PRICED 1e6

/* A pair that has no answer yet. */
typedef struct Question {
	size_t pair;
	int attempts; /* that counted */
	double due;   /* not asked before, by serm_progress_clock() */
} Question;

typedef struct Request {
	Question *question;
	bytea *key; /* of the answer */
	SermText evidence;
	SermText body;
	double cost_most;
	double estimate; /* of its tokens */
	SermOutcome outcome;
	int http_status;
	int64 retry_after_ms;
	SermLogprobs answer;
	char detail[SERM_HTTP_DETAIL_BYTES];
} Request;

struct SermRemote {
	const SermModelRow *row;
	MemoryContext context; /* survives commits */
	MemoryContext wave;    /* what one wave needs */
	SermHttp *http;        /* closed with `context` */
	SermServerOptions server;
	char *key; /* wiped when the wave has been sent */
	SermText instructions;
	SermText grade_names[SERM_GRADES_MAX];
	Oid evidence; /* function of the option; InvalidOid: none */
	char *evidence_statement;
	/* At work: */
	SermTraining *training;
	const SermPairSet *all;
	float *probability;
	bool *given;
	Question *questions; /* without an answer, [pending] */
	size_t pending, total, failed;
	bool limited;
	double wait; /* seconds until it is worth asking again */
	double started;
	char problem[SERM_HTTP_DETAIL_BYTES]; /* of the question that failed last */
};

/* --- opening */

static void
wipe_key(SermRemote *remote)
{
	if (remote->key != NULL) {
		explicit_bzero(remote->key, strlen(remote->key));
		pfree(remote->key);
	}
	remote->key = NULL;
}

static void
close_remote(void *argument)
{
	SermRemote *remote = argument;

	wipe_key(remote);
	serm_http_close(remote->http);
}

static SermText
utf8_of(const char *string)
{
	const char *utf8 = pg_server_to_any(string, (int) strlen(string), PG_UTF8);

	return (SermText){utf8, strlen(utf8)};
}

/* The function of the option "evidence" by its qualified name: it may be dropped and made again. Inside SPI.
 */
static void
find_evidence(SermRemote *remote)
{
	const char *name = remote->row->options.evidence;

	remote->evidence = name != NULL && name[0] != '\0' ? serm_evidence_find(name) : InvalidOid;
	if (OidIsValid(remote->evidence))
		remote->evidence_statement = serm_evidence_statement(remote->evidence);
}

/* Settings may change between two waves. Inside SPI, in the context that is to hold them. */
static void
read_server(SermRemote *remote)
{
	const SermModelOptions *options = &remote->row->options;
	Oid server = serm_server_find(options->server);
	char *key;

	serm_server_read(server, &remote->server);
	if (options->model != NULL)
		remote->server.model = options->model;
	if (remote->server.endpoint == NULL || remote->server.model == NULL)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("server \"%s\" lacks the option %s", options->server,
		        remote->server.endpoint == NULL ? "endpoint" : "model"),
		    errhint("ALTER SERVER %s OPTIONS (ADD %s '...')", quote_identifier(options->server),
		        remote->server.endpoint == NULL ? "endpoint" : "model"));
	find_evidence(remote);
	wipe_key(remote);
	key = serm_server_key(server, GetUserId());
	if (key == NULL)
		return;
	/* Where it is wiped whatever happens. */
	remote->key = MemoryContextStrdup(remote->context, key);
	explicit_bzero(key, strlen(key));
}

SermRemote *
serm_remote_open(const SermModelRow *row, MemoryContext owner)
{
	MemoryContext context = AllocSetContextCreate(owner, "serm remote", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	SermRemote *remote = palloc0(sizeof(SermRemote));

	remote->row = row;
	remote->context = context;
	remote->wave = AllocSetContextCreate(context, "serm remote wave", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(remote->wave);
	read_server(remote);
	wipe_key(remote);
	MemoryContextSwitchTo(context);
	if (row->options.prompt != NULL)
		remote->instructions = utf8_of(row->options.prompt);
	for (int i = 0; i < row->grade_count; i++)
		remote->grade_names[i] = utf8_of(row->grades[i]);
	remote->http = serm_http_open();
	callback->func = close_remote;
	callback->arg = remote;
	MemoryContextRegisterResetCallback(context, callback);
	MemoryContextSwitchTo(previous);
	return remote;
}

void
serm_remote_describe(const SermRemote *remote, StringInfo json)
{
	const SermModelOptions *options = &remote->row->options;

	serm_json_text(json, "teacher_server", options->server);
	serm_json_text(json, "teacher_model", options->model);
	serm_json_text(json, "teacher_prompt", options->prompt);
	if (options->evidence != NULL)
		serm_json_text(json, "teacher_evidence", options->evidence);
}

/* --- a wave, before the network; inside SPI */

static void
append_part(StringInfo parts, SermText text)
{
	uint64 size = text.length;

	appendBinaryStringInfo(parts, (const char *) &size, sizeof(size));
	if (text.length > 0)
		appendBinaryStringInfo(parts, text.bytes, (int) text.length);
}

static char *
server_text(SermText utf8)
{
	return text_to_cstring(serm_text_from_utf8(utf8));
}

/* What the function of the option says of a pair. Without an answer of it nobody is asked: false. */
static bool
read_evidence(SermRemote *remote, Request *request)
{
	const SermPair *pair = &remote->all->pairs[request->question->pair];
	SermUserAnswer answer;

	if (!OidIsValid(remote->evidence))
		return true;
	serm_user_call(remote->evidence, remote->evidence_statement,
	    remote->training->settings.distill.search_path, server_text(remote->all->queries[pair->query].utf8),
	    server_text(pair->doc.utf8), &answer);
	if (answer.error != NULL) {
		snprintf(remote->problem, sizeof(remote->problem), "the evidence function failed: %s", answer.error);
		return false;
	}
	if (answer.text != NULL)
		request->evidence = utf8_of(answer.text);
	return true;
}

/* SHA-256 over all that the answer depends on. */
static bytea *
hash_question(const SermRemote *remote, const Request *request)
{
	size_t pair = request->question->pair;
	const SermPair *asked = &remote->all->pairs[pair];
	StringInfoData parts;

	initStringInfo(&parts);
	append_part(&parts, (SermText){remote->server.endpoint, strlen(remote->server.endpoint)});
	append_part(&parts, (SermText){remote->server.model, strlen(remote->server.model)});
	append_part(&parts, remote->instructions);
	for (int i = 0; i < remote->row->grade_count; i++)
		append_part(&parts, remote->grade_names[i]);
	append_part(&parts, remote->all->queries[asked->query].utf8);
	append_part(&parts, asked->doc.utf8);
	if (request->evidence.length > 0)
		append_part(&parts, request->evidence);
	return DatumGetByteaP(
	    DirectFunctionCall1(sha256_bytea, PointerGetDatum(cstring_to_text_with_len(parts.data, parts.len))));
}

static void
take_answer(SermRemote *remote, size_t pair, const float *probability)
{
	size_t grades = (size_t) remote->row->grade_count;

	memcpy(remote->probability + pair * grades, probability, grades * sizeof(float));
	remote->given[pair] = true;
}

static bool
find_known(SermRemote *remote, const Request *request)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(remote->row->name), SERM_DATUM(BYTEAOID, PointerGetDatum(request->key))};
	ArrayType *array;
	bool null;

	serm_spi_execute_kept(&kept, "SELECT a.probability FROM serm._answer a WHERE a.model = $1 AND a.key = $2",
	    SPI_OK_SELECT, params, lengthof(params));
	if (SPI_processed == 0)
		return false;
	array = DatumGetArrayTypeP(serm_spi_value(0, 1, &null));
	if (null || ARR_NDIM(array) != 1 || ARR_DIMS(array)[0] != remote->row->grade_count || ARR_HASNULL(array))
		return false;
	take_answer(remote, request->question->pair, (const float4 *) ARR_DATA_PTR(array));
	return true;
}

/* Take the questions out that have an answer or will get none; the others keep their order. */
static void
drop_answered(SermRemote *remote)
{
	size_t kept = 0;

	for (size_t i = 0; i < remote->pending; i++)
		if (remote->questions[i].attempts >= 0 && !remote->given[remote->questions[i].pair])
			remote->questions[kept++] = remote->questions[i];
	remote->pending = kept;
}

static void
give_up(SermRemote *remote, Question *question)
{
	question->attempts = -1;
	remote->failed++;
}

/*
 * The questions that are due and whose answers are not known, at most `most`; those that are not reached in
 * SERM_EVIDENCE_MS are left to the next wave.
 */
static int
choose_requests(SermRemote *remote, Request *requests, int most)
{
	double now = serm_progress_clock(NULL);
	bool tried = false;
	int count = 0;

	remote->wait = IDLE_MS / 1000.0;
	for (size_t i = 0; i < remote->pending && count < most; i++) {
		Question *question = &remote->questions[i];
		Request *request = &requests[count];

		if (question->attempts < 0 || question->due > now)
			continue;
		if (tried && (serm_progress_clock(NULL) - now) * 1000 >= SERM_EVIDENCE_MS) {
			remote->wait = 0;
			break;
		}
		tried = true;
		CHECK_FOR_INTERRUPTS();
		*request = (Request){.question = question};
		if (!read_evidence(remote, request)) {
			give_up(remote, question);
			continue;
		}
		request->key = hash_question(remote, request);
		if (!find_known(remote, request))
			count++;
	}
	return count;
}

static void
write_request(SermRemote *remote, Request *request)
{
	const SermPair *pair = &remote->all->pairs[request->question->pair];
	SermPromptInput input = {.query = remote->all->queries[pair->query].utf8,
	    .docs = &pair->doc.utf8,
	    .doc_count = 1,
	    .grade_names = remote->grade_names,
	    .grade_count = (uint32) remote->row->grade_count,
	    .evidence = request->evidence,
	    .instructions = remote->instructions};
	SermRequest asked = {.model = utf8_of(remote->server.model),
	    .tokens_max = (uint32) Min(remote->server.max_tokens, ANSWER_TOKENS),
	    .seed = serm_hash_bytes(VARDATA(request->key), VARSIZE(request->key) - VARHDRSZ, 0),
	    .top_logprobs = SERM_LOGPROB_TOP};
	SermPrompt prompt;
	SermError error = {0};
	SermHost host;

	if (!pg_strong_random(input.nonce, sizeof(input.nonce)))
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not draw a random number"));
	serm_host_init(&host, remote->wave, PROMPT_MEMORY_BYTES);
	serm_host_check(&host, serm_prompt_build(&input, &host.arena, &prompt, &error), &error);
	serm_host_check(&host, serm_prompt_request(&prompt, &asked, &host.arena, &request->body, &error), &error);
	request->estimate = (double) request->body.length / TOKEN_BYTES + asked.tokens_max;
	request->cost_most = ((double) request->body.length * remote->server.price_prompt +
	                         asked.tokens_max * remote->server.price_completion) /
	                     TOKENS_PRICED;
}

static double
sum_costs(const Request *requests, int count)
{
	double sum = 0;

	for (int i = 0; i < count; i++)
		sum += requests[i].cost_most;
	return sum;
}

/* As many of the requests as the budgets hold. Error 53400 when they hold none. */
static int
spend(SermRemote *remote, const Request *requests, int count)
{
	SermBudgetAnswer answer = SERM_BUDGET_RESERVED;
	char *problem = NULL;

	for (; count > 0; count /= 2) {
		answer = serm_budget_spend(
		    remote->row->name, &remote->row->options, sum_costs(requests, count), count, &problem);
		if (answer == SERM_BUDGET_RESERVED)
			return count;
	}
	if (answer == SERM_BUDGET_SPENT)
		ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
		    errmsg("the budget of teacher \"%s\" is spent", remote->row->name),
		    problem != NULL ? errdetail("%s.", problem) : 0,
		    errhint("Raise it with SELECT serm.alter_model(%s, '{\"budget\": ...}'); what was answered is not"
		            " asked again.",
		        quote_literal_cstr(remote->row->name)));
	remote->wait = MONEY_MS / 1000.0;
	return 0;
}

/* SPI of its own for each transaction, so that nothing of one is kept until the last. */
static int
begin_step(SermRemote *remote)
{
	int inner = serm_spi_begin(false);

	MemoryContextSwitchTo(remote->wave);
	return inner;
}

/* Returns how many requests may leave; commits. Error 08006 when the server has been gone for too long. */
static int
open_wave(SermRemote *remote, Request *requests, int most, int *level)
{
	SermAdmission admission = {0};
	double tokens = 0;
	int count, inner = begin_step(remote);

	read_server(remote);
	count = choose_requests(remote, requests, most);
	if (count > 0) {
		for (int i = 0; i < count; i++) {
			write_request(remote, &requests[i]);
			tokens += requests[i].estimate / count;
		}
		admission = serm_limits_admit(remote->row->options.server, count, tokens);
		remote->limited = admission.limited;
		if (admission.count == 0)
			remote->wait = Max((double) admission.wait_ms / 1000, .001);
		count = admission.lost ? 0 : spend(remote, requests, admission.count);
	}
	serm_spi_end(inner);
	serm_spi_commit(level);
	if (admission.lost)
		ereport(ERROR, errcode(ERRCODE_CONNECTION_FAILURE),
		    errmsg("server \"%s\" of teacher \"%s\" has not answered for %d s", remote->row->options.server,
		        remote->row->name, remote->server.outage_s),
		    errdetail("%s.", remote->problem[0] != '\0' ? remote->problem : "Others have asked it"),
		    errhint("See serm.stat_server; what was answered is not asked again."));
	return count;
}

/* --- the network: no snapshot, transaction id or lock is held here */

static void
finish_request(SermRemote *remote, const SermHttpResult *result)
{
	Request *request = result->job;
	SermError error = {0};
	SermHost host;

	request->outcome = result->outcome;
	request->http_status = result->http_status;
	request->retry_after_ms = result->retry_after_ms;
	request->answer = (SermLogprobs){.problem = "", .tokens_prompt = -1, .tokens_completion = -1};
	strlcpy(request->detail, result->detail, sizeof(request->detail));
	if (result->outcome != SERM_OUTCOME_HTTP || result->http_status < 200 || result->http_status > 299)
		return;
	serm_host_init(&host, remote->wave, PROMPT_MEMORY_BYTES);
	serm_host_check(&host,
	    serm_logprobs_parse((SermText){result->body, result->body_length}, (uint32) remote->row->grade_count,
	        &host.arena, &request->answer, &error),
	    &error);
	serm_arena_free(&host.arena);
	if (request->answer.problem != NULL) {
		request->outcome = SERM_OUTCOME_MALFORMED;
		strlcpy(request->detail, request->answer.problem, sizeof(request->detail));
	}
}

static void
talk(SermRemote *remote, Request *requests, int count)
{
	int sent = 0, ended = 0;

	while (ended < count) {
		SermHttpResult result;

		while (sent < count && serm_http_in_flight(remote->http) < serm_annotate_concurrency) {
			Request *request = &requests[sent++];
			SermHttpRequest asked = {remote->server.endpoint, remote->key, request->body.bytes,
			    request->body.length, remote->server.timeout_ms, remote->server.connect_timeout_ms};

			serm_http_start(remote->http, &asked, request);
		}
		serm_http_poll(remote->http, POLL_MS);
		for (; serm_http_next(remote->http, &result); ended++) {
			finish_request(remote, &result);
			serm_http_release(remote->http, &result);
		}
		CHECK_FOR_INTERRUPTS();
	}
	wipe_key(remote);
}

/* --- a wave, after the network; inside SPI */

static void
keep_answer(SermRemote *remote, const Request *request)
{
	static SermKept kept;
	Datum numbers[SERM_GRADES_MAX];
	int grades = remote->row->grade_count;
	SermParam params[] = {SERM_TEXT(remote->row->name), SERM_DATUM(BYTEAOID, PointerGetDatum(request->key)),
	    SERM_DATUM(FLOAT4ARRAYOID, (Datum) 0)};

	take_answer(remote, request->question->pair, request->answer.probability);
	for (int y = 0; y < grades; y++)
		numbers[y] = Float4GetDatum(request->answer.probability[y]);
	params[2].value =
	    PointerGetDatum(construct_array(numbers, grades, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
	serm_spi_execute_kept(&kept,
	    "INSERT INTO serm._answer (model, key, probability) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, params, lengthof(params));
}

/* What it did cost: what the reply says, or, where it may have been billed unseen, the most. */
static double
cost_of(const SermRemote *remote, const Request *request)
{
	const SermLogprobs *answer = &request->answer;

	switch (request->outcome) {
		case SERM_OUTCOME_HTTP:
		case SERM_OUTCOME_MALFORMED:
			if (request->http_status < 200 || request->http_status > 299)
				return 0;
			if (answer->tokens_prompt < 0 || answer->tokens_completion < 0)
				return request->cost_most;
			return (answer->tokens_prompt * remote->server.price_prompt +
			           answer->tokens_completion * remote->server.price_completion) /
			       TOKENS_PRICED;
		case SERM_OUTCOME_TIMEOUT:
		case SERM_OUTCOME_BROKEN:
		case SERM_OUTCOME_TOO_LARGE:
			return request->cost_most;
		default:
			return 0;
	}
}

/* An answer, another attempt later, or none. */
static void
decide(SermRemote *remote, const Request *request)
{
	Question *question = request->question;
	SermRetryInput input = {.outcome = request->outcome,
	    .http_status = request->http_status,
	    .retry_after_ms = request->retry_after_ms,
	    .attempt = (uint32) question->attempts + 1,
	    .attempts_max = (uint32) remote->server.max_attempts,
	    .uniform = serm_random_fraction()};
	SermRetryDecision decision = serm_retry_decide(&input);

	if (decision.action == SERM_RETRY_DONE) {
		keep_answer(remote, request);
		return;
	}
	strlcpy(remote->problem, request->detail, sizeof(remote->problem));
	question->attempts += decision.counted ? 1 : 0;
	question->due = serm_progress_clock(NULL) + decision.delay_ms / 1000.0;
	if (decision.action == SERM_RETRY_GIVE_UP)
		give_up(remote, question);
}

static void
close_wave(SermRemote *remote, Request *requests, int count, int *level)
{
	double cost = 0, most = sum_costs(requests, count);
	List *reports = NIL;
	int inner = begin_step(remote);

	for (int i = 0; i < count; i++) {
		const Request *request = &requests[i];
		SermServerEvent event = serm_limit_event(request->outcome, request->http_status);
		int64 tokens = Max(request->answer.tokens_prompt, 0) + Max(request->answer.tokens_completion, 0);

		decide(remote, request);
		cost += cost_of(remote, request);
		if (event == SERM_SERVER_UNTOUCHED || (event == SERM_SERVER_ANSWERED && !remote->limited))
			continue;
		reports = lappend(reports, palloc(sizeof(SermServerReport)));
		*(SermServerReport *) llast(reports) = (SermServerReport){remote->row->options.server, event,
		    tokens > 0 ? (double) tokens - request->estimate : 0, request->retry_after_ms};
	}
	serm_limits_note(reports);
	if (cost != most)
		serm_budget_refund(remote->row->name, most - cost);
	serm_spi_end(inner);
	serm_spi_commit(level);
}

static void
check_failures(const SermRemote *remote)
{
	double share = remote->training->settings.distill.failed_share;

	if ((double) remote->failed > share * (double) remote->total)
		ereport(ERROR, errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
		    errmsg("teacher \"%s\" gave no answer to %zu of %zu pairs", remote->row->name, remote->failed,
		        remote->total),
		    errdetail("The last one: %s.", remote->problem),
		    errhint("Its endpoint must tell log-probabilities of tokens. The option \"failed_share\" says how"
		            " many pairs may stay without an answer; what was answered is not asked again."));
}

/* Wait for what is due later, or until somebody interrupts. */
static void
rest(const SermRemote *remote)
{
	double seconds = Min(remote->wait, 1);

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) Max(seconds * 1000, 1),
	    PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
tell(const SermRemote *remote)
{
	double seconds = serm_progress_clock(NULL) - remote->started;
	size_t done = remote->total - remote->pending;

	serm_progress_report(remote->training->progress, remote->training->level,
	    &(SermTrainProgress){.phase = "teaching",
	        .step = (uint32) done,
	        .steps = (uint32) remote->total,
	        .per_second = seconds > 0 ? (double) done / seconds : 0,
	        .seconds_left = done > 0 ? seconds / (double) done * (double) remote->pending : 0});
}

void
serm_remote_ask(SermRemote *remote, SermTraining *training, const SermPairSet *all, const bool *chosen,
    float *probability, bool *given)
{
	int most = WAVE_DEPTH * serm_annotate_concurrency;
	Request *requests;

	remote->training = training;
	remote->all = all;
	remote->probability = probability;
	remote->given = given;
	remote->started = serm_progress_clock(NULL);
	requests = MemoryContextAlloc(remote->context, mul_size(most, sizeof(Request)));
	remote->questions =
	    MemoryContextAllocHuge(remote->context, mul_size(all->pair_count + 1, sizeof(Question)));
	for (size_t i = 0; i < all->pair_count; i++)
		if (chosen[i])
			remote->questions[remote->pending++] = (Question){.pair = i};
	remote->total = remote->pending;
	tell(remote);
	while (remote->pending > 0) {
		MemoryContext previous = MemoryContextSwitchTo(remote->wave);
		int count = open_wave(remote, requests, most, training->level);

		if (count > 0) {
			talk(remote, requests, count);
			close_wave(remote, requests, count, training->level);
		}
		drop_answered(remote);
		MemoryContextSwitchTo(previous);
		wipe_key(remote);
		MemoryContextReset(remote->wave);
		tell(remote);
		check_failures(remote);
		if (count == 0 && remote->pending > 0)
			rest(remote);
	}
}
