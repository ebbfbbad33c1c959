/*
 * Requests to agents, many at a time, in one process. The only file behind this
 * header that knows curl; no snapshot, transaction id or lock may be held while it waits.
 *
 * Everything here is malloc'd and owned by SermHttp: an error of the server
 * ends the worker process, and with it the requests; a session closes it when a context of memory goes.
 */
#ifndef SERM_PG_ANNOTATE_HTTP_H
#define SERM_PG_ANNOTATE_HTTP_H

#include "pg/serm.h"

#include "core/agent/endpoint.h"
#include "core/agent/retry.h"

#define SERM_HTTP_HEADER_BYTES_MAX 32768
#define SERM_HTTP_DETAIL_BYTES 160

typedef struct SermHttp SermHttp;
typedef struct SermTransfer SermTransfer;

typedef struct SermHttpRequest {
	const char *endpoint; /* as in the server's options; checked again here */
	const char *key;      /* NULL: no authorization header */
	const char *body;     /* must live until serm_http_release */
	size_t body_length;
	int timeout_ms;
	int connect_timeout_ms;
} SermHttpRequest;

typedef struct SermHttpResult {
	void *job; /* what serm_http_start was given */
	SermOutcome outcome;
	int http_status;
	int64 retry_after_ms; /* -1: none */
	int latency_ms;
	const char *body; /* valid until serm_http_release; not NUL-terminated */
	size_t body_length;
	char
	    detail[SERM_HTTP_DETAIL_BYTES]; /* what went wrong, without anything that the peer or a secret says */
	SermTransfer *transfer;
} SermHttpResult;

/* One per process. The addresses that requests may reach are those of the settings at the time of each
 * connect. */
extern SermHttp *serm_http_open(void);
extern void serm_http_close(SermHttp *http);
/* Start a request; it may fail at once, which serm_http_next tells like any other end. */
extern void serm_http_start(SermHttp *http, const SermHttpRequest *request, void *job);
/* Move bytes; when nothing has ended, wait for more at most `timeout_ms`. */
extern void serm_http_poll(SermHttp *http, int timeout_ms);
/* The next request that has ended, and is in flight no more; false when there is none. */
extern bool serm_http_next(SermHttp *http, SermHttpResult *result);
/* Forget it: each result must be released, at any time. */
extern void serm_http_release(SermHttp *http, SermHttpResult *result);
extern int serm_http_in_flight(const SermHttp *http);

#endif
