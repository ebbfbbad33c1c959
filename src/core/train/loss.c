/*
 * The table of the losses, and the text form of a sum of them.
 */
#include "core/train/loss_parts.h"

#include <stddef.h>

#define NAME_MAX 64
#define COEFFICIENT_MAX 1e6
/* More digits than this are not exact in a double. */
#define DIGITS_MAX 15
#define EXPONENT_MAX 22

#define USES(...) ((const char *const[]){__VA_ARGS__, NULL})
/* Of a parameter that follows from the number of grades. */
#define BY_GRADES NAN

static const SermLoss losses[] = {
    {"ce", SERM_LOSS_LOGITS, false, 0, serm_loss_ce, {.slope = 0}, NULL},
    {"ordinal", SERM_LOSS_LOGITS, false, 0, serm_loss_ordinal, {.slope = 0}, NULL},
    {"kl", SERM_LOSS_LOGITS, false, SERM_LOSS_TEACHER, serm_loss_kl, {.temperature = 1}, USES("temperature")},
    {"tcm", SERM_LOSS_SCORES, false, 0, serm_loss_tcm,
        {.threshold = 0.25, .relevant = BY_GRADES, .high = BY_GRADES, .low = BY_GRADES},
        USES("threshold", "relevant", "high", "low")},
    {"ranknet", SERM_LOSS_SCORES, true, 0, serm_loss_ranknet, {.slope = 3, .threshold = 0.25},
        USES("slope", "threshold")},
    {"ranknet_adjacent", SERM_LOSS_SCORES, true, 0, serm_loss_ranknet_skip,
        {.slope = 3, .threshold = 0.25, .skip = 1}, USES("slope", "threshold")},
    {"ranknet_skip", SERM_LOSS_SCORES, true, 0, serm_loss_ranknet_skip,
        {.slope = 3, .threshold = 0.25, .skip = 2}, USES("slope", "threshold", "skip", "last")},
    {"hinge_rank", SERM_LOSS_SCORES, true, 0, serm_loss_hinge_rank, {.threshold = 0.25, .margin = 0.3},
        USES("threshold", "margin")},
    {"bt_wt", SERM_LOSS_SCORES, true, 0, serm_loss_bt_wt,
        {.slope = 3, .threshold = 0.25, .relevant = BY_GRADES}, USES("slope", "threshold", "relevant")},
    {"lambda_ndcg", SERM_LOSS_SCORES, true, 0, serm_loss_lambda_ndcg,
        {.slope = 3, .threshold = 0.25, .focus = 1}, USES("slope", "threshold", "focus")},
    {"dpo", SERM_LOSS_SCORES, true, SERM_LOSS_REFERENCE, serm_loss_dpo, {.slope = 3, .threshold = 0.25},
        USES("slope", "threshold")},
    {"mapo", SERM_LOSS_LOGITS, false, 0, serm_loss_mapo,
        {.slope = 5, .threshold = 0.25, .preference = 0.1, .likelihood = 0.5},
        USES("slope", "threshold", "preference", "likelihood")},
    {"margin_mse", SERM_LOSS_SCORES, true, SERM_LOSS_TEACHER, serm_loss_margin_mse, {.threshold = 0.25},
        NULL},
    {"ranknet_teacher", SERM_LOSS_SCORES, true, SERM_LOSS_TEACHER, serm_loss_ranknet_teacher,
        {.slope = 3, .threshold = 0.1}, USES("slope", "threshold")},
    {"listnet", SERM_LOSS_SCORES, true, 0, serm_loss_listnet, {.temperature = 1}, USES("temperature")},
    {"listmle", SERM_LOSS_SCORES, true, 0, serm_loss_listmle, {.threshold = 0.25, .temperature = 0.33},
        USES("threshold", "temperature", "last")},
    {"irpo", SERM_LOSS_SCORES, true, 0, serm_loss_irpo, {.slope = 3}, USES("slope")},
    {"infonce_multi", SERM_LOSS_SCORES, true, 0, serm_loss_infonce_multi,
        {.temperature = 0.33, .relevant = BY_GRADES}, USES("temperature", "relevant")},
};

#define PARAMETER(field, least, most)                                                                        \
	{                                                                                                        \
#field, offsetof(SermLossParameters, field), least, most                                             \
	}

