#include "core/model/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/sort.h"
#include "core/base/utf8.h"

/* The longest number that is read; doubles need 24 characters, but integers may be padded by a writer. */
#define NUMBER_BYTES_MAX 64
/* Values between two questions to whoever watches. */
#define QUIET_VALUES 4096

/* The scanner runs twice: once to count the nodes, once to write them. */
typedef struct Scanner {
	const char *bytes;
	size_t length;
	size_t at;
	SermJsonNode *nodes; /* NULL while counting */
	uint32_t count;
	uint32_t open[SERM_JSON_DEPTH_MAX]; /* containers around the current place */
	bool object[SERM_JSON_DEPTH_MAX];
	uint32_t members[SERM_JSON_DEPTH_MAX];
	uint32_t depth;
	const SermWatch *watch;
	bool canceled;
} Scanner;

static void
skip_space(Scanner *scanner)
{
	while (scanner->at < scanner->length && strchr(" \t\r\n", scanner->bytes[scanner->at]) != NULL &&
	       scanner->bytes[scanner->at] != '\0')
		scanner->at++;
}

static char
peek(const Scanner *scanner)
{
	return scanner->at < scanner->length ? scanner->bytes[scanner->at] : '\0';
}

static bool
take(Scanner *scanner, char c)
{
	if (scanner->at >= scanner->length || scanner->bytes[scanner->at] != c)
		return false;
	scanner->at++;
	return true;
}

static uint32_t
add_node(Scanner *scanner, SermJsonType type, size_t start, size_t length, bool escaped)
{
	if (scanner->nodes != NULL)
		scanner->nodes[scanner->count] = (SermJsonNode){
		    (uint32_t) start, (uint32_t) length, scanner->count + 1, 0, (uint8_t) type, escaped};
	return scanner->count++;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hex digits at `bytes`, or -1. */
static int32_t
hex_unit(const char *bytes, size_t length)
{
	int32_t unit = 0;

	if (length < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int digit = hex_digit(bytes[i]);

		if (digit < 0)
			return -1;
		unit = unit << 4 | digit;
	}
	return unit;
}

/* The code point of the escape behind a backslash at `bytes`; returns its bytes, 0 when it is wrong. */
static size_t
escape(const char *bytes, size_t length, uint32_t *code_point)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name = length > 0 && bytes[0] != '\0' ? strchr(names, bytes[0]) : NULL;
	int32_t high, low;

	if (name != NULL) {
		*code_point = (unsigned char) values[name - names];
		return 1;
	}
	if (length < 5 || bytes[0] != 'u')
		return 0;
	high = hex_unit(bytes + 1, length - 1);
	if (high < 0 || (high >= 0xdc00 && high <= 0xdfff))
		return 0;
	*code_point = (uint32_t) high;
	if (high < 0xd800 || high > 0xdbff)
		return 5;
	if (length < 11 || bytes[5] != '\\' || bytes[6] != 'u')
		return 0;
	low = hex_unit(bytes + 7, length - 7);
	if (low < 0xdc00 || low > 0xdfff)
		return 0;
	*code_point = 0x10000 + (((uint32_t) high & 0x3ff) << 10) + ((uint32_t) low & 0x3ff);
	return 11;
}

static bool
scan_string(Scanner *scanner)
{
	size_t start = ++scanner->at;
	bool escaped = false;

	while (scanner->at < scanner->length) {
		unsigned char c = (unsigned char) scanner->bytes[scanner->at];
		uint32_t code_point;
		size_t taken;

		if (c == '"') {
			add_node(scanner, SERM_JSON_STRING, start, scanner->at - start, escaped);
			scanner->at++;
			return true;
		}
		if (c < 0x20)
			return false;
		scanner->at++;
		if (c != '\\')
			continue;
		escaped = true;
		taken = escape(scanner->bytes + scanner->at, scanner->length - scanner->at, &code_point);
		if (taken == 0)
			return false;
		scanner->at += taken;
	}
	return false;
}

