#include "core/train/pretrain.h"

#include <math.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/train/failure.h"

#define WIDTH SERM_EMBEDDING_WIDTH
#define TITLE_WORDS SERM_INTERACTION_TITLE_WORDS
#define DOCUMENT_WORDS (SERM_INTERACTION_TITLE_WORDS + SERM_INTERACTION_BODY_WORDS)
#define TEMPERATURE 0.1
/* Of unit vectors; small against the steps, so that few meetings outweigh the draw (doc/training.md). */
#define FIRST_DEVIATION 0.25
#define FIRST_RATE 0.05
#define LAST_RATE 0.005
#define QUERY_WORDS_MAX 5
/* A shorter title is no source of queries: they come from the whole document then. */
#define TITLE_WORDS_MIN 4
#define PREFETCH_ROWS 8
#define POOL_CHUNK ((size_t) 1 << 16)
/* One text, read to its limit of words, takes far less. */
#define SCRATCH_BYTES ((size_t) 16 << 20)
#define NO_SLOT UINT32_MAX

#ifdef SERM_REAL_DOUBLE
#define REAL_EXP exp
#else
#define REAL_EXP expf
#endif

/* A document as indices into the vocabulary. */
typedef struct Document {
	const uint32_t *words;
	uint16_t title_count;
	uint16_t count;
} Document;

/* A word of the vocabulary: its rows in the table and its weight in a mean. */
typedef struct Word {
	const uint32_t *rows; /* NULL until the word is met */
	float idf;
	uint32_t row_count;
	uint32_t slot; /* in the batch, or NO_SLOT */
} Word;

/* Small arrays without the alignment of the arena. */
typedef struct Pool {
	uint32_t *free;
	size_t left;
} Pool;

typedef struct Pretrainer {
	const SermStatistics *statistics;
	const SermTrainHost *host;
	SermGemm gemm;
	SermRng rng;
	float *table;
	float *square_sum; /* [SERM_EMBEDDING_ROWS] of Adagrad */
	Word *words;       /* [statistics->word_count] */
	Document *documents;
	uint32_t document_count;

	uint32_t *batch_words; /* vocabulary index of each slot */
	uint32_t batch_word_count;
	SermReal *unit;       /* [slot][WIDTH] n(word) */
	SermReal *length;     /* [slot] |e(word)| */
	SermReal *d_unit;     /* [slot][WIDTH] */
	uint32_t *batch_rows; /* row of each row slot, readable PREFETCH_ROWS further */
	uint32_t batch_row_count;
	uint32_t *row_slot; /* [SERM_EMBEDDING_ROWS] or NO_SLOT */
	SermReal *d_row;    /* [row slot][WIDTH] */
	bool (*in_query)[DOCUMENT_WORDS];
	const Document **batch;
	SermContrast contrast;
} Pretrainer;

static uint32_t *
pool_take(Pool *pool, size_t count, SermArena *arena)
{
	uint32_t *taken;

	if (pool->left < count) {
		pool->left = count > POOL_CHUNK ? count : POOL_CHUNK;
		pool->free = serm_arena_array(arena, pool->left, sizeof(*pool->free));
		if (pool->free == NULL) {
			pool->left = 0;
			return NULL;
		}
	}
	taken = pool->free;
	pool->free += count;
	pool->left -= count;
	return taken;
}

/* Append the vocabulary indices of `text` to `indices`; `scratch` is rewound. */
static SermStatus
read_words(Pretrainer *trainer, SermText text, uint32_t words_max, Pool *rows, SermArena *arena,
    SermArena *scratch, uint32_t *indices, uint16_t *count, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	SermWords words;
	SermStatus status = serm_text_words(text, words_max, scratch, &words, error);

	for (uint32_t i = 0; status == SERM_OK && i < words.count; i++) {
		const SermWord *word = &words.words[i];
		uint32_t index = serm_statistics_find(trainer->statistics, word->id);

		if (index == trainer->statistics->word_count)
			continue;
		if (trainer->words[index].rows == NULL) {
			uint32_t buffer[SERM_WORD_ROWS_MAX];
			uint32_t row_count = serm_embedding_rows(words.code_points + word->start, word->length, buffer);
			uint32_t *kept = pool_take(rows, row_count, arena);

			if (kept == NULL)
				return serm_train_out_of_memory(error);
			memcpy(kept, buffer, row_count * sizeof(*kept));
			trainer->words[index] =
			    (Word){kept, (float) serm_statistics_idf(trainer->statistics, word->id), row_count, NO_SLOT};
		}
		indices[(*count)++] = index;
	}
	serm_arena_rewind(scratch, mark);
	return status;
}