static const struct {
	const char *name;
	size_t offset;
	double least, most;
} parameters[] = {
    PARAMETER(slope, 1e-3, 1e3),
    PARAMETER(threshold, 0, 100),
    PARAMETER(margin, 0, 100),
    PARAMETER(skip, 1, SERM_LOSS_LIST_MAX),
    PARAMETER(temperature, 1e-2, 1e3),
    PARAMETER(last, 0, 1e3),
    PARAMETER(relevant, 0, 100),
    PARAMETER(high, -100, 100),
    PARAMETER(low, -100, 100),
    PARAMETER(focus, 0, 1e3),
    PARAMETER(preference, 0, 1e3),
    PARAMETER(likelihood, 1e-3, 1e3),
};

const SermLoss *
serm_loss_at(size_t index)
{
	return index < SERM_LENGTH(losses) ? &losses[index] : NULL;
}

const SermLoss *
serm_loss_find(const char *name)
{
	for (size_t i = 0; i < SERM_LENGTH(losses); i++)
		if (strcmp(losses[i].name, name) == 0)
			return &losses[i];
	return NULL;
}

/* Of 4 grades, 2 and 3 are relevant. */
static void
resolve(SermLossParameters *chosen, uint32_t grade_count)
{
	if (isnan(chosen->relevant))
		chosen->relevant = (grade_count + 1) / 2;
	if (isnan(chosen->high))
		chosen->high = chosen->relevant;
	if (isnan(chosen->low))
		chosen->low = chosen->relevant - 1;
}

SermLossParameters
serm_loss_parameters(const SermLoss *loss, uint32_t grade_count)
{
	SermLossParameters chosen = loss->defaults;

	resolve(&chosen, grade_count);
	return chosen;
}

/* --- reading a sum */

typedef struct Reader {
	const char *at;
	SermError *error;
	char name[NAME_MAX]; /* the name read last */
} Reader;

