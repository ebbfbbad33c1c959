/*
 * A strict JSON reader (RFC 8259) for files of other people's making: config,
 * vocabularies of a quarter of a million tokens, headers of safetensors. Not
 * cJSON, which allocates per value, looks up keys in linear time and lets
 * duplicate keys, invalid UTF-8 and trailing bytes pass.
 *
 * A text becomes one array of nodes in an arena, in the order of the text. A
 * node's children follow it; `next` is the node behind all of them. Members of
 * an object are two nodes, key and value. Depth, size and number of nodes are
 * bounded; no object has a key twice; strings are valid UTF-8 without lone
 * surrogates.
 */
#ifndef SERM_CORE_MODEL_JSON_H
#define SERM_CORE_MODEL_JSON_H

#include "core/text/text.h"

#define SERM_JSON_DEPTH_MAX 32
#define SERM_JSON_BYTES_MAX ((size_t) 256 << 20)
/* "No node": the root is nobody's child. */
#define SERM_JSON_ABSENT 0

typedef enum SermJsonType {
	SERM_JSON_NULL = 0,
	SERM_JSON_FALSE,
	SERM_JSON_TRUE,
	SERM_JSON_NUMBER,
	SERM_JSON_STRING,
	SERM_JSON_ARRAY,
	SERM_JSON_OBJECT
} SermJsonType;

typedef struct SermJsonNode {
	uint32_t start;  /* of its bytes; behind the opening quote of a string */
	uint32_t length; /* without the quotes */
	uint32_t next;
	uint32_t count; /* elements or members */
	uint8_t type;
	bool escaped; /* a string with a backslash */
} SermJsonNode;

typedef struct SermJson {
	const char *bytes;
	const SermJsonNode *nodes; /* node 0 is the root */
	uint32_t count;
} SermJson;

/*
 * Time is that of sorting the keys, whatever they are. Errors: CORRUPT, with the offset of the first wrong
 * byte; LIMIT, MEMORY; CANCELED by whoever watches.
 */
extern SermStatus serm_json_parse(
    SermText text, const SermWatch *watch, SermArena *arena, SermJson *json, SermError *error);

static inline SermJsonType
serm_json_type(const SermJson *json, uint32_t node)
{
	return (SermJsonType) json->nodes[node].type;
}

/* The value of `key` in an object; ABSENT without one, or when `object` is none. */
extern uint32_t serm_json_member(const SermJson *json, uint32_t object, const char *key);
/* The same, but a null counts as absent. */
extern uint32_t serm_json_value(const SermJson *json, uint32_t object, const char *key);
/* First child (of an object: key) and the next one; ABSENT at the end. */
extern uint32_t serm_json_first(const SermJson *json, uint32_t parent);
extern uint32_t serm_json_next(const SermJson *json, uint32_t parent, uint32_t node);
/* The content of a string; it lies in the text or, with escapes, in `arena`. Empty bytes NULL: no memory. */
extern SermText serm_json_string(const SermJson *json, uint32_t node, SermArena *arena);
extern bool serm_json_equals(const SermJson *json, uint32_t node, const char *string);
/* Finite numbers only; false for anything else. */
extern bool serm_json_real(const SermJson *json, uint32_t node, double *value);
/* Integers without sign, fraction and exponent. */
extern bool serm_json_integer(const SermJson *json, uint32_t node, uint64_t *value);

#endif
