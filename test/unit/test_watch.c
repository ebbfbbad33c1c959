/*
 * Whoever waits is asked often enough. Sorting, JSON and tokenizers stop at any question and do not become
 * slow for keys that were chosen to collide; no work of an encoder goes on for 250 ms of processor time
 * between two questions. `test_watch report` measures larger shapes than a test should.
 */
#define _POSIX_C_SOURCE 200809L
#include <time.h>

#include "core/base/hash.h"
#include "core/base/sort.h"
#include "core/base/watch.h"
#include "core/model/tokenizer_read.h"
#include "core/text/tokenizer_parts.h"
#include "core/train/encoder_explain.h"
#include "core/train/encoder_pretrain.h"
#include "core/train/encoder_train.h"
#include "cross_fixture.h"

/* Of a build with sanitizers nobody waits for anything. */
#if defined(__SANITIZE_ADDRESS__) || defined(SERM_REAL_DOUBLE)
#define GAP_MAX 5.0
#define LONG 1024
#else
#define GAP_MAX .25
#define LONG 8192
#endif

typedef struct Watcher {
	double last, longest, total;
	uint64_t asked;
	uint64_t stop_at; /* 0: never */
} Watcher;

static double
processor_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static bool
ask(void *context)
{
	Watcher *watcher = context;
	double now = processor_seconds(), gap = now - watcher->last;

	watcher->longest = gap > watcher->longest ? gap : watcher->longest;
	watcher->total += gap;
	watcher->last = now;
	watcher->asked++;
	return watcher->stop_at == 0 || watcher->asked < watcher->stop_at;
}

static Watcher
start(void)
{
	return (Watcher){.last = processor_seconds()};
}

static void
told(Watcher *watcher, bool good, const char *what)
{
	(void) ask(watcher);
	CHECK(good && watcher->longest < GAP_MAX, "%s: asked %llu times in %.3f s, %.1f ms apart at most", what,
	    (unsigned long long) watcher->asked, watcher->total, 1e3 * watcher->longest);
	*watcher = start();
}

/* --- sorting and copying */

typedef struct Item {
	uint32_t key, place;
} Item;

static int
by_key(const void *a, const void *b)
{
	const Item *x = a, *y = b;

	return (x->key > y->key) - (x->key < y->key);
}

static void
test_sort(SermArena *arena)
{
	enum { MOST = 5000 };
	Item *items = serm_arena_array(arena, MOST, sizeof(*items));
	Watcher watcher = {.stop_at = 3};
	SermWatch watch = {ask, &watcher};
	SermArena small;
	SermError error;
	SermRng rng;
	bool good = true;

	serm_rng_seed(&rng, 1);
	for (uint32_t count = 0; count <= MOST; count = 2 * count + 1 + count / 7) {
		for (uint32_t i = 0; i < count; i++)
			items[i] = (Item){serm_rng_below(&rng, count / 3 + 1), i};
		good &= serm_sort(items, count, sizeof(Item), by_key, arena, NULL, &error) == SERM_OK;
		for (uint32_t i = 1; i < count; i++)
			good &= items[i - 1].key < items[i].key ||
			        (items[i - 1].key == items[i].key && items[i - 1].place < items[i].place);
	}
	CHECK(good, "any number of elements is sorted, equal ones in their order");
	CHECK(serm_sort(items, MOST, sizeof(Item), by_key, arena, &watch, &error) == SERM_ERR_CANCELED &&
	          watcher.asked == 3,
	    "sorting stops when it is told to");
	serm_arena_init(&small, serm_heap_allocator(), 1024);
	CHECK(serm_sort(items, MOST, sizeof(Item), by_key, &small, NULL, &error) == SERM_ERR_MEMORY, "no room");
	serm_arena_free(&small);
}

