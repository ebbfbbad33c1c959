/*
 * Where requests may go. An endpoint is written by the owner of a foreign
 * server, who need not be trusted with the network of the database host: the
 * form of the address is checked when it is written, and the address that a name
 * really resolved to is checked when the socket opens (redirects and names that
 * change their mind included).
 */
#ifndef SERM_CORE_AGENT_ENDPOINT_H
#define SERM_CORE_AGENT_ENDPOINT_H

#include "core/base/status.h"

#define SERM_ENDPOINT_BYTES_MAX ((size_t) 2000)
#define SERM_ENDPOINT_ROUTE "/chat/completions"

typedef struct SermEndpoint {
	bool https;
	bool loopback; /* the host is written as localhost, 127.0.0.1 or [::1] */
	size_t host_start;
	size_t host_length;
	uint16_t port;
	bool routed; /* the path ends in SERM_ENDPOINT_ROUTE already */
} SermEndpoint;

/* An address as in a sockaddr: 4 or 16 bytes in network order. */
typedef struct SermAddress {
	uint8_t bytes[16];
	uint32_t length;
} SermAddress;

typedef struct SermCidr {
	SermAddress address;
	uint32_t bits;
} SermCidr;

/*
 * Accepts scheme://host[:port][/path] with http or https, a host name, a dotted
 * IPv4 address or a bracketed IPv6 address, and visible ASCII in the path; no
 * user, no query, no fragment. Numeric forms that only resolvers understand
 * (0x7f.1, 2130706433) are refused. Errors: INVALID with the reason.
 */
extern SermStatus serm_endpoint_parse(const char *url, SermEndpoint *endpoint, SermError *error);

/* True for an address of the public internet: no loopback, private, link-local, reserved or embedded one. */
extern bool serm_address_public(const SermAddress *address);
extern bool serm_address_loopback(const SermAddress *address);
extern bool serm_address_within(const SermAddress *address, const SermCidr *range);
/* "10.0.0.0/8" or "fd00::/8" or a plain address. */
extern bool serm_cidr_parse(const char *text, size_t length, SermCidr *range);

/*
 * May `endpoint` be reached at `address`? Public addresses and `allowed` ranges
 * may; loopback may when the endpoint says so itself; plain http goes to
 * loopback only, unless `http_allowed`.
 */
extern bool serm_endpoint_permits(const SermEndpoint *endpoint, const SermAddress *address,
    const SermCidr *allowed, size_t allowed_count, bool http_allowed);

#endif