static bool
scan_digits(Scanner *scanner)
{
	size_t start = scanner->at;

	while (peek(scanner) >= '0' && peek(scanner) <= '9')
		scanner->at++;
	return scanner->at > start;
}

static bool
scan_number(Scanner *scanner)
{
	size_t start = scanner->at;

	(void) take(scanner, '-');
	if (!take(scanner, '0') && !scan_digits(scanner))
		return false;
	if (take(scanner, '.') && !scan_digits(scanner))
		return false;
	if (peek(scanner) == 'e' || peek(scanner) == 'E') {
		scanner->at++;
		if (peek(scanner) == '+' || peek(scanner) == '-')
			scanner->at++;
		if (!scan_digits(scanner))
			return false;
	}
	add_node(scanner, SERM_JSON_NUMBER, start, scanner->at - start, false);
	return true;
}

static bool
scan_word(Scanner *scanner, const char *word, SermJsonType type)
{
	size_t length = strlen(word);

	if (scanner->length - scanner->at < length || memcmp(scanner->bytes + scanner->at, word, length) != 0)
		return false;
	add_node(scanner, type, scanner->at, length, false);
	scanner->at += length;
	return true;
}

static bool
open_container(Scanner *scanner, SermJsonType type)
{
	if (scanner->depth == SERM_JSON_DEPTH_MAX)
		return false;
	scanner->open[scanner->depth] = add_node(scanner, type, scanner->at++, 1, false);
	scanner->object[scanner->depth] = type == SERM_JSON_OBJECT;
	scanner->members[scanner->depth++] = 0;
	return true;
}

static void
close_container(Scanner *scanner)
{
	uint32_t depth = --scanner->depth, node = scanner->open[depth];

	scanner->at++;
	if (scanner->nodes == NULL)
		return;
	scanner->nodes[node].next = scanner->count;
	scanner->nodes[node].count = scanner->members[depth];
	scanner->nodes[node].length = (uint32_t) (scanner->at - scanner->nodes[node].start);
}

/* A scalar, or the opening of a container. */
static bool
scan_value(Scanner *scanner)
{
	switch (peek(scanner)) {
		case '{':
			return open_container(scanner, SERM_JSON_OBJECT);
		case '[':
			return open_container(scanner, SERM_JSON_ARRAY);
		case '"':
			return scan_string(scanner);
		case 't':
			return scan_word(scanner, "true", SERM_JSON_TRUE);
		case 'f':
			return scan_word(scanner, "false", SERM_JSON_FALSE);
		case 'n':
			return scan_word(scanner, "null", SERM_JSON_NULL);
		default:
			return scan_number(scanner);
	}
}

/* The next element or member of the innermost container, or its end. */
static bool
scan_inside(Scanner *scanner)
{
	const uint32_t depth = scanner->depth - 1;

	skip_space(scanner);
	if (peek(scanner) == (scanner->object[depth] ? '}' : ']')) {
		close_container(scanner);
		return true;
	}
	if (scanner->members[depth] > 0) {
		if (!take(scanner, ','))
			return false;
		skip_space(scanner);
	}
	scanner->members[depth]++;
	if (scanner->object[depth]) {
		if (peek(scanner) != '"' || !scan_string(scanner))
			return false;
		skip_space(scanner);
		if (!take(scanner, ':'))
			return false;
		skip_space(scanner);
	}
	return scan_value(scanner);
}

static bool
scan(Scanner *scanner)
{
	skip_space(scanner);
	if (!scan_value(scanner))
		return false;
	for (uint32_t values = 1; scanner->depth > 0; values++) {
		if (values % QUIET_VALUES == 0 && !serm_watch_ask(scanner->watch)) {
			scanner->canceled = true;
			return false;
		}
		if (!scan_inside(scanner))
			return false;
	}
	skip_space(scanner);
	return scanner->at == scanner->length;
}

/* --- no key twice */

