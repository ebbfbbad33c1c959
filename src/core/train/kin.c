/*
 * Paik, Mitra, Parui and Järvelin, GRAS: An Effective and Efficient Stemming
 * Algorithm for Information Retrieval (TOIS 2011). Two words with a common
 * beginning have a pair of endings; a pair of endings that many pairs of words
 * have is a rule of the language. Words are related when such a rule makes
 * one of the other, and kin are the related words whose other relatives are
 * mostly the same. Nothing here knows a language: endings are what is left
 * behind the longest common beginning.
 *
 * Words with the same STEM_MIN first letters are a group; what belongs together lies in one, and groups are
 * looked at GROUP_MAX words at a time, so time is linear in the vocabulary.
 */
#include "core/train/kin.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/train/failure.h"
#include "core/train/order.h"

/* Letters that kin have in common at least; the mean length of a word in running text. */
#define STEM_MIN 5
#define ENDING_MAX 9
#define LENGTH_MAX 32
/* Pairs of words that a pair of endings needs. */
#define WITNESSES_MIN 4
/* Of the relatives of a word, in tenths, so many must be relatives of the one that it is to be kin to. */
#define SHARED_TENTHS 8
#define GROUP_MAX 256
#define GROUP_MASKS (GROUP_MAX / 64)
/* Spellings behind these have no kin: the vocabulary of any corpus is mostly words that occur once. */
#define SPELLINGS_MAX ((uint32_t) 1 << 20)
/*
 * Pairs of endings behind these are not counted. Running text has four per spelling, and its rules are met
 * early; words in no order, as codes are, would have more than a hundred.
 */
#define ENDINGS_MAX ((size_t) 1 << 21)
#define DOCUMENTS_PER_CHECK 64
#define TABLE_SIZE_MIN 4096
#define SCRATCH_BYTES ((size_t) 16 << 20)

typedef struct Spelling {
	uint32_t start; /* of its code points */
	uint32_t length;
	uint32_t word; /* index in the statistics */
} Spelling;

/* How many pairs of words have a pair of endings; open addressing, count 0 is an empty slot. */
typedef struct Ending {
	uint64_t key;
	uint32_t count;
} Ending;

typedef struct Kin {
	const SermStatistics *statistics;
	const SermTrainHost *host;
	SermArena *arena;
	SermArena scratch;
	uint32_t *code_points;
	size_t code_point_count, code_points_size;
	Spelling *spellings;
	uint32_t spelling_count, spellings_size;
	uint32_t *slots; /* spelling + 1 by its hash; 0: empty */
	uint32_t slots_size;
	uint32_t *order; /* spellings by code points */
	Ending *endings;
	size_t ending_count, endings_size;
	uint32_t *parent;  /* [word_count] of words that are kin, towards the smallest index */
	uint32_t document; /* that is read, from 1 */
	uint32_t *last;    /* [word_count] the last document with any word of the kin */
	uint32_t *df;      /* [word_count] how many have any */
} Kin;

/* An array of `size` of `item` bytes with the first `used` of `old`; NULL when the arena refuses. */
static void *
widen(SermArena *arena, const void *old, size_t used, size_t size, size_t item)
{
	void *wider = serm_arena_array(arena, size, item);

	if (wider != NULL && used > 0)
		memcpy(wider, old, used * item);
	return wider;
}

/* --- spellings */

static uint64_t
hash_of(const uint32_t *code_points, uint32_t length)
{
	return serm_hash_bytes(code_points, length * sizeof(*code_points), 0);
}

/* The slot of a spelling, or where it would be. */
static uint32_t
find_spelling(const Kin *kin, const uint32_t *code_points, uint32_t length)
{
	uint32_t at = (uint32_t) hash_of(code_points, length) & (kin->slots_size - 1);

	for (; kin->slots[at] != 0; at = (at + 1) & (kin->slots_size - 1)) {
		const Spelling *known = &kin->spellings[kin->slots[at] - 1];

		if (known->length == length &&
		    memcmp(kin->code_points + known->start, code_points, length * sizeof(*code_points)) == 0)
			break;
	}
	return at;
}

