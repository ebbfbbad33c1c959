/*
 * A judge in bad weather: three requests in ten go wrong, each in one of twelve
 * ways, chosen by a counter, so that a task that is asked for again meets other
 * weather. It bills what it has read and may have answered, and tells so:
 *
 *     storm [LATENCY_MS]        prints its port
 *     GET /stats                what it was asked, what it did, what it billed
 *     POST /ACCOUNT/v1/...      grades by the words "grade is N" in the document;
 *                               ACCOUNT is one letter from a to h, with a bill of its own
 *
 * A bill is prompt tokens (a quarter of the request's bytes) and completion tokens.
 * One thread; one connection may carry many requests.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOCKETS 4096
#define QUEUE 65536
#define EVENTS 256
#define ACCOUNTS 8
#define COMPLETION_TOKENS 20
#define HUGE_BYTES 600000

typedef enum Weather {
	FAIR,
	LIMITED_MS,
	LIMITED_SECONDS,
	BUSY,
	BROKEN,
	GATEWAY,
	DROPPED,
	RESET,
	SHORT_REPLY,
	DRIP,
	GARBAGE,
	BIG,
	REDIRECT,
	WEATHERS
} Weather;

static const char *const names[] = {"fair", "limited_ms", "limited_seconds", "busy", "broken", "gateway", "dropped",
	"reset", "short", "drip", "garbage", "big", "redirect"};

static struct {
	char *bytes;
	size_t length, capacity;
	uint32_t generation;
} sockets[SOCKETS];

/* All wait for the same time, so that the queue is in order. */
static struct {
	int socket;
	uint32_t generation;
	Weather weather;
	int grade;
	int prompt_tokens;
	int64_t due;
} queue[QUEUE];
static uint32_t first, last;

static int64_t latency_us = 5000;
static uint64_t asked, done[WEATHERS], secrets;
static struct { uint64_t prompt, completion; } bills[ACCOUNTS];

static int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Splitmix64: the weather of the n-th request. */
static Weather
forecast(uint64_t n)
{
	uint64_t z = (n + 1) * 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	z ^= z >> 31;
	if (z % 10 >= 3)
		return FAIR;
	return (Weather) (1 + (z >> 32) % (WEATHERS - 1));
}

static void
hang_up(int socket, bool reset)
{
	struct linger linger = {1, 0};

	if (reset)
		setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	free(sockets[socket].bytes);
	sockets[socket].bytes = NULL;
	sockets[socket].length = sockets[socket].capacity = 0;
	sockets[socket].generation++;
	close(socket);
}

static void
say(int socket, const char *text, size_t length)
{
	(void) !send(socket, text, length, MSG_NOSIGNAL);
}

static void
reply(int socket, int status, const char *headers, const char *body)
{
	char text[2048];
	int length = snprintf(text, sizeof(text), "HTTP/1.1 %d Weather\r\n%sContent-Type: application/json\r\n"
		"Content-Length: %zu\r\n\r\n%s", status, headers, strlen(body), body);

	say(socket, text, (size_t) length);
}