static void
test_bytes(SermArena *arena)
{
	enum { LENGTH = (40 << 20) + 5 };
	char *a = serm_arena_reserve(arena, LENGTH), *b = serm_arena_reserve(arena, LENGTH);
	Watcher watcher = {.stop_at = 2};
	SermWatch watch = {ask, &watcher};

	memset(a, 1, LENGTH), memset(b, 2, LENGTH);
	CHECK(serm_watch_copy(NULL, a, b, LENGTH) && memcmp(a, b, LENGTH) == 0, "all bytes are copied");
	CHECK(serm_watch_clear(NULL, a, LENGTH) && a[0] == 0 && memcmp(a, a + 1, LENGTH - 1) == 0, "or cleared");
	CHECK(!serm_watch_copy(&watch, a, b, LENGTH) && a[0] == 2 && a[LENGTH - 1] == 0, "or not all of them");
}

/* --- JSON */

/* {"<key>":0, ...} of `count` keys of eight characters; chosen ones fall on a hundredth of a table of 2^16.
 */
static SermText
make_json(SermArena *arena, uint32_t count, bool chosen)
{
	char *text = serm_arena_reserve(arena, 13 * (size_t) count + 2), *at = text;
	uint32_t made = 0;

	*at++ = '{';
	for (uint64_t i = 0; made < count; i++) {
		char key[9];

		snprintf(key, sizeof(key), "%08llx", (unsigned long long) i);
		if (chosen && (serm_hash_bytes(key, 8, 0) & 0xffff) > 655)
			continue;
		at += sprintf(at, "%s\"%s\":0", made++ > 0 ? "," : "", key);
	}
	*at++ = '}';
	return (SermText){text, (size_t) (at - text)};
}

static double
parse_seconds(SermText text, SermArena *arena)
{
	double best = 1e9;

	for (int i = 0; i < 3; i++) {
		SermArenaMark mark = serm_arena_mark(arena);
		double begin = processor_seconds();
		SermError error;
		SermJson json;

		if (serm_json_parse(text, NULL, arena, &json, &error) != SERM_OK)
			return 1e9;
		begin = processor_seconds() - begin;
		best = begin < best ? begin : best;
		serm_arena_rewind(arena, mark);
	}
	return best;
}

static void
test_json(SermArena *arena)
{
	SermText chosen = make_json(arena, 20000, true), plain = make_json(arena, 20000, false);
	double ratio = parse_seconds(chosen, arena) / parse_seconds(plain, arena);
	Watcher watcher = start();
	SermWatch watch = {ask, &watcher};
	SermError error;
	SermJson json;
	bool good = true;
	uint64_t asked;

	CHECK(ratio < 5, "keys that were chosen to collide take %.1f times as long as others", ratio);
	CHECK(serm_json_parse(plain, &watch, arena, &json, &error) == SERM_OK && watcher.asked >= 20, "it asks");
	asked = watcher.asked;
	for (uint64_t i = 1; i <= asked; i++) {
		watcher = (Watcher){.stop_at = i};
		good &=
		    serm_json_parse(plain, &watch, arena, &json, &error) == SERM_ERR_CANCELED && watcher.asked == i;
	}
	CHECK(good, "and stops at each of %llu questions", (unsigned long long) asked);
}

/* --- tokenizers */

#define SPECIALS                                                                                             \
	"\"added_tokens\":[{\"id\":0,\"content\":\"[UNK]\",\"special\":true},{\"id\":1,\"content\":\"[SEP]\","   \
	"\"special\":true}],\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",1],\"cls\":["     \
	"\"[SEP]\",1]},"

static SermText
make_wordpiece(SermArena *arena, uint32_t count)
{
	char *text = serm_arena_reserve(arena, 32 * (size_t) count + 1024), *at = text;

	at += sprintf(at, "{" SPECIALS "\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":"
	                  "\"BertPreTokenizer\"},\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\","
	                  "\"vocab\":{\"[UNK]\":0,\"[SEP]\":1");
	for (uint32_t i = 0; i < count; i++)
		at += sprintf(at, ",\"%s%x\":%u", i % 3 == 0 ? "##" : "", i * 2654435761u, i + 2);
	at += sprintf(at, "}}}");
	return (SermText){text, (size_t) (at - text)};
}

