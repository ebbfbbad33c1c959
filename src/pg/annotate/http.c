/*
 * libcurl's multi interface under the rules of doc/security.md: no redirects, no
 * proxies, no netrc, only http and https, the real address checked when a socket
 * opens and before each request, caps on body and headers counted in the callbacks
 * (curl's own limit does not see chunked replies), and time limits for connecting,
 * for the whole request and for replies that trickle.
 *
 * Connections are kept, but no request is sent twice: curl asks again by itself when
 * a kept connection turns out dead, and the server may have read and billed the
 * first time. Here a transfer that has begun gets no other connection. There is one
 * retry loop, and it counts.
 *
 * Callbacks touch no server API and never raise: they set a flag in their
 * transfer and tell curl to stop. Signals are blocked while curl runs, because
 * its resolver threads inherit the mask; waits are short for the same reason.
 * Sockets are waited for with epoll: curl's own loop looks at each transfer each time.
 * A kept connection stays known to epoll between two requests.
 */
#include "pg/annotate/http_parts.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "core/agent/reply.h"
#include "pg/annotate/annotate.h"

/* A reply that has begun must keep this pace over this time. */
#define TRICKLE_MS 10000
#define TRICKLE_BYTES_PER_SECOND 100
#define EVENTS 128
/* A buffer that grew beyond this is given back after its request. */
#define BODY_KEPT_CAPACITY 65536
/* Shorter than the five seconds after which common servers close what is idle. */
#define IDLE_SECONDS 4L
/* Names are looked up again after this. */
#define LIFETIME_SECONDS 300L
/* curl takes and wipes its buffers with each request: a page for a reply, and for bodies that do not go at
 * once the least there is. */
#define REPLY_BUFFER_BYTES 4096L
#define REQUEST_BUFFER_BYTES 16384L

/* --- sockets, as curl has them */

static curl_socket_t
on_open_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
	SermTransfer *transfer = context;

	if (purpose != CURLSOCKTYPE_IPCXN) {
		transfer->refused = true;
		return CURL_SOCKET_BAD;
	}
	return serm_http_open_socket(
	    transfer, address->family, &address->addr, address->socktype, address->protocol);
}

/* Before each request, on kept connections too: the settings may have become stricter. */
static int
on_connected(void *context, char *remote, char *local pg_attribute_unused(),
    int remote_port pg_attribute_unused(), int local_port pg_attribute_unused())
{
	SermTransfer *transfer = context;
	SermCidr peer;

	if (transfer->begun) {
		transfer->again = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (remote != NULL && serm_cidr_parse(remote, strlen(remote), &peer) &&
	    serm_http_permits(transfer, &peer.address)) {
		transfer->begun = true;
		return CURL_PREREQFUNC_OK;
	}
	transfer->refused = true;
	transfer->opened = false;
	return CURL_PREREQFUNC_ABORT;
}

static int
on_socket(CURL *easy pg_attribute_unused(), curl_socket_t socket, int what, void *context,
    void *known pg_attribute_unused())
{
	const bool read = what == CURL_POLL_IN || what == CURL_POLL_INOUT;
	const bool write = what == CURL_POLL_OUT || what == CURL_POLL_INOUT;

	serm_http_watch(context, socket, (read ? EPOLLIN : 0) | (write ? EPOLLOUT : 0));
	return 0;
}

static int
on_timer(CURLM *multi pg_attribute_unused(), long timeout_ms, void *context)
{
	SermHttp *http = context;

	http->due_ms = timeout_ms < 0 ? -1 : serm_now_ms() + timeout_ms;
	return 0;
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

/* What all requests have in common. */
static bool
set_rules(SermTransfer *transfer)
{
	bool good = true;

	SET(CURLOPT_REDIR_PROTOCOLS_STR, "https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_MAXAGE_CONN, IDLE_SECONDS);
	SET(CURLOPT_MAXLIFETIME_CONN, LIFETIME_SECONDS);
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_NOSIGNAL, 1L);
	/* Or curl waits for the resolver's thread of a request that has timed out, and all others with it. */
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_USERAGENT, "serm");
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_BUFFERSIZE, REPLY_BUFFER_BYTES);
	SET(CURLOPT_UPLOAD_BUFFERSIZE, REQUEST_BUFFER_BYTES);
	SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) SERM_REPLY_BYTES_MAX);
	SET(CURLOPT_WRITEFUNCTION, serm_http_on_body);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, serm_http_on_header);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SET(CURLOPT_OPENSOCKETDATA, transfer);
	SET(CURLOPT_CLOSESOCKETFUNCTION, serm_http_close_socket);
	SET(CURLOPT_CLOSESOCKETDATA, transfer->http);
	SET(CURLOPT_PREREQFUNCTION, on_connected);
	SET(CURLOPT_PREREQDATA, transfer);
	SET(CURLOPT_PRIVATE, transfer);
	return good;
}