static void
grade(int socket, int grade, int prompt_tokens)
{
	char body[1024];

	snprintf(body, sizeof(body), "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"{\\\"grade\\\": %d, "
		"\\\"rationale\\\": \\\"as it says\\\"}\"},\"finish_reason\":\"stop\"}],"
		"\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}", grade, prompt_tokens, COMPLETION_TOKENS);
	reply(socket, 200, "", body);
}

static void
stats(int socket)
{
	char body[2000];
	int length = snprintf(body, sizeof(body), "{\"asked\": %lu, \"secrets\": %lu", asked, secrets);

	for (int i = 0; i < WEATHERS; i++)
		length += snprintf(body + length, sizeof(body) - (size_t) length, ", \"%s\": %lu", names[i], done[i]);
	for (int i = 0; i < ACCOUNTS; i++)
		if (bills[i].prompt > 0)
			length += snprintf(body + length, sizeof(body) - (size_t) length, ", \"prompt_%c\": %lu, \"completion_%c\": %lu",
				'a' + i, bills[i].prompt, 'a' + i, bills[i].completion);
	snprintf(body + length, sizeof(body) - (size_t) length, "}");
	reply(socket, 200, "Connection: close\r\n", body);
	hang_up(socket, false);
}

static void
push(int socket, Weather weather, int wanted, int prompt_tokens)
{
	queue[last % QUEUE].socket = socket;
	queue[last % QUEUE].generation = sockets[socket].generation;
	queue[last % QUEUE].weather = weather;
	queue[last % QUEUE].grade = wanted;
	queue[last % QUEUE].prompt_tokens = prompt_tokens;
	queue[last++ % QUEUE].due = now_us() + latency_us;
}

/* A whole request lies in `head`, its body of `length` bytes at `body`. */
static void
take_request(int socket, const char *head, const char *body, size_t length)
{
	const char *found = strstr(body, "grade is ");
	Weather weather = forecast(asked);

	if (strncmp(head, "GET ", 4) == 0) {
		stats(socket);
		return;
	}
	if (strncmp(head, "POST /secret", 12) == 0 || found == NULL || head[6] < 'a' || head[6] >= 'a' + ACCOUNTS) {
		secrets++;
		reply(socket, 400, "", "{}");
		return;
	}
	asked++;
	done[weather]++;
	/* Whoever refuses or breaks at once has not thought; all others send a bill. */
	if (weather == FAIR || weather >= DROPPED) {
		bills[head[6] - 'a'].prompt += length / 4;
		bills[head[6] - 'a'].completion += COMPLETION_TOKENS;
	}
	push(socket, weather, found[9] - '0', (int) (length / 4));
}

static void
answer(int socket, Weather weather, int wanted, int prompt_tokens)
{
	static char big[HUGE_BYTES];

	switch (weather) {
		case FAIR: grade(socket, wanted, prompt_tokens); break;
		case LIMITED_MS: reply(socket, 429, "retry-after-ms: 20\r\n", "{}"); break;
		case LIMITED_SECONDS: reply(socket, 429, "Retry-After: 0\r\nretry-after-ms: 5\r\n", "{}"); break;
		case BUSY: reply(socket, 503, "retry-after-ms: 30\r\n", "{}"); break;
		case BROKEN: reply(socket, 500, "", "{\"error\":\"broken\"}"); break;
		case GATEWAY: reply(socket, 502, "Connection: close\r\n", "<html>bad gateway</html>"); break;
		case DROPPED: hang_up(socket, false); break;
		case RESET: hang_up(socket, true); break;
		case SHORT_REPLY:
			say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"choices\": [", 54);
			hang_up(socket, false);
			break;
		case DRIP:
			if (wanted >= 0)
				say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n", 42);
			say(socket, " ", 1);
			push(socket, DRIP, -1, 0);
			break;
		case GARBAGE: reply(socket, 200, "", "<html><body>It works!</body></html>"); break;
		case BIG:
			memset(big, ' ', sizeof(big));
			say(socket, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n927c0\r\n", 55);
			say(socket, big, sizeof(big));
			break;
		case REDIRECT: reply(socket, 307, "Location: /secret/v1/chat/completions\r\n", ""); break;
		case WEATHERS: break;
	}
}

/* Cut whole requests off what a socket has sent. */
static void
take(int socket)
{
	for (;;) {
		char *head = sockets[socket].bytes, *body, *field;
		size_t length, used;
		uint32_t generation = sockets[socket].generation;

		if (sockets[socket].length == 0)
			return;
		head[sockets[socket].length] = '\0';
		body = strstr(head, "\r\n\r\n");
		if (body == NULL)
			return;
		body += 4;
		field = strcasestr(head, "content-length:");
		length = field != NULL && field < body ? (size_t) atoll(field + 15) : 0;
		used = (size_t) (body - head) + length;
		if (sockets[socket].length < used)
			return;
		take_request(socket, head, body, length);
		if (sockets[socket].generation != generation)
			return;
		sockets[socket].length -= used;
		memmove(head, head + used, sockets[socket].length);
	}
}

static void
receive(int socket)
{
	ssize_t length;

	if (sockets[socket].capacity - sockets[socket].length < 16384) {
		sockets[socket].capacity = sockets[socket].capacity * 2 + 32768;
		sockets[socket].bytes = realloc(sockets[socket].bytes, sockets[socket].capacity + 1);
		if (sockets[socket].bytes == NULL)
			exit(2);
	}
	length = read(socket, sockets[socket].bytes + sockets[socket].length, sockets[socket].capacity - sockets[socket].length);
	if (length < 0 && errno == EAGAIN)
		return;
	if (length <= 0) {
		hang_up(socket, false);
		return;
	}
	sockets[socket].length += (size_t) length;
	take(socket);
}

static void
answer_due(void)
{
	for (int64_t now = now_us(); first != last && queue[first % QUEUE].due <= now; first++)
		if (sockets[queue[first % QUEUE].socket].generation == queue[first % QUEUE].generation)
			answer(queue[first % QUEUE].socket, queue[first % QUEUE].weather, queue[first % QUEUE].grade,
				queue[first % QUEUE].prompt_tokens);
}

static void
greet(int listener, int poll)
{
	int socket, one = 1;

	while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};

		if (socket >= SOCKETS) {
			close(socket);
			continue;
		}
		setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event);
	}
}

int
main(int count, char **arguments)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];

	if (count > 1)
		latency_us = atoll(arguments[1]) * 1000;
	if (bind(listener, (struct sockaddr *) &address, size) != 0 || listen(listener, 1024) != 0 ||
		getsockname(listener, (struct sockaddr *) &address, &size) != 0)
		return 1;
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		int64_t wait = first == last ? 100000 : queue[first % QUEUE].due - now_us();
		int ready = epoll_wait(poll, events, EVENTS, wait <= 0 ? 0 : (int) ((wait + 999) / 1000));

		for (int i = 0; i < ready; i++) {
			if (events[i].data.fd == listener)
				greet(listener, poll);
			else
				receive(events[i].data.fd);
		}
		answer_due();
	}
}
