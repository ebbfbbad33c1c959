/*
 * From the features of a pair to contributions of terms. The line of integrated
 * gradients begins at a document of the same lengths whose words have nothing
 * to do with the query: no match, every cosine 0. So all that differs between
 * its ends comes from terms of the query, and what does not (lengths, the query
 * by itself, the prior of the grades) is the base.
 *
 * Every feature is divided by what the terms have to do with it: BM25 and
 * coverage by their summands, largest values by those who are largest, kernels
 * and dot products by their summands, which may have either sign. The error of
 * the quadrature is divided in proportion, so that the sum holds.
 */
#include "core/model/explain.h"

#include <math.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/model/attribution.h"

#define FIELDS 2
#define JOINED (FIELDS * SERM_FIELD_FEATURES)
#define GLOBAL (JOINED + SERM_JOINED_FEATURES)
#define KERNELS SERM_LEXICAL_FEATURES
#define DOT (KERNELS + FIELDS * SERM_KERNELS)

/* Places within a field's block, those joined and those of the pair, as in S6. */
enum { FIELD_LARGEST_MISSING = 14, FIELD_MATCHED_IDF = 15, FIELD_TRIGRAM_DICE = 17, FIELD_NUMBERS = 18 };
enum { JOINED_STRENGTH = 4, JOINED_LARGEST_MISSING = 6, JOINED_LAST = 8 };
enum { GLOBAL_LARGEST_MATCHED = 8 };

/* By what one feature is divided. */
typedef struct Shares {
	double part[FIELDS][SERM_QUERY_WORDS_MAX];
} Shares;

typedef struct Explainer {
	const SermInteractionParts *parts;
	const SermParsedQuery *query;
	SermExplainField *fields; /* [FIELDS] title, body */
	SermFeatures actual;
	SermFeatures unrelated;
	SermReal to[SERM_FEATURES];
	SermReal from[SERM_FEATURES];
	SermAttribution slope;
	double contribution[FIELDS][SERM_QUERY_WORDS_MAX];
} Explainer;

static SermStatus
out_of_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "out of memory while explaining a score");
}

/* --- where the line begins */

static void
unrelated_field(const Explainer *explainer, int f, float *value)
{
	const SermParsedQuery *query = explainer->query;
	const SermExplainField *found = &explainer->fields[f];
	float *field = value + f * SERM_FIELD_FEATURES;

	if (found->words->count == 0)
		return;
	memset(field, 0, (FIELD_NUMBERS + 1) * sizeof(*field));
	field[FIELD_LARGEST_MISSING] = (float) (query->terms[query->by_idf[0]].idf / query->idf_max);
	field[FIELD_NUMBERS] = query->numbers != 0 ? 0 : 0.5f;
	for (int k = 0; k < SERM_KERNELS; k++) {
		double gained = 0;

		for (uint32_t t = 0; t < query->term_count; t++)
			gained += found->kernels[t][k];
		value[KERNELS + f * SERM_KERNELS + k] -= (float) gained;
	}
	value[DOT + f] = 0;
}

static void
unrelated_document(Explainer *explainer)
{
	const SermParsedQuery *query = explainer->query;
	float *value = explainer->unrelated.value;

	explainer->unrelated = explainer->actual;
	if (query->term_count == 0)
		return;
	for (int f = 0; f < FIELDS; f++)
		unrelated_field(explainer, f, value);
	memset(value + JOINED, 0, (JOINED_LAST + 1) * sizeof(*value));
	value[JOINED + JOINED_LARGEST_MISSING] = (float) (query->terms[query->by_idf[0]].idf / query->idf_max);
	value[GLOBAL + GLOBAL_LARGEST_MATCHED] = 0;
	explainer->unrelated.bm25 = explainer->unrelated.lexical = explainer->unrelated.dot = 0;
}

/* --- dividing one feature */

