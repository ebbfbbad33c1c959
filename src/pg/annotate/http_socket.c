/*
 * The sockets of requests. The address that a name resolved to is checked when one
 * opens, whatever the URL looks like; a transfer that has begun gets no second
 * connection. Between requests a kept connection stays known to epoll: curl forgets it
 * after each, and asks for it again with the next.
 */
#include "pg/annotate/http_parts.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "pg/annotate/annotate.h"

bool
serm_http_permits(const SermTransfer *transfer, const SermAddress *address)
{
	return serm_endpoint_permits(
	    &transfer->endpoint, address, serm_allowed_ranges(), serm_allowed_range_count(), serm_allow_http);
}

/* NULL: there is no memory to remember it. */
static SermWatched *
watched_of(SermHttp *http, int socket)
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

static SermAddress
plain_address(int family, const struct sockaddr *address)
{
	SermAddress plain = {{0}, 0};

	if (family == AF_INET) {
		plain.length = 4;
		memcpy(plain.bytes, &((const struct sockaddr_in *) address)->sin_addr, 4);
	} else if (family == AF_INET6) {
		plain.length = 16;
		memcpy(plain.bytes, &((const struct sockaddr_in6 *) address)->sin6_addr, 16);
	}
	return plain;
}

int
serm_http_open_socket(
    SermTransfer *transfer, int family, const struct sockaddr *address, int type, int protocol)
{
	SermAddress plain = plain_address(family, address);
	SermWatched *watched;
	int opened;

	if (transfer->begun) {
		transfer->again = true;
		return -1;
	}
	if (plain.length == 0 || !serm_http_permits(transfer, &plain)) {
		transfer->refused = true;
		return -1;
	}
	transfer->opened = true;
	opened = socket(family, type | SOCK_CLOEXEC, protocol);
	watched = opened < 0 ? NULL : watched_of(transfer->http, opened);
	if (watched != NULL)
		*watched = (SermWatched){.ours = true, .idle = true};
	return opened;
}

int
serm_http_close_socket(void *context, int socket)
{
	SermWatched *watched = watched_of(context, socket);

	/* Closing takes it out of epoll, too. */
	if (watched != NULL)
		memset(watched, 0, sizeof(*watched));
	return close(socket);
}

void
serm_http_watch(SermHttp *http, int socket, uint32_t events)
{
	SermWatched *watched = watched_of(http, socket);
	struct epoll_event event = {.data.fd = socket, .events = events};
	const bool ours = watched != NULL && watched->ours;

	if (ours) {
		watched->idle = events == 0;
		if (watched->idle || watched->events == events)
			return;
		watched->events = events;
	} else if (events == 0) {
		(void) epoll_ctl(http->epoll, EPOLL_CTL_DEL, socket, NULL);
		return;
	}
	/* A descriptor of others that was closed and opened again is not what epoll knows. */
	if (epoll_ctl(http->epoll, EPOLL_CTL_MOD, socket, &event) != 0)
		(void) epoll_ctl(http->epoll, EPOLL_CTL_ADD, socket, &event);
}

bool
serm_http_idle(SermHttp *http, int socket)
{
	SermWatched *watched = watched_of(http, socket);

	if (watched == NULL || !watched->ours || !watched->idle)
		return false;
	watched->events = 0;
	(void) epoll_ctl(http->epoll, EPOLL_CTL_DEL, socket, NULL);
	return true;
}
