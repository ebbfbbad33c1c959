#include "core/agent/endpoint.h"

#include <arpa/inet.h>
#include <string.h>

typedef struct Network {
	uint8_t bytes[16];
	uint32_t bits;
} Network;

/* IANA special-purpose registries (RFC 6890 and its updates): nothing of these is the public internet. */
static const Network special_v4[] = {
    {{0}, 8},
    {{10}, 8},
    {{100, 64}, 10},
    {{127}, 8},
    {{169, 254}, 16},
    {{172, 16}, 12},
    {{192, 0, 0}, 24},
    {{192, 0, 2}, 24},
    {{192, 88, 99}, 24},
    {{192, 168}, 16},
    {{198, 18}, 15},
    {{198, 51, 100}, 24},
    {{203, 0, 113}, 24},
    {{224}, 4},
    {{240}, 4},
};

/* Only 2000::/3 is unicast that anyone may route; these are the parts of it that carry or imitate other
 * networks. */
static const Network special_v6[] = {
    {{0x20, 0x01, 0x00}, 23},
    {{0x20, 0x01, 0x0d, 0xb8}, 32},
    {{0x20, 0x02}, 16},
    {{0x3f, 0xff}, 20},
};
static const Network global_v6 = {{0x20}, 3};
static const Network mapped_v4 = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96};