static void
divide(Explainer *explainer, double effect, const Shares *shares)
{
	double total = 0;

	for (int f = 0; f < FIELDS; f++)
		for (uint32_t t = 0; t < explainer->query->term_count; t++)
			total += shares->part[f][t];
	/* Nothing to divide by: the quadrature's remainder takes it up. */
	if (!(total > 0))
		return;
	for (int f = 0; f < FIELDS; f++)
		for (uint32_t t = 0; t < explainer->query->term_count; t++)
			explainer->contribution[f][t] += effect * shares->part[f][t] / total;
}

/* By which a term ceases to be the largest missing one: its idf above what is missing now. */
static double
above_missing(const SermParsedQuery *query, uint32_t term, double missing)
{
	return fmax(0, query->terms[term].idf - missing * query->idf_max);
}

static double
length_norm(double length, double average)
{
	double ratio = average > 0 ? length / average : 1;

	return SERM_BM25_K1 * (1 - SERM_BM25_B + SERM_BM25_B * ratio);
}

/* What a term has to do with a feature of a field, up to a factor that all terms share. */
static double
field_part(const Explainer *explainer, const SermExplainField *found, int place, uint32_t t)
{
	const SermParsedQuery *query = explainer->query;
	const SermField *field = &found->field;
	double idf = query->terms[t].idf, tf = field->tf[t], matched = tf > 0;
	double kin_idf = query->terms[t].kin_idf, kin_tf = field->kin_tf[t];
	const float *value = explainer->actual.value + (found - explainer->fields) * SERM_FIELD_FEATURES;

	switch (place) {
		case 0:
			return idf * tf / (tf + length_norm(field->count, field->average_length));
		case 1:
			return kin_idf * kin_tf / (kin_tf + length_norm(field->count, field->average_length));
		case 2:
			return idf * matched;
		case 3:
			return kin_idf * (kin_tf > 0);
		case 4:
			return idf * (double) field->fuzzy[t];
		case 7:
			return query->term_count > 1 ? found->pairs_adjacent[t] : matched;
		case 8:
			return query->term_count > 1 ? found->pairs_near[t] : matched;
		case 11:
			return field->match_count > 0 && field->term[0] == t;
		case 12:
			return query->tokens[query->token_count - 1] == t;
		case 13:
			return query->tokens[0] == t;
		case FIELD_LARGEST_MISSING:
			return above_missing(query, t, value[FIELD_LARGEST_MISSING]);
		case FIELD_MATCHED_IDF:
			return idf * tf;
		case 16:
		case FIELD_TRIGRAM_DICE:
			return found->trigrams[t];
		case FIELD_NUMBERS:
			return matched * (query->numbers >> t & 1);
		default: /* shares of matched terms, phrase, window */
			return matched;
	}
}

/* The same for a feature of both fields joined; `f` gets its part of the term. */
static double
joined_part(const Explainer *explainer, int place, int f, uint32_t t)
{
	const SermParsedQuery *query = explainer->query;
	const SermField *own = &explainer->fields[f].field, *other = &explainer->fields[1 - f].field;
	double idf = query->terms[t].idf, tf = (double) own->tf[t] + other->tf[t];
	double of_tf = tf > 0 ? own->tf[t] / tf : 0;
	double kin_idf = query->terms[t].kin_idf, kin_tf = (double) own->kin_tf[t] + other->kin_tf[t];
	/* The larger strength counts; equal ones share. */
	double of_strength = own->fuzzy[t] > other->fuzzy[t] ? 1 : own->fuzzy[t] < other->fuzzy[t] ? 0 : 0.5;

	switch (place) {
		case 1:
			return kin_idf * own->kin_tf[t] /
			       (kin_tf + length_norm((double) own->count + other->count,
			                     explainer->query->statistics.joined_length));
		case 2:
			return idf * of_tf;
		case 3:
			return kin_tf > 0 ? kin_idf * own->kin_tf[t] / kin_tf : 0;
		case JOINED_STRENGTH:
			return idf * (double) own->fuzzy[t] * of_strength;
		case 5:
			return of_tf;
		case JOINED_LARGEST_MISSING:
			return own->fuzzy[t] > 0
			           ? of_strength *
			                 above_missing(query, t, explainer->actual.value[JOINED + JOINED_LARGEST_MISSING])
			           : 0;
		default: /* BM25 in its other forms */
			return idf * own->tf[t] /
			       (tf + length_norm(
			                 (double) own->count + other->count, explainer->query->statistics.joined_length));
	}
}