typedef struct Key {
	const char *bytes;
	uint32_t length;
	uint32_t start; /* of what the text has for it */
} Key;

/* Equal keys side by side: which order that is does not matter. */
static int
compare_keys(const void *a, const void *b)
{
	const Key *x = a, *y = b;

	if (x->length != y->length)
		return x->length < y->length ? -1 : 1;
	return x->length == 0 ? 0 : memcmp(x->bytes, y->bytes, x->length);
}

/* By sorting: there is no table whose slots somebody could choose the keys for. */
static SermStatus
check_keys(const SermJson *json, uint32_t object, const SermWatch *watch, SermArena *arena, SermError *error)
{
	const SermArenaMark mark = serm_arena_mark(arena);
	Key *keys = serm_arena_array(arena, json->nodes[object].count, sizeof(Key));
	size_t count = 0;
	SermStatus status;

	if (keys == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a JSON object");
	for (uint32_t key = serm_json_first(json, object); key != SERM_JSON_ABSENT;
	     key = serm_json_next(json, object, key + 1)) {
		SermText name = serm_json_string(json, key, arena);

		if (name.bytes == NULL)
			return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a JSON object");
		keys[count++] = (Key){name.bytes, (uint32_t) name.length, json->nodes[key].start};
	}
	status = serm_sort(keys, count, sizeof(Key), compare_keys, arena, watch, error);
	if (status != SERM_OK)
		return status;
	for (size_t i = 1; i < count; i++)
		if (compare_keys(&keys[i - 1], &keys[i]) == 0)
			return serm_fail(error, SERM_ERR_CORRUPT,
			    "not acceptable as JSON: the key at byte %u occurs twice", keys[i].start);
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}

static SermStatus
canceled(SermError *error)
{
	return serm_fail(error, SERM_ERR_CANCELED, "reading JSON was canceled");
}

static SermStatus
check_objects(const SermJson *json, const SermWatch *watch, SermArena *arena, SermError *error)
{
	for (uint32_t i = 0; i < json->count; i++) {
		SermStatus status = SERM_OK;

		if (i % QUIET_VALUES == 0 && !serm_watch_ask(watch))
			return canceled(error);
		if (json->nodes[i].type == SERM_JSON_OBJECT && json->nodes[i].count > 1)
			status = check_keys(json, i, watch, arena, error);
		if (status != SERM_OK)
			return status;
	}
	return SERM_OK;
}

SermStatus
serm_json_parse(SermText text, const SermWatch *watch, SermArena *arena, SermJson *json, SermError *error)
{
	Scanner scanner = {.bytes = text.bytes, .length = text.length, .watch = watch};
	SermJsonNode *nodes;

	if (text.length > SERM_JSON_BYTES_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "a JSON text of %zu bytes: there may be %zu", text.length,
		    SERM_JSON_BYTES_MAX);
	if (!serm_utf8_valid(text.bytes, text.length))
		return serm_fail(error, SERM_ERR_CORRUPT, "not acceptable as JSON: it is not valid UTF-8");
	if (!scan(&scanner))
		return scanner.canceled
		           ? canceled(error)
		           : serm_fail(error, SERM_ERR_CORRUPT,
		                 "not acceptable as JSON: wrong, cut off or nested deeper than %d at byte %zu",
		                 SERM_JSON_DEPTH_MAX, scanner.at);
	nodes = serm_arena_array(arena, scanner.count, sizeof(SermJsonNode));
	if (nodes == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %u values of JSON", scanner.count);
	scanner = (Scanner){.bytes = text.bytes, .length = text.length, .nodes = nodes, .watch = watch};
	if (!scan(&scanner))
		return canceled(error);
	*json = (SermJson){text.bytes, nodes, scanner.count};
	return check_objects(json, watch, arena, error);
}

/* --- reading */

uint32_t
serm_json_first(const SermJson *json, uint32_t parent)
{
	return json->nodes[parent].count > 0 ? parent + 1 : SERM_JSON_ABSENT;
}

uint32_t
serm_json_next(const SermJson *json, uint32_t parent, uint32_t node)
{
	uint32_t next = json->nodes[node].next;

	return next < json->nodes[parent].next ? next : SERM_JSON_ABSENT;
}

/* Unescape into `out`, which has room for the escaped form; returns the length. */
static size_t
unescape(const char *bytes, size_t length, char *out)
{
	size_t used = 0;

	for (size_t at = 0; at < length;) {
		uint32_t code_point;

		if (bytes[at] != '\\') {
			out[used++] = bytes[at++];
			continue;
		}
		at += 1 + escape(bytes + at + 1, length - at - 1, &code_point);
		used += serm_utf8_encode(code_point, out + used);
	}
	return used;
}

SermText
serm_json_string(const SermJson *json, uint32_t node, SermArena *arena)
{
	const SermJsonNode *string = &json->nodes[node];
	const char *bytes = json->bytes + string->start;
	char *out;

	if (string->type != SERM_JSON_STRING)
		return (SermText){"", 0};
	if (!string->escaped)
		return (SermText){bytes, string->length};
	out = serm_arena_array(arena, (size_t) string->length + 1, 1);
	return (SermText){out, out != NULL ? unescape(bytes, string->length, out) : 0};
}

bool
serm_json_equals(const SermJson *json, uint32_t node, const char *string)
{
	const SermJsonNode *found = &json->nodes[node];
	const char *bytes = json->bytes + found->start;
	size_t at = 0;

	if (found->type != SERM_JSON_STRING)
		return false;
	while (at < found->length) {
		char spelled[SERM_UTF8_MAX_BYTES];
		uint32_t code_point;
		size_t length = 1;

		if (bytes[at] == '\\') {
			at += 1 + escape(bytes + at + 1, found->length - at - 1, &code_point);
			length = serm_utf8_encode(code_point, spelled);
		} else
			spelled[0] = bytes[at++];
		if (strncmp(string, spelled, length) != 0 || memchr(spelled, '\0', length) != NULL)
			return false;
		string += length;
	}
	return *string == '\0';
}

uint32_t
serm_json_member(const SermJson *json, uint32_t object, const char *key)
{
	if (json->nodes[object].type != SERM_JSON_OBJECT)
		return SERM_JSON_ABSENT;
	for (uint32_t node = serm_json_first(json, object); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, object, node + 1))
		if (serm_json_equals(json, node, key))
			return node + 1;
	return SERM_JSON_ABSENT;
}

uint32_t
serm_json_value(const SermJson *json, uint32_t object, const char *key)
{
	uint32_t node = serm_json_member(json, object, key);

	return json->nodes[node].type == SERM_JSON_NULL ? SERM_JSON_ABSENT : node;
}

bool
serm_json_real(const SermJson *json, uint32_t node, double *value)
{
	const SermJsonNode *number = &json->nodes[node];
	char copy[NUMBER_BYTES_MAX + 1];
	double parsed;

	if (number->type != SERM_JSON_NUMBER || number->length > NUMBER_BYTES_MAX)
		return false;
	memcpy(copy, json->bytes + number->start, number->length);
	copy[number->length] = '\0';
	parsed = strtod(copy, NULL);
	if (!isfinite(parsed))
		return false;
	*value = parsed;
	return true;
}

bool
serm_json_integer(const SermJson *json, uint32_t node, uint64_t *value)
{
	const SermJsonNode *number = &json->nodes[node];
	uint64_t sum = 0;

	if (number->type != SERM_JSON_NUMBER)
		return false;
	for (uint32_t i = 0; i < number->length; i++) {
		char c = json->bytes[number->start + i];
		uint64_t digit = (uint64_t) (c - '0');

		if (c < '0' || c > '9' || sum > (UINT64_MAX - digit) / 10)
			return false;
		sum = 10 * sum + digit;
	}
	*value = sum;
	return true;
}
