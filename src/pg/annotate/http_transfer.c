/*
 * One request: what curl is told, under the rules of doc/security.md (no redirects,
 * no proxies, no netrc, only http and https), its headers with the key, and the reply
 * as it comes, with caps on body and headers that are counted here: curl's own limit
 * does not see chunked replies. Handles are kept with what all requests have in common.
 */
#include "pg/annotate/http_parts.h"

#include <malloc.h>

#include "core/agent/reply.h"

#define BODY_FIRST_CAPACITY 8192
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

static size_t
on_body(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;
	size_t needed;

	if (transfer->first_byte_ms == 0)
		transfer->first_byte_ms = serm_http_now_ms();
	if (length > SERM_REPLY_BYTES_MAX || transfer->body_length + length > SERM_REPLY_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	needed = transfer->body_length + length;
	if (needed > transfer->body_capacity) {
		size_t capacity = Max(needed, Max(transfer->body_capacity * 2, BODY_FIRST_CAPACITY));
		char *grown = realloc(transfer->body, capacity);

		if (grown == NULL) {
			transfer->no_memory = true;
			return 0;
		}
		transfer->body = grown;
		transfer->body_capacity = capacity;
	}
	memcpy(transfer->body + transfer->body_length, bytes, length);
	transfer->body_length = needed;
	return length;
}

/* The value of a header line that begins with `name`, trimmed, if it fits. */
static void
keep_header(const char *line, size_t length, const char *name, char *value, size_t size)
{
	const size_t skip = strlen(name);

	if (length <= skip || pg_strncasecmp(line, name, skip) != 0)
		return;
	while (length > skip && strchr("\r\n", line[length - 1]) != NULL)
		length--;
	if (length - skip < size) {
		memcpy(value, line + skip, length - skip);
		value[length - skip] = '\0';
	}
}

static size_t
on_header(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;

	transfer->header_length += length;
	if (transfer->header_length > SERM_HTTP_HEADER_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	keep_header(bytes, length, "retry-after:", transfer->retry_after, sizeof(transfer->retry_after));
	keep_header(bytes, length, "retry-after-ms:", transfer->retry_after_ms, sizeof(transfer->retry_after_ms));
	return length;
}

/* --- memory of curl: requests carry keys, so what it frees is wiped */

void
serm_transfer_wipe_and_free(void *block)
{
	if (block != NULL)
		explicit_bzero(block, malloc_usable_size(block));
	free(block);
}

void *
serm_transfer_grow_and_wipe(void *block, size_t size)
{
	const size_t held = block == NULL ? 0 : malloc_usable_size(block);
	void *grown;

	if (block != NULL && size <= held)
		return block;
	grown = malloc(size);
	if (grown == NULL || block == NULL)
		return grown;
	memcpy(grown, block, held);
	serm_transfer_wipe_and_free(block);
	return grown;
}

/* --- building and freeing */

static void
wipe_headers(struct curl_slist *headers)
{
	for (struct curl_slist *at = headers; at != NULL; at = at->next)
		explicit_bzero(at->data, strlen(at->data));
	curl_slist_free_all(headers);
}

void
serm_transfer_free(SermTransfer *transfer)
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
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_OPENSOCKETFUNCTION, serm_http_on_open);
	SET(CURLOPT_OPENSOCKETDATA, transfer);
	SET(CURLOPT_CLOSESOCKETFUNCTION, serm_http_on_close);
	SET(CURLOPT_CLOSESOCKETDATA, transfer->http);
	SET(CURLOPT_PREREQFUNCTION, serm_http_on_connected);
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

bool
serm_transfer_prepare(SermTransfer *transfer, const SermHttpRequest *request)
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

SermTransfer *
serm_transfer_take(SermHttp *http)
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
			serm_transfer_free(transfer);
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory for a request"));
	}
	return transfer;
}

void
serm_transfer_clear(SermTransfer *transfer)
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
