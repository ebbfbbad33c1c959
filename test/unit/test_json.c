#include "core/model/json.h"
#include "unit.h"

static SermArena arena;

static SermStatus
parse(const char *text, size_t length, SermJson *json)
{
	SermError error = {0};
	SermStatus status = serm_json_parse((SermText){text, length}, NULL, &arena, json, &error);

	if (status != SERM_OK && error.message[0] == '\0')
		printf("# no message\n");
	return status;
}

static void
test_refused(void)
{
	static const char *const texts[] = {"", " ", "{", "}", "[", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}",
	    "{\"a\":1,}", "{a:1}", "{1:1}", "[1 2]", "tru", "truex", "nul", "01", "-", "1.", ".5", "1e", "1e+",
	    "+1", "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\t\"",
	    "\"\n\"", "1 1", "{} []", "[]x", "'a'", "\"\xff\"", "\"\xc3\"", "NaN", "Infinity",
	    "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "{\"b\":{\"x\":1,\"y\":2,\"x\":3}}", "/**/1",
	    "\xef\xbb\xbf{}"};
	SermJson json;
	char deep[2 * SERM_JSON_DEPTH_MAX + 3];

	for (unsigned i = 0; i < SERM_LENGTH(texts); i++)
		CHECK(parse(texts[i], strlen(texts[i]), &json) == SERM_ERR_CORRUPT, "refused: %u", i);
	CHECK(parse("1\0", 2, &json) == SERM_ERR_CORRUPT, "a NUL behind the value is refused");
	memset(deep, '[', SERM_JSON_DEPTH_MAX);
	memset(deep + SERM_JSON_DEPTH_MAX, ']', SERM_JSON_DEPTH_MAX);
	CHECK(parse(deep, 2 * SERM_JSON_DEPTH_MAX, &json) == SERM_OK, "32 levels are read");
	memset(deep, '[', SERM_JSON_DEPTH_MAX + 1);
	memset(deep + SERM_JSON_DEPTH_MAX + 1, ']', SERM_JSON_DEPTH_MAX + 1);
	CHECK(parse(deep, 2 * SERM_JSON_DEPTH_MAX + 2, &json) == SERM_ERR_CORRUPT, "33 are not");
}

static void
test_values(void)
{
	static const char text[] =
	    " { \"a\" : [1, -2.5e1, {\"deep\": null}], \"\\u0062\\n\": \"\\ud83d\\ude00\\\"\\/\","
	    "\"t\":true,\"f\":false,\"big\":18446744073709551615,\"more\":18446744073709551616 } ";
	SermJson json;
	uint32_t list, item;
	double real;
	uint64_t integer;
	SermText string;

	CHECK(parse(text, strlen(text), &json) == SERM_OK, "a text of every kind of value");
	CHECK(json.nodes[0].type == SERM_JSON_OBJECT && json.nodes[0].count == 6, "the root is an object of 6");
	list = serm_json_member(&json, 0, "a");
	item = serm_json_first(&json, list);
	CHECK(json.nodes[list].count == 3 && serm_json_integer(&json, item, &integer) && integer == 1,
	    "an integer");
	item = serm_json_next(&json, list, item);
	CHECK(!serm_json_integer(&json, item, &integer) && serm_json_real(&json, item, &real) && real == -25,
	    "a real");
	item = serm_json_next(&json, list, item);
	CHECK(serm_json_member(&json, item, "deep") != SERM_JSON_ABSENT &&
	          serm_json_value(&json, item, "deep") == SERM_JSON_ABSENT,
	    "a null is a member, but no value");
	CHECK(serm_json_next(&json, list, item) == SERM_JSON_ABSENT, "the list ends");
	string = serm_json_string(&json, serm_json_member(&json, 0, "b\n"), &arena);
	CHECK(string.length == 6 && memcmp(string.bytes, "\xf0\x9f\x98\x80\"/", 6) == 0,
	    "escapes are undone, in keys too");
	CHECK(serm_json_equals(&json, serm_json_member(&json, 0, "b\n"), "\xf0\x9f\x98\x80\"/") &&
	          !serm_json_equals(&json, serm_json_member(&json, 0, "b\n"), "\xf0\x9f\x98\x80\"") &&
	          !serm_json_equals(&json, serm_json_member(&json, 0, "b\n"), "\xf0\x9f\x98\x80\"/x"),
	    "comparing with escapes");
	CHECK(serm_json_integer(&json, serm_json_member(&json, 0, "big"), &integer) && integer == UINT64_MAX &&
	          !serm_json_integer(&json, serm_json_member(&json, 0, "more"), &integer),
	    "integers up to 2^64 - 1");
	CHECK(serm_json_type(&json, serm_json_member(&json, 0, "t")) == SERM_JSON_TRUE &&
	          serm_json_type(&json, serm_json_member(&json, 0, "f")) == SERM_JSON_FALSE,
	    "true and false");
	CHECK(serm_json_member(&json, 0, "c") == SERM_JSON_ABSENT &&
	          serm_json_member(&json, list, "a") == SERM_JSON_ABSENT,
	    "what is not there is absent");
	CHECK(parse("1e999", 5, &json) == SERM_OK && !serm_json_real(&json, 0, &real), "no number is infinite");
	CHECK(parse("\"\\u0000\"", 8, &json) == SERM_OK && serm_json_string(&json, 0, &arena).length == 1 &&
	          !serm_json_equals(&json, 0, ""),
	    "U+0000 ends no string");
	CHECK(
	    parse("[]", 2, &json) == SERM_OK && serm_json_first(&json, 0) == SERM_JSON_ABSENT, "an empty array");
}

int
main(void)
{
	arena = unit_arena();
	test_refused();
	test_values();
	serm_arena_free(&arena);
	DONE();
}
