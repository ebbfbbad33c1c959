#include "core/text/wordpiece_learn.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"

#define VOCAB_MAX 200000
#define WORD_MAX 100 /* characters; the tokenizer knows no longer words either */
/* Characters beyond these are rare signs of which a vocabulary learns nothing. */
#define ALPHABET_MAX 1000
#define NONE UINT32_MAX
/* Words, and pairs of pieces, between two questions to whoever waits. */
#define QUIET_WORDS 256
#define QUIET_PAIRS 65536

#define NORMALIZE                                                                                            \
	(SERM_NORMALIZE_CLEAN | SERM_NORMALIZE_CHINESE | SERM_NORMALIZE_STRIP_ACCENTS | SERM_NORMALIZE_LOWERCASE)

static const char *const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

typedef struct Word {
	SermText text;
	uint64_t count;
	uint32_t *pieces; /* [length] */
	uint32_t length;
} Word;

/* A piece and where it stands: "##" in front when `inner`. */
typedef struct Piece {
	SermText text;
	bool inner;
	bool kept;      /* is in the vocabulary */
	uint64_t count; /* of a character: how often it occurs */
	uint32_t index; /* its own */
} Piece;

typedef struct Place {
	uint32_t word;
	struct Place *next;
} Place;

typedef struct Pair {
	uint32_t left, right;
	int64_t count;
	Place *places; /* words in which it stood once */
} Pair;

/* A hash table of indices into some list, by open addressing. */
typedef struct Table {
	uint32_t *slots;
	size_t mask;
	size_t used;
} Table;

typedef struct Learning {
	const SermWordpieceLearner *learner;
	SermArena *arena; /* scratch: everything but the result */
	Table word_table, piece_table, pair_table;
	Word *words;
	size_t word_count, word_room;
	Piece *pieces;
	size_t piece_count, piece_room;
	Pair *pairs;
	size_t pair_count, pair_room;
	uint32_t *heap; /* pairs, the most frequent first; a count in it may be out of date */
	int64_t *heap_key;
	size_t heap_count, heap_room;
	bool out_of_memory;
	bool canceled;
} Learning;

static bool
go_on(const Learning *learning)
{
	return learning->learner->keep_going(learning->learner->context);
}

static SermStatus
canceled(SermError *error)
{
	return serm_fail(error, SERM_ERR_CANCELED, "learning a vocabulary was canceled");
}

/* --- lists and tables that grow; what they leave behind stays in the arena */

static void *
grow(Learning *learning, void *list, size_t count, size_t *room, size_t size)
{
	size_t wider = *room == 0 ? 1024 : 2 * *room;
	void *copy;

	if (count < *room)
		return list;
	copy = serm_arena_array(learning->arena, wider, size);
	if (copy == NULL) {
		learning->out_of_memory = true;
		return NULL;
	}
	if (count > 0)
		memcpy(copy, list, count * size);
	*room = wider;
	return copy;
}

typedef uint64_t (*HashOf)(const Learning *learning, uint32_t index);

static bool
widen(Learning *learning, Table *table, HashOf hash_of)
{
	size_t slots = table->slots == NULL ? 4096 : 2 * (table->mask + 1);
	Table wider = {serm_arena_array(learning->arena, slots, sizeof(uint32_t)), slots - 1, table->used};

	if (wider.slots == NULL) {
		learning->out_of_memory = true;
		return false;
	}
	memset(wider.slots, 0xff, slots * sizeof(uint32_t));
	for (size_t i = 0; table->slots != NULL && i <= table->mask; i++) {
		size_t at;

		if (table->slots[i] == NONE)
			continue;
		for (at = hash_of(learning, table->slots[i]) & wider.mask; wider.slots[at] != NONE;)
			at = (at + 1) & wider.mask;
		wider.slots[at] = table->slots[i];
	}
	*table = wider;
	return true;
}

static bool
make_room(Learning *learning, Table *table, HashOf hash_of)
{
	return (table->slots != NULL && 2 * table->used <= table->mask) || widen(learning, table, hash_of);
}