static bool
set_request(SermTransfer *transfer, const SermHttpRequest *request, const char *url)
{
	const char *protocol = transfer->endpoint.https ? "https" : "http";
	bool good = true;

	SET(CURLOPT_URL, url);
	SET(CURLOPT_PROTOCOLS_STR, protocol);
	SET(CURLOPT_HTTPHEADER, transfer->headers);
	/* Of a size and not copied; with the headers in one piece where it fits. */
	SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_length);
	SET(CURLOPT_POSTFIELDS, request->body);
	SET(CURLOPT_TIMEOUT_MS, (long) request->timeout_ms);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) request->connect_timeout_ms);
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
	return add_headers(transfer, request->key) && set_request(transfer, request, url);
}

static SermTransfer *
take_transfer(SermHttp *http)
{
	SermTransfer *transfer = http->free;

	if (transfer != NULL) {
		http->free = transfer->next;
		return transfer;
	}
	transfer = calloc(1, sizeof(SermTransfer));
	if (transfer != NULL)
		transfer->http = http;
	if (transfer == NULL || (transfer->easy = curl_easy_init()) == NULL || !set_rules(transfer)) {
		if (transfer != NULL)
			free_transfer(transfer);
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory for a request"));
	}
	return transfer;
}

/* Forget the request, the key first; keep the handle and a buffer of ordinary size. */
static void
clear_transfer(SermTransfer *transfer)
{
	SermTransfer kept = {.http = transfer->http, .easy = transfer->easy};

	curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
	curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, NULL);
	wipe_headers(transfer->headers);
	if (transfer->body_capacity <= BODY_KEPT_CAPACITY) {
		kept.body = transfer->body;
		kept.body_capacity = transfer->body_capacity;
	} else
		free(transfer->body);
	*transfer = kept;
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

	serm_http_keep_memory();
	if (http == NULL ||
	    curl_global_init_mem(CURL_GLOBAL_DEFAULT, serm_http_take, serm_http_wipe_and_free,
	        serm_http_grow_and_wipe, serm_http_copy, serm_http_take_zeros) != CURLE_OK ||
	    (http->multi = curl_multi_init()) == NULL || (http->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) {
		free(http);
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not start libcurl"));
	}
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
	http->ended_tail = &http->ended;
	http->due_ms = -1;
	return http;
}

void
serm_http_start(SermHttp *http, const SermHttpRequest *request, void *job)
{
	SermTransfer *transfer = take_transfer(http);

	transfer->job = job;
	http->in_flight++;
	if (!prepare(transfer, request) || curl_multi_add_handle(http->multi, transfer->easy) != CURLM_OK) {
		transfer->failed_start = true;
		append_ended(http, transfer);
		return;
	}
	transfer->older = http->newest;
	if (http->newest != NULL)
		http->newest->newer = transfer;
	http->newest = transfer;
}

/* --- running */

static void
end_transfer(SermHttp *http, SermTransfer *transfer, CURLcode code)
{
	transfer->code = code;
	curl_multi_remove_handle(http->multi, transfer->easy);
	if (transfer->newer != NULL)
		transfer->newer->older = transfer->older;
	else
		http->newest = transfer->older;
	if (transfer->older != NULL)
		transfer->older->newer = transfer->newer;
	append_ended(http, transfer);
}

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
		end_transfer(http, transfer, message->data.result);
	}
}

/* curl's own low-speed rule would also count the time in which a model thinks; this one starts with the
 * reply. */