/* What feature `i` brings to the score. */
static double
effect_of(const Explainer *explainer, int i)
{
	return explainer->slope.input[i] * (double) (explainer->to[i] - explainer->from[i]);
}

static void
divide_lexical(Explainer *explainer)
{
	uint32_t terms = explainer->query->term_count;

	for (int f = 0; f < FIELDS; f++)
		for (int place = 0; place <= FIELD_NUMBERS; place++) {
			double effect = effect_of(explainer, f * SERM_FIELD_FEATURES + place);
			Shares shares = {0};

			for (uint32_t t = 0; effect != 0 && t < terms; t++)
				shares.part[f][t] = field_part(explainer, &explainer->fields[f], place, t);
			divide(explainer, effect, &shares);
		}
	for (int place = 0; place <= JOINED_LAST; place++) {
		double effect = effect_of(explainer, JOINED + place);
		Shares shares = {0};

		for (uint32_t t = 0; effect != 0 && t < terms; t++)
			for (int f = 0; f < FIELDS; f++)
				shares.part[f][t] = joined_part(explainer, place, f, t);
		divide(explainer, effect, &shares);
	}
}

/* The largest idf x strength, to whoever has it. */
static void
divide_largest_matched(Explainer *explainer)
{
	const SermParsedQuery *query = explainer->query;
	double largest = 0;
	Shares shares = {0};

	for (int pass = 0; pass < 2; pass++)
		for (int f = 0; f < FIELDS; f++)
			for (uint32_t t = 0; t < query->term_count; t++) {
				double matched = query->terms[t].idf * (double) explainer->fields[f].field.fuzzy[t];

				if (pass == 0)
					largest = fmax(largest, matched);
				else
					shares.part[f][t] = matched == largest;
			}
	divide(explainer, effect_of(explainer, GLOBAL + GLOBAL_LARGEST_MATCHED), &shares);
}

/* `change` / `raw`, which lies between 0 and `scale` but for rounding: less than it where the line is
 * clipped or bent. */
static double
steepness(double change, double raw, double scale)
{
	double ratio = raw != 0 ? change / raw : scale;

	return fmax(fmin(ratio, fmax(scale, 0)), fmin(scale, 0));
}

/* By how much the score follows feature `i`. */
static double
slope_of(const Explainer *explainer, int i)
{
	return explainer->slope.input[i] *
	       steepness((double) (explainer->to[i] - explainer->from[i]),
	           (double) explainer->actual.value[i] - (double) explainer->unrelated.value[i],
	           (double) explainer->parts->inverse[i]);
}

static void
divide_interactions(Explainer *explainer)
{
	for (int f = 0; f < FIELDS; f++) {
		const SermExplainField *found = &explainer->fields[f];
		double dot = slope_of(explainer, DOT + f);

		for (uint32_t t = 0; t < explainer->query->term_count; t++)
			explainer->contribution[f][t] += dot * found->dot[t];
		for (int k = 0; k < SERM_KERNELS; k++) {
			double factor = slope_of(explainer, KERNELS + f * SERM_KERNELS + k);

			for (uint32_t t = 0; t < explainer->query->term_count; t++)
				explainer->contribution[f][t] += factor * found->kernels[t][k];
		}
	}
}