static bool
make_room(Kin *kin)
{
	if (kin->code_point_count + LENGTH_MAX > kin->code_points_size) {
		kin->code_points_size = 2 * kin->code_points_size + TABLE_SIZE_MIN * 8;
		kin->code_points = widen(kin->arena, kin->code_points, kin->code_point_count, kin->code_points_size,
		    sizeof(*kin->code_points));
	}
	if (kin->spelling_count == kin->spellings_size) {
		kin->spellings_size = 2 * kin->spellings_size + TABLE_SIZE_MIN;
		kin->spellings = widen(
		    kin->arena, kin->spellings, kin->spelling_count, kin->spellings_size, sizeof(*kin->spellings));
	}
	if (kin->code_points == NULL || kin->spellings == NULL)
		return false;
	if (2 * (size_t) kin->spelling_count < kin->slots_size)
		return true;
	kin->slots_size = kin->slots_size == 0 ? TABLE_SIZE_MIN : 2 * kin->slots_size;
	kin->slots = serm_arena_array(kin->arena, kin->slots_size, sizeof(*kin->slots));
	for (uint32_t i = 0; kin->slots != NULL && i < kin->spelling_count; i++) {
		const Spelling *known = &kin->spellings[i];

		kin->slots[find_spelling(kin, kin->code_points + known->start, known->length)] = i + 1;
	}
	return kin->slots != NULL;
}

/* Only scripts that put blanks between words: in others a beginning is no part of a word. */
static bool
may_have_kin(const SermWord *word, uint32_t first)
{
	SermScript script;

	if (word->number || word->length < STEM_MIN || word->length > LENGTH_MAX)
		return false;
	script = serm_script_of(first);
	return script != SERM_SCRIPT_CJK && script != SERM_SCRIPT_THAI && script != SERM_SCRIPT_OTHER;
}

static SermStatus
add_spelling(Kin *kin, const SermWords *words, const SermWord *word, SermError *error)
{
	const uint32_t *code_points = words->code_points + word->start;
	uint32_t index, at;

	if (!may_have_kin(word, code_points[0]) || kin->spelling_count == SPELLINGS_MAX)
		return SERM_OK;
	if (!make_room(kin))
		return serm_train_out_of_memory(error);
	at = find_spelling(kin, code_points, word->length);
	if (kin->slots[at] != 0)
		return SERM_OK;
	index = serm_statistics_find(kin->statistics, word->id);
	if (index == kin->statistics->word_count)
		return SERM_OK;
	memcpy(kin->code_points + kin->code_point_count, code_points, word->length * sizeof(*code_points));
	kin->spellings[kin->spelling_count++] = (Spelling){(uint32_t) kin->code_point_count, word->length, index};
	kin->code_point_count += word->length;
	kin->slots[at] = kin->spelling_count;
	return SERM_OK;
}

/* Both fields of a document, as scoring reads them; the words lie in the scratch arena. */
static SermStatus
read_document(Kin *kin, SermText doc, SermWords words[2], SermError *error)
{
	SermText title, body;
	SermStatus status;

	serm_text_split_document(doc, &title, &body);
	status = serm_text_words(title, SERM_TITLE_WORDS_MAX, &kin->scratch, &words[0], error);
	return status == SERM_OK ? serm_text_words(body, SERM_BODY_WORDS_MAX, &kin->scratch, &words[1], error)
	                         : status;
}

typedef SermStatus (*Visit)(Kin *kin, const SermWords *words, const SermWord *word, SermError *error);

