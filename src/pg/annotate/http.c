/*
 * libcurl's multi interface under the rules of doc/security.md: no redirects, no
 * proxies, no netrc, only http and https, the real address checked when a socket
 * opens, caps on body and headers counted in the callbacks (curl's own limit does
 * not see chunked replies), and time limits for connecting, for the whole
 * request and for replies that trickle.
 *
 * Callbacks touch no server API and never raise: they set a flag in their
 * transfer and tell curl to stop. Signals are blocked while curl runs, because
 * its resolver threads inherit the mask; waits are short for the same reason.
 */
#include "pg/annotate/http.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <signal.h>
#include <time.h>

#include "core/agent/reply.h"
#include "pg/annotate/annotate.h"

/* A reply that has begun must keep this pace over this time. */
#define TRICKLE_SECONDS 10
#define TRICKLE_BYTES_PER_SECOND 100
#define BODY_FIRST_CAPACITY 8192

struct SermTransfer {
	SermTransfer *next;
	void *job;
	CURL *easy;
	struct curl_slist *headers;
	char *request_body;
	SermEndpoint endpoint;
	char *body;
	size_t body_length;
	size_t body_capacity;
	size_t header_length;
	char retry_after[64];
	char retry_after_ms[32];
	struct timespec first_byte;
	bool begun;
	bool refused;   /* an address that the rules forbid */
	bool too_large; /* body or headers */
	bool trickling;
	bool no_memory;
	bool failed_start;
	CURLcode code;
};

struct SermHttp {
	CURLM *multi;
	SermTransfer *ended; /* oldest first */
	SermTransfer **ended_tail;
	int in_flight;
};

/* --- callbacks */

static size_t
on_body(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;
	size_t needed;

	if (length > SERM_REPLY_BYTES_MAX || transfer->body_length + length > SERM_REPLY_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	needed = transfer->body_length + length;
	if (needed > transfer->body_capacity) {
		size_t capacity = Max(needed, Max(transfer->body_capacity * 2, BODY_FIRST_CAPACITY));
		char *grown = realloc(transfer->body, capacity);

		if (grown == NULL) {
			transfer->no_memory = true;
			return 0;
		}
		transfer->body = grown;
		transfer->body_capacity = capacity;
	}
	memcpy(transfer->body + transfer->body_length, bytes, length);
	transfer->body_length = needed;
	return length;
}

/* The value of a header line that begins with `name`, trimmed, if it fits. */
static void
keep_header(const char *line, size_t length, const char *name, char *value, size_t size)
{
	const size_t skip = strlen(name);

	if (length <= skip || pg_strncasecmp(line, name, skip) != 0)
		return;
	while (length > skip && strchr("\r\n", line[length - 1]) != NULL)
		length--;
	if (length - skip < size) {
		memcpy(value, line + skip, length - skip);
		value[length - skip] = '\0';
	}
}

static size_t
on_header(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;

	transfer->header_length += length;
	if (transfer->header_length > SERM_HTTP_HEADER_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	if (!transfer->begun) {
		transfer->begun = true;
		clock_gettime(CLOCK_MONOTONIC, &transfer->first_byte);
	}
	keep_header(bytes, length, "retry-after:", transfer->retry_after, sizeof(transfer->retry_after));
	keep_header(bytes, length, "retry-after-ms:", transfer->retry_after_ms, sizeof(transfer->retry_after_ms));
	return length;
}

/* curl's own low-speed rule would also count the time in which a model thinks; this one starts with the
 * reply. */
static int
on_progress(void *context, curl_off_t total_down pg_attribute_unused(), curl_off_t down,
    curl_off_t total_up pg_attribute_unused(), curl_off_t up pg_attribute_unused())
{
	SermTransfer *transfer = context;
	struct timespec now;
	double seconds;

	if (!transfer->begun)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &now);
	seconds = (double) (now.tv_sec - transfer->first_byte.tv_sec) +
	          (double) (now.tv_nsec - transfer->first_byte.tv_nsec) / 1e9;
	transfer->trickling = seconds > TRICKLE_SECONDS && (double) down < seconds * TRICKLE_BYTES_PER_SECOND;
	return transfer->trickling ? 1 : 0;
}

/* The address that a name really resolved to decides, whatever the URL looks like. */
static curl_socket_t
on_open_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
	SermTransfer *transfer = context;
	SermAddress plain = {{0}, 0};

	if (address->family == AF_INET) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *) &address->addr;

		plain.length = 4;
		memcpy(plain.bytes, &v4->sin_addr, 4);
	} else if (address->family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *) &address->addr;

		plain.length = 16;
		memcpy(plain.bytes, &v6->sin6_addr, 16);
	}
	if (purpose != CURLSOCKTYPE_IPCXN || plain.length == 0 ||
	    !serm_endpoint_permits(&transfer->endpoint, &plain, serm_allowed_ranges(), serm_allowed_range_count(),
	        serm_allow_http)) {
		transfer->refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* --- building and freeing */

static void
wipe_headers(struct curl_slist *headers)
{
	for (struct curl_slist *at = headers; at != NULL; at = at->next)
		explicit_bzero(at->data, strlen(at->data));
	curl_slist_free_all(headers);
}

static void
free_transfer(SermTransfer *transfer)
{
	if (transfer->easy != NULL)
		curl_easy_cleanup(transfer->easy);
	wipe_headers(transfer->headers);
	free(transfer->request_body);
	free(transfer->body);
	free(transfer);
}

static bool
add_header(SermTransfer *transfer, const char *header)
{
	struct curl_slist *longer = curl_slist_append(transfer->headers, header);

	if (longer == NULL)
		return false;
	transfer->headers = longer;
	return true;
}

static bool
add_headers(SermTransfer *transfer, const char *key)
{
	char *authorization;
	size_t size;
	bool added;

	/* "Expect:" keeps curl from waiting for a 100 that few judges send. */
	if (!add_header(transfer, "Content-Type: application/json") ||
	    !add_header(transfer, "Accept: application/json") || !add_header(transfer, "Expect:"))
		return false;
	if (key == NULL)
		return true;
	size = strlen(key) + sizeof("Authorization: Bearer ");
	authorization = malloc(size);
	if (authorization == NULL)
		return false;
	snprintf(authorization, size, "Authorization: Bearer %s", key);
	added = add_header(transfer, authorization);
	explicit_bzero(authorization, size);
	free(authorization);
	return added;
}

#define SET(option, value) (good = good && curl_easy_setopt(transfer->easy, (option), (value)) == CURLE_OK)

static bool
set_options(SermTransfer *transfer, const SermHttpRequest *request, const char *url)
{
	const char *protocol = transfer->endpoint.https ? "https" : "http";
	bool good = true;

	SET(CURLOPT_URL, url);
	SET(CURLOPT_PROTOCOLS_STR, protocol);
	SET(CURLOPT_REDIR_PROTOCOLS_STR, "https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_PROXY, "");
	/* curl asks again by itself when a kept connection turns out dead; there is one retry loop, and it
	 * counts. */
	SET(CURLOPT_FRESH_CONNECT, 1L);
	SET(CURLOPT_FORBID_REUSE, 1L);
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_NOSIGNAL, 1L);
	/* Or curl waits for the resolver's thread of a request that has timed out, and all others with it. */
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_USERAGENT, "serm");
	SET(CURLOPT_HTTPHEADER, transfer->headers);
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_POSTFIELDS, transfer->request_body);
	SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_length);
	SET(CURLOPT_TIMEOUT_MS, (long) request->timeout_ms);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) request->connect_timeout_ms);
	SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) SERM_REPLY_BYTES_MAX);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_NOPROGRESS, 0L);
	SET(CURLOPT_XFERINFOFUNCTION, on_progress);
	SET(CURLOPT_XFERINFODATA, transfer);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SET(CURLOPT_OPENSOCKETDATA, transfer);
	SET(CURLOPT_PRIVATE, transfer);
	return good;
}