static SermStatus
read_and_write(SermText json, const SermWatch *watch, SermArena *arena, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermTokenizerFiles files = {.tokenizer = json, .watch = watch};
	const unsigned char *bytes;
	SermTokenizerSpec spec;
	size_t length;
	SermStatus status = serm_tokenizer_read(&files, arena, &spec, error);

	if (status == SERM_OK)
		status = serm_tokenizer_write(&spec, arena, &bytes, &length, error);
	serm_arena_rewind(arena, mark);
	return status;
}

static void
test_tokenizer(SermArena *arena)
{
	SermText large = make_wordpiece(arena, GAP_MAX < 1 ? 250000 : 30000),
	         small = make_wordpiece(arena, 20000);
	Watcher watcher = start();
	SermWatch watch = {ask, &watcher};
	SermError error;
	bool good = true;
	uint64_t asked;

	told(&watcher, read_and_write(large, &watch, arena, &error) == SERM_OK,
	    "a vocabulary of a published size");
	(void) read_and_write(small, &watch, arena, &error);
	asked = watcher.asked;
	for (uint64_t i = 1; i <= asked; i += 1 + asked / 50) {
		watcher = (Watcher){.stop_at = i};
		good &= read_and_write(small, &watch, arena, &error) == SERM_ERR_CANCELED && watcher.asked == i;
	}
	CHECK(good && asked > 100, "reading and building stop at each of %llu questions",
	    (unsigned long long) asked);
}

/* Bytes and such pairs of them that fall on a narrow stretch of the table of merges. */
static void
test_merges(SermArena *arena)
{
	enum { BYTES = 256, MERGES = 3000, SLOTS = 8192 };
	SermText *pieces = serm_arena_array(arena, BYTES + MERGES, sizeof(*pieces));
	SermMerge *merges = serm_arena_array(arena, MERGES, sizeof(*merges));
	const SermTemplateItem first = {SERM_TEMPLATE_FIRST, 0, 0}, second = {SERM_TEMPLATE_SECOND, 0, 0};
	SermTokenizerSpec spec = {.kind = SERM_TOKENIZER_BPE,
	    .pieces = pieces,
	    .merges = merges,
	    .unk_id = SERM_TOKEN_NONE,
	    .pad_id = SERM_TOKEN_NONE,
	    .single = {1, {first}},
	    .pair = {2, {first, second}}};
	const unsigned char *bytes;
	SermError error = {0};
	size_t length;

	for (uint32_t b = 0; b < BYTES; b++) {
		char *piece = serm_arena_alloc(arena, 4);

		pieces[b] = (SermText){piece, serm_bpe_byte_piece((unsigned char) b, piece)};
	}
	for (int chosen = 0; chosen < 2; chosen++) {
		uint32_t count = 0;

		for (uint32_t pair = 0; pair < BYTES * BYTES && count < MERGES; pair++) {
			SermText left = pieces[pair / BYTES], right = pieces[pair % BYTES];
			char *joined = serm_arena_alloc(arena, 8);

			if (chosen && serm_bpe_slot(pair / BYTES, pair % BYTES, SLOTS - 1) > SLOTS / 20)
				continue;
			memcpy(joined, left.bytes, left.length);
			memcpy(joined + left.length, right.bytes, right.length);
			merges[count] = (SermMerge){left, right};
			pieces[BYTES + count++] = (SermText){joined, left.length + right.length};
		}
		spec.merge_count = count, spec.piece_count = BYTES + count;
		CHECK(serm_tokenizer_write(&spec, arena, &bytes, &length, &error) ==
		          (chosen ? SERM_ERR_INVALID : SERM_OK),
		    "%u merges %s", count, chosen ? "that were chosen to collide are refused" : "are laid out");
	}
	CHECK(strstr(error.message, "chosen to fall on one place") != NULL, "with a reason");
}

/*
 * A vocabulary of each kind in which every place of a text of one letter begins a walk as long as the longest
 * piece: what the slowest text of the length that SQL reads can take.
 */