static SermStatus
visit_words(Kin *kin, const SermText *docs, size_t count, Visit visit, SermError *error)
{
	SermStatus status = SERM_OK;

	for (size_t d = 0; status == SERM_OK && d < count; d++) {
		SermArenaMark mark = serm_arena_mark(&kin->scratch);
		SermWords words[2];

		if (d % DOCUMENTS_PER_CHECK == 0 && !kin->host->keep_going(kin->host->context))
			return serm_train_canceled(error);
		kin->document = (uint32_t) (d + 1);
		status = read_document(kin, docs[d], words, error);
		for (int f = 0; f < 2; f++)
			for (uint32_t i = 0; status == SERM_OK && i < words[f].count; i++)
				status = visit(kin, &words[f], &words[f].words[i], error);
		serm_arena_rewind(&kin->scratch, mark);
	}
	return status;
}

static int
compare_spellings(const void *items, uint32_t a, uint32_t b)
{
	const Kin *kin = items;
	const Spelling *x = &kin->spellings[a], *y = &kin->spellings[b];

	for (uint32_t i = 0; i < x->length && i < y->length; i++) {
		uint32_t own = kin->code_points[x->start + i], other = kin->code_points[y->start + i];

		if (own != other)
			return own < other ? -1 : 1;
	}
	return x->length < y->length ? -1 : x->length > y->length;
}

static SermStatus
sort_spellings(Kin *kin, SermError *error)
{
	uint32_t *scratch = serm_arena_array(kin->arena, kin->spelling_count, sizeof(*scratch));

	kin->order = serm_arena_array(kin->arena, kin->spelling_count, sizeof(*kin->order));
	if (kin->order == NULL || scratch == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t i = 0; i < kin->spelling_count; i++)
		kin->order[i] = i;
	return serm_order_sort(
	    kin->order, scratch, kin->spelling_count, compare_spellings, kin, kin->host, error);
}

/* --- endings */

static uint32_t
common_beginning(const Kin *kin, const Spelling *a, const Spelling *b)
{
	const uint32_t *x = kin->code_points + a->start, *y = kin->code_points + b->start;
	uint32_t common = 0;

	while (common < a->length && common < b->length && x[common] == y[common])
		common++;
	return common;
}

/* Where the group that begins at place `first` of the order ends. */
static uint32_t
end_of_group(const Kin *kin, uint32_t first)
{
	const Spelling *head = &kin->spellings[kin->order[first]];
	uint32_t end = first + 1;

	while (end < kin->spelling_count && end - first < GROUP_MAX &&
	       common_beginning(kin, head, &kin->spellings[kin->order[end]]) >= STEM_MIN)
		end++;
	return end;
}

/* Of two spellings in order; false when an ending is too long to be one. */
static bool
ending_key(const Kin *kin, const Spelling *a, const Spelling *b, uint64_t *key)
{
	uint32_t common = common_beginning(kin, a, b);

	if (a->length - common > ENDING_MAX || b->length - common > ENDING_MAX)
		return false;
	*key = serm_hash_mix(hash_of(kin->code_points + a->start + common, a->length - common)) ^
	       hash_of(kin->code_points + b->start + common, b->length - common);
	return true;
}

static Ending *
find_ending(const Kin *kin, uint64_t key)
{
	size_t at = (size_t) serm_hash_mix(key) & (kin->endings_size - 1);

	while (kin->endings[at].count > 0 && kin->endings[at].key != key)
		at = (at + 1) & (kin->endings_size - 1);
	return &kin->endings[at];
}

/* False: no memory. */
static bool
count_ending(Kin *kin, uint64_t key)
{
	Ending *ending;

	if (kin->ending_count < ENDINGS_MAX && 2 * kin->ending_count >= kin->endings_size) {
		const Ending *old = kin->endings;
		size_t old_size = kin->endings_size;

		kin->endings_size = old_size == 0 ? TABLE_SIZE_MIN : 2 * old_size;
		kin->endings = serm_arena_array(kin->arena, kin->endings_size, sizeof(*kin->endings));
		for (size_t i = 0; kin->endings != NULL && i < old_size; i++)
			if (old[i].count > 0)
				*find_ending(kin, old[i].key) = old[i];
		if (kin->endings == NULL)
			return false;
	}
	ending = find_ending(kin, key);
	if (ending->count == 0 && kin->ending_count == ENDINGS_MAX)
		return true;
	kin->ending_count += ending->count == 0;
	ending->key = key;
	ending->count++;
	return true;
}