static void
end_trickles(SermHttp *http)
{
	int64 now = serm_now_ms();
	SermTransfer *older;

	if (now - http->trickle_ms < 1000)
		return;
	http->trickle_ms = now;
	for (SermTransfer *transfer = http->newest; transfer != NULL; transfer = older) {
		int64 elapsed = now - transfer->first_byte_ms;

		older = transfer->older;
		if (transfer->first_byte_ms == 0 || elapsed <= TRICKLE_MS ||
		    transfer->body_length >= (size_t) (elapsed * TRICKLE_BYTES_PER_SECOND / 1000))
			continue;
		transfer->trickling = true;
		end_transfer(http, transfer, CURLE_OPERATION_TIMEDOUT);
	}
}

static void
run_timer(SermHttp *http)
{
	int running;

	if (http->due_ms < 0 || serm_now_ms() < http->due_ms)
		return;
	/* curl sets it anew as it runs. */
	http->due_ms = -1;
	curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

static void
run_sockets(SermHttp *http, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(http->epoll, events, EVENTS, timeout_ms);
	int running;

	for (int i = 0; i < count; i++) {
		int action = ((events[i].events & EPOLLIN) != 0 ? CURL_CSELECT_IN : 0) |
		             ((events[i].events & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
		             ((events[i].events & (EPOLLERR | EPOLLHUP)) != 0 ? CURL_CSELECT_ERR : 0);

		/* The peer ends a kept connection; curl finds out when it wants it next. */
		if (serm_http_idle(http, events[i].data.fd))
			continue;
		curl_multi_socket_action(http->multi, events[i].data.fd, action, &running);
	}
}

void
serm_http_poll(SermHttp *http, int timeout_ms)
{
	sigset_t every, before;
	int64 wait;

	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &before);
	run_timer(http);
	reap(http);
	wait = http->ended != NULL ? 0 : timeout_ms;
	if (http->due_ms >= 0)
		wait = Min(wait, Max(http->due_ms - serm_now_ms(), 0));
	run_sockets(http, (int) wait);
	run_timer(http);
	reap(http);
	end_trickles(http);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static SermOutcome
classify(const SermTransfer *transfer)
{
	if (transfer->too_large)
		return SERM_OUTCOME_TOO_LARGE;
	if (transfer->trickling)
		return SERM_OUTCOME_TIMEOUT;
	if (transfer->again)
		return SERM_OUTCOME_BROKEN;
	/* A forbidden address among several is skipped; what counts is that none was left. */
	if (transfer->refused && !transfer->opened && transfer->code != CURLE_OK)
		return SERM_OUTCOME_FORBIDDEN;
	if (transfer->failed_start)
		return transfer->refused ? SERM_OUTCOME_FORBIDDEN : SERM_OUTCOME_CONFIG;
	switch (transfer->code) {
		case CURLE_OK:
			return SERM_OUTCOME_HTTP;
		case CURLE_OPERATION_TIMEDOUT:
			/* Nobody bills a request of which nothing left. */
			return transfer->begun ? SERM_OUTCOME_TIMEOUT : SERM_OUTCOME_CONNECT;
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
			text = transfer->no_memory                          ? "out of memory"
			       : transfer->again                            ? "the connection was closed without a reply"
			       : transfer->code == CURLE_OPERATION_TIMEDOUT ? "connecting timed out"
			                                                    : curl_easy_strerror(transfer->code);
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
	http->in_flight--;

	memset(result, 0, sizeof(*result));
	result->transfer = transfer;
	result->job = transfer->job;
	if (!transfer->failed_start) {
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
	clear_transfer(result->transfer);
	result->transfer->next = http->free;
	http->free = result->transfer;
	result->transfer = NULL;
	result->body = NULL;
}

int
serm_http_in_flight(const SermHttp *http)
{
	return http->in_flight;
}

/* Resolver threads that still run end by themselves; their process may go on. */
void
serm_http_close(SermHttp *http)
{
	SermHttpResult result;
	SermTransfer *next;
	sigset_t every, before;

	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &before);
	while (http->newest != NULL)
		end_transfer(http, http->newest, CURLE_ABORTED_BY_CALLBACK);
	while (serm_http_next(http, &result))
		serm_http_release(http, &result);
	for (SermTransfer *transfer = http->free; transfer != NULL; transfer = next) {
		next = transfer->next;
		free_transfer(transfer);
	}
	curl_multi_cleanup(http->multi);
	serm_http_drop_memory();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(http->epoll);
	free(http->watched);
	free(http);
}