static bool
equal(SermText a, SermText b)
{
	return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

/* --- counting words */

static uint64_t
hash_word(const Learning *learning, uint32_t index)
{
	SermText text = learning->words[index].text;

	return serm_hash_bytes(text.bytes, text.length, 1);
}

static void
count_word(Learning *learning, SermText text)
{
	Table *table = &learning->word_table;
	size_t at;
	char *copy;

	if (learning->out_of_memory || !make_room(learning, table, hash_word))
		return;
	for (at = serm_hash_bytes(text.bytes, text.length, 1) & table->mask; table->slots[at] != NONE;
	     at = (at + 1) & table->mask)
		if (equal(learning->words[table->slots[at]].text, text)) {
			learning->words[table->slots[at]].count++;
			return;
		}
	if (learning->word_count >= SERM_WORDPIECE_WORDS_MAX)
		return;
	learning->words =
	    grow(learning, learning->words, learning->word_count, &learning->word_room, sizeof(Word));
	copy = serm_arena_copy(learning->arena, text.bytes, text.length);
	if (learning->words == NULL || copy == NULL) {
		learning->out_of_memory = true;
		return;
	}
	learning->words[learning->word_count] = (Word){.text = {copy, text.length}, .count = 1};
	table->slots[at] = (uint32_t) learning->word_count++;
	table->used++;
}

/* Words as wordpiece.c cuts them. */
static void
count_words(Learning *learning, SermText text)
{
	size_t start = 0;
	uint32_t length = 0;

	for (size_t at = 0, bytes; at <= text.length; at += bytes) {
		SermCharacter kind = SERM_CHARACTER_SPACE;
		uint32_t c;

		bytes = at < text.length ? serm_utf8_decode(text.bytes + at, text.length - at, &c) : 1;
		if (at < text.length)
			kind = serm_unicode_bert(c);
		if (kind == SERM_CHARACTER_OTHER) {
			length++;
			continue;
		}
		if (length > 0 && length <= WORD_MAX)
			count_word(learning, (SermText){text.bytes + start, at - start});
		if (kind == SERM_CHARACTER_PUNCTUATION)
			count_word(learning, (SermText){text.bytes + at, bytes});
		start = at + bytes;
		length = 0;
	}
}

static SermStatus
read_texts(Learning *learning, SermError *error)
{
	const SermNormalizer normalizer = {.steps = NORMALIZE};
	SermArena scratch;
	SermStatus status = SERM_OK;

	serm_arena_init(&scratch, learning->arena->allocator, learning->arena->limit);
	for (size_t i = 0; i < learning->learner->text_count && !learning->out_of_memory; i++) {
		SermArenaMark mark = serm_arena_mark(&scratch);
		SermText text = learning->learner->texts[i];

		if (!go_on(learning)) {
			status = canceled(error);
			break;
		}
		if (!serm_tokenizer_sanitize(&text, &scratch) || !serm_normalize(&normalizer, text, &scratch, &text))
			learning->out_of_memory = true;
		else
			count_words(learning, text);
		serm_arena_rewind(&scratch, mark);
	}
	serm_arena_free(&scratch);
	return status;
}

/* --- pieces */

static uint64_t
hash_piece_text(SermText text, bool inner)
{
	return serm_hash_bytes(text.bytes, text.length, inner ? 3 : 2);
}

static uint64_t
hash_piece(const Learning *learning, uint32_t index)
{
	return hash_piece_text(learning->pieces[index].text, learning->pieces[index].inner);
}

/* The piece with this spelling, made if there is none; NONE without memory. */
static uint32_t
find_piece(Learning *learning, SermText text, bool inner)
{
	Table *table = &learning->piece_table;
	size_t at;

	if (learning->out_of_memory || !make_room(learning, table, hash_piece))
		return NONE;
	for (at = hash_piece_text(text, inner) & table->mask; table->slots[at] != NONE;
	     at = (at + 1) & table->mask) {
		const Piece *piece = &learning->pieces[table->slots[at]];

		if (piece->inner == inner && equal(piece->text, text))
			return table->slots[at];
	}
	learning->pieces =
	    grow(learning, learning->pieces, learning->piece_count, &learning->piece_room, sizeof(Piece));
	if (learning->pieces == NULL)
		return NONE;
	learning->pieces[learning->piece_count] =
	    (Piece){.text = text, .inner = inner, .index = (uint32_t) learning->piece_count};
	table->slots[at] = (uint32_t) learning->piece_count;
	table->used++;
	return (uint32_t) learning->piece_count++;
}

/* Break a word into the pieces of its characters. */
static void
spell(Learning *learning, Word *word)
{
	word->length = 0;
	word->pieces = serm_arena_array(learning->arena, word->text.length, sizeof(uint32_t));
	if (word->pieces == NULL) {
		learning->out_of_memory = true;
		return;
	}
	for (size_t at = 0; at < word->text.length && !learning->out_of_memory;) {
		uint32_t c, piece;
		size_t bytes = serm_utf8_decode(word->text.bytes + at, word->text.length - at, &c);

		piece = find_piece(learning, (SermText){word->text.bytes + at, bytes}, at > 0);
		/* Both forms of a letter, so that words of other texts can be spelled. */
		if (piece != NONE && serm_unicode_bert(c) == SERM_CHARACTER_OTHER && !serm_unicode_ideograph(c))
			(void) find_piece(learning, (SermText){word->text.bytes + at, bytes}, at == 0);
		if (piece == NONE || learning->out_of_memory)
			return;
		learning->pieces[piece].count += word->count;
		word->pieces[word->length++] = piece;
		at += bytes;
	}
}

static int
compare_pieces(const Piece *a, const Piece *b)
{
	size_t shorter = a->text.length < b->text.length ? a->text.length : b->text.length;
	int order = memcmp(a->text.bytes, b->text.bytes, shorter);

	if (a->inner != b->inner)
		return a->inner ? 1 : -1;
	return order != 0 ? order : (a->text.length > b->text.length) - (a->text.length < b->text.length);
}

static int
by_spelling(const void *a, const void *b)
{
	return compare_pieces(a, b);
}

static int
by_count(const void *a, const void *b)
{
	const Piece *x = a, *y = b;

	return x->count != y->count ? (x->count < y->count ? 1 : -1) : compare_pieces(x, y);
}

/*
 * Keep the most frequent characters: half of the vocabulary at most. `alphabet` gets them in the order of
 * their spelling; returns how many.
 */
static size_t
keep_alphabet(Learning *learning, Piece **alphabet)
{
	size_t count = learning->piece_count, most = (learning->learner->vocab - SERM_LENGTH(specials)) / 2;
	Piece *copy = serm_arena_array(learning->arena, count, sizeof(*copy));

	most = most < 2 * ALPHABET_MAX ? most : 2 * ALPHABET_MAX;
	if (copy == NULL) {
		learning->out_of_memory = true;
		return 0;
	}
	memcpy(copy, learning->pieces, count * sizeof(*copy));
	qsort(copy, count, sizeof(*copy), by_count);
	count = count < most ? count : most;
	qsort(copy, count, sizeof(*copy), by_spelling);
	for (size_t i = 0; i < count; i++)
		learning->pieces[copy[i].index].kept = true;
	*alphabet = copy;
	return count;
}

/* --- pairs, and the heap that finds the most frequent one */

static uint64_t
hash_numbers(uint32_t left, uint32_t right)
{
	return serm_hash_mix((uint64_t) left << 32 | right);
}

static uint64_t
hash_pair(const Learning *learning, uint32_t index)
{
	return hash_numbers(learning->pairs[index].left, learning->pairs[index].right);
}

static uint32_t
find_pair(Learning *learning, uint32_t left, uint32_t right)
{
	Table *table = &learning->pair_table;
	size_t at;

	if (learning->out_of_memory || !make_room(learning, table, hash_pair))
		return NONE;
	for (at = hash_numbers(left, right) & table->mask; table->slots[at] != NONE;
	     at = (at + 1) & table->mask) {
		const Pair *pair = &learning->pairs[table->slots[at]];

		if (pair->left == left && pair->right == right)
			return table->slots[at];
	}
	learning->pairs =
	    grow(learning, learning->pairs, learning->pair_count, &learning->pair_room, sizeof(Pair));
	if (learning->pairs == NULL)
		return NONE;
	learning->pairs[learning->pair_count] = (Pair){left, right, 0, NULL};
	table->slots[at] = (uint32_t) learning->pair_count;
	table->used++;
	return (uint32_t) learning->pair_count++;
}

/* Is entry a of the heap to come before entry b? */
static bool
goes_before(const Learning *learning, size_t a, size_t b)
{
	if (learning->heap_key[a] != learning->heap_key[b])
		return learning->heap_key[a] > learning->heap_key[b];
	return learning->heap[a] < learning->heap[b];
}

static void
swap(Learning *learning, size_t a, size_t b)
{
	uint32_t pair = learning->heap[a];
	int64_t key = learning->heap_key[a];

	learning->heap[a] = learning->heap[b];
	learning->heap_key[a] = learning->heap_key[b];
	learning->heap[b] = pair;
	learning->heap_key[b] = key;
}

static void
push(Learning *learning, uint32_t pair, int64_t key)
{
	size_t at = learning->heap_count, room = learning->heap_room;

	learning->heap = grow(learning, learning->heap, at, &room, sizeof(*learning->heap));
	learning->heap_key =
	    grow(learning, learning->heap_key, at, &learning->heap_room, sizeof(*learning->heap_key));
	if (learning->heap == NULL || learning->heap_key == NULL)
		return;
	learning->heap[at] = pair;
	learning->heap_key[at] = key;
	learning->heap_count++;
	for (; at > 0 && goes_before(learning, at, (at - 1) / 2); at = (at - 1) / 2)
		swap(learning, at, (at - 1) / 2);
}

static void
sink(Learning *learning)
{
	for (size_t at = 0, child; (child = 2 * at + 1) < learning->heap_count; at = child) {
		if (child + 1 < learning->heap_count && goes_before(learning, child + 1, child))
			child++;
		if (!goes_before(learning, child, at))
			return;
		swap(learning, at, child);
	}
}

/* The most frequent pair, taken out of the heap; NONE when none occurs often enough. */
static uint32_t
pop(Learning *learning)
{
	int64_t least = learning->learner->count_min > 0 ? learning->learner->count_min : 1;

	while (learning->heap_count > 0 && learning->heap_key[0] >= least) {
		uint32_t pair = learning->heap[0];
		bool current = learning->pairs[pair].count == learning->heap_key[0];

		/* Counts only fall once a pair stands in the heap: each rise pushes it anew. */
		learning->heap_key[0] = learning->pairs[pair].count;
		if (current) {
			swap(learning, 0, --learning->heap_count);
			sink(learning);
			if (learning->pairs[pair].count >= least)
				return pair;
		} else
			sink(learning);
	}
	return NONE;
}

/* --- joining */

/* Count the pairs of a word; those that hold `fresh` (NONE: all) are noted as standing in it. */
static void
count_pairs(Learning *learning, uint32_t index, uint32_t fresh, int sign)
{
	const Word *word = &learning->words[index];

	for (uint32_t i = 0; i + 1 < word->length; i++) {
		uint32_t left = word->pieces[i], right = word->pieces[i + 1];
		uint32_t pair = find_pair(learning, left, right);
		Place *place;

		if (pair == NONE)
			return;
		learning->pairs[pair].count += sign * (int64_t) word->count;
		if (sign < 0)
			continue;
		if (fresh == NONE || left == fresh || right == fresh) {
			place = serm_arena_alloc(learning->arena, sizeof(*place));
			if (place == NULL) {
				learning->out_of_memory = true;
				return;
			}
			*place = (Place){index, learning->pairs[pair].places};
			learning->pairs[pair].places = place;
		}
		if (fresh != NONE)
			push(learning, pair, learning->pairs[pair].count);
	}
}

/* Write `joined` for each left and right that stand side by side; false: they do not. */
static bool
join_word(Word *word, uint32_t left, uint32_t right, uint32_t joined)
{
	uint32_t kept = 0, before = word->length;

	for (uint32_t i = 0; i < before; i++)
		if (i + 1 < before && word->pieces[i] == left && word->pieces[i + 1] == right) {
			word->pieces[kept++] = joined;
			i++;
		} else
			word->pieces[kept++] = word->pieces[i];
	word->length = kept;
	return kept < before;
}

static bool
stands_in(const Word *word, uint32_t left, uint32_t right)
{
	for (uint32_t i = 0; i + 1 < word->length; i++)
		if (word->pieces[i] == left && word->pieces[i + 1] == right)
			return true;
	return false;
}

/* Join a pair wherever it stands; returns the piece that it became. */
static uint32_t
join(Learning *learning, uint32_t index)
{
	Pair pair = learning->pairs[index];
	SermText left = learning->pieces[pair.left].text, right = learning->pieces[pair.right].text;
	char *bytes = serm_arena_alloc(learning->arena, left.length + right.length);
	uint32_t joined, seen = 0;

	if (bytes == NULL) {
		learning->out_of_memory = true;
		return NONE;
	}
	memcpy(bytes, left.bytes, left.length);
	memcpy(bytes + left.length, right.bytes, right.length);
	joined = find_piece(
	    learning, (SermText){bytes, left.length + right.length}, learning->pieces[pair.left].inner);
	for (const Place *place = pair.places; joined != NONE && place != NULL && !learning->out_of_memory;
	     place = place->next) {
		if (++seen % QUIET_WORDS == 0 && !go_on(learning)) {
			learning->canceled = true;
			break;
		}
		if (!stands_in(&learning->words[place->word], pair.left, pair.right))
			continue;
		count_pairs(learning, place->word, NONE, -1);
		(void) join_word(&learning->words[place->word], pair.left, pair.right, joined);
		count_pairs(learning, place->word, joined, 1);
	}
	return joined;
}

static SermStatus
join_pairs(Learning *learning, uint32_t *order, size_t room, size_t *count, SermError *error)
{
	for (uint32_t word = 0; word < learning->word_count && !learning->out_of_memory; word++) {
		bool known = true;

		for (uint32_t i = 0; i < learning->words[word].length; i++)
			known = known && learning->pieces[learning->words[word].pieces[i]].kept;
		/* The tokenizer does not know the word as a whole then. */
		if (!known)
			learning->words[word].length = 0;
		count_pairs(learning, word, NONE, 1);
		if (word % QUIET_WORDS == 0 && !go_on(learning))
			return canceled(error);
	}
	for (uint32_t pair = 0; pair < learning->pair_count && !learning->out_of_memory; pair++) {
		if (pair % QUIET_PAIRS == 0 && !go_on(learning))
			return canceled(error);
		push(learning, pair, learning->pairs[pair].count);
	}
	while (*count < room && !learning->out_of_memory) {
		uint32_t pair = pop(learning), joined;

		if (!go_on(learning))
			return canceled(error);
		if (pair == NONE)
			break;
		joined = join(learning, pair);
		if (learning->canceled)
			return canceled(error);
		if (joined == NONE || learning->pieces[joined].kept)
			continue;
		learning->pieces[joined].kept = true;
		order[(*count)++] = joined;
	}
	return SERM_OK;
}

/* --- the result */

static char *
write_line(char *at, SermText text, bool inner)
{
	if (inner) {
		*at++ = '#';
		*at++ = '#';
	}
	memcpy(at, text.bytes, text.length);
	at[text.length] = '\n';
	return at + text.length + 1;
}

static SermStatus
write_vocabulary(const Learning *learning, const Piece *alphabet, size_t letters, const uint32_t *order,
    size_t count, SermArena *arena, SermText *vocab_txt, SermError *error)
{
	size_t length = 0;
	char *bytes, *at;

	for (size_t i = 0; i < letters; i++)
		length += alphabet[i].text.length + 3;
	for (size_t i = 0; i < count; i++)
		length += learning->pieces[order[i]].text.length + 3;
	bytes = at = serm_arena_alloc(arena, length + 64);
	if (bytes == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "the vocabulary does not fit into its memory limit");
	for (size_t i = 0; i < SERM_LENGTH(specials); i++)
		at = write_line(at, (SermText){specials[i], strlen(specials[i])}, false);
	for (size_t i = 0; i < letters; i++)
		at = write_line(at, alphabet[i].text, alphabet[i].inner);
	for (size_t i = 0; i < count; i++)
		at = write_line(at, learning->pieces[order[i]].text, learning->pieces[order[i]].inner);
	*vocab_txt = (SermText){bytes, (size_t) (at - bytes)};
	return SERM_OK;
}

SermStatus
serm_wordpiece_learn(
    const SermWordpieceLearner *learner, SermArena *arena, SermText *vocab_txt, SermError *error)
{
	SermArena scratch;
	Learning learning = {.learner = learner, .arena = &scratch};
	Piece *alphabet = NULL;
	size_t letters = 0, count = 0;
	uint32_t *order = NULL;
	SermStatus status;

	if (learner->vocab < SERM_WORDPIECE_VOCAB_MIN || learner->vocab > VOCAB_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "a vocabulary of %u pieces is not between %d and %d",
		    learner->vocab, SERM_WORDPIECE_VOCAB_MIN, VOCAB_MAX);
	/* What the arena has left is the limit of the scratch as well. */
	serm_arena_init(&scratch, arena->allocator, arena->limit - arena->total);
	status = read_texts(&learning, error);
	if (status == SERM_OK && learning.word_count == 0 && !learning.out_of_memory)
		status = serm_fail(error, SERM_ERR_NO_DATA, "there are no words to learn a vocabulary from");
	for (size_t i = 0; status == SERM_OK && i < learning.word_count && !learning.out_of_memory; i++) {
		if (i % QUIET_WORDS == 0 && !go_on(&learning))
			status = canceled(error);
		else
			spell(&learning, &learning.words[i]);
	}
	if (status == SERM_OK && !learning.out_of_memory) {
		letters = keep_alphabet(&learning, &alphabet);
		order = serm_arena_array(&scratch, learner->vocab, sizeof(*order));
		learning.out_of_memory |= order == NULL;
	}
	if (status == SERM_OK && !learning.out_of_memory)
		status =
		    join_pairs(&learning, order, learner->vocab - SERM_LENGTH(specials) - letters, &count, error);
	if (status == SERM_OK && learning.out_of_memory)
		status =
		    serm_fail(error, SERM_ERR_MEMORY, "learning a vocabulary does not fit into its memory limit");
	if (status == SERM_OK)
		status = write_vocabulary(&learning, alphabet, letters, order, count, arena, vocab_txt, error);
	serm_arena_free(&scratch);
	return status;
}
