/*
 * Click models: what a click says of a pair once it is known who looked.
 *
 * Each kind is one line of the table in click.c and a function that fits it to
 * counts. All of them say for a page of results how likely each is clicked, so
 * that they can be compared on the same log (Chuklin, Markov and de Rijke,
 * "Click Models for Web Search", 2015).
 *
 *   pbm      examination by position; attractiveness by pair
 *   ubm      examination by position and by the click before
 *   cascade  from the top to the first click
 *   dbn      cascade that a click that does not satisfy lets go on, with continuation
 *   sdbn     dbn with continuation 1, estimated by counting down to the last click
 *   coec     clicks over the clicks that the positions would bring anyhow
 */
#ifndef SERM_CORE_CLICK_CLICK_H
#define SERM_CORE_CLICK_CLICK_H

#include "core/base/arena.h"

/* Positions from here on count as one, and a page has no more results than this. */
#define SERM_CLICK_POSITIONS_MAX 100
/* A result whose pair the model does not know. */
#define SERM_CLICK_UNKNOWN UINT32_MAX
/* What a model calls impossible is this likely, so that one event does not decide a likelihood. */
#define SERM_CLICK_PROBABILITY_MIN 1e-6

/* What a log says about one pair at one position below one click. Equal cells may repeat. */
typedef struct SermClickCell {
	uint32_t pair;     /* 0 .. pair_count - 1 */
	uint16_t position; /* 1 .. */
	uint16_t previous; /* position of the last click above, 0: none or not counted */
	uint32_t shown;
	uint32_t clicked; /* <= shown */
} SermClickCell;

typedef struct SermClickResult {
	uint32_t pair;
	uint16_t position;
	uint16_t clicked; /* 0 or 1 */
} SermClickResult;

/* Results of one page from the top, seen `count` times with these clicks. */
typedef struct SermClickPage {
	const SermClickResult *results;
	uint32_t result_count; /* 1 .. SERM_CLICK_POSITIONS_MAX */
	uint32_t count;
} SermClickPage;

typedef enum SermClickInput {
	SERM_CLICK_BY_POSITION, /* cells; the log may come in any order */
	SERM_CLICK_BY_PREVIOUS, /* cells that know the click above; page by page */
	SERM_CLICK_BY_PAGE      /* distinct pages; page by page */
} SermClickInput;

typedef struct SermClickData {
	const SermClickCell *cells; /* those of a pair together are faster */
	size_t cell_count;
	const SermClickPage *pages;
	size_t page_count;
	uint32_t pair_count;
} SermClickData;

/* NaN: the default of the kind, or what the log says. */
typedef struct SermClickOptions {
	double strength; /* pseudo-impressions of the prior of a pair */
	double mean;     /* of that prior, in (0, 1) */
	double tolerance;
	uint32_t iterations_max;
	double clip; /* least examination that an inverse propensity divides by, in (0, 1] */
} SermClickOptions;

typedef struct SermClickKind SermClickKind;

typedef struct SermClickModel {
	const SermClickKind *kind;
	double *attractiveness; /* [pair_count]; of coec the ratio of clicks to expected clicks */
	double *satisfaction;   /* [pair_count]; NULL: the kind has none */
	double *examination;    /* [serm_click_slot() of all positions]; NULL: the kind derives it */
	uint32_t position_count;
	double continuation; /* 1 where the kind has none */
	double attractiveness_mean;
	double satisfaction_mean;
	double log_likelihood; /* of the clicks given those above, in nats */
	double objective;      /* what EM climbs */
	uint64_t impressions;
	uint32_t iterations;
	bool converged;
} SermClickModel;

/* What a page is likely to get, before and after the clicks above are known. */
typedef struct SermClickForecast {
	double examined[SERM_CLICK_POSITIONS_MAX];    /* given the clicks above */
	double conditional[SERM_CLICK_POSITIONS_MAX]; /* click, given the clicks above */
	double marginal[SERM_CLICK_POSITIONS_MAX];    /* click */
} SermClickForecast;