static SermStatus
count_endings(Kin *kin, SermError *error)
{
	for (uint32_t first = 0, end; first < kin->spelling_count; first = end) {
		end = end_of_group(kin, first);
		if (!kin->host->keep_going(kin->host->context))
			return serm_train_canceled(error);
		for (uint32_t i = first; i < end; i++)
			for (uint32_t j = i + 1; j < end; j++) {
				uint64_t key;

				if (ending_key(kin, &kin->spellings[kin->order[i]], &kin->spellings[kin->order[j]], &key) &&
				    !count_ending(kin, key))
					return serm_train_out_of_memory(error);
			}
	}
	return SERM_OK;
}

/* --- kin */

static uint32_t
root_of(uint32_t *parent, uint32_t word)
{
	while (parent[word] != word)
		word = parent[word] = parent[parent[word]];
	return word;
}

static void
join(uint32_t *parent, uint32_t a, uint32_t b)
{
	a = root_of(parent, a);
	b = root_of(parent, b);
	if (a != b)
		parent[a < b ? b : a] = a < b ? a : b;
}

static uint32_t
count_common(const uint64_t *a, const uint64_t *b)
{
	uint32_t count = 0;

	for (int m = 0; m < GROUP_MASKS; m++)
		count += (uint32_t) __builtin_popcountll(a[m] & b[m]);
	return count;
}

/* Which spellings of a group are related: related[i] has the bits of those that spelling i is related to. */
static void
relate(const Kin *kin, uint32_t first, uint32_t count, uint64_t related[GROUP_MAX][GROUP_MASKS])
{
	memset(related, 0, count * sizeof(related[0]));
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t j = i + 1; j < count; j++) {
			uint64_t key;

			if (!ending_key(kin, &kin->spellings[kin->order[first + i]],
			        &kin->spellings[kin->order[first + j]], &key) ||
			    find_ending(kin, key)->count < WITNESSES_MIN)
				continue;
			related[i][j / 64] |= UINT64_C(1) << j % 64;
			related[j][i / 64] |= UINT64_C(1) << i % 64;
		}
}

/*
 * The word with most relatives takes those as kin that share nearly all of theirs with it; then the same with
 * what is left.
 */
static void
settle_group(Kin *kin, uint32_t first, uint32_t count)
{
	uint64_t related[GROUP_MAX][GROUP_MASKS], left[GROUP_MASKS] = {0};

	relate(kin, first, count, related);
	for (uint32_t i = 0; i < count; i++)
		left[i / 64] |= UINT64_C(1) << i % 64;
	for (;;) {
		uint32_t best = 0, most = 0;
		uint64_t taken[GROUP_MASKS] = {0}, own[GROUP_MASKS];

		for (uint32_t i = 0; i < count; i++)
			if ((left[i / 64] >> i % 64 & 1) != 0 && count_common(related[i], left) > most) {
				best = i;
				most = count_common(related[i], left);
			}
		if (most == 0)
			return;
		for (int m = 0; m < GROUP_MASKS; m++)
			own[m] = related[best][m] & left[m];
		taken[best / 64] |= UINT64_C(1) << best % 64;
		for (uint32_t i = 0; i < count; i++)
			if ((own[i / 64] >> i % 64 & 1) != 0 &&
			    10 * (1 + count_common(own, related[i])) >= SHARED_TENTHS * count_common(related[i], left)) {
				taken[i / 64] |= UINT64_C(1) << i % 64;
				join(kin->parent, kin->spellings[kin->order[first + i]].word,
				    kin->spellings[kin->order[first + best]].word);
			}
		for (int m = 0; m < GROUP_MASKS; m++)
			left[m] &= ~taken[m];
	}
}

