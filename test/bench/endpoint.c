/*
 * A judge that answers every request after the same time, as many at once as are
 * sent: endpoint MILLISECONDS prints its port. One thread, so that it takes
 * little from what is measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOCKETS 65536
#define EVENTS 512

static const char body[] = "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"{\\\"grade\\\": 2, "
						   "\\\"rationale\\\": \\\"the title names the thing and its colour\\\"}\"},"
						   "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":420,\"completion_tokens\":21}}";
static char reply[1024];
static int reply_length;

/* What a socket has sent: requests have a head and Content-Length bytes. */
static struct {
	char head[2048];
	uint32_t head_length, body_left;
	bool in_body;
} sockets[SOCKETS];

/* Answers in the order in which they are due. */
static struct {
	int socket;
	int64_t due;
} queue[SOCKETS];
static uint32_t first, last;

static int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void
end(int socket)
{
	sockets[socket].head_length = 0;
	sockets[socket].in_body = false;
	close(socket);
}

static void
take(int socket, const char *bytes, ssize_t length, int64_t due)
{
	while (length > 0) {
		if (!sockets[socket].in_body) {
			char *head = sockets[socket].head, *stop, *field;

			if (sockets[socket].head_length + 1 >= sizeof(sockets[socket].head))
				exit(2);
			head[sockets[socket].head_length++] = *bytes++;
			length--;
			head[sockets[socket].head_length] = '\0';
			if (sockets[socket].head_length < 4)
				continue;
			stop = head + sockets[socket].head_length - 4;
			if (memcmp(stop, "\r\n\r\n", 4) != 0)
				continue;
			field = strcasestr(head, "content-length:");
			sockets[socket].body_left = field != NULL ? (uint32_t) atoi(field + 15) : 0;
			sockets[socket].in_body = true;
		}
		if (length >= sockets[socket].body_left) {
			bytes += sockets[socket].body_left;
			length -= sockets[socket].body_left;
			sockets[socket].head_length = 0;
			sockets[socket].in_body = false;
			queue[last % SOCKETS].socket = socket;
			queue[last++ % SOCKETS].due = due;
		} else {
			sockets[socket].body_left -= (uint32_t) length;
			length = 0;
		}
	}
}

static void
answer_due(void)
{
	for (int64_t now = now_us(); first != last && queue[first % SOCKETS].due <= now; first++)
		(void) !write(queue[first % SOCKETS].socket, reply, (size_t) reply_length);
}

int
main(int count, char **arguments)
{
	int64_t delay_us = count > 1 ? atoll(arguments[1]) * 1000 : 50000;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
	static char bytes[65536];

	if (bind(listener, (struct sockaddr *) &address, size) != 0 || listen(listener, 4096) != 0 ||
		getsockname(listener, (struct sockaddr *) &address, &size) != 0)
		return 1;
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
	reply_length = snprintf(reply, sizeof(reply),
							"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
							sizeof(body) - 1, body);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		int64_t wait = first == last ? 100000 : queue[first % SOCKETS].due - now_us();
		int ready = epoll_wait(poll, events, EVENTS, wait <= 0 ? 0 : (int) ((wait + 999) / 1000));

		for (int i = 0; i < ready; i++) {
			int socket = events[i].data.fd;
			ssize_t length;

			if (socket == listener) {
				while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
					event = (struct epoll_event){.events = EPOLLIN, .data.fd = socket};
					epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event);
				}
				continue;
			}
			length = read(socket, bytes, sizeof(bytes));
			if (length <= 0)
				end(socket);
			else
				take(socket, bytes, length, now_us() + delay_us);
		}
		answer_due();
	}
}