static void
skip_blanks(Reader *reader)
{
	while (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r')
		reader->at++;
}

static bool
accept(Reader *reader, char wanted)
{
	skip_blanks(reader);
	if (*reader->at != wanted)
		return false;
	reader->at++;
	return true;
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static SermStatus
read_name(Reader *reader, const char *what)
{
	size_t length = 0;

	skip_blanks(reader);
	for (const char *c = reader->at; (*c >= 'a' && *c <= 'z') || *c == '_' || is_digit(*c); c++)
		length++;
	if (length == 0 || length >= NAME_MAX)
		return serm_fail(reader->error, SERM_ERR_INVALID, "%s expected at \"%.20s\"", what, reader->at);
	memcpy(reader->name, reader->at, length);
	reader->name[length] = '\0';
	reader->at += length;
	return SERM_OK;
}

/* -12.5e-3: exact up to DIGITS_MAX digits, the same in every locale. */
static SermStatus
read_number(Reader *reader, double *number)
{
	const char *start;
	bool negative, point = false, down = false;
	double mantissa = 0;
	int digits = 0, power = 0, exponent = 0;

	skip_blanks(reader);
	start = reader->at;
	negative = accept(reader, '-');
	for (; is_digit(*reader->at) || (*reader->at == '.' && !point); reader->at++) {
		if (*reader->at == '.') {
			point = true;
			continue;
		}
		mantissa = 10 * mantissa + (*reader->at - '0');
		digits++;
		power -= point;
	}
	if (digits > 0 && (*reader->at == 'e' || *reader->at == 'E')) {
		reader->at++;
		if (*reader->at == '+' || *reader->at == '-')
			down = *reader->at++ == '-';
		if (!is_digit(*reader->at))
			digits = 0;
		for (; is_digit(*reader->at) && exponent < 1000; reader->at++)
			exponent = 10 * exponent + (*reader->at - '0');
		power += down ? -exponent : exponent;
	}
	if (digits == 0 || digits > DIGITS_MAX || power < -EXPONENT_MAX || power > EXPONENT_MAX)
		return serm_fail(reader->error, SERM_ERR_INVALID, "number expected at \"%.20s\"", start);
	for (double ten = 1; power != 0; power += power < 0 ? 1 : -1) {
		ten *= 10;
		if (power == 1)
			mantissa *= ten;
		else if (power == -1)
			mantissa /= ten;
	}
	*number = negative ? -mantissa : mantissa;
	return SERM_OK;
}

static bool
uses(const SermLoss *loss, const char *name)
{
	for (const char *const *used = loss->uses; used != NULL && *used != NULL; used++)
		if (strcmp(*used, name) == 0)
			return true;
	return false;
}

static SermStatus
read_parameter(Reader *reader, SermLossTerm *term)
{
	SermStatus status = read_name(reader, "parameter");
	double value;
	size_t i = 0;

	if (status != SERM_OK)
		return status;
	if (!uses(term->loss, reader->name))
		return serm_fail(reader->error, SERM_ERR_INVALID, "loss \"%s\" has no parameter \"%s\"",
		    term->loss->name, reader->name);
	while (strcmp(parameters[i].name, reader->name) != 0)
		i++;
	if (!accept(reader, '='))
		return serm_fail(
		    reader->error, SERM_ERR_INVALID, "parameter \"%s\" has no value", parameters[i].name);
	status = read_number(reader, &value);
	if (status != SERM_OK)
		return status;
	if (!(value >= parameters[i].least && value <= parameters[i].most))
		return serm_fail(reader->error, SERM_ERR_INVALID,
		    "parameter \"%s\" of loss \"%s\" must be between %g and %g", parameters[i].name, term->loss->name,
		    parameters[i].least, parameters[i].most);
	*(double *) ((char *) &term->parameters + parameters[i].offset) = value;
	return SERM_OK;
}

static SermStatus
read_term(Reader *reader, uint32_t grade_count, SermLossTerm *term)
{
	SermStatus status = read_name(reader, "name of a loss");

	if (status != SERM_OK)
		return status;
	*term = (SermLossTerm){.loss = serm_loss_find(reader->name), .coefficient = 1};
	if (term->loss == NULL)
		return serm_fail(reader->error, SERM_ERR_INVALID, "unknown loss \"%s\"", reader->name);
	term->parameters = term->loss->defaults;
	if (accept(reader, '(')) {
		do {
			status = read_parameter(reader, term);
			if (status != SERM_OK)
				return status;
		} while (accept(reader, ','));
		if (!accept(reader, ')'))
			return serm_fail(reader->error, SERM_ERR_INVALID, "parameters of loss \"%s\" are not closed",
			    term->loss->name);
	}
	resolve(&term->parameters, grade_count);
	if (!accept(reader, ':'))
		return SERM_OK;
	status = read_number(reader, &term->coefficient);
	if (status == SERM_OK && !(term->coefficient > 0 && term->coefficient <= COEFFICIENT_MAX))
		return serm_fail(reader->error, SERM_ERR_INVALID,
		    "coefficient of loss \"%s\" must be above 0 and at most %g", term->loss->name, COEFFICIENT_MAX);
	return status;
}

SermStatus
serm_loss_parse(
    const char *text, uint32_t grade_count, SermLossTerm *terms, uint32_t *term_count, SermError *error)
{
	Reader reader = {.at = text, .error = error};

	*term_count = 0;
	do {
		SermStatus status;

		if (*term_count == SERM_LOSS_TERMS_MAX)
			return serm_fail(error, SERM_ERR_INVALID, "more than %d losses", SERM_LOSS_TERMS_MAX);
		status = read_term(&reader, grade_count, &terms[*term_count]);
		if (status != SERM_OK)
			return status;
		for (uint32_t i = 0; i < *term_count; i++)
			if (terms[i].loss == terms[*term_count].loss)
				return serm_fail(error, SERM_ERR_INVALID, "loss \"%s\" is named twice", terms[i].loss->name);
		++*term_count;
	} while (accept(&reader, ','));
	skip_blanks(&reader);
	if (*reader.at != '\0')
		return serm_fail(error, SERM_ERR_INVALID, "comma expected at \"%.20s\"", reader.at);
	return SERM_OK;
}

SermStatus
serm_loss_require(const SermLossTerm *terms, uint32_t term_count, uint32_t given, SermError *error)
{
	for (uint32_t i = 0; i < term_count; i++) {
		uint32_t lacking = terms[i].loss->needs & ~given;

		if (lacking != 0)
			return serm_fail(error, SERM_ERR_INVALID, "loss \"%s\" needs the scores of a %s",
			    terms[i].loss->name, lacking & SERM_LOSS_TEACHER ? "teacher" : "reference");
	}
	return SERM_OK;
}
