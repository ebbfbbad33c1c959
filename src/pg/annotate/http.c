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

#include <signal.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

/* A reply that has begun must keep this pace over this time. */
#define TRICKLE_MS 10000
#define TRICKLE_BYTES_PER_SECOND 100
#define EVENTS 128

int64
serm_http_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
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

	if (http == NULL ||
	    curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, serm_transfer_wipe_and_free,
	        serm_transfer_grow_and_wipe, strdup, calloc) != CURLE_OK ||
	    (http->multi = curl_multi_init()) == NULL || (http->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) {
		free(http);
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not start libcurl"));
	}
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, serm_http_on_socket);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, serm_http_on_timer);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
	http->ended_tail = &http->ended;
	http->due_ms = -1;
	return http;
}

void
serm_http_start(SermHttp *http, const SermHttpRequest *request, void *job)
{
	SermTransfer *transfer = serm_transfer_take(http);

	transfer->job = job;
	http->in_flight++;
	if (!serm_transfer_prepare(transfer, request) ||
	    curl_multi_add_handle(http->multi, transfer->easy) != CURLM_OK) {
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
	int64 now = serm_http_now_ms();
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

	if (http->due_ms < 0 || serm_http_now_ms() < http->due_ms)
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
		SermWatched *watched = serm_http_watch(http, events[i].data.fd);
		int action = ((events[i].events & EPOLLIN) != 0 ? CURL_CSELECT_IN : 0) |
		             ((events[i].events & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
		             ((events[i].events & (EPOLLERR | EPOLLHUP)) != 0 ? CURL_CSELECT_ERR : 0);

		/* The peer ends a kept connection; curl finds out when it wants it next. */
		if (watched != NULL && watched->ours && watched->idle) {
			watched->events = 0;
			(void) epoll_ctl(http->epoll, EPOLL_CTL_DEL, events[i].data.fd, NULL);
			continue;
		}
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
		wait = Min(wait, Max(http->due_ms - serm_http_now_ms(), 0));
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
	serm_transfer_clear(result->transfer);
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
		serm_transfer_free(transfer);
	}
	curl_multi_cleanup(http->multi);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(http->epoll);
	free(http->watched);
	free(http);
}
