/*
 * What the files behind http.h share, and nobody else sees:
 *
 *   http.c         curl: one request, the loop, and what became of a request
 *   http_socket.c  which addresses are connected to; what epoll knows
 *   http_reply.c   what comes back
 *   http_memory.c  curl's memory, which is wiped
 */
#ifndef SERM_PG_ANNOTATE_HTTP_PARTS_H
#define SERM_PG_ANNOTATE_HTTP_PARTS_H

#include "pg/annotate/http.h"

#include <sys/socket.h>

struct curl_slist;

struct SermTransfer {
	SermHttp *http;
	SermTransfer *next; /* in `ended` or `free` */
	SermTransfer *newer, *older;
	void *job;
	void *easy; /* a CURL */
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
	int code; /* a CURLcode */
};

/* What epoll knows of a descriptor. */
typedef struct SermWatched {
	bool ours;       /* opened, and one day closed, by http_socket.c */
	bool idle;       /* curl does not wait for it at present */
	uint32_t events; /* 0: not known to epoll */
} SermWatched;

struct SermHttp {
	void *multi; /* a CURLM */
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

/* --- http_socket.c */

/* May this transfer reach that address? */
extern bool serm_http_permits(const SermTransfer *transfer, const SermAddress *address);
/* A socket to an address that is permitted; or -1, and `refused` or `again` of the transfer says why. */
extern int serm_http_open_socket(
    SermTransfer *transfer, int family, const struct sockaddr *address, int type, int protocol);
/* A callback of curl; `context` is the SermHttp. */
extern int serm_http_close_socket(void *context, int socket);
/* Wait for these events of epoll; 0: for none at present. */
extern void serm_http_watch(SermHttp *http, int socket, uint32_t events);
/* Is a socket that has an event one that nobody waits for? Then it has no more. */
extern bool serm_http_idle(SermHttp *http, int socket);

/* --- http_reply.c: callbacks of curl, `context` is the SermTransfer */

extern size_t serm_http_on_body(char *bytes, size_t size, size_t count, void *context);
extern size_t serm_http_on_header(char *bytes, size_t size, size_t count, void *context);

/* --- http_memory.c: as malloc() and its kin, for curl_global_init_mem(); what is freed is wiped */

extern void serm_http_keep_memory(void); /* of this thread */
extern void serm_http_drop_memory(void);
extern void *serm_http_take(size_t size);
extern void *serm_http_take_zeros(size_t count, size_t each);
extern char *serm_http_copy(const char *text);
extern void serm_http_wipe_and_free(void *block);
extern void *serm_http_grow_and_wipe(void *block, size_t size);

#endif