/* What the trigrams of a field add to `lexical`, to the terms that have them; equally where several do. */
static void
share_trigrams(const Explainer *explainer, int f, double norm, Shares *shares)
{
	const SermParsedQuery *query = explainer->query;
	const SermField *own = &explainer->fields[f].field, *other = &explainer->fields[1 - f].field;

	for (uint32_t g = 0; query->trigram_idf != NULL && g < query->trigrams.count; g++) {
		double tf = (double) own->trigram_tf[g] + other->trigram_tf[g];
		uint32_t having = 0;

		if (own->trigram_tf[g] == 0)
			continue;
		for (uint32_t t = 0; t < query->term_count; t++)
			having += serm_term_has_trigram(query, t, g);
		for (uint32_t t = 0; t < query->term_count; t++)
			if (serm_term_has_trigram(query, t, g))
				shares->part[f][t] += (SERM_BM25_K1 + 1) * (double) query->trigram_idf[g] *
				                      own->trigram_tf[g] / (tf + norm) / query->trigram_weight / having;
	}
}

/* The summands of `lexical`: BM25, BM25 of trigrams, and the likeness of terms that do not occur. */
static void
share_lexical(const Explainer *explainer, Shares *shares)
{
	const SermParsedQuery *query = explainer->query;

	for (int f = 0; f < FIELDS; f++) {
		const SermField *own = &explainer->fields[f].field, *other = &explainer->fields[1 - f].field;
		double norm =
		    length_norm((double) own->count + other->count, explainer->query->statistics.joined_length);

		for (uint32_t t = 0; t < query->term_count; t++) {
			bool occurs = own->tf[t] + other->tf[t] > 0;

			shares->part[f][t] = (SERM_BM25_K1 + 1) * joined_part(explainer, 0, f, t) / query->weight;
			if (!occurs)
				shares->part[f][t] +=
				    SERM_LIKENESS_SHARE * joined_part(explainer, JOINED_STRENGTH, f, t) / query->weight;
		}
		share_trigrams(explainer, f, norm, shares);
	}
}

/* The guard is what words and their spelling say and the dot products, bent together. */
static void
divide_guard(Explainer *explainer, double change)
{
	const SermGuard *guard = &explainer->parts->guard;
	double per_lexical = (double) guard->lexical_inverse;
	double per_dot = (double) guard->dot_share * (double) guard->dot_inverse;
	double whole =
	    per_lexical * (double) explainer->actual.lexical + per_dot * (double) explainer->actual.dot;
	double factor = explainer->slope.guard * steepness(change, whole, (double) guard->slope);
	Shares shares = {0};

	share_lexical(explainer, &shares);
	for (int f = 0; f < FIELDS; f++)
		for (uint32_t t = 0; t < explainer->query->term_count; t++)
			explainer->contribution[f][t] +=
			    factor * (per_lexical * shares.part[f][t] + per_dot * explainer->fields[f].dot[t]);
}

/* --- the whole */

/* The contributions as they are summed to `whole`: what is left over goes to each by its size. */
static void
settle(Explainer *explainer, double whole)
{
	double sum = 0, size = 0;

	for (int f = 0; f < FIELDS; f++)
		for (uint32_t t = 0; t < explainer->query->term_count; t++) {
			sum += explainer->contribution[f][t];
			size += fabs(explainer->contribution[f][t]);
		}
	for (int f = 0; size > 0 && f < FIELDS; f++)
		for (uint32_t t = 0; t < explainer->query->term_count; t++)
			explainer->contribution[f][t] += (whole - sum) * fabs(explainer->contribution[f][t]) / size;
}

static void
contribute(Explainer *explainer, SermExplanation *explanation)
{
	const SermInteractionParts *parts = explainer->parts;
	SermReal guard_to = serm_interaction_guard(&parts->guard, &explainer->actual);
	SermReal guard_from = serm_interaction_guard(&parts->guard, &explainer->unrelated);
	SermReal share = explainer->actual.support;
	SermPrediction to, from;

	serm_interaction_input(parts->mean, parts->inverse, &explainer->actual, explainer->to);
	serm_interaction_input(parts->mean, parts->inverse, &explainer->unrelated, explainer->from);
	serm_heads_predict_rows(&parts->heads, 1, explainer->to, &guard_to, &share, &to);
	serm_heads_predict_rows(&parts->heads, 1, explainer->from, &guard_from, &share, &from);
	explanation->score = to.score;
	if (explainer->query->term_count == 0)
		return;
	serm_attribute(&parts->heads, (SermHeadsPoint){explainer->from, guard_from},
	    (SermHeadsPoint){explainer->to, guard_to}, share, &explainer->slope);
	divide_lexical(explainer);
	divide_largest_matched(explainer);
	divide_interactions(explainer);
	divide_guard(explainer, (double) (guard_to - guard_from));
	settle(explainer, (double) to.score - (double) from.score);
}

