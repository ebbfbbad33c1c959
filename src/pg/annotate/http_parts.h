/*
 * What the files behind http.h share, and nobody else sees:
 *
 *   http.c           the loop, and what became of a request
 *   http_transfer.c  one request: its options, its reply, its memory
 *   http_socket.c    which addresses are connected to; epoll
 */
#ifndef SERM_PG_ANNOTATE_HTTP_PARTS_H
#define SERM_PG_ANNOTATE_HTTP_PARTS_H

#include "pg/annotate/http.h"

#include <curl/curl.h>

struct SermTransfer {
	SermHttp *http;
	SermTransfer *next; /* in `ended` or `free` */
	SermTransfer *newer, *older;
	void *job;
	CURL *easy;
	struct curl_slist *headers;
	SermEndpoint endpoint;
	char *body;
	size_t body_length;
	size_t body_capacity;
	size_t header_length;
	char retry_after[64];
	char retry_after_ms[32];
	int64 first_byte_ms; /* of the body: gateways send headers before a model has thought; 0: none yet */
	bool refused;        /* an address that the rules forbid */
	bool opened;         /* another one that they allow: it decides what became of the request */
	bool begun;          /* its request may have left */
	bool again;          /* curl would have sent it a second time */
	bool too_large;      /* body or headers */
	bool trickling;
	bool no_memory;
	bool failed_start;
	CURLcode code;
};

/* What epoll knows of a descriptor. */
typedef struct SermWatched {
	bool ours;       /* opened, and one day closed, by the callbacks below */
	bool idle;       /* curl does not wait for it at present */
	uint32_t events; /* 0: not known to epoll */
} SermWatched;

struct SermHttp {
	CURLM *multi;
	int epoll;
	SermWatched *watched; /* by descriptor */
	int watched_count;
	int64 due_ms; /* when curl wants to run, by the monotonic clock; -1: when a socket is ready */
	int64 trickle_ms;
	SermTransfer *newest; /* in flight */
	SermTransfer *ended;  /* oldest first */
	SermTransfer **ended_tail;
	SermTransfer *free; /* with their handles, which keep what all requests have in common */
	int in_flight;
};

/* The monotonic clock. */
extern int64 serm_http_now_ms(void);

/* --- http_transfer.c */

/* A free transfer, with the options that all have in common. Error 53200. */
extern SermTransfer *serm_transfer_take(SermHttp *http);
/* Everything of one request; false: it cannot be set up, or must not (`refused`). */
extern bool serm_transfer_prepare(SermTransfer *transfer, const SermHttpRequest *request);
/* Forget the request, the key first; keep the handle and a buffer of ordinary size. */
extern void serm_transfer_clear(SermTransfer *transfer);
extern void serm_transfer_free(SermTransfer *transfer);
/* Memory for curl: requests carry keys, so what it frees is wiped. */
extern void serm_transfer_wipe_and_free(void *block);
extern void *serm_transfer_grow_and_wipe(void *block, size_t size);

/* --- http_socket.c: callbacks of curl */

extern curl_socket_t serm_http_on_open(void *context, curlsocktype purpose, struct curl_sockaddr *address);
extern int serm_http_on_close(void *context, curl_socket_t socket);
extern int serm_http_on_connected(void *context, char *remote, char *local, int remote_port, int local_port);
extern int serm_http_on_socket(CURL *easy, curl_socket_t socket, int what, void *context, void *known);
extern int serm_http_on_timer(CURLM *multi, long timeout_ms, void *context);
/* What epoll knows of a descriptor; NULL: there is no memory to remember it. */
extern SermWatched *serm_http_watch(SermHttp *http, curl_socket_t socket);

#endif
