/*
 * Preloaded into a server under test: its resolver and its connect(). Names under .trap.test lead where
 * they say; every attempt to connect is written to SERM_TRAP_LOG, and only those to this machine are made.
 *
 *   v4-10-0-0-1.trap.test    10.0.0.1
 *   v6-fe80--1.trap.test     fe80::1
 *   both.trap.test           10.0.0.1 and then 93.184.216.34
 *   flip-N.trap.test         93.184.216.34 when it is looked up for the first time, then 127.0.0.1
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PUBLIC "93.184.216.34"

typedef int (*Resolve)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
typedef int (*Connect)(int, const struct sockaddr *, socklen_t);

/* The address in "v4-10-0-0-1.trap.test" or "v6-fe80--1.trap.test". */
static const char *
spelled(const char *name, char *address)
{
	char separator = name[1] == '4' ? '.' : ':';
	size_t length = strlen(name + 3) - strlen(".trap.test");

	memcpy(address, name + 3, length);
	address[length] = '\0';
	for (char *at = address; *at != '\0'; at++)
		if (*at == '-')
			*at = separator;
	return address;
}

static const char *
flipped(const char *name)
{
	char path[600];
	int file;

	snprintf(path, sizeof(path), "%s.%s", getenv("SERM_TRAP_LOG"), name);
	file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (file < 0)
		return "127.0.0.1";
	close(file);
	return PUBLIC;
}

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	Resolve real = (Resolve) dlsym(RTLD_NEXT, "getaddrinfo");
	struct addrinfo numeric = hints != NULL ? *hints : (struct addrinfo){0};
	const char *suffix = node != NULL ? strstr(node, ".trap.test") : NULL;
	char address[300];
	int code;

	if (suffix == NULL || suffix[10] != '\0' || strlen(node) >= sizeof(address))
		return real(node, service, hints, result);
	numeric.ai_flags |= AI_NUMERICHOST;
	numeric.ai_family = AF_UNSPEC;
	if (strncmp(node, "flip-", 5) == 0)
		return real(flipped(node), service, &numeric, result);
	if (strncmp(node, "both.", 5) != 0)
		return real(spelled(node, address), service, &numeric, result);
	code = real("10.0.0.1", service, &numeric, result);
	if (code == 0) {
		struct addrinfo *last = *result;

		while (last->ai_next != NULL)
			last = last->ai_next;
		code = real(PUBLIC, service, &numeric, &last->ai_next);
	}
	return code;
}

int
connect(int socket, const struct sockaddr *address, socklen_t length)
{
	Connect real = (Connect) dlsym(RTLD_NEXT, "connect");
	const char *path = getenv("SERM_TRAP_LOG");
	char text[INET6_ADDRSTRLEN] = "";
	char line[128];
	int file, written, port;

	if (path == NULL || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
		return real(socket, address, length);
	if (address->sa_family == AF_INET) {
		inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, text, sizeof(text));
		port = ntohs(((const struct sockaddr_in *) address)->sin_port);
	} else {
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *) address)->sin6_addr, text, sizeof(text));
		port = ntohs(((const struct sockaddr_in6 *) address)->sin6_port);
	}
	file = open(path, O_CREAT | O_APPEND | O_WRONLY, 0600);
	written = snprintf(line, sizeof(line), "%s %d\n", text, port);
	if (file < 0 || write(file, line, (size_t) written) != written)
		abort();
	close(file);
	if (strcmp(text, PUBLIC) == 0) {
		errno = ECONNREFUSED;
		return -1;
	}
	return real(socket, address, length);
}
