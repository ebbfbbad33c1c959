/*
 * The forms in which an agent can be asked about a query: the grade of one
 * document, which of two is better, or the order of several.
 */
#ifndef SERM_CORE_AGENT_QUESTION_H
#define SERM_CORE_AGENT_QUESTION_H

#include <stdint.h>

/* Documents in one question. */
#define SERM_QUESTION_DOCS_MAX 10

typedef enum SermForm {
	SERM_FORM_ABSOLUTE, /* {"grade": 2} */
	SERM_FORM_PAIR,     /* {"better": 1}: the first, 2: the second, 0: neither */
	SERM_FORM_LIST,     /* {"order": [3, 1, 2]}: the documents by their numbers, the best first */
} SermForm;

typedef struct SermQuestion {
	SermForm form;
	uint32_t count; /* grades of ABSOLUTE, documents of the others */
} SermQuestion;

#endif