static SermStatus
settle_kin(Kin *kin, SermError *error)
{
	for (uint32_t first = 0, end; first < kin->spelling_count; first = end) {
		end = end_of_group(kin, first);
		if (!kin->host->keep_going(kin->host->context))
			return serm_train_canceled(error);
		settle_group(kin, first, end - first);
	}
	return SERM_OK;
}

/* Kin as rings; false when no word has any. */
static bool
link_rings(Kin *kin, uint32_t *ring)
{
	bool any = false;

	for (uint32_t w = 0; w < kin->statistics->word_count; w++) {
		uint32_t root = root_of(kin->parent, w);

		/* A root is the smallest of its kin, so it has its place in the ring already. */
		ring[w] = root == w ? w : ring[root];
		ring[root] = w;
		any |= root != w;
	}
	return any;
}

static SermStatus
count_word(Kin *kin, const SermWords *words, const SermWord *word, SermError *error)
{
	uint32_t index = serm_statistics_find(kin->statistics, word->id);

	(void) words;
	(void) error;
	if (index == kin->statistics->word_count)
		return SERM_OK;
	index = kin->parent[index];
	kin->df[index] += kin->last[index] != kin->document;
	kin->last[index] = kin->document;
	return SERM_OK;
}

/* Documents that have any word of the kin, for every word. */
static SermStatus
count_documents(Kin *kin, const SermText *docs, size_t count, SermError *error)
{
	uint32_t words = kin->statistics->word_count;
	SermStatus status;

	kin->last = serm_arena_array(kin->arena, words, sizeof(*kin->last));
	if (kin->last == NULL)
		return serm_train_out_of_memory(error);
	status = visit_words(kin, docs, count, count_word, error);
	for (uint32_t w = 0; w < words; w++)
		kin->df[w] = kin->df[kin->parent[w]];
	return status;
}

static SermStatus
learn(Kin *kin, const SermText *docs, size_t count, uint32_t *ring, bool *any, SermError *error)
{
	uint32_t words = kin->statistics->word_count;
	SermStatus status = visit_words(kin, docs, count, add_spelling, error);

	*any = false;
	if (status == SERM_OK)
		status = sort_spellings(kin, error);
	if (status == SERM_OK)
		status = count_endings(kin, error);
	if (status != SERM_OK || kin->ending_count == 0)
		return status;
	kin->parent = serm_arena_array(kin->arena, words, sizeof(*kin->parent));
	if (kin->parent == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t w = 0; w < words; w++)
		kin->parent[w] = w;
	status = settle_kin(kin, error);
	if (status != SERM_OK)
		return status;
	for (uint32_t w = 0; w < words; w++)
		kin->parent[w] = root_of(kin->parent, w);
	*any = link_rings(kin, ring);
	return *any ? count_documents(kin, docs, count, error) : SERM_OK;
}

SermStatus
serm_kin_learn(const SermText *docs, size_t count, const SermTrainHost *host, SermArena *arena,
    SermStatistics *statistics, SermError *error)
{
	uint32_t *ring = serm_arena_array(arena, statistics->word_count, sizeof(*ring));
	uint32_t *df = serm_arena_array(arena, statistics->word_count, sizeof(*df));
	SermArenaMark mark = serm_arena_mark(arena);
	Kin kin = {.statistics = statistics, .host = host, .arena = arena, .df = df};
	bool any = false;
	SermStatus status;

	statistics->word_kin = statistics->kin_df = NULL;
	if (ring == NULL || df == NULL)
		return serm_train_out_of_memory(error);
	/* An arena of its own, because what is collected grows in the other one between two texts. */
	serm_arena_init(&kin.scratch, arena->allocator,
	    arena->limit - arena->total < SCRATCH_BYTES ? arena->limit - arena->total : SCRATCH_BYTES);
	status = learn(&kin, docs, count, ring, &any, error);
	serm_arena_free(&kin.scratch);
	serm_arena_rewind(arena, mark);
	if (status == SERM_OK && any) {
		statistics->word_kin = ring;
		statistics->kin_df = df;
	}
	return status;
}