/* Documents of fewer than two words have nothing to predict and are left out. */
static SermStatus
read_documents(Pretrainer *trainer, const SermText *docs, size_t count, SermArena *arena, SermError *error)
{
	Pool tokens = {NULL, 0}, rows = {NULL, 0};
	SermArena scratch;
	SermStatus status = SERM_OK;

	/* An arena of its own, because the pools grow in the other one between two texts. */
	serm_arena_init(&scratch, arena->allocator,
	    arena->limit - arena->total < SCRATCH_BYTES ? arena->limit - arena->total : SCRATCH_BYTES);
	for (size_t i = 0; status == SERM_OK && i < count; i++) {
		uint32_t indices[DOCUMENT_WORDS];
		uint16_t title_count = 0, all;
		SermText title, body;

		if (i % 64 == 0 && !trainer->host->keep_going(trainer->host->context)) {
			status = serm_train_canceled(error);
			break;
		}
		serm_text_split_document(docs[i], &title, &body);
		status =
		    read_words(trainer, title, TITLE_WORDS, &rows, arena, &scratch, indices, &title_count, error);
		all = title_count;
		if (status == SERM_OK)
			status = read_words(
			    trainer, body, SERM_INTERACTION_BODY_WORDS, &rows, arena, &scratch, indices, &all, error);
		if (status == SERM_OK && all >= 2) {
			uint32_t *kept = pool_take(&tokens, all, arena);

			if (kept == NULL) {
				status = serm_train_out_of_memory(error);
				break;
			}
			memcpy(kept, indices, all * sizeof(*kept));
			trainer->documents[trainer->document_count++] = (Document){kept, title_count, all};
		}
	}
	serm_arena_free(&scratch);
	return status;
}

/* Mark the words of `document` that make the query: a span or a random set of 1 to 5 words. */
static void
choose_query(SermRng *rng, const Document *document, bool *in_query)
{
	uint32_t source = document->title_count >= TITLE_WORDS_MIN ? document->title_count : document->count;
	uint32_t most = source / 2 < QUERY_WORDS_MAX ? source / 2 : QUERY_WORDS_MAX;
	uint32_t wanted = 1 + serm_rng_below(rng, most);

	memset(in_query, 0, document->count * sizeof(*in_query));
	if (serm_rng_below(rng, 2) == 0) {
		uint32_t start = serm_rng_below(rng, source - wanted + 1);

		for (uint32_t i = 0; i < wanted; i++)
			in_query[start + i] = true;
		return;
	}
	while (wanted > 0) {
		uint32_t i = serm_rng_below(rng, source);

		if (!in_query[i]) {
			in_query[i] = true;
			wanted--;
		}
	}
}

/* The rows of a word lie all over the table: ask for those of the next one while this one is summed. */
static void
prefetch_rows(const Pretrainer *trainer, const Word *word)
{
	for (uint32_t r = 0; r < word->row_count; r++) {
		const float *row = trainer->table + (size_t) word->rows[r] * WIDTH;

		__builtin_prefetch(row);
		__builtin_prefetch(row + WIDTH / 2);
	}
}

/* Give each distinct word of the batch a slot. */
static void
collect_words(Pretrainer *trainer, uint32_t n)
{
	trainer->batch_word_count = 0;
	for (uint32_t d = 0; d < n; d++)
		for (uint32_t i = 0; i < trainer->batch[d]->count; i++) {
			uint32_t index = trainer->batch[d]->words[i];

			if (trainer->words[index].slot == NO_SLOT) {
				trainer->words[index].slot = trainer->batch_word_count;
				trainer->batch_words[trainer->batch_word_count++] = index;
			}
		}
}

/* unit = sum / |sum|, which may be the same place; returns |sum|. */
static SermReal
to_unit(const SermReal *sum, SermReal *unit)
{
	SermReal length = (SermReal) sqrt(serm_dot(sum, sum, WIDTH));

	for (int k = 0; k < WIDTH; k++)
		unit[k] = length > 0 ? sum[k] / length : 0;
	return length;
}

/* The unit vector of each slot. */
static void
embed_words(Pretrainer *trainer)
{
	uint32_t count = trainer->batch_word_count;

	for (uint32_t slot = 0; slot < count; slot++) {
		const Word *word = &trainer->words[trainer->batch_words[slot]];
		SermReal *unit = trainer->unit + (size_t) slot * WIDTH;
		float sum[WIDTH];

		if (slot + 1 < count)
			prefetch_rows(trainer, &trainer->words[trainer->batch_words[slot + 1]]);
		serm_embedding_sum(trainer->table, word->rows, word->row_count, sum);
		for (int k = 0; k < WIDTH; k++)
			unit[k] = sum[k];
		trainer->length[slot] = to_unit(unit, unit);
	}
	memset(trainer->d_unit, 0, (size_t) count * WIDTH * sizeof(SermReal));
}