static bool
prepare(SermTransfer *transfer, const SermHttpRequest *request)
{
	char url[SERM_ENDPOINT_BYTES_MAX + sizeof(SERM_ENDPOINT_ROUTE)];
	size_t length = strlen(request->endpoint);
	SermError error;

	if (serm_endpoint_parse(request->endpoint, &transfer->endpoint, &error) != SERM_OK) {
		transfer->refused = true;
		return false;
	}
	while (length > 0 && request->endpoint[length - 1] == '/')
		length--;
	snprintf(url, sizeof(url), "%.*s%s", (int) length, request->endpoint,
	    transfer->endpoint.routed ? "" : SERM_ENDPOINT_ROUTE);

	transfer->easy = curl_easy_init();
	transfer->request_body = malloc(request->body_length + 1);
	if (transfer->easy == NULL || transfer->request_body == NULL || !add_headers(transfer, request->key))
		return false;
	memcpy(transfer->request_body, request->body, request->body_length);
	return set_options(transfer, request, url);
}

static void
append_ended(SermHttp *http, SermTransfer *transfer)
{
	transfer->next = NULL;
	*http->ended_tail = transfer;
	http->ended_tail = &transfer->next;
}

SermHttp *
serm_http_open(void)
{
	SermHttp *http = calloc(1, sizeof(SermHttp));

	if (http == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
	    (http->multi = curl_multi_init()) == NULL) {
		free(http);
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not start libcurl"));
	}
	http->ended_tail = &http->ended;
	return http;
}

void
serm_http_start(SermHttp *http, const SermHttpRequest *request, void *job)
{
	SermTransfer *transfer = calloc(1, sizeof(SermTransfer));

	if (transfer == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory for a request"));
	transfer->job = job;
	http->in_flight++;
	if (!prepare(transfer, request) || curl_multi_add_handle(http->multi, transfer->easy) != CURLM_OK) {
		transfer->failed_start = true;
		append_ended(http, transfer);
	}
}

/* --- running */

static void
reap(SermHttp *http)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL) {
		SermTransfer *transfer = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);
		transfer->code = message->data.result;
		curl_multi_remove_handle(http->multi, transfer->easy);
		append_ended(http, transfer);
	}
}