static const SermTokenizer *
slow_tokenizer(SermTokenizerKind kind, SermArena *arena)
{
	enum { LONGEST = SERM_PIECE_BYTES_MAX - 1, BYTES = 256 };
	char *letters = memset(serm_arena_alloc(arena, LONGEST + 1), 'a', LONGEST);
	SermText *pieces = serm_arena_array(arena, BYTES + 3, sizeof(*pieces));
	const SermTemplateItem first = {SERM_TEMPLATE_FIRST, 0, 0}, second = {SERM_TEMPLATE_SECOND, 0, 0};
	const SermMerge merge = {{"a", 1}, {"a", 1}};
	SermTokenizerSpec spec = {.kind = kind,
	    .pieces = pieces,
	    .piece_count = 3,
	    .unk_id = kind == SERM_TOKENIZER_BPE ? SERM_TOKEN_NONE : 0,
	    .pad_id = SERM_TOKEN_NONE,
	    .continuing = {"##", 2},
	    .word_max = 100,
	    .scores = (const double[]){-9, -1, -1000},
	    .single = {1, {first}},
	    .pair = {2, {first, second}}};
	const unsigned char *bytes;
	const SermTokenizer *tokenizer = NULL;
	SermError error = {0};
	size_t length;

	pieces[0] = (SermText){"?", 1}, pieces[1] = (SermText){"a", 1};
	letters[LONGEST - 1] = 'b';
	pieces[2] = (SermText){letters, LONGEST};
	if (kind == SERM_TOKENIZER_BPE) {
		for (uint32_t b = 0; b < BYTES; b++) {
			char *piece = serm_arena_alloc(arena, 4);

			pieces[b] = (SermText){piece, serm_bpe_byte_piece((unsigned char) b, piece)};
		}
		pieces[BYTES] = (SermText){"aa", 2};
		spec.piece_count = BYTES + 1, spec.merges = &merge, spec.merge_count = 1;
	}
	CHECK(serm_tokenizer_write(&spec, arena, &bytes, &length, &error) == SERM_OK &&
	          serm_tokenizer_open(bytes, length, arena, &tokenizer, &error) == SERM_OK,
	    "a vocabulary that makes texts slow: %s", error.message);
	return tokenizer;
}

static void
test_long_text(SermArena *arena)
{
	enum { LENGTH = 65536 };
	char *text = memset(serm_arena_alloc(arena, LENGTH), 'a', LENGTH);
	uint32_t count, expected[SERM_TOKENIZER_KIND_COUNT] = {1, LENGTH / 2, LENGTH + 1};
	const uint32_t *ids;
	SermError error;

	for (int kind = 0; kind < SERM_TOKENIZER_KIND_COUNT; kind++) {
		const SermTokenizer *tokenizer = slow_tokenizer((SermTokenizerKind) kind, arena);
		Watcher watcher = start();
		SermWatch watch = {ask, &watcher};
		SermStatus status = serm_tokenizer_encode(
		    tokenizer, (SermText){text, LENGTH}, UINT32_MAX, &watch, arena, &ids, &count, &error);
		uint64_t asked = watcher.asked;

		told(&watcher, status == SERM_OK && count == expected[kind], "the slowest text");
		CHECK(asked >= (kind == SERM_TOKENIZER_WORDPIECE ? 0 : 2), "asked %llu times meanwhile",
		    (unsigned long long) asked);
		for (uint64_t i = 1; i <= asked; i += 1 + asked / 5) {
			watcher = (Watcher){.stop_at = i};
			CHECK(serm_tokenizer_encode(tokenizer, (SermText){text, LENGTH}, UINT32_MAX, &watch, arena, &ids,
			          &count, &error) == SERM_ERR_CANCELED &&
			          watcher.asked == i,
			    "and it stops at question %llu of %llu", (unsigned long long) i, (unsigned long long) asked);
		}
	}
	CHECK(serm_tokenizer_encode(slow_tokenizer(SERM_TOKENIZER_BPE, arena), (SermText){text, (1 << 20) + 1}, 1,
	          NULL, arena, &ids, &count, &error) == SERM_ERR_LIMIT,
	    "what is longer than anything that SQL reads is refused");
}

