/*
 * The sockets of requests. The address that a name resolved to is checked when one
 * opens, and again before each request on a kept one; a transfer that has begun gets
 * no second connection. Between requests a kept connection stays known to epoll: curl
 * forgets it after each, and asks for it again with the next.
 */
#include "pg/annotate/http_parts.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "pg/annotate/annotate.h"

static bool
permitted(const SermTransfer *transfer, const SermAddress *address)
{
	return serm_endpoint_permits(
	    &transfer->endpoint, address, serm_allowed_ranges(), serm_allowed_range_count(), serm_allow_http);
}

SermWatched *
serm_http_watch(SermHttp *http, curl_socket_t socket)
{
	if (socket >= http->watched_count) {
		const int count = socket + 64;
		SermWatched *grown = realloc(http->watched, (size_t) count * sizeof(SermWatched));

		if (grown == NULL)
			return NULL;
		memset(grown + http->watched_count, 0, (size_t) (count - http->watched_count) * sizeof(SermWatched));
		http->watched = grown;
		http->watched_count = count;
	}
	return &http->watched[socket];
}

int
serm_http_on_close(void *context, curl_socket_t socket)
{
	SermWatched *watched = serm_http_watch(context, socket);

	/* Closing takes it out of epoll, too. */
	if (watched != NULL)
		memset(watched, 0, sizeof(*watched));
	return close(socket);
}

/* The address that a name really resolved to decides, whatever the URL looks like. */
curl_socket_t
serm_http_on_open(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
	SermTransfer *transfer = context;
	SermAddress plain = {{0}, 0};
	SermWatched *watched;
	curl_socket_t opened;

	if (transfer->begun) {
		transfer->again = true;
		return CURL_SOCKET_BAD;
	}

	if (address->family == AF_INET) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *) &address->addr;

		plain.length = 4;
		memcpy(plain.bytes, &v4->sin_addr, 4);
	} else if (address->family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *) &address->addr;

		plain.length = 16;
		memcpy(plain.bytes, &v6->sin6_addr, 16);
	}
	if (purpose != CURLSOCKTYPE_IPCXN || plain.length == 0 || !permitted(transfer, &plain)) {
		transfer->refused = true;
		return CURL_SOCKET_BAD;
	}
	transfer->opened = true;
	opened = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	watched = opened < 0 ? NULL : serm_http_watch(transfer->http, opened);
	if (watched != NULL)
		*watched = (SermWatched){.ours = true, .idle = true};
	return opened;
}

/* Before each request, on kept connections too: the settings may have become stricter. */
int
serm_http_on_connected(void *context, char *remote, char *local pg_attribute_unused(),
    int remote_port pg_attribute_unused(), int local_port pg_attribute_unused())
{
	SermTransfer *transfer = context;
	SermCidr peer;

	if (transfer->begun) {
		transfer->again = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (remote != NULL && serm_cidr_parse(remote, strlen(remote), &peer) &&
	    permitted(transfer, &peer.address)) {
		transfer->begun = true;
		return CURL_PREREQFUNC_OK;
	}
	transfer->refused = true;
	transfer->opened = false;
	return CURL_PREREQFUNC_ABORT;
}

int
serm_http_on_socket(CURL *easy pg_attribute_unused(), curl_socket_t socket, int what, void *context,
    void *known pg_attribute_unused())
{
	SermHttp *http = context;
	SermWatched *watched = serm_http_watch(http, socket);
	struct epoll_event event = {.data.fd = socket};
	const bool ours = watched != NULL && watched->ours;

	if (what == CURL_POLL_REMOVE) {
		if (ours)
			watched->idle = true;
		else
			(void) epoll_ctl(http->epoll, EPOLL_CTL_DEL, socket, NULL);
		return 0;
	}
	event.events = ((what & CURL_POLL_IN) != 0 ? EPOLLIN : 0) | ((what & CURL_POLL_OUT) != 0 ? EPOLLOUT : 0);
	if (ours) {
		watched->idle = false;
		if (watched->events == event.events)
			return 0;
		watched->events = event.events;
	}
	/* A descriptor of others that was closed and opened again is not what epoll knows. */
	if (epoll_ctl(http->epoll, EPOLL_CTL_MOD, socket, &event) != 0)
		(void) epoll_ctl(http->epoll, EPOLL_CTL_ADD, socket, &event);
	return 0;
}

int
serm_http_on_timer(CURLM *multi pg_attribute_unused(), long timeout_ms, void *context)
{
	SermHttp *http = context;

	http->due_ms = timeout_ms < 0 ? -1 : serm_http_now_ms() + timeout_ms;
	return 0;
}