/* sums of idf * n(word) over the words inside and outside the query, or their derivatives back to the words.
 */
static void
pass_words(Pretrainer *trainer, uint32_t n, bool back)
{
	const SermContrast *contrast = &trainer->contrast;

	for (uint32_t d = 0; d < n; d++) {
		const Document *document = trainer->batch[d];
		SermReal *query = contrast->queries + (size_t) d * WIDTH;
		SermReal *rest = contrast->rests + (size_t) d * WIDTH;

		if (!back) {
			memset(query, 0, WIDTH * sizeof(*query));
			memset(rest, 0, WIDTH * sizeof(*rest));
		}
		for (uint32_t i = 0; i < document->count; i++) {
			const Word *word = &trainer->words[document->words[i]];
			bool in_query = trainer->in_query[d][i];
			size_t at = (size_t) word->slot * WIDTH;

			if (back)
				serm_axpy(word->idf,
				    (in_query ? contrast->d_queries : contrast->d_rests) + (size_t) d * WIDTH,
				    trainer->d_unit + at, WIDTH);
			else
				serm_axpy(word->idf, trainer->unit + at, in_query ? query : rest, WIDTH);
		}
	}
}

/* In place, the derivative by a unit vector becomes that by the vector it was made from. */
static void
through_unit(const SermReal *unit, SermReal length, SermReal *derivative)
{
	SermReal along = serm_dot(unit, derivative, WIDTH);

	for (int k = 0; k < WIDTH; k++)
		derivative[k] = length > 0 ? (derivative[k] - along * unit[k]) / length : 0;
}

double
serm_contrast_loss(const SermContrast *contrast, SermGemm gemm)
{
	uint32_t n = contrast->n;
	SermReal scale = (SermReal) (1 / TEMPERATURE);
	double loss = 0;

	for (uint32_t i = 0; i < n; i++) {
		size_t at = (size_t) i * WIDTH;

		to_unit(contrast->queries + at, contrast->unit_queries + at);
		to_unit(contrast->rests + at, contrast->unit_rests + at);
	}
	gemm(false, true, n, n, WIDTH, contrast->unit_queries, contrast->unit_rests, 0, contrast->similarity);
	/* Cosines are at most 1, so the softmax needs no maximum: the largest exponent is 1 / temperature. */
	for (uint32_t i = 0; i < n; i++) {
		SermReal *row = contrast->similarity + (size_t) i * n, own = scale * row[i];
		double sum = 0;

		for (uint32_t j = 0; j < n; j++) {
			row[j] = REAL_EXP(scale * row[j]);
			sum += row[j];
		}
		loss += log(sum) - own;
		for (uint32_t j = 0; j < n; j++)
			row[j] *= (SermReal) (scale / (sum * n));
		row[i] -= scale / (SermReal) n;
	}
	gemm(false, false, n, WIDTH, n, contrast->similarity, contrast->unit_rests, 0, contrast->d_queries);
	gemm(true, false, n, WIDTH, n, contrast->similarity, contrast->unit_queries, 0, contrast->d_rests);
	for (uint32_t i = 0; i < n; i++) {
		size_t at = (size_t) i * WIDTH;
		const SermReal *query = contrast->queries + at, *rest = contrast->rests + at;

		through_unit(contrast->unit_queries + at, (SermReal) sqrt(serm_dot(query, query, WIDTH)),
		    contrast->d_queries + at);
		through_unit(
		    contrast->unit_rests + at, (SermReal) sqrt(serm_dot(rest, rest, WIDTH)), contrast->d_rests + at);
	}
	return loss / n;
}

/* Add share * derivative to the gradient of a row; the first one of the batch makes its slot. */
static void
add_to_row(Pretrainer *trainer, uint32_t row, SermReal share, const SermReal *derivative)
{
	uint32_t slot = trainer->row_slot[row];

	if (slot == NO_SLOT) {
		SermReal *fresh = trainer->d_row + (size_t) trainer->batch_row_count * WIDTH;

		trainer->row_slot[row] = trainer->batch_row_count;
		trainer->batch_rows[trainer->batch_row_count++] = row;
		for (int k = 0; k < WIDTH; k++)
			fresh[k] = share * derivative[k];
	} else {
		SermReal *gradient = trainer->d_row + (size_t) slot * WIDTH;

		for (int k = 0; k < WIDTH; k++)
			gradient[k] += share * derivative[k];
	}
}