/* --- encoders */

static SermEncoderConfig
classic(uint32_t layers, uint32_t hidden, uint32_t heads)
{
	return (SermEncoderConfig){.architecture = SERM_ENCODER_BERT,
	    .layers = layers,
	    .hidden = hidden,
	    .heads = heads,
	    .intermediate = 4 * hidden,
	    .vocab = 30522,
	    .positions = 512,
	    .types = 2,
	    .labels = 4,
	    .hidden_dropout = .1,
	    .attention_dropout = .1,
	    .initializer_range = .02,
	    .eps = 1e-12};
}

static SermEncoderConfig
modern(uint32_t layers, uint32_t hidden, uint32_t heads, uint32_t length)
{
	return (SermEncoderConfig){.architecture = SERM_ENCODER_MODERNBERT,
	    .pooling = SERM_POOLING_MEAN,
	    .global_every = 3,
	    .local_window = 128,
	    .global_theta = 160000,
	    .local_theta = 10000,
	    .layers = layers,
	    .hidden = hidden,
	    .heads = heads,
	    .intermediate = 3 * hidden / 2,
	    .vocab = hidden < 500 ? 1000 : 50368,
	    .positions = length,
	    .labels = 4,
	    .initializer_range = .02,
	    .eps = 1e-5};
}

/* Lay out, score, explain and store. */
static void
run_model(const SermEncoderConfig *config, const SermReal *flat, const SermEncoderInput *input,
    SermArena *arena, SermWatch *watch)
{
	SermModelSettings settings = {.chunk_count = 1};
	SermReal *contribution = serm_arena_array(arena, input->length, sizeof(*contribution));
	SermReal logits[SERM_ENCODER_LABELS_MAX];
	SermTensorSet prepared, weights;
	SermPrediction prediction;
	SermModel *model;
	SermError error;
	SermEncoder *encoder = fixture_encoder(config, SERM_PRECISION_F32, flat, arena);

	if (config->architecture == SERM_ENCODER_BERT) {
		SermTensorSet stored = stored_tensors(config, flat, arena);

		*(Watcher *) watch->context = start();
		settings.watch = watch;
		told(watch->context,
		    serm_model_open_with(SERM_KIND_CROSS_ENCODER, &stored, &settings, arena, &model, &error) ==
		            SERM_OK &&
		        ((Watcher *) watch->context)->asked > 20,
		    "opening what is stored");
		told(watch->context,
		    serm_cross_encoder_prepare(&stored, &settings, watch, arena, &prepared, &error) == SERM_OK,
		    "reading and laying out weights");
	}
	*(Watcher *) watch->context = start();
	told(watch->context, serm_encoder_unflatten(config, flat, watch, arena, &weights, &error) == SERM_OK,
	    "writing weights");
	told(watch->context, serm_encoder_score(encoder, input, 1, watch, arena, logits, &error) == SERM_OK,
	    "scoring");
	told(watch->context,
	    serm_encoder_attribute(encoder, input, watch, arena, &prediction, contribution, &error) == SERM_OK,
	    "explaining");
}

/* Inside the memory that it says it needs, which grows with the length and not with its square. */
static void
run_training(const SermEncoderConfig *config, SermReal *flat, const SermEncoderInput *input, SermWatch *watch)
{
	SermEncoderExample example = {.input = *input, .target = {1}, .weight = 1};
	SermEncoderSet set = {.grade_count = 4, .examples = &example, .example_count = 1, .query_count = 1};
	SermTrainHost train = {.keep_going = ask, .context = watch->context};
	SermEncoderFitHost host = {.train = &train};
	SermEncoderOptions options;
	SermEncoderState state;
	SermTrainReport report;
	SermError error = {0};
	SermArena arena;
	size_t bytes,
	    token = sizeof(SermReal) * (size_t) config->layers * 16 * (config->hidden + config->intermediate);

	serm_encoder_options_defaults(&options);
	options.epochs = 1, options.dropout = .1;
	bytes = serm_encoder_fit_bytes(config, &set, &options);
	CHECK(bytes < ((size_t) 48 << 20) + 40 * serm_encoder_layout(config).count + 2 * input->length * token,
	    "training asks for %zu MB", bytes >> 20);
	serm_arena_init(&arena, serm_heap_allocator(), bytes);
	told(watch->context,
	    serm_encoder_state_init(config, flat, watch, &arena, &state) &&
	        serm_encoder_fit(config, &set, &options, &host, &arena, &state, &report, &error) == SERM_OK,
	    "training within that");
	if (error.message[0] != '\0')
		printf("# %s\n", error.message);
	serm_arena_free(&arena);
}

