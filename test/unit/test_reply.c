#include "core/agent/reply.h"
#include "core/agent/writer.h"
#include "core/base/utf8.h"
#include "unit.h"

#define FIXTURES "test/mock/replies.tsv"
#define GRADES_MAX 4
#define GRADES ((SermQuestion){SERM_FORM_ABSOLUTE, GRADES_MAX})

/* Undo the escapes of the fixture file in place; returns the length. */
static size_t
unescape(char *text)
{
	char *out = text;

	for (char *at = text; *at != '\0'; at++) {
		if (*at != '\\') {
			*out++ = *at;
			continue;
		}
		at++;
		if (*at == 'n')
			*out++ = '\n';
		else if (*at == 't')
			*out++ = '\t';
		else if (*at == 'x') {
			char digits[3] = {at[1], at[2], '\0'};

			*out++ = (char) strtoul(digits, NULL, 16);
			at += 2;
		} else
			*out++ = *at;
	}
	return (size_t) (out - text);
}

static SermText
envelope(SermText content, SermArena *arena)
{
	SermWriter writer;
	SermText body;

	serm_writer_init(&writer, arena);
	serm_writer_text(&writer, "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":");
	serm_writer_json(&writer, content);
	serm_writer_text(&writer, "}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}");
	if (serm_writer_finish(&writer, &body, NULL) != SERM_OK)
		abort();
	return body;
}

/* "content" and "pair" or "list" stand for the content of a message, "body" for all of an answer. */
static SermQuestion
question_of(const char *kind)
{
	if (strcmp(kind, "pair") == 0)
		return (SermQuestion){SERM_FORM_PAIR, 2};
	if (strcmp(kind, "list") == 0)
		return (SermQuestion){SERM_FORM_LIST, 4};
	return GRADES;
}

/* Is the answer what the second column says: a grade, places such as "2,1", or nothing? */
static bool
is_answer(const SermReply *reply, SermQuestion question, const char *expected)
{
	bool same =
	    reply->grade == (question.form == SERM_FORM_ABSOLUTE && expected[0] != '-' ? atoi(expected) : -1);

	for (uint32_t i = 0; i < SERM_QUESTION_DOCS_MAX; i++) {
		bool placed = question.form != SERM_FORM_ABSOLUTE && expected[0] != '-' && i < question.count;

		same = same && reply->place[i] == (placed ? expected[2 * i] - '0' : 0);
	}
	return same;
}

static void
check_fixture(char *line, int number, uint32_t *seen)
{
	char *verdict = strtok(line, "\t");
	char *expected = strtok(NULL, "\t");
	char *kind = strtok(NULL, "\t");
	char *rest = kind + strlen(kind) + 1;
	SermQuestion question = question_of(kind);
	SermArena arena = unit_arena();
	SermText text = {rest, 0};
	SermReply reply;
	SermError error;

	text.length = unescape(rest);
	if (strcmp(kind, "body") != 0) {
		if (serm_reply_parse_content(text, question, &arena, &reply, &error) != SERM_OK)
			abort();
		CHECK(strcmp(serm_reply_reason_name(reply.reason), verdict) == 0 &&
		          is_answer(&reply, question, expected),
		    "line %d: %s as content", number, verdict);
		text = envelope(text, &arena);
	}
	if (serm_reply_parse(text, question, &arena, &reply, &error) != SERM_OK)
		abort();
	CHECK(strcmp(serm_reply_reason_name(reply.reason), verdict) == 0 && is_answer(&reply, question, expected),
	    "line %d: %s as body", number, verdict);
	CHECK(
	    serm_utf8_valid(reply.rationale.bytes, reply.rationale.length), "line %d: a clean rationale", number);
	if (strcmp(serm_reply_reason_name(reply.reason), verdict) != 0)
		printf("# got %s (%d)\n", serm_reply_reason_name(reply.reason), reply.grade);
	*seen |= 1u << reply.reason;
	serm_arena_free(&arena);
}

static void
test_fixtures(void)
{
	FILE *file = fopen(FIXTURES, "r");
	char line[4096];
	uint32_t seen = 1u << SERM_REPLY_TOO_LARGE;
	int number = 0, fixtures = 0;

	CHECK(file != NULL, "the fixtures are there");
	if (file == NULL)
		return;
	while (fgets(line, sizeof(line), file) != NULL) {
		number++;
		if (line[0] == '#')
			continue;
		line[strcspn(line, "\n")] = '\0';
		check_fixture(line, number, &seen);
		fixtures++;
	}
	fclose(file);
	CHECK(fixtures >= 200, "%d fixtures", fixtures);
	CHECK(seen == (1u << SERM_REPLY_REASON_COUNT) - 1, "every reason occurs");
}

static SermReply
parse(const char *content, SermArena *arena)
{
	SermText text = {content, strlen(content)};
	SermReply reply;
	SermError error;

	if (serm_reply_parse(envelope(text, arena), GRADES, arena, &reply, &error) != SERM_OK)
		abort();
	return reply;
}

static void
test_details(void)
{
	SermArena arena = unit_arena();
	SermReply reply = parse("{\"grade\": 2, \"rationale\": \"a\\u202eb\\u0007c\\ud83d\\ude00\"}", &arena);
	char *large = serm_arena_alloc(&arena, SERM_REPLY_BYTES_MAX + 2);
	SermText text = {large, SERM_REPLY_BYTES_MAX + 1};
	SermWriter content;
	SermText long_answer;
	SermError error;

	CHECK(reply.rationale.length == 7 && memcmp(reply.rationale.bytes, "abc\xf0\x9f\x98\x80", 7) == 0,
	    "rationales lose characters that show nothing");
	CHECK(reply.tokens_prompt == 7 && reply.tokens_completion == 5, "tokens are counted");
	reply = parse("no", &arena);
	CHECK(reply.tokens_prompt == 7 && reply.tokens_completion == 5, "those of a useless reply, too");

	serm_writer_init(&content, &arena);
	serm_writer_text(&content, "{\"grade\": 1, \"rationale\": \"");
	for (int i = 0; i < 3000; i++)
		serm_writer_text(&content, "\xc3\xa4");
	serm_writer_text(&content, "\"}");
	CHECK(serm_writer_finish(&content, &long_answer, NULL) == SERM_OK, "a long answer is written");
	reply = parse(long_answer.bytes, &arena);
	CHECK(reply.grade == 1 && reply.rationale.length == 2 * SERM_REPLY_RATIONALE_MAX,
	    "rationales are clipped by characters");

	memset(large, ' ', text.length);
	memcpy(large, "{}", 2);
	CHECK(serm_reply_parse(text, GRADES, &arena, &reply, &error) == SERM_OK &&
	          reply.reason == SERM_REPLY_TOO_LARGE,
	    "too large");
	CHECK(serm_reply_parse_content(text, GRADES, &arena, &reply, &error) == SERM_OK &&
	          reply.reason == SERM_REPLY_TOO_LARGE,
	    "too large as content");
	text.length--;
	CHECK(serm_reply_parse_content(text, GRADES, &arena, &reply, &error) == SERM_OK &&
	          reply.reason == SERM_REPLY_NO_GRADE,
	    "just not too large");
	for (int i = 0; i < SERM_REPLY_REASON_COUNT; i++)
		CHECK(strlen(serm_reply_reason_text((SermReplyReason) i)) > 10, "reason %d has a text", i);
	serm_arena_free(&arena);
}

/* A prefix of a reply is never a grade, and no cut reads past its end (under ASan: the copy ends where it
 * ends). */
static void
test_prefixes(void)
{
	static const char whole[] = "{\"choices\":[{\"message\":{\"content\":\"```json\\n{\\\"grade\\\": 1, "
	                            "\\\"rationale\\\": \\\"\\\\u00e9\\\"}\\n```\"}}]}";
	int grades = 0, last = -1;

	for (size_t length = 0; length < sizeof(whole); length++) {
		SermArena arena = unit_arena();
		char *cut = malloc(length > 0 ? length : 1);
		SermText text = {cut, length};
		SermReply reply;
		SermError error;

		memcpy(cut, whole, length);
		if (serm_reply_parse(text, GRADES, &arena, &reply, &error) != SERM_OK)
			abort();
		grades += reply.grade >= 0;
		last = reply.grade;
		free(cut);
		serm_arena_free(&arena);
	}
	CHECK(grades == 1 && last == 1, "only the whole reply is a grade");
}

static void
test_memory(void)
{
	static const char content[] = "{\"grade\": 1, \"rationale\": \"x\"}";
	SermText text = {content, sizeof(content) - 1};
	SermArena arena;
	SermReply reply;
	SermError error;

	serm_arena_init(&arena, serm_heap_allocator(), 16);
	CHECK(serm_reply_parse_content(text, GRADES, &arena, &reply, &error) == SERM_ERR_MEMORY,
	    "running out of memory is not a reason of the reply");
	serm_arena_free(&arena);
}

int
main(void)
{
	test_fixtures();
	test_details();
	test_prefixes();
	test_memory();
	DONE();
}