/* From the words of the batch to the rows they are made of; forgets the slots of the words. */
static void
gather_rows(Pretrainer *trainer)
{
	trainer->batch_row_count = 0;
	for (uint32_t slot = 0; slot < trainer->batch_word_count; slot++) {
		Word *word = &trainer->words[trainer->batch_words[slot]];
		SermReal *derivative = trainer->d_unit + (size_t) slot * WIDTH;
		SermReal share = word->row_count > 1 ? (SermReal) (1 / sqrt(word->row_count - 1.0)) : 0;

		if (slot + 1 < trainer->batch_word_count) {
			const Word *next = &trainer->words[trainer->batch_words[slot + 1]];

			for (uint32_t r = 0; r < next->row_count; r++)
				__builtin_prefetch(trainer->row_slot + next->rows[r], 1);
		}
		through_unit(trainer->unit + (size_t) slot * WIDTH, trainer->length[slot], derivative);
		for (uint32_t r = 0; r < word->row_count; r++)
			add_to_row(trainer, word->rows[r], r == 0 ? 1 : share, derivative);
		word->slot = NO_SLOT;
	}
}

/* One step of row-wise Adagrad on the rows of the batch; forgets their slots. */
static void
update_rows(Pretrainer *trainer, double rate)
{
	for (uint32_t slot = 0; slot < trainer->batch_row_count; slot++) {
		uint32_t row = trainer->batch_rows[slot];
		uint32_t ahead = trainer->batch_rows[slot + PREFETCH_ROWS];
		const SermReal *gradient = trainer->d_row + (size_t) slot * WIDTH;
		float *weights = trainer->table + (size_t) row * WIDTH, step;

		__builtin_prefetch(trainer->table + (size_t) ahead * WIDTH, 1);
		__builtin_prefetch(trainer->table + (size_t) ahead * WIDTH + WIDTH / 2, 1);
		__builtin_prefetch(trainer->square_sum + ahead, 1);
		trainer->square_sum[row] += (float) (serm_dot(gradient, gradient, WIDTH) / WIDTH);
		step = trainer->square_sum[row] > 0 ? (float) rate / sqrtf(trainer->square_sum[row]) : 0;
		for (int k = 0; k < WIDTH; k++)
			weights[k] -= step * (float) gradient[k];
		trainer->row_slot[row] = NO_SLOT;
	}
}

static bool
allocate(Pretrainer *trainer, size_t documents, SermArena *arena)
{
	size_t n = SERM_PRETRAIN_BATCH, words = n * DOCUMENT_WORDS, size = sizeof(SermReal);
	SermContrast *contrast = &trainer->contrast;

	trainer->square_sum = serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float));
	trainer->words = serm_arena_array(arena, trainer->statistics->word_count, sizeof(Word));
	trainer->documents = serm_arena_array(arena, documents, sizeof(Document));
	trainer->batch_words = serm_arena_array(arena, words, sizeof(uint32_t));
	trainer->unit = serm_arena_array(arena, words * WIDTH, size);
	trainer->length = serm_arena_array(arena, words, size);
	trainer->d_unit = serm_arena_array(arena, words * WIDTH, size);
	trainer->batch_rows = serm_arena_array(arena, SERM_EMBEDDING_ROWS + PREFETCH_ROWS, sizeof(uint32_t));
	trainer->row_slot = serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(uint32_t));
	trainer->d_row = serm_arena_array(arena, (size_t) SERM_EMBEDDING_ROWS * WIDTH, size);
	trainer->in_query = serm_arena_array(arena, n, sizeof(*trainer->in_query));
	trainer->batch = serm_arena_array(arena, n, sizeof(*trainer->batch));
	contrast->queries = serm_arena_array(arena, n * WIDTH, size);
	contrast->rests = serm_arena_array(arena, n * WIDTH, size);
	contrast->d_queries = serm_arena_array(arena, n * WIDTH, size);
	contrast->d_rests = serm_arena_array(arena, n * WIDTH, size);
	contrast->unit_queries = serm_arena_array(arena, n * WIDTH, size);
	contrast->unit_rests = serm_arena_array(arena, n * WIDTH, size);
	contrast->similarity = serm_arena_array(arena, n * n, size);
	if (trainer->row_slot != NULL)
		memset(trainer->row_slot, 0xff, SERM_EMBEDDING_ROWS * sizeof(uint32_t));
	return trainer->square_sum != NULL && trainer->words != NULL && trainer->documents != NULL &&
	       trainer->batch_words != NULL && trainer->unit != NULL && trainer->length != NULL &&
	       trainer->d_unit != NULL && trainer->batch_rows != NULL && trainer->row_slot != NULL &&
	       trainer->d_row != NULL && trainer->in_query != NULL && trainer->batch != NULL &&
	       contrast->queries != NULL && contrast->rests != NULL && contrast->d_queries != NULL &&
	       contrast->d_rests != NULL && contrast->unit_queries != NULL && contrast->unit_rests != NULL &&
	       contrast->similarity != NULL;
}