static void
test_encoder(const char *name, SermEncoderConfig config)
{
	SermArena arena;
	SermReal *flat;
	SermEncoderInput input;
	Watcher watcher = start();
	SermWatch watch = {ask, &watcher};
	SermRng rng;

	printf("# %s: %u layers of %u, %u tokens\n", name, config.layers, config.hidden, config.positions);
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 24 << 30);
	flat = serm_arena_array(&arena, serm_encoder_layout(&config).count, sizeof(*flat));
	watcher = start();
	told(&watcher, serm_encoder_begin(&config, 1, &watch, flat), "drawing weights");
	serm_rng_seed(&rng, 2);
	input = fixture_input(&config, config.positions, &rng, &arena);
	run_model(&config, flat, &input, &arena, &watch);
	run_training(&config, flat, &input, &watch);
	serm_arena_free(&arena);
}

/* An encoder from nothing. */
static void
test_making(SermEncoderMaking making, uint32_t docs)
{
	SermArena arena;
	Watcher watcher = start();
	SermTrainHost host = {.keep_going = ask, .context = &watcher};
	SermText *texts;
	SermEncoderPretrainOptions options;
	SermTensorSet tensors;
	SermTrainReport report;
	SermError error = {0};
	SermRng rng;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 24 << 30);
	texts = serm_arena_array(&arena, docs, sizeof(*texts));
	serm_rng_seed(&rng, 3);
	for (uint32_t d = 0; d < docs; d++) {
		char *text = serm_arena_reserve(&arena, 4096), *at = text;

		for (int w = 0; w < 400; w++)
			at += sprintf(at, "%x ", (uint32_t) serm_hash_mix(serm_rng_below(&rng, 200 * docs)) & 0xfffff);
		texts[d] = (SermText){text, (size_t) (at - text)};
	}
	serm_encoder_pretrain_defaults(&options);
	options.epochs = 1, options.batch = 8;
	watcher = start();
	told(&watcher,
	    serm_encoder_make(&making, texts, docs, texts, docs < 8 ? docs : 8, &options, &host, NULL, &arena,
	        &tensors, &report, &error) == SERM_OK,
	    "making an encoder from nothing");
	if (error.message[0] != '\0')
		printf("# %s\n", error.message);
	serm_arena_free(&arena);
}

int
main(int count, char **arguments)
{
	SermArena arena = unit_arena();

	if (count > 1 && strcmp(arguments[1], "report") == 0) {
		test_encoder("MiniLM-L6", classic(6, 384, 12));
		test_encoder("BERT-base", classic(12, 768, 12));
		test_encoder("ModernBERT-base, three layers", modern(3, 768, 12, 8192));
		test_making((SermEncoderMaking){6, 384, 12, 1536, 30000, 512, 4}, 3000);
		DONE();
	}
	test_sort(&arena);
	test_bytes(&arena);
	test_json(&arena);
	test_tokenizer(&arena);
	test_merges(&arena);
	test_long_text(&arena);
	test_encoder("a layer of MiniLM-L6", classic(1, 384, 12));
	test_encoder("a head of ModernBERT", modern(1, 64, 1, LONG));
	test_making((SermEncoderMaking){1, 64, 2, 128, 2000, 128, 4}, 60);
	serm_arena_free(&arena);
	DONE();
}