void
serm_http_poll(SermHttp *http, int timeout_ms)
{
	sigset_t every, before;
	int running, ready;

	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &before);
	curl_multi_perform(http->multi, &running);
	reap(http);
	if (http->ended == NULL && running > 0 && timeout_ms > 0) {
		curl_multi_poll(http->multi, NULL, 0, timeout_ms, &ready);
		curl_multi_perform(http->multi, &running);
		reap(http);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static SermOutcome
classify(const SermTransfer *transfer)
{
	if (transfer->too_large)
		return SERM_OUTCOME_TOO_LARGE;
	if (transfer->trickling)
		return SERM_OUTCOME_TIMEOUT;
	/* A forbidden address among several is skipped; what counts is that none was left. */
	if (transfer->refused && transfer->code != CURLE_OK)
		return SERM_OUTCOME_FORBIDDEN;
	if (transfer->failed_start)
		return transfer->refused ? SERM_OUTCOME_FORBIDDEN : SERM_OUTCOME_CONFIG;
	switch (transfer->code) {
		case CURLE_OK:
			return SERM_OUTCOME_HTTP;
		case CURLE_OPERATION_TIMEDOUT:
			return SERM_OUTCOME_TIMEOUT;
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_CONNECT:
		case CURLE_SSL_CONNECT_ERROR:
			return SERM_OUTCOME_CONNECT;
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ISSUER_ERROR:
			return SERM_OUTCOME_CERTIFICATE;
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_URL_MALFORMAT:
			return SERM_OUTCOME_FORBIDDEN;
		case CURLE_FILESIZE_EXCEEDED:
			return SERM_OUTCOME_TOO_LARGE;
		default:
			return SERM_OUTCOME_BROKEN;
	}
}

static void
describe(const SermTransfer *transfer, SermHttpResult *result)
{
	const char *text = NULL;

	switch (result->outcome) {
		case SERM_OUTCOME_HTTP:
			snprintf(result->detail, sizeof(result->detail), "HTTP status %d%s", result->http_status,
			    result->http_status >= 300 && result->http_status <= 399 ? " (redirects are not followed)"
			                                                             : "");
			return;
		case SERM_OUTCOME_TOO_LARGE:
			text = "the reply is larger than 256 KiB, or its headers than 32 KiB";
			break;
		case SERM_OUTCOME_FORBIDDEN:
			text = "the endpoint leads to an address that serm.allow_cidr and serm.allow_http do not allow";
			break;
		case SERM_OUTCOME_CONFIG:
			text = "the request could not be set up";
			break;
		case SERM_OUTCOME_TIMEOUT:
			text = transfer->trickling ? "the reply trickles" : "timed out";
			break;
		default:
			text = transfer->no_memory ? "out of memory" : curl_easy_strerror(transfer->code);
			break;
	}
	snprintf(result->detail, sizeof(result->detail), "%s", text);
}

bool
serm_http_next(SermHttp *http, SermHttpResult *result)
{
	SermTransfer *transfer = http->ended;
	curl_off_t microseconds = 0;
	long status = 0;

	if (transfer == NULL)
		return false;
	http->ended = transfer->next;
	if (http->ended == NULL)
		http->ended_tail = &http->ended;

	memset(result, 0, sizeof(*result));
	result->transfer = transfer;
	result->job = transfer->job;
	if (transfer->easy != NULL) {
		curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
		curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &microseconds);
	}
	result->http_status = (int) status;
	result->outcome = classify(transfer);
	result->latency_ms = (int) Min(microseconds / 1000, INT_MAX);
	result->retry_after_ms =
	    serm_retry_after_ms_parse((SermText){transfer->retry_after_ms, strlen(transfer->retry_after_ms)});
	if (result->retry_after_ms < 0)
		result->retry_after_ms = serm_retry_after_parse(
		    (SermText){transfer->retry_after, strlen(transfer->retry_after)}, (int64) time(NULL));
	result->body = transfer->body;
	result->body_length = transfer->body_length;
	describe(transfer, result);
	return true;
}

void
serm_http_release(SermHttp *http, SermHttpResult *result)
{
	free_transfer(result->transfer);
	result->transfer = NULL;
	result->body = NULL;
	http->in_flight--;
}

int
serm_http_in_flight(const SermHttp *http)
{
	return http->in_flight;
}

/* What is still in the multi handle, and resolver threads that still run, belong to a process that is about
 * to end. */
void
serm_http_close(SermHttp *http)
{
	SermHttpResult result;

	while (serm_http_next(http, &result))
		serm_http_release(http, &result);
	curl_multi_cleanup(http->multi);
	free(http);
}