static SermStatus
fill_table(Pretrainer *trainer, SermError *error)
{
	double deviation = FIRST_DEVIATION / sqrt(WIDTH);

	for (size_t row = 0; row < SERM_EMBEDDING_ROWS; row++) {
		if (row % 4096 == 0 && !trainer->host->keep_going(trainer->host->context))
			return serm_train_canceled(error);
		for (size_t k = 0; k < WIDTH; k++)
			trainer->table[row * WIDTH + k] = (float) (deviation * serm_rng_normal(&trainer->rng));
	}
	return SERM_OK;
}

static double
run_batch(Pretrainer *trainer, const uint32_t *order, uint32_t n, double rate)
{
	double loss;

	for (uint32_t d = 0; d < n; d++) {
		trainer->batch[d] = &trainer->documents[order[d]];
		choose_query(&trainer->rng, trainer->batch[d], trainer->in_query[d]);
	}
	collect_words(trainer, n);
	embed_words(trainer);
	pass_words(trainer, n, false);
	trainer->contrast.n = n;
	loss = serm_contrast_loss(&trainer->contrast, trainer->gemm);
	pass_words(trainer, n, true);
	gather_rows(trainer);
	update_rows(trainer, rate);
	return loss;
}

static SermStatus
run_epochs(Pretrainer *trainer, uint32_t epochs, uint32_t *order, SermError *error)
{
	const SermTrainHost *host = trainer->host;
	uint32_t count = trainer->document_count;
	double started = host->clock != NULL ? host->clock(host->context) : 0;

	for (uint32_t epoch = 0; epoch < epochs; epoch++) {
		double loss = 0, seconds;

		for (uint32_t i = 0; i < count; i++)
			order[i] = i;
		serm_rng_shuffle(&trainer->rng, order, count);
		for (uint32_t at = 0; at < count; at += SERM_PRETRAIN_BATCH) {
			uint32_t n = count - at < SERM_PRETRAIN_BATCH ? count - at : SERM_PRETRAIN_BATCH;
			double progress = (epoch + (double) at / count) / epochs;

			if (!host->keep_going(host->context))
				return serm_train_canceled(error);
			loss += n * run_batch(trainer, order + at, n, FIRST_RATE + (LAST_RATE - FIRST_RATE) * progress);
			if (!isfinite(loss))
				return serm_fail(error, SERM_ERR_DIVERGED,
				    "pre-training diverged in epoch %u: the loss is not finite", epoch + 1);
		}
		seconds = host->clock != NULL ? host->clock(host->context) - started : 0;
		if (host->progress != NULL)
			host->progress(host->context,
			    &(SermTrainProgress){"pretraining", epoch + 1, epochs, count > 0 ? loss / count : 0,
			        seconds > 0 ? (epoch + 1.0) * count / seconds : 0,
			        seconds > 0 ? seconds / (epoch + 1.0) * (epochs - epoch - 1.0) : 0});
	}
	return SERM_OK;
}

SermStatus
serm_pretrain(const SermText *docs, size_t count, const SermStatistics *statistics, uint64_t seed,
    uint32_t epochs, const SermTrainHost *host, SermArena *arena, float *table, SermError *error)
{
	Pretrainer trainer = {.statistics = statistics, .host = host, .table = table};
	SermArenaMark mark = serm_arena_mark(arena);
	uint32_t *order;
	SermStatus status;

	count = count < SERM_PRETRAIN_DOCUMENTS_MAX ? count : SERM_PRETRAIN_DOCUMENTS_MAX;
	trainer.gemm = host->gemm != NULL ? host->gemm : serm_gemm_builtin;
	serm_rng_seed(&trainer.rng, seed);
	status = fill_table(&trainer, error);
	if (status != SERM_OK)
		return status;
	order = serm_arena_array(arena, count, sizeof(*order));
	if (order == NULL || !allocate(&trainer, count, arena))
		return serm_train_out_of_memory(error);
	status = read_documents(&trainer, docs, count, arena, error);
	if (status == SERM_OK)
		status = run_epochs(&trainer, epochs, order, error);
	if (status == SERM_OK)
		serm_arena_rewind(arena, mark);
	return status;
}
