/*
 * Status codes of the core. Core code never raises: it returns a SermStatus
 * and leaves one sentence in a SermError; src/pg/error.c maps each status to
 * one SQLSTATE.
 */
#ifndef SERM_CORE_BASE_STATUS_H
#define SERM_CORE_BASE_STATUS_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum SermStatus {
	SERM_OK = 0,
	SERM_ERR_MEMORY,   /* the allocator or its budget refused: 53200 */
	SERM_ERR_CANCELED, /* keep_going() said stop: 57014 */
	SERM_ERR_INVALID,  /* an argument is outside its range: 22023 */
	SERM_ERR_LIMIT,    /* the input is larger than a fixed limit: 54000 */
	SERM_ERR_CORRUPT,  /* stored bytes are not what they claim: XX001 */
	SERM_ERR_NO_DATA,  /* too little data to compute anything: 55000 */
	SERM_ERR_DIVERGED, /* a number became NaN or infinite: 22003 */
	SERM_STATUS_COUNT
} SermStatus;

typedef struct SermError {
	SermStatus status;
	char message[240];
} SermError;

/* Long loops call this at least every 20 ms; false means unwind with SERM_ERR_CANCELED. */
typedef bool (*SermKeepGoing)(void *context);

/* Who is to be asked, for work that hands it on; NULL, or one without a function, is nobody. */
typedef struct SermWatch {
	SermKeepGoing keep_going;
	void *context;
} SermWatch;

static inline bool
serm_watch_ask(const SermWatch *watch)
{
	return watch == NULL || watch->keep_going == NULL || watch->keep_going(watch->context);
}

#define SERM_ASSERT(condition) assert(condition)
#define SERM_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* Record a failure and return its status, so that callers write `return serm_fail(...)`. */
extern SermStatus serm_fail(SermError *error, SermStatus status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