static bool
prefix_equal(const uint8_t *a, const uint8_t *b, uint32_t bits)
{
	const uint32_t whole = bits / 8, rest = bits % 8;

	if (memcmp(a, b, whole) != 0)
		return false;
	return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

/* The IPv4 address inside of ::ffff:0:0/96 as itself, so that no rule for it can be evaded. */
static SermAddress
unmapped(const SermAddress *address)
{
	SermAddress plain = *address;

	if (address->length == 16 && prefix_equal(address->bytes, mapped_v4.bytes, mapped_v4.bits)) {
		plain.length = 4;
		memcpy(plain.bytes, address->bytes + 12, 4);
	}
	return plain;
}

bool
serm_address_public(const SermAddress *address)
{
	const SermAddress plain = unmapped(address);

	if (plain.length == 4) {
		for (size_t i = 0; i < SERM_LENGTH(special_v4); i++)
			if (prefix_equal(plain.bytes, special_v4[i].bytes, special_v4[i].bits))
				return false;
		return true;
	}
	if (plain.length != 16 || !prefix_equal(plain.bytes, global_v6.bytes, global_v6.bits))
		return false;
	for (size_t i = 0; i < SERM_LENGTH(special_v6); i++)
		if (prefix_equal(plain.bytes, special_v6[i].bytes, special_v6[i].bits))
			return false;
	return true;
}

bool
serm_address_loopback(const SermAddress *address)
{
	static const uint8_t loopback_v6[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
	static const uint8_t unspecified[16] = {0};
	const SermAddress plain = unmapped(address);

	/* Connecting to "any address" connects to this machine. */
	if (plain.length == 4)
		return plain.bytes[0] == 127 || memcmp(plain.bytes, unspecified, 4) == 0;
	return plain.length == 16 &&
	       (memcmp(plain.bytes, loopback_v6, 16) == 0 || memcmp(plain.bytes, unspecified, 16) == 0);
}

bool
serm_address_within(const SermAddress *address, const SermCidr *range)
{
	const SermAddress plain = unmapped(address);

	return plain.length == range->address.length &&
	       prefix_equal(plain.bytes, range->address.bytes, range->bits);
}

bool
serm_cidr_parse(const char *text, size_t length, SermCidr *range)
{
	char copy[64];
	char *slash;
	uint32_t bits_max, bits = 0;

	if (length == 0 || length >= sizeof(copy))
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	slash = strchr(copy, '/');
	if (slash != NULL)
		*slash = '\0';
	memset(range, 0, sizeof(*range));
	if (inet_pton(AF_INET, copy, range->address.bytes) == 1)
		range->address.length = 4;
	else if (inet_pton(AF_INET6, copy, range->address.bytes) == 1)
		range->address.length = 16;
	else
		return false;
	bits_max = range->address.length * 8;
	range->bits = bits_max;
	if (slash == NULL)
		return true;
	if (slash[1] == '\0' || strlen(slash + 1) > 3)
		return false;
	for (const char *digit = slash + 1; *digit != '\0'; digit++) {
		if (*digit < '0' || *digit > '9')
			return false;
		bits = bits * 10 + (uint32_t) (*digit - '0');
	}
	range->bits = bits;
	return bits <= bits_max;
}

static bool
is_host_byte(char byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
	       byte == '-' || byte == '.' || byte == '_';
}

/*
 * A name must end in a label with a letter that does not start like a number:
 * whatever else inet_aton() would read as an address is refused, unless it is
 * a plain dotted quad.
 */
static bool
host_name_valid(const char *host, size_t length)
{
	char copy[254];
	uint8_t address[4];
	const char *label;

	if (length == 0 || length >= sizeof(copy) || host[0] == '.' || host[0] == '-' || host[length - 1] == '.')
		return false;
	memcpy(copy, host, length);
	copy[length] = '\0';
	if (strstr(copy, "..") != NULL)
		return false;
	if (inet_pton(AF_INET, copy, address) == 1)
		return true;
	label = strrchr(copy, '.');
	label = label == NULL ? copy : label + 1;
	return !(label[0] >= '0' && label[0] <= '9');
}

static bool
host_is_loopback(const char *host, size_t length)
{
	static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

	for (size_t i = 0; i < SERM_LENGTH(names); i++)
		if (length == strlen(names[i]) && memcmp(host, names[i], length) == 0)
			return true;
	return false;
}

/* The host at `url + host_start`; sets its length. */
static SermStatus
parse_host(const char *url, SermEndpoint *endpoint, SermError *error)
{
	const char *host = url + endpoint->host_start;
	size_t length = 0;

	if (host[0] == '[') {
		SermCidr range;

		length = strcspn(host, "]/");
		if (host[length] != ']' || !serm_cidr_parse(host + 1, length - 1, &range) ||
		    range.address.length != 16 || memchr(host, '/', length) != NULL)
			return serm_fail(error, SERM_ERR_INVALID, "the endpoint's IPv6 address is not valid");
		length++;
	} else {
		while (is_host_byte(host[length]))
			length++;
		if (!host_name_valid(host, length))
			return serm_fail(error, SERM_ERR_INVALID, "the endpoint's host is not a name or a plain address");
	}
	endpoint->host_length = length;
	endpoint->loopback = host_is_loopback(host, length);
	return SERM_OK;
}

SermStatus
serm_endpoint_parse(const char *url, SermEndpoint *endpoint, SermError *error)
{
	const size_t length = strlen(url);
	const size_t route_length = strlen(SERM_ENDPOINT_ROUTE);
	const char *at;
	SermStatus status;
	uint32_t port = 0;
	int digits = 0;

	memset(endpoint, 0, sizeof(*endpoint));
	if (length > SERM_ENDPOINT_BYTES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "the endpoint is longer than 2000 bytes");
	if (strncmp(url, "https://", 8) == 0)
		endpoint->https = true;
	else if (strncmp(url, "http://", 7) != 0)
		return serm_fail(error, SERM_ERR_INVALID, "the endpoint must begin with https:// or http://");
	endpoint->host_start = endpoint->https ? 8 : 7;
	for (at = url; *at != '\0'; at++)
		if (*at <= ' ' || *at > '~' || strchr("\"<>\\^`{|}@?#", *at) != NULL)
			return serm_fail(error, SERM_ERR_INVALID,
			    "the endpoint may hold visible ASCII only, without user, query or fragment");
	status = parse_host(url, endpoint, error);
	if (status != SERM_OK)
		return status;

	at = url + endpoint->host_start + endpoint->host_length;
	endpoint->port = endpoint->https ? 443 : 80;
	if (*at == ':') {
		for (at++; *at >= '0' && *at <= '9' && digits < 6; at++, digits++)
			port = port * 10 + (uint32_t) (*at - '0');
		if (digits == 0 || port == 0 || port > 65535)
			return serm_fail(error, SERM_ERR_INVALID, "the endpoint's port must lie between 1 and 65535");
		endpoint->port = (uint16_t) port;
	}
	if (*at != '\0' && *at != '/')
		return serm_fail(error, SERM_ERR_INVALID, "the endpoint's host is not a name or a plain address");
	endpoint->routed =
	    length >= route_length && strcmp(url + length - route_length, SERM_ENDPOINT_ROUTE) == 0;
	return SERM_OK;
}

bool
serm_endpoint_permits(const SermEndpoint *endpoint, const SermAddress *address, const SermCidr *allowed,
    size_t allowed_count, bool http_allowed)
{
	if (serm_address_loopback(address))
		return endpoint->loopback;
	if (!endpoint->https && !http_allowed)
		return false;
	for (size_t i = 0; i < allowed_count; i++)
		if (serm_address_within(address, &allowed[i]))
			return true;
	return serm_address_public(address);
}