struct SermClickKind {
	const char *name;
	SermClickInput input;
	double strength; /* default of the option */
	bool ratio;      /* attractiveness is no probability */
	bool by_previous;
	SermStatus (*fit)(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
	    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
	void (*forecast)(const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast);
};

/* By position how well a model foretells: perplexity is 2 to the mean of -log2 of the marginal. */
typedef struct SermClickQuality {
	double log_likelihood[SERM_CLICK_POSITIONS_MAX]; /* sums, in nats */
	double log2_marginal[SERM_CLICK_POSITIONS_MAX];  /* sums */
	double examined[SERM_CLICK_POSITIONS_MAX];       /* sums */
	uint64_t shown[SERM_CLICK_POSITIONS_MAX];
	uint64_t clicked[SERM_CLICK_POSITIONS_MAX];
	uint64_t pages;
} SermClickQuality;

/* NULL for an unknown name; the kinds are 0 .. serm_click_kind_count() - 1. */
extern const SermClickKind *serm_click_kind(const char *name);
extern int serm_click_kind_count(void);
extern const SermClickKind *serm_click_kind_at(int index);

extern void serm_click_defaults(SermClickOptions *options);

/*
 * Fit to what `kind->input` asks for; the result comes from `arena`. Deterministic.
 * Errors: INVALID (data or option out of range), NO_DATA (no impressions), CANCELED, MEMORY.
 */
extern SermStatus serm_click_fit(const SermClickKind *kind, const SermClickData *data,
    const SermClickOptions *options, SermArena *arena, SermKeepGoing keep_going, void *context,
    SermClickModel *model, SermError *error);

extern void serm_click_forecast(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast);
/* Add what the page says of the model; start with a zeroed `quality`. */
extern void serm_click_judge(
    const SermClickModel *model, const SermClickPage *page, SermClickQuality *quality);

/* What a fitted model makes of the data it saw: sums by pair and by position. */
typedef struct SermClickEvidence {
	double *examined; /* [pair_count] expected examinations, given the clicks above */
	double *inverse; /* [pair_count] clicks over max(examination, clip): over impressions, an unbiased rate */
	double examined_at[SERM_CLICK_POSITIONS_MAX];
	uint64_t shown_at[SERM_CLICK_POSITIONS_MAX];
	uint64_t clicked_at[SERM_CLICK_POSITIONS_MAX];
} SermClickEvidence;

/* Errors: INVALID clip outside (0, 1], MEMORY. */
extern SermStatus serm_click_evidence(const SermClickModel *model, const SermClickData *data, double clip,
    SermArena *arena, SermClickEvidence *evidence, SermError *error);

/* Place of a position in `examination`; `previous` counts where the kind is by_previous. */
static inline uint32_t
serm_click_slot(bool by_previous, uint32_t position, uint32_t previous)
{
	return by_previous ? position * (position - 1) / 2 + previous : position - 1;
}

/* Attractiveness of a pair as a probability; the mean of the prior for an unknown one. */
static inline double
serm_click_attraction(const SermClickModel *model, uint32_t pair)
{
	return pair == SERM_CLICK_UNKNOWN ? model->attractiveness_mean : model->attractiveness[pair];
}

/* --- the kinds */
extern SermStatus serm_click_fit_pbm(const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
extern SermStatus serm_click_fit_ubm(const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
extern SermStatus serm_click_fit_cascade(const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
extern SermStatus serm_click_fit_sdbn(const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
extern SermStatus serm_click_fit_dbn(const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
extern SermStatus serm_click_fit_coec(const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error);
extern void serm_click_forecast_examination(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast);
extern void serm_click_forecast_coec(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast);
extern void serm_click_forecast_cascade(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast);
extern void serm_click_forecast_dbn(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast);

#endif