/* The terms as UTF-8, each by its first occurrence. */
static SermText *
spell_terms(const SermParsedQuery *query, SermText text, SermArena *arena, SermError *error)
{
	SermText *terms = serm_arena_array(arena, SERM_QUERY_WORDS_MAX, sizeof(*terms));
	SermWords words;

	if (terms == NULL || serm_text_words(text, SERM_QUERY_WORDS_MAX, arena, &words, error) != SERM_OK)
		return NULL;
	SERM_ASSERT(words.count == query->token_count);
	for (uint32_t i = 0; i < words.count; i++) {
		SermText *term = &terms[query->tokens[i]];
		char *bytes;

		if (term->length > 0)
			continue;
		bytes = serm_arena_alloc(arena, (size_t) words.words[i].length * SERM_UTF8_MAX_BYTES);
		if (bytes == NULL)
			return NULL;
		term->bytes = bytes;
		for (uint32_t c = 0; c < words.words[i].length; c++)
			term->length +=
			    serm_utf8_encode(words.code_points[words.words[i].start + c], bytes + term->length);
	}
	return terms;
}

static SermStatus
write_terms(const Explainer *explainer, const SermText *spelled, SermArena *arena,
    SermExplanation *explanation, SermError *error)
{
	uint32_t terms = explainer->query->term_count;
	SermExplainedTerm *row = serm_arena_array(arena, (size_t) terms * FIELDS, sizeof(*row));
	double sum = 0;

	if (row == NULL)
		return out_of_memory(error);
	explanation->terms = row;
	for (uint32_t t = 0; t < terms; t++)
		for (int f = 0; f < FIELDS; f++) {
			SermText word = explainer->fields[f].word[t];

			if (explainer->fields[f].words->count == 0)
				continue;
			/* The document belongs to the caller. */
			if (word.length > 0 && (word.bytes = serm_arena_copy(arena, word.bytes, word.length)) == NULL)
				return out_of_memory(error);
			row[explanation->count++] =
			    (SermExplainedTerm){spelled[t], word, false, f == 1, (float) explainer->contribution[f][t]};
			sum += (double) (float) explainer->contribution[f][t];
		}
	explanation->base = (float) ((double) explanation->score - sum);
	return SERM_OK;
}

SermStatus
serm_interaction_explain(const SermInteractionParts *parts, const SermParsedQuery *query, SermText text,
    const SermDocument *doc, SermArena *arena, SermExplanation *explanation, SermError *error)
{
	const SermPair pair = {&query->statistics, &parts->embedding, query};
	Explainer *explainer = serm_arena_alloc(arena, sizeof(*explainer));
	SermText *terms = spell_terms(query, text, arena, error);

	*explanation = (SermExplanation){0};
	if (explainer == NULL || terms == NULL)
		return out_of_memory(error);
	explainer->parts = parts;
	explainer->query = query;
	explainer->fields = serm_arena_array(arena, FIELDS, sizeof(*explainer->fields));
	if (explainer->fields == NULL ||
	    !serm_explain_field(&pair, terms, &doc->title, SERM_INTERACTION_TITLE_WORDS,
	        query->statistics.title_length, arena, &explainer->fields[0]) ||
	    !serm_explain_field(&pair, terms, &doc->body, SERM_INTERACTION_BODY_WORDS,
	        query->statistics.body_length, arena, &explainer->fields[1]))
		return out_of_memory(error);
	serm_features_of_document(&parts->statistics, &parts->embedding, query, doc, &explainer->actual);
	unrelated_document(explainer);
	contribute(explainer, explanation);
	return write_terms(explainer, terms, arena, explanation, error);
}
