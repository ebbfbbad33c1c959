#include "core/agent/endpoint.h"
#include "unit.h"

static const char *const good[] = {
    "https://api.example.com/v1",
    "https://api.example.com",
    "https://api.example.com:8443/v1/chat/completions",
    "http://127.0.0.1:8080/v1",
    "http://localhost/v1",
    "http://[::1]:9000/v1",
    "https://a-b.c_d.example/x%20y",
    "https://93.184.216.34/v1",
    "https://[2606:2800:220:1:248:1893:25c8:1946]/v1",
};

static const char *const bad[] = {
    "",
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "ftp://example.com/",
    "dict://127.0.0.1:11211/",
    "HTTP://example.com/",
    "https:/example.com",
    "https://",
    "https:///v1",
    "https://user:secret@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com/?key=1",
    "https://example.com/#top",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:99999999999/",
    "https://example.com:/",
    "https://example.com:80x/",
    "https://exa mple.com/",
    "https://example.com/\n",
    "https://example.com\\@127.0.0.1/",
    "https://ex\xc3\xa4mple.com/",
    "https://.example.com/",
    "https://example..com/",
    "https://localhost./",
    "https://example.com./",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.0.1.0/",
    "http://[::1/",
    "http://[::1%25lo]/",
    "http://[127.0.0.1]/",
    "http://[]/",
    "http://[::1]x/",
    "https://-example.com/",
    "https://example.com/{a,b}",
    "unix:///var/run/docker.sock",
};

static const struct {
	const char *address;
	bool public_address;
	bool loopback;
} addresses[] = {
    {"8.8.8.8", true, false},
    {"93.184.216.34", true, false},
    {"127.0.0.1", false, true},
    {"127.255.255.254", false, true},
    {"0.0.0.0", false, true},
    {"10.1.2.3", false, false},
    {"100.64.0.1", false, false},
    {"100.128.0.1", true, false},
    {"169.254.169.254", false, false},
    {"172.15.255.255", true, false},
    {"172.16.0.1", false, false},
    {"172.31.255.255", false, false},
    {"172.32.0.0", true, false},
    {"192.168.1.1", false, false},
    {"198.18.0.1", false, false},
    {"224.0.0.1", false, false},
    {"255.255.255.255", false, false},
    {"::1", false, true},
    {"::", false, true},
    {"::ffff:127.0.0.1", false, true},
    {"::ffff:10.0.0.1", false, false},
    {"::ffff:8.8.8.8", true, false},
    {"::127.0.0.1", false, false},
    {"64:ff9b::7f00:1", false, false},
    {"fe80::1", false, false},
    {"fec0::1", false, false},
    {"fd00::1", false, false},
    {"ff02::1", false, false},
    {"2001:db8::1", false, false},
    {"2002:7f00:1::", false, false},
    {"2001::1", false, false},
    {"2606:4700:4700::1111", true, false},
};

static SermAddress
address_of(const char *text)
{
	SermCidr range;

	if (!serm_cidr_parse(text, strlen(text), &range))
		abort();
	return range.address;
}

static bool
permits(const char *url, const char *address, const char *allowed, bool http_allowed)
{
	SermEndpoint endpoint;
	SermAddress real = address_of(address);
	SermCidr range;
	SermError error;

	if (serm_endpoint_parse(url, &endpoint, &error) != SERM_OK)
		abort();
	if (allowed != NULL && !serm_cidr_parse(allowed, strlen(allowed), &range))
		abort();
	return serm_endpoint_permits(&endpoint, &real, &range, allowed != NULL, http_allowed);
}

int
main(void)
{
	SermEndpoint endpoint;
	SermError error;
	SermCidr range;

	for (size_t i = 0; i < SERM_LENGTH(good); i++)
		CHECK(serm_endpoint_parse(good[i], &endpoint, &error) == SERM_OK, "accepted: %s", good[i]);
	for (size_t i = 0; i < SERM_LENGTH(bad); i++) {
		memset(&error, 0, sizeof(error));
		CHECK(serm_endpoint_parse(bad[i], &endpoint, &error) == SERM_ERR_INVALID && error.message[0] != '\0',
		    "refused with a reason: form %zu", i);
	}
	CHECK(serm_endpoint_parse("http://[::1]:9000/v1", &endpoint, &error) == SERM_OK && endpoint.loopback &&
	          !endpoint.https && endpoint.port == 9000 && endpoint.host_length == 5 && !endpoint.routed,
	    "the parts of an endpoint");
	CHECK(serm_endpoint_parse("https://h/v1/chat/completions", &endpoint, &error) == SERM_OK &&
	          endpoint.routed && endpoint.https && !endpoint.loopback && endpoint.port == 443,
	    "an endpoint that names the route");

	for (size_t i = 0; i < SERM_LENGTH(addresses); i++) {
		SermAddress address = address_of(addresses[i].address);

		CHECK(serm_address_public(&address) == addresses[i].public_address &&
		          serm_address_loopback(&address) == addresses[i].loopback,
		    "%s is%s public, is%s loopback", addresses[i].address, addresses[i].public_address ? "" : " not",
		    addresses[i].loopback ? "" : " not");
	}

	CHECK(permits("https://api.example.com", "8.8.8.8", NULL, false), "https to a public address");
	CHECK(!permits("https://api.example.com", "127.0.0.1", NULL, false), "a name that turns into loopback");
	CHECK(!permits("https://api.example.com", "127.0.0.1", "127.0.0.0/8", true), "no range opens loopback");
	CHECK(!permits("https://0.0.0.0", "0.0.0.0", "0.0.0.0/0", true), "nor by its other name");
	CHECK(!permits("https://[::]", "::", "::/0", true), "in either family");
	CHECK(!permits("https://api.example.com", "169.254.169.254", NULL, true), "cloud metadata");
	CHECK(!permits("https://api.example.com", "10.0.0.5", NULL, true), "a private address");
	CHECK(permits("https://api.example.com", "10.0.0.5", "10.0.0.0/8", false), "an allowed private range");
	CHECK(permits("https://api.example.com", "::ffff:10.0.0.5", "10.0.0.0/8", false), "the same, mapped");
	CHECK(!permits("https://api.example.com", "11.0.0.5", "12.0.0.0/8", false) ||
	          permits("https://api.example.com", "11.0.0.5", NULL, false),
	    "ranges only add");
	CHECK(!permits("http://api.example.com", "8.8.8.8", NULL, false), "plain http stays at home");
	CHECK(permits("http://api.example.com", "8.8.8.8", NULL, true), "unless allowed");
	CHECK(permits("http://127.0.0.1", "127.0.0.1", NULL, false), "plain http to a loopback endpoint");
	CHECK(!permits("http://localhost", "10.0.0.1", NULL, false), "localhost that is not");

	CHECK(serm_cidr_parse("fd00::/8", 8, &range) && range.bits == 8 && range.address.length == 16, "a range");
	CHECK(!serm_cidr_parse("10.0.0.0/33", 11, &range), "too many bits");
	CHECK(!serm_cidr_parse("10.0.0.0/", 9, &range), "no bits");
	CHECK(!serm_cidr_parse("10.0.0/8", 8, &range), "a short address");
	CHECK(!serm_cidr_parse("10.0.0.0/-1", 11, &range), "negative bits");
	CHECK(!serm_cidr_parse("", 0, &range), "nothing");
	DONE();
}
